"""Answers that no rule knows, of members and of single messages: grouped, and as rules to begin with. Pure.

What is shown holds no name, address or number of a member: an admin can send it on, and the table of answers can grow.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from models.causes import causes
from models.server_words import KnownBy, normalised, pattern_of
from reports.check import CheckedMember
from reports.summary import MemberSummary, WaveSummary


@dataclass(frozen=True, slots=True)
class UnknownAnswer:
    """One answer, with how many members and messages had it."""

    line: str
    stage: str
    side: str
    host: str
    cause: str
    """What it is taken for meanwhile, by its stage."""
    members: int
    count: int
    """How often it was given: once for each member's failure, once for each message."""


@dataclass(slots=True)
class _Found:
    members: set[int] = field(default_factory=set)
    count: int = 0


@dataclass(frozen=True, slots=True)
class _Answer:
    """What one member was answered."""

    known_by: KnownBy | None
    side: str
    cause: str
    text: str
    where: str = ""


def unknown_answers(summary: WaveSummary) -> tuple[UnknownAnswer, ...]:
    """The answers that nothing knew, the most frequent first."""
    found: dict[tuple[str, str, str, str, str], _Found] = {}
    checks = {check.id: check for check in summary.checks}
    for member in summary.members:
        names = _names(member)
        for answer in (*_of_the_member(member, checks.get(member.id)), *_of_messages(member)):
            known_by, side = answer.known_by, answer.side
            if known_by is None or known_by.is_known or not answer.text:
                continue
            host = {"source": member.source_host, "target": member.target_host}.get(side, "")
            line = normalised(answer.text, (*names, host, *_folder_names(answer.where)))
            each = found.setdefault((line, known_by.stage, side, host, answer.cause), _Found())
            each.members.add(member.id)
            each.count += 1
    made = (UnknownAnswer(*key, members=len(each.members), count=each.count) for key, each in found.items())
    return tuple(sorted(made, key=lambda answer: (-answer.count, answer.line, answer.stage, answer.host)))


def _of_the_member(member: MemberSummary, check: CheckedMember | None) -> Iterator[_Answer]:
    """What its last try was answered, or its last check: one says again what the other was told."""
    cause = member.cause.id if member.cause else ""
    yield _Answer(member.known_by, member.cause_side, cause, member.server_text)
    for each in check.findings if check else ():
        if (each.name, each.side, each.server_text) != (cause, member.cause_side, member.server_text):
            # Where it is no cause, the answer was about a folder.
            taken_for = each.name if each.name in causes() else "unclassified"
            yield _Answer(KnownBy.read(each.known_by), each.side, taken_for, each.server_text, each.where)


def _of_messages(member: MemberSummary) -> Iterator[_Answer]:
    return (_Answer(i.known_by, _side(i.known_by), i.cause.id, i.server_text) for i in member.issues)


def _side(known_by: KnownBy | None) -> str:
    return "source" if known_by and known_by.stage == "fetch" else "target"


def _names(member: MemberSummary) -> tuple[str, ...]:
    """What an answer may quote of a member."""
    people = (member.email, member.source_user, member.target_user, member.display_name, member.department)
    local = (each.partition("@")[0] for each in people[:3])
    folders = (name for each in member.folders for name in (each.source_name, each.target_name))
    return (*(name for name in (*people, *local) if name), *_folder_names(*folders))


def _folder_names(*names: str) -> tuple[str, ...]:
    return tuple(name for name in names if name and name.upper() != "INBOX")


def unknown_document(answers: Iterable[UnknownAnswer]) -> list[dict[str, Any]]:
    """The same as plain values, ready for JSON."""
    return [
        {
            "answer": each.line,
            "stage": each.stage,
            "side": each.side,
            "host": each.host,
            "taken_for": each.cause,
            "members": each.members,
            "count": each.count,
            "rule": rule_of(each),
        }
        for each in answers
    ]


def rule_of(answer: UnknownAnswer) -> dict[str, Any]:
    """A rule for the answer, as a row of answers.toml; its cause is to be chosen by whoever knows better."""
    rule: dict[str, Any] = {
        "id": f"own-{sha256(answer.line.encode()).hexdigest()[:8]}",
        "regex": pattern_of(answer.line),
        "cause": answer.cause or "unclassified",
    }
    if answer.stage:
        rule["stages"] = [answer.stage]
    return {**rule, "samples": [answer.line]}


def rules_text(answers: Iterable[UnknownAnswer]) -> str:
    """The rules as a file that the setting `answers` takes."""
    blocks = []
    for each in answers:
        where = " ".join(part for part in (each.side, each.host) if part)
        lines = [f"# {each.count} x, {each.members} members{f', {where}' if where else ''}", "[[answer]]"]
        # A JSON string or list of strings is one of TOML, too.
        lines += [f"{name} = {_toml(value)}" for name, value in rule_of(each).items()]
        blocks.append("\n".join(lines) + "\n")
    return "\n".join(blocks)


def _toml(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
