"""Stores mail in an account without a session: files in the account's Maildir, as Dovecot itself would have left them.

Takes a third to a quarter of the time of APPEND, for one large folder as for many small accounts.
"""

import os
from collections.abc import Iterable
from itertools import count
from pathlib import Path

from tests.servers.mail import Message, folder_octets

_LETTERS = {r"\Draft": "D", r"\Flagged": "F", r"\Answered": "R", r"\Seen": "S", r"\Deleted": "T"}
"""How a file's name says its flags; letters stand in alphabetical order (Maildir)."""
_LF = b"\n"
_FIRST_NAME = 1_000_000_000
"""Dovecot gives out UIDs by the number that a name begins with, which is meant to be a time."""


class Maildir:
    """The mail of one account below `directory`, with `/` between the names of folders (Dovecot's LAYOUT=fs).

    Dovecot learns of it when it looks next (`LeanDovecot.index`). The directories are given to `owner` (uid, gid).
    """

    def __init__(self, directory: Path, owner: tuple[int, int]) -> None:
        self._directory = directory
        self._owner = owner
        self._folders: dict[str, str] = {}
        self._numbers = count(_FIRST_NAME)

    def store(self, messages: Iterable[Message]) -> None:
        """Store messages in the order of their UIDs, making the folders."""
        for message in messages:
            folder = self._folders.get(message.folder) or self._make(message.folder)
            # On disk lines end with LF, as Dovecot writes them; W is the size in IMAP, S that of the file.
            stored = message.raw.replace(b"\r\n", b"\n")
            size = f"S={len(stored)},W={len(stored) + stored.count(_LF)}"
            letters = "".join(sorted(_LETTERS[flag] for flag in message.flags))
            path = f"{folder}/{next(self._numbers)}.M1P1.bench,{size}:2,{letters}"
            file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                os.write(file, stored)
                os.fchown(file, *self._owner)
                arrived = int(message.arrived.timestamp())
                os.utime(file, (arrived, arrived))  # Dovecot's INTERNALDATE
            finally:
                os.close(file)

    def _make(self, folder: str) -> str:
        """Make a folder with its parents; returns where its messages go."""
        # The quotes that a command needs are no part of the name on disk.
        place = self._directory if folder == "INBOX" else self._directory / folder_octets(folder)[1:-1].decode()
        for name in ("cur", "new", "tmp"):
            self._make_directory(place / name)
        self._folders[folder] = str(place / "cur")
        return self._folders[folder]

    def _make_directory(self, path: Path) -> None:
        if not path.exists():
            self._make_directory(path.parent)
            path.mkdir(mode=0o700)
            os.chown(path, *self._owner)
