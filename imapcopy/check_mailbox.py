"""Looks at both sides of a move and writes to neither: sign in, EXAMINE, count, and compare the need with the room."""

from collections.abc import Sequence
from dataclasses import dataclass

from imapcopy.account import Account
from imapcopy.connection import SourceConnection, TargetConnection
from imapcopy.copy_mailbox import CopyOptions, plan_folders
from imapcopy.errors import MemberError, MigrationError
from imapcopy.plan import wanted
from models.receive_range import FolderAge


@dataclass(frozen=True, slots=True)
class MailboxCheck:
    """What a check saw."""

    folders: Sequence[FolderAge]
    bytes: int
    """Octets of the wanted mail."""
    quota_used: int
    """Octets of the source's quota, 0 where it does not tell."""


def check_mailbox(source: Account, target: Account, options: CopyOptions) -> MailboxCheck:
    """Check one member; raise the MigrationError that the copy would meet."""
    with SourceConnection(source) as from_source, TargetConnection(target) as to_target:
        plan = plan_folders(from_source, from_source.listing(), to_target, to_target.listing(), options)
        folders, need = [], 0
        for _, survey in from_source.survey(pair.source for pair in plan.pairs):
            # EXAMINE, because on NetEase a LIST succeeds where nothing can be read.
            if isinstance(survey, MigrationError):
                raise survey
            found = wanted(survey.scan, options.since)
            folders.append(FolderAge(len(found), min((e.arrived for e in found if e.arrived), default=None)))
            need += sum(envelope.size for envelope in found)
        quota = to_target.quota()
        if quota and need > quota[1] - quota[0] and not _already_moved(quota[0], need):
            raise MemberError("over_quota", "target", f"needs {need} bytes, {max(quota[1] - quota[0], 0)} are free")
        at_source = from_source.quota()
        return MailboxCheck(folders, need, at_source[0] if at_source else 0)


def _already_moved(used: int, need: int) -> bool:
    """Whether most of the mail may be there already, so that the free room says little."""
    return used >= need // 2
