"""Reads the roster an admin uploads: every good row, and every problem of the others at once.

Pure: bytes in, values out. No value of a password column, and nothing that could be one, leaves in a problem.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from pydantic import ValidationError

from models.providers import provider_meant
from models.roster_columns import (
    COLUMNS,
    Column,
    column_of,
    is_fallback,
    is_ignored,
    roster_template,
    similar_column,
)
from models.roster_file import Record, Sheet, read_sheet
from models.roster_problems import RosterProblem, roster_problem
from models.roster_row import BLANKS, RosterRow, folded_account, is_address

__all__ = ["COLUMNS", "Column", "Roster", "RosterProblem", "RosterRow", "read_roster", "roster_template"]

_BY_FIELD = {column.field: column for column in COLUMNS}


@dataclass(frozen=True)
class Roster:
    """What a file says: the rows that can go on, and what is wrong with the rest."""

    rows: tuple[RosterRow, ...]
    problems: tuple[RosterProblem, ...]
    columns: tuple[str, ...]
    headers: tuple[str, ...]
    encoding: str
    delimiter: str
    total_rows: int


def read_roster(data: bytes, name: str = "roster.csv", read: Callable[[bytes, str], Sheet] = read_sheet) -> Roster:
    """Read a roster from CSV or Excel bytes; bad content never raises, it becomes problems.

    A row with any problem is left out, the other rows go on. So does a file with an unknown column, which is reported
    and ignored: it says nothing about the rows. Two unknown columns are different. One that stands for a required
    column leaves nothing to read. One that looks like a password column which the file lacks refuses the file,
    because going on would ask every member for a password that the admin has already given. `read` makes cells of the
    bytes: `read_sheet_apart` does so in a process that may fail.
    """
    sheet = read(data, name)
    layout = _Layout.of(sheet)
    if layout is None:
        problems = sheet.problems or [roster_problem("no-header", sheet.header.line if sheet.header else 1)]
        # The first row is data, or unreadable: it is not repeated as headers, for a password may be in it.
        return Roster((), tuple(problems), (), (), sheet.encoding, sheet.delimiter, sheet.total)
    rows, row_problems = _read_rows(sheet, layout)
    problems = [*layout.problems, *sheet.problems, *row_problems]
    if not sheet.total:
        problems.append(roster_problem("no-rows", layout.line))
    order = {column.name: position for position, column in enumerate(COLUMNS)}
    problems.sort(key=lambda problem: (problem.line, order.get(problem.column, -1)))
    return Roster(
        rows=() if layout.unusable else tuple(rows),
        problems=tuple(problems),
        columns=tuple(column.name for column in layout.positions),
        headers=layout.headers,
        encoding=sheet.encoding,
        delimiter=sheet.delimiter,
        total_rows=sheet.total,
    )


# -- the header


@dataclass(frozen=True)
class _Layout:
    """Which cells belong to which column, and what is wrong with the header."""

    line: int
    headers: tuple[str, ...]
    positions: dict[Column, tuple[int, ...]]  # in the upload's own order; the column itself before its fallbacks
    fallbacks: frozenset[int]
    problems: tuple[RosterProblem, ...]
    unusable: bool

    @classmethod
    def of(cls, sheet: Sheet) -> "_Layout | None":
        if sheet.header is None:
            return None
        line, headers = sheet.header.line, tuple(sheet.header.cells)
        positions: dict[Column, tuple[int, ...]] = {}
        for index, header in enumerate(headers):
            if column := column_of(header):
                positions[column] = (*positions.get(column, ()), index)
        fallbacks = frozenset(index for index, header in enumerate(headers) if is_fallback(header))
        for column, indexes in positions.items():
            positions[column] = tuple(sorted(indexes, key=lambda index: index in fallbacks))
        absent = [column for column in COLUMNS if column not in positions]
        similar = {header: similar_column(header, absent) for header in headers if not column_of(header)}
        recognised = bool(positions) or any(similar.values())
        if not recognised or any(is_address(header.strip(BLANKS)) for header in headers):
            return None

        problems = [
            roster_problem("missing-column", line, column.name, **_meaning(column))
            for column in absent
            if column.required
        ]
        unusable = bool(problems)
        for index, header in enumerate(headers):
            named = {"header": header.strip(BLANKS)}
            if column := column_of(header):
                first = next(i for i in positions[column] if (i in fallbacks) == (index in fallbacks))
                if first != index:
                    problems.append(roster_problem("duplicate-header", line, column.name, header))
            elif not header.strip(BLANKS):
                if any(record.cells[index].strip(BLANKS) for record in sheet.records):
                    problems.append(roster_problem("nameless-column", line, position=index + 1))
            elif meant := similar[header]:
                unusable = unusable or meant.secret
                code = "misspelt-password-column" if meant.secret else "misspelt-column"
                problems.append(roster_problem(code, line, header, header, suggestion=meant.name, **named))
            elif not is_ignored(header):
                problems.append(roster_problem("unknown-column", line, header, header, **named))
        return cls(line, headers, positions, fallbacks, tuple(problems), unusable)


def _meaning(column: Column) -> dict[str, str]:
    return {"meaning_zh": column.meaning.zh, "meaning_en": column.meaning.en}


# -- the rows


def _read_rows(sheet: Sheet, layout: _Layout) -> tuple[list[RosterRow], list[RosterProblem]]:
    rows: list[RosterRow] = []
    problems: list[RosterProblem] = []
    accounts: list[_Accounts] = []
    waves: dict[int, str] = {}
    for record in sheet.records:
        values, faults = _cells(record, sheet, layout)
        try:
            rows.append(RosterRow.model_validate({"line": record.line, **values}))
        except ValidationError as error:
            faults += _translated(error, record.line, values, layout, {fault.column for fault in faults})
        problems += faults
        faulty = {fault.column for fault in faults}
        accounts.append(_Accounts.of(record.line, values, faulty))
        if "Wave" not in faulty:
            waves[record.line] = values.get("wave", "").strip(BLANKS)
    problems += _clashes(accounts)
    left_out = {problem.line for problem in problems}
    named = [replace(problem, wave=waves.get(problem.line, "")) for problem in problems]
    return [row for row in rows if row.line not in left_out], named


def _cells(record: Record, sheet: Sheet, layout: _Layout) -> tuple[dict[str, str], list[RosterProblem]]:
    """Take the cells that say something, by field; what is lost or contradictory is a problem instead."""
    values: dict[str, str] = {}
    faults: list[RosterProblem] = []
    damage = sheet.damage.get(record.line, {})
    for column, indexes in layout.positions.items():
        index = indexes[0]
        if damage or len(indexes) > 1:
            filled = [i for i in indexes if i in damage or record.cells[i].strip(BLANKS)]
            index = filled[0] if filled else index
            code = damage.get(index)
            # A date is what Since should hold; in any other column Excel made it out of something else.
            if code and not (code == "excel-date" and column.field == "since"):
                shown = "" if column.secret else record.cells[index]
                faults.append(roster_problem(code, record.line, column.name, shown))
                continue
            same_rank = (i for i in filled if (i in layout.fallbacks) == (index in layout.fallbacks))
            if any(record.cells[i] != record.cells[index] for i in same_rank):
                faults.append(roster_problem("conflicting-cells", record.line, column.name))
                continue
        value = record.cells[index]
        if not value.strip(BLANKS):
            continue
        # Our own export puts a ' before what a spreadsheet would take for a formula.
        guarded = value[0] == "'" and value[1:2] in ("=", "+", "-", "@") and not column.secret
        values[column.field] = value[1:] if guarded else value
    return values, faults


def _translated(
    error: ValidationError, line: int, values: dict[str, str], layout: _Layout, told: set[str]
) -> Iterator[RosterProblem]:
    for detail in error.errors(include_url=False, include_input=False):
        column = _BY_FIELD[str(detail["loc"][0])]
        if column.name in told or column not in layout.positions:
            continue  # said already, of this cell or of the header
        if detail["type"] == "missing":
            yield roster_problem("blank", line, column.name, **_meaning(column))
            continue
        value = values[column.field]
        # A stray quotation mark can draw the following cells, the password among them, into one with a line break;
        # a URL can carry a password before its @.
        hidden = column.secret or detail["type"] == "line-break" or (column.field.endswith("_host") and "@" in value)
        places = {"port_column": column.name.replace("Host", "Port"), **detail.get("ctx", {})}
        yield roster_problem(detail["type"], line, column.name, "" if hidden else value, **places)


# -- rows against each other


@dataclass(slots=True)
class _Accounts:
    """The two ends of a row, so written that equal accounts are equal strings; None where unknown or faulty."""

    line: int
    email: str | None
    source: str | None
    target: str | None
    shown_email: str
    shown_source: str
    shown_target: str
    same: bool

    @classmethod
    def of(cls, line: int, values: dict[str, str], faulty: set[str]) -> "_Accounts":
        def cell(field: str) -> str:
            return "" if _BY_FIELD[field].name in faulty else values.get(field, "").strip(BLANKS)

        def server(side: str) -> str:
            port = cell(f"{side}_port")
            # 143 and 993 lead to the same mailboxes; any other port may be another server on the same machine.
            return folded_account(cell(f"{side}_host")) + ("" if port in ("", "143", "993") else f":{port}")

        email, user = cell("email"), cell("user_name")
        target_user = email if "TargetUserName" in faulty else cell("target_user_name") or email
        meant = provider_meant(cell("provider"))
        source = (server("source") or (meant.name if meant else folded_account(cell("provider"))), folded_account(user))
        target = (server("target"), folded_account(target_user))
        # Without both hosts nothing is known: the same address on the old and the new service is the usual case.
        same = bool(cell("source_host") and cell("target_host") and user) and source == target
        return cls(
            line=line,
            email=folded_account(email) if email else None,
            source="\0".join((*source, cell("user_root"))) if user else None,
            target="\0".join(target) if target_user else None,
            shown_email=email,
            shown_source=user,
            shown_target=target_user,
            same=same,
        )


def _clashes(accounts: list[_Accounts]) -> Iterator[RosterProblem]:
    """Report the later of two rows that meet in one mailbox; a pair of rows is reported once."""
    told: set[tuple[int, int]] = set()
    for key, column in (("email", "EmailAddress"), ("target", "TargetUserName"), ("source", "UserName")):
        first: dict[str, int] = {}
        for account in accounts:
            if known := getattr(account, key):
                first[known] = min(first.get(known, account.line), account.line)
        for account in accounts:
            other = first.get(getattr(account, key), account.line)
            if other < account.line and (account.line, other) not in told:
                told.add((account.line, other))
                shown = getattr(account, f"shown_{key}")
                yield roster_problem(f"duplicate-{key}", account.line, column, shown, other=other)
    for account in accounts:
        if account.same:
            yield roster_problem("source-is-target", account.line, "UserName", account.shown_source)
