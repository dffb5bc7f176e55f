"""What the admin is told of folders that are listed twice, and of those that are not the member's own."""

import html
import re
from pathlib import Path

import pytest

from models.bilingual import Text
from reports.texts import placement
from tests.acceptance.command_line import ALL_DONE, Banjia, roster_row, write_roster
from tests.imapcopy.test_namespaces_on_servers import FOLDERS, SHARING, TWICE, letters
from tests.servers.compare import mail_of
from tests.servers.dovecot import StartDovecot
from tests.servers.mail import seed

pytestmark = [pytest.mark.dovecot, pytest.mark.prefect, pytest.mark.thorough]

LIN, WANG = "lin@old.example", "wang@old.example"
TWO, OTHERS, PUBLIC = "INBOX/Sent", f"shared/{WANG}/Work", "Public/Rules"
WHYS = {TWO: "same_folder", OTHERS: "others_folder", PUBLIC: "public_folder"}


def test_plan_check_and_report_say_in_both_languages_what_is_not_moved_and_why(
    start_dovecot: StartDovecot, guest: Banjia, tmp_path: Path
) -> None:
    rights = {"acls": "Public anyone lrwstipekxa\nPublic/* anyone lrwstipekxa\n"}
    source, target = start_dovecot(settings=SHARING + TWICE, files=rights), start_dovecot()
    for name in (LIN, WANG):
        source.add_user(name, f"Canary-{name[:3]}-old")
    target.add_user(LIN, "Canary-lin-new")
    seed(source, WANG, source.users[WANG].password, letters("wang", {"Work": 3}))
    source.share(WANG, "Work", LIN, "lookup", "read")
    seed(source, LIN, source.users[LIN].password, letters("lin", {**FOLDERS, "Public/Rules": 1}))
    roster = write_roster(tmp_path / "first.csv", [roster_row(LIN, source, target)])

    assert guest.start(["wave", "create", str(roster)]).wait().code == ALL_DONE
    checked = guest.start(["wave", "check", "first", "--json"]).wait()
    told = {finding["finding"] for finding in checked.members[LIN]["findings"]}
    assert {"folders_listed_twice", "folders_not_own"} <= told, checked
    for language in ("zh-CN", "en"):
        planned = guest.start(["wave", "plan", "first"], BANJIA_LANGUAGE=language).wait()
        for name, why in WHYS.items():
            [line] = [line for line in planned.stdout.splitlines() if name in line and f"{name}/" not in line]
            assert in_language(placement(why), language) in line

    moved = guest.migrate(roster)
    assert moved.code == ALL_DONE, moved
    member = moved.members[LIN]
    assert member["messages"] == {**member["messages"], "source": 8, "copied": 8, "issues": 0}
    assert member["grade"] == "Perfect"
    assert {each["source_name"]: each["why"] for each in member["left_out"]}.items() >= WHYS.items()
    held: dict[str, int] = {}
    for each, count in mail_of(target, LIN).items():
        held[each.folder] = held.get(each.folder, 0) + count
    assert held == FOLDERS
    pages = Path(moved.result["report"]["html"]).parent
    for language in ("zh-CN", "en"):
        [page] = pages.glob(f"**/members/*.{language}.html")
        shown = html.unescape(re.sub(r"<[^>]+>", " ", page.read_text(encoding="utf-8")))
        for name, why in WHYS.items():
            assert name in shown
            assert in_language(placement(why), language) in shown
    target.forget_commands()
    again = guest.migrate(roster)
    assert again.members[LIN]["messages"] == member["messages"]
    assert "APPEND" not in target.commands(LIN)


def in_language(text: Text, language: str) -> str:
    return text.zh if language == "zh-CN" else text.en
