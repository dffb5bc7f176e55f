"""Files made to harm are refused by the bound that they break, and only the process that read them ends.

Each is read by a process of its own, which takes a second: pandas and what reads workbooks are loaded there.
"""

import io
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from models.roster import read_roster
from models.roster_apart import read_sheet_apart
from models.roster_file import RosterLimits
from tests.models.test_roster_workbook import _PARTS, _SHEET, text, workbook

HEADER = "EmailAddress,UserName,Password\n"
LIMITS = RosterLimits()
SMALL = replace(LIMITS, octets=4 << 20, expanded=8 << 20, cells=10_000)


def packed(sheet: str) -> bytes:
    """A workbook with that XML as its sheet."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as parts:
        for name, content in _PARTS.items():
            parts.writestr(name, content)
        parts.writestr("xl/worksheets/sheet1.xml", sheet)
    return data.getvalue()


def rows(xml: str, kind: str = "") -> str:
    return f'{kind}<worksheet xmlns="{_SHEET}"><sheetData>{xml}</sheetData></worksheet>'


LAUGHS = "<!DOCTYPE a [" + '<!ENTITY a "' + "x" * 100 + '">'
LAUGHS += "".join(f'<!ENTITY {chr(98 + n)} "{f"&{chr(97 + n)};" * 10}">' for n in range(10)) + "]>"

HOSTILE: dict[str, tuple[bytes, RosterLimits, str]] = {
    "one cell in the last corner": (
        packed(rows('<row r="1048576"><c r="XFD1048576"><v>1</v></c></row>')),
        LIMITS,
        "too-many-columns",
    ),
    "cells with nothing in them": (packed(rows("<row>" + "<c/>" * 400 + "</row>")), SMALL, "empty-file"),
    "a sheet of many rows": (packed(rows(("<row>" + "<c/>" * 100 + "</row>") * 200)), SMALL, "too-many-cells"),
    "a megabyte that unpacks to many": (packed(rows(" " * (9 << 20))), SMALL, "workbook-too-large"),
    "a cell that takes all memory": (
        packed(rows(f'<row><c t="inlineStr"><is><t>{"a" * (100 << 20)}</t></is></c></row>')),
        replace(LIMITS, memory=180 << 20),
        "too-much-memory",
    ),
    "a billion laughs": (packed(rows("<row><c><v>&j;</v></c></row>", LAUGHS)), LIMITS, "unreadable-workbook"),
    "cells that never end": (packed('<c r="A1"' + '<c r="A1">' * 100_000 + "<f"), LIMITS, "unreadable-workbook"),
    "a header of a million columns": (b",".join(b"c%d" % n for n in range(400_000)), SMALL, "too-many-columns"),
    "a file beyond the limit": (b"a" * (5 << 20), SMALL, "file-too-large"),
    "many short rows": ((HEADER + "a@b.example,a@c.example,x\n" * 4000).encode(), SMALL, "too-many-cells"),
    "a quotation mark a line": (b'"\n' * (20 << 20), replace(LIMITS, memory=100 << 20), "too-much-memory"),
    "what takes longer than it may": (
        (HEADER + "a@b.example,a@c.example,x\n" * 600_000).encode(),
        replace(LIMITS, seconds=1),
        "too-much-time",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_file_that_is_no_roster_is_refused_by_the_bound_that_it_breaks(name: str) -> None:
    data, limits, code = HOSTILE[name]
    roster = read_roster(data, "members.csv", lambda octets, called: read_sheet_apart(octets, called, limits))
    assert [problem.code for problem in roster.problems][-1:] == [code]
    assert roster.rows == ()
    [*_, problem] = roster.problems
    if code != "unreadable-workbook":
        assert "members.csv" in problem.problem.zh
        assert "members.csv" in problem.problem.en


def test_a_roster_read_apart_is_the_same_as_one_read_here() -> None:
    example = (Path(__file__).parents[2] / "members.csv.example").read_bytes()
    broken = HEADER.encode() + '"open,x\na@b.example,a@c.example,p"q\n密码@例子.example,a@d.example,"密""码"\n'.encode()
    excel = workbook(
        [text("EmailAddress"), text("UserName"), text("Password")],
        [text("a@b.example"), text("a@c.example"), 't="e"><f>geheim</f><v>#NAME?</v>'],
    )
    for data in (example, broken, broken.decode().encode("gb18030"), excel, b""):
        assert read_roster(data, "members.csv", read_sheet_apart) == read_roster(data, "members.csv")


def test_the_process_that_asks_loads_no_native_reader() -> None:
    """A fault in native code would end it with all that it has under way."""
    data = workbook([text("EmailAddress"), text("UserName"), text("Password")])
    program = (
        "import sys\nfrom models.roster import read_roster\nfrom models.roster_apart import read_sheet_apart\n"
        "print([p.code for p in read_roster(sys.stdin.buffer.read(), 'a.xlsx', read_sheet_apart).problems])\n"
        "print([name for name in ('python_calamine', 'openpyxl', 'xlrd') if name in sys.modules])\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], input=data, capture_output=True, check=True)
    assert ended.stdout.decode().splitlines() == ["['no-rows']", "[]"]
