"""One member, one task: take the lease, sign in, copy, and write down how it ended."""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from types import MappingProxyType

from prefect import task
from prefect.cache_policies import NO_CACHE
from sqlalchemy.exc import SQLAlchemyError

from imapcopy.check_mailbox import check_mailbox
from imapcopy.copy_mailbox import copy_mailbox
from imapcopy.copy_options import CopyOptions, Watch
from imapcopy.errors import MemberError, MigrationError, ServerError, Stopped
from imapcopy.send import Capacity
from models import lifecycle
from models.check import Finding, note_check
from models.columns import now
from models.database import trouble
from models.ledger import Ledger
from models.member import LeaseHeld, LeaseLost, Member, release_lease
from models.providers import provider_at
from models.refusals import OF_THE_ACCOUNT, Refusal, read_refusals, refused, write_refusals
from models.states import MemberState
from models.vault import VaultClosed
from tasks import policy
from tasks.governor import Places, Spare
from tasks.leases import claimed, renewed
from tasks.probe import known_of
from tasks.store import Store, log, places, store


@task(
    task_run_name="move {email}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def migrate_member(member_id: int, email: str, reopen_issues: bool = False) -> str:
    """Bring one member's new mailbox up to the old one; returns the member's state. `email` only names the run."""

    def move(kept: Store, member: Member, places: Places) -> MemberState:
        token = member.lease_token
        ledger = Ledger(kept.engine, member_id, token, keeps_subjects=kept.rules.subjects == "shown")
        if reopen_issues:
            ledger.reopen_issues()
        watch = Watch(policy.STOP, lambda messages: lifecycle.member_found(kept.engine, member_id, token, messages))
        with places.taken(kept.accounts(member)) as (source, target):
            copy_mailbox(source, target, ledger, copy_options(kept, member, places.spare), watch)
        return lifecycle.member_moved(kept.engine, member_id, token, kept.met.pop(member_id, {}))

    return _as_its_runner(member_id, email, MemberState.SYNCING, move)


@task(
    task_run_name="check {email}",
    cache_policy=NO_CACHE,
    persist_result=False,
)
def check_member(member_id: int, email: str) -> str:
    """Sign in on both sides and count, writing to neither; returns the member's state."""

    def look(kept: Store, member: Member, places: Places) -> MemberState:
        known = address_findings(kept, member)
        with places.taken(kept.accounts_so_far(member)) as (source, target):
            seen = check_mailbox(source, target, copy_options(kept, member, places.spare))
        looked = replace(seen.look, findings=(*seen.look.findings, *known))
        note_check(kept.engine, member_id, member.lease_token, looked)
        if seen.failure:
            raise seen.failure
        lifecycle.member_checked(
            kept.engine,
            member_id,
            member.lease_token,
            seen.folders,
            seen.look.bytes,
            seen.quota_used,
            met=kept.met.pop(member_id, {}),
        )
        return MemberState.READY

    return _as_its_runner(member_id, email, MemberState.CHECKING, look)


def address_findings(kept: Store, member: Member) -> tuple[Finding, ...]:
    """What the address book has against the member's new address."""
    status = kept.addresses.get(member.email.casefold())
    return (status.finding,) if status and status.finding else ()


Work = Callable[[Store, Member, Places], MemberState]

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
                return _recorded(kept, member, work)
    except LeaseHeld as held:
        log.info("%s is being moved by %s", email, held)
        return MemberState.SYNCING
    except LeaseLost as lost:
        log.warning("%s: %s", email, lost)
        failure = MemberError("lease_lost", "source")
    except SQLAlchemyError as error:
        failure = _of_the_database(email, error)
        kept.unwritten[member_id] = failure.server_text
        if (resume_at := _next_try(kept, member_id, failure)) is not None:
            kept.again[member_id] = resume_at
            return MemberState.THROTTLED
    raise failure


def _recorded(kept: Store, member: Member, work: Work) -> MemberState:
    """Write every way to end into the member's row; what leaves here may be seen by everybody."""
    member_id, email, token = member.id or 0, member.email, member.lease_token
    failure: MigrationError
    at_hosts = Places(kept, member_id)
    try:
        return work(kept, member, at_hosts)
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
    refusals = _refusals(member, at_hosts)
    host_until = None if failure.cause_id in _OURS else at_hosts.failed(member, failure)
    spent_until = at_hosts.spent_until if failure.cause_id == "bandwidth_exceeded" else None
    resume_at = _next_try(kept, member_id, failure, host_until, spent_until, refusals)
    side = "" if failure.cause_id in _OURS else failure.side
    lifecycle.member_failed(
        kept.engine,
        member_id,
        token,
        failure.cause_id,
        side,
        failure.server_text,
        resume_at=resume_at,
        known_by=failure.known_by,
        refusals=write_refusals(refusals) if at_hosts.refused else None,
        hint=failure.hint,
        met=kept.met.pop(member_id, {}),
    )
    if resume_at is not None:
        # No failure: the flow takes the member up again. Who waits for nothing but a host is in line for it at once,
        # because an admin may end its pause before its time.
        waits_in_line = host_until is not None and resume_at <= host_until + policy.SPREAD
        kept.again[member_id] = now() if waits_in_line else resume_at
        return MemberState.THROTTLED
    raise failure from None


def _refusals(member: Member, at_hosts: Places) -> dict[str, Refusal]:
    """What the accounts of a member have been answered by now, both sides."""
    found = read_refusals(member.refusals)
    for error in at_hosts.refused:
        worked = member.worked_at is not None
        found[error.side] = refused(found.get(error.side), error.cause_id, now(), worked=worked)
    return found


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


def _next_try(
    kept: Store,
    member_id: int,
    failure: MigrationError,
    host_until: datetime | None = None,
    spent_until: datetime | None = None,
    refusals: Mapping[str, Refusal] = MappingProxyType({}),
) -> datetime | None:
    """When this run tries the member again, None if it does not."""
    before = kept.attempts.get(member_id, policy.Attempts())
    waits = host_until is not None
    attempts = policy.Attempts(before.tries + (not waits), before.waits + waits)
    if spent_until is not None:
        # As often as it takes: each time some of the mailbox has been moved.
        attempts = before
    kept.attempts[member_id] = attempts
    return policy.next_try(
        failure.cause,
        attempts,
        kept.settings.retry_delays,
        now(),
        told=failure.wait_seconds,
        host_until=host_until,
        spent_until=spent_until,
        refusals=refusals if failure.cause_id in OF_THE_ACCOUNT else {},
    )


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


def copy_options(kept: Store, member: Member, spare: Spare) -> CopyOptions:
    """How the roster, the settings and the rules want a member to be moved."""
    found = kept.settings
    target_host = member.target_host or found.target_host
    return CopyOptions(
        root=member.user_root or "",
        exclude=tuple(name for name in member.exclude_folders.split("\n") if name),
        since=member.since,
        existing=found.existing,
        folders=kept.rules.folders,
        repair=kept.rules.repair,
        capacity=Capacity(_most_connections(found.member_connections, target_host, member.target_provider), spare),
        known=known_of(kept, target_host),
    )


def _most_connections(wanted: int, host: str, told: str) -> int:
    """How many connections one member may have to a target: no more than its service is known to stand."""
    return min(wanted, provider_at(host, told=told).mailbox_connections or wanted)
