"""Shows where each folder of a wave's members would go, and why."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table

from console.lines import plain
from console.outcome import Exit
from console.prefect_way import use_prefect
from console.terminal import language, say, screen
from models.bilingual import Language, Text
from models.causes import cause
from reports.texts import placement, roles
from tasks.store import store

if TYPE_CHECKING:
    from imapcopy.plan_mailbox import PlannedFolder
    from tasks.plan_member import MemberPlan

_HEADS = (
    Text("源文件夹", "Source folder"),
    Text("目标文件夹", "Target folder"),
    Text("邮件", "Messages"),
    Text("种类", "Role"),
    Text("依据", "Why"),
)
_NEW = Text("（新建）", " (new)")
_NOT_MOVED = Text("不搬", "not moved")
_SAME_NAME = Text("名称不变", "the same name")
_CANNOT = Text("无法查看：{why}", "cannot be looked at: {why}")
_HINT = Text(
    "没有写入任何邮箱。新服务器拒绝的名称要到建立文件夹时才知道，那时会换一个名称，并写进报告。",
    "Nothing was written to any mailbox. Names that the new server refuses show only when folders are made: they get "
    "another name then, and the report says so.",
)


def show(wave: str, *, as_json: bool) -> None:
    """Run the plan flow here and print what it found; ends with 3 when some member could not be looked at."""
    from console.run import require

    kept = store()
    require(kept, wave)
    kept.vault.check()
    use_prefect()
    from flows.plan_wave import plan_wave

    members: list[MemberPlan] = plan_wave(wave)
    if as_json:
        say({"wave": wave, "members": [_document(member) for member in members]}, as_json=True)
    else:
        print_plan(members, screen(as_json=False), language())
    if any(member.cause for member in members):
        raise typer.Exit(Exit.PARTIAL)


def print_plan(members: Sequence["MemberPlan"], console: Console, spoken: Language) -> None:
    """A table for each member."""
    for member in members:
        console.print(plain(member.email), style="bold")
        if member.cause:
            why = cause(member.cause).title.in_language(spoken)
            console.print(plain("  " + _CANNOT.format(why=why).in_language(spoken)), style="yellow")
            continue
        table = Table(box=None, pad_edge=False, header_style="bold")
        for head in _HEADS:
            right = head is _HEADS[2]
            table.add_column(head.in_language(spoken), justify="right" if right else "left")
        for folder in member.folders:
            table.add_row(*(plain(text) for text in _row(folder, spoken)), style="" if folder.target_name else "dim")
        console.print(table)
        console.print()
    console.print(_HINT.in_language(spoken))


def _row(folder: "PlannedFolder", spoken: Language) -> tuple[str, ...]:
    new = _NEW.in_language(spoken) if folder.new else ""
    return (
        folder.source_name,
        folder.target_name + new if folder.target_name else _NOT_MOVED.in_language(spoken),
        "-" if folder.messages is None else f"{folder.messages:,}",
        roles()[folder.role].in_language(spoken) if folder.role in roles() else "",
        placement(folder.why).in_language(spoken) if folder.why else "",
    )


def _document(member: "MemberPlan") -> dict[str, Any]:
    return {
        "email": member.email,
        "cause": member.cause,
        "side": member.side or None,
        "folders": [_folder(folder) for folder in member.folders if folder.target_name],
        "left_out": [_folder(folder) for folder in member.folders if not folder.target_name],
    }


def _folder(folder: "PlannedFolder") -> dict[str, Any]:
    return {
        "source_name": folder.source_name,
        "target_name": folder.target_name or None,
        "new": folder.new,
        "role": folder.role or None,
        "why": folder.why or "same_name",
        "reason": (placement(folder.why) if folder.why else _SAME_NAME).as_dict(),
        "messages": folder.messages,
    }
