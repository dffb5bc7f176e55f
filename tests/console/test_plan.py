"""What `banjia wave plan` prints: for people in both languages, and as JSON."""

import io

import pytest
from rich.console import Console

from console.plan import print_plan
from imapcopy.plan_mailbox import PlannedFolder
from models.bilingual import Language
from reports.texts import placements
from tasks.plan_member import MemberPlan
from tests.console.conftest import CommandLine, Program
from tests.tasks.office import Enrolled, Office

PLAN = [
    MemberPlan(
        "li@new.example",
        (
            PlannedFolder("INBOX", "INBOX", False, "", "", 1234),
            PlannedFolder("已发送", "Sent", True, "sent", "known_name", 5),
            PlannedFolder("a\x1b[31m", "a_[31m", True, "", "characters", None),
            PlannedFolder("日历", "", False, "", "not_mail", 7),
        ),
    ),
    MemberPlan("wang@new.example", cause="bad_credentials", side="source"),
]


def printed(language: Language) -> str:
    out = io.StringIO()
    print_plan(PLAN, Console(file=out, width=160), language)
    return out.getvalue()


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("en", ["1,234", "Sent (new)", "well-known name", "not moved", "calendar", "Wrong user name", "Nothing was"]),
        (
            "zh-CN",
            ["1,234", "Sent（新建）", "通用名称", "不搬", "其中不是邮件", "用户名或密码错误", "没有写入任何邮箱"],
        ),
    ],
)
def test_a_plan_is_a_table_for_each_member(language: Language, expected: list[str]) -> None:
    text = printed(language)
    for each in ("li@new.example", "wang@new.example", *expected):
        assert each in text, text
    assert "\x1b" not in text


def test_every_reason_fits_into_a_row_of_the_table() -> None:
    assert all(len(text.en) < 75 for text in placements().values())


@pytest.mark.prefect
def test_a_plan_as_json_has_what_is_moved_and_what_is_not(
    program: Program, banjia: CommandLine, office: Office
) -> None:
    office.add("li")
    office.old.account("li@old.example").create("病毒文件夹").deliver(b"Subject: x\r\n\r\nx\r\n")
    Enrolled(office)
    ended = program.run("wave", "plan", "first", "--json")
    assert ended.code == 0, ended
    [member] = ended.document["members"]
    [inbox], [left] = member["folders"], member["left_out"]
    assert (inbox["source_name"], inbox["target_name"], inbox["new"], inbox["messages"]) == ("INBOX", "INBOX", False, 3)
    assert inbox["reason"] == {"zh-CN": "名称不变", "en": "the same name"}
    assert (left["source_name"], left["target_name"], left["why"], left["messages"]) == ("病毒文件夹", None, "virus", 1)
