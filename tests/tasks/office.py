"""A few people with mail on an old demo server, accounts on a new one, and the roster that moves them."""

import csv
import io
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlmodel import select

from deployments.demo.imap_server import Behaviour, ImapServer
from models.database import reading
from models.enrol import enrol
from models.member import Member
from models.roster import read_roster
from tasks.store import Store, store
from tests.servers.dovecot import WRITING_VERBS

COLUMNS = (
    *("EmailAddress", "UserName", "Password", "Wave", "Provider", "SourceHost", "SourcePort", "SourceSecurity"),
    *("TargetHost", "TargetPort", "TargetSecurity", "TargetUserName", "TargetPassword", "SourceAdmin"),
)
Row = dict[str, str]


@dataclass
class Office:
    """The two servers and who is on them."""

    old: ImapServer = field(default_factory=lambda: ImapServer("old.example"))
    new: ImapServer = field(default_factory=lambda: ImapServer("new.example", behaviour=Behaviour()))
    people: list[str] = field(default_factory=list)

    def add(self, name: str, messages: int = 3) -> str:
        """Give somebody a full mailbox here and an empty one there; returns the new address."""
        self.people.append(name)
        self.old.add_account(f"{name}@old.example", old_password(name))
        self.deliver(name, messages)
        self.new.add_account(f"{name}@new.example", new_password(name))
        return f"{name}@new.example"

    def deliver(self, name: str, messages: int) -> None:
        """That many more come in on the old server, each an hour after the one before."""
        inbox = self.old.account(f"{name}@old.example").folder("INBOX")
        first = len(inbox.messages)
        for number in range(first, first + messages):
            raw = f"Message-ID: <{number}.{name}@old.example>\r\nSubject: {number}\r\n\r\nHello {number}\r\n".encode()
            inbox.deliver(raw, datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=number), ("\\Seen",))

    def row(self, name: str, **instead: str) -> Row:
        return {
            "EmailAddress": f"{name}@new.example",
            "UserName": f"{name}@old.example",
            "Password": old_password(name),
            "Wave": "",
            "Provider": "",
            "SourceHost": "127.0.0.1",
            "SourcePort": str(self.old.port),
            "SourceSecurity": "plain",
            "TargetHost": "127.0.0.1",
            "TargetPort": str(self.new.port),
            "TargetSecurity": "plain",
            "TargetUserName": f"{name}@new.example",
            "TargetPassword": new_password(name),
            **instead,
        }

    def roster(self, *rows: Row) -> bytes:
        """The roster of everybody, or of these rows."""
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(rows or [self.row(name) for name in self.people])
        return text.getvalue().encode()

    def write_roster(self, file: Path, *rows: Row) -> Path:
        file.write_bytes(self.roster(*rows))
        return file

    @property
    def secrets(self) -> list[str]:
        return [password(name) for name in self.people for password in (old_password, new_password)]

    def mail(self, server: ImapServer, name: str) -> Counter[bytes]:
        """Every message of somebody, as often as it is there."""
        account = server.account(f"{name}@{server.name}")
        return Counter(message.raw for folder in account.folders for message in folder.messages)

    def assert_moved(self, *names: str) -> None:
        """All mail is there, once; and the old server was only read."""
        for name in names or self.people:
            assert self.mail(self.new, name) == self.mail(self.old, name), name
        assert written(self.old) == set()


class Enrolled:
    """The office's people as members of a wave in this process's store."""

    def __init__(self, office: Office, *rows: Row) -> None:
        self.office = office
        enrol(
            self.store.engine, self.store.vault, "first", read_roster(office.roster(*rows)), self.store.default_servers
        )

    @property
    def store(self) -> Store:
        return store()

    def member(self, name: str) -> Member:
        with reading(self.store.engine) as session:
            return session.exec(select(Member).where(Member.email == f"{name}@new.example")).one()


def written(server: ImapServer) -> set[str]:
    """The writing verbs that a server was sent; an EXAMINE opens without writing."""
    with server.lock:
        return {entry.verb.removeprefix("UID ") for entry in server.log} & WRITING_VERBS


def old_password(name: str) -> str:
    """Without the name: what a server says about a password would be taken for its repetition."""
    return f"canary-old,{zlib.crc32(name.encode()):08x}!"


def new_password(name: str) -> str:
    return f"canary-new,{zlib.crc32(name.encode()):08x}!"


@contextmanager
def opened_office() -> Iterator[Office]:
    office = Office()
    with office.old, office.new:
        yield office
