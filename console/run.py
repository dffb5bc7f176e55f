"""What the commands do: take a roster in, run a flow in this process, show and report what came of it."""

import contextlib
import dataclasses
import getpass
import os
import shlex
import signal
import sys
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import typer
from sqlmodel import col, select

from console.check import print_check
from console.issues import print_altered, print_heading
from console.lines import plain
from console.live import following, state_text, totals, wait_text
from console.outcome import Exit, exit_code, print_causes, print_invalid_rows, print_summary
from console.prefect_way import use_prefect
from console.terminal import INTERRUPTED, fail, language, say, screen
from models.bilingual import Text
from models.causes import cause as cause_of
from models.database import reading, writing
from models.detection import DefaultServers, settle
from models.enrol import enrol as enrol_roster
from models.issues import AlteredMessages
from models.ledger_rows import name_of
from models.lifecycle import find_wave, needing_retry, parked_members
from models.member import Member
from models.progress import wave_progress
from models.providers import ANYBODY
from models.roster import Roster, RosterProblem, read_roster
from models.roster_apart import read_sheet_apart
from models.roster_file import RosterLimits
from models.wave import Wave
from reports.export import failures_csv, followed_sentence, summary_document, wait_document
from reports.read import invalid_rows, read_wave, roster_values
from reports.summary import InvalidRowSummary, WaveSummary
from reports.texts import alterations, placement, sentence
from tasks import policy
from tasks.domain_records import records_of
from tasks.roster_decisions import confirm, judge_of, pairs_held
from tasks.settings import know_own_providers, settings
from tasks.store import Store, store

if TYPE_CHECKING:
    from prefect.client.schemas.objects import State

    from flows.report_wave import PublishedReport

ONE_REQUEST_SECONDS = 1.0
"""Signals so close together are one request: timeout(1), for one, sends each twice."""

_NOTHING_USABLE = Text("名单中没有可用的行，什么也没有开始。", "No row of the roster can be used; nothing was started.")
_SEVERAL_WAVES = Text(
    "名单中有多个批次（{names}）。请用 --wave 选择一个。",
    "The roster names several waves ({names}). Choose one with --wave.",
)
_OTHER_WAVES = Text(
    "名单中没有批次“{wave}”的行；名单写的是：{names}。",
    "No row of the roster is for the wave {wave!r}; it names: {names}.",
)
_NO_MEMBER = Text("没有地址为“{email}”的成员。", "There is no member with the address {email!r}.")
_REPORT = Text("报告：{path}", "Report: {path}")
_FAILURES = Text("待处理名单：{path}", "Roster of failures: {path}")
_VERIFIED = Text(
    "{present} / {checked} 封，缺少 {missing}，读回 {read_back}，改动：{altered}；旧邮箱现有 {source} 封",
    "{present} / {checked}, missing {missing}, read back {read_back}, altered: {altered}; {source} in the old mailbox",
)
_HIDDEN = Text(
    "旧邮箱的服务器有 {hidden} 封只计数、不列出：没有搬，详见 banjia wave issues",
    "The server of the old mailbox counts {hidden} that it does not show: not moved, see banjia wave issues",
)
_MISSING = Text("新邮箱中没有", "not in the new mailbox")
_MORE_IN_JSON = Text("  …… 其余加 --json 列出", "  ... --json lists more of them")
_TOLD_OF_A_MEMBER = 20
_OLD_SIDE = Text("旧邮箱：", "Old mailbox:")
_NEW_SIDE = Text("新邮箱：", "New mailbox:")
_ARRIVED_AS = Text("“{source}”搬到了“{target}”：{why}", "“{source}” arrived as “{target}”: {why}")
_LEFT_OUT = Text("“{source}”没有搬（{n} 封）：{why}", "“{source}” was left out, messages in it: {n}. {why}")
_NOTHING_TO_RETRY = Text("没有需要重试的成员。", "No member needs a retry.")
_PARKED = Text(
    "{n} 个成员的账号已被服务器拒绝，密码未更改；为避免锁定账号，这些成员不再自动尝试：{names}。请改好名单，或运行 "
    "banjia wave retry {wave} 再试一次。",
    "{n} members are left out, lest their accounts are locked: their passwords were refused and have not changed: "
    "{names}. Mend the roster, or try them once more with banjia wave retry {wave}.",
)
_HELD = Text(
    "{n} 个成员由管理员或应用代为登录，而新旧地址对不上，暂不搬。核对无误后，再次运行并加上 --confirm-pairs：\n{names}",
    "{n} members are left out: an administrator or an application signs in for them, and their two addresses do not "
    "agree. If they are right, run it again with --confirm-pairs:\n{names}",
)
_CONFIRMED = Text(
    "已确认 {n} 个成员的新旧地址属于同一人：\n{names}",
    "Confirmed for {n} members that both addresses are theirs:\n{names}",
)
_WORTH_A_LOOK = {"content", "doubled"}
"""Differences with which `verify` does not end as if all were well: what servers do to every mail is none."""
_STOPPING = Text(
    "正在停止：每个成员完成当前一批后暂停。再按一次立即结束。",
    "Stopping: every member pauses after the batch under way. Once more ends at once.",
)


def enrol(path: Path, wave: str | None, report: Path | None, *, as_json: bool) -> str:
    """Take a roster into its wave; returns the wave's name. Ends the command when no row can be used."""
    roster = _read(path)
    name, roster = _choose_wave(roster, wave, path)
    kept = store()
    records = records_of(kept.settings)
    judge = judge_of(kept.settings, kept.engine, name)
    usable, unsettled = settle(roster.rows, kept.default_servers, records, judge)
    if not usable:
        problems = _problems(roster, unsettled)
        if as_json:
            say({"wave": name, "state": "refused", "members": [], "invalid_rows": _rows(problems)}, as_json=True)
        print_invalid_rows(problems, screen(as_json=as_json), language())
        raise fail(_NOTHING_USABLE.in_language(language()), Exit.ROSTER_REFUSED)
    enrol_roster(kept.engine, kept.vault, name, roster, kept.default_servers, records, judge)
    if report is not None:
        with writing(kept.engine) as session:
            found = find_wave(session, name)
            found.report_directory = str(report.absolute())
            session.add(found)
    return name


def check_roster(path: Path, *, as_json: bool) -> None:
    """Show what a roster holds and every problem in it."""
    roster = _read(path)
    know_own_providers()
    found = settings()
    default = DefaultServers(found.source_host, found.target_host)
    usable, unsettled = settle(roster.rows, default, records_of(found), judge_of(found))
    problems = _problems(roster, unsettled)
    if as_json:
        say(
            {
                "rows": len(usable),
                "encoding": roster.encoding,
                "delimiter": roster.delimiter,
                "columns": list(roster.columns),
                "invalid_rows": _rows(problems),
            },
            as_json=True,
        )
    else:
        console = screen(as_json=False)
        print_invalid_rows(problems, console, language())
        console.print(f"{path.name}: {len(usable)} / {roster.total_rows} OK, {roster.encoding}")
    if problems:
        raise typer.Exit(Exit.PARTIAL if usable else Exit.ROSTER_REFUSED)


def move(
    wave: str, *, as_json: bool, only: list[str] | None = None, again: bool = False, confirm_pairs: bool = False
) -> WaveSummary:
    """Run the migrate flow here, show it, and end the command with the code that its outcome means.

    `again` also tries messages that were not moved, and accounts that were refused.
    """
    tell_pairs(wave, confirm_pairs=confirm_pairs)

    def flow() -> "State[Any]":
        from flows.migrate_wave import migrate_wave

        return migrate_wave(wave, only, reopen_issues=again, parked_too=again, return_state=True)

    return _finish(run_flow(wave, flow, as_json=as_json, again=again), as_json=as_json)


def tell_pairs(wave: str, *, confirm_pairs: bool) -> None:
    """Name the members whose addresses do not agree: as confirmed, if that is wanted, else as left out."""
    kept = store()
    require(kept, wave)
    held = confirm(kept, wave, getpass.getuser()) if confirm_pairs else pairs_held(kept, wave)
    if held:
        told = _CONFIRMED if confirm_pairs else _HELD
        names = "\n".join(f"  {each.pair}" for each in held[:_TOLD_OF_A_MEMBER])
        more = "\n  ..." if len(held) > _TOLD_OF_A_MEMBER else ""
        text = told.format(n=len(held), names=names + more).in_language(language())
        screen(as_json=True).print(plain(text))


def retry(wave: str, roster: Path | None, *, as_json: bool, confirm_pairs: bool = False) -> None:
    """Move only what is left to move."""
    kept = store()
    require(kept, wave)
    if roster is not None:
        enrol(roster, wave, None, as_json=as_json)
    again = needing_retry(kept.engine, wave)
    if not again:
        from flows.report_wave import publish_report

        _finish(publish_report(wave), as_json=as_json, note=_NOTHING_TO_RETRY)
        return
    move(wave, as_json=as_json, only=again, again=True, confirm_pairs=confirm_pairs)


def run_flow(wave: str, flow: Callable[[], "State[Any]"], *, as_json: bool, again: bool = False) -> "PublishedReport":
    """Run a flow over a wave in this process, show how far it is, and return the report that it published.

    Who is left out because an account was refused is named, unless all are to be tried `again`.
    """
    kept = store()
    require(kept, wave)
    kept.vault.check()
    if not again and (parked := parked_members(kept.engine, wave)):
        names = ", ".join(parked[:5]) + (" ..." if len(parked) > 5 else "")
        note = _PARKED.format(n=len(parked), names=names, wave=shlex.quote(wave))
        screen(as_json=True).print(plain(note.in_language(language())))
    with _signals(signal.default_int_handler):
        use_prefect()
        with (
            following(lambda: wave_progress(kept.engine, wave), screen(as_json=as_json), language()),
            _signals(_Stopper()),
            # In a thread of its own, so that the signals stay ours: Prefect would turn SIGTERM into a crash.
            futures.ThreadPoolExecutor(1) as beside,
        ):
            running = beside.submit(flow)
            # In short turns: a signal that another thread was given is handled when this one wakes.
            while not futures.wait([running], timeout=0.5).done:
                pass
            state = running.result()
    if state.is_failed() or state.is_crashed():
        state.result()  # raises what the flow ended with, which may have stopped the members
    if policy.STOP.is_set():
        raise fail(INTERRUPTED.in_language(language()), Exit.INTERRUPTED)
    from flows.report_wave import last_report

    return last_report(wave)


class _Stopper:
    """Lets every member end its batch; asked a second time, ends the process, which the ledger stands."""

    def __init__(self) -> None:
        self._asked_at: float | None = None

    def __call__(self, *_: object) -> None:
        at = time.monotonic()
        if self._asked_at is None:
            self._asked_at = at
            policy.STOP.set()
            typer.echo(_STOPPING.in_language(language()), err=True)
        elif at - self._asked_at > ONE_REQUEST_SECONDS:
            os._exit(Exit.INTERRUPTED)


@contextlib.contextmanager
def _signals(handler: Callable[[int, FrameType | None], object]) -> Iterator[None]:
    """Handle Ctrl-C and SIGTERM alike while the body runs."""
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


def _finish(published: "PublishedReport", *, as_json: bool, note: Text | None = None) -> WaveSummary:
    """Print the outcome, and end the command with its code."""
    summary, files = published.summary, published.files
    if as_json:
        say(
            {
                **summary_document(summary),
                "report": {name: str(path) if path else None for name, path in dataclasses.asdict(files).items()},
            },
            as_json=True,
        )
    else:
        console = screen(as_json=False)
        if note:
            console.print(note.in_language(language()))
        print_summary(summary, console, language())
        console.print(_REPORT.format(path=files.html).in_language(language()))
        if files.failures:
            console.print(_FAILURES.format(path=files.failures).in_language(language()))
    code = exit_code(summary)
    if code != Exit.DONE:
        raise typer.Exit(code)
    return summary


def create(path: Path, wave: str | None, report: Path | None, *, as_json: bool) -> None:
    """Take a roster into its wave and show it; ends the command as a partial success when rows are to be mended."""
    if show_status(enrol(path, wave, report, as_json=as_json), as_json=as_json):
        raise typer.Exit(Exit.PARTIAL)


def show_status(wave: str, *, as_json: bool) -> tuple[InvalidRowSummary, ...]:
    """Show how far every member is, and what is to be mended in the roster; returns the latter."""
    kept = store()
    problems = invalid_rows(kept.engine, wave)
    progress = wave_progress(kept.engine, wave)
    if as_json:
        members = [
            {
                "email": m.email,
                "state": m.state,
                "cause": m.cause,
                "messages": {"found": m.found, "done": m.done, "issues": m.issues},
                "bytes": m.bytes,
                "resume_at": m.resume_at.isoformat() if m.resume_at else None,
            }
            for m in progress.members
        ]
        waits = [wait_document(wait) for wait in progress.waits]
        document = {"wave": wave, "state": progress.state, "waits": waits, "members": members}
        say({**document, "invalid_rows": _rows(problems)}, as_json=True)
        return problems
    console = screen(as_json=False)
    for member in progress.members:
        console.print(plain(member.email), state_text(member, language()), f"{member.done:,}/{member.found:,}")
    for wait in progress.waits:
        console.print(wait_text(wait, language()))
    console.print(totals(progress, language()))
    print_invalid_rows(problems, console, language())
    return problems


def write_report(wave: str, report: Path | None, *, as_json: bool) -> None:
    """Write the report and say where it is."""
    kept = store()
    require(kept, wave)
    if report is not None:
        with writing(kept.engine) as session:
            found = find_wave(session, wave)
            found.report_directory = str(report.absolute())
            session.add(found)
    from flows.report_wave import publish_report

    files = publish_report(wave).files
    say({name: str(path) if path else None for name, path in dataclasses.asdict(files).items()}, as_json=as_json)


def print_failures(wave: str, *, as_json: bool) -> None:
    """Print the failures as a roster, or as JSON."""
    kept = store()
    require(kept, wave)
    summary = read_wave(kept.engine, wave, kept.rules.subjects)
    if as_json:
        document = summary_document(summary)
        failing = {member.email for member in summary.needs_attention}
        say({"wave": wave, "members": [m for m in document["members"] if m["email"] in failing]}, as_json=True)
        return
    content = failures_csv(summary, roster_values(kept.engine, wave))
    sys.stdout.buffer.write(content or b"")
    print_causes(summary, screen(as_json=True), language())


def show_member(email: str, wave: str | None, *, as_json: bool) -> None:
    """Show one member of one wave (the latest, unless told)."""
    kept = store()
    if wave is not None:
        require(kept, wave)
    with reading(kept.engine) as session:
        query = select(Wave.name, Member.email).join(Member, col(Member.wave_id) == col(Wave.id))
        rows = session.exec(query.order_by(col(Wave.id))).all()
    found = [row for row in rows if wave in (None, row[0]) and row[1].casefold() == email.casefold()]
    if not found:
        raise fail(_NO_MEMBER.format(email=email).in_language(language()), Exit.USAGE)
    name, email = found[-1]
    summary = read_wave(kept.engine, name, kept.rules.subjects)
    member = next(m for m in summary.members if m.email == email)
    document = next(m for m in summary_document(summary)["members"] if m["email"] == email)
    if as_json:
        say({"wave": name, **document}, as_json=True)
        return
    console = screen(as_json=False)
    if checked := [each for each in summary.checks if summary.only_checked and each.id == member.id]:
        print_check(checked, console, language())
    else:
        print_summary(dataclasses.replace(summary, members=(member,), invalid_rows=()), console, language())
    for side, user, host in (
        (_OLD_SIDE, member.source_user, member.source_host),
        (_NEW_SIDE, member.target_user, member.target_host),
    ):
        known = member.provider("source" if side is _OLD_SIDE else "target")
        title = "" if known.name == ANYBODY else f" · {known.title.in_language(language())}"
        console.print(plain(f"  {side.in_language(language())} {user} · {host}{title}"))
    for folder in member.folders:
        counts = folder.counts
        console.print(
            plain(f"  {folder.source_name} > {folder.target_name}: {counts.source} = {counts.copied} + "),
            f"{counts.already_there} + {counts.issues}",
        )
        if folder.why:
            why = placement(folder.why).in_language(language())
            told = _ARRIVED_AS.format(source=folder.source_name, target=folder.target_name, why=why)
            console.print(plain(f"    {told.in_language(language())}"))
        if folder.elsewhere:
            console.print(f"    {sentence('seen_elsewhere', n=folder.elsewhere).in_language(language())}")
        if followed := followed_sentence(folder.followed):
            console.print(f"    {followed.in_language(language())}", highlight=False)
    for out in member.left_out:
        why = placement(out.why).in_language(language())
        told = _LEFT_OUT.format(source=out.source_name, n=out.messages, why=why)
        console.print(plain(f"  {told.in_language(language())}"))
    for issue in member.issues:
        title = issue.cause.title.in_language(language())
        console.print(plain(f"  {issue.folder} {name_of(issue.source_uid)}, {issue.size:,} B: {title}"))
        print_heading(issue.subject, issue.sender, console, 4)
    altered = AlteredMessages(kept.engine, name, kept.rules.subjects)
    print_altered(altered.of_member(member.id, 20), console, language(), 2)
    if member.server_text:
        console.print(plain(f"  {member.server_text}"))
    for event in member.events:
        console.print(plain(f"  {event.at:%Y-%m-%d %H:%M:%S} {event.who} {event.what} {event.why}"))


def verify(wave: str, *, deep: bool, as_json: bool) -> None:
    """Compare every member's new mailbox with the ledger."""
    from tasks.verify_member import verify_member

    kept = store()
    require(kept, wave)
    with reading(kept.engine) as session:
        members = session.exec(
            select(Member).join(Wave, col(Wave.id) == col(Member.wave_id)).where(Wave.name == wave)
        ).all()
    results = [verify_member(kept, member, deep=deep) for member in members]
    if as_json:
        say({"wave": wave, "deep": deep, "members": [dataclasses.asdict(r) for r in results]}, as_json=True)
    else:
        console, spoken = screen(as_json=False), language()
        names = {name: text.in_language(spoken) for name, text in alterations().items()}
        for result in results:
            counted = ("present", "checked", "missing", "read_back", "source")
            numbers = {name: f"{getattr(result, name):,}" for name in counted}
            altered = ", ".join(f"{names.get(name, name)} {n}" for name, n in sorted(result.altered.items())) or "-"
            console.print(plain(f"{result.email} {_VERIFIED.format(**numbers, altered=altered).in_language(spoken)}"))
            for found in result.messages[:_TOLD_OF_A_MEMBER]:
                what = ", ".join({"missing": _MISSING.in_language(spoken), **names}.get(n, n) for n in found["found"])
                console.print(plain(f"  {found['folder']} {name_of(found['uid'])}: {what}"))
            if len(result.messages) > _TOLD_OF_A_MEMBER:
                console.print(_MORE_IN_JSON.in_language(spoken))
            if result.hidden:
                console.print(
                    plain(f"  {_HIDDEN.format(hidden=f'{result.hidden:,}').in_language(spoken)}"), style="yellow"
                )
            if result.cause:
                side = _OLD_SIDE if result.side == "source" else _NEW_SIDE
                why = cause_of(result.cause).title.in_language(spoken)
                told = " ".join(part for part in (side.in_language(spoken), why, result.server_text) if part)
                console.print(plain(f"  {told}"), style="yellow")
    if any(
        result.missing or result.hidden or result.cause or _WORTH_A_LOOK & set(result.altered) for result in results
    ):
        raise typer.Exit(Exit.PARTIAL)


def _read(path: Path) -> Roster:
    try:
        # One octet more than is read: a file beyond the limit is refused, and not taken into memory.
        with path.open("rb") as file:
            return read_roster(file.read(RosterLimits().octets + 1), path.name, read_sheet_apart)
    except OSError as error:
        raise fail(f"{path}: {error.strerror}", Exit.USAGE) from None


def _choose_wave(roster: Roster, wave: str | None, path: Path) -> tuple[str, Roster]:
    """The wave to fill, and what belongs to it: rows and problems of rows that name it, and those that name none."""
    names = {row.wave for row in roster.rows} | {problem.wave for problem in roster.problems}
    named = sorted(name for name in names if name)
    if wave is None and len(named) > 1:
        raise fail(_SEVERAL_WAVES.format(names=", ".join(named)).in_language(language()), Exit.USAGE)
    name = wave or (named[0] if named else path.stem)
    rows = tuple(row for row in roster.rows if row.wave in (None, name))
    problems = tuple(problem for problem in roster.problems if problem.wave in ("", name))
    if roster.rows and not rows and not any(problem.wave for problem in problems):
        raise fail(_OTHER_WAVES.format(wave=name, names=", ".join(named)).in_language(language()), Exit.USAGE)
    return name, dataclasses.replace(roster, rows=rows, problems=problems)


def _problems(roster: Roster, unsettled: list[RosterProblem]) -> tuple[InvalidRowSummary, ...]:
    found = [*roster.problems, *unsettled]
    return tuple(
        InvalidRowSummary(p.line, p.column, p.value, p.problem, p.fix) for p in sorted(found, key=lambda p: p.line)
    )


def _rows(problems: tuple[InvalidRowSummary, ...]) -> list[dict[str, Any]]:
    return [
        {
            "line": p.line,
            "column": p.column,
            "value": p.value,
            "problem": p.problem.en,
            "fix": p.fix.en,
            "zh-CN": {"problem": p.problem.zh, "fix": p.fix.zh},
        }
        for p in problems
    ]


def require(kept: Store, wave: str) -> None:
    """Raise NoSuchWave before anything is started."""
    with reading(kept.engine) as session:
        find_wave(session, wave)
