"""`banjia host`: what is known of mail servers, and what an admin sets; a running wave follows within seconds."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from rich.table import Table
from rich.text import Text as RichText

from console.lines import plain
from console.outcome import Exit
from console.terminal import fail, language, say, screen
from models import hosts
from models.bilingual import Text
from models.causes import cause
from models.columns import now
from models.hosts import Claim, Host
from tasks.pauses import ring
from tasks.store import store

_NO_CAP = 1 << 30
_UNKNOWN = Text(
    "没有用过名为“{what}”的邮件服务器。已知的有：{known}", "No mail server {what!r} has been used. Known: {known}"
)
_NOTHING = Text("请给出 --connections 或 --logins-a-minute。", "Give --connections or --logins-a-minute.")
_NONE = Text("还没有用过任何邮件服务器。", "No mail server has been used yet.")
_HEADS = (
    Text("服务器", "Server"),
    Text("连接：占用 / 等待", "Connections: held / wanted"),
    Text("上限：设定 / 测得", "Cap: set / learned"),
    Text("每分钟登录", "Logins a minute"),
    Text("现状", "Now"),
)
_OPEN = Text("正常", "open")
_PAUSED = Text("暂停到 {until}：{why}", "left alone until {until}: {why}")
_LOGINS = Text("暂停新登录到 {until}：{why}", "no new sign-ins until {until}: {why}")
_BY_ADMIN = Text("管理员", "by the admin")


def show_all(*, as_json: bool) -> None:
    """Every server that was ever used."""
    _say(hosts.all_hosts(store().engine), as_json=as_json)


def show(name: str, *, as_json: bool) -> None:
    """One server."""
    name = _known(name)
    _say([each for each in hosts.all_hosts(store().engine) if each[0].name == name], as_json=as_json)


def set_limits(name: str, connections: int | None, logins_a_minute: int | None, *, as_json: bool) -> None:
    """Set the admin's cap or pace; 0 takes it back. What was learned is forgotten with a new cap."""
    if connections is None and logins_a_minute is None:
        raise fail(_NOTHING.in_language(language()), Exit.USAGE)
    with hosts.changing(store().engine, name.lower()) as (_, host):
        if connections is not None:
            host.connections, host.learned, host.learned_at = connections or None, None, None
        if logins_a_minute is not None:
            host.logins_a_minute, host.next_login_at = logins_a_minute or None, None
    ring(store().settings)
    show(name, as_json=as_json)


def pause(name: str, minutes: int, *, as_json: bool) -> None:
    """Leave a server alone for so long, whoever uses it."""
    at = now()
    with hosts.changing(store().engine, name.lower()) as (_, host):
        host.paused_until = at + timedelta(minutes=minutes)
        host.cause, host.words, host.paused_by = "", "", "admin"
    ring(store().settings)
    show(name, as_json=as_json)


def resume(name: str, *, as_json: bool) -> None:
    """End a server's pauses; members that waited for it are begun at once."""
    with hosts.changing(store().engine, _known(name)) as (_, host):
        host.paused_until = host.logins_paused_until = None
        host.pauses, host.recent = 0, "[]"
    ring(store().settings)
    show(name, as_json=as_json)


def _known(name: str) -> str:
    names = [host.name for host, _ in hosts.all_hosts(store().engine)]
    if name.lower() not in names:
        known = ", ".join(names) or "-"
        raise fail(_UNKNOWN.format(what=name, known=known).in_language(language()), Exit.USAGE)
    return name.lower()


def _say(found: list[tuple[Host, Mapping[str, Claim]]], *, as_json: bool) -> None:
    at = now()
    if as_json:
        say({"hosts": [_document(host, claims, at) for host, claims in found]}, as_json=True)
        return
    if not found:
        screen(as_json=False).print(_NONE.in_language(language()))
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in _HEADS:
        table.add_column(head.in_language(language()), overflow="fold")
    for host, claims in found:
        held, wanted = (sum(getattr(claim, name) for claim in claims.values()) for name in ("slots", "wanted"))
        learned = hosts.cap(host, _NO_CAP, at) if host.learned else None
        table.add_row(
            plain(host.name),
            f"{held} / {wanted}",
            f"{host.connections or '-'} / {learned or '-'}",
            str(host.logins_a_minute or "-"),
            _now(host, at),
        )
    screen(as_json=False).print(table)


def _now(host: Host, at: datetime) -> RichText:
    for until, told in ((host.paused_until, _PAUSED), (host.logins_paused_until, _LOGINS)):
        if until is not None and until > at:
            why = _BY_ADMIN if host.paused_by == "admin" else cause(host.cause).title
            text = told.format(until=f"{until:%H:%M:%S} UTC", why=why.in_language(language())).in_language(language())
            return plain(f"{text} {host.words}".rstrip())
    return RichText(_OPEN.in_language(language()))


def _document(host: Host, claims: Mapping[str, Claim], at: datetime) -> dict[str, Any]:
    def ahead(moment: datetime | None) -> str | None:
        return moment.isoformat(timespec="seconds") if moment is not None and moment > at else None

    return {
        "host": host.name,
        "connections": {
            "set": host.connections,
            "learned": hosts.cap(host, _NO_CAP, at) if host.learned else None,
            "held": sum(claim.slots for claim in claims.values()),
            "wanted": sum(claim.wanted for claim in claims.values()),
        },
        "logins_a_minute": host.logins_a_minute,
        "paused_until": ahead(host.paused_until),
        "logins_paused_until": ahead(host.logins_paused_until),
        "cause": host.cause,
        "server_text": host.words,
        "paused_by": host.paused_by,
        "runners": {runner: {"slots": claim.slots, "wanted": claim.wanted} for runner, claim in claims.items()},
    }
