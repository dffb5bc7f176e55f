"""One member, one task: take the lease, sign in, copy, and write down how it ended."""

import contextlib
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import task_run
from sqlalchemy.exc import SQLAlchemyError

from imapcopy.check_mailbox import check_mailbox
from imapcopy.copy_mailbox import CopyOptions, Watch, copy_mailbox
from imapcopy.errors import MemberError, MigrationError, ServerError, Stopped
from imapcopy.send import Capacity
from models import lifecycle
from models.check import note_check
from models.columns import now
from models.database import trouble
from models.ledger import Ledger
from models.member import LeaseHeld, LeaseLost, Member, release_lease
from models.states import MemberState
from models.vault import VaultClosed
from tasks import policy
from tasks.leases import claimed, renewed
from tasks.limits import host_slots, spare_target_slot
from tasks.store import Store, log, places, store


def may_try_again(_task: object, run: TaskRun, state: State[Any]) -> bool:
    """Whether Prefect runs the task again: the error's cause says so, and nobody asked to stop."""
    try:
        state.result()
    except MigrationError as error:
        return not policy.STOP.is_set() and _tries_left(error, run.run_count) > 0
    except Exception:  # noqa: BLE001  (whatever else it was, trying again would not mend it)
        return False
    return False


@task(
    task_run_name="move {email}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_condition_fn=may_try_again,
)
def migrate_member(member_id: int, email: str, reopen_issues: bool = False) -> str:
    """Bring one member's new mailbox up to the old one; returns the member's state. `email` only names the run."""

    def move(kept: Store, member: Member) -> MemberState:
        token = member.lease_token
        source, target = kept.accounts(member)
        ledger = Ledger(kept.engine, member_id, token)
        if reopen_issues:
            ledger.reopen_issues()
        watch = Watch(policy.STOP, lambda messages: lifecycle.member_found(kept.engine, member_id, token, messages))
        with places_at(kept, source.server.host, target.server.host):
            copy_mailbox(source, target, ledger, copy_options(kept, member, target.server.host), watch)
        return lifecycle.member_moved(kept.engine, member_id, token)

    return _as_its_runner(member_id, email, MemberState.SYNCING, move)


@task(
    task_run_name="check {email}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_condition_fn=may_try_again,
)
def check_member(member_id: int, email: str) -> str:
    """Sign in on both sides and count, writing to neither; returns the member's state."""

    def look(kept: Store, member: Member) -> MemberState:
        source, target = kept.accounts(member)
        with places_at(kept, source.server.host, target.server.host):
            seen = check_mailbox(source, target, copy_options(kept, member, target.server.host))
        note_check(kept.engine, member_id, member.lease_token, seen.look)
        if seen.failure:
            raise seen.failure
        lifecycle.member_checked(
            kept.engine, member_id, member.lease_token, seen.folders, seen.look.bytes, seen.quota_used
        )
        return MemberState.READY

    return _as_its_runner(member_id, email, MemberState.CHECKING, look)


Work = Callable[[Store, Member], MemberState]

_OURS = frozenset({"vault_closed", "database_unavailable"})
"""Causes that lie with neither server."""


def _as_its_runner(member_id: int, email: str, state: MemberState, work: Work) -> MemberState:
    """Do the work, in that state, under the member's lease; a member that another runner moves is left to it."""
    kept = store()
    if policy.STOP.is_set():
        return MemberState.PAUSED
    failure: MigrationError
    try:
        with claimed(kept.engine, member_id):
            member = lifecycle.take_member(kept.engine, member_id, state, again=True)
            kept.unwritten.pop(member_id, None)
            with _leased(kept, member_id, member.lease_token):
                return _recorded(kept, member, state, work)
    except LeaseHeld as held:
        log.info("%s is being moved by %s", email, held)
        return MemberState.SYNCING
    except LeaseLost as lost:
        log.warning("%s: %s", email, lost)
        failure = MemberError("lease_lost", "source")
    except SQLAlchemyError as error:
        failure = _of_the_database(email, error)
        kept.unwritten[member_id] = failure.server_text
        # The next try cannot know when its time is, so it is waited for now.
        if (resume_at := _next_try(kept, failure)) is not None:
            _wait_until(resume_at)
    raise failure


def _recorded(kept: Store, member: Member, state: MemberState, work: Work) -> MemberState:
    """Write every way to end into the member's row; what leaves here may be seen by everybody."""
    member_id, email, token = member.id or 0, member.email, member.lease_token
    failure: MigrationError
    try:
        return work(kept, _at_its_time(kept, member, state))
    except LeaseLost:
        raise
    except Stopped:
        return _paused(kept, member_id, email, token)
    except MigrationError as error:
        log.warning("%s: %s", email, error)
        failure = error
    except VaultClosed as closed:
        log.error("%s: %s", email, closed)
        failure = MemberError("vault_closed", "source", str(closed))
    except SQLAlchemyError as error:
        failure = _of_the_database(email, error)
    except Exception as error:  # noqa: BLE001  (written into the row, and raised again without its text)
        # Ours, not the server's. Its text may quote mail or secrets, so only the log under BANJIA_HOME gets the place.
        log.error("%s: %s", email, places(error))
        failure = MemberError("unclassified", "source", type(error).__name__)
    # Outside of the handlers: what fails here must not carry the first exception's text along.
    if policy.STOP.is_set() and failure.retryable:
        return _paused(kept, member_id, email, token)
    resume_at = _next_try(kept, failure)
    side = "" if failure.cause_id in _OURS else failure.side
    lifecycle.member_failed(
        kept.engine, member_id, token, failure.cause_id, side, failure.server_text, resume_at=resume_at
    )
    raise failure from None


def _of_the_database(email: str, error: SQLAlchemyError) -> MigrationError:
    """The failure that an exception of the database means; what was to be written is not there, or not known to be."""
    log.error("%s: %s", email, places(error))
    said = trouble(error)
    if said is None:
        return MemberError("unclassified", "source", type(error).__name__)
    return ServerError("database_unavailable", "source", said)


def _paused(kept: Store, member_id: int, email: str, token: int) -> MemberState:
    lifecycle.member_paused(kept.engine, member_id, token)
    log.info("%s: stopped, goes on with the next run", email)
    return MemberState.PAUSED


def _next_try(kept: Store, failure: MigrationError) -> datetime | None:
    """When this run tries the member again, None if it does not."""
    attempt = task_run.run_count or 1
    if _tries_left(failure, attempt) <= 0:
        return None
    return now() + timedelta(seconds=policy.delay(attempt, kept.settings.retry_delays))


def _at_its_time(kept: Store, member: Member, state: MemberState) -> Member:
    """The member, begun: at once, or after the pause before another try.

    Waited for here and not in Prefect, whose waiting no stop request can end.
    """
    if member.resume_at is None:
        return member
    if _wait_until(member.resume_at):
        raise Stopped
    return lifecycle.member_started(kept.engine, member.id or 0, member.lease_token, state)


def _wait_until(moment: datetime) -> bool:
    """Wait for it, or for a request to stop; returns whether that came."""
    return policy.STOP.wait(max((moment - now()).total_seconds(), 0))


@contextlib.contextmanager
def _leased(kept: Store, member_id: int, token: int) -> Iterator[None]:
    """Keep the lease while the body runs. It is given back with the last that is written of the member."""
    try:
        with renewed(kept.engine, member_id, token):
            yield
    except (MigrationError, LeaseLost, SQLAlchemyError):
        # Given back, lost, or not to be given back: a database that refused the last word refuses this one too, and
        # SQLite lets each wait for half a minute.
        raise
    except BaseException:
        # Nothing could be written.
        release_lease(kept.engine, member_id, token)
        raise


def _tries_left(error: MigrationError, attempt: int) -> int:
    if not error.retryable:
        return 0
    return policy.tries(error.cause_id, store().settings.retry_delays) - attempt


def places_at(kept: Store, source_host: str, target_host: str) -> contextlib.AbstractContextManager[None]:
    """A place at both servers, waited for."""
    found = kept.settings
    return host_slots(source_host, found.host_connections, target_host, found.target_connections)


def copy_options(kept: Store, member: Member, target_host: str) -> CopyOptions:
    """How the roster, the settings and the rules want a member to be moved."""
    found = kept.settings
    return CopyOptions(
        root=member.user_root or "",
        exclude=tuple(name for name in member.exclude_folders.split("\n") if name),
        since=member.since,
        existing=found.existing,
        folders=kept.rules.folders,
        repair=kept.rules.repair,
        capacity=Capacity(found.member_connections, lambda: spare_target_slot(target_host, found.target_connections)),
    )
