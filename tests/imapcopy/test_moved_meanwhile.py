"""Mail that the member files at the source while a pass runs follows; it is neither sent twice nor told as deleted."""

from collections.abc import Callable

import pytest

from deployments.demo.imap_server import CAPABILITIES, Received
from imapcopy.copy_options import CopyOptions
from imapcopy.plan import Grouping
from tests.imapcopy.test_delta import moved
from tests.imapcopy.world import LIN, Box, mail

Copy = Callable[..., None]
TOGETHER, ONE_BY_ONE = Grouping(), Grouping(folders=1)
FILED = range(3, 15)


def fill(mailbox: Box, grouping: Grouping) -> None:
    """Twenty messages in INBOX, two in each folder that comes after it."""
    for number in range(20):
        mailbox.deliver(number)
    for folder, first in (("Work", 30), ("Zoo", 40)):
        for number in (first, first + 1):
            mailbox.deliver(number, folder)
    mailbox.options = CopyOptions(grouping=grouping)


def filed_before(mailbox: Box, verb: str, what: str, origin: str = "INBOX", into: str = "Zoo") -> None:
    """Move twelve messages when the source is about to carry out a command for the first time."""
    done: list[Received] = []

    def hook(entry: Received) -> None:
        if not done and entry.verb == verb and what in entry.rest:
            done.append(entry)
            for uid in FILED:
                moved(mailbox.old, LIN, uid, origin, into)

    mailbox.old.behaviour.before_command = hook


@pytest.mark.parametrize("grouping", [TOGETHER, ONE_BY_ONE], ids=["one group", "a group a folder"])
@pytest.mark.parametrize("status", [True, False], ids=["LIST-STATUS", "STATUS"])
def test_mail_filed_between_two_surveys_arrives_once(
    mailbox: Box, copy: Copy, grouping: Grouping, status: bool
) -> None:
    """INBOX is surveyed, in the second case copied as well; the folder into which mail goes is not surveyed yet."""
    if not status:
        mailbox.old.behaviour.capabilities = CAPABILITIES - {"LIST-STATUS"}
    fill(mailbox, grouping)
    filed_before(mailbox, "EXAMINE", "Zoo")
    copy()
    mailbox.assert_equal()
    assert mailbox.sent("UID MOVE") == (grouping is ONE_BY_ONE)
    copy()
    mailbox.assert_equal()
    rows = mailbox.ledger.folders()
    assert sum(row.source_messages for row in rows) == 24, "each is counted once"
    assert not any(row.gone or row.strayed or row.issues for row in rows)
    assert sum(row.moved for row in rows) == (12 if grouping is ONE_BY_ONE else 0)
    mailbox.assert_untouched()


@pytest.mark.parametrize("grouping", [TOGETHER, ONE_BY_ONE], ids=["one group", "a group a folder"])
@pytest.mark.parametrize("sound", [0, 1], ids=["from the first", "from the second"])
def test_a_line_of_list_status_that_cannot_be_read_doubles_nothing(
    mailbox: Box, copy: Copy, sound: int, grouping: Grouping
) -> None:
    """Cyrus 3.6 tells as MAILBOXID there what its memory happens to hold, a line end within it too."""
    fill(mailbox, grouping)
    copy()
    mailbox.deliver(50, "Zoo")
    filed_before(mailbox, "EXAMINE", "Zoo")
    asked: list[bytes] = []

    def slip(verb: str, octets: bytes) -> bytes:
        if verb == "LIST" and b"* STATUS" in octets and b"INBOX" in octets:
            asked.append(octets)
            if len(asked) > sound:
                return octets.replace(b"(", b"(MAILBOXID (\x1c\r\nG>\x7fU) ")
        return octets

    mailbox.old.behaviour.slip = slip
    copy()
    assert len(asked) > sound
    mailbox.assert_equal()
    copy()
    mailbox.assert_equal()
    assert not any(row.gone for row in mailbox.ledger.folders())


@pytest.mark.parametrize("grouping", [TOGETHER, ONE_BY_ONE], ids=["one group", "a group a folder"])
def test_mail_filed_in_a_later_pass_follows_wherever_the_pass_stands(
    mailbox: Box, copy: Copy, grouping: Grouping
) -> None:
    fill(mailbox, grouping)
    copy()
    mailbox.deliver(50, "Zoo")
    filed_before(mailbox, "EXAMINE", "Zoo")
    copy()
    copy()
    mailbox.assert_equal()
    assert not any(row.gone for row in mailbox.ledger.folders())


@pytest.mark.parametrize("grouping", [TOGETHER, ONE_BY_ONE], ids=["one group", "a group a folder"])
@pytest.mark.parametrize("moment", ["EXAMINE", "UID FETCH"])
def test_mail_filed_into_a_folder_that_is_through_is_for_the_next_pass(
    mailbox: Box, copy: Copy, grouping: Grouping, moment: str
) -> None:
    fill(mailbox, grouping)
    for number in range(60, 80):
        mailbox.deliver(number, "Zoo")
    filed_before(mailbox, moment, "Zoo" if moment == "EXAMINE" else "BODY.PEEK[]", "Zoo", "INBOX")
    copy()
    copy()
    mailbox.assert_equal()
    assert not any(row.gone for row in mailbox.ledger.folders())


def test_what_cannot_follow_is_told_as_moved_and_not_sent_again(mailbox: Box, copy: Copy) -> None:
    mailbox.new.behaviour.capabilities = CAPABILITIES - {"MOVE"}
    fill(mailbox, ONE_BY_ONE)
    filed_before(mailbox, "EXAMINE", "Zoo")
    for _ in range(2):
        copy()
        assert sorted(mailbox.arrived()) == sorted(map(mail, range(20)))
        assert len(mailbox.arrived("Zoo")) == 2
        assert set(mailbox.issues("Zoo").values()) == {"moved_at_source"}
        row = mailbox.row()
        assert (row.source_messages, row.copied, row.gone, row.strayed) == (8, 8, "3:14", "3:14")
        mailbox.assert_counted()


def test_a_quiet_pass_is_asked_once_more_and_only_where_two_folders_hold_mail(mailbox: Box, copy: Copy) -> None:
    mailbox.deliver(1)
    mailbox.old.behaviour.capabilities = CAPABILITIES
    mailbox.folder("Empty")
    copy()
    assert len(mailbox.old.commands("LIST")) == 1, "with nothing to be moved from elsewhere"
    mailbox.deliver(2, "Work")
    for number, lists in ((3, 2), (None, 1)):
        if number:
            mailbox.deliver(number)
        mailbox.old.log.clear()
        copy()
        assert len(mailbox.old.commands("LIST")) == lists
        assert not mailbox.old.commands("STATUS")
    mailbox.assert_equal()
