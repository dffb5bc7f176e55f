"""What the member marks at the target while a pass runs is taken back as an alteration; what the server does is not."""

from collections.abc import Callable

import pytest

from imapcopy.doings import Marked, by_the_member
from tests.imapcopy.world import Box

Copy = Callable[..., None]
NONE, SEEN, FLAGGED = frozenset[str](), frozenset({"\\Seen"}), frozenset({"\\Flagged"})


@pytest.mark.parametrize(
    ("told", "others", "taken_back"),
    [
        ({1: Marked(NONE, SEEN)}, {2: Marked(NONE, NONE), 3: Marked(NONE, SEEN)}, {1}),  # one that has it not
        ({1: Marked(NONE, SEEN)}, {}, {1}),  # no other one
        ({1: Marked(NONE, SEEN)}, {2: Marked(SEEN, SEEN)}, {1}),  # none that was sent without
        ({1: Marked(NONE, SEEN), 2: Marked(NONE, SEEN)}, {}, set()),  # all have it
        ({1: Marked(NONE, SEEN), 2: Marked(NONE, SEEN)}, {3: Marked(NONE, NONE)}, {1, 2}),
        ({1: Marked(NONE, SEEN)}, {2: Marked(NONE, SEEN)}, set()),
        ({1: Marked(FLAGGED, SEEN)}, {2: Marked(NONE, NONE)}, set()),  # one is missing, too
        ({1: Marked(FLAGGED, NONE)}, {2: Marked(FLAGGED, FLAGGED)}, set()),
        ({1: Marked(NONE, SEEN | FLAGGED)}, {2: Marked(NONE, SEEN)}, set()),  # of two flags one is the server's
        ({1: Marked(SEEN, None)}, {}, {1}),  # removed
        ({1: Marked(SEEN, frozenset({"\\SEEN"}))}, {}, {1}),  # as it was sent, by now
        ({}, {1: Marked(NONE, SEEN)}, set()),
    ],
)
def test_whose_doing_flags_are(told: dict[int, Marked], others: dict[int, Marked], taken_back: set[int]) -> None:
    assert by_the_member(told, others) == taken_back


def marked_before_it_is_read_back(mailbox: Box, uids: list[int]) -> None:
    def act() -> None:
        for uid in uids:
            mailbox.target.folder("INBOX").set_flags(uid, ["\\Seen"])

    mailbox.later(mailbox.new, "FETCH", act)


def test_what_the_member_marks_between_sending_and_reading_back_is_taken_back(mailbox: Box, copy: Copy) -> None:
    for number in range(6):
        mailbox.deliver(number)
    marked_before_it_is_read_back(mailbox, [2, 3])
    copy()
    assert mailbox.altered() == '{"flags": 2}'
    copy()
    assert mailbox.altered() == "{}"
    assert not mailbox.ledger.altered(mailbox.row().id or 0)
    assert {m.uid for m in mailbox.target.folder("INBOX").messages if m.flags} == {2, 3}, "it stays as it is"
    mailbox.new.log.clear()
    copy()
    assert not mailbox.new.commands("UID FETCH"), "and is looked at once"


def test_what_a_server_makes_of_all_flags_is_told_for_good(mailbox: Box, copy: Copy) -> None:
    for number in range(4):
        mailbox.deliver(number)
    marked_before_it_is_read_back(mailbox, [1, 2, 3, 4])
    for _ in range(3):
        copy()
        assert mailbox.altered() == '{"flags": 4}'


def test_other_alterations_of_a_message_stay(mailbox: Box, copy: Copy) -> None:
    mailbox.new.behaviour.rewrite = lambda raw: raw.replace(b"body", b"Body")
    for number in range(3):
        mailbox.deliver(number)
    marked_before_it_is_read_back(mailbox, [1])
    copy(deep=True)
    copy()
    assert '"flags"' not in mailbox.altered()
    assert mailbox.altered() == '{"content": 3}'
