"""One mailbox from a server to another: the right result, once, whatever the servers do."""

import re
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, timezone
from pathlib import Path

import pytest
from sqlalchemy import Engine
from sqlmodel import select

from deployments.demo.imap_server import CAPABILITIES, Action, Fault, Folder, Received
from deployments.demo.imap_store import Message
from imapcopy import group_pass
from imapcopy import send as send_module
from imapcopy.copy_mailbox import copy_mailbox
from imapcopy.dialogue import Dialogue
from imapcopy.errors import ConnectionLost, FolderError, MemberError, ServerError, Stopped
from imapcopy.send import Capacity
from imapcopy.target_connection import TargetConnection
from models import ledger as ledger_module
from models.database import reading
from models.ledger import Ledger
from models.ledger_rows import Batch, BatchState
from models.member import LeaseLost
from tests.imapcopy.world import NEW, PASSWORD, Box, account_at, contents, everything, mail, moment, new_member
from tests.servers.databases import Databases
from tests.servers.dovecot import DEADLINE


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, databases: Databases, tmp_path: Path) -> Iterator[Engine]:
    with databases.fresh(request.param, tmp_path) as engine:
        yield engine


POOR = frozenset({"IMAP4rev1"})
UIDPLUS = frozenset({"IMAP4rev1", "UIDPLUS", "AUTH=PLAIN"})
EIGHT_BIT = "Subject: 标题\r\nFrom: a@b\r\n\r\nx\r\n".encode("gbk")
HAZARDS = {
    "NUL octets": b"Subject: x\r\n\r\na\0b\r\n",
    "bare CR": b"Subject: x\r\n\r\na\rb\r\n",
    "bare LF": b"Subject: x\n\nbody\n",
    "8-bit header": EIGHT_BIT,
    "no Message-ID": b"Subject: x\r\n\r\nbody\r\n",
    "no final line end": b"Subject: x\r\n\r\nno end",
    "no header": b"\r\nonly a body",
    "what looks like IMAP": b"Subject: x\r\n\r\n* BYE {5}\r\nB1 OK )\r\n",
    "5 MB": b"Subject: large\r\n\r\n" + b"0123456789abcdef" * (5 << 16),
    "long line": b"Subject: x\r\n\r\n" + b"y" * 200_000,
}


# The right result


@pytest.mark.parametrize("capabilities", [CAPABILITIES, UIDPLUS, POOR], ids=["full", "only UIDPLUS", "nothing"])
def test_every_kind_of_message_arrives_byte_for_byte_and_a_second_run_sends_nothing(
    mailbox: Box, capabilities: frozenset[str]
) -> None:
    mailbox.old.behaviour.capabilities = mailbox.new.behaviour.capabilities = capabilities
    for number, raw in enumerate(HAZARDS.values()):
        mailbox.deliver(number, raw=raw)
    mailbox.deliver(3, "Work/中文 & more")
    mailbox.deliver(3, "Work/中文 & more")  # the same twice
    mailbox.deliver(3)  # and in another folder
    mailbox.folder("Empty")
    mailbox.copy()
    mailbox.assert_equal()
    mailbox.assert_untouched()
    assert mailbox.row().copied == len(HAZARDS) + 1
    assert mailbox.row().bytes == sum(map(len, HAZARDS.values())) + len(mail(3))
    assert mailbox.target.find("Empty") is not None
    assert mailbox.altered() == "{}"

    appended, created = mailbox.sent(), mailbox.sent("CREATE")
    mailbox.copy()
    assert (mailbox.sent(), mailbox.sent("CREATE")) == (appended, created)
    mailbox.assert_equal()


def test_new_mail_is_copied_by_the_next_pass_and_only_that(mailbox: Box) -> None:
    mailbox.deliver(1)
    mailbox.deliver(2, "Work")
    mailbox.copy()
    mailbox.deliver(3)
    mailbox.new.log.clear()
    mailbox.copy()
    mailbox.assert_equal()
    assert mailbox.sent() == 1
    assert not [entry for entry in mailbox.new.commands("SELECT") if "Work" in entry.rest], "Work had not changed"


def test_flags_keywords_and_dates_arrive_and_recent_is_never_sent(mailbox: Box) -> None:
    west, east = timezone(timedelta(hours=-8)), timezone(timedelta(hours=5, minutes=30))
    mailbox.deliver(1, flags=["\\Seen", "\\Flagged", "\\Answered", "\\Draft", "\\Deleted", "\\Recent"])
    mailbox.deliver(
        2, flags=["$Forwarded", "NonJunk", "work-2"], internal_date=datetime(2024, 2, 29, 23, 59, tzinfo=west)
    )
    mailbox.deliver(3, internal_date=datetime(1970, 1, 1, tzinfo=UTC))
    mailbox.deliver(4, internal_date=datetime(2031, 12, 31, 0, 0, 1, tzinfo=east))
    mailbox.copy()
    inbox = mailbox.folder("INBOX")
    inbox.set_flags(1, inbox.messages[0].flags - {"\\Recent"})
    mailbox.assert_equal()
    assert not [entry for entry in mailbox.new.log if "Recent" in entry.rest]
    assert mailbox.altered() == "{}"


def test_keywords_that_the_target_does_not_announce_stay_behind_and_are_reported(mailbox: Box) -> None:
    mailbox.new.behaviour.keywords_allowed = False
    mailbox.deliver(1, flags=["\\Seen", "$Label"])
    mailbox.deliver(2, flags=["\\Seen"])
    mailbox.copy()
    assert [message.flags for message in mailbox.target.folder("INBOX").messages] == [frozenset({"\\Seen"})] * 2
    assert mailbox.altered() == '{"keyword_dropped": 1}'
    assert mailbox.sent() == 1, "nothing that is refused was sent"


@pytest.mark.parametrize(
    "words", ["[CANNOT] Keywords are not supported", "[CANNOT] Invalid characters in keyword", "Error in IMAP command"]
)
def test_keywords_that_are_refused_at_append_stay_behind_and_the_mail_arrives(mailbox: Box, words: str) -> None:
    mailbox.new.behaviour.faults.append(Fault("APPEND", Action.NO, containing="$Label", text=words, times=None))
    mailbox.deliver(1, flags=["\\Seen", "$Label"])
    mailbox.deliver(2, flags=["\\Flagged"])
    mailbox.copy()
    assert sorted(mailbox.arrived()) == [mail(1), mail(2)]
    assert mailbox.altered() == '{"keyword_dropped": 1}'
    mailbox.assert_counted()


# Folders


def test_special_folders_go_into_the_targets_folder_of_the_same_role(mailbox: Box) -> None:
    mailbox.source.create("已发送", "\\Sent")
    mailbox.source.create("垃圾邮件")
    mailbox.target.create("Sent Items", "\\Sent")
    mailbox.target.create("Junk", "\\Junk")
    mailbox.deliver(1, "已发送")
    mailbox.deliver(2, "垃圾邮件")
    mailbox.copy()
    assert mailbox.arrived("Sent Items") == [mail(1)]
    assert mailbox.arrived("Junk") == [mail(2)]
    assert not mailbox.sent("CREATE")


def test_folders_that_differ_in_case_stay_two_on_a_target_that_folds_case(mailbox: Box) -> None:
    """Also in the second pass, which finds the target's folders as the first one left them."""
    for number, name in enumerate(["Project", "project", "PROJECT"]):
        mailbox.deliver(number, name)
    mailbox.copy()
    names = {folder.name for folder in mailbox.target.folders}
    assert len({name.casefold() for name in names}) == 4
    mailbox.deliver(7, "project")
    mailbox.copy()
    assert {folder.name for folder in mailbox.target.folders} == names
    assert sorted(raw for _, raw in contents(mailbox.new, NEW).elements()) == sorted(map(mail, (0, 1, 2, 7)))


def test_noselect_parents_are_no_folders_to_copy(mailbox: Box) -> None:
    mailbox.source.create("Clients/2024/May", noselect_parents=True)
    mailbox.deliver(1, "Clients/2024/May")
    mailbox.new.behaviour.noselect_parents = True
    mailbox.copy()
    assert mailbox.arrived("Clients/2024/May") == [mail(1)]
    assert [row.source_name for row in mailbox.ledger.folders()] == ["INBOX", "Clients/2024/May"]


def test_separators_and_prefixes_may_differ(mailbox: Box) -> None:
    mailbox.new.behaviour.separator, mailbox.new.behaviour.personal_prefix = ".", "INBOX."
    mailbox.target_user = "dots@new.example"
    mailbox.new.add_account(mailbox.target_user, PASSWORD)
    mailbox.deliver(1, "Clients/v1.2")
    mailbox.copy()
    assert mailbox.arrived("INBOX.Clients.v1_2") == [mail(1)]
    appended = mailbox.sent()
    mailbox.deliver(2, "Clients/v1.2")
    mailbox.copy()
    assert mailbox.arrived("INBOX.Clients.v1_2") == [mail(1), mail(2)]
    assert mailbox.sent() == appended + 1


def test_excluded_folders_and_what_lies_outside_the_root_are_left_alone(mailbox: Box) -> None:
    mailbox.source.create("Trash", "\\Trash")
    for number, name in enumerate(["INBOX", "Work", "Work/Old", "Trash", "Archive/2019", "Notes"]):
        mailbox.deliver(number, name)
    mailbox.copy(exclude=("\\Trash", "Archive", "Not*"))
    assert {name for name, _ in contents(mailbox.new, NEW)} == {"INBOX", "Work", "Work/Old"}
    mailbox.new.add_account("root@new.example", PASSWORD)
    rooted = Box(
        mailbox.engine, mailbox.old, mailbox.new, new_member(mailbox.engine, "x"), target_user="root@new.example"
    )
    rooted.copy(root="Work")
    assert contents(mailbox.new, rooted.target_user) == {("INBOX", mail(1)): 1, ("Old", mail(2)): 1}


def test_since_leaves_older_mail_and_a_later_wider_pass_brings_it(mailbox: Box) -> None:
    mailbox.deliver(1, internal_date=moment(1))
    mailbox.deliver(2, internal_date=moment(20))
    mailbox.copy(since=date(2024, 5, 10))
    assert mailbox.arrived() == [mail(2)]
    assert mailbox.row().source_messages == 1
    mailbox.copy()
    mailbox.assert_equal()


@pytest.mark.parametrize("answer", [Action.NO, Action.BAD])
def test_a_folder_that_cannot_be_created_does_not_stop_the_others(mailbox: Box, answer: Action) -> None:
    mailbox.new.behaviour.faults.append(Fault("CREATE", answer, containing="Bad", text="[CANNOT] No", times=None))
    for number, name in enumerate(["INBOX", "Bad", "Good"]):
        mailbox.deliver(number, name)
    with pytest.raises(FolderError) as caught:
        mailbox.copy()
    assert caught.value.where == "Bad"
    assert mailbox.arrived() == [mail(0)]
    assert mailbox.arrived("Good") == [mail(2)]
    mailbox.new.behaviour.faults.clear()
    mailbox.copy()
    mailbox.assert_equal()


def test_every_folder_that_failed_is_named(mailbox: Box) -> None:
    mailbox.new.behaviour.faults.append(Fault("CREATE", Action.NO, containing="Bad", text="[CANNOT] No", times=None))
    mailbox.deliver(1, "Bad 1")
    mailbox.deliver(2, "Bad 2")
    with pytest.raises(FolderError, match=r"Bad 1.*Bad 2"):
        mailbox.copy()


def test_many_folders_are_created_without_a_deadlock(mailbox: Box) -> None:
    for number in range(120):
        mailbox.folder(f"Folder {number:03} {'x' * 100}")
    mailbox.copy()
    mailbox.assert_equal()


@pytest.mark.parametrize("side", ["old", "new"])
def test_a_folder_that_cannot_be_opened_does_not_stop_the_others(mailbox: Box, side: str) -> None:
    server, verb = (mailbox.old, "EXAMINE") if side == "old" else (mailbox.new, "SELECT")
    server.behaviour.faults.append(Fault(verb, Action.NO, containing="Bad", text="[SERVERBUG] Internal", times=None))
    for number, name in enumerate(["INBOX", "Bad", "Good"]):
        mailbox.deliver(number, name)
    with pytest.raises(ServerError) as caught:
        mailbox.copy()
    assert caught.value.where == "Bad"
    assert caught.value.retryable
    assert mailbox.arrived("Good") == [mail(2)]
    server.behaviour.faults.clear()
    mailbox.copy()
    mailbox.assert_equal()


# What is already there


@pytest.mark.parametrize("rewrite", [None, lambda raw: raw.replace(b"\0", b"\x80"), lambda raw: raw + b"\r\n"])
def test_mail_that_was_there_before_is_adopted_and_not_doubled(mailbox: Box, rewrite: object) -> None:
    """Also where the earlier tool's copy was altered by the server that took it."""
    alter = rewrite if callable(rewrite) else bytes
    raws = [mail(1), mail(1), HAZARDS["NUL octets"], HAZARDS["no final line end"], mail(4)]
    for number, raw in enumerate(raws):
        mailbox.deliver(number, raw=raw)
    for raw in [*raws[:4], mail(99)]:
        mailbox.target.folder("INBOX").deliver(alter(raw), moment(9), ["\\Flagged"])
    before = everything(mailbox.new, NEW)
    mailbox.copy()
    assert sorted(mailbox.arrived()) == sorted([*map(alter, [*raws[:4], mail(99)]), mail(4)])
    assert not before - everything(mailbox.new, NEW), "what was there is left as it was"
    assert (mailbox.row().already_there, mailbox.row().copied) == (4, 1)
    mailbox.assert_counted()


def test_of_equal_messages_only_as_many_are_adopted_as_are_there(mailbox: Box) -> None:
    for _ in range(3):
        mailbox.deliver(1)
    mailbox.target.folder("INBOX").deliver(mail(1))
    mailbox.copy()
    assert mailbox.arrived() == [mail(1)] * 3
    assert (mailbox.row().already_there, mailbox.row().copied) == (1, 2)


def test_a_copy_is_recognised_though_the_servers_disagree_about_its_message_id(
    mailbox: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target's server reads no header at all in it: size and moment of arrival bring the two together."""
    mailbox.deliver(1)
    mailbox.target.folder("INBOX").deliver(mail(1), moment(2))
    monkeypatch.setattr(TargetConnection, "message_ids", lambda self, uids: dict.fromkeys(uids, "<other>"))
    mailbox.copy()
    assert mailbox.arrived() == [mail(1)]


@pytest.mark.parametrize("side", ["old", "new", "both"])
def test_a_new_uidvalidity_doubles_nothing(mailbox: Box, side: str) -> None:
    for number in range(6):
        mailbox.deliver(number, raw=b"Subject: no id\r\n\r\n%d\r\n" % number if number % 2 else b"")
    mailbox.copy()
    if side in ("old", "both"):
        mailbox.folder("INBOX").expunge([2])
        mailbox.target.folder("INBOX").expunge([2])
        mailbox.folder("INBOX").change_uidvalidity()
    if side in ("new", "both"):
        mailbox.target.folder("INBOX").change_uidvalidity()
    mailbox.deliver(10)
    mailbox.copy()
    mailbox.assert_equal()


def test_a_new_uidvalidity_of_the_target_in_mid_run_doubles_nothing(
    mailbox: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target loses its index while a batch is on its way; the one in flight is in the folder that comes after."""
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 2)
    for number in range(6):
        mailbox.deliver(number)
    mailbox.later(mailbox.new, "APPEND", mailbox.target.folder("INBOX").change_uidvalidity, nth=2)
    with pytest.raises((FolderError, ServerError)):
        mailbox.copy()
    mailbox.new.behaviour.before_command = None
    mailbox.copy()
    mailbox.assert_equal()


# What happens at the source meanwhile


def test_a_message_expunged_between_scan_and_fetch_is_gone_and_the_counts_add_up(mailbox: Box) -> None:
    for number in range(5):
        mailbox.deliver(number)
    mailbox.later(mailbox.old, "FETCH", lambda: mailbox.folder("INBOX").expunge([2, 5]), nth=2)
    mailbox.copy()
    mailbox.assert_equal()
    assert (mailbox.row().source_messages, mailbox.row().copied, mailbox.row().issues) == (3, 3, 0)


def test_a_substitute_for_an_expunged_message_is_not_copied(mailbox: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Courier does: OK, and a message of its own making instead of the one that is gone."""
    mailbox.deliver(1)
    mailbox.deliver(2)
    inbox = mailbox.folder("INBOX")
    get = Folder.get

    def substitute(self: Folder, uid: int) -> Message | None:
        found = get(self, uid)
        if found is None and self is inbox:
            return Message(uid, b"From: System Administrator\r\n\r\nmessage unavailable\r\n", frozenset(), moment(1), 1)
        return found

    monkeypatch.setattr(Folder, "get", substitute)
    mailbox.later(mailbox.old, "FETCH", lambda: inbox.expunge([1]), nth=2)
    mailbox.copy()
    assert mailbox.arrived() == [mail(2)]
    assert (mailbox.row().source_messages, mailbox.row().copied) == (1, 1)


def test_a_message_that_is_listed_and_not_delivered_is_an_issue(mailbox: Box) -> None:
    for number in range(5):
        mailbox.deliver(number)
    mailbox.old.behaviour.unreadable = lambda raw: raw == mail(2)
    mailbox.copy()
    assert mailbox.arrived() == [mail(number) for number in (0, 1, 3, 4)]
    assert mailbox.issues() == {3: "source_unreadable"}
    mailbox.assert_counted()


@pytest.mark.parametrize("words", ["Some messages could not be FETCHed", "[SERVERBUG] Internal error", "what?"])
def test_a_message_whose_fetch_is_always_refused_is_an_issue(mailbox: Box, words: str) -> None:
    for number in range(5):
        mailbox.deliver(number)
    refuse_body_of(mailbox, 3, Action.NO, words)
    mailbox.copy()
    assert sorted(mailbox.arrived()) == [mail(number) for number in (0, 1, 3, 4)]
    assert mailbox.issues() == {3: "source_unreadable"}
    mailbox.assert_counted()


def test_a_message_that_breaks_the_connection_each_time_is_left_behind(mailbox: Box) -> None:
    for number in range(5):
        mailbox.deliver(number)
    refuse_body_of(mailbox, 3, Action.DROP_BEFORE)
    mailbox.copy()
    assert sorted(mailbox.arrived()) == [mail(number) for number in (0, 1, 3, 4)]
    assert mailbox.issues() == {3: "source_unreadable"}
    mailbox.assert_counted()


def test_such_a_message_does_not_block_the_search_for_copies_either(mailbox: Box) -> None:
    for number in range(3):
        mailbox.deliver(number)
        mailbox.target.folder("INBOX").deliver(mail(number))
    refuse_body_of(mailbox, 2, Action.DROP_BEFORE)
    mailbox.copy()
    assert mailbox.row().already_there == 2
    assert mailbox.issues() == {2: "source_unreadable"}


def test_a_source_that_breaks_every_connection_is_not_taken_for_bad_messages(mailbox: Box) -> None:
    for number in range(8):
        mailbox.deliver(number)
    for uid in range(1, 9):
        refuse_body_of(mailbox, uid, Action.DROP_BEFORE)
    with pytest.raises(ServerError):
        mailbox.copy()
    assert not mailbox.issues()
    mailbox.old.behaviour.faults.clear()
    mailbox.copy()
    mailbox.assert_equal()


@pytest.mark.parametrize("side", ["old", "new"])
def test_a_server_that_asks_to_wait_is_left_alone_at_once(mailbox: Box, side: str) -> None:
    """A BYE with such words breaks the connection, but no message is to blame and nobody reconnects."""
    server, verb = (mailbox.old, "FETCH") if side == "old" else (mailbox.new, "APPEND")
    text = "[THROTTLED] slow down"
    server.behaviour.faults.append(Fault(verb, Action.BYE, containing="BODY" if side == "old" else "", text=text))
    for number in range(4):
        mailbox.deliver(number)
    with pytest.raises(ConnectionLost) as caught:
        mailbox.copy()
    assert caught.value.cause_id == "throttled"
    assert len(server.commands("AUTHENTICATE")) == 1
    assert not mailbox.issues()
    mailbox.copy()
    mailbox.assert_equal()


def test_a_source_folder_deleted_in_mid_run_does_not_stop_the_others(mailbox: Box) -> None:
    for number in range(3):
        mailbox.deliver(number, "Doomed")
        mailbox.deliver(number, "Work")
    doomed = mailbox.folder("Doomed")
    mailbox.later(mailbox.old, "FETCH", lambda: doomed.deleted or mailbox.source.delete(doomed), nth=1)
    with pytest.raises(FolderError) as caught:
        mailbox.copy()
    assert (caught.value.cause_id, caught.value.where) == ("folder_missing", "Doomed")
    assert len(mailbox.arrived("Work")) == 3
    mailbox.copy()
    assert [row.source_name for row in mailbox.ledger.folders()] == ["INBOX", "Work"]


def test_a_target_folder_deleted_in_mid_run_is_filled_anew(mailbox: Box) -> None:
    for number in range(3):
        mailbox.deliver(number, "Work")
    mailbox.later(mailbox.new, "APPEND", lambda: mailbox.target.delete(mailbox.target.folder("Work")))
    with pytest.raises(FolderError):
        mailbox.copy()
    mailbox.new.behaviour.before_command = None
    mailbox.copy()
    mailbox.assert_equal()


def refuse_body_of(mailbox: Box, uid: int, action: Action, text: str = "") -> None:
    """Let every FETCH of that message's content fail, alone or within a set."""

    class Meets(Fault):
        def meets(self, account: str, verb: str, rest: str) -> bool:
            found = re.fullmatch(r"([\d:,]+) \(UID BODY\.PEEK\[\]\)", rest)
            ranges = [part.split(":") for part in found[1].split(",")] if found and verb == "UID FETCH" else []
            return any(int(run[0]) <= uid <= int(run[-1]) for run in ranges)

    mailbox.old.behaviour.faults.append(Meets("FETCH", action, text=text))


# What the target refuses


def test_a_message_too_large_is_an_issue_and_its_neighbours_arrive(mailbox: Box) -> None:
    mailbox.new.behaviour.max_message_bytes = 1000
    for number in range(5):
        mailbox.deliver(number, raw=mail(number, b"x" * 2000) if number == 2 else b"")
    mailbox.copy()
    assert mailbox.arrived() == [mail(number) for number in (0, 1, 3, 4)]
    assert mailbox.issues() == {3: "message_too_large"}
    assert mailbox.row().bytes == sum(len(mail(number)) for number in (0, 1, 3, 4))
    mailbox.assert_counted()


@pytest.mark.parametrize("answer", [Action.NO, Action.BAD])
@pytest.mark.parametrize(
    "words", ["Message contains NUL characters", "Error in IMAP command", "APPEND failed", "what?"]
)
def test_a_message_that_is_refused_is_an_issue_and_the_others_arrive(mailbox: Box, answer: Action, words: str) -> None:
    mailbox.new.behaviour.capabilities = UIDPLUS
    mailbox.new.behaviour.faults.append(Fault("APPEND", answer, containing="\\Flagged", text=words, times=None))
    for number in range(4):
        mailbox.deliver(number, flags=["\\Flagged"] if number == 1 else [])
    mailbox.copy()
    assert mailbox.arrived() == [mail(0), mail(2), mail(3)]
    assert list(mailbox.issues()) == [2]
    assert "append_ambiguous" not in mailbox.issues().values(), "it was looked for and is not there: it was refused"
    mailbox.assert_counted()


@pytest.mark.parametrize("capabilities", [CAPABILITIES, UIDPLUS, POOR], ids=["full", "only UIDPLUS", "nothing"])
def test_a_full_mailbox_stops_the_member_and_is_filled_on_after_more_room(
    mailbox: Box, capabilities: frozenset[str]
) -> None:
    mailbox.new.behaviour.capabilities = capabilities
    mailbox.new.behaviour.quota_bytes = 4 * len(mail(0)) + 10
    for number in range(8):
        mailbox.deliver(number)
    with pytest.raises(MemberError) as caught:
        mailbox.copy()
    assert caught.value.cause_id == "over_quota"
    [row] = mailbox.ledger.folders()
    recorded = [entry for batch in mailbox.ledger.batches(row.id or 0) for entry in batch.entries]
    assert len(recorded) == len(mailbox.arrived()) == 4, "what was taken is in the ledger"
    mailbox.new.behaviour.quota_bytes = None
    mailbox.copy()
    mailbox.assert_equal()


@pytest.mark.parametrize("capabilities", [CAPABILITIES, UIDPLUS], ids=["full", "only UIDPLUS"])
def test_a_message_that_breaks_the_targets_connection_is_left_behind(
    mailbox: Box, capabilities: frozenset[str]
) -> None:
    mailbox.new.behaviour.capabilities = capabilities
    mailbox.new.behaviour.faults.append(Fault("APPEND", Action.DROP_BEFORE, containing="\\Flagged", times=None))
    for number in range(4):
        mailbox.deliver(number, flags=["\\Flagged"] if number == 1 else [])
    mailbox.copy()
    assert mailbox.arrived() == [mail(0), mail(2), mail(3)]
    assert mailbox.issues() == {2: "connection_dropped"}


def test_a_target_that_breaks_every_connection_is_not_taken_for_bad_messages(mailbox: Box) -> None:
    mailbox.new.behaviour.faults.append(Fault("APPEND", Action.DROP_BEFORE, times=None))
    for number in range(20):
        mailbox.deliver(number)
    with pytest.raises(ServerError):
        mailbox.copy()
    assert mailbox.sent() < 30
    mailbox.new.behaviour.faults.clear()
    mailbox.copy()
    assert len(mailbox.arrived()) + len(mailbox.issues()) == 20


# Servers that are less than the RFC


@pytest.mark.parametrize("lie", ["absent", "lying"])
@pytest.mark.parametrize("capabilities", [CAPABILITIES, UIDPLUS], ids=["full", "only UIDPLUS"])
def test_appenduid_may_be_absent_or_lie(
    mailbox: Box, capabilities: frozenset[str], lie: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 3)
    mailbox.new.behaviour.capabilities = capabilities
    mailbox.new.behaviour.appenduid = lie  # type: ignore[assignment]
    for number in range(8):
        mailbox.deliver(number)
    mailbox.copy()
    mailbox.assert_equal()
    assert sorted(uids_in_ledger(mailbox)) == list(range(1, 9))
    assert mailbox.altered() == "{}"


@pytest.mark.parametrize(
    "capabilities",
    [CAPABILITIES - {"MULTIAPPEND"}, CAPABILITIES - {"LITERAL+"}, CAPABILITIES - {"LITERAL+"} | {"LITERAL-"}, POOR],
    ids=["no MULTIAPPEND", "no LITERAL+", "LITERAL-", "only IMAP4rev1"],
)
def test_no_extension_is_needed(mailbox: Box, capabilities: frozenset[str]) -> None:
    mailbox.old.behaviour.capabilities = mailbox.new.behaviour.capabilities = capabilities
    for number in range(7):
        mailbox.deliver(number, "Work", raw=mail(number, b"z" * 5000) if number % 2 else b"", flags=["\\Seen"])
    mailbox.copy()
    mailbox.assert_equal()
    assert sorted(uids_in_ledger(mailbox, "Work")) == list(range(1, 8))


@pytest.mark.parametrize("capabilities", [CAPABILITIES, UIDPLUS, POOR], ids=["full", "only UIDPLUS", "nothing"])
def test_mail_that_members_get_meanwhile_is_not_taken_for_ours(
    mailbox: Box, capabilities: frozenset[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """New mail comes in at the target before each APPEND, some of it as large as what is on its way."""
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 3)
    mailbox.new.behaviour.capabilities = capabilities
    inbox, strangers = mailbox.target.folder("INBOX"), iter(range(50, 90))

    def hook(entry: object) -> None:
        if getattr(entry, "verb", "") == "APPEND":
            inbox.deliver(mail(next(strangers)))

    mailbox.new.behaviour.before_command = hook
    for number in range(10, 20):
        mailbox.deliver(number)
    mailbox.copy()
    ours = {message.uid: message.raw for message in inbox.messages if message.raw in map(mail, range(10, 20))}
    assert sorted(ours.values()) == [mail(number) for number in range(10, 20)]
    assert sorted(uids_in_ledger(mailbox)) == sorted(ours)
    assert mailbox.altered() == "{}"


def test_mail_that_comes_in_when_a_member_takes_a_copy_away_is_not_exchanged_for_it(mailbox: Box) -> None:
    """As many as were sent are new in the folder; the UIDs that the server told say which one is not ours."""
    inbox = mailbox.target.folder("INBOX")
    taken: list[int] = []

    def hook(entry: Received) -> None:
        there = {message.raw: message.uid for message in inbox.messages}
        if entry.verb == "APPEND" and mail(50) not in there:
            inbox.deliver(mail(50), moment(9))
        elif entry.verb == "NOOP" and not taken and mail(1) in there:
            taken.append(there[mail(1)])
            inbox.expunge(taken)

    mailbox.new.behaviour.before_command = hook
    for number in range(1, 4):
        mailbox.deliver(number)
    mailbox.copy()
    assert taken
    assert sorted(mailbox.arrived()) == [mail(1), mail(2), mail(3), mail(50)]
    ours = [message.uid for message in inbox.messages if message.raw != mail(50)]
    assert sorted(uids_in_ledger(mailbox)) == sorted(ours)
    assert mailbox.altered() == "{}"


@pytest.mark.parametrize(
    ("name", "raw", "rewrite"),
    [
        ("final_line_end", HAZARDS["no final line end"], lambda raw: raw + b"\r\n"),
        ("line_ends", HAZARDS["bare LF"], lambda raw: raw.replace(b"\n", b"\r\n")),
        ("nul", HAZARDS["NUL octets"], lambda raw: raw.replace(b"\0", b"\x80")),
        ("header_8bit", EIGHT_BIT, lambda raw: bytes(octet if octet < 128 else ord("X") for octet in raw)),
        ("content", mail(1), lambda raw: b"Received: by us\r\n" + raw),
        ("content", mail(1), lambda raw: b"Subject: we know better\r\n\r\n"),
    ],
)
@pytest.mark.parametrize("capabilities", [CAPABILITIES, POOR], ids=["full", "nothing"])
def test_what_a_server_makes_of_a_message_is_reported_by_name(
    mailbox: Box, capabilities: frozenset[str], name: str, raw: bytes, rewrite: object
) -> None:
    mailbox.new.behaviour.capabilities = capabilities
    mailbox.new.behaviour.rewrite = rewrite  # type: ignore[assignment]
    mailbox.deliver(1, raw=raw)
    mailbox.copy()
    assert mailbox.altered() == f'{{"{name}": 1}}'
    sent = mailbox.sent()
    mailbox.copy()
    assert mailbox.sent() == sent == 1
    mailbox.assert_counted()


@pytest.mark.parametrize("capabilities", [CAPABILITIES, UIDPLUS, POOR], ids=["full", "only UIDPLUS", "nothing"])
def test_a_lost_answer_of_a_server_that_adds_header_fields_doubles_nothing(
    mailbox: Box, capabilities: frozenset[str]
) -> None:
    mailbox.new.behaviour.capabilities = capabilities
    mailbox.new.behaviour.rewrite = lambda raw: b"Received: by us\r\nX-Spam: no\r\n" + raw
    mailbox.new.behaviour.faults.append(Fault("APPEND", Action.DROP_AFTER))
    for number in range(4):
        mailbox.deliver(number)
    mailbox.copy()
    assert len(mailbox.arrived()) == 4
    assert mailbox.altered() == '{"content": 4}'


def test_ignored_dates_and_flags_are_reported(mailbox: Box) -> None:
    mailbox.new.behaviour.ignore_append_date = mailbox.new.behaviour.ignore_append_flags = True
    mailbox.new.behaviour.faults.append(Fault("STORE", Action.NO, times=None))
    mailbox.deliver(1, flags=["\\Seen"])
    mailbox.deliver(2)
    mailbox.copy()
    assert mailbox.altered() == '{"date": 2, "flags": 1}'
    assert sorted(mailbox.arrived()) == [mail(1), mail(2)]
    mailbox.assert_counted()


def uids_in_ledger(mailbox: Box, folder: str = "INBOX") -> list[int]:
    """The target UIDs of the source messages, in the order of those."""
    entries = [e for batch in mailbox.ledger.batches(mailbox.row(folder).id or 0) for e in batch.entries]
    for entry in entries:
        found = mailbox.target.folder(folder).get(entry.target_uid)
        sent = mailbox.folder(folder).get(entry.source_uid)
        assert found
        assert sent
        assert found.raw == sent.raw
    return [entry.target_uid for entry in sorted(entries, key=lambda entry: entry.source_uid)]


# Being stopped


def test_a_stop_ends_the_pass_and_the_next_one_completes_it(mailbox: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 2)
    monkeypatch.setattr(send_module, "UNANSWERED_BATCHES", 1)
    for number in range(12):
        mailbox.deliver(number)
    stop = threading.Event()
    mailbox.later(mailbox.new, "APPEND", stop.set, nth=2)
    with pytest.raises(Stopped):
        mailbox.copy(stop)
    assert len(mailbox.arrived()) in (4, 6), "what is on its way is finished, and nothing else begun"
    recorded = mailbox.ledger.batches(mailbox.row().id or 0)
    assert {batch.state for batch in recorded} == {BatchState.CONFIRMED}
    mailbox.new.behaviour.before_command = None
    mailbox.copy()
    mailbox.assert_equal()


def test_a_stop_before_the_first_folder_copies_nothing(mailbox: Box) -> None:
    mailbox.deliver(1)
    stop = threading.Event()
    stop.set()
    with pytest.raises(Stopped):
        mailbox.copy(stop)
    assert not mailbox.sent()


@pytest.mark.parametrize("capabilities", [CAPABILITIES, UIDPLUS], ids=["full", "only UIDPLUS"])
def test_a_runner_that_lost_its_lease_sends_nothing_more(
    mailbox: Box, capabilities: frozenset[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not even the rest of its batch: the runner that took over is looking for it."""
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 4)
    monkeypatch.setattr(send_module, "UNANSWERED_BATCHES", 1)
    # As if each answer took longer than a lease lasts.
    monkeypatch.setattr(ledger_module, "LEASE_FRESH", 0)
    mailbox.new.behaviour.capabilities = capabilities
    for number in range(12):
        mailbox.deliver(number)
    token = mailbox.lease()
    ledger = Ledger(mailbox.engine, mailbox.member_id, token)

    def take_over() -> None:
        with mailbox.engine.connect().execution_options(writes=True) as connection, connection.begin():
            # At once, because we renew our lease between any two statements.
            connection.exec_driver_sql(
                "UPDATE member SET lease_owner = 'another runner', lease_token = lease_token + 1"
            )

    mailbox.later(mailbox.new, "APPEND", take_over, nth=2)
    with pytest.raises(LeaseLost):
        copy_mailbox(
            account_at(mailbox.old, mailbox.source_user), account_at(mailbox.new, NEW), ledger, mailbox.options
        )
    # Over several connections each has one message on its way and the next one announced.
    assert mailbox.sent() < 12 if capabilities is UIDPLUS else mailbox.sent() <= 2
    with reading(mailbox.engine) as session:
        assert BatchState.INTENDED in [b.state for b in session.exec(select(Batch))]
    with mailbox.engine.connect().execution_options(writes=True) as connection, connection.begin():
        connection.exec_driver_sql("UPDATE member SET lease_owner = ''")
    mailbox.new.behaviour.before_command = None
    mailbox.copy()
    mailbox.assert_equal()


def test_a_writer_that_fails_does_not_wait_for_a_silent_source(mailbox: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reader is blocked on a server that never answers; its connection is cut and the failure comes out."""
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 1)
    # An answer is read when there is something more to send: the first two batches have to get through, while one is
    # being identified and one is being put together.
    monkeypatch.setattr(send_module, "UNANSWERED_BATCHES", 1)
    for number in range(10):
        mailbox.deliver(number)
    silent = threading.Event()
    mailbox.old.behaviour.faults.append(Fault("FETCH", Action.HANG, containing="BODY.PEEK[]", nth=6))
    mailbox.later(mailbox.old, "FETCH", silent.set, nth=7)  # after the scan and five bodies
    waited: list[bool] = []
    mailbox.later(mailbox.new, "APPEND", lambda: waited.append(silent.wait(DEADLINE)))
    mailbox.new.behaviour.quota_bytes = 1
    timed_out: list[object] = []
    lost_by = Dialogue.lost_by

    def noted(self: Dialogue, error: Exception) -> ConnectionLost:
        timed_out.extend([error] if isinstance(error, TimeoutError) else [])
        return lost_by(self, error)

    monkeypatch.setattr(Dialogue, "lost_by", noted)
    with pytest.raises(MemberError):
        mailbox.copy()
    assert waited == [True]
    assert not timed_out, "the reader was cut off and did not wait for its server"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("read", "identify"))]


def test_the_next_folder_gets_a_fresh_connection_after_the_reader_was_cut_off(
    mailbox: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 1)
    monkeypatch.setattr(group_pass, "AHEAD_BYTES", 1)
    for number in range(5):
        mailbox.deliver(number, "Work")
        mailbox.deliver(number, "Zeta")
    fault = Fault("APPEND", Action.NO, containing="Work", text="[TRYCREATE] gone", times=None)
    mailbox.new.behaviour.faults.append(fault)
    with pytest.raises(FolderError):
        mailbox.copy()
    assert len(mailbox.arrived("Zeta")) == 5
    mailbox.new.behaviour.faults.clear()
    mailbox.copy()
    mailbox.assert_equal()


def test_keyboard_interrupt_in_the_writer_leaves_a_ledger_that_the_next_run_completes(
    mailbox: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(4):
        mailbox.deliver(number)
    append = TargetConnection.start_append

    def interrupted(*args: object) -> bytes:
        append(*args)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(TargetConnection, "start_append", interrupted)
        with pytest.raises(KeyboardInterrupt):
            mailbox.copy()
    mailbox.copy()
    mailbox.assert_equal()


def test_a_session_that_the_source_ended_meanwhile_is_opened_anew(mailbox: Box) -> None:
    mailbox.deliver(1)
    mailbox.deliver(2, "Work")
    mailbox.old.behaviour.faults.append(Fault("EXAMINE", Action.BYE, containing="Work", text="Idle for too long"))
    mailbox.copy()
    mailbox.assert_equal()


def test_what_appears_under_another_uid_than_it_was_given_is_not_sent_again(mailbox: Box) -> None:
    """The target renumbers a message after it took it (a rule, a restore); the second transfer finds it."""
    mailbox.deliver(1)
    mailbox.deliver(2)
    inbox = mailbox.target.folder("INBOX")

    def renumber() -> None:
        [message] = [m for m in inbox.messages if m.uid == 2] or [None]  # type: ignore[list-item]
        if message:
            inbox.expunge([2])
            inbox.deliver(message.raw, message.internal_date, message.flags)

    met = 0

    def hook(entry: object) -> None:
        nonlocal met
        met += getattr(entry, "verb", "") == "APPEND"
        if met and getattr(entry, "verb", "") == "UID FETCH":
            renumber()

    mailbox.new.behaviour.before_command = hook
    mailbox.copy()
    assert sorted(mailbox.arrived()) == [mail(1), mail(2)]
    mailbox.assert_counted()


def test_a_truthful_appenduid_costs_no_second_look(mailbox: Box) -> None:
    """One APPEND a message and nothing between two of them, on a server that takes one message a command."""
    mailbox.new.behaviour.capabilities = UIDPLUS
    for number in range(20):
        mailbox.deliver(number)
    mailbox.copy(capacity=Capacity(connections=1))
    verbs = [entry.verb for entry in mailbox.new.log]
    first = verbs.index("APPEND")
    assert verbs[first : first + 20] == ["APPEND"] * 20
