"""Messages that arrived altered or stay behind are written down by name; of healthy ones nothing is asked."""

import json
from collections.abc import Callable

import pytest
from sqlalchemy import event

from deployments.demo.imap_server import Action, Fault
from models.ledger import Ledger
from models.ledger_rows import MessageAlteration
from tests.imapcopy.world import Box, mail, moment

EIGHT_BIT = "Subject: 预算 {n}\r\nFrom: 王芳 <wang@old.example>\r\n\r\nbody\r\n"


def eight_bit(number: int) -> bytes:
    return EIGHT_BIT.format(n=number).encode("gb18030")


def overwrite(raw: bytes) -> bytes:
    """As Cyrus does: at the same size."""
    head, end, body = raw.partition(b"\r\n\r\n")
    return bytes(octet if octet < 128 else ord("X") for octet in head) + end + body


def told(box: Box, folder: str = "INBOX") -> dict[int, tuple[str, str | None, str | None]]:
    rows = box.ledger.altered(box.row(folder).id or 0)
    return {uid: (row.alterations, row.subject, row.sender) for uid, row in rows.items()}


def issue_names(box: Box, folder: str = "INBOX") -> dict[int, tuple[str | None, str | None]]:
    rows = box.ledger.issues(box.row(folder).id or 0)
    return {uid: (row.subject, row.sender) for uid, row in rows.items()}


def asked_for_names(box: Box) -> list[str]:
    return [entry.rest for entry in box.old.log if "HEADER.FIELDS (SUBJECT" in entry.rest]


@pytest.fixture
def altering(mailbox: Box) -> Box:
    """Messages 2 and 4 of six are altered by the new server."""
    mailbox.new.behaviour.rewrite = overwrite
    for number in range(1, 7):
        mailbox.deliver(number, raw=eight_bit(number) if number in (2, 4) else b"")
    return mailbox


def test_each_altered_message_is_written_down_with_its_places_date_size_and_name(altering: Box) -> None:
    altering.target.folder("INBOX").deliver(mail(90), moment(3))
    altering.copy()
    assert altering.altered() == '{"header_8bit": 2}'
    assert told(altering) == {n: ("header_8bit", f"预算 {n}", "王芳 <wang@old.example>") for n in (2, 4)}
    row: MessageAlteration = altering.ledger.altered(altering.row().id or 0)[4]
    assert altering.target.folder("INBOX").get(row.target_uid).raw == overwrite(eight_bit(4))  # type: ignore[union-attr]
    assert (row.arrived, row.size, row.benign) == (moment(5), len(eight_bit(4)), False)
    assert len(asked_for_names(altering)) == 1
    altering.assert_untouched()


def test_flags_and_dates_that_a_server_does_not_keep_are_told_of_each_message(mailbox: Box) -> None:
    mailbox.new.behaviour.ignore_append_date = mailbox.new.behaviour.ignore_append_flags = True
    mailbox.new.behaviour.faults.append(Fault("STORE", Action.NO, times=None))
    mailbox.deliver(1, flags=["\\Seen"])
    mailbox.deliver(2, flags=["\\Seen", "$Label"])
    mailbox.deliver(3)
    mailbox.copy()
    assert {uid: names for uid, (names, _, _) in told(mailbox).items()} == {1: "date,flags", 2: "date,flags", 3: "date"}
    assert json.loads(mailbox.altered()) == {"date": 3, "flags": 2}


def test_flags_that_were_set_afterwards_are_not_told(mailbox: Box) -> None:
    mailbox.new.behaviour.ignore_append_flags = True
    for number in range(3):
        mailbox.deliver(number, flags=["\\Seen"])
    mailbox.copy()
    assert (mailbox.altered(), told(mailbox)) == ("{}", {})


def test_nothing_is_asked_and_nothing_written_for_healthy_mail(mailbox: Box) -> None:
    statements: list[str] = []
    event.listen(mailbox.engine, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))
    for number in range(20):
        mailbox.deliver(number)
    mailbox.copy()
    assert asked_for_names(mailbox) == []
    assert not [each for each in statements if "messagealteration" in each or "messageissue" in each]


def refuse_odd(raw: bytes) -> str | None:
    return "Message contains invalid header" if b"odd" in raw else None


def test_a_refused_message_has_its_name_from_the_octets_that_were_to_be_sent(mailbox: Box) -> None:
    mailbox.new.behaviour.refuse_message = refuse_odd
    for number in range(5):
        mailbox.deliver(number, raw=eight_bit(number) + b"odd\r\n" if number == 3 else b"")
    mailbox.copy()
    assert issue_names(mailbox) == {4: ("预算 3", "王芳 <wang@old.example>")}
    assert asked_for_names(mailbox) == []


def too_large(box: Box) -> None:
    box.new.behaviour.max_message_bytes = 100_000
    box.deliver(9, raw=b"Subject: odd 9\r\nFrom: a@old.example\r\n\r\n" + b"x" * 300_000)


def unreadable(box: Box) -> None:
    box.old.behaviour.unreadable = lambda raw: b"odd 9" in raw
    box.deliver(9, raw=b"Subject: odd 9\r\nFrom: a@old.example\r\n\r\nx")


def moved(box: Box) -> None:
    """Behind the pass, so that the copy cannot follow."""
    box.deliver(9, "Work", raw=b"Subject: odd 9\r\nFrom: a@old.example\r\n\r\nx")
    box.copy()
    message = box.folder("Work").messages[0]
    box.target.folder("Work").expunge(box.target.folder("Work").uids)
    box.folder("Work").expunge([message.uid])
    box.deliver(9, raw=message.raw)


@pytest.mark.parametrize(
    ("stays_behind", "name"),
    [(too_large, ("odd 9", "a@old.example")), (moved, ("odd 9", "a@old.example")), (unreadable, ("", ""))],
)
def test_every_message_that_stays_behind_is_asked_for_its_name_once(
    mailbox: Box, stays_behind: Callable[[Box], None], name: tuple[str, str]
) -> None:
    mailbox.deliver(1)
    stays_behind(mailbox)
    mailbox.copy()
    assert list(issue_names(mailbox).values()) == [name]
    asked = len(asked_for_names(mailbox))
    assert asked <= 1
    mailbox.deliver(2)
    mailbox.copy()
    assert len(asked_for_names(mailbox)) == asked, "once is enough"


def test_hidden_subjects_are_neither_asked_for_nor_kept(altering: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    altering.new.behaviour.refuse_message = refuse_odd
    altering.deliver(9, raw=eight_bit(9) + b"odd\r\n")
    monkeypatch.setattr(Ledger.__init__, "__kwdefaults__", {"keeps_subjects": False})
    altering.copy()
    assert told(altering) == {2: ("header_8bit", None, None), 4: ("header_8bit", None, None)}
    assert issue_names(altering) == {7: (None, None)}
    assert asked_for_names(altering) == []


@pytest.mark.parametrize(
    ("action", "times", "named"), [(Action.NO, 1, {2, 4}), (Action.NO, None, set()), (Action.DROP_BEFORE, 1, {2, 4})]
)
def test_a_server_that_gives_no_names_costs_no_mail(
    altering: Box, action: Action, times: int | None, named: set[int]
) -> None:
    """Refused together they are asked for in halves; the pass goes on whatever becomes of it."""
    fault = Fault("FETCH", action, times=times, containing="HEADER.FIELDS (SUBJECT")
    altering.old.behaviour.faults.append(fault)
    altering.deliver(7, "Work")
    altering.copy()
    assert {uid for uid, (_, subject, _) in told(altering).items() if subject} == named
    assert altering.altered() == '{"header_8bit": 2}'
    assert len(altering.arrived()) == 6
    assert len(altering.arrived("Work")) == 1
    altering.assert_counted()


def test_a_message_that_ends_every_session_costs_no_neighbour_its_name(mailbox: Box) -> None:
    mailbox.old.behaviour.poison = lambda raw: b"poison" in raw
    mailbox.new.behaviour.rewrite = overwrite
    mailbox.deliver(1, raw=eight_bit(1))
    mailbox.deliver(2, raw=b"Subject: poison\r\n\r\nx\r\n")
    mailbox.deliver(3, raw=eight_bit(3))
    mailbox.copy()
    assert {uid: subject for uid, (_, subject, _) in told(mailbox).items()} == {1: "预算 1", 3: "预算 3"}
    assert mailbox.issues() == {2: "source_unreadable"}
    mailbox.assert_counted()
