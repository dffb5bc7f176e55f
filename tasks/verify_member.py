"""Re-reads one member's new mailbox against the ledger, outside of any pass."""

from collections import Counter
from dataclasses import dataclass, field

from imapcopy.errors import MigrationError
from imapcopy.verify import verify_mailbox
from models.ledger import Ledger
from models.member import Member
from tasks.store import Store


@dataclass(frozen=True, slots=True)
class Verification:
    """What re-reading one mailbox found; `cause` says why it could not be read."""

    email: str
    checked: int = 0
    present: int = 0
    missing: int = 0
    read_back: int = 0
    altered: dict[str, int] = field(default_factory=dict)
    cause: str | None = None


def verify_member(kept: Store, member: Member, *, deep: bool) -> Verification:
    """Compare without writing: to no mailbox, and not to the ledger."""
    try:
        source, target = kept.accounts(member)
        verdicts = verify_mailbox(source, target, Ledger(kept.engine, member.id or 0, token=0), deep=deep)
    except MigrationError as error:
        return Verification(member.email, cause=error.cause_id)
    altered: Counter[str] = Counter()
    for verdict in verdicts:
        altered.update(verdict.altered)
    checked = sum(verdict.checked for verdict in verdicts)
    missing = sum(len(verdict.lost) for verdict in verdicts)
    return Verification(
        email=member.email,
        checked=checked,
        present=checked - missing,
        missing=missing,
        read_back=sum(verdict.read_back for verdict in verdicts),
        altered=dict(altered),
    )
