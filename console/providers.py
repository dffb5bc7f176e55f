"""Shows what is known of mail services: a list, one of them as an admin or a member needs it, and a file to fill in."""

from typing import Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text as RichText

from console.lines import plain
from console.outcome import Exit
from console.terminal import fail, language, say, screen
from models.bilingual import LANGUAGES, Language, Text
from models.providers import (
    ANYBODY,
    STEPS,
    MailServer,
    Provider,
    provider_meant,
    provider_named,
    providers,
    providers_template,
    similar_words,
)
from reports.texts import human_bytes
from tasks.settings import know_own_providers

_HEADS = (
    Text("名称", "Name"),
    Text("服务商", "Provider"),
    Text("IMAP 服务器", "IMAP server"),
    Text("登录方式", "Sign-in"),
    Text("名单中的其他写法", "Other words for it in a roster"),
)
_OWN_SERVER = Text("公司自己的服务器", "the company's own")
_UNKNOWN = Text("没有“{name}”这个服务商。", "There is no provider {name!r}.")
_NEAR = Text("是否指：{near}？", "Is one of these meant: {near}?")
_ROWS = {
    "imap": Text("IMAP 服务器", "IMAP server"),
    "smtp": Text("SMTP 服务器", "SMTP server"),
    "user_name": Text("账号", "Login"),
    "secret": Text("密码", "Password"),
    "mechanisms": Text("登录机制", "Mechanisms"),
    "master": Text("管理员代登录", "Sign-in by an administrator"),
    "mailbox_connections": Text("每个邮箱的连接数", "Connections a mailbox"),
    "connections": Text("连接数", "Connections"),
    "logins_a_minute": Text("每分钟登录次数", "Sign-ins a minute"),
    "connect_seconds": Text("最长问候时间（秒）", "Longest until it greets (s)"),
    "silence_seconds": Text("最长沉默时间（秒）", "Longest silence (s)"),
    "answer_seconds": Text("答复须有进展的时间（秒）", "An answer gets on within (s)"),
    "largest_message": Text("单封邮件上限", "Largest message"),
    "download_a_day": Text("每个邮箱每天下载", "Read a day and mailbox"),
    "upload_a_day": Text("每个邮箱每天上传", "Written a day and mailbox"),
}
_USER_NAMES = {
    "address": Text("完整邮箱地址", "the full address"),
    "local_part": Text("地址中 @ 之前的部分", "what stands before the @"),
}
_SECRETS = {
    "client_password": Text("客户端专用密码", "password for mail clients"),
    "password": Text("登录密码", "login password"),
    "oauth": Text("OAuth 授权", "OAuth"),
}
_BESIDE = Text("与成员的名字分开发送（PLAIN）", "named beside the member (PLAIN)")
_TURN = {"admin": Text("管理员", "admin"), "member": Text("成员", "member")}
_QUIRKS = Text("注意", "Good to know")
_SOURCES = Text("来源：{words}", "Sources: {words}")
_ASSUMED = Text("没有来源、属于推断的字段：{words}", "Assumed, read nowhere: {words}")
_OCTETS = ("largest_message", "download_a_day", "upload_a_day")


def show_all(*, as_json: bool) -> None:
    """List every provider of the table in force."""
    know_own_providers()
    if as_json:
        say({"providers": [document(row) for row in providers()]}, as_json=True)
        return
    spoken = language()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, head in enumerate(_HEADS):
        table.add_column(head.in_language(spoken), overflow="fold", no_wrap=number == 0)
    for row in providers():
        if row.name != ANYBODY:
            servers = row.imap[0].host if row.imap else _OWN_SERVER.in_language(spoken)
            secrets = ", ".join(_SECRETS[each].in_language(spoken) for each in row.secrets)
            words = ("、" if spoken == "zh-CN" else ", ").join(row.aliases)
            table.add_row(row.name, row.title.in_language(spoken), servers, secrets, words)
    screen(as_json=False).print(table)


def show_one(written: str, *, as_json: bool) -> None:
    """Show one provider: servers, sign-in, limits, and the steps of admin and member."""
    know_own_providers()
    row = provider_meant(written)
    if row is None:
        meant = [provider_named(name) for name in similar_words(written)]
        near = ", ".join(f"{each.name} ({each.title.in_language(language())})" for each in meant)
        told = _UNKNOWN.format(name=written).in_language(language())
        raise fail(f"{told} {_NEAR.format(near=near).in_language(language())}" if near else told, Exit.USAGE)
    if as_json:
        say(document(row), as_json=True)
    else:
        _print(row, screen(as_json=False), language())


def print_template() -> None:
    """Print a providers.toml to begin an own table with."""
    typer.echo(providers_template(language()), nl=False)


def document(row: Provider) -> dict[str, Any]:
    """A row as JSON; what is not known is null or empty."""
    return {
        "name": row.name,
        "title": row.title.as_dict(),
        "aliases": list(row.aliases),
        "imap": [_server(each) for each in row.imap],
        "smtp": [_server(each) for each in row.smtp],
        "hosts": list(row.hosts),
        "domains": list(row.domains),
        "mx": list(row.mx),
        "cname": list(row.cname),
        "greeting": row.greeting or None,
        "mechanisms": list(row.mechanisms),
        "user_name": row.user_name,
        "master": row.master or None,
        "authorization_identity": row.authorization_identity,
        "secrets": list(row.secrets),
        "secret_name": row.secret_name.as_dict() if row.secret_name else None,
        "limits": {
            name: getattr(row, name) for name in ("connections", "mailbox_connections", "logins_a_minute", *_OCTETS)
        },
        "steps": {
            kind: {
                "turn": turn,
                "title": title.as_dict(),
                **{spoken: [step.in_language(spoken) for step in row.steps[kind]] for spoken in LANGUAGES},
            }
            for kind, (turn, title) in STEPS.items()
            if kind in row.steps
        },
        "quirks": [each.as_dict() for each in row.quirks],
        "sources": dict(row.sources),
    }


def _server(server: MailServer) -> dict[str, Any]:
    area = server.area.as_dict() if server.area else None
    return {"host": server.host, "port": server.port, "security": server.security, "area": area}


def _print(row: Provider, console: Console, spoken: Language) -> None:
    console.print(RichText(f"{row.title.in_language(spoken)} ({row.name})", style="bold"))
    facts = Table.grid(padding=(0, 2))
    for name, values in _facts(row, spoken):
        facts.add_row(plain(f"  {_ROWS[name].in_language(spoken)}"), RichText("\n").join(map(plain, values)))
    console.print(facts)
    for kind, (turn, title) in STEPS.items():
        if kind in row.steps:
            console.print()
            console.print(RichText(f"  {title.in_language(spoken)} · {_TURN[turn].in_language(spoken)}", style="bold"))
            for number, step in enumerate(row.steps[kind], 1):
                console.print(plain(f"    {number}. {step.in_language(spoken)}"))
    if row.quirks:
        console.print()
        console.print(RichText(f"  {_QUIRKS.in_language(spoken)}", style="bold"))
        for quirk in row.quirks:
            console.print(plain(f"    - {quirk.in_language(spoken)}"))
    console.print()
    read = {name: told for name, told in row.sources.items() if told != "assumed"}
    for head, words in (
        (_SOURCES, sorted({each.strip() for told in read.values() for each in told.split(";")})),
        (_ASSUMED, sorted(row.sources.keys() - read.keys())),
    ):
        if words:
            console.print(plain("  " + head.format(words="; ".join(words)).in_language(spoken)), style="dim")


def _facts(row: Provider, spoken: Language) -> list[tuple[str, list[str]]]:
    """Name and values of each line that has any."""

    def servers(found: tuple[MailServer, ...]) -> list[str]:
        return [f"{each}" + (f"  {each.area.in_language(spoken)}" if each.area else "") for each in found]

    masters = [_BESIDE.in_language(spoken)] if row.authorization_identity else []
    masters += [row.master] if row.master else []
    secret = row.secret_name.in_language(spoken) if row.secret_name else ""
    told: list[tuple[str, list[str]]] = [
        ("imap", servers(row.imap) or [_OWN_SERVER.in_language(spoken)]),
        ("smtp", servers(row.smtp)),
        ("user_name", [_USER_NAMES[row.user_name].in_language(spoken)] if row.user_name else []),
        ("secret", [secret] if secret else [_SECRETS[each].in_language(spoken) for each in row.secrets[:1]]),
        ("mechanisms", [", ".join(row.mechanisms)] if row.mechanisms else []),
        ("master", masters),
    ]
    for name in ("connections", "mailbox_connections", "logins_a_minute", *_OCTETS):
        value = getattr(row, name)
        if value is not None:
            told.append((name, [human_bytes(value) if name in _OCTETS else str(value)]))
    return [(name, values) for name, values in told if values]
