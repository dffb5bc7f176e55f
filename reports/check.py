"""What the checks of a wave say: who can be moved, who needs somebody first, and what they have in common. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from models.bilingual import Text
from models.causes import OWNERS, Owner, causes
from models.check import Finding, Kind, Look, Severity, kind
from models.hints import Hint
from models.providers import ANYBODY, provider_named
from models.receive_range import LimitedRange
from models.states import FINAL, MOVED, MemberState
from reports.steps import Cure, cures_document, cures_of, hints_of
from reports.texts import Count, human_bytes, sentence

_SIZES = {"need", "free", "used", "limit", "largest"}
"""Values of findings that are octets."""
_ORDER = list(Severity)
_TURNS: list[Owner] = ["admin", "member", "provider", "support", "nobody"]
SERVER_CAUSES = frozenset(
    {
        "dns_error",
        "connect_failed",
        "tls_cert",
        "tls_protocol",
        "wrong_port",
        "ip_denied",
        "clear_text_refused",
        "address_refused",
    }
)
"""Failures of a whole server."""


@dataclass(frozen=True, slots=True)
class CheckedMember:
    """A member that has not been moved yet, as its last check saw it."""

    id: int
    email: str
    state: MemberState
    source_host: str
    target_host: str
    look: Look | None
    """None when no check has come that far."""
    at: datetime | None
    findings: tuple[Finding, ...]
    source_provider: str = ""
    target_provider: str = ""

    @property
    def ready(self) -> bool:
        return not any(found.severity == Severity.BLOCKS for found in self.findings)

    @property
    def clear(self) -> bool:
        """Nobody has to do anything, and nothing stays behind."""
        return all(found.severity == Severity.TELLS for found in self.findings)

    @property
    def told(self) -> list[Finding]:
        """What is worth a line of its own: what a server does to everybody's mail is told once for all."""
        return [f for f in self.findings if f.severity != Severity.TELLS or detail(f)]

    def beside(self, name: str, side: str) -> list[Finding]:
        """What else blocks the member."""
        return [f for f in self.findings if f.severity == Severity.BLOCKS and (f.name, f.side) != (name, side)]

    def steps_against(self, found: Finding) -> tuple[Text, ...]:
        """What is to be clicked at the service of the finding's side; nothing where the finding is no cause."""
        cause = causes().get(found.name)
        return provider_named(self.provider(found.side) or ANYBODY).steps_for(cause.step) if cause else ()

    def provider(self, side: str) -> str:
        return self.target_provider if side == "target" else self.source_provider

    @property
    def weight(self) -> int:
        """0 for a member that needs somebody first, then those that lose something, then the rest."""
        return min((_ORDER.index(found.severity) for found in self.findings), default=len(_ORDER))


@dataclass(frozen=True, slots=True)
class FindingGroup:
    """Members with the same finding on the same side."""

    name: str
    side: str
    severity: Severity
    members: tuple[CheckedMember, ...]

    @property
    def kind(self) -> Kind:
        return kind(self.name, self.side)

    @property
    def server_text(self) -> str:
        """What servers said to all of them; "" where they said different things."""
        said = {found.server_text for _, found in self.told}
        return said.pop() if len(said) == 1 else ""

    @property
    def by_a_server(self) -> bool:
        """Whether a server said that, and not this computer's network."""
        return any(found.known_by for _, found in self.told)

    @property
    def hints(self) -> tuple[tuple[Text, tuple[CheckedMember, ...]], ...]:
        """What probably lies behind it, with the members of whom it is thought."""
        return hints_of((member, each.hint) for member, each in self.told)

    @property
    def cures(self) -> tuple[Cure[CheckedMember], ...]:
        """What members of each provider click against it; nothing where the finding is no cause."""
        found = causes().get(self.name)
        if found is None:
            return ()
        return cures_of(
            found, ((member, provider_named(member.provider(self.side) or ANYBODY)) for member in self.members)
        )

    @property
    def told(self) -> tuple[tuple[CheckedMember, Finding], ...]:
        """Each member with its own finding."""
        own = ((m, f) for m in self.members for f in m.findings if (f.name, f.side) == (self.name, self.side))
        return tuple(own)


def with_findings(
    look: Look | None,
    state: MemberState,
    failed: Finding | None,
    limited: LimitedRange | None,
    apart: Finding | None = None,
) -> tuple[Finding, ...]:
    """The findings of the last check, and what the member's row knows beside: it says so when there was no check."""
    found = list(look.findings) if look else []
    if failed and all((each.name, each.side) != (failed.name, failed.side) for each in found):
        found.insert(0, failed)
    if limited and look:
        found.append(Finding("receive_range", Severity.WARNS, "source"))
    if not found and (look is None or state in {MemberState.CHECKING, MemberState.AWAITING_PASSWORD}):
        found.append(Finding("not_checked", Severity.BLOCKS))
    if apart:
        found.append(apart)
    return tuple(sorted(found, key=lambda each: _ORDER.index(each.severity)))


def is_checked(state: MemberState) -> bool:
    """Whether a check looks at members of that state: who has been moved needs none."""
    return state not in MOVED | FINAL


def in_order(members: Iterable[CheckedMember]) -> list[CheckedMember]:
    """Who needs somebody first, then by the roster."""
    return sorted(members, key=lambda member: member.weight)


def groups(members: Iterable[CheckedMember]) -> list[FindingGroup]:
    """Findings with their members: the gravest first, then what the admin does, then what most members have."""
    found: dict[tuple[str, str, Severity], list[CheckedMember]] = {}
    for member in members:
        for each in member.findings:
            some = found.setdefault((each.name, each.side, each.severity), [])
            if not some or some[-1] is not member:
                some.append(member)
    made = [FindingGroup(*key, tuple(some)) for key, some in found.items()]
    return sorted(made, key=lambda g: (_ORDER.index(g.severity), _TURNS.index(g.kind.owner), -len(g.members)))


def result(members: Sequence[CheckedMember]) -> Text:
    """One sentence."""
    ready = sum(member.ready for member in members)
    if not members:
        return sentence("check_empty")
    if ready == len(members):
        return sentence("check_all_ready", all=len(members))
    return sentence("check_some_ready", all=len(members), ready=ready, rest=len(members) - ready)


def detail(found: Finding) -> Text | None:
    """The finding's numbers in words, or where it was."""
    template = found.kind.detail
    if template is None or ("{where}" in template.zh and not found.where):
        return None
    return template.format(
        where=found.where,
        **{name: human_bytes(value) if name in _SIZES else Count(value) for name, value in found.values.items()},
    )


def sentence_of(found: Finding) -> Text:
    """Title and numbers, as they stand in a row."""
    title, told = found.kind.title, detail(found)
    colon = sentence("colon")
    if told is None:
        return title
    return Text(f"{title.zh}{colon.zh}{told.zh}", f"{title.en}{colon.en}{told.en}")


def unreachable(members: Sequence[CheckedMember]) -> bool:
    """Whether a server that every one of several members needs cannot be reached."""
    if len(members) < 2:
        return False
    hosts = {"source": lambda m: m.source_host, "target": lambda m: m.target_host}
    per_member = [
        {(f.side, hosts[f.side](member)) for f in member.findings if f.name in SERVER_CAUSES and f.side in hosts}
        for member in members
    ]
    return bool(set.intersection(*per_member))


def totals(members: Iterable[CheckedMember]) -> tuple[int, int, int]:
    """Folders, messages and octets of all."""
    looks = [member.look for member in members if member.look]
    return sum(e.folders for e in looks), sum(e.messages for e in looks), sum(e.bytes for e in looks)


def check_document(members: Sequence[CheckedMember]) -> dict[str, Any]:
    """Everything as plain values, ready for JSON."""
    folders, messages, octets = totals(members)
    return {
        "result": result(members).as_dict(),
        "ready": sum(member.ready for member in members),
        "not_ready": sum(not member.ready for member in members),
        "folders": folders,
        "messages": messages,
        "bytes": octets,
        "findings": [
            {
                "finding": group.name,
                "side": group.side or None,
                "severity": group.severity.value,
                "owner": group.kind.owner,
                "turn": OWNERS[group.kind.owner].as_dict(),
                "title": group.kind.title.as_dict(),
                "advice": group.kind.advice.as_dict(),
                "cures": cures_document(group.cures),
                "members": [member.email for member in group.members],
            }
            for group in groups(members)
        ],
        "members": [_document(member) for member in in_order(members)],
    }


def _document(member: CheckedMember) -> dict[str, Any]:
    look = member.look or Look()
    return {
        "email": member.email,
        "ready": member.ready,
        "state": member.state.value,
        "checked_at": _time(member.at),
        "source_host": member.source_host,
        "source_provider": member.source_provider or None,
        "target_host": member.target_host,
        "target_provider": member.target_provider or None,
        "folders": look.folders,
        "messages": look.messages,
        "bytes": look.bytes,
        "largest": look.largest,
        "oldest": _time(look.oldest),
        "newest": _time(look.newest),
        "size_limit": look.limit,
        "size_limit_of": look.limit_of or None,
        "too_large": look.too_large,
        "at_target": look.there,
        "source_quota": _quota(look.source_quota),
        "target_quota": _quota(look.target_quota),
        "findings": [_finding(found) for found in member.findings],
    }


def _finding(found: Finding) -> dict[str, Any]:
    told = detail(found)
    return {
        "finding": found.name,
        "side": found.side or None,
        "severity": found.severity.value,
        "owner": found.kind.owner,
        "values": dict(found.values),
        "title": found.kind.title.as_dict(),
        "detail": told.as_dict() if told else None,
        "advice": found.kind.advice.as_dict(),
        "server_text": found.server_text or None,
        "hint": hint_document(found.hint),
    }


def hint_document(hint: Hint | None) -> dict[str, Any] | None:
    """What probably lies behind a failure, as plain values."""
    if hint is None:
        return None
    words = hint.text.as_dict() if hint.text else {}
    return {"kind": hint.kind, **{str(language): said for language, said in words.items()}}


def _quota(quota: tuple[int, int] | None) -> Mapping[str, int] | None:
    return {"used": quota[0], "allowed": quota[1]} if quota else None


def _time(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None
