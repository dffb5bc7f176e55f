"""Mailboxes move from and to servers that speak like real services; each test names what it was taken from.

A personality (deployments/demo/personalities.toml) has a service's greeting, capabilities, folders and oddities.
"""

import contextlib
import json
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from sqlalchemy import Engine

from deployments.demo.imap_server import Action, Fault, ImapServer
from deployments.demo.personality import personalities, personality
from imapcopy import sign_in
from imapcopy.check_mailbox import check_mailbox
from imapcopy.copy_options import CopyOptions
from imapcopy.errors import MigrationError, ServerError
from imapcopy.folders import Folder
from imapcopy.grammar import encode_mailbox
from imapcopy.source_connection import SourceConnection
from tests.imapcopy.world import LIN, NEW, PASSWORD, WRITING, Box, account_at, everything, mail, new_member

SERVICES = sorted(personalities())


class Street:
    """Starts servers on either side of a move."""

    def __init__(self, engine: Engine, stack: ExitStack) -> None:
        self._engine = engine
        self._stack = stack

    def move(self, source: str = "", target: str = "", **changes: object) -> Box:
        """A mailbox to be moved from one service to another; "" is a full and friendly server.

        The changes are for the source's behaviour, if that is no friendly one, else for the target's.
        """
        old = self._server("old", LIN, source, changes if source else {})
        new = self._server("new", NEW, target, {} if source else changes)
        return Box(self._engine, old, new, new_member(self._engine))

    def _server(self, name: str, user: str, service: str, changes: dict[str, object]) -> ImapServer:
        if not service:
            return self._stack.enter_context(ImapServer(name, {user: PASSWORD}))
        one = personality(service)
        server = ImapServer(name, {user: PASSWORD}, one.behaviour(**changes))
        one.furnish(server.account(user))
        return self._stack.enter_context(server)


@pytest.fixture
def street(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Street]:
    with ExitStack() as stack:
        yield Street(engine, stack)


NOT_MOVED = {"[Gmail]/All Mail", "[Gmail]/Important", "[Gmail]/Starred", "病毒文件夹"}
"""Views of mail that lies elsewhere too, and what a scanner has taken away."""


def fill(box: Box) -> None:
    """Two messages in each folder of the source, with flags."""
    number = 0
    for folder in box.source.folders:
        if folder.name in NOT_MOVED:
            continue
        for flags in ((), ("\\Seen", "\\Answered")):
            number += 1
            if folder.selectable:
                box.deliver(number, folder.name, flags=frozenset(flags))


def looks(box: Box, side: str) -> Counter[tuple[bytes, object, frozenset[str]]]:
    """What a side holds, whatever its folders are called."""
    account = box.source if side == "source" else box.target
    return Counter((m.raw, m.internal_date, m.flags) for folder in account.folders for m in folder.messages)


@pytest.mark.parametrize("service", SERVICES)
def test_a_mailbox_leaves_each_service_whole(street: Street, service: str) -> None:
    box = street.move(source=service)
    fill(box)
    box.copy()
    assert looks(box, "target") == looks(box, "source")
    box.assert_counted()
    sent = box.sent()
    box.copy()
    assert box.sent() == sent
    read_only = WRITING - ({"SELECT"} if service == "alibaba" else set())
    assert not {entry.verb.removeprefix("UID ") for entry in box.old.log} & read_only


@pytest.mark.parametrize("service", SERVICES)
def test_a_mailbox_arrives_whole_at_each_service(street: Street, service: str) -> None:
    box = street.move(target=service)
    for number in range(1, 13):
        box.deliver(number, ["INBOX", "Sent", "项目", "Archive of 2024"][number % 4], flags=frozenset({"\\Seen"}))
    box.copy()
    assert looks(box, "target") == looks(box, "source")
    box.assert_counted()
    sent = box.sent()
    box.copy()
    assert box.sent() == sent
    box.assert_untouched()


def test_alibaba_knows_no_examine_and_is_read_without_a_trace(street: Street) -> None:
    """Alibaba's list of commands (help.aliyun.com 2857156) lacks EXAMINE, AUTHENTICATE, NAMESPACE and IDLE."""
    box = street.move(source="alibaba")
    fill(box)
    box.deliver(99, flags=frozenset({"\\Deleted"}))
    before = everything(box.old, LIN)
    box.old.behaviour.faults.append(Fault("FETCH", Action.DROP_BEFORE, containing="BODY"))
    box.copy()
    assert everything(box.old, LIN) == before
    verbs = Counter(entry.verb.removeprefix("UID ") for entry in box.old.log)
    assert not set(verbs) & (WRITING - {"SELECT"})
    # In flight all are asked for before the first is refused; a later connection knows.
    assert verbs["EXAMINE"] == len(box.source.folders)
    assert verbs["SELECT"] > verbs["EXAMINE"]


def issues(box: Box) -> Counter[str]:
    """What was not moved, by cause."""
    rows = box.ledger.folders()
    return Counter(issue.cause for row in rows for issue in box.ledger.issues(row.id or 0).values())


# NetEase


def test_netease_opens_no_folder_before_it_knows_who_asks(street: Street) -> None:
    """LOGIN and LIST succeed, SELECT answers `Unsafe Login` (offlineimap#696, himalaya#651, node-imap#908)."""
    box = street.move(source="netease")
    fill(box)
    check_mailbox(account_at(box.old, LIN), account_at(box.new, NEW), CopyOptions())
    verbs = [entry.verb for entry in box.old.log]
    assert verbs.index("ID") < verbs.index("EXAMINE")


def test_what_netease_says_to_a_client_without_a_name_has_a_cause_of_its_own(
    street: Street, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = street.move(source="netease")
    monkeypatch.setattr(sign_in, "IDENTITY", b"NOOP")
    with pytest.raises(MigrationError) as caught:
        box.copy()
    assert caught.value.cause_id == "id_required"


def test_netease_tells_no_uidnext_and_small_uidvalidities_that_mailboxes_share(street: Street) -> None:
    """No UIDNEXT in STATUS and SELECT, UIDVALIDITY 1 for every INBOX, UIDs of ten digits (transcripts of 163)."""
    box = street.move(source="netease")
    fill(box)
    with SourceConnection(account_at(box.old, LIN)) as connection:
        [status] = connection.statuses([b"INBOX"]).values()
        assert (status.messages, status.uidnext) == (2, 0)
    box.copy()
    assert box.row().source_uidvalidity == 1
    assert min(m.uid for m in box.source.folder("INBOX").messages) > 1_000_000_000
    # Moved at the source: the copy follows, or is at least not lost; nothing is told by STATUS.
    inbox, sent = box.source.folder("INBOX"), box.source.folder("已发送")
    moved = inbox.messages[0]
    sent.deliver(moved.raw, moved.internal_date, moved.flags)
    inbox.expunge([moved.uid])
    box.copy()
    assert looks(box, "target") == looks(box, "source")


# Tencent


def test_tencent_takes_ascending_sets_only(street: Street) -> None:
    """`BAD UID parameters!`, `Sequence set is invalid` (modern-email/defects#40, himalaya#518, Wino-Mail#201)."""
    box = street.move(source="qq")
    for number in range(1, 60):
        box.deliver(number, flags=frozenset({"\\Seen"} if number % 3 else ()))
    box.source.folder("INBOX").expunge(range(10, 40, 3))
    box.copy()
    box.assert_untouched()
    assert looks(box, "target") == looks(box, "source")


def test_tencents_container_of_folders_is_not_opened_and_its_children_arrive(street: Street) -> None:
    r"""其他文件夹 is \Noselect, and all folders of a member's own lie in it (isync and JavaMail users' transcripts)."""
    box = street.move(source="qq")
    box.deliver(1, "其他文件夹/客户")
    box.copy()
    assert not [entry for entry in box.old.log if entry.rest.endswith('"&UXZO1mWHTvZZOQ-"')]
    assert [raw for folder in box.target.folders for raw in (m.raw for m in folder.messages)] == [mail(1)]


@pytest.mark.parametrize("service", ["qq", "alibaba", "icloud", "yandex"])
def test_no_service_is_asked_to_search(street: Street, service: str) -> None:
    """SEARCH ignores its criteria (go-imap#206), is BAD (imap_tools#192), or finds nothing (imap-backup#118)."""
    box = street.move(source=service)
    fill(box)
    box.copy()
    assert not {entry.verb for entry in (*box.old.log, *box.new.log)} & {"SEARCH", "UID SEARCH"}


# Feishu and Lark


def test_feishu_takes_a_password_by_authenticate_only_and_lists_uid_anywhere(street: Street) -> None:
    """LOGIN is `BAD invalid command` (openfang#408); UID stands before or behind the literal."""
    box = street.move(source="feishu", target="feishu")
    fill(box)
    box.copy()
    assert {entry.verb for entry in box.new.log} & {"LOGIN", "AUTHENTICATE"} == {"AUTHENTICATE"}
    assert looks(box, "target") == looks(box, "source")


def test_at_feishu_special_folders_are_known_by_their_names(street: Street) -> None:
    """Nothing is marked there: INBOX, Archive, Spam, Trash, Sent and Drafts (larksuite/cli)."""
    box = street.move(source="netease", target="feishu")
    for number, name in enumerate(("草稿箱", "已发送", "已删除", "垃圾邮件"), start=1):
        box.deliver(number, name)
    box.copy()
    filled = {folder.name for folder in box.target.folders if folder.messages}
    assert filled == {"Drafts", "Sent", "Trash", "Spam"}


# Gmail


def test_gmail_keeps_one_of_two_equal_messages_and_the_report_says_so(street: Street) -> None:
    """APPEND of what is there already says OK and stores nothing (imapsync's FAQ on Gmail)."""
    box = street.move(target="gmail")
    for _ in range(2):
        box.deliver(1)
    box.deliver(2)
    with contextlib.suppress(MigrationError):
        box.copy()
    assert sorted(box.arrived()) == [mail(1), mail(2)]
    box.assert_counted()
    assert sum(issues(box).values()) == 1


def test_gmails_own_folder_cannot_be_opened_and_is_not_tried(street: Street) -> None:
    r"""[Gmail] is \Noselect: `NO [NONEXISTENT] Unknown Mailbox: [Gmail]` (imapsync's FAQ on Gmail)."""
    box = street.move(source="gmail")
    fill(box)
    box.copy()
    assert not [entry for entry in box.old.log if entry.rest.endswith('"[Gmail]"')]


def test_gmail_tells_which_messages_are_one(street: Street) -> None:
    """X-GM-MSGID and X-GM-LABELS (Google's page on IMAP extensions)."""
    box = street.move(source="gmail")
    for name in ("INBOX", "[Gmail]/All Mail", "项目"):
        box.deliver(1, name)
    with SourceConnection(account_at(box.old, LIN)) as connection:
        connection.examine(Folder(b"INBOX", "INBOX", "/", frozenset()))
        dialogue = connection._dialogue
        [told] = dialogue.collect(dialogue.send(b"UID FETCH 1:* (UID X-GM-MSGID X-GM-LABELS)"))[1]
    tokens = told.tokens()[2]
    assert isinstance(tokens, list)
    assert (tokens[:3], tokens[5]) == ([b"UID", b"1", b"X-GM-MSGID"], [b"\\All", encode_mailbox("项目")])


# Microsoft


def test_microsoft_takes_the_login_and_then_no_command(street: Street) -> None:
    """`User is authenticated but not connected` comes after an OK (MailKit, FairEmail): the check must go that far."""
    box = street.move(source="microsoft365", not_connected=frozenset({LIN}))
    [failure] = check_mailbox(account_at(box.old, LIN), account_at(box.new, NEW), CopyOptions()).failures
    assert failure.cause_id == "mailbox_unavailable"
    assert "not connected" in failure.server_text


@pytest.mark.parametrize("wrong", [0, 1, -1, 700, -700])
def test_microsofts_sizes_are_estimates_and_no_reason_to_leave_mail_behind(street: Street, wrong: int) -> None:
    """EnableExactRFC822Size is off by default (Microsoft); 1,719 good messages were lost to it (vandelay#12)."""
    box = street.move(source="microsoft365", told_size=lambda raw: max(0, len(raw) + wrong))
    fill(box)
    box.copy()
    assert looks(box, "target") == looks(box, "source")
    assert not issues(box)


def test_microsoft_folds_the_case_of_names(street: Street) -> None:
    """`trash` and `Trash` collide: `Mailbox already exists` (imapsync's FAQ on Exchange)."""
    box = street.move(target="microsoft365")
    for number, name in enumerate(("Trash", "trash", "TRASH", "sent items"), start=1):
        box.deliver(number, name)
    box.copy()
    assert looks(box, "target") == looks(box, "source")


def test_a_name_that_microsoft_reserves_costs_no_other_folder(street: Street) -> None:
    """`NO Folder name is reserved` for Files (imapsync's FAQ on Office 365)."""
    box = street.move(target="microsoft365")
    box.deliver(1, "Files")
    box.deliver(2, "After")
    failed: list[MigrationError] = []
    try:
        box.copy()
    except MigrationError as error:
        failed.append(error)
    assert box.arrived("After") == [mail(2)]
    there = mail(1) in {m.raw for folder in box.target.folders for m in folder.messages}
    assert there or [(error.cause_id, error.where) for error in failed] == [("folder_name_invalid", "Files")]


def test_microsoft_says_how_long_to_wait_and_is_left_alone(street: Street) -> None:
    """`Request is throttled. Suggested Backoff Time: 299961 milliseconds` (imapsync#198, #212, #272)."""
    box = street.move(source="microsoft365")
    fill(box)
    words = "Request is throttled. Suggested Backoff Time: 299961 milliseconds"
    box.old.behaviour.faults.append(Fault("FETCH", Action.BAD, text=words, containing="BODY", times=None))
    with pytest.raises(ServerError) as caught:
        box.copy()
    assert caught.value.cause_id == "throttled"
    box.old.behaviour.faults.clear()
    box.copy()
    assert looks(box, "target") == looks(box, "source")


def test_microsoft_ends_a_session_after_ten_errors_and_the_mail_arrives(street: Street) -> None:
    """The server closes after 10 errors (imapsync's FAQ on Office 365); refused messages are errors, too."""
    refused = {mail(number) for number in range(1, 26)}
    box = street.move(target="microsoft365", refuse_message=lambda raw: "Virus found" if raw in refused else None)
    for number in range(1, 40):
        box.deliver(number)
    box.copy()
    assert sorted(box.arrived()) == sorted(mail(number) for number in range(26, 40))
    assert issues(box).total() == 25
    box.assert_counted()


def test_a_flag_that_microsoft_drops_at_append_is_there_or_is_reported(street: Street) -> None:
    r"""\Flagged given to APPEND is lost (imapsync's FAQ on Office 365)."""
    box = street.move(target="microsoft365")
    box.deliver(1, flags=frozenset({"\\Flagged", "\\Seen"}))
    box.copy()
    [message] = box.target.folder("INBOX").messages
    assert message.flags == {"\\Flagged", "\\Seen"} or "flags" in box.altered()


def test_a_token_that_expires_ends_the_session_and_the_next_one_goes_on(street: Street) -> None:
    """`BYE Session invalidated - AccessTokenExpired` in the middle of a run."""
    box = street.move(source="microsoft365")
    fill(box)
    words = "Session invalidated - AccessTokenExpired"
    box.old.behaviour.faults.append(Fault("FETCH", Action.BYE, text=words, containing="BODY"))
    box.copy()
    assert looks(box, "target") == looks(box, "source")


# Yahoo


def test_a_message_that_yahoo_never_delivers_is_left_behind_alone(street: Street) -> None:
    """`NO [UNAVAILABLE] UID FETCH Server error while fetching messages`, for ever (imap-backup#218, imapsync#119)."""
    box = street.move(source="yahoo", unreadable=lambda raw: raw == mail(3))
    for number in range(1, 7):
        box.deliver(number)
    box.copy()
    assert sorted(box.arrived()) == [mail(number) for number in (1, 2, 4, 5, 6)]
    assert issues(box) == {"source_unreadable": 1}


def test_yahoo_takes_short_commands_only(street: Street) -> None:
    """1,000 octets a line (MailKit): scattered UIDs need many sets."""
    box = street.move(source="yahoo", target="yahoo")
    inbox = box.source.folder("INBOX")
    inbox.uidnext = 4_000_000_000
    for number in range(1, 500):
        box.deliver(number)
        inbox.uidnext += number % 2
    box.copy()
    assert looks(box, "target") == looks(box, "source")


def test_yahoo_refuses_a_message_without_a_last_line_end_and_it_is_an_issue(street: Street) -> None:
    """`BAD [CLIENTBUG] APPEND Additional arguments found after last expected argument` (imapsync's FAQ on Yahoo)."""
    box = street.move(target="yahoo")
    box.deliver(1)
    box.deliver(2, raw=mail(2).rstrip())
    box.deliver(3)
    box.copy()
    assert {mail(1), mail(3)} <= set(box.arrived())
    assert len(box.arrived()) == 3 or issues(box) == {"invalid_message": 1}
    box.assert_counted()


# iCloud, Yandex, Zoho, Courier, home.pl


def test_icloud_wants_the_words_of_a_temporary_failure_to_be_waited_out(street: Street) -> None:
    """`NO [UNAVAILABLE] Unexpected exception` at APPEND: the mail is not to blame."""
    box = street.move(target="icloud")
    fill(box)
    words = "[UNAVAILABLE] Unexpected exception"
    box.new.behaviour.faults.append(Fault("APPEND", Action.NO, text=words))
    with contextlib.suppress(ServerError):
        box.copy()
    box.copy()
    assert looks(box, "target") == looks(box, "source")
    assert not issues(box)


def test_icloud_marks_mail_as_seen_that_is_only_looked_at_and_the_source_stays_unread(street: Street) -> None:
    r"""\Seen is set by a FETCH of any form (imap-backup#118 and #177): EXAMINE keeps the source as it was."""
    box = street.move(source="icloud", peek_marks_seen=True)
    fill(box)
    before = everything(box.old, LIN)
    box.copy()
    assert everything(box.old, LIN) == before
    assert looks(box, "target") == looks(box, "source")


def test_what_a_target_marks_as_seen_when_it_is_read_back_is_reported(street: Street) -> None:
    """Target folders are opened with SELECT, so there the mark stays; it is never silent."""
    box = street.move(target="icloud", peek_marks_seen=True)
    for number in range(1, 9):
        box.deliver(number, raw=b"Subject: \xd6\xd0 %d\r\n\r\n8-bit headers are read back\r\n" % number)
    box.copy()
    marked = [message for message in box.target.folder("INBOX").messages if "\\Seen" in message.flags]
    assert json.loads(box.altered() or "{}").get("flags", 0) == len(marked)


def test_yandex_leaves_out_a_body_that_it_cannot_read(street: Street) -> None:
    """`FETCH (UID 5 BODY[])` without a value (MailKit)."""
    box = street.move(source="yandex", unreadable=lambda raw: raw == mail(2))
    for number in range(1, 5):
        box.deliver(number)
    box.copy()
    assert sorted(box.arrived()) == [mail(number) for number in (1, 3, 4)]
    assert issues(box) == {"source_unreadable": 1}


def test_yandexs_separator_is_a_bar_and_other_services_get_their_own(street: Street) -> None:
    box = street.move(source="yandex")
    box.deliver(1, "项目|2024")
    box.copy()
    assert box.arrived("项目/2024") == [mail(1)]


def test_zohos_modseq_of_minus_one_is_no_condstore(street: Street) -> None:
    """HIGHESTMODSEQ -1 (MailKit): no folder is left out for it, so a changed flag is seen."""
    box = street.move(source="zoho")
    box.deliver(1)
    box.copy()
    [message] = box.source.folder("INBOX").messages
    box.source.folder("INBOX").set_flags(message.uid, {"\\Flagged"})
    box.copy()
    assert looks(box, "target") == looks(box, "source")


def test_zoho_lists_each_folder_twice_and_marks_special_use_unasked(street: Street) -> None:
    """imapclient#517; gateways list a mailbox twice."""
    box = street.move(source="zoho", target="gmail")
    box.deliver(1, "Spam")
    box.copy()
    assert box.arrived("[Gmail]/Spam") == [mail(1)]
    assert len(box.ledger.folders()) == len([folder for folder in box.source.folders if folder.selectable])


def test_at_courier_folders_lie_below_inbox(street: Street) -> None:
    box = street.move(target="courier")
    box.deliver(1, "项目/2024")
    box.copy()
    assert box.arrived("INBOX.项目.2024") == [mail(1)]


def test_a_uidvalidity_with_an_exponent_is_a_number_like_any_other(street: Street) -> None:
    """home.pl writes 1.700000017e+09 (MailKit): read up to the point, all UIDVALIDITYs would be 1."""
    box = street.move(source="homepl", target="homepl")
    for account in (box.source, box.target):
        account._uidvalidity = 1_700_000_016
        account.folder("INBOX").change_uidvalidity()
    fill(box)
    box.copy()
    assert (box.row().source_uidvalidity, box.row().target_uidvalidity) == (1_700_000_017, 1_700_000_017)
    box.source.folder("INBOX").change_uidvalidity()
    sent = box.sent()
    box.copy()
    assert box.sent() == sent
    assert looks(box, "target") == looks(box, "source")


# The table


@pytest.mark.parametrize("service", SERVICES)
def test_a_personality_is_data_with_an_origin(service: str) -> None:
    one = personality(service)
    assert one.title
    assert len(one.origin) > 20
    assert one.behaviour().announced(logged_in=True) == one.after_login
    assert "IMAP4REV1" in one.after_login.upper().split()
