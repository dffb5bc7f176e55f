"""`banjia wave check`: the table on a terminal of any width, and its exit code for scripts."""

import csv
import io
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from console.check import SHOWN, print_check
from models.bilingual import LANGUAGES, Language
from models.check import Finding, Look, Severity
from models.hints import Hint
from models.states import MemberState
from reports.check import CheckedMember, groups
from tests.console.conftest import CommandLine, Program
from tests.tasks.office import Office, written

WRONG = Finding("bad_credentials", Severity.BLOCKS, "source", {}, "NO [AUTHENTICATIONFAILED] no")
LARGE = Finding("too_large", Severity.WARNS, "target", {"n": 3, "limit": 1 << 20, "largest": 3 << 20})


def company(count: int) -> list[CheckedMember]:
    """Every hundredth has a wrong password, every tenth mail that is too large."""
    return [
        CheckedMember(
            number,
            f"person.number-{number:03}@new.example",
            MemberState.READY,
            "old.example",
            "new.example",
            Look(folders=4, messages=1000, bytes=5 << 20, largest=1 << 20),
            None,
            (WRONG,) if number % 100 == 0 else (LARGE,) if number % 10 == 0 else (),
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("width", [100, 160])
@pytest.mark.parametrize("spoken", LANGUAGES)
def test_eight_hundred_members_are_readable(width: int, spoken: Language) -> None:
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False)
    print_check(company(800), console, spoken)
    said = out.getvalue()
    lines = said.splitlines()
    assert len(lines) < 3 * SHOWN
    assert all(len(line) <= width for line in lines)
    table = [line for line in lines if line.startswith("person.number-")]
    assert len(table) >= SHOWN
    assert [line.split()[0][:17] for line in table[:8]] == [f"person.number-{n:03}" for n in range(0, 800, 100)]
    assert ("760 more members" if spoken == "en" else "另有 760 个成员") in said
    assert ("792 of 800 members can be moved" if spoken == "en" else "800 个成员中 792 个可以开始搬") in said
    assert said.count("AUTHENTICATIONFAILED") == 1


SEVERAL = (
    Finding("bad_credentials", Severity.BLOCKS, "source", hint=Hint("user_blanks"), known_by="login:some-rule"),
    Finding("bad_credentials", Severity.BLOCKS, "target", hint=Hint("password_blanks_at_ends")),
    Finding("over_quota", Severity.BLOCKS, "target", {"need": 5 << 20, "free": 3 << 20}),
    Finding("dns_error", Severity.BLOCKS, "source", server_text="[Errno -2] unknown", where="imap.old.example:993"),
    Finding("target_not_empty", Severity.TELLS, "target", {"n": 3}),
)


@pytest.mark.parametrize("spoken", LANGUAGES)
def test_what_the_admin_does_comes_first_with_numbers_servers_and_both_sides_hints(spoken: Language) -> None:
    members = [replace(each, email=f"{n}@new.example", findings=(SEVERAL[n],)) for n, each in enumerate(company(5))]
    out = io.StringIO()
    print_check(members, Console(file=out, width=200, highlight=False), spoken)
    said = out.getvalue()
    table, _, below = said.partition("\n\n")
    order = [below.index(f"    {n}@new.example") for n in (2, 3, 0, 1, 4)]
    assert order == sorted(order), below
    english = spoken == "en"
    assert ("2@new.example (needs 5.0 MB, 3.0 MB are free)" if english else "2@new.example（需要 5.0 MB") in below
    assert ("3@new.example (imap.old.example:993)" if english else "3@new.example（imap.old.example:993）") in below
    assert ("Seen from here: [Errno -2]" if english else "本机所见：[Errno -2]") in below
    assert all(each.hint.text.in_language(spoken) in below for each in SEVERAL[:2] if each.hint and each.hint.text)
    [ready] = [line for line in table.splitlines() if line.startswith("4@")]
    assert ("ready" if english else "可以开始") in ready


@pytest.mark.parametrize("spoken", LANGUAGES)
@pytest.mark.parametrize("to_a_file", [False, True])
def test_no_sentence_and_no_step_is_cut(spoken: Language, to_a_file: bool) -> None:
    """Folded on a terminal, whole on one line in a file, whose width is none."""
    found = Finding(
        "app_password_required", Severity.BLOCKS, "source", hint=Hint("password_blanks_at_ends"), server_text="x" * 90
    )
    members = [replace(company(1)[0], findings=(found,), source_provider="netease_qiye")]
    out = io.StringIO()
    print_check(members, Console(file=out, width=100, highlight=False, soft_wrap=to_a_file), spoken)
    below = out.getvalue().partition("\n\n")[2]
    said = below if to_a_file else re.sub(r"\s+", "", below)
    [group] = groups(members)
    assert group.cures[0].steps
    assert found.hint
    assert found.hint.text
    for text in (group.kind.advice, found.hint.text, *group.cures[0].steps):
        whole = text.in_language(spoken)
        assert (whole if to_a_file else re.sub(r"\s+", "", whole)) in said
    assert "x" * 90 in said


def test_a_check_of_everybody_tells_both_faults_and_ends_with_3_and_then_with_0(
    program: Program, banjia: CommandLine, office: Office, tmp_path: Path
) -> None:
    for name in ("li", "wang"):
        office.add(name)
    wrong = {"Password": "canary-one", "TargetPassword": "canary-two"}
    rows = [office.row("li"), office.row("wang", **wrong)]
    roster = office.write_roster(tmp_path / "members.csv", *rows)
    assert program.run("wave", "create", roster).code == 0
    checked = program.run("wave", "check", "members", "--json")
    assert checked.code == 3, checked
    document = checked.document
    assert (document["ready"], document["not_ready"], document["messages"]) == (1, 1, 3)
    first, second = document["members"]
    assert [(f["finding"], f["side"]) for f in first["findings"]] == [
        ("bad_credentials", "source"),
        ("bad_credentials", "target"),
    ]
    assert (second["email"], second["ready"]) == ("li@new.example", True)
    assert "canary" not in checked.stdout + checked.stderr
    assert written(office.old) == written(office.new) == set()
    report = Path(document["report"]["html"])
    assert 'id="check"' in report.read_text()
    assert 'id="causes"' not in report.read_text(), "the check has said it"
    [mend] = csv.DictReader(io.StringIO(Path(document["report"]["failures"]).read_text(encoding="utf-8-sig")))
    assert mend["EmailAddress"] == "wang@new.example"
    assert mend["Cause"].count("Wrong user name or password") == 2, "one for each mailbox"
    shown = banjia("member", "show", "wang@new.example")
    assert shown.stdout.count("Wrong user name or password · ") == 2, shown
    assert "0 of 1 member can be moved" in shown.stdout

    office.write_roster(roster)
    assert program.run("wave", "create", roster).code == 0
    again = program.run("wave", "check", "members")
    assert again.code == 0, again
    assert "All 2 members can be moved." in again.stdout
    assert again.stdout.splitlines()[-1] == "Next, the move: banjia wave start members"
    assert program.run("wave", "start", "members").code == 0
    assert 'id="check"' not in report.read_text(), "who has been moved needs no check"
