"""Mail loaded into one server, moved into another by the engine, and compared by other means than its own.

What the source serves is the truth, however it came there: what it refused or altered when it was loaded is told apart.
"""

import imaplib
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from email.parser import BytesHeaderParser
from email.utils import parsedate_to_datetime
from itertools import zip_longest
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from sqlalchemy import Engine

from imapcopy.account import Account, Server
from imapcopy.copy_mailbox import copy_mailbox
from imapcopy.copy_options import CopyOptions
from imapcopy.verify import verify_mailbox
from models.database import open_database
from models.ledger import Ledger
from models.ledger_rows import MessageAlteration
from models.member import release_lease, take_lease
from tests.fidelity.hazards import Hazard
from tests.imapcopy.world import new_member
from tests.servers.compare import arrival, flags_of
from tests.servers.dovecot import User
from tests.servers.mail import store_each

PASSWORD = "S3cret of the move"
FETCH_UIDS = 100
# What a difference of two texts is called, and of the rest of a message.
OF_THE_TEXT = ("final_line_end", "line_ends", "nul", "header_8bit", "content")
OF_THE_REST = ("date", "date_received", "date_header", "flags", "keyword_dropped")
DIFFERENCES = (*OF_THE_TEXT, *OF_THE_REST)

_UID = re.compile(r"\bUID (\d+)")
_HEADER_END = re.compile(rb"\r?\n\r?\n")


class RealServer(Protocol):
    """Dovecot, Cyrus or Courier."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def users(self) -> Mapping[str, User]: ...
    def add_user(self, name: str, password: str) -> User: ...


class Kept(NamedTuple):
    """A message as a server holds it."""

    raw: bytes
    arrived: datetime
    flags: frozenset[str]


@dataclass
class Loading:
    """What became of mail that was stored in a server to be moved from there."""

    server: str
    user: str
    names: list[str] = field(default_factory=list)
    """Of all messages, in the order in which they were to be stored."""
    uids: dict[int, str] = field(default_factory=dict)
    """The name of each message by its UID."""
    refused: dict[str, str] = field(default_factory=dict)
    """The words in which the server refused a message, by its name."""
    altered: dict[str, str] = field(default_factory=dict)
    """What the server made of a message while storing it, by its name."""


@dataclass
class Move:
    """What a move between two servers came to."""

    source: str
    target: str
    messages: int = 0
    outcomes: dict[str, frozenset[str]] = field(default_factory=dict)
    """By name: the differences between the message here and its copy there, or `issue: CAUSE`, or `missing`."""
    told: Counter[str] = field(default_factory=Counter)
    """The differences that the report tells after the move."""
    told_deep: Counter[str] = field(default_factory=Counter)
    """Those that verification of every message tells."""
    rows: dict[str, MessageAlteration] = field(default_factory=dict)
    """What the ledger tells of a message that was altered, by its name."""
    extra: int = 0
    """Messages at the target that stand for none of the source."""
    failure: str = ""

    @property
    def pair(self) -> str:
        return f"{self.source}-{self.target}"

    @property
    def found(self) -> Counter[str]:
        return Counter(name for outcome in self.outcomes.values() for name in outcome)

    @property
    def identical(self) -> int:
        return sum(not outcome for outcome in self.outcomes.values())

    @property
    def issues(self) -> Counter[str]:
        return Counter(
            {name.removeprefix("issue: "): n for name, n in self.found.items() if name.startswith("issue: ")}
        )

    @property
    def unexplained(self) -> int:
        """Differences that have no name but `content`, and refusals whose reason nobody knows."""
        return self.found["content"] + self.issues["unclassified"]

    @property
    def silent(self) -> int:
        """Differences, losses and doubles of which neither ledger nor report has a word."""
        differences = sum(max(0, self.found[name] - self.told[name]) for name in DIFFERENCES)
        return differences + self.found["missing"] + self.extra

    @property
    def misnamed(self) -> list[str]:
        """Messages of which the ledger tells other differences than there are, or none."""
        told = {name: frozenset(row.alterations.split(",")) for name, row in self.rows.items()}
        there = {n: frozenset(each for each in outcome if each in DIFFERENCES) for n, outcome in self.outcomes.items()}
        return sorted(name for name in there if told.get(name, frozenset()) != there[name])

    @property
    def false_alarms(self) -> int:
        """Differences that are told, and are none."""
        return sum(max(0, told - self.found[name]) for name, told in (self.told | self.told_deep).items())

    @property
    def is_right(self) -> bool:
        deep = all(self.told_deep[name] == self.found[name] for name in OF_THE_TEXT)
        wrong = self.unexplained or self.silent or self.false_alarms or self.misnamed or self.failure
        return not wrong and deep


def load(server: RealServer, hazards: Sequence[Hazard], user: str = "source") -> Loading:
    """Store messages in the INBOX of a new account, each by an APPEND of its own."""
    server.add_user(user, PASSWORD)
    loading = Loading(_kind(server), user, [hazard.name for hazard in hazards])
    outcomes = store_each(server, user, PASSWORD, [hazard.message for hazard in hazards])
    for hazard, outcome in zip(hazards, outcomes, strict=True):
        if isinstance(outcome, int):
            loading.uids[outcome] = hazard.name
        else:
            loading.refused[hazard.name] = outcome
    stored = inbox(server, user)
    raw = {hazard.name: hazard.raw for hazard in hazards}
    for uid, name in loading.uids.items():
        if change := difference(raw[name], stored[uid].raw):
            loading.altered[name] = change
    return loading


def move(
    source: RealServer,
    loading: Loading,
    target: RealServer,
    user: str,
    directory: Path,
    options: CopyOptions | None = None,
) -> Move:
    """Move the loaded mailbox into a new account of the target, and compare both."""
    target.add_user(user, PASSWORD)
    result = Move(loading.server, _kind(target))
    before = inbox(source, loading.user)
    engine = open_database(f"sqlite:///{directory / user}.sqlite")
    try:
        old, new = _account(source, loading.user), _account(target, user)
        ledger = _carried_out(engine, old, new, options or CopyOptions(), result)
        after = inbox(target, user)
        if inbox(source, loading.user) != before:
            result.failure += " the source is not what it was"
        _compare(ledger, loading, before, after, result)
    finally:
        engine.dispose()
    return result


def _carried_out(engine: Engine, old: Account, new: Account, options: CopyOptions, result: Move) -> Ledger:
    member = new_member(engine)
    token = take_lease(engine, member)
    ledger = Ledger(engine, member, token)
    try:
        copy_mailbox(old, new, ledger, options)
        for verdict in verify_mailbox(old, new, ledger, deep=True):
            result.told_deep.update(verdict.altered)
            if verdict.failure:
                result.failure += f" verification: {verdict.failure}"
    except Exception as error:  # noqa: BLE001  (a pair that fails is a line of the table)
        result.failure += f" {type(error).__name__}: {error}"
    finally:
        release_lease(engine, member, token)
    return ledger


def _compare(
    ledger: Ledger, loading: Loading, before: Mapping[int, Kept], after: Mapping[int, Kept], result: Move
) -> None:
    result.messages = len(before)
    claimed = set()
    for row in ledger.folders():
        if row.source_name != "INBOX":
            continue
        result.told.update(json.loads(row.altered))
        for batch in ledger.batches(row.id or 0):
            for entry in batch.entries:
                claimed.add(entry.target_uid)
                here, there = before[entry.source_uid], after.get(entry.target_uid)
                found = frozenset(differences(here, there)) if there else frozenset({"missing"})
                result.outcomes[loading.uids[entry.source_uid]] = found
        result.rows.update((loading.uids[uid], told) for uid, told in ledger.altered(row.id or 0).items())
        for uid, issue in ledger.issues(row.id or 0).items():
            result.outcomes[loading.uids[uid]] = frozenset({f"issue: {issue.cause}"})
    for uid in before:
        result.outcomes.setdefault(loading.uids[uid], frozenset({"missing"}))
    result.extra = len(after.keys() - claimed)


def differences(here: Kept, there: Kept) -> Iterator[str]:
    """What is different about a copy."""
    if change := difference(here.raw, there.raw):
        yield change
    if here.arrived != there.arrived:
        yield _date_difference(here.raw, there.arrived)
    lost = here.flags - there.flags
    if any(not flag.startswith("\\") for flag in lost):
        yield "keyword_dropped"
    if there.flags - here.flags or any(flag.startswith("\\") for flag in lost):
        yield "flags"


def _date_difference(raw: bytes, stored: datetime) -> str:
    """Where another date of arrival has come from: "date" when it is nowhere in the message."""
    fields = BytesHeaderParser().parsebytes(raw)
    for name, told in (("date_received", fields["Received"]), ("date_header", fields["Date"])):
        with suppress(ValueError, TypeError):
            if parsedate_to_datetime(str(told).rpartition(";")[2]) == stored:
                return name
    return "date"


def difference(here: bytes, there: bytes) -> str:
    """What is different about a text; "" for nothing. Written apart from the engine's own, octet by octet."""
    if here == there:
        return ""
    if re.sub(rb"[\r\n]+\Z", b"", here) == re.sub(rb"[\r\n]+\Z", b"", there):
        return "final_line_end"
    here, there = re.sub(rb"[\r\n]", b"", _marked(here)), re.sub(rb"[\r\n]", b"", _marked(there))
    if here == there:
        return "line_ends"
    if len(here) != len(there):
        return "content"
    end = here.find(_MARK)
    changes = set()
    for position, (old, new) in enumerate(zip_longest(here, there)):
        if old == new:
            continue
        if old == 0 and new == 0x80:
            changes.add("nul")
        elif old >= 0x80 and new == ord("X") and (end < 0 or position < end):
            changes.add("header_8bit")
        else:
            return "content"
    return max(changes, key=OF_THE_TEXT.index)


_MARK = b"<end of header>"


def _marked(raw: bytes) -> bytes:
    """With a mark at the first empty line, because the line ends are going to be taken out."""
    return _HEADER_END.sub(_MARK, raw, count=1)


def inbox(server: RealServer, user: str) -> dict[int, Kept]:
    """Every message of an account's INBOX by UID, read with the standard library.

    As RFC822, under EXAMINE so that nothing is marked: Courier cuts what it gives as BODY[] where there are many parts.
    """
    found: dict[int, Kept] = {}
    with imaplib.IMAP4(server.host, server.port, timeout=120) as connection:
        connection.authenticate("PLAIN", lambda _: f"\0{user}\0{PASSWORD}".encode())
        connection.select("INBOX", readonly=True)
        uids = connection.uid("SEARCH", "ALL")[1][0].split()
        for start in range(0, len(uids), FETCH_UIDS):
            asked = b",".join(uids[start : start + FETCH_UIDS]).decode()
            state, answers = connection.uid("FETCH", asked, "(UID FLAGS INTERNALDATE RFC822)")
            if state != "OK":
                raise AssertionError(f"{user}: {answers!r}")
            found.update(_kept(answers))
        if len(found) != len(uids):
            raise AssertionError(f"{user}: {len(uids)} UIDs, but {len(found)} messages came")
    return found


def _kept(answers: Sequence[Any]) -> Iterator[tuple[int, Kept]]:
    """Put together what imaplib cuts: (text before the literal, literal), then the text after it."""
    for position, answer in enumerate(answers):
        if isinstance(answer, tuple):
            after = answers[position + 1] if position + 1 < len(answers) else b""
            text = (answer[0] + (after if isinstance(after, bytes) else b"")).decode("ascii", "replace")
            uid = _UID.search(text)
            if uid:
                yield int(uid[1]), Kept(answer[1], arrival(text), flags_of(text))


def _account(server: RealServer, user: str) -> Account:
    return Account(Server(host=server.host, port=server.port, security="plain"), user, PASSWORD)


def _kind(server: RealServer) -> str:
    return type(server).__name__
