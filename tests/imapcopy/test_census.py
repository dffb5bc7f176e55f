"""What the source's server holds is what counts: EXISTS, not what a scan could parse."""

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from deployments.demo.imap_behaviour import ScanLine
from deployments.demo.imap_server import Action, Fault, ImapServer
from imapcopy.errors import MigrationError, ServerError, is_of_the_folder
from imapcopy.folders import Folder
from imapcopy.scan_answers import Answers
from imapcopy.source_connection import SourceConnection, Surveyed
from imapcopy.verify import verify_mailbox
from imapcopy.wire import Response
from tests.imapcopy.world import LIN, NEW, PASSWORD, Box, account_at, everything, mail, moment, new_member

SEEN = frozenset({"\\Seen"})
INBOX = Folder(b"INBOX", "INBOX", "/", frozenset())


@pytest.fixture
def eight(mailbox: Box) -> Box:
    """Eight messages in INBOX, every other one seen."""
    for number in range(1, 9):
        mailbox.deliver(number, flags=SEEN if number % 2 else frozenset())
    return mailbox


def numbered(*numbers: int) -> Callable[[bytes], bool]:
    """Whether a message is one of these."""
    some = {mail(number) for number in numbers}
    return lambda raw: raw in some


def split(*parts: str) -> Callable[[list[ScanLine]], list[ScanLine]]:
    """Each answer in several lines, with the items that are named in each."""

    def retold(lines: list[ScanLine]) -> list[ScanLine]:
        wanted = [part.split() for part in parts]
        cut = [
            ScanLine(line.number, tuple((name, value) for name, value in line.items if name in some))
            for line in lines
            for some in wanted
        ]
        return [line for line in cut if line.items]

    return retold


def without(item: str, *numbers: int) -> Callable[[list[ScanLine]], list[ScanLine]]:
    """Answers that never tell an item of messages of these numbers."""

    def retold(lines: list[ScanLine]) -> list[ScanLine]:
        return [
            ScanLine(line.number, tuple(each for each in line.items if each[0] != item or line.number not in numbers))
            for line in lines
        ]

    return retold


# Answers in several lines


@pytest.mark.parametrize(
    "parts",
    [
        ("UID", "FLAGS INTERNALDATE RFC822.SIZE"),
        ("FLAGS INTERNALDATE RFC822.SIZE", "UID"),
        ("UID INTERNALDATE RFC822.SIZE", "FLAGS"),
        ("FLAGS", "UID INTERNALDATE RFC822.SIZE"),
        ("UID INTERNALDATE RFC822.SIZE", "UID FLAGS"),
        ("UID", "FLAGS", "INTERNALDATE", "RFC822.SIZE"),
        ("RFC822.SIZE", "INTERNALDATE", "FLAGS", "UID"),
        ("UID FLAGS INTERNALDATE RFC822.SIZE", "UID FLAGS INTERNALDATE RFC822.SIZE"),
    ],
)
@pytest.mark.parametrize("side", ["source", "target"])
def test_an_answer_may_come_in_any_number_of_lines(eight: Box, parts: tuple[str, ...], side: str) -> None:
    """RFC 9051 section 7.5.2: every \\Seen was lost, or no message was seen at all."""
    server = eight.old if side == "source" else eight.new
    server.behaviour.retold = split(*parts)
    eight.copy()
    eight.assert_equal()
    assert (eight.issues(), eight.altered()) == ({}, "{}")
    # And in a later pass, where a flag that is not told would be taken for one that was taken away.
    eight.source.folder("INBOX").set_flags(2, {"\\Flagged"})
    sent = eight.sent()
    eight.copy()
    eight.assert_equal()
    assert eight.sent() == sent


def test_the_labels_of_a_message_are_known_whatever_else_is_not() -> None:
    """Otherwise a message that lies in another folder too would be taken for one that lies in this view alone."""
    answers = Answers(1, labels=True)
    answers.take(Response([b'1 FETCH (UID 9 X-GM-LABELS ("\\\\Sent") RFC822.SIZE 5)']))
    answers.settle()
    assert (set(answers.partly), answers.labels) == ({9}, {9: frozenset({b"\\Sent"})})


def test_lines_that_are_split_cost_no_further_command(eight: Box) -> None:
    eight.copy()
    plain = Counter(entry.verb for entry in eight.old.log)
    eight.old.behaviour.retold = split("UID RFC822.SIZE", "FLAGS INTERNALDATE")
    member = new_member(eight.engine, "again@old.example")
    before = len(eight.old.log)
    Box(eight.engine, eight.old, eight.new, member).copy()
    assert Counter(entry.verb for entry in eight.old.log[before:]).total() <= plain.total() + 2


# What is not told


def test_what_the_first_answer_lacks_is_asked_for_again(eight: Box) -> None:
    told: list[str] = []

    def once(lines: list[ScanLine]) -> list[ScanLine]:
        left_out = [["FLAGS"], ["INTERNALDATE"], ["RFC822.SIZE"]][len(told) :][:1] or [[]]
        told.append("")
        return [
            ScanLine(line.number, tuple(each for each in line.items if each[0] not in left_out[0])) for line in lines
        ]

    eight.old.behaviour.retold = once
    eight.copy()
    eight.assert_equal()
    assert len(told) > 1


def test_messages_whose_size_is_never_told_arrive(eight: Box) -> None:
    eight.old.behaviour.retold = without("RFC822.SIZE", 1, 2, 3, 4, 5, 6, 7, 8)
    eight.copy()
    eight.assert_equal()
    assert eight.altered() == "{}"


def test_flags_that_are_never_told_are_not_taken_for_none(eight: Box) -> None:
    """They are told as a difference, and arrive when the server tells them."""
    eight.old.behaviour.retold = without("FLAGS", 1)
    eight.copy()
    assert eight.altered() == '{"flags": 1}'
    eight.assert_counted()
    eight.copy()
    assert eight.target.folder("INBOX").messages[0].flags == frozenset()
    eight.old.behaviour.retold = None
    eight.source.folder("INBOX").set_flags(2, {"\\Flagged"})
    eight.copy()
    eight.assert_equal()


def test_flags_that_are_not_told_later_take_nothing_away(eight: Box) -> None:
    eight.copy()
    eight.old.behaviour.retold = without("FLAGS", 1, 3, 5)
    eight.source.folder("INBOX").set_flags(2, {"\\Flagged"})
    eight.copy()
    eight.assert_equal()
    assert eight.altered() == "{}"


# What is counted and not told


@pytest.mark.parametrize("lost", [(1,), (8,), (3, 6), (4, 5, 6), (1, 2, 3, 4, 5, 6, 7, 8)])
def test_a_hole_in_the_servers_index_is_an_issue(eight: Box, lost: tuple[int, ...]) -> None:
    eight.old.behaviour.unlisted = numbered(*lost)
    eight.copy()
    assert eight.arrived() == [mail(number) for number in range(1, 9) if number not in lost]
    assert eight.issues() == {-number: "message_hidden" for number in lost}
    row = eight.row()
    assert (row.source_messages, row.copied, row.issues) == (8, 8 - len(lost), len(lost))
    eight.assert_counted()
    assert not [entry for entry in eight.old.log if entry.rest.startswith("-")]
    # A pass later nothing is different, and once the server has mended it, all is there.
    eight.copy()
    assert eight.issues() == {-number: "message_hidden" for number in lost}
    eight.old.behaviour.unlisted = None
    eight.copy()
    assert eight.issues() == {}
    assert sorted(eight.arrived()) == sorted(mail(number) for number in range(1, 9))
    eight.assert_counted()


def test_a_hole_that_opens_later_is_not_taken_for_a_deletion(eight: Box) -> None:
    eight.copy()
    eight.old.behaviour.retold = lambda lines: [line for line in lines if line.number != 3]
    eight.source.folder("INBOX").set_flags(1, set())
    eight.source.create("Archive").deliver(mail(3), moment(4), SEEN)
    eight.copy()
    row = eight.row()
    assert (row.gone, row.issues, row.source_messages) == ("", 1, 8)
    assert len(eight.arrived()) == 8
    assert eight.arrived("Archive") == [mail(3)]
    eight.old.behaviour.retold = None
    eight.copy()
    eight.assert_equal()
    assert eight.row().gone == ""


def test_one_message_that_refuses_the_scan_does_not_hold_back_the_others(eight: Box) -> None:
    eight.old.behaviour.refuses_scan = numbered(5)
    eight.copy()
    assert eight.arrived() == [mail(number) for number in range(1, 9) if number != 5]
    [issue] = eight.ledger.issues(eight.row().id or 0).values()
    assert (issue.source_uid, issue.cause) == (-5, "message_hidden")
    assert "SERVERBUG" in issue.server_text
    eight.assert_counted()
    # One of five in halves: no message is asked for twenty times.
    assert len(eight.old.commands("FETCH")) <= 8


def test_a_folder_of_which_nothing_can_be_listed_fails_and_keeps_no_other_back(eight: Box) -> None:
    eight.deliver(20, "Archive")
    eight.old.behaviour.refuses_scan = numbered(*range(1, 9))
    with pytest.raises(MigrationError) as caught:
        eight.copy()
    assert is_of_the_folder(caught.value)
    assert eight.arrived("Archive") == [mail(20)]


def test_a_server_that_is_busy_is_not_asked_in_halves(eight: Box) -> None:
    eight.old.behaviour.faults.append(
        Fault("FETCH", Action.NO, text="[THROTTLED] Too many requests", containing="1:*", times=None)
    )
    with pytest.raises(ServerError):
        eight.copy()
    assert len(eight.old.commands("UID FETCH")) == 1
    assert not eight.old.commands("FETCH")


def test_of_two_messages_with_one_uid_the_second_is_an_issue(eight: Box) -> None:
    eight.old.behaviour.uid_of = lambda uid: 3 if uid == 4 else uid
    eight.copy()
    assert sorted(eight.arrived()) == sorted(mail(number) for number in range(1, 9) if number != 4)
    [issue] = eight.ledger.issues(eight.row().id or 0).values()
    assert (issue.source_uid, issue.cause) == (-4, "message_hidden")
    assert "UID 3" in issue.server_text
    eight.assert_counted()
    arrived = everything(eight.new, NEW)
    assert not arrived - everything(eight.old, LIN)


@pytest.mark.parametrize("answer", ["NO", "BAD"])
@pytest.mark.parametrize("told", [True, False])
def test_an_empty_folder_that_may_not_be_scanned_is_an_empty_folder(mailbox: Box, answer: str, told: bool) -> None:
    for name in ("A", "B", "C"):
        mailbox.source.create(name)
    mailbox.deliver(1)
    mailbox.old.behaviour.scan_of_nothing = answer  # type: ignore[assignment]
    if not told:
        mailbox.old.behaviour.capabilities -= {"LIST-STATUS"}
        mailbox.old.behaviour.faults.append(Fault("STATUS", Action.NO, times=None))
    mailbox.copy()
    mailbox.assert_equal()
    assert {folder.name for folder in mailbox.target.folders} >= {"A", "B", "C"}
    asked = [entry for entry in mailbox.old.commands("UID FETCH") if "1:*" in entry.rest]
    assert len(asked) == (1 if told else 4)


def test_mail_that_comes_while_a_folder_is_scanned_hides_no_hole(eight: Box) -> None:
    eight.old.behaviour.unlisted = numbered(3)
    eight.later(eight.old, "FETCH", lambda: eight.deliver(30) and None)
    eight.copy()
    assert -3 in eight.issues()
    eight.copy()
    assert mail(30) in eight.arrived()
    eight.assert_counted()


def test_mail_that_goes_while_a_folder_is_scanned_is_no_hole(eight: Box) -> None:
    eight.old.behaviour.retold = split("FLAGS RFC822.SIZE", "UID INTERNALDATE")
    eight.later(eight.old, "FETCH", lambda: eight.source.folder("INBOX").expunge([2]))
    eight.copy()
    eight.assert_equal()
    assert eight.issues() == {}


def test_a_healthy_server_is_asked_nothing_more(eight: Box) -> None:
    with SourceConnection(account_at(eight.old, LIN)) as connection:
        [(_, survey)] = connection.survey([INBOX])
        assert isinstance(survey, Surveyed)
        assert len(survey.scan) == 8
    about_mail = {"EXAMINE", "UID FETCH", "FETCH", "NOOP"}
    assert [entry.verb for entry in eight.old.log if entry.verb in about_mail] == ["EXAMINE", "UID FETCH"]


# The target


def test_what_the_target_does_not_show_is_not_sent_again(eight: Box) -> None:
    """Not told is not absent: the folder is named, and nothing doubled."""
    eight.new.behaviour.unlisted = numbered(2, 7)
    with pytest.raises(MigrationError) as caught:
        eight.copy()
    assert (caught.value.cause_id, caught.value.side) == ("message_hidden", "target")
    assert eight.sent() == 1
    eight.new.behaviour.unlisted = None
    eight.copy()
    eight.assert_equal()


def test_what_may_have_arrived_and_is_not_shown_is_not_sent_again(eight: Box) -> None:
    """The answer to APPEND is lost, and the new messages do not show: they may be there."""
    eight.target.folder("INBOX").deliver(mail(99), moment(1))
    eight.new.behaviour.faults.append(Fault("APPEND", Action.DROP_AFTER))
    eight.later(eight.new, "APPEND", lambda: setattr(eight.new.behaviour, "unlisted", numbered(7, 8)))
    with pytest.raises(MigrationError) as caught:
        eight.copy()
    assert (caught.value.cause_id, caught.value.side, eight.sent()) == ("message_hidden", "target", 1)
    with pytest.raises(MigrationError):
        eight.copy()
    eight.new.behaviour.unlisted = None
    eight.copy()
    assert Counter(eight.arrived()) == Counter([mail(99), *(mail(number) for number in range(1, 9))])
    eight.assert_counted()


def test_a_hole_among_older_mail_of_the_target_stops_nothing(eight: Box) -> None:
    inbox = eight.target.folder("INBOX")
    for number in (97, 98, 99):
        inbox.deliver(mail(number), moment(1))
    eight.new.behaviour.unlisted = numbered(98)
    eight.new.behaviour.faults.append(Fault("APPEND", Action.DROP_BEFORE))
    eight.copy()
    assert Counter(eight.arrived()).most_common(1)[0][1] == 1
    assert len(eight.arrived()) == 11
    eight.assert_counted()


def test_a_message_that_hides_while_it_is_read_is_an_issue_and_not_gone(eight: Box) -> None:
    """It was listed, then neither delivered nor listed; only EXISTS still counts it."""

    def hide() -> None:
        eight.old.behaviour.unlisted = numbered(4)

    eight.later(eight.old, "FETCH", hide, nth=2)
    eight.copy()
    assert eight.issues() == {4: "message_hidden"}
    assert (eight.row().source_messages, eight.row().copied) == (8, 7)
    eight.assert_counted()


def test_verification_counts_the_source_anew(eight: Box) -> None:
    eight.copy()
    eight.deliver(9)
    eight.old.behaviour.unlisted = numbered(3)
    [verdict] = verify_mailbox(account_at(eight.old, LIN), account_at(eight.new, NEW), eight.ledger, deep=False)
    assert (verdict.source, verdict.hidden, verdict.lost) == (9, 1, set())


# Drawn at random


@dataclass
class Teller:
    """How a server tells of its messages: cut up, mixed, doubled, and with things left out."""

    seed: int
    hidden: set[int]
    """Numbers of messages that are never told of."""
    untold: dict[int, str]
    """Items that are never told, by message number."""
    at_first: set[int]
    """Numbers of messages that the first answer leaves out."""
    partly_at_first: dict[int, str]
    """Items that the first answer leaves out."""
    answers: int = field(default=0, init=False)

    def __call__(self, lines: list[ScanLine]) -> list[ScanLine]:
        chance = random.Random(self.seed + self.answers)
        first = not self.answers
        self.answers += 1
        told: list[ScanLine] = []
        for line in lines:
            number = line.number
            if number in self.hidden or (first and number in self.at_first):
                continue
            skipped = {self.untold.get(number), self.partly_at_first.get(number) if first else None}
            items = [each for each in line.items if each[0] not in skipped]
            parts = self._cut(chance, items)
            told += [ScanLine(number, tuple(part)) for part in parts if part]
            if chance.random() < 0.3:
                told.append(chance.choice(told))
            if chance.random() < 0.2 and number not in self.untold and not first:
                told.append(ScanLine(number, tuple(each for each in line.items if each[0] in ("UID", "FLAGS"))))
        if chance.random() < 0.7:
            chance.shuffle(told)
        return told

    @staticmethod
    def _cut(chance: random.Random, items: list[tuple[str, str]]) -> list[list[tuple[str, str]]]:
        if chance.random() < 0.4:
            return [items]
        chance.shuffle(items)
        parts: list[list[tuple[str, str]]] = [[] for _ in range(chance.randint(1, 4))]
        uid = next(each for each in items if each[0] == "UID")
        for each in items:
            chance.choice(parts).append(each)
        for part in parts:
            if part and uid not in part and chance.random() < 0.5:
                part.insert(chance.randint(0, len(part)), uid)
        return parts


NUMBERS = st.integers(1, 9)
ITEMS = st.sampled_from(["FLAGS", "INTERNALDATE", "RFC822.SIZE"])
TELLERS = st.builds(
    Teller,
    seed=st.integers(0, 1 << 30),
    hidden=st.sets(NUMBERS, max_size=3),
    untold=st.dictionaries(NUMBERS, ITEMS, max_size=2),
    at_first=st.sets(NUMBERS, max_size=4),
    partly_at_first=st.dictionaries(NUMBERS, ITEMS, max_size=4),
)
FLAGS = st.sets(st.sampled_from(["\\Seen", "\\Flagged", "\\Answered", "$Forwarded"]))


class Mailboxes:
    """A new mailbox for each example, between two servers that stay."""

    def __init__(self, engine: Engine, old: ImapServer, new: ImapServer) -> None:
        self._engine, self._old, self._new = engine, old, new
        self._number = 0

    def next(self) -> Box:
        self._number += 1
        user = f"{self._number}@old.example"
        for server in (self._old, self._new):
            server.add_account(user, PASSWORD)
            server.log.clear()
        return Box(self._engine, self._old, self._new, new_member(self._engine, user), user, user)


@pytest.mark.fuzz
def test_a_survey_tells_of_every_message_however_it_is_told(old: ImapServer) -> None:
    """The same at the one step that reads it, so that twenty thousand ways take minutes."""
    inbox = old.account(LIN).folder("INBOX")
    with SourceConnection(account_at(old, LIN)) as connection:

        @settings(max_examples=_examples(), deadline=None, suppress_health_check=list(HealthCheck))
        @given(st.lists(FLAGS, min_size=1, max_size=9), TELLERS)
        def told(flags: list[set[str]], teller: Teller) -> None:
            inbox.expunge([message.uid for message in inbox.messages])
            for number, some in enumerate(flags, start=1):
                inbox.deliver(mail(number), moment(number), frozenset(some))
            old.log.clear()
            old.behaviour.retold = teller
            [(_, survey)] = connection.survey([INBOX])
            assert isinstance(survey, Surveyed)
            assert {hidden.number for hidden in survey.hidden} == {n for n in teller.hidden if n <= len(flags)}
            found = {envelope.uid: envelope for envelope in survey.scan}
            assert len(found) == len(survey.scan) == len(flags) - len(survey.hidden)
            for number, message in enumerate(inbox.messages, start=1):
                if number not in teller.hidden:
                    envelope, untold = found[message.uid], teller.untold.get(number)
                    told_of = (envelope.flags_told, envelope.arrived is not None, envelope.sized)
                    assert told_of == (untold != "FLAGS", untold != "INTERNALDATE", untold != "RFC822.SIZE")
                    assert envelope.flags == (message.flags if untold != "FLAGS" else frozenset())
                    assert envelope.arrived in (message.internal_date, None)
                    assert envelope.size in (len(message.raw), 0)

        told()


@pytest.mark.fuzz
def test_every_message_that_the_server_holds_has_its_end_however_it_is_told(
    engine: Engine, old: ImapServer, new: ImapServer
) -> None:
    mailboxes = Mailboxes(engine, old, new)

    @settings(max_examples=_examples(), deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.lists(FLAGS, min_size=1, max_size=9), TELLERS, st.none() | TELLERS)
    def told(flags: list[set[str]], at_source: Teller, at_target: Teller | None) -> None:
        box = mailboxes.next()
        for number, some in enumerate(flags, start=1):
            box.deliver(number, flags=frozenset(some))
        old.behaviour.retold = at_source
        if at_target:
            # What a target never tells is another matter: it makes the folder fail.
            at_target.hidden, at_target.untold = set(), {}
        new.behaviour.retold = at_target
        try:
            box.copy()
            _assert_all_ended(box, at_source, len(flags))
            old.behaviour.retold = new.behaviour.retold = None
            box.source.folder("INBOX").set_flags(1, {"\\Flagged"})
            box.copy()
            assert everything(new, box.target_user) == everything(old, box.source_user) or at_source.untold
            box.assert_counted()
        finally:
            old.behaviour.retold = new.behaviour.retold = None

    told()


def _examples() -> int:
    profile = settings.get_profile(settings.get_current_profile_name())
    return 30 if profile is settings.get_profile("steady") else min(profile.max_examples, 20_000)


def _assert_all_ended(box: Box, teller: Teller, count: int) -> None:
    """Every message is copied, with its flags and date, or an issue; what was never told of it is said."""
    source, target = box.source.folder("INBOX").messages, box.target.folder("INBOX").messages
    hidden = {number for number in teller.hidden if number <= count}
    row = box.row()
    assert row.source_messages == count
    assert row.copied + row.already_there + row.issues == count
    assert box.issues() == {-number: "message_hidden" for number in hidden}
    copies = {message.raw: message for message in target}
    assert len(copies) == len(target) == count - len(hidden)
    for number, message in enumerate(source, start=1):
        if number not in hidden:
            copy = copies[message.raw]
            untold = teller.untold.get(number)
            if untold != "INTERNALDATE":
                assert copy.internal_date.astimezone(UTC) == message.internal_date
            if untold == "FLAGS":
                assert '"flags"' in row.altered
            else:
                assert copy.flags == message.flags
