"""The table of `make fidelity`: mail moved through every pair of Dovecot, Cyrus and Courier, compared octet by octet.

    python -m tests.fidelity [--corpus DIRECTORY] [--pair NAME-NAME] [--details] [--markdown] [--json FILE]

Exits with 1 when anything differs of which the report has no word, or has no name for.
"""

import argparse
import json
import os
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tests.fidelity.corpus import corpus
from tests.fidelity.hazards import Hazard, hazards
from tests.fidelity.moves import OF_THE_REST, OF_THE_TEXT, Loading, Move, RealServer, load, move
from tests.servers.courier import Courier
from tests.servers.cyrus import Cyrus
from tests.servers.dovecot import Dovecot

KINDS: tuple[type[Any], ...] = (Dovecot, Cyrus, Courier)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fidelity")
    parser.add_argument("--corpus", type=Path, help="a directory of .eml and .mbox files; also BANJIA_CORPUS")
    parser.add_argument("--pair", default="", help="only this one: Cyrus-Courier")
    parser.add_argument("--details", action="store_true", help="name each message that is not identical")
    parser.add_argument("--markdown", action="store_true", help="print the tables of docs/fidelity.md")
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    directory = given.corpus or (Path(found) if (found := os.environ.get("BANJIA_CORPUS")) else None)
    mail = corpus(directory) if directory else hazards()
    if not mail:
        parser.error(f"no .eml and no .mbox file below {directory}")
    begun = time.monotonic()
    loadings, moves = run(mail, given.pair)
    print(loading_table(len(mail), loadings), table(moves), sep="\n\n")
    if given.details:
        print("", *details(moves), sep="\n")
    if given.markdown:
        print("", markdown(stored_cells(loadings)), "", markdown(moved_cells(loadings, moves)), sep="\n")
    print(f"\n{time.monotonic() - begun:.0f} s")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps(figures(loadings, moves), indent=1, ensure_ascii=False))
    return 0 if all(each.is_right for each in moves) else 1


def run(mail: Sequence[Hazard], pair: str = "") -> tuple[list[Loading], list[Move]]:
    """Load the mail into each server and move it into each, or only as the pair says."""
    source_kind, _, target_kind = pair.partition("-")
    moves: list[Move] = []
    with running(KINDS) as servers, tempfile.TemporaryDirectory() as state:
        loaded = [(s, load(s, mail)) for s in servers if source_kind in ("", type(s).__name__)]
        for source, loading in loaded:
            for target in servers:
                if target_kind in ("", type(target).__name__):
                    user = f"from_{loading.server.lower()}"
                    moves.append(move(source, loading, target, user, Path(tempfile.mkdtemp(dir=state))))
                    print(f"{moves[-1].pair} moved", file=sys.stderr, flush=True)
    return [loading for _, loading in loaded], moves


@contextmanager
def running(kinds: Iterable[type[Any]]) -> Iterator[list[RealServer]]:
    """A server of each kind, under a directory of its own."""
    with ExitStack() as stack:
        servers: list[RealServer] = []
        for kind in kinds:
            directory = Path(tempfile.mkdtemp(prefix=f"{kind.__name__.lower()}-"))
            directory.chmod(0o711)
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            servers.append(stack.enter_context(kind(directory)))
        yield servers


def loading_table(messages: int, loadings: Sequence[Loading]) -> str:
    """What the servers did to the mail while it was stored, before anything was moved."""
    rows = [("loaded into", "messages", "altered while stored", "refused")]
    for loading in loadings:
        altered, refused = Counter(loading.altered.values()), Counter(loading.refused.values())
        rows.append((loading.server, str(messages), _counted(altered), _counted(refused)))
    return _aligned(rows)


def table(moves: Sequence[Move]) -> str:
    rows = [
        (
            *("pair", "messages", "identical", "text altered", "date, flags", "issues"),
            *("unexplained", "silent", "false alarms", "misnamed", "failure"),
        )
    ]
    for each in moves:
        found = each.found
        rows.append(
            (
                each.pair,
                *(str(each.messages), str(each.identical)),
                _counted({name: found[name] for name in OF_THE_TEXT}),
                _counted({name: found[name] for name in OF_THE_REST}),
                _counted(each.issues),
                *(
                    str(each.unexplained),
                    str(each.silent),
                    str(each.false_alarms),
                    str(len(each.misnamed)),
                    each.failure,
                ),
            )
        )
    return _aligned(rows)


def details(moves: Sequence[Move]) -> Iterator[str]:
    for each in moves:
        for name, outcome in sorted(each.outcomes.items()):
            if outcome:
                told = each.rows.get(name)
                named = f' ("{told.subject}", {told.sender})' if told and told.subject is not None else ""
                yield f"{each.pair}: {name}: {', '.join(sorted(outcome))}{named}"


Cells = dict[str, dict[str, str]]
"""Rows by the name of a message, in them the cells by the name of a column."""


def stored_cells(loadings: Sequence[Loading]) -> Cells:
    """What became of each message when it was stored: `=` where nothing did."""
    return {
        name: {
            loading.server: "refused" if name in loading.refused else loading.altered.get(name, "=")
            for loading in loadings
        }
        for name in loadings[0].names
    }


def moved_cells(loadings: Sequence[Loading], moves: Sequence[Move]) -> Cells:
    """What became of each message when it was moved: `=` where nothing did, nothing where it could not be stored."""
    return {
        name: {
            each.pair: (", ".join(sorted(each.outcomes[name])) or "=") if name in each.outcomes else ""
            for each in moves
        }
        for name in loadings[0].names
    }


def markdown(cells: Cells) -> str:
    """As a table, without the rows in which nothing happened."""
    columns = list(next(iter(cells.values())))
    lines = ["| message | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for name, row in cells.items():
        if set(row.values()) - {"=", ""}:
            lines.append(f"| {name} | " + " | ".join(row[column] for column in columns) + " |")
    return "\n".join(lines)


def from_markdown(text: str, first_column: str) -> Cells:
    """The rows of the table with that column after the message's name."""
    lines = iter(text.splitlines())
    columns: list[str] = []
    for line in lines:
        if line.startswith(f"| message | {first_column} |"):
            columns = _cells_of(line)
            break
    next(lines)
    found: Cells = {}
    for line in lines:
        if not line.startswith("|"):
            break
        name, *row = _cells_of(line)
        found[name] = dict(zip(columns[1:], row, strict=True))
    return found


def _cells_of(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split("|")]


def figures(loadings: Sequence[Loading], moves: Sequence[Move]) -> dict[str, Any]:
    return {
        "loaded": [
            {"server": loading.server, "altered": loading.altered, "refused": loading.refused} for loading in loadings
        ],
        "moves": [
            {
                **{name: getattr(each, name) for name in ("source", "target", "messages", "identical")},
                "differences": {name: each.found[name] for name in (*OF_THE_TEXT, *OF_THE_REST) if each.found[name]},
                "issues": dict(each.issues),
                "told": dict(each.told),
                **{name: getattr(each, name) for name in ("unexplained", "silent", "false_alarms", "failure")},
                "outcomes": {name: sorted(outcome) for name, outcome in each.outcomes.items() if outcome},
            }
            for each in moves
        ],
    }


def _counted(counts: "Counter[str] | dict[str, int]") -> str:
    return ", ".join(f"{n} {name}" for name, n in counts.items() if n) or "-"


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


if __name__ == "__main__":
    sys.exit(main())
