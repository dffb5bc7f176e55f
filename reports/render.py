"""Write a wave's report into a directory: pages in both languages, tables, the JSON of the same numbers.

Each file is replaced whole or not at all. Pages ask for nothing from elsewhere and run no script. Every value that
reaches a page is made visible and escaped on the way, by the environment and not by the templates.
"""

import hashlib
import re
import shlex
from base64 import b64encode
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Protocol
from zoneinfo import ZoneInfo

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from models.bilingual import LANGUAGES, Language, Text
from models.causes import OWNERS, Cause, cause
from models.issues import AlteredFolder, AlteredMessage
from models.ledger_rows import name_of
from models.private_files import make_folder, make_private, write_private
from models.providers import ANYBODY
from models.states import MEMBER_STATE_NAMES, SHORT_STATE_NAMES, WAVE_STATE_NAMES, MemberState, ShortState
from reports.check import CheckedMember, detail, groups, in_order, sentence_of, totals
from reports.check import result as check_result
from reports.export import (
    altered_csv,
    altered_json,
    clipped,
    document_bytes,
    failures_csv,
    followed_sentence,
    range_sentence,
    result_sentence,
    short_state_counts,
    summary_document,
    wave_csv,
)
from reports.steps import services_sentence
from reports.summary import GRADE_NAMES, GRADE_RULES, MemberSummary, WaveSummary
from reports.texts import Wording, alteration, host_wait, stages, visible
from reports.unknown import unknown_answers

# A page stays readable, and small, when a mailbox goes thoroughly wrong; the JSON has every line.
ROWS_SHOWN = 1000
ALTERED_SHOWN = 100
"""Of a folder: a server may alter every message."""
MEMBERS_SHOWN = 8

BAR_ORDER = (
    ShortState.DONE.value,
    ShortState.SYNCED.value,
    ShortState.ACTIVE.value,
    ShortState.WAITING.value,
    ShortState.NEEDS_ATTENTION.value,
    "removed",
)
BAR_WIDTH = 1000
_MEMBER_PAGE = re.compile(r"\d+\.(?:zh-CN|en)\.html")


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where a report was written; `failures` is None when no member needs attention."""

    html: Path
    html_zh: Path
    html_en: Path
    csv: Path
    json: Path
    failures: Path | None
    altered: Path | None = None
    """A table of the messages that arrived altered; None when there are none. altered.json beside it says the same."""


class Altered(Protocol):
    """The messages of a wave that arrived altered, wherever they are kept."""

    def every(self) -> Iterator[AlteredMessage]: ...
    def of_member(self, member_id: int, first: int) -> Sequence[AlteredFolder]: ...


@dataclass(frozen=True, slots=True)
class Segment:
    """One state's part of the bar."""

    name: str
    title: Text
    count: int
    x: float
    width: float


def render_report(
    summary: WaveSummary,
    directory: Path,
    language: Language = "zh-CN",
    *,
    zone: ZoneInfo | None = None,
    rows: Mapping[int, Mapping[str, str]] | None = None,
    altered: Altered | None = None,
) -> ReportFiles:
    """Write all files of a report; `wave.html` is in `language`, times are in `zone` (UTC unless told).

    `rows` holds the roster's own values by member id, for the roster of failures. `altered` is asked member by member,
    and nothing of it is kept.
    """
    members = directory / "members"
    make_folder(directory)
    make_private(members)
    wordings = {each: Wording(each, zone or ZoneInfo("UTC")) for each in LANGUAGES}
    document = document_bytes(summary_document(summary))
    checksum = hashlib.sha256(document).hexdigest()

    # The wave's pages come last, so that whoever opens one finds what it links to.
    checks = {check.id: check for check in summary.checks}
    for member in summary.members:
        told = altered.of_member(member.id, ALTERED_SHOWN) if altered and member.altered else ()
        for each, wording in wordings.items():
            page = _member_html(summary, member, wording, checks.get(member.id), told)
            replace_file(members / member_page(member, each), _page(page))
    _remove_strangers(members, {member_page(m, each) for m in summary.members for each in LANGUAGES})
    failures = failures_csv(summary, rows or {})
    written = ReportFiles(
        html=directory / "wave.html",
        html_zh=directory / "wave.zh-CN.html",
        html_en=directory / "wave.en.html",
        csv=directory / "wave.csv",
        json=directory / "wave.json",
        failures=directory / "failures.csv" if failures else None,
        altered=directory / "altered.csv" if altered and summary.altered else None,
    )
    if altered and written.altered:
        replace_file(written.altered, altered_csv(altered.every()))
        replace_file(directory / "altered.json", altered_json(summary.wave, altered.every()))
    else:
        for name in ("altered.csv", "altered.json"):
            (directory / name).unlink(missing_ok=True)
    if failures:
        replace_file(directory / "failures.csv", failures)
    else:
        (directory / "failures.csv").unlink(missing_ok=True)
    replace_file(written.csv, wave_csv(summary))
    replace_file(written.json, document)
    listed = written.altered is not None
    pages = {each: _page(_wave_html(summary, wording, checksum, listed)) for each, wording in wordings.items()}
    replace_file(written.html_zh, pages["zh-CN"])
    replace_file(written.html_en, pages["en"])
    replace_file(written.html, pages[language])
    return written


def member_page(member: MemberSummary, language: Language) -> str:
    """Name a member's page by its id alone: names and addresses are other people's text."""
    return f"{member.id:d}.{language}.html"


def content_security_policy() -> str:
    """Give the policy that every page states, for a server that hands the pages out."""
    digest = b64encode(hashlib.sha256(_style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"


def bar(summary: WaveSummary) -> tuple[Segment, ...]:
    """Lay the members out by state along a bar; a single one among thousands still shows."""
    counts = {name: count for name, count in short_state_counts(summary).items() if count}
    widths = {name: max(count / len(summary.members) * BAR_WIDTH, 4.0) for name, count in counts.items()}
    scale = BAR_WIDTH / sum(widths.values()) if widths else 1.0
    segments: list[Segment] = []
    x = 0.0
    for name in BAR_ORDER:
        if name in counts:
            width = widths[name] * scale
            segments.append(Segment(name, _short_title(name), counts[name], round(x, 2), round(width, 2)))
            x += width
    return tuple(segments)


def _short_title(name: str) -> Text:
    return MEMBER_STATE_NAMES[MemberState.REMOVED] if name == "removed" else SHORT_STATE_NAMES[ShortState(name)]


def _wave_html(summary: WaveSummary, wording: Wording, checksum: str, altered_listed: bool = False) -> str:
    return rendered(
        "wave.html.j2",
        wording,
        summary=summary,
        result=result_sentence(summary),
        segments=bar(summary),
        moved_unaccounted=sum(member.counts.unaccounted for member in summary.members if member.moved),
        not_reached=sum(member.counts.unaccounted for member in summary.members if not member.moved),
        finished_issues=_finished_issues(summary),
        checksum=checksum,
        altered_listed=altered_listed,
        unknown=unknown_answers(summary),
        cause_of=cause,
        stage_names=stages(),
        checked=in_order(summary.checks),
        check_ready=all(member.ready for member in summary.checks) and not summary.invalid_rows,
        check_groups=groups(summary.checks),
        check_result=check_result(summary.checks),
        check_totals=totals(summary.checks),
        wave_word=shlex.quote(summary.wave),
    )


def _member_html(
    summary: WaveSummary,
    member: MemberSummary,
    wording: Wording,
    check: CheckedMember | None = None,
    altered: Sequence[AlteredFolder] = (),
) -> str:
    cause = member.leading_cause
    beside = check.beside(cause.id, member.cause_side) if check and cause else []
    kinds = [(each, alteration(each.name)) for each in replace(summary, members=(member,)).altered]
    shown: list[AlteredFolder] = []
    for folder in altered:
        if sum(len(each.messages) for each in shown) + len(folder.messages) <= ROWS_SHOWN:
            shown.append(folder)
    return rendered(
        "member.html.j2",
        wording,
        summary=summary,
        member=member,
        check=check,
        beside=beside,
        issue_kinds=Counter(issue.cause for issue in member.issues).most_common(),
        altered_kinds=kinds,
        altered_folders=shown,
        altered_total=sum(folder.total for folder in altered),
        altered_not_shown=len(altered) - len(shown),
    )


def _finished_issues(summary: WaveSummary) -> list[tuple[Cause, int]]:
    """Count by cause what was given up for good: it needs nobody any more, and is still said."""
    found = Counter(
        issue.cause.id
        for member in summary.members
        if member.state == MemberState.COMPLETED_WITH_ISSUES
        for issue in member.issues
        if not issue.cause.harmless
    )
    return [(cause(name), count) for name, count in sorted(found.items(), key=lambda item: (-item[1], item[0]))]


def rendered(template: str, wording: Wording, **values: object) -> str:
    """A page of the report's look."""
    return (
        _environment()
        .get_template(template)
        .render(
            say=wording.say,
            of=wording.of,
            words=wording,
            language=wording.language,
            other="en" if wording.language == "zh-CN" else "zh-CN",
            **values,
        )
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        loader=PackageLoader("reports", "templates"),
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals.update(
        style=Markup(_style()),  # noqa: S704 - our own file, and the policy's hash is of these bytes
        policy=content_security_policy(),
        clipped=clipped,
        followed_sentence=followed_sentence,
        name_of=name_of,
        host_wait=host_wait,
        alteration=alteration,
        range_sentence=range_sentence,
        services_sentence=services_sentence,
        sentence_of=sentence_of,
        detail=detail,
        member_page=member_page,
        state_names=MEMBER_STATE_NAMES,
        wave_state_names=WAVE_STATE_NAMES,
        owners=OWNERS,
        grade_names=GRADE_NAMES,
        grade_rules=GRADE_RULES,
        rows_shown=ROWS_SHOWN,
        altered_shown=ALTERED_SHOWN,
        members_shown=MEMBERS_SHOWN,
        anybody=ANYBODY,
        bar_width=BAR_WIDTH,
    )
    return environment


def _finalize(value: object) -> object:
    """Make every value of a page visible before it is escaped, and refuse None, which says nothing to anybody."""
    if value is None:
        raise ValueError("a report page was given nothing to say")
    if isinstance(value, str) and not isinstance(value, Markup):
        return visible(value)
    return value


@cache
def _style() -> str:
    return (files("reports") / "templates" / "report.css").read_text(encoding="utf-8")


def _page(html: str) -> bytes:
    return html.encode()


def replace_file(path: Path, content: bytes | Iterable[bytes]) -> None:
    """Put a file in place at once, or leave the old one as it was; its content may come in pieces.

    Mailboxes are nobody's business but the reader's.
    """
    write_private(path, content, durable=False)


def _remove_strangers(members: Path, expected: set[str]) -> None:
    """Remove pages of members that are in this wave no more."""
    for page in members.iterdir():
        if _MEMBER_PAGE.fullmatch(page.name) and page.name not in expected:
            page.unlink()
