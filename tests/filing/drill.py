"""A mailbox that is used on both sides while it is moved, and what has to come of that.

Between the steps of passes mail is filed, deleted, marked and delivered, by sessions of their own. Then what the target
holds, and what the ledger says, is compared with what was done. Every message carries its number, by which it is known.
"""

import imaplib
import json
import random
import re
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

from sqlalchemy import Engine

from imapcopy.account import Account, Server
from imapcopy.copy_mailbox import copy_mailbox
from imapcopy.copy_options import CopyOptions
from imapcopy.errors import MigrationError
from imapcopy.identity import digest
from imapcopy.plan import Grouping
from models import steps
from models.database import open_database
from models.ledger import Ledger
from models.ledger_rows import MOVED
from models.member import release_lease, take_lease
from models.uid_sets import parse_uids
from tests.fidelity.moves import RealServer
from tests.imapcopy.world import new_member
from tests.servers.dovecot import DEADLINE

PASSWORD = "filing 7 canary"
NUMBER = re.compile(rb"X-Number: (\d+)")
UID = re.compile(rb"UID (\d+)")
PASSES = 400
"""More than that are not needed to do what is to be done."""


def raw_of(number: int) -> bytes:
    text = f"X-Number: {number}\r\nSubject: number {number}\r\nFrom: a@old.example\r\n\r\nbody {number}\r\n"
    return text.encode()


@dataclass(frozen=True)
class Usage:
    """What a member does, and how the mailbox is moved meanwhile."""

    messages: int = 60
    folders: int = 5
    operations: int = 120
    """At the source; the target sees a tenth of that."""
    often: float = 0.1
    """With this chance, something is done after a step of a pass."""
    group_folders: int = 2
    group_messages: int = 20_000
    seed: int = 1


@dataclass
class Found:
    """What is there at the end, and what the ledger says of it."""

    operations: Counter[str] = field(default_factory=Counter)
    passes: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """Of passes."""
    seconds: float = 0.0
    lost: list[int] = field(default_factory=list)
    doubled: list[int] = field(default_factory=list)
    """There more than once, and no copy was touched at the target."""
    doubled_by_hand: list[int] = field(default_factory=list)
    """There more than once, one of them touched by the member: what had not been read back yet, and was gone then."""
    misfiled: list[int] = field(default_factory=list)
    """In another folder than at the source, and no issue says so."""
    altered: list[int] = field(default_factory=list)
    """With other flags than at the source though nobody touched the copy, or another date."""
    told_altered: Counter[str] = field(default_factory=Counter)
    deleted: int = 0
    """Without those that were touched at the target, as the next three."""
    told_deleted: int = 0
    strayed: int = 0
    told_strayed: int = 0
    followed: int = 0
    uncounted: int = 0
    """Messages by which the ledger's numbers do not add up."""

    @property
    def is_right(self) -> bool:
        wrong = self.failures or self.lost or self.doubled or self.misfiled or self.altered or self.uncounted
        return not wrong and (self.deleted, self.strayed) == (self.told_deleted, self.told_strayed)

    def line(self) -> str:
        done = " ".join(f"{name} {count}" for name, count in sorted(self.operations.items()))
        return (
            f"{done}; {self.passes} passes, failed {dict(self.failures)}, {self.seconds:.0f} s; "
            f"followed {self.followed}, deleted {self.deleted} (told {self.told_deleted}), "
            f"strayed {self.strayed} (told {self.told_strayed}); lost {len(self.lost)}, "
            f"doubled {len(self.doubled)} (by hand {len(self.doubled_by_hand)}), misfiled {len(self.misfiled)}, "
            f"altered {len(self.altered)}, told altered {dict(self.told_altered)}, uncounted {self.uncounted}"
        )


class Copy(NamedTuple):
    folder: str
    date: str
    flags: frozenset[str]


class User:
    """A mail program on one side."""

    def __init__(self, server: RealServer, name: str, dice: random.Random, folders: Sequence[str]) -> None:
        self._session = imaplib.IMAP4(server.host, server.port, timeout=DEADLINE)
        self._session.authenticate("PLAIN", lambda _: f"\0{name}\0{PASSWORD}".encode())
        self._dice = dice
        self._folders = folders
        self._expunges_alone = "UIDPLUS" in self._session.capabilities
        self._moves = "MOVE" in self._session.capabilities
        space = re.match(rb'\(\("([^"]*)"', self._session.namespace()[1][0])
        self._prefix = space[1].decode() if space else ""
        self.done: Counter[str] = Counter()
        self.touched: set[int] = set()
        self.removed: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._session.logout()

    def create(self) -> None:
        for folder in self._folders:
            if folder != "INBOX":
                self._session.create(self._quoted(folder))

    def deliver(self, number: int) -> None:
        folder = self._dice.choice(self._folders)
        date = f'"{1 + number % 28:02}-May-2024 12:30:15 +0000"'
        flags = self._dice.choice(["", "(\\Seen)", "(\\Flagged)"])
        self._ok(self._session.append(self._quoted(folder), flags, date, raw_of(number)))
        self.done["delivered"] += 1

    def act(self) -> int:
        """Do one thing with some messages of a folder; returns with how many."""
        folder = self._dice.choice(self._folders)
        if self._session.select(self._quoted(folder))[0] != "OK":
            return 0
        uids = self._ok(self._session.uid("SEARCH", "ALL"))[0].split()
        some = self._dice.sample(uids, min(len(uids), self._dice.randrange(1, 5)))
        if not some:
            return 0
        uid_set = b",".join(sorted(some, key=int)).decode()
        numbers = set(self._numbers(uid_set))
        what = self._dice.choices(["moved", "deleted", "marked"], [6, 1, 3])[0]
        self.touched |= numbers
        if what == "marked":
            flag = self._dice.choice(["\\Seen", "\\Flagged", "\\Answered"])
            sign = self._dice.choice("+-")
            self._ok(self._session.uid("STORE", uid_set, f"{sign}FLAGS.SILENT", f"({flag})"))
        elif what == "deleted":
            self.removed |= numbers
            self._expunge(uid_set)
        else:
            into = self._dice.choice([each for each in self._folders if each != folder])
            if self._moves:
                self._ok(self._session.uid("MOVE", uid_set, self._quoted(into)))
            else:
                self._ok(self._session.uid("COPY", uid_set, self._quoted(into)))
                self._expunge(uid_set)
        self.done[what] += len(some)
        return len(some)

    def _expunge(self, uid_set: str) -> None:
        self._ok(self._session.uid("STORE", uid_set, "+FLAGS.SILENT", "(\\Deleted)"))
        if self._expunges_alone:
            self._ok(self._session.uid("EXPUNGE", uid_set))
        else:
            self._ok(self._session.expunge())

    def _numbers(self, uid_set: str) -> Iterator[int]:
        for answer in self._ok(self._session.uid("FETCH", uid_set, "(UID BODY.PEEK[HEADER.FIELDS (X-NUMBER)])")):
            if isinstance(answer, tuple) and (found := NUMBER.search(answer[1])):
                yield int(found[1])

    def everything(self) -> dict[int, list[Copy]]:
        """Every message of the account, by its number."""
        found: dict[int, list[Copy]] = defaultdict(list)
        for folder in self._folders:
            if self._session.select(self._quoted(folder), readonly=True)[0] != "OK":
                continue
            asked = "(UID FLAGS INTERNALDATE BODY.PEEK[HEADER.FIELDS (X-NUMBER)])"
            answers = self._ok(self._session.uid("FETCH", "1:*", asked))
            for position, answer in enumerate(answers):
                if isinstance(answer, tuple) and (number := NUMBER.search(answer[1])):
                    after = answers[position + 1] if position + 1 < len(answers) else b""
                    text = answer[0] + (after if isinstance(after, bytes) else b"")
                    moment = imaplib.Internaldate2tuple(text)
                    date = str(time.mktime(moment)) if moment else ""
                    flags = frozenset(flag.decode() for flag in imaplib.ParseFlags(text)) - {"\\Recent", "\\Deleted"}
                    found[int(number[1])].append(Copy(folder, date, flags))
        return found

    def _quoted(self, folder: str) -> str:
        return folder if folder == "INBOX" else f'"{self._prefix}{folder}"'

    @staticmethod
    def _ok(answer: tuple[str, list[bytes]]) -> list[bytes]:
        if answer[0] != "OK":
            raise AssertionError(f"a mail program was refused: {answer!r}")
        return answer[1]


def drill(source: RealServer, target: RealServer, usage: Usage, directory: Path) -> Found:
    """Use a mailbox on both sides while it is moved, as long as there is something to do; then look what came of it."""
    dice = random.Random(usage.seed)
    name = f"filing{usage.seed}"
    for server, where in ((source, "old"), (target, "new")):
        server.add_user(f"{name}{where}", PASSWORD)
    folders = ["INBOX", *(f"F{number}" for number in range(1, usage.folders))]
    began = time.monotonic()
    with User(source, f"{name}old", dice, folders) as old, User(target, f"{name}new", dice, folders) as new:
        old.create()
        for number in range(usage.messages):
            old.deliver(number)
        old.done.clear()
        engine = open_database(f"sqlite:///{directory / name}.sqlite")
        try:
            grouping = Grouping(usage.group_messages, usage.group_folders)
            passes = _Passes(source, target, name, CopyOptions(grouping=grouping), new_member(engine))
            found = _used_and_moved(engine, passes, old, new, usage, dice)
        finally:
            engine.dispose()
    found.seconds = time.monotonic() - began
    return found


def _used_and_moved(
    engine: Engine, passes: "_Passes", old: User, new: User, usage: Usage, dice: random.Random
) -> Found:
    found = Found()
    ever: set[int] = set()
    with _using(old, new, usage, dice) as used:
        while used.left > 0 and found.passes < PASSES:
            _pass(engine, passes, found)
            ever |= new.everything().keys()
    for _ in range(3):
        _pass(engine, passes, found)
    found.operations = old.done + Counter({f"{what} at the target": n for what, n in new.done.items()})
    _compare(Ledger(engine, passes.member, 0), old, new, ever | new.removed, found)
    return found


class _Passes(NamedTuple):
    source: RealServer
    target: RealServer
    name: str
    options: CopyOptions
    member: int


def _pass(engine: Engine, given: _Passes, found: Found) -> None:
    found.passes += 1
    token = take_lease(engine, given.member)
    try:
        copy_mailbox(
            _account(given.source, f"{given.name}old"),
            _account(given.target, f"{given.name}new"),
            Ledger(engine, given.member, token),
            given.options,
        )
    except MigrationError as error:
        # A folder that changes while it is read may fail; the next pass goes on.
        found.failures[str(error)] += 1
    finally:
        release_lease(engine, given.member, token)


@dataclass
class _Used:
    left: int


@contextmanager
def _using(old: User, new: User, usage: Usage, dice: random.Random) -> Iterator[_Used]:
    """Between the steps of passes, both sides are used."""
    used = _Used(usage.operations)
    one_at_a_time = threading.Lock()
    numbers = iter(range(usage.messages, usage.messages + 10 * usage.operations))

    def passed(step: str) -> None:
        # Steps are told by several threads; whoever comes while something is done goes on.
        if used.left > 0 and one_at_a_time.acquire(blocking=False):
            try:
                if dice.random() < usage.often:
                    if dice.random() < 0.2:
                        old.deliver(next(numbers))
                        used.left -= 1
                    else:
                        used.left -= old.act()
                    if dice.random() < 0.1:
                        new.act()
            finally:
                one_at_a_time.release()

    nothing = steps.passed
    steps.passed = passed
    try:
        yield used
    finally:
        steps.passed = nothing


def _compare(ledger: Ledger, old: User, new: User, ever: set[int], found: Found) -> None:
    here, there = old.everything(), new.everything()
    rows = ledger.folders(superseded=True)
    issues: dict[str, set[int]] = {}
    current = [row for row in rows if not row.superseded]
    moved_issues = []
    for row in current:
        causes = ledger.issues(row.id or 0)
        issues[row.source_name] = set(causes)
        moved_issues += [issue for issue in causes.values() if issue.cause == MOVED]
        found.told_altered.update(_altered(row.altered))
        found.followed += row.moved
        found.uncounted += abs(row.source_messages - row.copied - row.already_there - row.issues)
    found.uncounted += abs(sum(row.source_messages for row in current) - sum(map(len, here.values())))
    known = {digest(raw_of(number)): number for number in range(max([*ever, *here], default=0) + 1)}
    told: dict[str, set[int]] = {"deleted": set(), "strayed": set()}
    for row in rows:
        gone, strayed = set(parse_uids(row.gone)), set(parse_uids(row.strayed))
        for batch in ledger.batches(row.id or 0):
            for entry in batch.entries:
                if entry.source_uid in gone:
                    told["strayed" if entry.source_uid in strayed else "deleted"].add(known[entry.digest])
    # What the member has touched at the target may have been sent again, or not be known any more.
    found.told_deleted, found.deleted = len(told["deleted"] - new.touched), len(ever - here.keys() - new.touched)
    found.told_strayed = len(told["strayed"] - new.touched)
    found.strayed = len({known[each.digest] for each in moved_issues if each.digest} - new.touched)
    misplaced = 0
    for number in sorted(here.keys() | there.keys()):
        copies = there.get(number, [])
        if len(copies) > 1:
            (found.doubled_by_hand if number in new.touched else found.doubled).append(number)
        if number not in here or number in new.touched:
            continue
        [message] = here[number]
        if not copies:
            found.lost.append(number)
            continue
        [copy, *_] = copies
        if copy.folder != message.folder:
            misplaced += 1
            found.misfiled.append(number)
        elif copy.date != message.date or copy.flags != message.flags:
            found.altered.append(number)
    # Of those in another folder an issue tells; whose issue is whose only the digests know.
    if misplaced <= len(moved_issues):
        found.misfiled.clear()


def _altered(text: str) -> dict[str, int]:
    found: dict[str, int] = json.loads(text)
    return found


def _quoted(folder: str) -> str:
    return f'"{folder}"'


def _account(server: RealServer, user: str) -> Account:
    return Account(Server(host=server.host, port=server.port, security="plain"), user, PASSWORD)
