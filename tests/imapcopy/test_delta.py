"""A later pass lets the target follow what happened at the source, and undoes nothing that the member did there."""

from collections.abc import Callable
from typing import Any

import pytest

from deployments.demo.imap_server import CAPABILITIES, Action, Fault, ImapServer
from imapcopy.copy_options import CopyOptions
from imapcopy.deliver import Delivery
from imapcopy.errors import ServerError
from imapcopy.follow import Following
from imapcopy.plan import Grouping
from models.ledger import Ledger
from tests.imapcopy.world import LIN, NEW, Box, contents, everything, mail, moment

Copy = Callable[..., None]


def moved(server: ImapServer, user: str, uid: int, origin: str, into: str) -> None:
    """Move a message as a mail program does: it arrives anew in the other folder."""
    account = server.account(user)
    source, target = account.folder(origin), account.find(into) or account.create(into)
    message = source.get(uid)
    assert message is not None
    target.deliver(message.raw, message.internal_date, message.flags)
    source.expunge([uid])


def two_folders(mailbox: Box, copy: Copy) -> None:
    """Five messages in INBOX, one in Archive; brought over once."""
    for number in range(1, 6):
        mailbox.deliver(number, flags=["\\Seen"] if number % 2 else [])
    mailbox.deliver(9, "Archive")
    copy()
    mailbox.new.log.clear()


# Flags


@pytest.mark.parametrize("capabilities", [CAPABILITIES, frozenset({"IMAP4rev1"})], ids=["CONDSTORE", "nothing"])
def test_flags_that_changed_at_the_source_are_changed_at_the_target(
    mailbox: Box, copy: Copy, capabilities: frozenset[str]
) -> None:
    mailbox.old.behaviour.capabilities = mailbox.new.behaviour.capabilities = capabilities
    two_folders(mailbox, copy)
    inbox = mailbox.folder("INBOX")
    inbox.set_flags(1, [])
    inbox.set_flags(2, ["\\Seen", "\\Answered"])
    inbox.set_flags(3, ["\\Seen", "$Project"])
    copy()
    mailbox.assert_equal()
    assert not mailbox.sent()
    assert mailbox.row().flags_changed == 3
    mailbox.new.log.clear()
    copy()
    assert not mailbox.sent("UID STORE")


def test_what_the_member_did_with_flags_survives(mailbox: Box, copy: Copy) -> None:
    two_folders(mailbox, copy)
    target = mailbox.target.folder("INBOX")
    target.set_flags(1, ["\\Flagged"])  # was \Seen
    target.set_flags(2, ["\\Seen"])
    mailbox.folder("INBOX").set_flags(1, ["\\Seen", "\\Answered"])
    copy()
    flags = {message.uid: message.flags for message in target.messages}
    assert flags[1] == {"\\Flagged", "\\Answered"}
    assert flags[2] == {"\\Seen"}


def test_a_mark_for_deletion_is_not_carried_over_later(mailbox: Box, copy: Copy) -> None:
    two_folders(mailbox, copy)
    mailbox.folder("INBOX").set_flags(1, ["\\Seen", "\\Deleted"])
    copy()
    assert not mailbox.sent("UID STORE")
    assert mailbox.row().flags_changed == 0


def test_a_message_the_member_deleted_gets_no_flags_and_does_not_come_back(mailbox: Box, copy: Copy) -> None:
    two_folders(mailbox, copy)
    mailbox.target.folder("INBOX").expunge([2])
    mailbox.folder("INBOX").set_flags(2, ["\\Flagged"])
    copy()
    assert mail(2) not in mailbox.arrived()
    assert not mailbox.sent()


def test_keywords_that_the_target_does_not_take_are_not_asked_for(mailbox: Box, copy: Copy) -> None:
    mailbox.new.behaviour.keywords_allowed = False
    two_folders(mailbox, copy)
    mailbox.folder("INBOX").set_flags(2, ["$Project", "\\Seen"])
    copy()
    assert [entry.rest for entry in mailbox.new.commands("UID STORE")] == ["2 +FLAGS.SILENT (\\Seen)"]
    assert mailbox.target.folder("INBOX").messages[1].flags == {"\\Seen"}


def test_flags_that_the_target_refuses_are_counted(mailbox: Box, copy: Copy) -> None:
    two_folders(mailbox, copy)
    mailbox.folder("INBOX").set_flags(2, ["\\Flagged"])
    mailbox.new.behaviour.faults.append(Fault("STORE", Action.NO))
    copy()
    assert mailbox.altered() == '{"flags": 1}'


def test_many_flags_cost_a_command_for_each_change_and_not_for_each_message(mailbox: Box, copy: Copy) -> None:
    for number in range(1, 101):
        mailbox.deliver(number)
    copy()
    for uid in range(1, 101):
        mailbox.folder("INBOX").set_flags(uid, ["\\Seen"])
    copy()
    assert mailbox.sent("UID STORE") == 1
    mailbox.assert_equal()


# Deletion


def test_mail_deleted_at_the_source_is_recorded_and_stays_at_the_target(mailbox: Box, copy: Copy) -> None:
    two_folders(mailbox, copy)
    mailbox.folder("INBOX").expunge([1, 4])
    copy()
    row = mailbox.row()
    assert (row.source_messages, row.copied, row.gone) == (3, 3, "1,4")
    assert len(mailbox.arrived()) == 5
    assert not mailbox.sent()
    mailbox.assert_untouched()


def test_a_folder_that_was_deleted_at_the_source_stays_and_all_its_mail_is_recorded(mailbox: Box, copy: Copy) -> None:
    two_folders(mailbox, copy)
    mailbox.source.delete(mailbox.folder("Archive"))
    copy()
    [row] = [row for row in mailbox.ledger.folders(superseded=True) if row.superseded]
    assert (row.source_name, row.gone) == ("Archive", "1")
    assert mail(9) in mailbox.arrived("Archive")
    assert not mailbox.sent()


def test_a_folder_that_the_roster_leaves_out_later_was_not_deleted(mailbox: Box, copy: Copy) -> None:
    two_folders(mailbox, copy)
    copy(exclude=("Archive",))
    [row] = [row for row in mailbox.ledger.folders(superseded=True) if row.superseded]
    assert (row.source_name, row.gone) == ("Archive", "")


def test_a_message_that_was_not_moved_and_was_deleted_then_is_no_issue_any_more(mailbox: Box, copy: Copy) -> None:
    mailbox.new.behaviour.refuse_message = lambda raw: "[CANNOT] Virus found" if raw == mail(2) else None
    two_folders(mailbox, copy)
    assert list(mailbox.issues("INBOX")) == [2]
    mailbox.folder("INBOX").expunge([2])
    copy()
    assert mailbox.issues("INBOX") == {}
    assert (mailbox.row().issues, mailbox.row().gone) == (0, "")


# Moved mail


def test_the_copy_of_a_message_that_was_moved_is_moved(mailbox: Box, copy: Copy) -> None:
    two_folders(mailbox, copy)
    moved(mailbox.old, LIN, 2, "INBOX", "Archive")
    moved(mailbox.old, LIN, 3, "INBOX", "Later")
    copy()
    mailbox.assert_equal()
    assert not mailbox.sent()
    assert mailbox.sent("UID MOVE") == 2
    assert (mailbox.row("INBOX").gone, mailbox.row("Archive").moved, mailbox.row("Later").moved) == ("", 1, 1)
    mailbox.new.log.clear()
    copy()
    assert not {entry.verb for entry in mailbox.new.log} & {"UID MOVE", "APPEND", "UID STORE"}


def test_a_message_that_was_moved_and_marked_follows_in_both(mailbox: Box, copy: Copy) -> None:
    two_folders(mailbox, copy)
    moved(mailbox.old, LIN, 2, "INBOX", "Archive")
    mailbox.folder("Archive").set_flags(2, ["\\Seen", "\\Flagged"])
    copy()
    mailbox.assert_equal()
    assert not mailbox.sent()


def test_the_mail_of_a_folder_that_was_renamed_is_not_sent_again(mailbox: Box, copy: Copy) -> None:
    two_folders(mailbox, copy)
    for uid in range(1, 4):
        moved(mailbox.old, LIN, uid, "INBOX", "Work")
    copy()
    mailbox.new.log.clear()
    mailbox.old.account(LIN).rename(mailbox.folder("Work"), "Work 2024")
    copy()
    assert not mailbox.sent()
    assert contents(mailbox.new, NEW) == contents(mailbox.old, LIN)
    assert mailbox.row("Work 2024").moved == 3


def test_the_mail_of_a_folder_of_which_only_its_children_are_left_is_not_sent_again(mailbox: Box, copy: Copy) -> None:
    """A folder that is deleted and has children stays as a name, with \\Noselect."""
    two_folders(mailbox, copy)
    mailbox.deliver(10, f"Archive{mailbox.source.separator}2024")
    moved(mailbox.old, LIN, 1, "Archive", "INBOX")
    mailbox.source.delete(mailbox.folder("Archive"))
    copy()
    assert mail(9) in mailbox.arrived("INBOX")
    assert contents(mailbox.new, NEW).total() == 7
    assert (mailbox.sent("UID MOVE"), mailbox.sent()) == (1, 1)


def test_a_copy_that_the_member_touched_stays_and_the_report_says_so(mailbox: Box, copy: Copy) -> None:
    two_folders(mailbox, copy)
    mailbox.target.folder("INBOX").set_flags(2, ["\\Flagged"])
    moved(mailbox.old, LIN, 2, "INBOX", "Archive")
    copy()
    assert mail(2) in mailbox.arrived("INBOX")
    assert mail(2) not in mailbox.arrived("Archive")
    assert not mailbox.sent()
    [issue] = mailbox.ledger.issues(mailbox.row("Archive").id or 0).values()
    assert (issue.cause, issue.server_text) == ("moved_at_source", "INBOX")
    mailbox.assert_counted()
    copy()
    assert not mailbox.sent()


def test_a_copy_that_the_member_deleted_does_not_come_back(mailbox: Box, copy: Copy) -> None:
    two_folders(mailbox, copy)
    mailbox.target.folder("INBOX").expunge([2])
    moved(mailbox.old, LIN, 2, "INBOX", "Archive")
    copy()
    assert mailbox.issues("Archive") == {2: "moved_at_source"}
    assert mail(2) not in mailbox.arrived("Archive")


def test_a_target_that_cannot_move_keeps_the_copy_where_it_is(mailbox: Box, copy: Copy) -> None:
    mailbox.new.behaviour.capabilities = CAPABILITIES - {"MOVE"}
    two_folders(mailbox, copy)
    moved(mailbox.old, LIN, 2, "INBOX", "Archive")
    copy()
    assert mailbox.issues("Archive") == {2: "moved_at_source"}
    assert contents(mailbox.new, NEW).total() == 6


def test_a_move_that_the_target_refuses_leaves_the_copy_where_it_is(mailbox: Box, copy: Copy) -> None:
    two_folders(mailbox, copy)
    moved(mailbox.old, LIN, 2, "INBOX", "Archive")
    mailbox.new.behaviour.faults.append(Fault("MOVE", Action.NO))
    copy()
    assert mailbox.issues("Archive") == {2: "moved_at_source"}
    assert contents(mailbox.new, NEW).total() == 6
    mailbox.assert_counted()


def test_a_message_that_left_and_came_back_keeps_its_copy(mailbox: Box, copy: Copy) -> None:
    two_folders(mailbox, copy)
    message = mailbox.folder("INBOX").get(2)
    assert message
    mailbox.folder("INBOX").expunge([2])
    mailbox.folder("INBOX").deliver(message.raw, message.internal_date, message.flags)
    copy()
    assert not {entry.verb for entry in mailbox.new.log} & {"UID MOVE", "APPEND"}
    mailbox.assert_equal()


def test_of_equal_messages_only_the_one_that_was_moved_follows(mailbox: Box, copy: Copy) -> None:
    for _ in range(3):
        mailbox.deliver(1)
    mailbox.deliver(9, "Archive")
    copy()
    moved(mailbox.old, LIN, 2, "INBOX", "Archive")
    mailbox.folder("Archive").deliver(mail(1), moment(2))  # and one more that is new
    mailbox.new.log.clear()
    copy()
    mailbox.assert_equal()
    assert (mailbox.sent("UID MOVE"), mailbox.sent()) == (1, 1)


def test_mail_moved_between_folders_that_are_taken_one_after_the_other_follows(mailbox: Box, copy: Copy) -> None:
    two_folders(mailbox, copy)
    mailbox.options = CopyOptions(grouping=Grouping(folders=1))
    moved(mailbox.old, LIN, 2, "INBOX", "Archive")
    moved(mailbox.old, LIN, 1, "Archive", "INBOX")
    copy()
    mailbox.assert_equal()
    assert not mailbox.sent()
    assert not any(row.gone for row in mailbox.ledger.folders())


def test_mail_that_comes_from_a_folder_that_is_left_out_is_sent(mailbox: Box, copy: Copy) -> None:
    mailbox.deliver(1)
    mailbox.deliver(2, "Private")
    copy(exclude=("Private",))
    moved(mailbox.old, LIN, 1, "Private", "INBOX")
    copy(exclude=("Private",))
    assert sorted(mailbox.arrived()) == [mail(1), mail(2)]


@pytest.mark.parametrize("action", [Action.DROP_BEFORE, Action.DROP_AFTER])
def test_a_connection_that_breaks_at_a_move_leaves_one_copy(mailbox: Box, copy: Copy, action: Action) -> None:
    two_folders(mailbox, copy)
    for uid in (1, 2, 3):
        moved(mailbox.old, LIN, uid, "INBOX", "Archive")
    mailbox.new.behaviour.faults.append(Fault("MOVE", action))
    try:
        copy()
    except ServerError:
        copy()
    mailbox.assert_equal()
    assert not mailbox.sent()
    assert not mailbox.row("INBOX").gone


def test_mail_that_was_moved_before_its_folder_was_numbered_anew_is_not_sent_again(mailbox: Box, copy: Copy) -> None:
    two_folders(mailbox, copy)
    moved(mailbox.old, LIN, 2, "INBOX", "Archive")
    mailbox.folder("INBOX").change_uidvalidity()
    copy()
    mailbox.assert_equal()
    assert not mailbox.sent()


def test_folders_that_changed_names_keep_their_mail(mailbox: Box, copy: Copy) -> None:
    mailbox.deliver(1, "Work")
    mailbox.deliver(2, "Play")
    copy()
    source = mailbox.source
    for name, new_name in (("Work", "Else"), ("Play", "Work"), ("Else", "Play")):
        source.rename(source.folder(name), new_name)
    mailbox.new.log.clear()
    copy()
    mailbox.assert_equal()
    assert not mailbox.sent()


def test_mail_that_left_before_its_folder_was_numbered_anew_is_known_when_it_turns_up(mailbox: Box, copy: Copy) -> None:
    mailbox.deliver(1)
    copy(exclude=("Private",))
    moved(mailbox.old, LIN, 1, "INBOX", "Private")
    copy(exclude=("Private",))
    mailbox.folder("INBOX").change_uidvalidity()
    copy(exclude=("Private",))
    moved(mailbox.old, LIN, 1, "Private", "Archive")
    mailbox.new.log.clear()
    copy(exclude=("Private",))
    assert not mailbox.sent()
    assert (mailbox.arrived("INBOX"), mailbox.arrived("Archive")) == ([], [mail(1)])


def test_what_the_member_deleted_does_not_come_back_when_the_source_numbers_anew(mailbox: Box, copy: Copy) -> None:
    two_folders(mailbox, copy)
    mailbox.target.folder("INBOX").expunge([2])
    mailbox.folder("INBOX").change_uidvalidity()
    copy()
    assert mailbox.issues() == {2: "moved_at_source"}
    assert not mailbox.sent()
    mailbox.assert_counted()


def test_mail_moved_from_a_folder_that_the_target_numbered_anew_is_not_taken_for_deleted(
    mailbox: Box, copy: Copy
) -> None:
    two_folders(mailbox, copy)
    moved(mailbox.old, LIN, 2, "INBOX", "Archive")
    mailbox.target.folder("INBOX").change_uidvalidity()
    copy()
    assert mailbox.arrived("Archive") == [mail(9), mail(2)]
    assert not mailbox.issues("Archive")


def test_one_deleted_copy_keeps_back_one_message(mailbox: Box, copy: Copy) -> None:
    two_folders(mailbox, copy)
    mailbox.target.folder("INBOX").expunge([2])
    moved(mailbox.old, LIN, 2, "INBOX", "Archive")
    copy()
    assert mailbox.issues("Archive") == {2: "moved_at_source"}
    mailbox.deliver(2, "Later")
    copy()
    assert mailbox.arrived("Later") == [mail(2)]
    # Moved on, it is still the one whose copy was deleted.
    moved(mailbox.old, LIN, 2, "Archive", "INBOX")
    copy()
    assert mail(2) not in mailbox.arrived("INBOX")
    assert mailbox.issues("INBOX") == {6: "moved_at_source"}


def test_mail_that_stayed_behind_and_moved_on_is_not_sent(mailbox: Box, copy: Copy) -> None:
    two_folders(mailbox, copy)
    mailbox.options = CopyOptions(grouping=Grouping(folders=1))
    mailbox.target.folder("Archive").set_flags(1, ["\\Flagged"])
    moved(mailbox.old, LIN, 1, "Archive", "INBOX")
    copy()
    assert mailbox.issues("INBOX") == {6: "moved_at_source"}
    moved(mailbox.old, LIN, 6, "INBOX", "Archive")
    copy()
    assert not mailbox.sent()
    assert mailbox.arrived("Archive") == [mail(9)]
    assert not mailbox.issues("INBOX")
    assert not mailbox.issues("Archive")


def test_copies_in_a_folder_that_cannot_be_opened_now_are_not_taken_for_deleted(mailbox: Box, copy: Copy) -> None:
    two_folders(mailbox, copy)
    copy(exclude=("INBOX",))
    moved(mailbox.old, LIN, 2, "INBOX", "Archive")
    mailbox.new.behaviour.faults.append(Fault("SELECT", Action.NO, containing="INBOX", text="[UNAVAILABLE] Later"))
    with pytest.raises(ServerError):
        copy(exclude=("INBOX",))
    assert not mailbox.issues("Archive")
    copy(exclude=("INBOX",))
    assert mailbox.arrived("Archive") == [mail(9), mail(2)]
    assert not mailbox.sent()


def test_what_a_run_that_died_had_sent_is_known_when_its_folder_was_renamed(
    mailbox: Box, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(1, 4):
        mailbox.deliver(number, "Work")

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Delivery, "note", die)
        with pytest.raises(KeyboardInterrupt):
            copy()
    mailbox.source.rename(mailbox.folder("Work"), "Work 2024")
    copy()
    assert mailbox.arrived("Work") == []
    assert sorted(mailbox.arrived("Work 2024")) == [mail(1), mail(2), mail(3)]


@pytest.mark.parametrize("command", ["MOVE", "STORE"])
def test_a_server_that_asks_to_wait_gets_the_change_with_the_next_pass(mailbox: Box, copy: Copy, command: str) -> None:
    two_folders(mailbox, copy)
    moved(mailbox.old, LIN, 2, "INBOX", "Archive")
    mailbox.folder("INBOX").set_flags(3, ["\\Flagged"])
    mailbox.new.behaviour.faults.append(Fault(command, Action.NO, text="[THROTTLED] Slow down", times=None))
    with pytest.raises(ServerError):
        copy()
    mailbox.new.behaviour.faults.clear()
    copy()
    mailbox.assert_equal()
    assert not mailbox.altered().replace("{}", "")
    assert not mailbox.sent()


def test_a_mark_for_deletion_before_a_move_is_no_act_of_the_member(mailbox: Box, copy: Copy) -> None:
    two_folders(mailbox, copy)
    mailbox.folder("INBOX").set_flags(2, ["\\Deleted"])
    copy()
    moved(mailbox.old, LIN, 2, "INBOX", "Archive")
    copy()
    assert mail(2) in mailbox.arrived("Archive")
    assert not mailbox.issues("Archive")


def test_a_copy_whose_flags_a_run_changed_before_it_died_follows(
    mailbox: Box, copy: Copy, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_folders(mailbox, copy)
    mailbox.folder("INBOX").set_flags(2, ["\\Flagged"])

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "note_flags", die)
        with pytest.raises(KeyboardInterrupt):
            copy()
    moved(mailbox.old, LIN, 2, "INBOX", "Archive")
    copy()
    mailbox.assert_equal()
    assert not mailbox.sent()


@pytest.mark.parametrize("deaths", [[(Ledger, "follow")], [(Ledger, "follow"), (Following, "tidy")]])
def test_runs_that_died_after_a_move_are_followed_by_one_that_knows_it(
    mailbox: Box, copy: Copy, monkeypatch: pytest.MonkeyPatch, deaths: list[tuple[type, str]]
) -> None:
    two_folders(mailbox, copy)
    moved(mailbox.old, LIN, 2, "INBOX", "Archive")

    def die(*_: Any) -> None:
        raise KeyboardInterrupt

    for place, name in deaths:
        with monkeypatch.context() as patched:
            patched.setattr(place, name, die)
            with pytest.raises(KeyboardInterrupt):
                copy()
    copy()
    mailbox.assert_equal()
    assert not mailbox.sent()
    assert not mailbox.row("INBOX").gone


# What was there before


def test_mail_that_was_there_before_may_stay_beside_its_copy(mailbox: Box, copy: Copy) -> None:
    target = mailbox.target.folder("INBOX")
    target.deliver(mail(1), moment(2))
    mailbox.deliver(1)
    mailbox.deliver(2)
    copy(existing="copy")
    assert sorted(mailbox.arrived()) == [mail(1), mail(1), mail(2)]
    mailbox.deliver(3)
    copy(existing="copy")
    assert sorted(mailbox.arrived()) == [mail(1), mail(1), mail(2), mail(3)]


def test_a_copy_beside_what_was_there_before_is_recognised_when_the_target_has_numbered_anew(
    mailbox: Box, copy: Copy
) -> None:
    mailbox.target.folder("INBOX").deliver(mail(1), moment(2))
    mailbox.deliver(1)
    copy(existing="copy")
    mailbox.target.folder("INBOX").change_uidvalidity()
    copy(existing="copy")
    assert len(mailbox.arrived()) == 2


# Nothing to do


def test_a_pass_over_an_unchanged_mailbox_asks_for_its_folders_and_no_more(mailbox: Box, copy: Copy) -> None:
    two_folders(mailbox, copy)
    mailbox.old.log.clear()
    copy()
    for server in (mailbox.old, mailbox.new):
        assert {entry.verb for entry in server.log} <= {
            "CAPABILITY",
            "AUTHENTICATE",
            "ID",
            "NAMESPACE",
            "LIST",
            "LOGOUT",
        }
    assert everything(mailbox.new, NEW) == everything(mailbox.old, LIN)


def test_of_twins_that_were_moved_each_takes_its_own_copy_along(mailbox: Box, copy: Copy) -> None:
    """One of two equal messages was moved; a third one, with a date of its own, came into that folder before it."""
    mailbox.deliver(9, "Archive")
    for day, flags in ((3, ["\\Seen"]), (5, ["\\Flagged"])):
        mailbox.deliver(1, raw=mail(1), internal_date=moment(day), flags=flags)
    copy()
    mailbox.folder("Archive").deliver(mail(1), moment(7))
    moved(mailbox.old, LIN, 2, "INBOX", "Archive")
    mailbox.new.log.clear()
    copy()
    assert (mailbox.sent("UID MOVE"), mailbox.sent()) == (1, 1)
    mailbox.assert_equal()


@pytest.mark.parametrize("can_move", [True, False])
def test_moved_mail_is_told_from_deleted_mail(mailbox: Box, copy: Copy, can_move: bool) -> None:
    if not can_move:
        mailbox.new.behaviour.capabilities = CAPABILITIES - {"MOVE"}
    two_folders(mailbox, copy)
    moved(mailbox.old, LIN, 2, "INBOX", "Archive")
    moved(mailbox.old, LIN, 4, "INBOX", "Archive")
    mailbox.folder("INBOX").expunge([1, 3])
    copy()
    row = mailbox.row()
    assert (row.gone, row.strayed) == (("1,3", "") if can_move else ("1:4", "2,4"))
    copy()
    mailbox.folder("Archive").expunge([2])  # what was moved is deleted, too
    copy()
    row = mailbox.row()
    assert row.strayed == ("" if can_move else "4")
    mailbox.assert_counted()
