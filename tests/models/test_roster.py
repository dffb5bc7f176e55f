"""A roster is read whole: good rows go on, and every fault is named with its line, its column and a cure."""

import csv
import datetime
import io
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from models.bilingual import LANGUAGES, Language
from models.roster import COLUMNS, Roster, RosterProblem, RosterRow, read_roster, roster_template
from models.roster_columns import fold_header
from models.roster_problems import FAULTS

EXAMPLE = Path(__file__).parents[2] / "members.csv.example"
HEADER = "EmailAddress,UserName,Password"


def read(*lines: str, header: str = HEADER) -> Roster:
    return read_roster("\n".join([header, *lines, ""]).encode())


def found(roster: Roster) -> list[tuple[int, str, str]]:
    return [(problem.line, problem.column, problem.code) for problem in roster.problems]


def the_problem(roster: Roster) -> RosterProblem:
    (problem,) = roster.problems
    return problem


def read_cell(column: str, cell: str) -> Roster:
    """Read one member who is right but, perhaps, in one cell."""
    cells = {"EmailAddress": "li@new.example", "UserName": "li", column: cell}
    text = io.StringIO()
    csv.writer(text).writerows([cells.keys(), cells.values()])
    return read_roster(text.getvalue().encode())


# -- what is accepted


def test_an_exchange_file_works_unchanged() -> None:
    roster = read("li@new.example,li@old.example,pw1,INBOX", header="EmailAddress,UserName,Password,UserRoot")
    assert roster.rows == (
        RosterRow(
            line=2, email="li@new.example", user_name="li@old.example", password=SecretStr("pw1"), user_root="INBOX"
        ),
    )


def test_a_migrationwiz_file_works_unchanged() -> None:
    roster = read(
        "li@old.example,,pw1,li@new.example,,pw2,",
        "wu@old.example,wu,pw3,wu@new.example,wu.new,pw4,7",
        header="Source Email,Source UserName,Source Password,Destination Email,Destination UserName,"
        "Destination Password,Flags",
    )
    assert [(row.email, row.user_name, row.target_user_name) for row in roster.rows] == [
        ("li@new.example", "li@old.example", None),
        ("wu@new.example", "wu", "wu.new"),
    ]


def test_a_migrationwiz_file_has_no_problem() -> None:
    roster = read("li@old.example,pw,li@new.example,", header="Source Email,Source Password,Destination Email,Flags")
    assert roster.problems == ()


@pytest.mark.parametrize(
    "header",
    [
        "emailaddress,username,password",
        "Email Address,User_Name,PASS-WORD",
        "ＥｍａｉｌＡｄｄｒｅｓｓ,ＵｓｅｒＮａｍｅ,Ｐａｓｓｗｏｒｄ",
        "新邮箱地址,原邮箱账号,原邮箱密码",
        "新邮箱地址 *,原邮箱账号,客户端专用密码",
        "新邮箱,原账号,授权码",
    ],
)
def test_headers_are_known_however_they_are_written(header: str) -> None:
    assert read("li@new.example,li,pw", header=header).columns == ("EmailAddress", "UserName", "Password")


@pytest.mark.parametrize(
    ("encoding", "reported"),
    [
        ("utf-8", "utf-8"),
        ("utf-8-sig", "utf-8-sig"),
        ("utf-16", "utf-16"),
        ("gb18030", "gb18030"),
    ],
)
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_encoding_and_delimiter_are_recognised(encoding: str, reported: str, delimiter: str) -> None:
    text = "EmailAddress,姓名,UserName\nli@new.example,李雷,li\n".replace(",", delimiter)
    roster = read_roster(text.encode(encoding))
    assert (roster.encoding, roster.delimiter, roster.rows[0].display_name) == (reported, delimiter, "李雷")


def test_big_endian_utf_16_is_recognised() -> None:
    assert read_roster(b"\xfe\xff" + f"{HEADER}\nli@new.example,li,pw\n".encode("utf-16-be")).rows


@pytest.mark.parametrize("name", ["李", "张三", "朱镕基", "欧阳娜娜", "龚玥菲"])
def test_short_chinese_names_are_read_as_gb18030(name: str) -> None:
    """Other names in the file help to tell GB18030 from Big5 where one has rare characters."""
    text = f"EmailAddress,UserName,DisplayName\na@x.example,a,{name}\nb@x.example,b,王小明\n"
    assert read_roster(text.encode("gb18030")).rows[0].display_name == name


def test_big5_is_told_from_gb18030_though_it_decodes_as_both() -> None:
    text = "EmailAddress,UserName,DisplayName,Department\na@x.example,a,臺北辦公室,業務部經理\n"
    assert read_roster(text.encode("big5")).rows[0].department == "業務部經理"


def test_western_text_of_excel_is_not_read_as_chinese() -> None:
    text = "EmailAddress,UserName,DisplayName\na@x.example,a,Jürgen Müller\nb@x.example,b,Hélène Groß\n"
    assert read_roster(text.encode("cp1252")).rows[0].display_name == "Jürgen Müller"


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_every_kind_of_line_end_is_read(line_end: str) -> None:
    text = f"{HEADER}\nli@new.example,li,pw\nwu@new.example,wu,pw\n".replace("\n", line_end)
    assert [row.line for row in read_roster(text.encode()).rows] == [2, 3]


@pytest.mark.parametrize(
    ("column", "cell", "value"),
    [
        ("EmailAddress", "zhang@mail.local", "zhang@mail.local"),
        ("EmailAddress", "zhang@mailhost", "zhang@mailhost"),
        ("EmailAddress", "zhang@x.test", "zhang@x.test"),
        ("EmailAddress", "张三@例子.中国", "张三@例子.中国"),
        ("EmailAddress", "  zhang@x.test\u3000", "zhang@x.test"),
        ("UserName", "Domain/Admin/Zhang San", "Domain/Admin/Zhang San"),
        ("UserName", "#zhang@x.test#Admin#", "#zhang@x.test#Admin#"),
        ("Password", "", None),
        ("Password", " \u3000 ", None),
        ("Password", "abcd efgh ijkl mnop", SecretStr("abcd efgh ijkl mnop")),
        ("Password", "NA", SecretStr("NA")),
        ("Password", "007", SecretStr("007")),
        ("Password", "密码abc", SecretStr("密码abc")),
        ("SourceHost", "imap.x.test", "imap.x.test"),
        ("SourceHost", "127.0.0.1", "127.0.0.1"),
        ("SourceHost", "[::1]", "::1"),
        ("SourceHost", "::1", "::1"),
        ("SourceHost", "邮件.中国", "邮件.中国"),
        ("SourcePort", "993", 993),
        ("TargetPort", "９９３", 993),
        ("SourceSecurity", "STARTTLS", "starttls"),
        ("TargetSecurity", "SSL", "tls"),
        ("ExcludeFolders", "Spam; Trash|Spam|", ("Spam", "Trash")),
        ("Since", "2024-02-29", datetime.date(2024, 2, 29)),
        ("Language", "中文", "zh-CN"),
        ("Language", "ZH_cn", "zh-CN"),
        ("Language", "English", "en"),
        ("Shared", "是", True),
        ("Shared", "TRUE", True),
        ("Shared", "1", True),
        ("Shared", "否", False),
        ("Shared", "no", False),
        ("Shared", "", False),
        ("Note", "'=SUM(A1)", "=SUM(A1)"),
        ("Note", "", None),
    ],
)
def test_a_cell_is_understood(column: str, cell: str, value: object) -> None:
    (row,) = read_cell(column, cell).rows
    field = next(known.field for known in COLUMNS if known.name == column)
    assert getattr(row, field) == value


# -- what is refused, and how it is said

FAULTY_CELLS = [
    ("EmailAddress", "", "blank"),
    ("EmailAddress", "zhang.example.cn", "bad-address"),
    ("EmailAddress", "a@b@c", "bad-address"),
    ("EmailAddress", "zhang san@x.test", "bad-address"),
    ("EmailAddress", "zhang@-x.test", "bad-address"),
    ("EmailAddress", "zhang＠x.test", "full-width"),
    ("EmailAddress", "zhang@x。test", "full-width"),
    ("EmailAddress", "zh\u200bang@x.test", "invisible-character"),
    ("UserName", "", "blank"),
    ("UserName", "\u3000", "blank"),
    ("UserName", "ｚhang", "full-width"),
    ("UserName", "zh\u00a0ang", "invisible-character"),
    ("UserName", "zh\x00ang", "control-character"),
    ("Password", " geheim", "password-blanks"),
    ("Password", "geheim ", "password-blanks"),
    ("Password", "\u3000geheim", "password-blanks"),
    ("Password", "geheim\u00a0", "password-blanks"),
    ("Password", "geheim\u200b", "password-blanks"),
    ("Password", "ge\u3000heim", "password-invisible"),
    ("Password", "ge\u200bheim", "password-invisible"),
    ("Password", "ｇeheim", "password-full-width"),
    ("Password", "geheim！", "password-full-width"),
    ("Password", "geheim。", "password-full-width"),
    ("Password", "“geheim”", "password-full-width"),
    ("Password", "geheim\t", "control-character"),
    ("Password", "geheim\r\n", "line-break"),
    ("TargetPassword", "geheim ", "password-blanks"),
    ("SourceHost", "https://imap.x.test", "host-scheme"),
    ("SourceHost", "imap.x.test/mail", "host-path"),
    ("SourceHost", "imap.x.test:993", "host-port"),
    ("TargetHost", "imap x", "bad-host"),
    ("TargetHost", "li@imap.x.test", "bad-host"),
    ("SourcePort", "0", "bad-port"),
    ("SourcePort", "65536", "bad-port"),
    ("TargetPort", "imap", "bad-port"),
    ("SourceSecurity", "ssl3", "bad-security"),
    ("TargetSecurity", "maybe", "bad-security"),
    ("Since", "2024/1/31", "bad-date"),
    ("Since", "2023-02-29", "bad-date"),
    ("Since", "20240131", "bad-date"),
    ("Language", "fr", "bad-language"),
    ("NotifyAddress", "zhang", "bad-address"),
    ("Shared", "perhaps", "bad-yes-no"),
    ("Note", "one\ntwo", "line-break"),
    ("DisplayName", "zhang\x07", "control-character"),
    ("Department", "left\u202eright", "control-character"),
]


@pytest.mark.parametrize(("column", "cell", "code"), FAULTY_CELLS)
def test_a_faulty_cell_is_named(column: str, cell: str, code: str) -> None:
    assert found(read_cell(column, cell)) == [(2, column, code)]


@pytest.mark.parametrize(("column", "cell", "code"), FAULTY_CELLS)
def test_a_faulty_row_is_left_out(column: str, cell: str, code: str) -> None:
    assert read_cell(column, cell).rows == ()


@pytest.mark.parametrize(
    ("column", "cell", "advice"),
    [
        ("Since", "2024/1/31", "2024-01-31"),
        ("Since", "2024年1月31日", "2024-01-31"),
        ("EmailAddress", "zhang＠x。test", "zhang@x.test"),
        ("EmailAddress", "Zhang <zhang@x.test>", "zhang@x.test"),
        ("SourceHost", "https://imap.x.test:993/mail", "imap.x.test"),
        ("SourceHost", "imap.x.test:993", "993 in the column SourcePort"),
        ("TargetHost", "imap.x.test:993", "993 in the column TargetPort"),
    ],
)
def test_the_advice_says_what_to_write(column: str, cell: str, advice: str) -> None:
    assert advice in the_problem(read_cell(column, cell)).fix.en


@pytest.mark.parametrize("code", FAULTS)
def test_every_problem_has_a_cure_in_both_languages(code: str) -> None:
    assert all(text.zh and text.en for text in FAULTS[code])


@pytest.mark.parametrize("code", FAULTS)
def test_the_two_languages_of_a_problem_name_the_same_things(code: str) -> None:
    def places(sentence: str) -> set[str]:
        parts = (part.partition("}")[0] for part in sentence.split("{")[1:])
        return {part.removesuffix("_zh").removesuffix("_en") for part in parts}

    problem, fix = FAULTS[code]
    assert places(problem.zh + fix.zh) == places(problem.en + fix.en)


def test_control_characters_are_made_visible() -> None:
    assert the_problem(read_cell("UserName", "zh\x00ang")).value == r"zh\x00ang"


def test_a_long_value_is_cut() -> None:
    assert len(the_problem(read_cell("EmailAddress", "x" * 500)).value) == 80


def test_all_problems_of_a_row_are_told_at_once() -> None:
    roster = read("nobody, ,pw ,0,2024", header="EmailAddress,UserName,Password,SourcePort,Since")
    assert [problem.column for problem in roster.problems] == [
        "EmailAddress",
        "UserName",
        "Password",
        "SourcePort",
        "Since",
    ]


def test_twelve_faults_in_one_chinese_file_are_all_named_and_the_good_rows_go_on() -> None:
    lines = [
        "新邮箱地址;原邮箱账号;授权码;姓名;原服务器;原端口;起始日期;公共邮箱;语言;Departmnt",
        "a@new.example;a;pw;张三;;;;;;研发",
        "not-an-address;b;pw;李四;;;;;;研发",
        "c@new.example;;pw;王五;;;;;;研发",
        "d@new.example;d; pw;赵六;;;;;;研发",
        "A@NEW.example;e;pw;钱七;;;;;;研发",
        "f@new.example;f;pw;孙八;https://imap.old.example;;;;;研发",
        "g@new.example;g;pw;周九;;99999;;;;研发",
        "h@new.example;h;pw;吴十;;;31.01.2024;;;研发",
        "i@new.example;i;pw;郑一;;;;也许;;研发",
        "j@new.example;j;pw;冯二;;;;;法文;研发",
        "k@new.example;k;pw;卫三;;;;;;研发;多一个",
        'l@new.example;l;"pw;蒋四;;;;;;研发',
        "m@new.example;m;pw;沈五;imap.old.example;993;2024-01-31;是;中文;研发",
    ]
    roster = read_roster("\r\n".join(lines).encode("gb18030"))
    assert found(roster) == [
        (1, "Departmnt", "misspelt-column"),
        (3, "EmailAddress", "bad-address"),
        (4, "UserName", "blank"),
        (5, "Password", "password-blanks"),
        (6, "EmailAddress", "duplicate-email"),
        (7, "SourceHost", "host-scheme"),
        (8, "SourcePort", "bad-port"),
        (9, "Since", "bad-date"),
        (10, "Shared", "bad-yes-no"),
        (11, "Language", "bad-language"),
        (12, "", "field-count"),
        (13, "", "unclosed-quote"),
    ]
    assert [(row.line, row.display_name) for row in roster.rows] == [(2, "张三"), (14, "沈五")]


# -- the header


def test_a_misspelt_optional_column_lets_the_rows_go_on() -> None:
    assert read("li@new.example,li,Sales", header="EmailAddress,UserName,Departmnt").rows


def test_a_misspelt_column_gets_a_suggestion() -> None:
    roster = read("li@new.example,li,Sales", header="EmailAddress,UserName,Departmnt")
    assert "Did you mean Department?" in the_problem(roster).fix.en


@pytest.mark.parametrize("header", ["Pasword", "Passwort", "IMAP-Passwords of staff", "旧邮箱的密码"])
def test_a_column_that_may_hold_the_missing_passwords_refuses_the_file(header: str) -> None:
    roster = read("li@new.example,li,geheim", header=f"EmailAddress,UserName,{header}")
    assert (roster.rows, found(roster)) == ((), [(1, header, "misspelt-password-column")])


def test_an_unknown_column_is_reported_and_ignored() -> None:
    roster = read("li@new.example,li,blue", header="EmailAddress,UserName,Colour")
    assert (found(roster), len(roster.rows)) == ([(1, "Colour", "unknown-column")], 1)


def test_a_missing_required_column_refuses_the_file() -> None:
    roster = read("li@new.example,pw", header="EmailAddress,Password")
    assert (roster.rows, found(roster)) == ((), [(1, "UserName", "missing-column")])


def test_faults_of_rows_are_told_although_a_required_column_is_missing() -> None:
    roster = read("li@new.example,0", header="EmailAddress,SourcePort")
    assert found(roster) == [(1, "UserName", "missing-column"), (2, "SourcePort", "bad-port")]


def test_the_password_column_may_be_absent() -> None:
    (row,) = read("li@new.example,li", header="EmailAddress,UserName").rows
    assert row.password is None


def test_a_column_that_is_there_twice_is_reported() -> None:
    roster = read("li@new.example,li,a,a", header="EmailAddress,UserName,Note,备注")
    assert (found(roster), len(roster.rows)) == ([(1, "Note", "duplicate-header")], 1)


def test_a_row_whose_doubled_columns_differ_is_left_out() -> None:
    roster = read("li@new.example,li,a,b", header="EmailAddress,UserName,Password,授权码")
    assert found(roster) == [(1, "Password", "duplicate-header"), (2, "Password", "conflicting-cells")]


def test_a_nameless_column_is_reported_when_it_holds_something() -> None:
    roster = read("li@new.example,li,x", header="EmailAddress,UserName,")
    assert found(roster) == [(1, "", "nameless-column")]


def test_a_nameless_blank_column_is_no_problem() -> None:
    assert read("li@new.example,li,", header="EmailAddress,UserName,").problems == ()


def test_the_causes_in_an_exported_roster_need_no_remark() -> None:
    assert read("li@new.example,li,x,y", header="EmailAddress,UserName,Cause,Fix").problems == ()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "empty-file"),
        (b"\n \n", "empty-file"),
        (b"\xef\xbb\xbf", "empty-file"),
        (b"EmailAddress,UserName\n", "no-rows"),
        (b"li@new.example,li,geheim\n", "no-header"),
        (b"first,second\n1,2\n", "no-header"),
        (b"EmailAddress,UserName\n\xff\xff,\x80\n", "unreadable-text"),
        (b"\xff\xfea", "unreadable-text"),
        (b"PK\x03\x04 no workbook", "unreadable-workbook"),
    ],
)
def test_a_file_without_anything_to_use_is_refused(data: bytes, code: str) -> None:
    roster = read_roster(data, "staff.csv")
    assert (roster.rows, the_problem(roster).code) == ((), code)


def test_the_columns_keep_the_order_of_the_upload() -> None:
    roster = read("pw,li,li@new.example", header="密码,User Name,新邮箱")
    assert (roster.columns, roster.headers) == (
        ("Password", "UserName", "EmailAddress"),
        ("密码", "User Name", "新邮箱"),
    )


# -- the structure of rows


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("li@new.example,li", "Expected 3 fields, found 2."),
        ("li@new.example,li,pw,more", "Expected 3 fields, found 4."),
    ],
)
def test_a_row_with_the_wrong_number_of_fields_says_how_many(line: str, sentence: str) -> None:
    assert the_problem(read(line)).problem.en == sentence


def test_a_row_with_the_wrong_number_of_fields_does_not_move_the_cells_of_others() -> None:
    roster = read("li@new.example,li,pw,more", "wu@new.example,wu,pw2")
    assert [(row.line, row.user_name) for row in roster.rows] == [(3, "wu")]


def test_blank_rows_are_passed_over() -> None:
    roster = read("", "li@new.example,li,pw", ",,", "wu@new.example,wu,pw")
    assert ([row.line for row in roster.rows], roster.total_rows) == ([3, 5], 2)


def test_a_line_break_in_quotes_keeps_the_line_numbers_right() -> None:
    roster = read('li@new.example,li,"p\nw"', "wu@new.example,wu,pw", "nobody,x,pw")
    assert found(roster) == [(2, "Password", "line-break"), (5, "EmailAddress", "bad-address")]


def test_a_quotation_mark_that_is_never_closed_is_named_where_it_opens() -> None:
    roster = read("li@new.example,li,pw", 'wu@new.example,wu,"pw', "he@new.example,he,pw")
    assert found(roster) == [(3, "", "unclosed-quote")]


def test_rows_after_an_unclosed_quotation_mark_go_on() -> None:
    roster = read('wu@new.example,wu,"pw', "he@new.example,he,pw", 'ma@new.example,ma,"p,w"')
    assert [row.line for row in roster.rows] == [3, 4]


def test_text_after_a_closing_quotation_mark_is_not_taken_for_a_password() -> None:
    assert found(read('li@new.example,li,"abc"def')) == [(2, "", "stray-quote")]


def test_an_endless_cell_is_reported() -> None:
    assert found(read("li@new.example,li," + "x" * 200_000)) == [(2, "", "cell-too-long")]


# -- rows against each other


def pairs(header: str, *lines: str) -> list[tuple[int, str, str]]:
    return found(read(*lines, header=header))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("li@new.example", "LI@New.Example"),
        ("li@例子.中国", "li@xn--fsqu00a.xn--fiqs8s"),
        ("straße@new.example", "STRASSE@new.example"),
    ],
)
def test_the_same_new_address_twice_is_found_however_it_is_written(first: str, second: str) -> None:
    assert found(read(f"{first},a,pw", f"{second},b,pw")) == [(3, "EmailAddress", "duplicate-email")]


def test_the_first_of_two_equal_addresses_goes_on() -> None:
    assert [row.line for row in read("li@new.example,a,pw", "li@new.example,b,pw").rows] == [2]


def test_a_duplicate_names_the_line_of_the_first() -> None:
    roster = read("wu@new.example,c,pw", "li@new.example,a,pw", "li@new.example,b,pw")
    assert "line 3" in the_problem(roster).problem.en


def test_a_row_repeated_whole_is_one_problem() -> None:
    assert len(read("li@new.example,a,pw", "li@new.example,a,pw").problems) == 1


def test_two_rows_into_one_new_mailbox_are_found() -> None:
    header = "EmailAddress,UserName,TargetUserName"
    assert pairs(header, "li@x.test,a,", "wu@x.test,b,LI@x.test") == [(3, "TargetUserName", "duplicate-target")]


def test_one_login_on_two_new_services_is_no_clash() -> None:
    header = "EmailAddress,UserName,TargetUserName,TargetHost"
    assert pairs(header, "li@x.test,a,me,one.test", "wu@x.test,b,me,two.test") == []


def test_one_old_mailbox_into_two_new_ones_is_found() -> None:
    assert pairs("EmailAddress,UserName", "li@x.test,old", "wu@x.test,OLD") == [(3, "UserName", "duplicate-source")]
    named = pairs("EmailAddress,UserName,Provider", "li@x.test,old,网易", "wu@x.test,old,netease", "he@x.test,old,qq")
    assert named == [(3, "UserName", "duplicate-source")]


def test_one_login_on_two_old_services_is_no_clash() -> None:
    header = "EmailAddress,UserName,SourceHost"
    assert pairs(header, "li@x.test,old,one.test", "wu@x.test,old,two.test") == []


def test_a_mailbox_cannot_move_onto_itself() -> None:
    header = "EmailAddress,UserName,SourceHost,TargetHost"
    assert pairs(header, "li@x.test,LI@x.test,Imap.x.test,imap.x.test") == [(2, "UserName", "source-is-target")]


def test_the_same_address_on_the_old_and_the_new_service_is_usual() -> None:
    assert read("li@x.test,li@x.test,pw").problems == ()


def test_two_servers_on_one_machine_are_told_apart_by_their_ports() -> None:
    header = "EmailAddress,UserName,SourceHost,SourcePort,TargetHost,TargetPort"
    assert pairs(header, "li@x.test,li@x.test,127.0.0.1,1143,127.0.0.1,2143") == []


# -- passwords stay secret

SECRET = "Geheim-4711"
SHIFTED = [
    f"{HEADER}\nli@x.test,li,{SECRET} \n",
    f"{HEADER}\nli@x.test,li,{SECRET},more\n",
    f"{HEADER}\nli@x.test,{SECRET}\n",
    f'{HEADER}\nli@x.test,li,"{SECRET}\n',
    f'{HEADER}\nli@x.test,li,"a"{SECRET}\n',
    f'{HEADER}\nli@x.test,"li,{SECRET}\nwu@x.test,wu",pw\n',
    f"li@x.test,li,{SECRET}\nwu@x.test,wu,{SECRET}\n",
    f"EmailAddress,UserName,Pasword\nli@x.test,li,{SECRET}\n",
    f"EmailAddress,UserName,Password,密码\nli@x.test,li,{SECRET},other\n",
    f"EmailAddress,UserName,SourceHost\nli@x.test,li,imap://li:{SECRET}@imap.x.test\n",
]


@pytest.mark.parametrize("text", SHIFTED)
def test_a_password_is_in_no_problem_whatever_is_wrong(text: str) -> None:
    assert SECRET not in repr(read_roster(text.encode()))


def test_a_password_is_in_no_exception() -> None:
    with pytest.raises(ValidationError) as refused:
        RosterRow.model_validate({"line": 2, "email": "li@x.test", "user_name": "li", "password": f"{SECRET} "})
    assert SECRET not in f"{refused.value!r} {refused.value}"


printable = st.characters(exclude_categories=("C", "Z"))


@given(st.text(printable, min_size=6, max_size=40), st.sampled_from([" ", "\u3000", "\x00", "\u200b", "\n"]))
def test_no_faulty_password_is_ever_shown(password: str, stain: str) -> None:
    # `x` before it, so that the drawn text is not by chance a word of the report.
    secret = f"x{password}x"
    assert secret not in repr(read_cell("Password", secret + stain).problems)


@given(st.text(st.characters(codec="ascii", exclude_categories=("C",)), min_size=1).filter(lambda p: p == p.strip()))
def test_every_typed_password_arrives_as_it_was_written(password: str) -> None:
    (row,) = read_cell("Password", password).rows
    assert row.password == SecretStr(password)


@given(st.binary(max_size=300), st.sampled_from([b"", HEADER.encode() + b"\n", b"PK\x03\x04", b"\xff\xfe"]))
def test_no_bytes_make_it_raise(data: bytes, start: bytes) -> None:
    assert read_roster(start + data) is not None


@given(st.text(st.sampled_from('ab@,;"\n\r\t \x00|张'), max_size=80))
def test_no_text_below_a_header_makes_it_raise(text: str) -> None:
    assert read(text).total_rows >= 0


# -- the table of columns, the template and the example


def test_no_name_stands_for_two_columns() -> None:
    names = [fold_header(name) for c in COLUMNS for name in (c.name, *c.aliases, *c.fallbacks)]
    assert sorted(names) == sorted(set(names))


def test_every_column_is_a_field_of_the_row_and_the_other_way_round() -> None:
    assert {"line", *(column.field for column in COLUMNS)} == set(RosterRow.model_fields)


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_every_column_has_a_chinese_name(column: object) -> None:
    assert any(not alias.isascii() for alias in column.aliases)  # type: ignore[attr-defined]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_template_is_a_roster_without_problems(language: Language) -> None:
    assert read_roster(roster_template(language).encode()).problems == ()


def test_the_template_names_every_column() -> None:
    assert roster_template("en").splitlines()[0].split(",") == [column.name for column in COLUMNS]


def test_the_example_has_no_problem() -> None:
    assert read_roster(EXAMPLE.read_bytes()).problems == ()


def test_the_example_names_every_column_once() -> None:
    assert read_roster(EXAMPLE.read_bytes()).headers == tuple(column.name for column in COLUMNS)
