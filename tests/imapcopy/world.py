"""Two demo servers, a member with its ledger, and an independent look at what both sides hold."""

import json
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from typing import Any

from sqlalchemy import Engine

from deployments.demo.imap_server import Account as Mailbox
from deployments.demo.imap_server import Folder, ImapServer
from imapcopy.account import Account, Server
from imapcopy.copy_mailbox import copy_mailbox
from imapcopy.copy_options import CopyOptions, Watch
from imapcopy.limits import DEFAULT, Limits
from models.database import writing
from models.ledger import Ledger
from models.ledger_rows import BatchState, FolderCopy
from models.member import Member, release_lease, take_lease
from models.wave import Wave

LIN = "lin@old.example"
NEW = "lin@new.example"
PASSWORD = "S3cret-canary"
WRITING = {"APPEND", "CREATE", "DELETE", "RENAME", "STORE", "EXPUNGE", "COPY", "MOVE", "SELECT", "CLOSE", "SUBSCRIBE"}

Looks = Counter[tuple[str, bytes, datetime, frozenset[str]]]


def mail(number: int, body: bytes = b"body") -> bytes:
    """A plain message that differs from every other one."""
    head = b"Message-ID: <%d@old.example>\r\nSubject: number %d\r\nFrom: a@old.example\r\n\r\n"
    return head % (number, number) + body + b"\r\n"


def moment(day: int) -> datetime:
    return datetime(2024, 5, day, 12, 30, 15, tzinfo=UTC)


def account_at(server: ImapServer, user: str, **changes: Any) -> Account:
    given: dict[str, Any] = {"host": "127.0.0.1", "port": server.port, "security": "plain", **changes}
    return Account(Server(**given), user, PASSWORD)


def everything(server: ImapServer, user: str) -> Looks:
    """Every message of an account as (folder, octets, instant, flags), read inside the server."""
    return Counter(
        (folder.name, message.raw, message.internal_date.astimezone(UTC), message.flags)
        for folder in server.account(user).folders
        for message in folder.messages
    )


def contents(server: ImapServer, user: str) -> Counter[tuple[str, bytes]]:
    """The same without what a server may be told to ignore."""
    return Counter((folder.name, m.raw) for folder in server.account(user).folders for m in folder.messages)


@dataclass
class Box:
    """One member between an old server and a new one."""

    engine: Engine
    old: ImapServer
    new: ImapServer
    member_id: int
    source_user: str = LIN
    target_user: str = NEW
    options: CopyOptions = field(default_factory=CopyOptions)
    source_changes: dict[str, Any] = field(default_factory=dict)
    limits: Limits = DEFAULT
    """Of both servers."""

    @property
    def source(self) -> Mailbox:
        return self.old.account(self.source_user)

    @property
    def target(self) -> Mailbox:
        return self.new.account(self.target_user)

    def lease(self) -> int:
        return take_lease(self.engine, self.member_id)

    @property
    def ledger(self) -> Ledger:
        """To read from."""
        return Ledger(self.engine, self.member_id, 0)

    def copy(
        self,
        stop: threading.Event | None = None,
        source: Account | None = None,
        pause: Callable[[float], object] | None = None,
        **options: Any,
    ) -> None:
        """Run one pass under a lease of its own, from the old server or another; what it sent has been carried out."""
        token = self.lease()
        try:
            copy_mailbox(
                source or replace(account_at(self.old, self.source_user), limits=self.limits),
                replace(account_at(self.new, self.target_user), limits=self.limits),
                Ledger(self.engine, self.member_id, token),
                CopyOptions(**options) if options else self.options,
                Watch(stop=stop or threading.Event(), pause=pause),
            )
        finally:
            release_lease(self.engine, self.member_id, token)
            for server in (self.old, self.new):
                server.settle()

    def deliver(self, number: int, folder: str = "INBOX", raw: bytes = b"", **more: Any) -> None:
        """Put a message into a folder of the source."""
        given: dict[str, Any] = {"internal_date": moment(1 + number % 28), **more}
        self.folder(folder).deliver(raw or mail(number), **given)

    def folder(self, name: str) -> Folder:
        return self.source.find(name) or self.source.create(name)

    def arrived(self, folder: str = "INBOX") -> list[bytes]:
        found = self.target.find(folder)
        return [message.raw for message in found.messages] if found else []

    def row(self, folder: str = "INBOX") -> FolderCopy:
        """What the ledger says of a source folder."""
        [found] = [row for row in self.ledger.folders() if row.source_name == folder]
        return found

    def altered(self, folder: str = "INBOX") -> str:
        return self.row(folder).altered

    def issues(self, folder: str = "INBOX") -> dict[int, str]:
        return {uid: issue.cause for uid, issue in self.ledger.issues(self.row(folder).id or 0).items()}

    def assert_equal(self) -> None:
        """The target is the source, message by message, and the ledger says so."""
        assert everything(self.new, self.target_user) == everything(self.old, self.source_user)
        self.assert_counted()

    def assert_counted(self) -> None:
        """Every source message has exactly one end, nothing is left open, and no target message stands for two."""
        for row in self.ledger.folders():
            assert row.copied + row.already_there + row.issues == row.source_messages, row
            named = Counter(
                name for n in self.ledger.altered(row.id or 0).values() for name in n.alterations.split(",")
            )
            counted = Counter(json.loads(row.altered))
            assert bool(named.pop("doubled", 0)) == bool(counted.pop("doubled", 0)), row
            assert named == counted, "each message that is counted as altered is named, and no other"
            recorded = self.ledger.batches(row.id or 0)
            assert all(batch.state == BatchState.VERIFIED for batch in recorded)
            targets = [entry.target_uid for batch in recorded for entry in batch.entries]
            assert len(set(targets)) == len(targets)

    def assert_untouched(self) -> None:
        """The source saw nothing but reading."""
        assert not {entry.verb.removeprefix("UID ") for entry in self.old.log} & WRITING

    def sent(self, verb: str = "APPEND") -> int:
        return len(self.new.commands(verb))

    def later(self, server: ImapServer, verb: str, act: Callable[[], object], nth: int = 1) -> None:
        """Do something before a server carries out the nth command of a verb."""
        met = count(1)  # never the same number twice, in however many sessions

        def hook(entry: Any) -> None:
            if entry.verb.removeprefix("UID ") == verb and next(met) == nth:
                act()

        server.behaviour.before_command = hook


def new_member(engine: Engine, email: str = LIN) -> int:
    """A queued member; its wave is made with it."""
    with writing(engine) as session:
        wave = Wave(name=f"wave of {email}")
        session.add(wave)
        session.flush()
        member = Member(wave_id=wave.id or 0, line=2, email=email, user_name=email)
        session.add(member)
        session.flush()
        return member.id or 0
