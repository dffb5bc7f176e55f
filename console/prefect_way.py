"""The way to Prefect: the server that commands use, what is wrong with it, and its pages."""

import os

import typer

from console.outcome import Exit
from console.terminal import fail, language, say
from models.bilingual import Text
from tasks import prefect_server
from tasks.settings import settings

_OPEN = Text(
    "警告：旧版 banjia 启动的 Prefect 服务（进程 {pid}）没有密码，本机任何用户都能借它运行命令。"
    "运行 banjia prefect start 换成有密码的。",
    "Warning: the Prefect server that an older banjia started (process {pid}) has no password: every user of this "
    "machine can run commands through it. Run banjia prefect start, which replaces it.",
)
_NOT_RUNNING = Text(
    "本机的 Prefect 服务没有运行；启动：banjia prefect start",
    "The local Prefect server does not run; start it with: banjia prefect start",
)
_NOT_OURS = Text(
    "PREFECT_API_URL 指向您自己的 Prefect 服务（{url}），请按它自己的方式登录其页面。",
    "PREFECT_API_URL names a Prefect server of your own ({url}); sign in to its pages as it asks for.",
)


def use_prefect() -> str:
    """Have Prefect reachable for this process, and say on stderr what is wrong with an admin's own server."""
    own = not os.environ.get("PREFECT_API_URL")
    url = prefect_server.use_prefect(settings().home)
    for danger in [] if own else prefect_server.dangers():
        typer.echo(danger.in_language(language()), err=True)
    return url


def show_status(*, as_json: bool) -> None:
    """Whether the local server runs, and where."""
    home = settings().home
    server = prefect_server.running_server(home)
    if old := prefect_server.open_server(home):
        typer.echo(open_server_told(old).in_language(language()), err=True)
    say({"running": server is not None, "ui": server.ui if server else None}, as_json=as_json)


def show_link(*, as_json: bool) -> None:
    """The link that signs a browser in; typer.Exit when there is none."""
    if url := os.environ.get("PREFECT_API_URL"):
        raise fail(_NOT_OURS.format(url=url).in_language(language()), Exit.USAGE)
    server = prefect_server.running_server(settings().home)
    if server is None:
        raise fail(_NOT_RUNNING.in_language(language()), Exit.UNREACHABLE)
    say({"link": prefect_server.sign_in_link(settings().home, server)}, as_json=as_json)


def open_server_told(server: prefect_server.RunningServer) -> Text:
    return _OPEN.format(pid=server.pid)
