"""Re-reads one member's new mailbox against the ledger, outside of any pass."""

from collections import Counter
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import TypedDict

from imapcopy.errors import MigrationError
from imapcopy.verify import verify_mailbox
from models.ledger import Ledger
from models.member import Member
from tasks.governor import Places
from tasks.store import Store

MESSAGES_TOLD = 1000


class Found(TypedDict):
    """A message that is not there as it was: `found` is `missing`, or what was altered."""

    folder: str
    uid: int
    found: list[str]


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
    messages: list[Found] = field(default_factory=list)
    """The first MESSAGES_TOLD that are missing or altered."""
    cause: str | None = None
    side: str = ""
    server_text: str = ""


def verify_member(kept: Store, member: Member, *, deep: bool) -> Verification:
    """Compare without writing: to no mailbox, and not to the ledger. A folder that cannot be read gives the cause."""
    checked = missing = read_back = source_count = hidden = 0
    altered: Counter[str] = Counter()
    messages: list[Found] = []
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
                for uid, names in islice(verdict.by_message().items(), MESSAGES_TOLD - len(messages)):
                    messages.append({"folder": verdict.folder, "uid": uid, "found": names})
                failure = failure or verdict.failure
    except MigrationError as error:
        failure = error
    present = checked - missing
    found = Verification(
        member.email, checked, present, missing, read_back, dict(altered), source_count, hidden, messages
    )
    if failure is None:
        return found
    return replace(found, cause=failure.cause_id, side=failure.side, server_text=failure.server_text)
