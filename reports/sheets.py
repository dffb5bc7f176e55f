"""The sheets that prepare a move: what admins see to, and what each member clicks, from the table of providers.

One sheet is for the admins of a wave; of the members' there is one for each service that the wave leaves.
"""

import tomllib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from zoneinfo import ZoneInfo

from models.bilingual import LANGUAGES, Language, Text
from models.providers import ANYBODY, STEPS, Provider, provider_named
from models.states import MemberState
from reports.notices import Section
from reports.render import rendered, replace_file
from reports.summary import MemberSummary
from reports.texts import Count, Wording, visible

CHECKLIST = (
    *("check_mailboxes", "check_clients", "check_secrets", "check_source", "check_retention"),
    *("check_members", "check_room", "check_pilot", "check_mx"),
)
NOT_IN_ADVANCE = frozenset({"web_login"})
"""Steps that are taken once a server has asked for them."""


@cache
def sheet_texts() -> dict[str, Text]:
    """Every sentence of the sheets by its name."""
    rows = tomllib.loads((files("reports") / "sheets.toml").read_text(encoding="utf-8"))
    return {name: Text(**row) for name, row in rows.items()}


@dataclass(frozen=True, slots=True)
class Sheet:
    """One sheet in one language; `name` is its files' name without language and ending."""

    name: str
    language: Language
    title: str
    heading: str
    lead: str
    sections: tuple[Section, ...]


@dataclass(frozen=True, slots=True)
class Route:
    """So many members go from one provider to another one."""

    source: Provider
    target: Provider
    members: int


def routes(members: Iterable[MemberSummary]) -> tuple[Route, ...]:
    """The ways that a wave's members go, the commonest first."""
    found = Counter(
        (member.source_provider or ANYBODY, member.target_provider or ANYBODY)
        for member in members
        if member.state != MemberState.REMOVED
    )
    ordered = sorted(found.items(), key=lambda item: (-item[1], item[0]))
    return tuple(Route(provider_named(source), provider_named(target), count) for (source, target), count in ordered)


def sheets(wave: str, ways: Sequence[Route], language: Language) -> tuple[Sheet, ...]:
    """All sheets of a wave: the admins', then one for each way."""
    return (_admin_sheet(wave, ways, language), *(_member_sheet(wave, way, ways, language) for way in ways))


def write_sheets(wave: str, members: Iterable[MemberSummary], directory: Path) -> list[Path]:
    """Write a wave's sheets as pages and as texts, in both languages; returns the files, the admins' first."""
    directory.mkdir(parents=True, exist_ok=True)
    ways = routes(members)
    written = []
    for language in LANGUAGES:
        wording = Wording(language, ZoneInfo("UTC"))
        say = {name: wording.of(sheet_texts()[name]) for name in ("product", "other_language")}
        for sheet in sheets(wave, ways, language):
            page, text = (directory / f"{sheet.name}.{language}.{ending}" for ending in ("html", "txt"))
            replace_file(page, rendered("sheet.html.j2", wording, sheet=sheet, **say).encode())
            replace_file(text, as_text(sheet).encode())
            written += [page, text]
    return written


def as_text(sheet: Sheet) -> str:
    """A sheet as plain text, for a chat or a mail."""
    lines = [sheet.title, sheet.heading, "", sheet.lead]
    for section in sheet.sections:
        lines += ["", f"## {section.title}", *section.lines]
        lines += [f"{number}. {step}" for number, step in enumerate(section.steps, 1)]
        lines += [f"{name}　{value}" for name, value in section.rows]
    return "\n".join(lines) + "\n"


def _admin_sheet(wave: str, ways: Sequence[Route], language: Language) -> Sheet:
    say = _Say(language)
    targets, sources = _each(way.target for way in ways), _each(way.source for way in ways)
    sections: list[Section] = []
    for provider in (*targets, *sources):
        service = say.of(provider.title)
        for kind in provider.admin_steps:
            title = say("at_service", title=say.of(STEPS[kind][1]), service=service)
            section = Section(title, (), tuple(say.of(step) for step in provider.steps[kind]))
            sections += [section] if section not in sections else []
        if provider.quirks:
            sections.append(Section(say("know_service", service=service), tuple(map(say.of, provider.quirks))))
    sections.append(Section(say("checklist"), (), tuple(say(name) for name in CHECKLIST)))
    rows = tuple(
        (say("sheet_for", provider=say.source(way), n=way.members), f"{_name(way, ways)}.{language}.html")
        for way in ways
    )
    sections.append(Section(say("sheets_title"), rows=rows))
    return Sheet("admin", language, say("admin_title"), visible(wave), say("admin_lead"), tuple(sections))


def _member_sheet(wave: str, way: Route, ways: Sequence[Route], language: Language) -> Sheet:
    say = _Say(language)
    todo = [
        *_todo(way.source, say.source(way), say, {"client_password": "any_password", "receive_range": "any_range"}),
        *_todo(way.target, say.target(way), say, {"client_password": "any_new_password"}),
        Section(say("hand_over"), (), (say("hand_over_how"), say("hand_over_exact"))),
    ]
    numbered = [
        Section(say("step_number", n=number, title=each.title), each.lines, each.steps)
        for number, each in enumerate(todo, 1)
    ]
    return Sheet(
        _name(way, ways),
        language,
        say("member_title"),
        f"{say.source(way)} → {say.target(way)}",
        say("member_lead", source=say.source(way), target=say.target(way)),
        (
            *numbered,
            Section(say("notices"), (say("notices_old"), say("notices_new"))),
            Section(say("meanwhile"), (say("meanwhile_password"), say("meanwhile_folders"), say("meanwhile_use"))),
        ),
    )


def _todo(provider: Provider, service: str, say: "_Say", general: dict[str, str]) -> list[Section]:
    """The member's steps at one provider; a general sentence where nothing is known of what must be done."""
    found = []
    for kind, (_, title) in STEPS.items():
        steps: tuple[str, ...] = ()
        if kind in provider.member_steps and kind not in NOT_IN_ADVANCE:
            steps = tuple(map(say.of, provider.steps[kind]))
        elif kind in general:
            steps = (say(general[kind]),)
        if steps:
            found.append(Section(say("at_service", title=say.of(title), service=service), (), steps))
    return found


def _name(way: Route, ways: Sequence[Route]) -> str:
    several = len(_each(each.target for each in ways)) > 1
    return f"members-{way.source.name}" + (f"-{way.target.name}" if several else "")


def _each(providers: Iterable[Provider]) -> list[Provider]:
    return list({provider.name: provider for provider in providers}.values())


class _Say:
    """Sentences of the sheets in one language."""

    def __init__(self, language: Language) -> None:
        self._language = language

    def __call__(self, name: str, /, **values: object) -> str:
        counted = {key: Count(value) if type(value) is int else value for key, value in values.items()}
        return self.of(sheet_texts()[name].format(**counted) if counted else sheet_texts()[name])

    def of(self, text: Text) -> str:
        return text.in_language(self._language)

    def source(self, way: Route) -> str:
        return self("from_anybody") if way.source.name == ANYBODY else self.of(way.source.title)

    def target(self, way: Route) -> str:
        return self("to_anybody") if way.target.name == ANYBODY else self.of(way.target.title)
