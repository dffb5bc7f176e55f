"""What other programs that copy mailboxes were seen to do wrong: one test for each, which names it.

Where a mistake is not the engine's to make (roster, lease, report, exit code), the layer that could make it is asked.
Most have longer tests where they belong; this page is the list.
"""

import email
import email.policy
import socket
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from console.outcome import Exit, exit_code
from deployments.demo import imap_fetch
from deployments.demo.imap_server import Action, Fault, ImapServer
from imapcopy import group_pass
from imapcopy.answers import DEFAULT_CAUSES, Stage, classify
from imapcopy.check_mailbox import check_mailbox
from imapcopy.copy_options import CopyOptions
from imapcopy.errors import HOST_BUSY, FolderError, MemberError, MigrationError, ServerError
from models.causes import cause, causes
from models.columns import now
from models.database import writing
from models.ledger_rows import BatchState
from models.member import LeaseHeld, Member
from models.roster import read_roster
from models.states import MemberState
from reports.summary import MemberSummary
from tests.imapcopy.world import PASSWORD, Box, account_at, contents, mail, moment, new_member
from tests.reports.sample import sample_member, sample_summary


@pytest.fixture
def three(mailbox: Box) -> Box:
    """Three messages to be moved."""
    for number in range(3):
        mailbox.deliver(number)
    return mailbox


def recorded(box: Box) -> list[int]:
    """The source UIDs that the ledger holds for moved."""
    batches = [b for row in box.ledger.folders() for b in box.ledger.batches(row.id or 0)]
    return sorted(e.source_uid for b in batches if b.state != BatchState.INTENDED for e in b.entries)


# What an APPEND says, and when it is written down


def test_anti_pattern_status_of_append_ignored(three: Box) -> None:
    three.new.behaviour.refuse_message = lambda raw: "[LIMIT] Message is too big" if raw == mail(1) else None
    three.copy()
    assert three.issues() == {2: "message_too_large"}
    assert (three.row().copied, recorded(three)) == (2, [1, 3])
    three.assert_counted()


def test_anti_pattern_marked_done_after_a_failure(three: Box) -> None:
    three.new.behaviour.quota_bytes = len(mail(0)) + 1
    with pytest.raises(MemberError):
        three.copy()
    assert len(recorded(three)) == len(three.arrived()) < 3
    three.new.behaviour.quota_bytes = None
    three.copy()
    three.assert_equal()


def test_anti_pattern_marked_done_before_the_copy(three: Box) -> None:
    seen: list[tuple[BatchState, int]] = []

    def look() -> None:
        [batch] = three.ledger.batches(three.row().id or 0)
        seen.append((batch.state, three.row().copied))

    three.later(three.new, "APPEND", look)
    three.copy()
    assert seen == [(BatchState.INTENDED, 0)], "while the server is being told, nothing counts as moved"


def test_anti_pattern_map_saved_only_at_the_end_of_a_folder(three: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 1)
    for number in range(3, 8):
        three.deliver(number)
    three.new.behaviour.faults.append(Fault("APPEND", Action.DROP_BEFORE, nth=3, times=None))
    with pytest.raises(ServerError):
        three.copy()
    assert recorded(three) == [1, 2], "what arrived before the break is known"
    assert three.issues() == {}, "and a server that breaks every connection says nothing of the messages"
    three.new.behaviour.faults.clear()
    sent = three.sent()
    three.copy()
    assert three.sent() == sent + 6
    three.assert_equal()


# What a message is known by


def test_anti_pattern_uidvalidity_of_the_source_not_in_the_key(three: Box) -> None:
    three.copy()
    inbox = three.folder("INBOX")
    inbox.expunge([1])
    inbox.deliver(mail(9), moment(9))
    inbox.change_uidvalidity()
    assert inbox.uids == [1, 2, 3], "every UID is one that was moved, and the last is another message"
    three.copy()
    assert sorted(three.arrived()) == [mail(number) for number in (0, 1, 2, 9)]
    three.assert_counted()


def test_anti_pattern_uidvalidity_of_the_target_not_in_the_key(three: Box) -> None:
    three.copy()
    inbox = three.target.folder("INBOX")
    inbox.expunge([1])
    inbox.change_uidvalidity()
    three.deliver(9)
    three.copy()
    assert sorted(three.arrived()) == [mail(number) for number in (0, 1, 2, 9)]
    three.assert_counted()


def test_anti_pattern_dedup_across_folders(three: Box) -> None:
    three.deliver(1)
    three.deliver(1, "Work")
    three.deliver(1, "Work/Old")
    three.copy()
    assert contents(three.new, three.target_user) == contents(three.old, three.source_user)
    assert sum(raw == mail(1) for folder in three.target.folders for raw in three.arrived(folder.name)) == 4


# Arrival dates


def test_anti_pattern_date_header_used_as_arrival_date(mailbox: Box) -> None:
    mailbox.deliver(1, raw=b"Date: Fri, 1 Jan 1999 00:00:00 +0000\r\nSubject: x\r\n\r\nx\r\n", internal_date=moment(5))
    mailbox.copy()
    assert [m.internal_date.astimezone(UTC) for m in mailbox.target.folder("INBOX").messages] == [moment(5)]


def test_anti_pattern_none_as_arrival_date(mailbox: Box) -> None:
    """A message without a Date header keeps its moment too; APPEND without a date would make it arrive now."""
    mailbox.deliver(1, raw=b"Subject: x\r\n\r\nx\r\n", internal_date=datetime(1970, 1, 1, tzinfo=UTC))
    mailbox.copy()
    [append] = mailbox.new.commands("APPEND")
    assert '"01-Jan-1970 00:00:00 +0000"' in append.rest
    mailbox.assert_equal()


# What is read, and what is done with it


def test_anti_pattern_rfc822_fetch_sets_seen(three: Box) -> None:
    three.copy()
    assert not any("\\Seen" in message.flags for message in three.folder("INBOX").messages)
    read = [entry for entry in three.old.log if entry.verb in ("SELECT", "EXAMINE", "UID FETCH", "FETCH")]
    assert {entry.verb for entry in read} == {"EXAMINE", "UID FETCH"}
    assert not [entry for entry in read if "BODY[" in entry.rest or "RFC822 " in entry.rest or "RFC822)" in entry.rest]


def test_anti_pattern_message_parsed_and_reserialised(mailbox: Box) -> None:
    odd = [
        b"Subject: =?utf-8?B?5qCH6aKY?= " + b"x" * 200 + b"\r\nfrom:a@b\r\n\r\nbody\r\n",
        "Subject: 标题\r\nX:\ty \r\n\r\nbody\r\n".encode("gbk"),
        b"From nobody Mon Jan  1 00:00:00 2024\r\nSubject: x\r\n\r\n>From x\r\n",
        b"Subject: x\r\nContent-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\nno end of it",
        b"no header at all",
    ]
    for policy in (email.policy.default, email.policy.SMTP):
        again = [email.message_from_bytes(raw, policy=policy).as_bytes() for raw in odd]
        assert all(a != raw for a, raw in zip(again, odd, strict=True)), "each is one that a library would change"
    for number, raw in enumerate(odd):
        mailbox.deliver(number, raw=raw)
    mailbox.copy()
    mailbox.assert_equal()


def test_anti_pattern_strict_size_check_drops_good_mail(three: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """RFC822.SIZE is an estimate on several servers."""
    honest = imap_fetch._value

    def estimated(message: Any, item: str) -> str:
        return str(len(message.raw) + 7) if item == "RFC822.SIZE" else honest(message, item)

    monkeypatch.setattr(imap_fetch, "_value", estimated)
    three.copy()
    assert (three.issues(), three.altered()) == ({}, "{}")
    three.assert_equal()


# Failures


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("words", ["[THROTTLED] Account exceeded command limits", "[UNAVAILABLE] Try again later"])
def test_anti_pattern_transient_error_drops_a_message_for_good(three: Box, side: str, words: str) -> None:
    server, verb = (three.old, "FETCH") if side == "source" else (three.new, "APPEND")
    server.behaviour.faults.append(Fault(verb, Action.NO, nth=2 if side == "source" else 1, text=words, times=4))
    told: list[MigrationError] = []
    for _ in range(6):
        try:
            three.copy()
        except MigrationError as error:
            told.append(error)
        assert [row.issues for row in three.ledger.folders()] in ([], [0])
    assert all(error.retryable for error in told)
    assert server.behaviour.faults[0].met >= 4
    three.assert_equal()


def test_anti_pattern_failed_folder_absent_from_the_report(three: Box) -> None:
    three.deliver(4, "Work")
    three.old.behaviour.faults.append(
        Fault("EXAMINE", Action.NO, containing="Work", text="[NOPERM] Permission denied", times=None)
    )
    with pytest.raises(MigrationError) as caught:
        three.copy()
    assert caught.value.where == "Work"
    assert sorted(three.arrived()) == [mail(number) for number in range(3)], "the others were moved"


def test_anti_pattern_success_although_something_failed() -> None:
    """A member whose last folder could not be read, and one with a message that was refused, are no success."""
    through = replace(sample_member(1), issues=())
    failed = replace(
        through, state=MemberState.FAILED, cause=cause("permission_denied"), cause_side="source", found=50_000
    )
    assert failed.counts.unaccounted > 0, "what was never reached is missing in the sum"
    assert failed.grade is None
    for other in (failed, replace(through, state=MemberState.SYNCED_WITH_ISSUES)):
        summary = replace(sample_summary(), members=(through, other), invalid_rows=())
        assert not summary.all_done
        assert other in summary.needs_attention
        assert exit_code(summary) is Exit.PARTIAL
    assert exit_code(replace(sample_summary(), members=(through,), invalid_rows=())) is Exit.DONE


def test_anti_pattern_most_frequent_error_decides_the_exit_code() -> None:
    """Nine that cannot be reached and one that was moved is a wave to look at, not a network that is down."""
    through = replace(sample_member(1), issues=())
    lost = replace(through, state=MemberState.FAILED, cause=cause("dns_error"), cause_side="source")

    def code(*members: MemberSummary) -> Exit:
        return exit_code(replace(sample_summary(), members=members, invalid_rows=()))

    assert code(*[lost] * 9, through) is Exit.PARTIAL
    assert code(*[lost] * 9, replace(lost, cause=cause("bad_credentials"))) is Exit.PARTIAL
    assert code(*[lost] * 10) is Exit.UNREACHABLE


@pytest.mark.parametrize("stage", DEFAULT_CAUSES)
@pytest.mark.parametrize(
    "words",
    ["migrate it first", "operation refused", "Corporate policy", "generated 450 x", "integrate", "timeouts.txt"],
)
def test_anti_pattern_transient_by_substring(stage: Stage, words: str) -> None:
    """`rate` is in `migrate`, `operation` and `Corporate`."""
    for side in ("source", "target"):
        found = classify(f"NO {words}", stage=stage, side=side, host="imap.old.example")
        assert found == DEFAULT_CAUSES[stage]
        assert found not in HOST_BUSY
    told = classify("NO [THROTTLED] migrate it first", stage="list", side="source", host="imap.old.example")
    assert told == "throttled", "a response code is believed"
    assert causes()["throttled"].retryable


# Before the copy, and beside it


def test_anti_pattern_login_only_preflight(three: Box) -> None:
    """NetEase lets a client sign in and list, and refuses to open a folder."""
    words = "Unsafe Login. Please contact kefu@188.com for help"
    three.old.behaviour.faults.append(Fault("EXAMINE", Action.NO, text=words, times=None))
    sides = account_at(three.old, three.source_user), account_at(three.new, three.target_user)
    [failure] = check_mailbox(*sides, CopyOptions()).failures
    assert failure.side == "source"
    assert not isinstance(failure, FolderError), "it is the account that is refused"
    three.old.behaviour.faults.clear()
    three.old.behaviour.id_before_select = True
    assert [folder.messages for folder in check_mailbox(*sides, CopyOptions()).folders] == [3], (
        "who says who it is, is let in"
    )


def test_anti_pattern_one_bad_row_stops_the_batch() -> None:
    roster = read_roster(
        b"EmailAddress,UserName,Password\n"
        b"li@new.example,li@old.example,one\n"
        b"no address,x,two\n"
        b"wang@new.example\n"
        b"zhao@new.example,zhao@old.example,three\n"
    )
    assert [row.line for row in roster.rows] == [2, 5]
    assert {problem.line for problem in roster.problems} == {3, 4}


def test_anti_pattern_one_lock_for_all_jobs(mailbox: Box, engine: Engine, old: ImapServer, new: ImapServer) -> None:
    mailbox.deliver(1)
    mailbox.lease()
    with pytest.raises(LeaseHeld):
        mailbox.lease()
    for server in (old, new):
        server.add_account("wang@example", PASSWORD)
    other = Box(engine, old, new, new_member(engine, "wang@example"), "wang@example", "wang@example")
    other.deliver(2)
    other.copy()
    assert other.arrived() == [mail(2)], "somebody else's lease holds nobody up"
    assert mailbox.arrived() == []


def test_anti_pattern_lock_stuck_after_a_reboot(mailbox: Box, engine: Engine) -> None:
    mailbox.deliver(1)
    mailbox.lease()
    with writing(engine) as session:
        member = session.get_one(Member, mailbox.member_id)
        member.lease_owner = f"{socket.gethostname()}/another-boot/1/1"
        member.lease_until = now() + timedelta(minutes=5)
        session.add(member)
    mailbox.copy()
    assert Counter(mailbox.arrived()) == {mail(1): 1}, "nobody waits for a machine that has started anew"
