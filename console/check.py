"""Shows what a check found: what members have in common, who needs somebody first, and what will be moved."""

import shlex
from collections.abc import Sequence
from itertools import groupby
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text as RichText

from console.lines import plain, print_indented
from console.outcome import NAMED, Exit, in_brackets, named, print_cures, print_hints, print_invalid_rows, print_unknown
from console.terminal import language, say, screen
from models.bilingual import Language, Text
from models.causes import OWNERS
from models.check import Severity
from models.states import ShortState
from reports.check import (
    CheckedMember,
    FindingGroup,
    check_document,
    detail,
    groups,
    in_order,
    result,
    sentence_of,
    totals,
    unreachable,
)
from reports.steps import services_sentence
from reports.summary import WaveSummary
from reports.texts import human_bytes, sentence
from reports.unknown import unknown_answers, unknown_document

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from flows.report_wave import PublishedReport

SHOWN = 40
"""Members in the table; the report has all."""
WIDE = 130
"""Columns from which there is room for everything."""

_STYLES = {Severity.BLOCKS: "yellow", Severity.WARNS: "cyan", Severity.TELLS: "dim"}
_WORDS = {Severity.BLOCKS: "check_blocks", Severity.WARNS: "check_warns", Severity.TELLS: "check_tells"}
_MEMBER = Text("成员", "Member")
_OLDEST = Text("最早", "Oldest")
_NEWEST = Text("最新", "Newest")
_CURE = Text("处理方法：", "What to do: ")
_SIDES = {"source": Text("旧邮箱", "old mailbox"), "target": Text("新邮箱", "new mailbox")}
_SERVER = Text("服务器原文：", "The server says: ")
_TOLD = Text("本机所见：", "Seen from here: ")
_REST = Text(
    "另有 {n} 个成员没有列出（其中 {ready} 个可以开始）。", "{n} more members are not shown ({ready} of them ready)."
)
_REPORT = Text("完整的表：{path}", "The whole table: {path}")
_MEND = Text("待处理名单：{path}", "The members to mend, as a roster: {path}")


def show(wave: str, *, as_json: bool) -> None:
    """Run the check flow here; ends with 0 when all are ready, 3 when some are not, 5 when a server is away."""
    from console.run import run_flow

    def flow() -> "State[Any]":
        from flows.check_wave import check_wave

        return check_wave(wave, return_state=True)

    code = _told(run_flow(wave, flow, as_json=as_json), as_json=as_json)
    if code != Exit.DONE:
        raise typer.Exit(code)


def _told(published: "PublishedReport", *, as_json: bool) -> Exit:
    summary, files = published.summary, published.files
    if as_json:
        document = {"wave": summary.wave, **check_document(summary.checks)}
        failures = str(files.failures) if files.failures else None
        report = {"html": str(files.html), "json": str(files.json), "failures": failures}
        unknown = unknown_document(unknown_answers(summary))
        rows = summary.invalid_lines
        say({**document, "unknown_answers": unknown, "invalid_rows": rows, "report": report}, as_json=True)
    else:
        console, spoken = screen(as_json=False), language()
        print_check(summary.checks, console, spoken)
        print_unknown(summary, console, spoken)
        print_invalid_rows(summary.invalid_rows, console, spoken)
        console.print(_REPORT.format(path=files.html).in_language(spoken))
        if files.failures:
            console.print(_MEND.format(path=files.failures).in_language(spoken))
        following = "check_start" if exit_code(summary) == Exit.DONE else "check_again"
        console.print(plain(sentence(following, wave=shlex.quote(summary.wave)).in_language(spoken)))
    return exit_code(summary)


def exit_code(summary: WaveSummary) -> Exit:
    """What the outcome of a check means for a script."""
    if unreachable(summary.checks):
        return Exit.UNREACHABLE
    # Who is left out, because an account was refused before, is not ready either.
    left_out = any(member.short_state == ShortState.NEEDS_ATTENTION and not member.moved for member in summary.members)
    all_ready = not left_out and all(member.ready for member in summary.checks)
    return Exit.DONE if all_ready and not summary.invalid_rows else Exit.PARTIAL


def print_check(members: Sequence[CheckedMember], console: Console, spoken: Language, *, most: int = SHOWN) -> None:
    """The table of members, then each finding once with its cure, then the sentence that sums it up."""
    ordered = in_order(members)
    if ordered:
        console.print(_table(ordered[:most], console.width, spoken))
    if rest := ordered[most:]:
        ready = sum(member.ready for member in rest)
        console.print(_REST.format(n=f"{len(rest):,}", ready=f"{ready:,}").in_language(spoken), style="dim")
    for severity, some in groupby(groups(members), key=lambda group: group.severity):
        console.print()
        console.print(RichText(sentence(_WORDS[severity]).in_language(spoken), style=f"bold {_STYLES[severity]}"))
        for group in some:
            _print_group(group, console, spoken)
    console.print()
    if services := services_sentence(members):
        console.print(services.in_language(spoken))
    folders, messages, octets = totals(members)
    console.print(result(members).in_language(spoken), style="bold")
    if messages:
        told = sentence("check_totals", folders=folders, messages=messages, size=human_bytes(octets))
        console.print(told.in_language(spoken))


def _print_group(group: FindingGroup, console: Console, spoken: Language) -> None:
    side = [_SIDES[group.side].in_language(spoken)] if group.side in _SIDES else []
    turn = OWNERS[group.kind.owner].in_language(spoken)
    head = " · ".join([group.kind.title.in_language(spoken), *side, f"{len(group.members):,}", turn])
    print_indented(RichText(head, style=_STYLES[group.severity]), console, 2)
    print_indented(plain(_whose(group, spoken)), console, 4)
    if group.server_text:
        said = _SERVER if group.by_a_server else _TOLD
        print_indented(plain(said.in_language(spoken) + group.server_text), console, 4)
    print_hints(group.hints, console, spoken)
    print_indented(RichText(_CURE.in_language(spoken) + group.kind.advice.in_language(spoken)), console, 4)
    print_cures(group.cures, len(group.members), console, spoken)


def _whose(group: FindingGroup, spoken: Language) -> str:
    """The first members of a group, with what is told of each."""
    if not any(detail(found) for _, found in group.told):
        return named(group.members)
    told = [(member.email, detail(found)) for member, found in group.told[:NAMED]]
    names = (email + (in_brackets(text.in_language(spoken), spoken) if text else "") for email, text in told)
    more = f" +{len(group.told) - NAMED:,}" if len(group.told) > NAMED else ""
    return ("；" if spoken == "zh-CN" else "; ").join(names) + more


def _table(members: Sequence[CheckedMember], width: int, spoken: Language) -> Table:
    wide = width >= WIDE
    table = Table(box=None, pad_edge=False, header_style="bold")

    def head(text: Text, *, right: bool = False, **options: Any) -> None:
        table.add_column(text.in_language(spoken), justify="right" if right else "left", **options)

    head(_MEMBER, no_wrap=True, max_width=44 if wide else 34)
    if wide:
        head(sentence("check_folders"), right=True, no_wrap=True)
    head(sentence("check_messages"), right=True, no_wrap=True)
    head(sentence("check_size"), right=True, no_wrap=True)
    if wide:
        head(sentence("check_largest"), right=True, no_wrap=True)
        head(sentence("check_room"), right=True, no_wrap=True)
    head(_OLDEST, no_wrap=True)
    if wide:
        head(_NEWEST, no_wrap=True)
    # A Chinese sentence has no blanks to be broken at.
    head(sentence("check_findings"), overflow="fold")
    for member in members:
        table.add_row(*_cells(member, spoken, wide=wide))
    return table


def _cells(member: CheckedMember, spoken: Language, *, wide: bool) -> list[RichText]:
    look = member.look
    seen = look if look and look.folders else None

    def count(value: int) -> RichText:
        return RichText(f"{value:,}" if seen else "-")

    def size(value: int | None) -> RichText:
        return RichText("-" if value is None else human_bytes(value))

    quota = look.target_quota if look else None
    cells = [plain(member.email)]
    if wide:
        cells.append(count(seen.folders if seen else 0))
    cells += [count(seen.messages if seen else 0), size(seen.bytes if seen else None)]
    if wide:
        cells += [size(seen.largest if seen else None), size(max(quota[1] - quota[0], 0) if quota else None)]
    cells.append(RichText(f"{seen.oldest:%Y-%m-%d}" if seen and seen.oldest else "-"))
    if wide:
        cells.append(RichText(f"{seen.newest:%Y-%m-%d}" if seen and seen.newest else "-"))
    told = RichText()
    if member.clear:
        told.append(sentence("check_ready").in_language(spoken), style="green")
    for found in member.told:
        if found.severity == Severity.TELLS and not wide:
            continue
        words = (sentence_of(found) if wide else found.kind.title).in_language(spoken)
        if found.severity == Severity.BLOCKS and found.side in _SIDES:
            # The same may have happened at both.
            words = _SIDES[found.side].in_language(spoken) + sentence("colon").in_language(spoken) + words
        told.append(("\n" if told else "") + plain(words).plain, style=_STYLES[found.severity])
    cells.append(told)
    return cells
