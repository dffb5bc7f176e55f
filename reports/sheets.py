"""The sheets that prepare a move: what admins see to, and what each member clicks, from the table of providers.

One sheet is for the admins of a wave; of the members' there is one for each service that the wave leaves.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from zoneinfo import ZoneInfo

from models.bilingual import LANGUAGES, Language
from models.private_files import make_folder
from models.providers import ANYBODY, STEPS, Provider, provider_named
from models.states import MemberState
from reports.letters import Saying, Section
from reports.preparation import expectations, preparation
from reports.render import rendered, replace_file
from reports.summary import MemberSummary
from reports.texts import Wording, visible

CHECKLIST = (
    *("check_mailboxes", "check_clients", "check_secrets", "check_source", "check_retention"),
    *("check_members", "check_room", "check_pilot", "check_mx"),
)


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


def sheets(wave: str, ways: Sequence[Route], language: Language, contact: str = "") -> tuple[Sheet, ...]:
    """All sheets of a wave: the admins', then one for each way. `contact` is whom members give their passwords to."""
    say = Saying(Wording(language, ZoneInfo("UTC")))
    return (_admin_sheet(say, wave, ways), *(_member_sheet(say, way, ways, contact) for way in ways))


def write_sheets(wave: str, members: Iterable[MemberSummary], directory: Path, contact: str = "") -> list[Path]:
    """Write a wave's sheets as pages and as texts, in both languages; returns the files, the admins' first."""
    make_folder(directory)
    ways = routes(members)
    written = []
    for language in LANGUAGES:
        wording = Wording(language, ZoneInfo("UTC"))
        own = {name: Saying(wording)(name) for name in ("product", "other_language")}
        for sheet in sheets(wave, ways, language, contact):
            page, text = (directory / f"{sheet.name}.{language}.{ending}" for ending in ("html", "txt"))
            replace_file(page, rendered("sheet.html.j2", wording, sheet=sheet, **own).encode())
            replace_file(text, as_text(sheet).encode())
            written += [page, text]
    return written


def as_text(sheet: Sheet) -> str:
    """A sheet as plain text, for a chat or a mail."""
    lines = [sheet.title, sheet.heading, "", sheet.lead]
    for section in sheet.sections:
        lines += ["", f"■ {section.title}", *section.lines]
        lines += [f"{number}. {step}" for number, step in enumerate(section.steps, 1)]
        lines += [f"{name}  {value}" for name, value in section.rows]
    return "\n".join(lines) + "\n"


def _admin_sheet(say: Saying, wave: str, ways: Sequence[Route]) -> Sheet:
    sections: list[Section] = []
    for provider in _each([*(way.target for way in ways), *(way.source for way in ways)]):
        service = say.of(provider.title)
        for kind in provider.admin_steps:
            title = say("at", where=service, what=say.of(STEPS[kind][1]))
            sections.append(Section(title, (), tuple(map(say.of, provider.steps[kind]))))
        if provider.quirks:
            title = say("at", where=service, what=say("good_to_know"))
            told = (say("good_to_know_sentence", told=_capital(say.of(quirk))) for quirk in provider.quirks)
            sections.append(Section(title, tuple(told)))
    sections.append(Section(say("checklist"), (), tuple(map(say, CHECKLIST))))
    rows = tuple(
        (
            say("sheet_for", provider=_service(say, way.source, "sheet_for_others"), n=way.members),
            f"{_name(way, ways)}.{say.words.language}.html",
        )
        for way in ways
    )
    sections.append(Section(say("sheets_title"), rows=rows))
    return Sheet("admin", say.words.language, say("admin_title"), visible(wave), say("admin_lead"), tuple(sections))


def _member_sheet(say: Saying, way: Route, ways: Sequence[Route], contact: str) -> Sheet:
    return Sheet(
        _name(way, ways),
        say.words.language,
        say("member_title"),
        f"{_service(say, way.source, 'old_mailbox')} → {_service(say, way.target, 'new_mailbox')}",
        say("member_lead"),
        (*preparation(say, way.source, way.target, contact), *expectations(say)),
    )


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _service(say: Saying, provider: Provider, unknown: str) -> str:
    return say(unknown) if provider.name == ANYBODY else say.of(provider.title)


def _name(way: Route, ways: Sequence[Route]) -> str:
    several = len(_each(each.target for each in ways)) > 1
    return f"members-{way.source.name}" + (f"-{way.target.name}" if several else "")


def _each(providers: Iterable[Provider]) -> list[Provider]:
    return list({provider.name: provider for provider in providers}.values())
