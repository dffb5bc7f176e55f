"""A source whose answers are odd, through the whole program: the mail, the grade, and the words of check and report."""

from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.demo.imap_behaviour import ScanLine
from imapcopy.errors import MigrationError
from models.check import Severity
from models.states import MemberState
from reports.read import read_wave
from reports.summary import Grade, MemberSummary
from tasks.migrate_member import check_member, migrate_member
from tasks.verify_member import verify_member
from tests.tasks.office import Enrolled, Office

M = MemberState
Retold = Callable[[list[ScanLine]], list[ScanLine]]


@pytest.fixture
def li(office: Office, home: Path, monkeypatch: pytest.MonkeyPatch) -> Enrolled:
    """Li, with eight messages that she has seen."""
    monkeypatch.setenv("BANJIA_RETRY_DELAYS", "[]")
    office.add("li", 8)
    return Enrolled(office)


def checked(li: Enrolled) -> dict[str, tuple[Severity, int]]:
    """What the check says of the source: severity and number, by finding."""
    member = li.member("li")
    check_member.fn(member.id or 0, member.email)
    [found] = read_wave(li.store.engine, "first").checks
    return {each.name: (each.severity, each.values.get("n", 0)) for each in found.findings}


def moved(li: Enrolled) -> MemberSummary:
    member = li.member("li")
    migrate_member.fn(member.id or 0, member.email)
    [told] = read_wave(li.store.engine, "first").members
    return told


def parts(*cut: str) -> Retold:
    def retold(lines: list[ScanLine]) -> list[ScanLine]:
        return [
            ScanLine(line.number, tuple(item for item in line.items if item[0] in some.split()))
            for line in lines
            for some in cut
        ]

    return retold


def lacking(item: str) -> Retold:
    return lambda lines: [ScanLine(n, tuple(each for each in items if each[0] != item)) for n, items in lines]


def all_but(*numbers: int) -> Callable[[bytes], bool]:
    """Messages by their places from 1."""
    return lambda raw: any(b"Subject: %d\r\n" % (number - 1) in raw for number in numbers)


@pytest.mark.parametrize(
    "retold",
    [
        parts("UID", "FLAGS INTERNALDATE RFC822.SIZE"),
        parts("UID INTERNALDATE RFC822.SIZE", "FLAGS"),
        parts("FLAGS", "UID", "RFC822.SIZE", "INTERNALDATE"),
        lacking("RFC822.SIZE"),
    ],
    ids=["uid apart", "flags apart", "all apart", "no size"],
)
def test_whatever_lines_it_comes_in_all_of_it_arrives_as_it_was(li: Enrolled, office: Office, retold: Retold) -> None:
    office.old.behaviour.retold = retold
    assert checked(li) == {}
    told = moved(li)
    assert (told.state, told.grade, told.counts.source, told.counts.copied) == (M.SYNCED, Grade.PERFECT, 8, 8)
    office.assert_moved()
    assert all(message.flags == {"\\Seen"} for message in office.new.account("li@new.example").folder("INBOX").messages)


def test_messages_that_are_counted_and_not_shown_are_told_before_and_after(li: Enrolled, office: Office) -> None:
    office.old.behaviour.unlisted = all_but(3, 7)
    assert checked(li) == {"messages_hidden": (Severity.WARNS, 2)}
    told = moved(li)
    assert (told.state, told.grade) == (M.SYNCED_WITH_ISSUES, Grade.INVESTIGATE)
    counts = told.counts
    assert (counts.source, counts.copied, counts.issues, counts.unaccounted) == (8, 6, 2, 0)
    assert [(issue.source_uid, issue.cause.id) for issue in told.issues] == [
        (-3, "message_hidden"),
        (-7, "message_hidden"),
    ]
    assert told.leading_cause is not None
    assert "索引" in told.leading_cause.advice.zh
    assert "index" in told.leading_cause.advice.en
    found = verify_member(li.store, li.member("li"), deep=True)
    assert (found.source, found.hidden, found.present, found.missing, found.cause) == (8, 2, 6, 0, None)


def test_more_than_can_be_listed_one_by_one_are_unaccounted_for(
    li: Enrolled, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imapcopy.folder_pass.HIDDEN_ISSUES", 2)
    office.old.behaviour.unlisted = all_but(2, 3, 4, 5, 6)
    told = moved(li)
    assert (len(told.issues), told.counts.source, told.counts.copied, told.counts.unaccounted) == (2, 8, 3, 3)
    assert told.grade == Grade.INVESTIGATE


def test_the_second_of_two_messages_with_one_uid_is_told(li: Enrolled, office: Office) -> None:
    office.old.behaviour.uid_of = lambda uid: 5 if uid == 6 else uid
    assert checked(li) == {"messages_hidden": (Severity.WARNS, 1)}
    told = moved(li)
    assert (told.grade, told.counts.copied, told.counts.issues) == (Grade.INVESTIGATE, 7, 1)
    assert "UID 5" in told.issues[0].server_text


def test_one_message_that_refuses_the_scan_is_the_only_one_that_stays(li: Enrolled, office: Office) -> None:
    office.old.behaviour.refuses_scan = all_but(4)
    assert checked(li) == {"messages_hidden": (Severity.WARNS, 1)}
    told = moved(li)
    assert (told.grade, told.counts.copied, told.counts.issues) == (Grade.INVESTIGATE, 7, 1)
    assert "SERVERBUG" in told.issues[0].server_text


@pytest.mark.parametrize("answer", ["NO", "BAD"])
def test_an_empty_mailbox_whose_folders_may_not_be_scanned_is_moved(li: Enrolled, office: Office, answer: str) -> None:
    old = office.old.account("li@old.example")
    old.folder("INBOX").expunge(range(1, 9))
    old.create("Work")
    office.old.behaviour.scan_of_nothing = answer  # type: ignore[assignment]
    assert checked(li) == {"no_mail": (Severity.WARNS, 0)}
    told = moved(li)
    assert (told.state, told.grade, told.counts.source) == (M.SYNCED, Grade.PERFECT, 0)


def test_flags_that_are_never_told_are_a_difference_that_is_told(li: Enrolled, office: Office) -> None:
    office.old.behaviour.retold = lacking("FLAGS")
    told = moved(li)
    assert (told.grade, told.altered, told.counts.copied) == (Grade.INVESTIGATE, {"flags": 8}, 8)


def test_a_target_with_another_uidvalidity_each_time_is_a_warning_and_no_failure(li: Enrolled, office: Office) -> None:
    office.new.behaviour.restless_uidvalidity = True
    assert checked(li) == {"uidvalidity_restless": (Severity.WARNS, 0)}
    told = moved(li)
    assert (told.state, told.grade, told.counts.copied) == (M.SYNCED, Grade.PERFECT, 8)
    assert any("UIDVALIDITY" in event.why for event in told.events)
    told = moved(li)
    assert (told.state, told.grade) == (M.SYNCED, Grade.PERFECT)
    office.assert_moved()
    found = verify_member(li.store, li.member("li"), deep=False)
    assert (found.present, found.missing, found.read_back, found.cause) == (8, 0, 8, None)


def test_what_the_target_counts_and_does_not_show_is_named_and_not_doubled(li: Enrolled, office: Office) -> None:
    office.new.behaviour.unlisted = all_but(5)
    with pytest.raises(MigrationError):
        moved(li)
    member = li.member("li")
    assert (member.state, member.cause, member.cause_side) == (M.FAILED, "message_hidden", "target")
    assert len(office.new.account("li@new.example").folder("INBOX").messages) == 8
