"""What is in a mailbox, read independently of the program under test: the standard library's IMAP and our own decoding.

Reads with EXAMINE and BODY.PEEK[], so that looking changes nothing.
"""

import base64
import hashlib
import imaplib
import re
import ssl
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, NamedTuple, Protocol

from tests.servers.loopback import DEADLINE

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_LIST = re.compile(rb'\((?P<attributes>[^)]*)\) (?:"(?P<separator>\\?.)"|NIL) ?(?P<name>.*)', re.DOTALL)
_DATE = re.compile(r'INTERNALDATE "([ \d]\d)-(\w{3})-(\d{4}) (\d\d):(\d\d):(\d\d) ([+-])(\d\d)(\d\d)"')
_FLAGS = re.compile(r"FLAGS \(([^)]*)\)")
_UID = re.compile(r"UID (\d+)")


class Mail(NamedTuple):
    """One message as two servers can be compared by it."""

    folder: str
    sha256: str
    arrived: datetime
    flags: frozenset[str]


class Account(Protocol):
    """A server with accounts, such as `tests.servers.dovecot.Dovecot`."""

    @property
    def host(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def users(self) -> Mapping[str, "HasPassword"]: ...


class HasPassword(Protocol):
    @property
    def password(self) -> str: ...


def mail_of(server: Account, user: str) -> Counter[Mail]:
    """Read every message of a user of one of our own servers."""
    return mailbox_multiset(server.host, server.port, user, server.users[user].password)


def mailbox_multiset(
    host: str, port: int, user: str, password: str, *, tls: ssl.SSLContext | None = None, at_once: int = 200
) -> Counter[Mail]:
    """Read every message of an account; equal messages count as often as they are there. `\\Recent` is left out."""
    found: Counter[Mail] = Counter()
    with _connected(host, port, tls) as connection:
        connection.authenticate("PLAIN", lambda _: f"\0{user}\0{password}".encode())
        for name in _folders(connection):
            _ok(connection.select(_quoted(name), readonly=True))
            uids = _ok(connection.uid("SEARCH", "ALL"))[0].split()
            seen = 0
            for some in _pieces(uids, at_once):
                asked = b",".join(some).decode()
                answers = _ok(connection.uid("FETCH", asked, "(UID FLAGS INTERNALDATE BODY.PEEK[])"))
                for mail in _mails(decode_folder(name), answers):
                    found[mail] += 1
                    seen += 1
            if seen != len(uids):
                raise AssertionError(f"{user}, {decode_folder(name)}: {len(uids)} UIDs, but {seen} messages came")
    return found


class Numbering(NamedTuple):
    """What a server says of a folder's numbers."""

    uidvalidity: int
    uidnext: int
    uids: tuple[int, ...]


def numbering_of(server: Account, user: str) -> dict[str, Numbering]:
    """The UIDs of each folder of a user of one of our own servers."""
    found = {}
    with _connected(server.host, server.port, None) as connection:
        connection.authenticate("PLAIN", lambda _: f"\0{user}\0{server.users[user].password}".encode())
        for name in _folders(connection):
            _ok(connection.select(_quoted(name), readonly=True))
            numbers = [int(connection.response(what)[1][0]) for what in ("UIDVALIDITY", "UIDNEXT")]
            uids = tuple(int(uid) for uid in _ok(connection.uid("SEARCH", "ALL"))[0].split())
            found[decode_folder(name)] = Numbering(*numbers, uids)
    return found


@contextmanager
def _connected(host: str, port: int, tls: ssl.SSLContext | None) -> Iterator[imaplib.IMAP4]:
    if tls:
        connection: imaplib.IMAP4 = imaplib.IMAP4_SSL(host, port, ssl_context=tls, timeout=DEADLINE)
    else:
        connection = imaplib.IMAP4(host, port, timeout=DEADLINE)
    try:
        yield connection
        connection.logout()
    finally:
        # After an error imaplib leaves its socket open; after a logout there is none.
        with suppress(OSError):
            connection.shutdown()


def _ok(answer: tuple[str, list[Any]]) -> list[Any]:
    state, data = answer
    if state != "OK":
        raise AssertionError(f"{state}: {data}")
    return data


def _folders(connection: imaplib.IMAP4) -> Iterator[bytes]:
    """Names, as the server writes them, of all folders that can hold mail."""
    for entry in _ok(connection.list('""', "*")):
        if entry is None:
            continue
        # A name that the server sends as a literal comes as a pair.
        line, literal = entry if isinstance(entry, tuple) else (entry, None)
        parts = _LIST.match(line)
        if parts is None:
            if entry == b"":
                continue
            raise AssertionError(f"LIST: {line!r}")
        attributes = parts["attributes"].lower().split()
        if rb"\noselect" in attributes or rb"\nonexistent" in attributes:
            continue
        yield literal if literal is not None else _unquoted(parts["name"])


def _mails(folder: str, answers: Sequence[object]) -> Iterator[Mail]:
    """Put together what imaplib cuts: (text before the literal, literal), then the text after it."""
    for position, answer in enumerate(answers):
        if not isinstance(answer, tuple):
            continue
        before, raw = answer
        after = answers[position + 1] if position + 1 < len(answers) else b""
        text = (before + (after if isinstance(after, bytes) else b"")).decode("ascii", "replace")
        if not _FLAGS.search(text) or not _UID.search(text):
            continue  # an unsolicited answer
        yield Mail(folder, hashlib.sha256(raw).hexdigest(), arrival(text), flags_of(text))


def flags_of(text: str) -> frozenset[str]:
    """The flags in the text of a FETCH, without `\\Recent`."""
    flags = _FLAGS.search(text)
    if flags is None:
        raise AssertionError(f"no FLAGS in {text!r}")
    return frozenset(_flag(flag) for flag in flags[1].split()) - {r"\recent"}


def _flag(flag: str) -> str:
    # System flags are written in any case; for keywords the case is kept as it was given.
    return flag.lower() if flag.startswith("\\") else flag


def arrival(text: str) -> datetime:
    """The instant of INTERNALDATE: servers may write it in another zone than they were told."""
    parts = _DATE.search(text)
    if parts is None:
        raise AssertionError(f"no INTERNALDATE in {text!r}")
    day, month, year, hour, minute, second, sign, zone_hours, zone_minutes = parts.groups()
    offset = timedelta(hours=int(zone_hours), minutes=int(zone_minutes))
    zone = timezone(-offset if sign == "-" else offset)
    moment = datetime(int(year), _MONTHS.index(month) + 1, int(day), int(hour), int(minute), int(second), tzinfo=zone)
    return moment.astimezone(UTC)


def decode_folder(name: bytes) -> str:
    """Decode modified UTF-7 (RFC 3501, 5.1.3)."""

    def run(match: re.Match[bytes]) -> bytes:
        letters = match[1].replace(b",", b"/")
        if not letters:
            return b"&"
        return base64.b64decode(letters + b"=" * (-len(letters) % 4)).decode("utf-16-be").encode()

    return re.sub(rb"&([A-Za-z0-9+,]*)-", run, name).decode()


def _quoted(name: bytes) -> str:
    return '"' + name.replace(b"\\", rb"\\").replace(b'"', rb"\"").decode("ascii") + '"'


def _unquoted(name: bytes) -> bytes:
    return re.sub(rb"\\(.)", rb"\1", name[1:-1]) if name.startswith(b'"') else name


def _pieces(uids: list[bytes], size: int) -> Iterator[list[bytes]]:
    for start in range(0, len(uids), size):
        yield uids[start : start + size]


def assert_same_mail(source: Counter[Mail], target: Counter[Mail], who: str = "mailbox", show: int = 5) -> None:
    """Fail with the first few differences, named as an admin would name them."""
    differences = list(differences_between(source, target))
    if differences:
        more = f"\n  ... and {len(differences) - show} more" if len(differences) > show else ""
        raise AssertionError(
            f"{who}: {source.total()} messages at the source, {target.total()} at the target, "
            f"{len(differences)} differences:\n  " + "\n  ".join(differences[:show]) + more
        )


def differences_between(source: Counter[Mail], target: Counter[Mail]) -> Iterator[str]:
    """Say what is missing, extra, or arrived with other flags, another date or in another folder."""
    extra: defaultdict[str, list[Mail]] = defaultdict(list)
    for mail in (target - source).elements():
        extra[mail.sha256].append(mail)
    for mail in sorted((source - target).elements(), key=_order):
        others = sorted(extra[mail.sha256], key=lambda other: (other.folder != mail.folder, _order(other)))
        if not others:
            yield f"missing in {mail.folder}: {_short(mail)}"
            continue
        other = others[0]
        extra[mail.sha256].remove(other)
        changes = []
        if other.folder != mail.folder:
            changes.append(f"is in {other.folder}")
        if other.arrived != mail.arrived:
            changes.append(f"arrived {other.arrived:%Y-%m-%d %H:%M:%S}")
        if other.flags != mail.flags:
            changes.append(f"has flags {_shown(other.flags)}")
        yield f"changed in {mail.folder}: {_short(mail)} {', '.join(changes)}"
    for mail in sorted((mail for mails in extra.values() for mail in mails), key=_order):
        kind = "twice" if source[mail] else "extra"
        yield f"{kind} in {mail.folder}: {_short(mail)}"


def _order(mail: Mail) -> tuple[str, datetime, str, list[str]]:
    return mail.folder, mail.arrived, mail.sha256, sorted(mail.flags)


def _short(mail: Mail) -> str:
    return f"{mail.sha256[:12]} of {mail.arrived:%Y-%m-%d %H:%M:%S} {_shown(mail.flags)}"


def _shown(flags: frozenset[str]) -> str:
    return "(" + " ".join(sorted(flags)) + ")"
