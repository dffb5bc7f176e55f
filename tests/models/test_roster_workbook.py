"""A roster kept in Excel: what the workbook holds is read, and what Excel has changed by itself is told."""

import io
import zipfile

import pytest
from pydantic import SecretStr

from models.roster import Roster, read_roster

_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_SHEET = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
_PARTS = {
    "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types">'
    '<Default Extension="xml" ContentType="application/xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{_SHEET}" xmlns:r="{_OFFICE}">'
    '<sheets><sheet name="Staff" sheetId="1" r:id="rId1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/>'
    f'<Relationship Id="rId2" Type="{_OFFICE}/styles" Target="styles.xml"/></Relationships>',
    # style 1 is a date
    "xl/styles.xml": f'<styleSheet xmlns="{_SHEET}">'
    '<cellXfs><xf numFmtId="0"/><xf numFmtId="14"/></cellXfs></styleSheet>',
}


def text(value: str) -> str:
    return f't="inlineStr"><is><t xml:space="preserve">{value}</t></is>'


def number(value: str) -> str:
    return f"><v>{value}</v>"


def date(days: int) -> str:
    return f's="1"><v>{days}</v>'


BLANK = ">"
NAME_ERROR = 't="e"><f>geheim</f><v>#NAME?</v>'
UNCALCULATED = "><f>A1</f>"
CALCULATED = 't="str"><f>"p"&amp;"w"</f><v>pw</v>'


def workbook(*rows: list[str]) -> bytes:
    """Write the smallest workbook; each cell is what stands between `<c r="A1"` and `</c>`."""
    lines = [
        "<row>" + "".join(f'<c r="{chr(65 + i)}{line}" {cell}</c>' for i, cell in enumerate(row)) + "</row>"
        for line, row in enumerate(rows, start=1)
    ]
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as parts:
        for name, content in _PARTS.items():
            parts.writestr(name, content)
        sheet = f'<worksheet xmlns="{_SHEET}"><sheetData>{"".join(lines)}</sheetData></worksheet>'
        parts.writestr("xl/worksheets/sheet1.xml", sheet)
    return data.getvalue()


def read_cell(column: str, cell: str) -> Roster:
    names = ["EmailAddress", "UserName", column]
    return read_roster(workbook([text(name) for name in names], [text("li@x.test"), text("li"), cell]), "staff.xlsx")


def found(roster: Roster) -> list[tuple[int, str, str, str]]:
    return [(problem.line, problem.column, problem.value, problem.code) for problem in roster.problems]


def test_a_workbook_is_recognised_by_its_content() -> None:
    assert read_roster(workbook([text("EmailAddress")]), "roster.csv").encoding == "xlsx"


@pytest.mark.parametrize(
    ("cell", "password"),
    [
        (text("NA"), "NA"),
        (text("007"), "007"),
        (number("123456.0"), "123456"),
        (number("12.5"), "12.5"),
        (CALCULATED, "pw"),
    ],
)
def test_a_password_is_read_as_it_was_typed(cell: str, password: str) -> None:
    (row,) = read_cell("Password", cell).rows
    assert row.password == SecretStr(password)


def test_a_blank_cell_is_a_blank_password() -> None:
    (row,) = read_cell("Password", BLANK).rows
    assert row.password is None


def test_a_port_stored_as_a_number_is_a_port() -> None:
    (row,) = read_cell("SourcePort", number("993")).rows
    assert row.source_port == 993


def test_a_true_stored_as_a_boolean_is_yes() -> None:
    (row,) = read_cell("Shared", 't="b"><v>1</v>').rows
    assert row.shared


def test_a_date_is_right_in_since() -> None:
    (row,) = read_cell("Since", date(45322)).rows
    assert str(row.since) == "2024-01-31"


@pytest.mark.parametrize(
    ("column", "cell", "value", "code"),
    [
        ("Password", date(45322), "", "excel-date"),
        ("Department", date(45322), "2024-01-31", "excel-date"),
        ("Password", number("12345678901234567890"), "", "excel-number"),
        ("Password", NAME_ERROR, "", "excel-formula"),
        ("Password", UNCALCULATED, "", "excel-formula"),
        ("SourceHost", UNCALCULATED, "", "excel-formula"),
    ],
)
def test_what_excel_has_changed_is_told(column: str, cell: str, value: str, code: str) -> None:
    assert found(read_cell(column, cell)) == [(2, column, value, code)]


def test_blank_rows_of_a_sheet_keep_the_line_numbers_right() -> None:
    blank = [BLANK, BLANK]
    sheet = workbook(blank, [text("EmailAddress"), text("UserName")], blank, [text("nobody"), text("x")])
    assert found(read_roster(sheet)) == [(4, "EmailAddress", "nobody", "bad-address")]


def test_a_workbook_without_any_cell_is_empty() -> None:
    assert [problem.code for problem in read_roster(workbook()).problems] == ["empty-file"]


def test_a_cut_workbook_is_refused_without_raising() -> None:
    whole = workbook([text("EmailAddress")])
    assert {read_roster(whole[:end]).rows for end in range(4, len(whole), 97)} == {()}
