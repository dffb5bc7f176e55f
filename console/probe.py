"""`banjia probe`: measures a destination and shows what was found as a card."""

import dataclasses
import getpass
import sys
from contextlib import nullcontext

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text as RichText

from console.lines import plain
from console.outcome import Exit
from console.terminal import fail, language, say, screen
from imapcopy.account import Account, Security
from imapcopy.errors import MigrationError
from models.bilingual import Language, Text
from models.columns import now
from models.probe import Probe, find_probe
from models.probe_card import card, worst
from reports.check import SERVER_CAUSES
from reports.probe_page import probe_document, probe_sentence, render_probe
from reports.texts import sentence
from tasks.probe import NoSuchMember, run_probe, target_of, typed_account
from tasks.store import Store, store

_STYLES = {"green": "green", "amber": "yellow", "red": "bold red"}
_WORDS = {"green": "probe_green", "amber": "probe_amber", "red": "probe_red"}
_NO_HOST = Text(
    "请指定 --host 和 --user，或 --wave 批次（用成员的新邮箱测试）。",
    "Name --host and --user, or --wave to use a member's new mailbox.",
)
_NO_MEMBER = Text(
    "“{what}”中没有可以登录新邮箱的成员。", "There is no member of {what!r} whose new mailbox has a password."
)
_NO_PROBE = Text("还没有测试过 {host}。", "{host} has not been probed yet.")
_CANNOT = Text("无法测试 {host}：{why}\n{advice}", "{host} cannot be probed: {why}\n{advice}")
_SAID = Text("服务器原文：{text}", "The server says: {text}")
_PAGE = Text("网页：{path}", "Page: {path}")
_PASSWORD = Text("{user} 的密码：", "Password of {user}: ")
_STEPS = {
    "sign_in": Text("登录", "signing in"),
    "leftovers": Text("查找上次的遗留", "looking for what was left behind"),
    "folders": Text("文件夹", "folders"),
    "append": Text("写入", "appending"),
    "flags": Text("标记", "flags"),
    "messages": Text("各种邮件", "odd messages"),
    "duplicates": Text("相同的邮件", "equal messages"),
    "extensions": Text("加速", "accelerators"),
    "special": Text("特殊文件夹", "special folders"),
    "size_limit": Text("大小上限（上传可达 150 MB）", "size limit (uploads up to 150 MB)"),
    "parallel": Text("同时连接", "connections at once"),
    "clean_up": Text("清理", "cleaning up"),
}


def run(
    host: str | None,
    port: int | None,
    security: Security,
    user: str | None,
    wave: str | None,
    member: str | None,
    *,
    size_limit: bool,
    as_json: bool,
) -> None:
    """Probe and show the card; ends with 3 where a line is red, 5 where the server cannot be reached."""
    kept, spoken = store(), language()
    account = _account(kept, host or kept.settings.target_host, port, security, user, wave, member)
    console = screen(as_json=as_json)
    try:
        with console.status("") if console.is_terminal else nullcontext() as status:

            def told(step: str) -> None:
                if status is not None:
                    status.update(_STEPS[step].in_language(spoken))

            probe = run_probe(kept, account, size_limit=size_limit, told=told)
    except MigrationError as error:
        why, advice = (text.in_language(spoken) for text in (error.cause.title, error.cause.advice))
        message = _CANNOT.format(host=account.server.host, why=why, advice=advice).in_language(spoken)
        said = "\n" + _SAID.format(text=error.server_text).in_language(spoken) if error.server_text else ""
        code = Exit.UNREACHABLE if error.cause_id in SERVER_CAUSES else Exit.PARTIAL
        raise fail(message + said, code) from None
    _shown(kept, probe, as_json=as_json)


def show(host: str, *, as_json: bool) -> None:
    """Show the last probe of a host."""
    kept = store()
    probe = find_probe(kept.engine, host)
    if probe is None:
        raise fail(_NO_PROBE.format(host=host).in_language(language()), Exit.USAGE)
    _shown(kept, probe, as_json=as_json)


def _account(
    kept: Store,
    host: str,
    port: int | None,
    security: Security,
    user: str | None,
    wave: str | None,
    member: str | None,
) -> Account:
    if wave is not None:
        try:
            return target_of(kept, wave, member)
        except NoSuchMember as error:
            raise fail(_NO_MEMBER.format(what=str(error)).in_language(language()), Exit.USAGE) from None
    if not host or not user:
        raise fail(_NO_HOST.in_language(language()), Exit.USAGE)
    return typed_account(kept, host, port, security, user, _password(kept, user))


def _password(kept: Store, user: str) -> str:
    """From the environment, a pipe, or the keyboard; never from an argument, which other people can read."""
    if given := kept.settings.probe_password.get_secret_value():
        return given
    if sys.stdin.isatty():
        return getpass.getpass(_PASSWORD.format(user=user).in_language(language()))
    return sys.stdin.readline().rstrip("\r\n")


def _shown(kept: Store, probe: Probe, *, as_json: bool) -> None:
    at, spoken = now(), language()
    files = render_probe(probe, kept.settings.home / "probes", spoken, at, zone=kept.settings.zone)
    if as_json:
        pages = {name: str(path) for name, path in dataclasses.asdict(files).items()}
        say({**probe_document(probe, at), "pages": pages}, as_json=True)
    else:
        console = screen(as_json=False)
        print_card(probe, console, spoken)
        console.print(_PAGE.format(path=files.html).in_language(spoken))
    if worst(card(probe)) == "red":
        raise typer.Exit(Exit.PARTIAL)


def print_card(probe: Probe, console: Console, spoken: Language) -> None:
    """A line for each capability: light, what was found, what Banjia does about it."""
    at = probe.at.strftime("%Y-%m-%d %H:%M UTC")
    console.print(plain(f"{probe.host}  {at}"), style="bold")
    console.print(plain(probe.greeting), style="dim")
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("probe_capability", "", "probe_said", "probe_does"):
        # A Chinese sentence has no blanks to be broken at.
        table.add_column(sentence(name).in_language(spoken) if name else "", overflow="fold", no_wrap=not name)
    for line in card(probe):
        light = RichText(f"● {sentence(_WORDS[line.light]).in_language(spoken)}", style=_STYLES[line.light])
        texts = [plain(text.in_language(spoken)) for text in (line.title, line.said, line.does)]
        table.add_row(texts[0], light, *texts[1:])
    console.print(table)
    if probe.removed:
        names = ", ".join(probe.removed)
        console.print(plain(sentence("probe_removed", names=names).in_language(spoken)))
    console.print()
    console.print(probe_sentence(probe, now()).in_language(spoken), style="bold")
