"""Verification finds what happened to the target behind its back, and nothing where nothing did."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from deployments.demo.imap_server import Action, Fault
from imapcopy.target_connection import TargetConnection
from imapcopy.verify import verify_mailbox
from models.ledger import Ledger
from tests.imapcopy.world import Box, account_at, mail, moment


@pytest.fixture
def moved(mailbox: Box) -> Box:
    """A mailbox of two folders that has been copied, with strangers at the target."""
    for number in range(8):
        mailbox.deliver(number, flags=["\\Seen"] if number % 2 else [])
    mailbox.deliver(20, "Work", raw=b"Subject: x\n\nbare\0 end")
    mailbox.deliver(3, "Work")
    mailbox.target.folder("INBOX").deliver(mail(77), moment(3))
    mailbox.copy()
    return mailbox


@dataclass
class Together:
    """What verdicts say of all folders."""

    lost: set[int] = field(default_factory=set)
    altered: Counter[str] = field(default_factory=Counter)
    checked: int = 0
    read_back: int = 0


def verdict(box: Box, *, deep: bool = True) -> Together:
    together = Together()
    for one in verify_mailbox(
        account_at(box.old, box.source_user),
        account_at(box.new, box.target_user),
        Ledger(box.engine, box.member_id, 0),
        deep=deep,
    ):
        together.lost |= one.lost
        together.altered += one.altered
        together.checked += one.checked
        together.read_back += one.read_back
    return together


def target_uid(box: Box, raw: bytes) -> int:
    return next(message.uid for message in box.target.folder("INBOX").messages if message.raw == raw)


def replace_message(box: Box, old: bytes, new: bytes) -> None:
    """Change the octets under a UID, as a broken disk would."""
    folder = box.target.folder("INBOX")
    uid = target_uid(box, old)
    folder._by_uid[uid] = type(folder._by_uid[uid])(uid, new, frozenset(), folder._by_uid[uid].internal_date, 99)


@pytest.mark.parametrize("deep", [True, False])
def test_nothing_is_found_where_nothing_happened(moved: Box, deep: bool) -> None:
    found = verdict(moved, deep=deep)
    assert (found.lost, found.altered, found.checked) == (set(), Counter(), 10)
    assert found.read_back == 10 if deep else found.read_back >= 5


def test_strangers_and_the_members_own_flags_are_no_finding(moved: Box) -> None:
    inbox = moved.target.folder("INBOX")
    inbox.deliver(mail(99))
    inbox.set_flags(2, ["\\Seen", "\\Flagged", "mine"])
    found = verdict(moved)
    assert (found.lost, found.altered) == (set(), Counter())


@pytest.mark.parametrize("deep", [True, False])
def test_a_message_that_is_gone_is_lost_whatever_else_came(moved: Box, deep: bool) -> None:
    """Extra messages never hide a missing one."""
    inbox = moved.target.folder("INBOX")
    inbox.expunge([target_uid(moved, mail(4))])
    inbox.deliver(mail(98))
    assert verdict(moved, deep=deep).lost == {5}


@pytest.mark.parametrize(
    ("change", "name"),
    [
        (lambda raw: raw.replace(b"number", b"Number"), "content"),
        (lambda raw: raw[:-1] + b"!", "content"),
        (lambda raw: raw[: len(raw) // 2], "content"),
        (lambda raw: b"", "content"),
        (lambda raw: mail(5), "content"),
    ],
)
def test_a_byte_that_changed_is_found(moved: Box, change: Callable[[bytes], bytes], name: str) -> None:
    replace_message(moved, mail(4), change(mail(4)))
    assert verdict(moved).altered == Counter({name: 1})


def test_two_messages_that_changed_places_are_both_found(moved: Box) -> None:
    first, second = target_uid(moved, mail(4)), target_uid(moved, mail(6))
    replace_message(moved, mail(4), b"placeholder")
    replace_message(moved, mail(6), mail(4))
    assert first != second
    replace_message(moved, b"placeholder", mail(6))
    assert verdict(moved).altered["content"] == 2


def test_a_change_of_size_is_found_without_reading_everything(moved: Box) -> None:
    replace_message(moved, mail(4), mail(4)[:-3])
    assert verdict(moved, deep=False).altered == Counter({"content": 1})


def test_a_date_that_changed_is_found(moved: Box) -> None:
    folder = moved.target.folder("INBOX")
    uid = target_uid(moved, mail(4))
    folder._by_uid[uid] = type(folder._by_uid[uid])(uid, mail(4), frozenset(), moment(28), 99)
    assert verdict(moved, deep=False).altered == Counter({"date": 1})


def test_a_folder_that_is_gone_or_another_one_has_lost_everything(moved: Box) -> None:
    moved.target.folder("INBOX").change_uidvalidity()
    moved.target.delete(moved.target.folder("Work"))
    found = verdict(moved)
    assert found.checked == len(found.lost) + 2 == 10, "UIDs 1 and 2 are in both folders"


def test_what_is_listed_and_unreadable_is_altered_and_not_lost(moved: Box) -> None:
    moved.new.behaviour.unreadable = lambda raw: raw == mail(4)
    found = verdict(moved)
    assert (found.lost, found.altered) == (set(), Counter({"content": 1}))


def test_a_source_folder_that_is_gone_does_not_keep_the_target_from_being_checked(moved: Box) -> None:
    moved.source.delete(moved.source.folder("Work"))
    moved.folder("INBOX").change_uidvalidity()
    assert verdict(moved).altered == Counter()
    replace_message(moved, mail(4), mail(4).upper())
    assert verdict(moved).altered == Counter({"content": 1})


def test_verification_writes_nothing(moved: Box) -> None:
    moved.new.log.clear()
    verdict(moved)
    assert {entry.verb for entry in moved.new.log} <= {
        *("CAPABILITY", "AUTHENTICATE", "ID", "SELECT", "UID FETCH", "NOOP", "LOGOUT"),
    }
    moved.assert_untouched()


# The pass's own verification


def before_reading_back(box: Box, act: Callable[[], object]) -> None:
    """Do something at the target after the last APPEND, before the pass looks."""
    done = False

    def hook(entry: object) -> None:
        nonlocal done
        verb = getattr(entry, "verb", "")
        if verb == "UID FETCH" and box.new.commands("APPEND") and not done:
            done = True
            act()

    box.new.behaviour.before_command = hook


def test_a_pass_sends_again_what_is_not_there_when_it_looks(mailbox: Box) -> None:
    for number in range(5):
        mailbox.deliver(number)
    before_reading_back(mailbox, lambda: mailbox.target.folder("INBOX").expunge([2, 4]))
    mailbox.copy()
    assert sorted(mailbox.arrived()) == sorted(map(mail, range(5)))
    mailbox.assert_counted()


def test_what_never_stays_is_an_issue_and_not_a_success(mailbox: Box) -> None:
    for number in range(3):
        mailbox.deliver(number)
    inbox = mailbox.target.folder("INBOX")

    def hook(entry: object) -> None:
        if getattr(entry, "verb", "") == "UID FETCH":
            inbox.expunge([message.uid for message in inbox.messages if message.raw == mail(1)])

    mailbox.new.behaviour.before_command = hook
    mailbox.copy()
    assert mailbox.issues() == {2: "lost_at_target"}
    assert sorted(mailbox.arrived()) == [mail(0), mail(2)]
    mailbox.assert_counted()


@pytest.mark.parametrize(
    ("change", "altered"),
    [
        (lambda box: box.target.folder("INBOX").set_flags(2, ["\\Flagged"]), '{"flags": 1}'),
        (lambda box: replace_message(box, mail(1), mail(1)[:-4] + b"!\r\n"), '{"content": 1}'),
    ],
)
def test_a_pass_reports_what_it_finds_changed(mailbox: Box, change: Callable[[Box], object], altered: str) -> None:
    for number in range(3):
        mailbox.deliver(number)
    before_reading_back(mailbox, lambda: change(mailbox))
    mailbox.copy()
    assert mailbox.altered() == altered


def test_a_deep_pass_reads_everything_and_finds_what_an_earlier_one_could_not(moved: Box) -> None:
    replace_message(moved, mail(4), mail(4).replace(b"body", b"BODY"))
    moved.copy()
    assert moved.altered() == "{}", "nothing had to be done"
    moved.copy(deep=True)
    assert '"content": 1' in moved.altered()
    assert moved.row().read_back == 8


def test_a_message_that_the_member_removed_later_is_not_sent_again(moved: Box) -> None:
    moved.target.folder("INBOX").expunge([target_uid(moved, mail(4))])
    moved.deliver(30)
    moved.copy()
    moved.copy(deep=True)
    assert mail(4) not in moved.arrived()
    assert mail(30) in moved.arrived()


def test_a_refusal_while_reading_back_concludes_nothing(mailbox: Box) -> None:
    for number in range(3):
        mailbox.deliver(number)
    words = "Some messages could not be FETCHed"
    mailbox.new.behaviour.faults.append(Fault("FETCH", Action.NO, containing="BODY.PEEK[]", text=words))
    with pytest.raises(Exception, match="could not be FETCHed"):
        mailbox.copy()
    mailbox.copy()
    mailbox.assert_equal()


def test_bytes_that_differ_are_not_all_kept_in_memory(mailbox: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that rewrites everything is compared piece by piece."""
    monkeypatch.setattr("imapcopy.verify.CHUNK_MESSAGES", 2)
    mailbox.new.behaviour.rewrite = lambda raw: b"X: y\r\n" + raw
    for number in range(7):
        mailbox.deliver(number)
    asked: list[int] = []
    read_back = TargetConnection.read_back
    monkeypatch.setattr(
        TargetConnection, "read_back", lambda self, uids: (asked.append(len(uids)), read_back(self, uids))[1]
    )
    mailbox.copy()
    assert mailbox.altered() == '{"content": 7}'
    assert max(asked) == 2
