"""Answers that no rule knows, of members and of single messages: grouped, and as rules to begin with. Pure.

What is shown holds no name, address or number of a member: an admin can send it on, and the table of answers can grow.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from models.server_words import KnownBy, normalised, pattern_of
from reports.summary import MemberSummary


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


def unknown_answers(members: Iterable[MemberSummary]) -> tuple[UnknownAnswer, ...]:
    """The answers that nothing knew, the most frequent first."""
    found: dict[tuple[str, str, str, str, str], _Found] = {}
    for member in members:
        names = _names(member)
        own = [(member.known_by, member.cause_side, member.cause.id if member.cause else "", member.server_text)]
        of_messages = [(i.known_by, _side(i.known_by), i.cause.id, i.server_text) for i in member.issues]
        for known_by, side, cause, text in own + of_messages:
            if known_by is None or known_by.is_known or not text:
                continue
            host = {"source": member.source_host, "target": member.target_host}.get(side, "")
            key = (normalised(text, (*names, host)), known_by.stage, side, host, cause)
            each = found.setdefault(key, _Found())
            each.members.add(member.id)
            each.count += 1
    made = (UnknownAnswer(*key, members=len(each.members), count=each.count) for key, each in found.items())
    return tuple(sorted(made, key=lambda answer: (-answer.count, answer.line, answer.stage, answer.host)))


def _side(known_by: KnownBy | None) -> str:
    return "source" if known_by and known_by.stage == "fetch" else "target"


def _names(member: MemberSummary) -> tuple[str, ...]:
    """What an answer may quote of a member."""
    people = (member.email, member.source_user, member.target_user, member.display_name, member.department)
    local = (each.partition("@")[0] for each in people[:3])
    folders = (name for each in member.folders for name in (each.source_name, each.target_name))
    return tuple(name for name in (*people, *local, *folders) if name and name.upper() != "INBOX")


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
