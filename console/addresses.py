"""`banjia wave addresses`: which new addresses can take mail, and what is wrong with the others."""

from collections import defaultdict

import typer

from console.lines import plain
from console.outcome import Exit
from console.terminal import fail, language, say, screen
from models.addresses import AddressStatus
from models.bilingual import Text
from models.check import Severity, kind
from tasks.addresses import wave_addresses
from tasks.store import store

_NO_BOOK = Text(
    "还没有设置飞书应用。请设置 BANJIA_FEISHU_APP_ID，并运行 banjia vault set feishu。",
    "No Feishu app is set. Set BANJIA_FEISHU_APP_ID, and run banjia vault set feishu.",
)
_ALL_WELL = Text("{n} 个新地址都可以搬入。", "Mail can be moved to all {n} new addresses.")
_TOLD = Text("{n} 个新地址中 {good} 个可以搬入。", "Mail can be moved to {good} of {n} new addresses.")
_HEADING = Text("{title}（{n} 个）", "{title} ({n})")
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
    groups = defaultdict(list)
    for status in found:
        if status.finding:
            groups[status.finding.name].append(status)
    for name, group in sorted(groups.items(), key=lambda item: -len(item[1])):
        about = kind(name, "target")
        heading = _HEADING.format(title=about.title.in_language(spoken), n=len(group))
        console.print(plain(heading.in_language(spoken)), style="bold")
        for status in group:
            console.print(plain(f"  {status.email}  {status.said}".rstrip()))
        console.print(plain(f"  {_CURE.format(advice=about.advice.in_language(spoken)).in_language(spoken)}"))
    told = _TOLD.format(n=len(found), good=len(found) - bad) if bad else _ALL_WELL.format(n=len(found))
    console.print(told.in_language(spoken))


def _document(status: AddressStatus) -> dict[str, object]:
    about = status.finding.kind if status.finding else None
    return {
        "email": status.email,
        "standing": status.standing,
        "mailbox": status.mailbox,
        "finding": status.finding.name if status.finding else None,
        "title": about.title.as_dict() if about else None,
        "advice": about.advice.as_dict() if about else None,
        "said": status.said,
    }
