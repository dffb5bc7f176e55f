"""Says how a wave stands on the terminal, and what that means for a script: the exit codes."""

import shlex
from collections.abc import Sequence
from enum import IntEnum

from rich.console import Console
from rich.table import Table
from rich.text import Text as RichText

from console.lines import plain, print_indented
from console.live import COLOURS
from models.bilingual import Language, Text
from models.causes import OWNERS
from models.states import MEMBER_STATE_NAMES
from reports.check import SERVER_CAUSES
from reports.export import followed_sentence, result_sentence
from reports.steps import Addressed, Cure, T
from reports.summary import GRADE_NAMES, InvalidRowSummary, MemberSummary, WaveSummary
from reports.texts import human_bytes, sentence
from reports.unknown import unknown_answers


class Exit(IntEnum):
    """What the exit code of every command means."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    PARTIAL = 3
    ROSTER_REFUSED = 4
    UNREACHABLE = 5
    INTERRUPTED = 130


_HEADS = (
    Text("成员", "Member"),
    Text("状态", "State"),
    Text("已搬 / 源邮件", "Moved / source"),
    Text("未搬", "Not moved"),
    Text("大小", "Size"),
    Text("评级", "Grade"),
)
NAMED = 3
"""Members of a provider that are named beside its steps."""
_CAUSES = Text("需处理", "Needs attention")
_LIKELY = Text("很可能：", "Probably: ")
_CURE = Text("处理方法：", "What to do: ")
_UNKNOWN = Text(
    "有 {n} 个服务器答复还不认识：banjia wave unknown {wave}",
    "Servers gave {n} answers that are not known yet: banjia wave unknown {wave}",
)
_ROWS = Text("名单中未纳入的行", "Roster rows that were left out")
_LINE = Text("第 {line} 行", "line {line}")


def exit_code(summary: WaveSummary) -> Exit:
    """The exit code after a run over a wave."""
    if summary.all_done:
        return Exit.DONE
    members = summary.members
    places = {(m.cause.id, m.cause_side, _host(m)) for m in members if m.cause}
    if len(members) > 1 and len(places) == 1 and all(m.cause for m in members) and not summary.invalid_rows:
        return Exit.UNREACHABLE if next(iter(places))[0] in SERVER_CAUSES else Exit.PARTIAL
    return Exit.PARTIAL


def _host(member: MemberSummary) -> str:
    return member.source_host if member.cause_side == "source" else member.target_host


def print_summary(summary: WaveSummary, console: Console, language: Language, *, most: int = 40) -> None:
    """The table of members, the causes with their cure, the rows left out, and the sentence that sums it up."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, head in enumerate(_HEADS):
        right = 2 <= number <= 4
        table.add_column(head.in_language(language), justify="right" if right else "left", no_wrap=right)
    members = sorted(summary.members, key=lambda m: m.moved and m.short_state != "needs_attention")
    for member in members[:most]:
        table.add_row(*_cells(member, language))
    console.print(table)
    if len(members) > most:
        console.print(f"... {len(members) - most}", style="dim")
    print_causes(summary, console, language)
    print_invalid_rows(summary.invalid_rows, console, language)
    console.print()
    if followed := followed_sentence(summary.followed):
        console.print(followed.in_language(language), highlight=False)
    console.print(result_sentence(summary).in_language(language), style="bold", highlight=False)


def _cells(member: MemberSummary, language: Language) -> list[RichText]:
    counts = member.counts
    state = MEMBER_STATE_NAMES[member.state].in_language(language)
    return [
        plain(member.email),
        RichText(state, style=COLOURS[member.short_state]),
        RichText(f"{counts.copied + counts.already_there:,} / {counts.source:,}"),
        RichText(f"{counts.issues:,}" if counts.issues else "-"),
        RichText(human_bytes(member.bytes)),
        RichText(GRADE_NAMES[member.grade].in_language(language) if member.grade is not None else "-"),
    ]


def print_causes(summary: WaveSummary, console: Console, language: Language) -> None:
    """Each cause once, with its members and the next click."""
    groups = (*([summary.limited] if summary.limited else []), *summary.causes)
    if groups:
        console.print()
        console.print(_CAUSES.in_language(language), style="bold yellow")
    for group in groups:
        owner = OWNERS[group.cause.owner].in_language(language)
        title = group.cause.title.in_language(language)
        console.print(RichText(f"  {title} · {len(group.members)} · {owner}", style="yellow"))
        console.print(RichText("    ") + plain(named(group.members, 5)))
        print_hints(group.hints, console, language)
        console.print(RichText("    " + _CURE.in_language(language) + group.cause.advice.in_language(language)))
        print_cures(group.cures, len(group.members), console, language)
    if summary.retried_later:
        following = sentence("causes_next", wave=shlex.quote(summary.wave))
        console.print(plain("  " + following.in_language(language)))
    print_unknown(summary, console, language, indent=2)


def print_hints(
    hints: Sequence[tuple[Text, Sequence[Addressed]]], console: Console, language: Language, indent: int = 4
) -> None:
    """What probably lies behind a failure, and of whom that is thought."""
    for hint, some in hints:
        likely = RichText(_LIKELY.in_language(language), style="bold")
        likely.append(plain(hint.in_language(language) + in_brackets(named(some), language)))
        print_indented(likely, console, indent)


def in_brackets(text: str, language: Language) -> str:
    """An aside after a sentence or a name."""
    return f"（{text}）" if language == "zh-CN" else f" ({text})"


def named(members: Sequence[Addressed], most: int = NAMED) -> str:
    """The first members' addresses, and how many more there are."""
    more = f" +{len(members) - most:,}" if len(members) > most else ""
    return ", ".join(member.email for member in members[:most]) + more


def print_unknown(summary: WaveSummary, console: Console, language: Language, indent: int = 0) -> None:
    """Where to see the answers that no rule knows, if there are any."""
    if unknown := unknown_answers(summary):
        answers = _UNKNOWN.format(n=sum(each.count for each in unknown), wave=shlex.quote(summary.wave))
        console.print(plain(" " * indent + answers.in_language(language)))


def print_cures(cures: Sequence[Cure[T]], members: int, console: Console, language: Language, indent: int = 4) -> None:
    """What is to be clicked at each provider, of so many members in all; whose it is where they differ."""
    for cure in cures:
        head = RichText(" " * indent + cure.provider.title.in_language(language), style="bold")
        if len(cure.members) < members:
            head.append(f" · {len(cure.members):,} · ").append(plain(named(cure.members)))
        console.print(head)
        for number, step in enumerate(cure.steps, 1):
            print_indented(plain(f"{number}. {step.in_language(language)}"), console, indent + 2)


def print_invalid_rows(rows: tuple[InvalidRowSummary, ...], console: Console, language: Language) -> None:
    """Each problem of the roster by line and column, with its cure."""
    if not rows:
        return
    console.print()
    console.print(_ROWS.in_language(language), style="bold yellow")
    for row in rows:
        where = _LINE.format(line=row.line).in_language(language)
        value = f" {row.value!r}" if row.value else ""
        console.print(plain(f"  {where} {row.column}{value}: {row.problem.in_language(language)}"))
        console.print(plain(f"    {row.fix.in_language(language)}"))
