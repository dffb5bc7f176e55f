"""Turns what a server or the network answered into a cause. Pure; codes and words are rows of `answers.toml`.

The stage and the side come first, then the response code, then the words, then what the socket raised. Whoever knows
more answers adds rules of his own (`add_own_rules`), which come before all others.
"""

import ast
import difflib
import re
import socket
import ssl
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, get_args

from imapcopy.errors import Side
from imapcopy.pattern_trial import runaway
from imapcopy.waits import suggested_wait as suggested_wait
from models.bilingual import Text
from models.causes import causes

Stage = Literal[
    "connect", "greeting", "login", "id", "list", "select", "status", "fetch", "create", "append", "store", "move", ""
]
"""What was under way; "" where that is not known or does not matter."""
STAGES: tuple[Stage, ...] = get_args(Stage)
LONGEST_ANSWER = 500
"""Characters that are looked at: rules search, and a hostile server may send megabytes."""


@dataclass(frozen=True, slots=True)
class Rule:
    """Words, and what they mean."""

    id: str
    pattern: re.Pattern[str]
    cause: str
    stages: frozenset[str]
    """Where alone it holds; empty: everywhere."""
    seen: tuple[str, ...]
    hosts: re.Pattern[str] | None
    side: str
    samples: tuple[str, ...]
    sample_host: str
    unless: re.Pattern[str] | None = None
    """Words beside which it does not hold."""

    def knows(self, words: str) -> bool:
        return bool(self.pattern.search(words)) and not (self.unless and self.unless.search(words))

    def fits(self, stage: str, side: str, host: str) -> bool:
        return (
            (not self.stages or not stage or stage in self.stages)
            and (not self.side or self.side == side)
            and (self.hosts is None or bool(self.hosts.search(host)))
        )


@dataclass(frozen=True, slots=True)
class Code:
    """A response code, and what it means at a stage on a side."""

    code: str
    cause: str
    stages: frozenset[str]
    side: str
    words: frozenset[str]
    """The causes that the words beside it may mean instead."""

    def fits(self, stage: str, side: str) -> bool:
        return (not self.stages or stage in self.stages) and (not self.side or self.side == side)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A cause, and what told it: the id of a rule, a response code, `exception`; "" when nothing was known."""

    cause: str
    rule: str


class RuleError(ValueError):
    """A file of rules that cannot be used; `told` names row and field."""

    def __init__(self, told: Text) -> None:
        self.told = told
        super().__init__(told.en)


DEFAULT_CAUSES: dict[Stage, str] = {
    "connect": "connect_failed",
    "greeting": "connect_failed",
    "login": "ambiguous_login",
    "id": "unclassified",
    "list": "unclassified",
    "select": "mailbox_unavailable",
    "status": "unclassified",
    "fetch": "source_unreadable",
    "create": "folder_name_invalid",
    "append": "unclassified",
    "store": "unclassified",
    "move": "unclassified",
    "": "unclassified",
}
"""An answer without a telling text still means something by where it was given."""

_FLAGS = re.IGNORECASE | re.DOTALL
_own: tuple[Rule, ...] = ()


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((files("imapcopy") / "answers.toml").read_text(encoding="utf-8"))


@cache
def codes() -> Mapping[str, tuple[Code, ...]]:
    """The rows of every response code, in order."""
    found: dict[str, tuple[Code, ...]] = {}
    for row in _table()["code"]:
        code = Code(
            code=row["code"],
            cause=row["cause"],
            stages=frozenset(row.get("stages", ())),
            side=row.get("side", ""),
            words=frozenset(row.get("words", ())),
        )
        found[code.code] = (*found.get(code.code, ()), code)
    return found


@cache
def rules() -> tuple[Rule, ...]:
    """The rules of the program, in their order."""
    return read_rules(_table()["answer"])


def read_rules(rows: Iterable[Mapping[str, Any]]) -> tuple[Rule, ...]:
    """The rules of these rows; RuleError where a row says what no rule can say."""
    return tuple(_rule(number, row) for number, row in enumerate(rows, 1))


def read_own_rules(text: str) -> tuple[Rule, ...]:
    """The rules of an admin's file, in the form of `answers.toml`; RuleError where it cannot be used."""
    try:
        rows = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise RuleError(Text(f"不是 TOML：{error}", f"not TOML: {error}")) from None
    answers = rows.pop("answer", [])
    if rows or not isinstance(answers, list) or not all(isinstance(row, dict) for row in answers):
        raise RuleError(Text("只能有 [[answer]] 表", "only [[answer]] tables are known"))
    found = read_rules(answers)
    patterns = [part.pattern for rule in found for part in (rule.pattern, rule.hosts, rule.unless) if part]
    if patterns and (endless := runaway(patterns)) is not None:
        said = patterns[endless]
        zh = f"正则表达式可能没完没了：{said}；请用固定文字，少用 * 和 +"
        raise RuleError(Text(zh, f"the regular expression may never end: {said}; use plain words, and few * and +"))
    return found


def add_own_rules(own: Iterable[Rule]) -> None:
    """From here on these rules of an admin come before all others in this process."""
    global _own
    _own = tuple(own)
    _in_order.cache_clear()


@cache
def _in_order() -> tuple[Rule, ...]:
    return (*_own, *sorted(rules(), key=lambda rule: rule.hosts is None))


def classify(text: str, *, stage: Stage, side: Side, host: str) -> str:
    """The cause of an answer; the stage's default when no rule knows the text."""
    return judge(text, stage=stage, side=side, host=host).cause


def judge(text: str, *, stage: Stage, side: Side, host: str) -> Verdict:
    """The cause of an answer, and what told it."""
    text = text[:LONGEST_ANSWER]
    line = unwrapped(text)
    said = [rule for rule in _in_order() if rule.fits(stage, side, host)]
    for code in response_codes(line):
        row = next((row for row in codes().get(code, ()) if row.fits(stage, side)), None)
        if row:
            # A rule that the code alone satisfies says nothing about the words.
            allowed = [
                rule
                for rule in said
                if rule in _own or (rule.cause in {row.cause, *row.words} and not rule.knows(f"NO [{code}]"))
            ]
            return _by_words(allowed, text, line) or Verdict(row.cause, f"[{code}]")
    return _by_words(said, text, line) or Verdict(DEFAULT_CAUSES[stage], "")


def _by_words(allowed: Iterable[Rule], text: str, line: str) -> Verdict | None:
    for rule in allowed:
        if rule.knows(line) or (text != line and rule.knows(text)):
            return Verdict(rule.cause, rule.id)
    return None


def judge_exception(error: BaseException, *, stage: Stage, side: Side, host: str) -> Verdict:
    """The cause of what a socket or TLS raised."""
    # A host name that cannot even be asked for (an empty or endless label) is a UnicodeError.
    if isinstance(error, (socket.gaierror, UnicodeError)):
        found = "dns_error"
    elif isinstance(error, ssl.SSLCertVerificationError):
        found = "tls_cert"
    elif isinstance(error, TimeoutError):
        found = "connect_failed" if stage == "connect" else "timeout"
    elif isinstance(error, ConnectionRefusedError):
        found = "connect_failed"
    elif isinstance(error, ssl.SSLError):
        told = judge(str(error), stage="connect", side=side, host=host)
        return told if told.rule else Verdict("tls_protocol", "exception")
    else:
        found = "connect_failed" if stage == "connect" and isinstance(error, OSError) else "connection_dropped"
    return Verdict(found, "exception")


def classify_exception(error: BaseException, *, stage: Stage, side: Side, host: str) -> str:
    """The cause of what a socket or TLS raised."""
    return judge_exception(error, stage=stage, side=side, host=host).cause


# What stands around a server's words.

_PREFIX = re.compile(r"(?:\* |\+ )?(?:[A-Za-z0-9.]{1,20} )?(?:OK|NO|BAD|BYE|PREAUTH)\b:? ?", re.IGNORECASE)
_CODE = re.compile(r"\s*\[([A-Za-z][A-Za-z0-9/-]*)(?: [^\]]*)?\]")
_IN_WORDS = re.compile(
    r"^(?:\w+ command error: (?P<bad>BAD|NO|OK) |command: \w+ => |.{0,60}unexpected response: )(?P<rest>.*)$", re.DOTALL
)
_OCTETS = re.compile(r"b(?P<quote>['\"])(?P<inside>.*)(?P=quote)", re.DOTALL)


def response_codes(line: str) -> list[str]:
    """The response codes that an answer begins with (RFC 9051 section 7.1); several, where a proxy adds its own."""
    prefix = _PREFIX.match(line)
    at = prefix.end() if prefix else 0
    found = []
    while match := _CODE.match(line, at):
        found.append(match[1].upper())
        at = match.end()
    return found


def unwrapped(text: str) -> str:
    """A server's line out of what imaplib makes of it, on Python 3.11 to 3.14.

    `LOGIN command error: BAD [b'...']`, `command: LOGIN => ...`, `... unexpected response: b'...'`, `b'...'`; what is
    none of these is returned as it is.
    """
    said = _IN_WORDS.match(text)
    rest = said["rest"] if said else text
    octets = _OCTETS.search(rest)
    if octets and (said or rest.startswith(("b'", 'b"', "[b'", '[b"'))):
        try:
            value = ast.literal_eval(octets[0])
            rest = value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else octets["inside"]
        except (SyntaxError, ValueError):
            rest = octets["inside"]
    elif said and said["bad"]:
        rest = rest.removeprefix("[").removesuffix("]").strip("'\"") if rest.startswith(("['", '["')) else rest
    return f"{said['bad']} {rest}" if said and said["bad"] else rest


# One row of a table.

_FIELDS = {"id", "regex", "cause", "stages", "seen", "hosts", "side", "samples", "sample_host", "unless"}


def _rule(number: int, row: Mapping[str, Any]) -> Rule:
    name = row.get("id")
    named = f" ({name})" if isinstance(name, str) else ""

    def wrong(field: str, zh: str, en: str) -> RuleError:
        return RuleError(Text(f"第 {number} 条{named}，{field}：{zh}", f"answer {number}{named}, {field}: {en}"))

    def text(field: str, default: str | None = None) -> str:
        value = row.get(field, default)
        if value is None:
            raise wrong(field, "缺少", "missing")
        if not isinstance(value, str):
            raise wrong(field, "不是文字", "not a text")
        return value

    def texts(field: str) -> tuple[str, ...]:
        value = row.get(field, [])
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise wrong(field, "不是文字的列表", "not a list of texts")
        return tuple(value)

    def pattern(field: str) -> re.Pattern[str]:
        given = texts(field) if isinstance(row.get(field), list) else [text(field)]
        try:
            return re.compile("|".join(given), _FLAGS)
        except re.error as error:
            raise wrong(field, f"正则表达式有误：{error}", str(error)) from None

    def one_of(field: str, value: str, known: Iterable[str]) -> str:
        names = [each for each in known if each]
        if value not in names:
            near = difflib.get_close_matches(value, names, 3, 0.5) or names
            raise wrong(field, f"没有 {value!r}，可用：{' '.join(near)}", f"{value!r} is none of {' '.join(near)}")
        return value

    for field in row:
        if field not in _FIELDS:
            raise wrong(field, "没有这一项", "not known")
    stages, seen = texts("stages"), texts("seen")
    for field, some in (("stages", stages), ("seen", seen)):
        for stage in some:
            one_of(field, stage, STAGES)
    return Rule(
        id=text("id"),
        pattern=pattern("regex"),
        cause=one_of("cause", text("cause"), causes()),
        stages=frozenset(stages),
        seen=seen or stages,
        hosts=pattern("hosts") if "hosts" in row else None,
        side=one_of("side", text("side"), get_args(Side)) if "side" in row else "",
        samples=texts("samples"),
        sample_host=text("sample_host", ""),
        unless=pattern("unless") if "unless" in row else None,
    )
