"""Saves the messages of a wave that were not moved or arrived altered, by member, from their old mailboxes."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from sqlmodel import col, select

from imapcopy.errors import MigrationError
from imapcopy.save_messages import Original, save_messages
from models.database import reading
from models.file_names import file_names
from models.issues import AlteredMessage, Issue
from models.member import Member
from tasks.governor import governor
from tasks.store import Store

Sought = Issue | AlteredMessage


@dataclass(frozen=True, slots=True)
class Exported:
    """What became of one message: its file under the directory, and the outcome (`imapcopy.save_messages`).

    An outcome may be a cause too, where the old mailbox cannot be read at all.
    """

    issue: Sought
    file: Path
    outcome: str

    @property
    def is_there(self) -> bool:
        return self.outcome in ("saved", "kept")


def export_issues(kept: Store, issues: Sequence[Sought], directory: Path) -> Iterator[Exported]:
    """Save each message as member/folder/UID.eml; what is there already is not read again."""
    issues = sorted(issues, key=lambda issue: issue.member_id)
    members = file_names({issue.email for issue in issues})
    for member_id, some in groupby(issues, lambda issue: issue.member_id):
        mine = list(some)
        folders = file_names({issue.folder for issue in mine})
        files = {issue: Path(members[issue.email], folders[issue.folder], f"{issue.uid}.eml") for issue in mine}
        yield from _of_member(kept, member_id, files, directory)


def _of_member(kept: Store, member_id: int, files: dict[Sought, Path], directory: Path) -> Iterator[Exported]:
    left = {(issue.folder, issue.uid): issue for issue in files}
    originals = [
        Original(issue.folder, issue.uidvalidity, issue.uid, issue.digest, directory / file)
        for issue, file in files.items()
    ]
    try:
        with reading(kept.engine) as session:
            member = session.exec(select(Member).where(col(Member.id) == member_id)).one()
        source, _ = kept.accounts(member)
        with governor(kept).visit(source, "source") as admitted:
            for original, outcome in save_messages(admitted, originals):
                issue = left.pop((original.folder, original.uid))
                yield Exported(issue, files[issue], outcome)
    except MigrationError as error:
        # The others' mailboxes may be read all the same.
        yield from (Exported(issue, files[issue], error.cause_id) for issue in left.values())
