"""From the bytes of an upload to its header and rows of text: encoding, delimiter, quotes, Excel workbooks.

Rows are counted here, before anything else looks at them: pandas moves every cell one column over, silently, when
a row has a field too many, and a password would end up in another column. Files come from strangers: `roster_apart.py`
has them read in a process of its own, and what is larger than a roster is refused by name (`RosterLimits`).
"""

import codecs
import csv
import datetime
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import IO, NamedTuple
from xml.etree import ElementTree  # expat bounds what entities grow to, and reading has bounds of its own

from models.roster_columns import column_of
from models.roster_problems import RosterProblem, roster_problem

_DELIMITERS = (",", ";", "\t")
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# .xlsx and .ods are zip files, .xls and password-protected .xlsx are OLE files.
_WORKBOOK_MARKS = (b"PK\x03\x04", b"PK\x05\x06", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1")


@dataclass(frozen=True, slots=True)
class RosterLimits:
    """What a roster is refused beyond: ten times what the largest company needs."""

    octets: int = 50 << 20
    expanded: int = 300 << 20
    """Octets of a workbook once it is unpacked."""
    columns: int = 500
    cells: int = 3_000_000
    memory: int = 350 << 20
    """Octets of memory that reading may take."""
    seconds: int = 30
    """Of processor time."""


class TooLarge(Exception):
    """A file beyond a limit; the code of the problem that says which."""

    def __init__(self, code: str, *, most: int) -> None:
        self.code = code
        self.most = most
        super().__init__(code)


class Record(NamedTuple):
    line: int
    cells: tuple[str, ...]


@dataclass
class Sheet:
    """What stands in the file. Rows of the wrong shape are in `problems` and counted in `total`, not in `records`."""

    encoding: str = ""
    delimiter: str = ""
    header: Record | None = None
    records: list[Record] = field(default_factory=list, repr=False)
    total: int = 0
    problems: list[RosterProblem] = field(default_factory=list)
    # line -> column index -> code: cells that Excel has changed before we saw them
    damage: dict[int, dict[int, str]] = field(default_factory=dict)


def read_sheet(data: bytes, name: str, limits: RosterLimits = RosterLimits()) -> Sheet:
    """Read an upload of any kind; a file that cannot be read is a sheet without header, with its problem."""
    try:
        if len(data) > limits.octets:
            raise TooLarge("file-too-large", most=limits.octets >> 20)
        return (
            _read_workbook(data, name, limits) if data.startswith(_WORKBOOK_MARKS) else _read_text(data, name, limits)
        )
    except TooLarge as beyond:
        return refused_sheet(beyond, name)


def refused_sheet(beyond: TooLarge, name: str) -> Sheet:
    """Nothing of a file, and why."""
    return Sheet(problems=[roster_problem(beyond.code, 1, name=name, most=beyond.most)])


def _read_text(data: bytes, name: str, limits: RosterLimits) -> Sheet:
    encoding = _encoding_of(data)
    if encoding is None:
        return Sheet(problems=[roster_problem("unreadable-text", _first_bad_line(data), name=name)])
    sheet = Sheet(encoding=encoding)
    # newline="" keeps line breaks inside quotes as they are; csv counts physical lines with it.
    lines = list(io.StringIO(data.decode(encoding), newline=""))
    first = next((line for line in lines if line.strip()), None)
    if first is None:
        sheet.problems.append(roster_problem("empty-file", 1, name=name))
        return sheet
    sheet.delimiter = _delimiter_of(first)
    if first.count(sheet.delimiter) >= limits.columns and len(_cells_of(first, sheet.delimiter)) > limits.columns:
        raise TooLarge("too-many-columns", most=limits.columns)
    _read_lines(sheet, lines, limits)
    return sheet


def _encoding_of(data: bytes) -> str | None:
    for mark, encoding in _BYTE_ORDER_MARKS:
        if data.startswith(mark):
            return encoding if _decodes(data, encoding) else None
    if _decodes(data, "utf-8"):
        return "utf-8"
    # Big5 and Windows-1252 text often decodes as GB18030 without an error, into other characters.
    cells = [cell for cell in re.split(rb"[,;\t\r\n]+", data) if not cell.isascii()][:4096]
    gb18030 = _decodes(data, "gb18030")
    if gb18030 and sum(_decodes(cell, "gb2312") for cell in cells) * 2 >= len(cells):
        # The common characters of GB2312 fill a small part of the space; other encodings seldom hit only them.
        return "gb18030"
    # Late, because it takes 4 MB with its tables, and nearly every roster is UTF-8 or plainly GB18030.
    import charset_normalizer

    guess = charset_normalizer.from_bytes(
        b"\n".join(cells), cp_isolation=["gb18030", "big5", "cp1252"], enable_fallback=False
    ).best()
    if guess is not None and _decodes(data, guess.encoding):
        return guess.encoding
    return "gb18030" if gb18030 else None


def _decodes(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True


def _first_bad_line(data: bytes) -> int:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        return data.count(b"\n", 0, error.start) + 1
    return 1


def _delimiter_of(header: str) -> str:
    def known_names(delimiter: str) -> tuple[int, int]:
        cells = _cells_of(header, delimiter)
        return sum(column_of(cell) is not None for cell in cells), len(cells)

    try:
        return max(_DELIMITERS, key=known_names)
    except csv.Error:  # a first line longer than csv's limit
        return ","


def _cells_of(header: str, delimiter: str) -> list[str]:
    return next(csv.reader([header], delimiter=delimiter), [])


def _read_lines(sheet: Sheet, lines: list[str], limits: RosterLimits) -> None:
    start = 0
    while start < len(lines):
        start = _read_until_broken(sheet, lines, start)
        if sheet.header and len(sheet.header.cells) * sheet.total > limits.cells:
            raise TooLarge("too-many-cells", most=limits.cells)
    sheet.problems.sort(key=lambda problem: problem.line)


def _read_until_broken(sheet: Sheet, lines: list[str], start: int) -> int:
    """Read records from line index `start`; where quotes go wrong, report it and return where to go on.

    That is the line after the one where the broken record began: its other lines are most likely rows of their own.
    """
    for record, last in _parsed(lines, start, sheet.delimiter):
        if record is None:  # blank
            continue
        if sheet.header is None:
            if isinstance(record, Record):
                sheet.header = record
                continue
            sheet.problems.append(record)
            return record.line
        if isinstance(record, Record) and len(record.cells) == len(sheet.header.cells):
            sheet.total += 1
            sheet.records.append(record)
            continue
        sheet.total += 1
        if isinstance(record, RosterProblem):
            sheet.problems.append(record)
            return record.line
        if last > record.line:
            sheet.problems.append(roster_problem("unclosed-quote", record.line, last=last))
            return record.line
        sheet.problems.append(
            roster_problem(
                "field-count",
                record.line,
                expected=len(sheet.header.cells),
                found=len(record.cells),
                delimiter=sheet.delimiter,
            )
        )
    return len(lines)


def _parsed(lines: list[str], start: int, delimiter: str) -> Iterator[tuple[Record | RosterProblem | None, int]]:
    """Yield each record, or None for a blank one, with its last line; a broken one ends it with its problem."""
    # strict: otherwise `"abc"def` is read as `abcdef`, a password nobody wrote.
    reader = csv.reader(map(lines.__getitem__, range(start, len(lines))), delimiter=delimiter, strict=True)
    line = start + 1
    try:
        for cells in reader:
            yield (Record(line, tuple(cells)) if any(map(str.strip, cells)) else None), start + reader.line_num
            line = start + reader.line_num + 1
    except csv.Error as error:
        last = start + reader.line_num
        if last > line or "unexpected end" in str(error):
            code = "unclosed-quote"
        elif "field limit" in str(error):
            code = "cell-too-long"
        else:
            code = "stray-quote"
        yield roster_problem(code, line, last=last), last


# -- Excel


def _read_workbook(data: bytes, name: str, limits: RosterLimits) -> Sheet:
    # Late, because pandas and numpy take 50 MB and half a second, and most rosters are text.
    import pandas as pd
    from python_calamine import CalamineError

    sheet = Sheet(encoding="xlsx")
    try:
        # Before anything native: one cell in the last corner of a sheet is a table of 17,179,869,184 cells to a reader.
        lost = _cells_without_result(data, limits)
        frame = pd.read_excel(
            io.BytesIO(data), header=None, dtype=object, na_filter=False, keep_default_na=False, engine="calamine"
        )
    except (CalamineError, zipfile.BadZipFile, ElementTree.ParseError, *_ODD_PACKAGES):
        sheet.problems.append(roster_problem("unreadable-workbook", 1, name=name))
        return sheet
    for line, values in enumerate(frame.itertuples(index=False, name=None), start=1):
        cells = []
        for index, value in enumerate(values):
            text, code = _cell_text(value)
            if not text and (line, index) in lost:
                code = "excel-formula"
            if code:
                sheet.damage.setdefault(line, {})[index] = code
            cells.append(text)
        if not any(map(str.strip, cells)) and not any((line, index) in lost for index in range(len(cells))):
            continue
        if sheet.header is None:
            sheet.header = Record(line, tuple(cells))
        else:
            sheet.records.append(Record(line, tuple(cells)))
    sheet.total = len(sheet.records)
    if sheet.header is None:
        sheet.problems.append(roster_problem("empty-file", 1, name=name))
    return sheet


def _cell_text(value: object) -> tuple[str, str]:
    """Write a cell's value as the admin meant it, with a code where Excel has not kept that."""
    if isinstance(value, str):
        return value, ""
    if isinstance(value, bool):
        return str(value).upper(), ""
    if isinstance(value, int | float):
        # calamine gives every number as a double; pandas has made whole ones int again (993, not 993.0).
        return str(value), "excel-number" if abs(value) >= 10**15 else ""
    if isinstance(value, datetime.datetime) and value.time() == datetime.time():
        return value.date().isoformat(), "excel-date"
    return str(value), "excel-date"


_ODD_PACKAGES = (ValueError, KeyError, EOFError, NotImplementedError, RuntimeError)
"""What zipfile and pandas raise of files that only begin like a workbook."""


def _cells_without_result(data: bytes, limits: RosterLimits) -> set[tuple[int, int]]:
    """Find errors (#NAME?) and formulas never calculated in the first sheet: calamine gives them as blank cells.

    A password that begins with = ends like this, and blank would mean "ask the member". TooLarge for a sheet that is
    none of a roster.
    """
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return set()
    with zipfile.ZipFile(io.BytesIO(data)) as parts:
        if sum(part.file_size for part in parts.infolist()) > limits.expanded:
            raise TooLarge("workbook-too-large", most=limits.expanded >> 20)
        name = _first_sheet(parts)
        if name not in parts.namelist():
            return set()
        with parts.open(name) as xml:
            return _without_result(xml, limits)


def _first_sheet(parts: zipfile.ZipFile) -> str:
    """The name of its part; "" for another kind of package."""
    if not {"xl/workbook.xml", "xl/_rels/workbook.xml.rels"} <= set(parts.namelist()):
        return ""
    workbook = ElementTree.fromstring(parts.read("xl/workbook.xml"))  # noqa: S314
    sheet = next((element for element in workbook.iter() if _local(element) == "sheet"), None)
    wanted = {value for key, value in (sheet.attrib if sheet is not None else {}).items() if key.endswith("}id")}
    for link in ElementTree.fromstring(parts.read("xl/_rels/workbook.xml.rels")).iter():  # noqa: S314
        if link.get("Id") in wanted:
            target = link.get("Target", "")
            return target.removeprefix("/") if target.startswith("/") else f"xl/{target}"
    return ""


def _local(element: ElementTree.Element) -> str:
    """Its name without a namespace: writers differ in these."""
    return element.tag.rpartition("}")[2]


def _without_result(xml: IO[bytes], limits: RosterLimits) -> set[tuple[int, int]]:
    lost: set[tuple[int, int]] = set()
    row = column = cells = 0
    for event, element in ElementTree.iterparse(xml, ("start", "end")):  # noqa: S314
        kind = _local(element)
        if kind == "row" and event == "start":
            # Rows and cells without a place of their own follow the one before.
            row, column = int(element.get("r") or row + 1), 0
        elif kind == "row":
            element.clear()
        elif kind == "c" and event == "end":
            place = _PLACE.match(element.get("r", ""))
            column = _column_index(place[1].upper().encode()) + 1 if place else column + 1
            cells += 1
            if column > limits.columns:
                raise TooLarge("too-many-columns", most=limits.columns)
            if cells > limits.cells:
                raise TooLarge("too-many-cells", most=limits.cells)
            if _has_no_result(element):
                lost.add((row, column - 1))
    return lost


_PLACE = re.compile("([A-Za-z]{1,3})[0-9]")


def _has_no_result(cell: ElementTree.Element) -> bool:
    if cell.get("t") == "e":
        return True
    parts = {_local(part): part for part in cell}
    return "f" in parts and not (parts["v"].text if "v" in parts else None) and "is" not in parts


def _column_index(letters: bytes) -> int:
    index = 0
    for letter in letters:
        index = index * 26 + letter - 64
    return index - 1
