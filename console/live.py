"""Follows a running wave: a live table on a terminal, one line an event elsewhere. Reads the database, nothing else."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text as RichText
from sqlalchemy.exc import SQLAlchemyError

from console.lines import plain
from models.bilingual import Language, Text
from models.causes import cause
from models.columns import now
from models.hosts import HostWait
from models.progress import MemberProgress, WaveProgress
from models.states import MEMBER_STATE_NAMES, SHORT_STATE_NAMES, ShortState
from reports.texts import host_wait, human_bytes

SHOWN = 10
SECONDS_BETWEEN_LINES = 0.5
BREATH = 20
"""After a look at the wave comes a pause of so many times the processor time that it took: the members come first."""
COLOURS = {
    ShortState.WAITING: "dim",
    ShortState.ACTIVE: "cyan",
    ShortState.SYNCED: "green",
    ShortState.NEEDS_ATTENTION: "yellow",
    ShortState.DONE: "green",
}
_MEMBER = Text("成员", "Member")
_STATE = Text("状态", "State")
_MESSAGES = Text("邮件", "Messages")
_MORE = Text("另有 {n} 个成员", "{n} more members")
_TOTAL = Text(
    "{done} / {found} 封 · {size} · {rate} 封/秒 · 剩余 {eta}",
    "{done} of {found} messages · {size} · {rate} messages/s · {eta} left",
)


@contextlib.contextmanager
def following(progress: Callable[[], WaveProgress], console: Console, language: Language) -> Iterator[None]:
    """Show the wave while the body runs."""
    progress = _whenever_possible(progress)
    if console.is_terminal:
        with Live(
            get_renderable=_with_breath(lambda: wave_table(progress(), language)),
            console=console,
            refresh_per_second=4,
            transient=True,
        ):
            yield
        return
    ended = threading.Event()
    thread = threading.Thread(target=_print_changes, args=(progress, console, language, ended), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _whenever_possible(progress: Callable[[], WaveProgress]) -> Callable[[], WaveProgress]:
    """The progress as it could last be read: what is shown must not end, nor fail, for a database that is busy."""
    last = progress()

    def look() -> WaveProgress:
        nonlocal last
        with contextlib.suppress(SQLAlchemyError):
            last = progress()
        return last

    return look


def _with_breath(draw: Callable[[], Group]) -> Callable[[], Group]:
    """What was drawn last, drawn anew when the pause after it is over."""
    drawn: Group | None = None
    due = 0.0

    def look() -> Group:
        nonlocal drawn, due
        if drawn is None or time.monotonic() >= due:
            before = time.thread_time()
            drawn = draw()
            due = time.monotonic() + BREATH * (time.thread_time() - before)
        return drawn

    return look


def wave_table(wave: WaveProgress, language: Language) -> Group:
    """The members that move now, those that need somebody, then the rest as far as there is room; and the totals."""
    order = {ShortState.ACTIVE: 0, ShortState.NEEDS_ATTENTION: 1, ShortState.SYNCED: 2, ShortState.DONE: 3}
    members = sorted(wave.members, key=lambda m: order.get(m.short_state, 4))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(_MEMBER.in_language(language), overflow="ellipsis", no_wrap=True)
    table.add_column(_STATE.in_language(language), no_wrap=True)
    table.add_column("", width=24)
    table.add_column(_MESSAGES.in_language(language), justify="right", no_wrap=True)
    for member in members[:SHOWN]:
        table.add_row(
            plain(member.email),
            state_text(member, language),
            ProgressBar(total=max(member.found, 1), completed=member.done, width=24),
            f"{member.done:,} / {member.found:,}",
        )
    parts: list[Table | RichText] = [table]
    if len(members) > SHOWN:
        parts.append(RichText(_MORE.format(n=len(members) - SHOWN).in_language(language), style="dim"))
    parts += [wait_text(wait, language) for wait in wave.waits]
    parts.append(RichText(""))
    parts.append(totals(wave, language))
    return Group(*parts)


def wait_text(wait: HostWait, language: Language) -> RichText:
    """For which host the wave waits, until when, and the server's words."""
    text = plain(host_wait(wait, f"{wait.until:%H:%M:%S} UTC").in_language(language))
    text.stylize("yellow")
    return text


def totals(wave: WaveProgress, language: Language) -> RichText:
    """Members by short state, messages, rate and the time that is left."""
    done = sum(member.done for member in wave.members)
    found = sum(member.found for member in wave.members)
    size = sum(member.bytes for member in wave.members)
    seconds = (now() - wave.started_at).total_seconds() if wave.started_at else 0.0
    rate = wave.copied_this_run / seconds if seconds > 0 else 0.0
    eta = f"{(found - done) / rate:,.0f} s" if rate >= 1 else "-"
    line = RichText()
    for state in ShortState:
        if count := wave.count(state):
            line.append(f"{SHORT_STATE_NAMES[state].in_language(language)} {count}   ", style=COLOURS[state])
    line.append(
        _TOTAL.format(
            done=f"{done:,}", found=f"{found:,}", size=human_bytes(size), rate=f"{rate:,.0f}", eta=eta
        ).in_language(language)
    )
    return line


def state_text(member: MemberProgress, language: Language) -> RichText:
    """The state with its cause, and with the time at which a waiting member goes on."""
    text = MEMBER_STATE_NAMES[member.state].in_language(language)
    if member.cause:
        text += f": {cause(member.cause).title.in_language(language)}"
    if member.resume_at:
        today = member.resume_at.date() == now().date()
        text += f" ({member.resume_at:{'%H:%M:%S' if today else '%Y-%m-%d %H:%M'}} UTC)"
    return RichText(text, style=COLOURS[member.short_state])


def _print_changes(
    progress: Callable[[], WaveProgress], console: Console, language: Language, ended: threading.Event
) -> None:
    shown: dict[str, tuple[str, str | None]] = {}
    told: set[HostWait] = set()
    pause = SECONDS_BETWEEN_LINES
    while True:
        last = ended.wait(pause)
        before = time.thread_time()
        wave = progress()
        for wait in set(wave.waits) - told:
            console.print(wait_text(wait, language))
        told.update(wave.waits)
        for member in wave.members:
            state = (str(member.state), member.cause)
            if shown.get(member.email) != state and member.short_state != ShortState.WAITING:
                console.print(plain(member.email), state_text(member, language), f"{member.done}/{member.found}")
            shown[member.email] = state
        if last:
            return
        pause = max(SECONDS_BETWEEN_LINES, BREATH * (time.thread_time() - before))
