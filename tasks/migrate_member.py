"""One member, one task: take the lease, sign in, copy, and write down how it ended."""

import contextlib
import threading
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
from imapcopy.errors import MemberError, MigrationError, Stopped
from models import lifecycle
from models.columns import now
from models.database import reading
from models.ledger import Ledger
from models.member import LEASE_SECONDS, LeaseHeld, LeaseLost, Member, release_lease, take_lease
from models.states import MemberState
from models.vault import VaultClosed
from tasks import policy
from tasks.limits import host_slots
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

    def move(kept: Store, token: int) -> MemberState:
        member = lifecycle.member_started(kept.engine, member_id, token)
        source, target = kept.source_account(member), kept.target_account(member)
        ledger = Ledger(kept.engine, member_id, token)
        if reopen_issues:
            ledger.reopen_issues()
        watch = Watch(policy.STOP, lambda messages: lifecycle.member_found(kept.engine, member_id, token, messages))
        with _slots(kept, source.server.host, target.server.host):
            copy_mailbox(source, target, ledger, _options(member), watch)
        return lifecycle.member_moved(kept.engine, member_id, token)

    return _as_its_runner(member_id, email, move)


@task(
    task_run_name="check {email}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_condition_fn=may_try_again,
)
def check_member(member_id: int, email: str) -> str:
    """Sign in on both sides and count, writing to neither; returns the member's state."""

    def look(kept: Store, token: int) -> MemberState:
        member = lifecycle.member_started(kept.engine, member_id, token, MemberState.CHECKING)
        source, target = kept.source_account(member), kept.target_account(member)
        with _slots(kept, source.server.host, target.server.host):
            seen = check_mailbox(source, target, _options(member))
        lifecycle.member_checked(kept.engine, member_id, token, seen.messages, seen.bytes, seen.oldest)
        return MemberState.READY

    return _as_its_runner(member_id, email, look)


Work = Callable[[Store, int], MemberState]


def _as_its_runner(member_id: int, email: str, work: Work) -> MemberState:
    """Do the work under the member's lease; a member that another runner moves is left to it."""
    kept = store()
    if policy.STOP.is_set():
        return MemberState.PAUSED
    try:
        with _leased(kept, member_id) as token:
            return _recorded(kept, member_id, email, token, work)
    except LeaseHeld as held:
        log.info("%s is being moved by %s", email, held)
        return MemberState.SYNCING
    except LeaseLost as lost:
        log.warning("%s: %s", email, lost)
    raise MemberError("lease_lost", "source")


def _recorded(kept: Store, member_id: int, email: str, token: int, work: Work) -> MemberState:
    """Write every way to end into the member's row; what leaves here may be seen by everybody."""
    failure: MigrationError
    try:
        _wait_for_its_time(kept, member_id)
        return work(kept, token)
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
    except Exception as error:  # noqa: BLE001  (written into the row, and raised again without its text)
        # Ours, not the server's. Its text may quote mail or secrets, so only the log under BANJIA_HOME gets the place.
        log.error("%s: %s", email, places(error))
        failure = MemberError("unclassified", "source", type(error).__name__)
    # Outside of the handlers: what fails here must not carry the first exception's text along.
    if policy.STOP.is_set() and failure.retryable:
        return _paused(kept, member_id, email, token)
    resume_at = _next_try(kept, failure)
    lifecycle.member_failed(
        kept.engine, member_id, token, failure.cause_id, failure.side, failure.server_text, resume_at=resume_at
    )
    raise failure from None


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


def _wait_for_its_time(kept: Store, member_id: int) -> None:
    """Wait out the pause before another try: here and not in Prefect, whose waiting no stop request can end."""
    with reading(kept.engine) as session:
        resume_at = session.get_one(Member, member_id).resume_at
    if resume_at and policy.STOP.wait(max((resume_at - now()).total_seconds(), 0)):
        raise Stopped


@contextlib.contextmanager
def _leased(kept: Store, member_id: int) -> Iterator[int]:
    """Be the member's one runner, or LeaseHeld. The lease is renewed while the body runs."""
    token = take_lease(kept.engine, member_id)
    ended = threading.Event()
    renewer = threading.Thread(target=_renew, args=(Ledger(kept.engine, member_id, token), ended), daemon=True)
    renewer.start()
    try:
        yield token
    finally:
        ended.set()
        renewer.join()
        release_lease(kept.engine, member_id, token)


def _renew(ledger: Ledger, ended: threading.Event) -> None:
    """Keep the lease while one long message is on its way; a lost lease shows at the next ledger write."""
    while not ended.wait(LEASE_SECONDS / 4):
        # A database that is busy for once has three more chances.
        with contextlib.suppress(LeaseLost, SQLAlchemyError):
            ledger.check_lease()


def _tries_left(error: MigrationError, attempt: int) -> int:
    if not error.retryable:
        return 0
    return policy.tries(error.cause_id, store().settings.retry_delays) - attempt


def _slots(kept: Store, source_host: str, target_host: str) -> contextlib.AbstractContextManager[None]:
    found = kept.settings
    return host_slots(source_host, found.host_connections, target_host, found.target_connections)


def _options(member: Member) -> CopyOptions:
    return CopyOptions(
        root=member.user_root or "",
        exclude=tuple(name for name in member.exclude_folders.split("\n") if name),
        since=member.since,
    )
