"""Saves messages of a mailbox as files, as they are at the source. Reads only; a file is there whole or not at all."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Literal

from imapcopy.account import Account
from imapcopy.distant import Distant, Spool
from imapcopy.endpoint import Endpoint, source_endpoint
from imapcopy.errors import FolderError, MessageError, MigrationError, is_of_the_folder
from imapcopy.folders import Folder
from imapcopy.identity import PIECE_BYTES, Identification
from imapcopy.plan import falls_short
from imapcopy.source_connection import SourceConnection
from models.private_files import create_private, make_folder

Outcome = Literal["saved", "kept", "gone", "unreadable", "changed"]
"""Kept: the file is there from an earlier time. Changed: it is another message than the ledger knows; not saved."""


@dataclass(frozen=True, slots=True)
class Original:
    """One message at the source, and where it is to be saved. `digest` is None where nobody has read it yet."""

    folder: str
    uidvalidity: int
    uid: int
    digest: bytes | None
    path: Path


def save_messages(source: Account, originals: Iterable[Original]) -> Iterator[tuple[Original, Outcome]]:
    """Save each message and say what came of it. Raises the MigrationError that ends all of it."""
    left = []
    for original in originals:
        if _is_saved(original):
            yield original, "kept"
        else:
            left.append(original)
    if not left:
        return
    with source_endpoint(source) as endpoint:
        listed = {folder.name: folder for folder in endpoint.ask(SourceConnection.listing).folders}
        for name, some in groupby(sorted(left, key=lambda each: (each.folder, each.uid)), lambda each: each.folder):
            yield from _save_folder(endpoint, listed.get(name), list(some))


def _save_folder(
    source: Endpoint[SourceConnection], folder: Folder | None, originals: list[Original]
) -> Iterator[tuple[Original, Outcome]]:
    sizes: dict[int, int] = {}
    absent: Outcome = "gone"
    try:
        if folder is not None and source.connection.examine(folder).uidvalidity == originals[0].uidvalidity:
            # A message that no command can name has no UID.
            named = [each.uid for each in originals if each.uid > 0]
            sizes = {e.uid: e.weight for e in source.connection.scan_uids(named)}
    except MigrationError as error:
        if not is_of_the_folder(error):
            raise
        absent = "unreadable"
    for original in originals:
        if folder is None or original.uid not in sizes:
            yield original, absent if original.uid > 0 else "unreadable"
        else:
            yield original, _save(source, folder, original, sizes[original.uid])


def _save(source: Endpoint[SourceConnection], folder: Folder, original: Original, told: int) -> Outcome:
    """As it comes into a file beside, which takes the name when it is whole."""
    beside = original.path.with_name(original.path.name + ".part")
    make_folder(original.path.parent)
    # What a run that died has left; whatever else took the name is no file of ours to write into.
    beside.unlink(missing_ok=True)
    content = Distant(source, folder, original.uidvalidity, original.uid, told)
    try:
        with create_private(beside) as file:
            with source.connection.of_the_folder():
                spool = content.fetch_into(Spool(file))
            if spool.failure:
                raise spool.failure
            read = Identification(spool)
        if told and not read.size:
            return "unreadable"
        if original.digest not in (None, read.digests()[0]):
            return "changed"
        if original.digest is None and falls_short(read.size, told):
            # Only the beginning, as far as anybody knows.
            return "unreadable"
        beside.replace(original.path)
    except (FolderError, MessageError):
        return "unreadable"
    finally:
        beside.unlink(missing_ok=True)
    return "saved"


def _is_saved(original: Original) -> bool:
    if not original.path.is_file():
        return False
    if original.digest is None:
        return True
    with original.path.open("rb") as file:
        return Identification(iter(lambda: file.read(PIECE_BYTES), b"")).digests()[0] == original.digest
