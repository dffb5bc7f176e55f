"""Shows the answers of servers that no rule knows, as a table on a terminal and as rules for answers.toml."""

import sys

import typer
from rich.table import Table
from rich.text import Text as RichText

from console.lines import plain
from console.run import require
from console.terminal import language, say, screen
from models.bilingual import Text
from models.causes import cause
from reports.read import read_wave
from reports.texts import sentence, stages
from reports.unknown import UnknownAnswer, rules_text, unknown_answers, unknown_document
from tasks.store import store

_NONE = Text("没有不认识的答复。", "There is no answer that is not known.")
_HEAD = Text(
    "# 不认识的服务器答复。为每条选好 cause（见 docs/causes.md），存成 BANJIA_HOME 下的 answers.toml。",
    "# Answers that are not known. Choose the cause of each (docs/causes.md); keep them in BANJIA_HOME as answers.toml",
)


def show(wave: str, *, as_json: bool) -> None:
    """The rules go to stdout, so that they can be kept as a file; the table beside them."""
    kept = store()
    require(kept, wave)
    found = unknown_answers(read_wave(kept.engine, wave))
    if as_json:
        say({"wave": wave, "unknown_answers": unknown_document(found)}, as_json=True)
        return
    beside = screen(as_json=True)
    if not found:
        beside.print(_NONE.in_language(language()))
        return
    beside.print(_table(found))
    typer.echo(f"{_HEAD.in_language(language())}\n\n{rules_text(found)}", nl=False, file=sys.stdout)


def _table(found: tuple[UnknownAnswer, ...]) -> Table:
    spoken = language()
    table = Table(title=sentence("unknown_answers").in_language(spoken))
    for name in ("unknown_line", "unknown_where", "unknown_taken_for", "members", "unknown_count"):
        table.add_column(sentence(name).in_language(spoken), overflow="fold")
    for each in found:
        step, side = stages()[each.stage].in_language(spoken), _SIDES.get(each.side)
        where = " · ".join(part for part in (step, side.in_language(spoken) if side else "", each.host) if part)
        taken_for = cause(each.cause).title.in_language(spoken)
        table.add_row(plain(each.line), plain(where), RichText(taken_for), f"{each.members:,}", f"{each.count:,}")
    return table


_SIDES = {"source": Text("旧邮箱", "old mailbox"), "target": Text("新邮箱", "new mailbox")}
