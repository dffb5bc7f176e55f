"""The mail that a demo server holds, in memory: accounts, folders, messages.

Tests and the demo reach in through the same objects, beside the sessions: every change takes the account's lock, and
wakes whoever waits in IDLE.
"""

import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime


@dataclass(frozen=True, slots=True)
class Message:
    """One message; a change of flags replaces it, so that a reader keeps a consistent one."""

    uid: int
    raw: bytes
    flags: frozenset[str]
    internal_date: datetime
    modseq: int


class Folder:
    """A folder with its messages in the order of their UIDs."""

    def __init__(
        self, account: "Account", name: str, uidvalidity: int, special_use: str | None, selectable: bool
    ) -> None:
        self.account = account
        self.name = name
        self.uidvalidity = uidvalidity
        self.openings = 0
        self.special_use = special_use
        self.selectable = selectable
        self.raw_name: bytes | None = None  # how an old server spells the name that does not know modified UTF-7
        self.uidnext = 1
        self.highest_modseq = 1
        self.deleted = False
        self.shown_after = 0  # so many LISTs
        self.mailbox_id = f"F{account.next_mailbox_id()}"  # RFC 8474
        self._by_uid: dict[int, Message] = {}

    @property
    def messages(self) -> list[Message]:
        with self.account.lock:
            return list(self._by_uid.values())

    @property
    def uids(self) -> list[int]:
        with self.account.lock:
            return list(self._by_uid)

    def get(self, uid: int) -> Message | None:
        return self._by_uid.get(uid)

    def deliver(self, raw: bytes, internal_date: datetime | None = None, flags: Iterable[str] = ()) -> Message:
        """Store a message and return it with its UID; without a date it arrives now."""
        with self.account.lock:
            arrived = internal_date or datetime.now(UTC).replace(microsecond=0)
            message = Message(self.uidnext, raw, frozenset(flags), arrived, self._changed())
            self._by_uid[message.uid] = message
            self.uidnext += 1
            self.account.used_bytes += len(raw)
            return message

    def set_flags(self, uid: int, flags: Iterable[str]) -> Message:
        with self.account.lock:
            message = self._by_uid[uid]
            if message.flags != frozenset(flags):
                message = replace(message, flags=frozenset(flags), modseq=self._changed())
                self._by_uid[uid] = message
            return message

    def expunge(self, uids: Iterable[int]) -> list[int]:
        """Remove messages for good and return the UIDs that were there."""
        with self.account.lock:
            gone = [uid for uid in uids if uid in self._by_uid]
            for uid in gone:
                self.account.used_bytes -= len(self._by_uid.pop(uid).raw)
            if gone:
                self._changed()
            return gone

    def change_uidvalidity(self) -> None:
        """Number all messages anew from 1, as a server does that lost its index."""
        with self.account.lock:
            self.uidvalidity = self.account.next_uidvalidity()
            messages = self.messages
            self._by_uid = {
                uid: replace(message, uid=uid, modseq=self._changed()) for uid, message in enumerate(messages, start=1)
            }
            self.uidnext = len(messages) + 1

    def _changed(self) -> int:
        self.highest_modseq += 1
        self.account.changed.notify_all()
        return self.highest_modseq


class Account:
    """One mailbox: a password and a tree of folders, named as on the wire but in Unicode."""

    def __init__(self, name: str, password: str, separator: str = "/", *, folds_case: bool = False) -> None:
        self.name = name
        self._folds_case = folds_case
        self.password = password
        self.separator = separator
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.used_bytes = 0
        self.subscriptions: set[str] = set()
        self._uidvalidity = 0
        self._mailbox_id = 0
        self._folders: dict[str, Folder] = {}
        self.create("INBOX")

    def next_uidvalidity(self) -> int:
        # Small numbers that all accounts share: some services do that, and it catches who keys on UIDVALIDITY alone.
        self._uidvalidity += 1
        return self._uidvalidity

    def next_mailbox_id(self) -> int:
        self._mailbox_id += 1
        return self._mailbox_id

    @property
    def folders(self) -> list[Folder]:
        """All folders, INBOX first, then by name."""
        with self.lock:
            return sorted(self._folders.values(), key=lambda folder: (folder.name != "INBOX", folder.name))

    def canonical(self, name: str) -> str:
        """Return the name with INBOX in capitals, the one word that is the same in any case (RFC 9051 section 5.1)."""
        root, separator, rest = name.partition(self.separator)
        return "INBOX" + separator + rest if root.upper() == "INBOX" else name

    def find(self, name: str) -> Folder | None:
        name = self.canonical(name)
        if self._folds_case:
            return next((folder for folder in self.folders if folder.name.casefold() == name.casefold()), None)
        return self._folders.get(name)

    def folder(self, name: str) -> Folder:
        """Return a folder that must be there."""
        found = self.find(name)
        if found is None:
            raise KeyError(f"{self.name} has no folder {name}")
        return found

    def create(self, name: str, special_use: str | None = None, *, noselect_parents: bool = False) -> Folder:
        """Create a folder and the parents it needs; a \\Noselect folder becomes a real one."""
        with self.lock:
            name = self.canonical(name)
            words = name.split(self.separator)
            for depth in range(1, len(words)):
                parent = self.separator.join(words[:depth])
                if self.find(parent) is None:
                    self._add(parent, None, selectable=not noselect_parents)
            existing = self.find(name)
            if existing is None:
                return self._add(name, special_use, selectable=True)
            if existing.selectable:
                raise ValueError(f"{name} is there already")
            existing.selectable = True
            return existing

    def _add(self, name: str, special_use: str | None, selectable: bool) -> Folder:
        folder = Folder(self, name, self.next_uidvalidity(), special_use, selectable)
        self._folders[name] = folder
        return folder

    def children(self, folder: Folder) -> list[Folder]:
        return [other for other in self.folders if other.name.startswith(folder.name + self.separator)]

    def delete(self, folder: Folder) -> None:
        """Remove a folder and its mail; with children it stays as \\Noselect (RFC 3501 section 6.3.4)."""
        with self.lock:
            folder.expunge(folder.uids)
            folder.deleted = True
            del self._folders[folder.name]
            if self.children(folder):
                self._add(folder.name, None, selectable=False)
            self.changed.notify_all()

    def rename(self, folder: Folder, name: str) -> None:
        """Give a folder and its children a new name; INBOX stays and only its mail moves (RFC 9051 section 6.3.6)."""
        with self.lock:
            if folder.name == "INBOX":
                target = self.create(name)
                for message in folder.messages:
                    target.deliver(message.raw, message.internal_date, message.flags)
                folder.expunge(folder.uids)
                return
            old_name = folder.name
            for moved in [folder, *self.children(folder)]:
                del self._folders[moved.name]
                moved.name = name + moved.name.removeprefix(old_name)
                self._folders[moved.name] = moved
