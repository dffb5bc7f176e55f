"""The main job between two real mail servers, seen from outside: the command line, the servers, the files.

What arrived is read by `tests/servers/compare.py`, which shares nothing with the program.
"""

import html
import random
import re
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from tests.acceptance.command_line import (
    ALL_DONE,
    COLUMNS,
    LONGEST_RUN,
    PARTIAL,
    Banjia,
    Run,
    roster_row,
    write_roster,
)
from tests.acceptance.company import MEMBERS, MESSAGES, Company, password
from tests.servers.certificates import self_signed
from tests.servers.compare import assert_same_mail, mail_of
from tests.servers.dovecot import WRITING_VERBS, Dovecot, StartDovecot, wait_until
from tests.servers.line import Line
from tests.servers.mail import mailbox_messages, seed
from tests.servers.secrets_scan import find_secrets

pytestmark = [pytest.mark.dovecot, pytest.mark.prefect]

KILLS = 5
PART = 3_000_000
"""Octets that a run may bring over before it is killed: a tenth of all mail."""


def assert_only_read(server: Dovecot, email: str) -> None:
    """The sessions of a source user looked and changed nothing."""
    said = Counter(server.commands(email))
    assert said["EXAMINE"], f"{email}: nothing was read ({said})"
    assert not WRITING_VERBS & said.keys(), f"{email}: {said}"


def assert_all_accounted_for(run: Run, emails: list[str]) -> None:
    """Every member named is complete, and its numbers add up."""
    for email in emails:
        member = run.members[email]
        numbers = member["messages"]
        assert numbers["source"] == MESSAGES, member
        assert numbers["copied"] + numbers["already_there"] == MESSAGES, member
        assert numbers["issues"] == 0, member
        assert member["state"] in ("synced", "completed"), member
        assert member["cause"] is None, member
        assert member["grade"] in ("Perfect", "Good"), member
        assert member["bytes"] > 0, member


def test_twenty_mailboxes_arrive_whole_and_a_second_run_sends_nothing(
    two_dovecots: Company, banjia: Banjia, tmp_path: Path
) -> None:
    company = two_dovecots
    banjia.keep_secret(company.source, company.target)
    roster = write_roster(tmp_path / "members.csv", company.rows())

    first = banjia.migrate(roster)
    assert first.code == ALL_DONE, first
    assert len(first.members) == MEMBERS
    assert first.result["invalid_rows"] == []
    assert_all_accounted_for(first, company.emails)
    for email in company.emails:
        assert first.members[email]["messages"]["copied"] == MESSAGES
        assert_only_read(company.source, email)
        assert "APPEND" in company.target.commands(email), "or the record of commands does not work"
    company.assert_moved()

    company.target.forget_commands()
    second = banjia.migrate(roster)
    assert second.code == ALL_DONE, second
    assert_all_accounted_for(second, company.emails)
    changing = WRITING_VERBS - {"SELECT"}
    for email in company.emails:
        assert not changing & set(company.target.commands(email)), f"{email}: the second run changed the target"
    company.assert_moved()
    company.assert_source_unchanged()
    banjia.assert_no_secret_was_written()


def test_a_run_killed_five_times_ends_in_the_same_mailboxes(
    two_dovecots: Company, banjia: Banjia, tmp_path: Path
) -> None:
    """`kill -9` when a random part of the mail is on its way; every other time all child processes go as well."""
    company = two_dovecots
    banjia.keep_secret(company.source, company.target)
    dice = random.Random(20261122)
    with Line(company.target.port) as line:
        roster = write_roster(tmp_path / "members.csv", company.rows(TargetPort=str(line.port)))
        for number in range(KILLS):
            line.hold(after=dice.randrange(PART // 10, PART))
            started = banjia.start_migrate(roster)
            wait_until(lambda: line.held or not started.running, "mail on its way", LONGEST_RUN)  # noqa: B023
            run = started.kill(everything=number % 2 == 1)
            assert run.code < 0, f"the run had ended before it could be killed: {run}"
            line.cut()
            line.hurry()
        last = banjia.migrate(roster)
    assert last.code == ALL_DONE, last
    assert_all_accounted_for(last, company.emails)
    company.assert_moved()
    for email in company.emails:
        assert_only_read(company.source, email)
    company.assert_source_unchanged()
    banjia.assert_no_secret_was_written()


def test_twelve_faults_in_a_roster_are_named_and_the_good_rows_are_moved(
    start_dovecot: StartDovecot, guest: Banjia, tmp_path: Path
) -> None:
    """The file is what Excel in Chinese writes: GB18030, semicolons."""
    source, target = start_dovecot(), start_dovecot()
    good = ["good1@old.example", "good2@old.example", "good3@old.example"]
    for number, email in enumerate(good):
        # Not ASCII, so that the encoding of the file matters.
        source.add_user(email, f"旧邮箱密码第{number}号 {password('old', number)}")
        target.add_user(email, f"新邮箱密码第{number}号 {password('new', number)}")
        seed(source, email, source.users[email].password, mailbox_messages(email, 40))
    guest.keep_secret(source, target)
    template = roster_row(good[0], source, target, Password="Canary-fault-old", TargetPassword="Canary-fault-new")
    guest.keep_secret_too("Canary-fault-old", "Canary-fault-new")

    faults = [
        {"EmailAddress": ""},
        {"EmailAddress": "李明.old.example"},
        {"EmailAddress": "two@signs@old.example"},
        {"EmailAddress": "GOOD1@old.example", "TargetUserName": "somebody.else@new.example"},
        {"SourcePort": "端口"},
        {"SourcePort": "70000"},
        {"SourceSecurity": "也许"},
        {"SourceHost": "mail .old.example"},
        {"TargetPort": "0"},
        {"TargetSecurity": "very"},
        {"TargetHost": "mail_服务器!.example"},
        {"TargetUserName": good[0]},
    ]
    rows = [roster_row(good[0], source, target)]
    for number, fault in enumerate(faults):
        email = f"fault{number}@old.example"
        rows.append(template | {"EmailAddress": email, "UserName": email, "TargetUserName": email} | fault)
    rows += [roster_row(email, source, target) for email in good[1:]]
    roster = write_roster(tmp_path / "名单.csv", rows, delimiter=";", encoding="gb18030")

    run = guest.migrate(roster)
    assert run.code == PARTIAL, run
    # The header is line 1, the first good row line 2.
    expected = {(line, next(iter(fault))) for line, fault in enumerate(faults, 3)}
    named = {(row["line"], row["column"]) for row in run.result["invalid_rows"]}
    assert named == expected, run.result["invalid_rows"]
    for row in run.result["invalid_rows"]:
        assert row["problem"], row
        assert row["fix"], row
    moved = {email for email, member in run.members.items() if member["state"] in ("synced", "completed")}
    assert moved == set(good)
    for email in good:
        assert_same_mail(mail_of(source, email), mail_of(target, email), email)
    guest.assert_no_secret_was_written()


def test_four_failures_have_four_causes_and_stop_nobody_else(
    start_dovecot: StartDovecot, two_dovecots: Company, guest: Banjia, tmp_path: Path
) -> None:
    company = two_dovecots
    source, target = company.source, company.target
    refused, unknown, wrong, full, good, secure = company.emails[:6]
    stranger = start_dovecot(certificate=self_signed())
    stranger.add_user(refused, password("stranger", 1))
    target.set_quota(full, "storage=300K")
    wrong_password = "Canary-wrong-password"
    guest.keep_secret(source, target, stranger)
    guest.keep_secret_too(wrong_password)
    over_tls = {"SourcePort": str(source.tls_port), "SourceSecurity": "tls"}
    over_tls |= {"TargetPort": str(target.tls_port), "TargetSecurity": "tls"}
    rows = [
        roster_row(refused, stranger, target, SourcePort=str(stranger.tls_port), SourceSecurity="tls"),
        roster_row(unknown, source, target, SourceHost="no-such-host.invalid", SourceSecurity="tls", SourcePort="993"),
        roster_row(wrong, source, target, Password=wrong_password),
        roster_row(full, source, target),
        roster_row(good, source, target),
        roster_row(secure, source, target, **over_tls),
    ]
    roster = write_roster(tmp_path / "members.csv", rows)

    run = guest.migrate(roster)
    assert run.code == PARTIAL, run
    assert_all_accounted_for(run, [good, secure])
    company.assert_moved(good, secure)
    unlucky = [refused, unknown, wrong, full]
    causes = [run.members[email]["cause"] for email in unlucky]
    assert len(set(causes) - {None, "unclassified"}) == 4, causes
    assert stranger.sessions(refused) == []
    assert not re.search("Login:|auth failed", stranger.log()), "a password went to a server that was refused"

    reports = {kind: run.report(kind) for kind in ("html", "csv", "json")}
    on_terminal = guest.migrate(roster, as_json=False)
    assert on_terminal.code == PARTIAL, on_terminal
    places = {"terminal": on_terminal.stdout, **reports, "html": html.unescape(reports["html"])}
    for email in unlucky:
        member = run.members[email]
        advice = member["advice"]
        assert advice["zh-CN"] != advice["en"], member
        assert not advice["zh-CN"].isascii(), member
        for place, text in places.items():
            assert email in text, f"{email} is not in the {place}"
            words = (member["cause"], advice["zh-CN"], advice["en"])
            assert any(word in text for word in words), f"{member['cause']} is not in the {place}"
    # A full mailbox is not a reason to take away what is in it, nor to send anything twice.
    assert not mail_of(target, full) - company.mail[full]
    guest.assert_no_secret_was_written()


def test_a_secret_left_behind_would_have_been_found(
    start_dovecot: StartDovecot, banjia: Banjia, tmp_path: Path
) -> None:
    """The search for secrets, tried on what the program really wrote: planted there, the password is found."""
    source, target = start_dovecot(), start_dovecot()
    email = "only@old.example"
    for server, side in ((source, "old"), (target, "new")):
        server.add_user(email, password(side, 1))
    seed(source, email, password("old", 1), mailbox_messages(email, 20))
    banjia.keep_secret(source, target)
    roster = write_roster(tmp_path / "members.csv", [roster_row(email, source, target)])
    run = banjia.migrate(roster)
    assert run.code == ALL_DONE, run
    banjia.assert_no_secret_was_written()

    # Prefect's server would write, and take files away, while they are copied.
    stopped = banjia.start(["prefect", "stop"]).wait()
    assert stopped.code == 0, stopped
    home = tmp_path / "planted"
    shutil.copytree(banjia.home, home, ignore=shutil.ignore_patterns("*.sock"))
    databases = [file for file in home.rglob("*") if file.is_file() and _is_database(file)]
    assert databases, "the program keeps its state in a database below its home"
    for database in databases:
        with closing(sqlite3.connect(database)) as connection:
            connection.execute("CREATE TABLE planted (value TEXT)")
            connection.execute("INSERT INTO planted VALUES (?)", (password("new", 1),))
            connection.commit()
    (home / "a.log").write_text(f"login {password('old', 1)!r} refused")
    hits = find_secrets([password("old", 1), password("new", 1)], [home])
    assert {hit.where.split("!")[0] for hit in hits} >= {str(home / "a.log"), *map(str, databases)}
    assert {hit.needle for hit in hits} == {password("old", 1), password("new", 1)}


def _is_database(file: Path) -> bool:
    with file.open("rb") as content:
        return content.read(16) == b"SQLite format 3\0"


def test_the_roster_of_these_tests_has_the_columns_of_the_example() -> None:
    example = Path(__file__).parents[2] / "members.csv.example"
    header = example.read_text(encoding="utf-8-sig").splitlines()[0]
    assert set(COLUMNS) <= set(header.split(","))
