"""Looks at both sides of a move and writes to neither: sign in, EXAMINE, count, and compare the need with the room."""

from dataclasses import dataclass
from datetime import datetime

from imapcopy.account import Account
from imapcopy.connection import SourceConnection, TargetConnection
from imapcopy.copy_mailbox import CopyOptions, pair_folders
from imapcopy.errors import MemberError
from imapcopy.plan import wanted


@dataclass(frozen=True, slots=True)
class MailboxCheck:
    """What a check saw."""

    folders: int
    messages: int
    bytes: int
    largest: int
    oldest: datetime | None


def check_mailbox(source: Account, target: Account, options: CopyOptions) -> MailboxCheck:
    """Check one member; raise the MigrationError that the copy would meet."""
    with SourceConnection(source) as from_source, TargetConnection(target) as to_target:
        pairs = pair_folders(from_source, to_target, options)
        found = []
        for pair in pairs:
            # EXAMINE, because on NetEase a LIST succeeds where nothing can be read.
            from_source.examine(pair.source)
            found += wanted(from_source.scan(), options.since)
        need = sum(envelope.size for envelope in found)
        quota = to_target.quota()
        if quota and need > quota[1] - quota[0] and not _already_moved(quota[0], need):
            raise MemberError("over_quota", "target", f"needs {need} bytes, {max(quota[1] - quota[0], 0)} are free")
        return MailboxCheck(
            folders=len(pairs),
            messages=len(found),
            bytes=need,
            largest=max((envelope.size for envelope in found), default=0),
            oldest=min((e.arrived for e in found if e.arrived), default=None),
        )


def _already_moved(used: int, need: int) -> bool:
    """Whether most of the mail may be there already, so that the free room says little."""
    return used >= need // 2
