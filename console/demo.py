"""The demo: a small company moves between two mail servers on this machine, three mailboxes fail, the admin mends them.

Everything is real but the servers and the company: the same roster, flows, ledger and reports that an admin uses.
"""

import contextlib
import io
import json
import os
import signal
import socket
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import typer
from rich.console import Console
from rich.panel import Panel

from console.outcome import Exit
from models.bilingual import Language, Text

_WELCOME = Text(
    "两台本机邮件服务器已启动：旧邮箱 {old}，新邮箱 {new}；{people} 个邮箱，{messages} 封邮件。",
    "Two mail servers run on this machine: the old one at {old}, the new one at {new}; "
    "{people} mailboxes, {messages} messages.",
)
_ACTS = {
    "first": Text(
        "第一幕 · 管理员上传名单：banjia migrate members.csv --wave demo",
        "Act 1 · The admin hands over the roster: banjia migrate members.csv --wave demo",
    ),
    "retry": Text(
        "第二幕 · 管理员看报告，改密码、扩容、放宽单封限制，只重试这三个：banjia wave retry demo --roster members.csv",
        "Act 2 · The admin reads the report, corrects a password, gives room, lifts the size limit, and retries "
        "only those three: banjia wave retry demo --roster members.csv",
    ),
    "again": Text(
        "第三幕 · 再运行一次：没有新邮件，就什么也不搬：banjia migrate members.csv --wave demo",
        "Act 3 · Run it once more: no new mail, so nothing moves: banjia migrate members.csv --wave demo",
    ),
}
_END = Text(
    "结束：{members} 个邮箱全部到位，{copied} 封邮件，"
    "用时 {seconds:.1f} 秒（不含 Prefect 启动 {prefect:.1f} 秒）。\n报告：{report}",
    "The end: all {members} mailboxes are in place, {copied} messages, in {seconds:.1f} s "
    "(besides {prefect:.1f} s until Prefect's server was up).\nReport: {report}",
)
_WRONG = Text("演示没有按计划结束：{what}", "The demo did not end as planned: {what}")
_PREFECT = Text("正在启动本机的 Prefect 服务……", "Starting a local Prefect server ...")
_KEPT = Text(
    "服务器保持运行。另开一个终端试试：\n  export BANJIA_HOME={home}\n  banjia wave status demo\n按 Ctrl-C 结束。",
    "The servers stay up. Try in another terminal:\n  export BANJIA_HOME={home}\n  banjia wave status demo\n"
    "Ctrl-C ends them.",
)


class _NotAsPlanned(Exception):
    """An act ended otherwise than the story says."""


def play(*, as_json: bool, keep: bool) -> int:
    """Tell the whole story; 0 when every act ended as planned."""
    _end_at(signal.default_int_handler)
    # The demo never touches the admin's own state.
    home = Path(tempfile.mkdtemp(prefix="banjia-demo-"))
    os.environ["BANJIA_HOME"] = str(home)
    os.environ.pop("PREFECT_API_URL", None)
    from console.terminal import language, screen
    from tasks.prefect_server import settle, stop_server

    console, tongue = screen(as_json=as_json), language()
    try:
        with _servers() as (old, new):
            story = _Story(home, old, new, console, tongue)
            return story.tell(as_json=as_json, keep=keep)
    except _NotAsPlanned as wrong:
        console.print(_WRONG.format(what=wrong).in_language(tongue), style="bold red")
        return Exit.UNEXPECTED
    finally:
        # Asked once more while it ends, it would leave Prefect's server behind.
        _end_at(signal.SIG_IGN)
        settle()
        stop_server(home)


def _end_at(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    """What is done at Ctrl-C, SIGTERM, and when the terminal is closed."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:  # as under nohup
            signal.signal(number, handler)


def _stay() -> None:
    """Wait to be asked to end. A signal that another thread was given wakes nobody here, but Python writes it down."""
    noted, notes = socket.socketpair()
    with noted, notes:
        notes.setblocking(False)
        before = signal.set_wakeup_fd(notes.fileno())
        try:
            while noted.recv(1):
                pass  # the handlers run before the next line, and raise
        finally:
            signal.set_wakeup_fd(before)


@contextlib.contextmanager
def _servers() -> Iterator[tuple[Any, Any]]:
    # Imported here: the demo's servers belong to the deployment, not to the program.
    from deployments.demo import company

    with company.old_company() as old, company.new_company() as new:
        yield old, new


class _Story:
    def __init__(self, home: Path, old: Any, new: Any, console: Console, language: Language) -> None:
        self._home = home
        self._old = old
        self._new = new
        self._console = console
        self._language = language
        self._roster = home / "members.csv"
        self._acts: dict[str, Any] = {}
        self._seconds = 0.0

    def tell(self, *, as_json: bool, keep: bool) -> int:
        from deployments.demo import company

        self._say(
            _WELCOME.format(
                old=f"127.0.0.1:{self._old.port}",
                new=f"127.0.0.1:{self._new.port}",
                people=len(self._old.addresses),
                messages=company.message_count(self._old),
            )
        )
        prefect_seconds = self._start_prefect()

        self._write_roster(mended=False)
        first = self._act("first")
        causes = sorted(m["cause"] for m in first["members"] if m["cause"])
        self._expect(causes == ["bad_credentials", "message_too_large", "over_quota"], f"act 1: {causes}")

        company.give_room(self._new)
        company.allow_large(self._new)
        self._write_roster(mended=True)
        retried = self._act("retry")
        self._expect(retried["counts"]["synced"] == len(retried["members"]), "act 2 left somebody behind")
        self._expect(retried["counts"]["unaccounted"] == 0, "the counts do not add up")

        before = len(self._new.commands("APPEND"))
        again = self._act("again")
        appends = len(self._new.commands("APPEND")) - before
        self._expect(appends == 0 and again["run"]["messages"] == 0, f"act 3 appended {appends} messages")

        self._say(
            _END.format(
                members=len(again["members"]),
                copied=again["counts"]["copied"],
                seconds=self._seconds,
                prefect=prefect_seconds,
                report=again["report"]["html"],
            )
        )
        if as_json:
            typer.echo(json.dumps({"home": str(self._home), "acts": self._acts}, ensure_ascii=False, indent=2))
        if keep:
            with contextlib.suppress(KeyboardInterrupt):
                self._say(_KEPT.format(home=self._home))
                _stay()
        return Exit.DONE

    def _start_prefect(self) -> float:
        from tasks.prefect_server import use_prefect

        began = time.monotonic()
        with self._console.status(_PREFECT.in_language(self._language)):
            use_prefect(self._home)
            import flows.migrate_wave  # noqa: F401  (its import costs seconds that are not the migration's)
        return time.monotonic() - began

    def _write_roster(self, *, mended: bool) -> None:
        from deployments.demo import company

        self._roster.write_text(company.roster_csv(self._old.port, self._new.port, mended=mended), encoding="utf-8-sig")
        self._roster.chmod(0o600)

    def _act(self, name: str) -> dict[str, Any]:
        """Run one command of the story as the admin would, and keep its JSON document."""
        from console import run
        from flows.report_wave import publish_report
        from reports.export import summary_document

        self._console.print()
        self._console.print(Panel(_ACTS[name].in_language(self._language), style="bold"))
        began = time.monotonic()
        # With --json, stdout belongs to the one document at the end.
        quiet = contextlib.redirect_stdout(io.StringIO()) if self._console.stderr else contextlib.nullcontext()
        try:
            with quiet:
                if name == "retry":
                    run.retry("demo", self._roster, as_json=False)
                else:
                    run.move(run.enrol(self._roster, "demo", None, as_json=False), as_json=False)
        except typer.Exit as ended:
            if ended.exit_code not in (Exit.DONE, Exit.PARTIAL):
                raise
        self._seconds += time.monotonic() - began
        published = publish_report("demo")
        document = summary_document(published.summary)
        document["report"] = {"html": str(published.files.html)}
        self._acts[name] = {
            "state": document["state"],
            "run": document["run"],
            "members": [
                {key: member[key] for key in ("email", "state", "cause", "advice", "grade", "messages", "bytes")}
                for member in document["members"]
            ],
            "report": document["report"],
        }
        return document

    def _say(self, text: Text) -> None:
        self._console.print(text.in_language(self._language))

    @staticmethod
    def _expect(holds: bool, otherwise: str) -> None:
        if not holds:
            raise _NotAsPlanned(otherwise)
