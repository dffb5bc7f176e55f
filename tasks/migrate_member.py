"""One member, one task: take the lease, sign in, copy, and write down how it ended."""

import contextlib
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun
from prefect.runtime import task_run

from imapcopy.check_mailbox import check_mailbox
from imapcopy.copy_mailbox import CopyOptions, Watch, copy_mailbox
from imapcopy.errors import MemberError, MigrationError, Stopped
from models import lifecycle
from models.columns import now
from models.ledger import Ledger
from models.member import LEASE_SECONDS, LeaseHeld, LeaseLost, Member, release_lease, take_lease
from models.states import MemberState
from models.vault import VaultClosed
from tasks import policy
from tasks.limits import host_slots
from tasks.store import Store, log, store


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
    retry_jitter_factor=policy.JITTER,
)
def migrate_member(member_id: int, email: str, reopen_issues: bool = False) -> str:
    """Bring one member's new mailbox up to the old one; returns the member's state. `email` only names the run."""
    kept = store()
    if policy.STOP.is_set():
        return MemberState.PAUSED
    with _leased(kept, member_id, email) as token:
        if token is None:
            return MemberState.SYNCING
        with _recorded(kept, member_id, email):
            member = lifecycle.member_started(kept.engine, member_id)
            source, target = kept.source_account(member), kept.target_account(member)
            ledger = Ledger(kept.engine, member_id, token)
            if reopen_issues:
                ledger.reopen_issues()
            watch = Watch(policy.STOP, lambda messages: lifecycle.member_found(kept.engine, member_id, messages))
            with _slots(kept, source.server.host, target.server.host):
                copy_mailbox(source, target, ledger, _options(member), watch)
            return lifecycle.member_moved(kept.engine, member_id)
    raise AssertionError("unreachable")


@task(
    task_run_name="check {email}",
    cache_policy=NO_CACHE,
    persist_result=False,
    retry_condition_fn=may_try_again,
    retry_jitter_factor=policy.JITTER,
)
def check_member(member_id: int, email: str) -> str:
    """Sign in on both sides and count, writing to neither; returns the member's state."""
    kept = store()
    if policy.STOP.is_set():
        return MemberState.PAUSED
    with _leased(kept, member_id, email) as token:
        if token is None:
            return MemberState.SYNCING
        with _recorded(kept, member_id, email):
            member = lifecycle.member_started(kept.engine, member_id, MemberState.CHECKING)
            source, target = kept.source_account(member), kept.target_account(member)
            with _slots(kept, source.server.host, target.server.host):
                seen = check_mailbox(source, target, _options(member))
            lifecycle.member_checked(kept.engine, member_id, seen.messages, seen.bytes, seen.oldest)
            return MemberState.READY
    raise AssertionError("unreachable")


@contextlib.contextmanager
def _leased(kept: Store, member_id: int, email: str) -> Iterator[int | None]:
    """Be the member's one runner; None when another one is. The lease is renewed while the body runs."""
    try:
        token = take_lease(kept.engine, member_id)
    except LeaseHeld as held:
        log.info("%s is being moved by %s", email, held)
        yield None
        return
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
        with contextlib.suppress(LeaseLost):
            ledger.check_lease()


@contextlib.contextmanager
def _recorded(kept: Store, member_id: int, email: str) -> Iterator[None]:
    """Write every way to end into the member's row; what leaves here may be seen by everybody."""
    try:
        yield
    except MigrationError as error:
        attempt = task_run.run_count or 1
        delays = kept.settings.retry_delays
        again = not policy.STOP.is_set() and _tries_left(error, attempt) > 0
        resume_at = now() + timedelta(seconds=delays[min(attempt, len(delays)) - 1]) if again and delays else None
        lifecycle.member_failed(
            kept.engine, member_id, error.cause_id, error.side, error.server_text, resume_at=resume_at
        )
        log.warning("%s: %s", email, error)
        raise
    except Stopped:
        lifecycle.member_paused(kept.engine, member_id)
        log.info("%s: stopped, goes on with the next run", email)
        raise MemberError("connection_dropped", "source", "stopped by the admin") from None
    except LeaseLost as lost:
        log.warning("%s: %s", email, lost)
        raise MemberError("lease_lost", "source") from None
    except VaultClosed as closed:
        lifecycle.member_failed(kept.engine, member_id, "password_missing", "source", str(closed))
        raise MemberError("password_missing", "source", str(closed)) from None
    except Exception as error:  # noqa: BLE001  (written into the row, and raised again without its text)
        # Ours, not the server's. Its text may quote mail or secrets, so only the log under BANJIA_HOME gets the place.
        log.error("%s: %s at %s", email, type(error).__name__, _place(error))
        lifecycle.member_failed(kept.engine, member_id, "unclassified", "source", type(error).__name__)
        raise MemberError("unclassified", "source", type(error).__name__) from None


def _place(error: BaseException) -> str:
    """Where an exception came from, without its values."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        places.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return " > ".join(places[-6:])


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
