"""`banjia wave addresses`: which new addresses can take mail, and what is wrong with the others."""

from collections import Counter

import typer

from console.live import plain
from console.outcome import Exit
from console.terminal import fail, language, say, screen
from models.addresses import AddressStatus
from models.bilingual import Text
from models.check import Severity
from tasks.addresses import wave_addresses
from tasks.store import store

_NO_BOOK = Text(
    "还没有设置飞书应用。请设置 BANJIA_FEISHU_APP_ID，并运行 banjia vault set feishu。",
    "No Feishu app is set. Set BANJIA_FEISHU_APP_ID, and run banjia vault set feishu.",
)
_ALL_WELL = Text("{n} 个新地址都可以搬入。", "Mail can be moved to all {n} new addresses.")
_TOLD = Text("{n} 个新地址中 {good} 个可以搬入。", "Mail can be moved to {good} of {n} new addresses.")
_CURE = Text("处理方法：{advice}", "What to do: {advice}")


def show(wave: str, *, as_json: bool) -> None:
    """Ask, show by what is the matter, and end with 3 when an address cannot take mail."""
    found = wave_addresses(store(), wave)
    if found is None:
        raise fail(_NO_BOOK.in_language(language()), Exit.USAGE)
    bad = [status for status in found if status.finding and status.finding.severity != Severity.TELLS]
    if as_json:
        say({"wave": wave, "addresses": [_document(status) for status in found]}, as_json=True)
    else:
        _print(found, len(bad))
    if bad:
        raise typer.Exit(Exit.PARTIAL)


def _print(found: list[AddressStatus], bad: int) -> None:
    console, spoken = screen(as_json=False), language()
    counted = Counter(status.finding.name for status in found if status.finding)
    for name, _ in counted.most_common():
        group = [status for status in found if status.finding and status.finding.name == name]
        kind = group[0].finding.kind if group[0].finding else None
        if kind is None:
            continue
        console.print(f"{kind.title.in_language(spoken)} ({len(group)})", style="bold")
        for status in group:
            console.print(plain(f"  {status.email}  {status.said}".rstrip()))
        console.print(f"  {_CURE.format(advice=kind.advice.in_language(spoken)).in_language(spoken)}")
    told = _TOLD.format(n=len(found), good=len(found) - bad) if bad else _ALL_WELL.format(n=len(found))
    console.print(told.in_language(spoken))


def _document(status: AddressStatus) -> dict[str, object]:
    kind = status.finding.kind if status.finding else None
    return {
        "email": status.email,
        "standing": status.standing,
        "mailbox": status.mailbox,
        "finding": status.finding.name if status.finding else None,
        "title": kind.title.as_dict() if kind else None,
        "advice": kind.advice.as_dict() if kind else None,
        "said": status.said,
    }
