"""Re-reads one member's new mailbox against the ledger, outside of any pass."""

from collections import Counter
from dataclasses import dataclass, field, replace

from imapcopy.errors import MigrationError
from imapcopy.verify import verify_mailbox
from models.ledger import Ledger
from models.member import Member
from tasks.governor import Places
from tasks.store import Store


@dataclass(frozen=True, slots=True)
class Verification:
    """What re-reading one mailbox found; `cause` says why it, or some folder of it, could not be read."""

    email: str
    checked: int = 0
    present: int = 0
    missing: int = 0
    read_back: int = 0
    altered: dict[str, int] = field(default_factory=dict)
    source: int = 0
    """How many messages the old mailbox counts in the folders that were moved, now."""
    hidden: int = 0
    """How many of them its server does not show."""
    cause: str | None = None
    side: str = ""
    server_text: str = ""


def verify_member(kept: Store, member: Member, *, deep: bool) -> Verification:
    """Compare without writing: to no mailbox, and not to the ledger. A folder that cannot be read gives the cause."""
    checked = missing = read_back = source_count = hidden = 0
    altered: Counter[str] = Counter()
    failure: MigrationError | None = None
    try:
        with Places(kept, member.id or 0).taken(kept.accounts(member)) as (source, target):
            for verdict in verify_mailbox(source, target, Ledger(kept.engine, member.id or 0, token=0), deep=deep):
                checked += verdict.checked
                missing += len(verdict.lost)
                read_back += verdict.read_back
                source_count += verdict.source
                hidden += verdict.hidden
                altered += verdict.altered
                failure = failure or verdict.failure
    except MigrationError as error:
        failure = error
    present = checked - missing
    found = Verification(member.email, checked, present, missing, read_back, dict(altered), source_count, hidden)
    if failure is None:
        return found
    return replace(found, cause=failure.cause_id, side=failure.side, server_text=failure.server_text)
