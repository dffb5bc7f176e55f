"""From the bytes of an upload to its header and rows of text: encoding, delimiter, quotes, Excel workbooks.

Rows are counted here, before anything else looks at them: pandas moves every cell one column over, silently, when
a row has a field too many, and a password would end up in another column.
"""

import codecs
import csv
import datetime
import io
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

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


def read_sheet(data: bytes, name: str) -> Sheet:
    """Read an upload of any kind; a file that cannot be read is a sheet without header, with its problem."""
    if data.startswith(_WORKBOOK_MARKS):
        return _read_workbook(data, name)
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
    _read_lines(sheet, lines)
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
        cells = next(csv.reader([header], delimiter=delimiter), [])
        return sum(column_of(cell) is not None for cell in cells), len(cells)

    try:
        return max(_DELIMITERS, key=known_names)
    except csv.Error:  # a first line longer than csv's limit
        return ","


def _read_lines(sheet: Sheet, lines: list[str]) -> None:
    start = 0
    while start < len(lines):
        start = _read_until_broken(sheet, lines, start)
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


def _read_workbook(data: bytes, name: str) -> Sheet:
    # Late, because pandas and numpy take 50 MB and half a second, and most rosters are text.
    import pandas as pd
    from python_calamine import CalamineError

    sheet = Sheet(encoding="xlsx")
    try:
        frame = pd.read_excel(
            io.BytesIO(data), header=None, dtype=object, na_filter=False, keep_default_na=False, engine="calamine"
        )
        lost = _cells_without_result(data)
    except (CalamineError, zipfile.BadZipFile, ValueError, KeyError, NotImplementedError, RuntimeError):
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


_CELL = re.compile(rb'<c r="([A-Z]{1,3})([0-9]{1,7})"([^>]*?)(?:/>|>(.*?)</c>)', re.DOTALL)


def _cells_without_result(data: bytes) -> set[tuple[int, int]]:
    """Find errors (#NAME?) and formulas never calculated in the first sheet: calamine gives them as blank cells.

    A password that begins with = ends like this, and blank would mean "ask the member".
    """
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return set()
    with zipfile.ZipFile(io.BytesIO(data)) as parts:
        if "xl/workbook.xml" not in parts.namelist():
            return set()
        first = re.search(rb'<sheet [^>]*?r:id="([^"]+)"', parts.read("xl/workbook.xml"))
        links = parts.read("xl/_rels/workbook.xml.rels")
        link = first and re.search(rb'<Relationship [^>]*?Id="%b"[^>]*>' % re.escape(first[1]), links)
        target = link and re.search(rb'Target="/?(?:xl/)?([^"]+)"', link[0])
        if not target:
            return set()
        xml = parts.read("xl/" + target[1].decode())
    if b"<f" not in xml and b't="e"' not in xml:
        return set()
    return {
        (int(row), _column_index(letters))
        for letters, row, attributes, content in _CELL.findall(xml)
        if b't="e"' in attributes or (b"<f" in content and b"<v" not in content)
    }


def _column_index(letters: bytes) -> int:
    index = 0
    for letter in letters:
        index = index * 26 + letter - 64
    return index - 1
