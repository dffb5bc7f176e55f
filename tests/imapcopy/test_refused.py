"""Messages that a target refuses: one is never the end of others, and one that may be repaired arrives once."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from sqlmodel import select

from deployments.demo.imap_server import CAPABILITIES, Action, Fault
from imapcopy.identity import digest
from imapcopy.repair import repaired
from models.database import reading
from models.ledger_rows import MessageRepair
from tests.imapcopy.world import Box, mail

PROFILES = [CAPABILITIES, frozenset({"IMAP4rev1", "UIDPLUS", "AUTH=PLAIN"}), frozenset({"IMAP4rev1"})]
NUL = mail(3, b"a\0b")
EIGHT_BIT = "Message-ID: <8@old.example>\r\nSubject: 标题\r\n\r\nbody\r\n".encode("gbk")
UNFINISHED = b"Message-ID: <9@old.example>\r\nSubject: end\r\n\r\nno end"


def refuse_nul(raw: bytes) -> str | None:
    return "Message contains NUL characters" if b"\0" in raw else None


def refuse_odd(raw: bytes) -> str | None:
    """What strict servers say to it."""
    if not raw.partition(b"\r\n\r\n")[0].isascii():
        return "Message contains non-ASCII characters in headers"
    return refuse_nul(raw) or (
        None if raw.endswith(b"\r\n") else "[CLIENTBUG] APPEND Additional arguments found after last expected argument"
    )


def repairs(mailbox: Box) -> dict[int, tuple[str, str]]:
    with reading(mailbox.engine) as session:
        return {row.source_uid: (row.repairs, row.server_text) for row in session.exec(select(MessageRepair))}


@pytest.fixture(params=PROFILES, ids=["full", "only UIDPLUS", "nothing"])
def strict(request: pytest.FixtureRequest, mailbox: Box) -> Box:
    mailbox.new.behaviour.capabilities = request.param
    mailbox.new.behaviour.refuse_message = refuse_odd
    for number in range(12):
        mailbox.deliver(number, raw={3: NUL, 5: EIGHT_BIT, 8: UNFINISHED}.get(number) or mail(number))
    mailbox.folder("INBOX").deliver(b"", mailbox.folder("INBOX").messages[0].internal_date)
    return mailbox


def test_without_leave_to_repair_each_refused_message_is_an_issue_and_the_others_arrive(strict: Box) -> None:
    strict.copy()
    assert strict.issues() == dict.fromkeys((4, 6, 9, 13), "invalid_message")
    assert Counter(strict.arrived()) == Counter(mail(n) for n in range(12) if n not in {3, 5, 8})
    assert not repairs(strict)
    strict.assert_counted()


@pytest.mark.parametrize("capabilities", PROFILES, ids=["full", "only UIDPLUS", "nothing"])
@pytest.mark.parametrize("times", [1, 2, 3])
def test_a_refusal_without_a_reason_that_passes_costs_neither_date_nor_flag(
    mailbox: Box, capabilities: frozenset[str], times: int
) -> None:
    """Refused twice alone, a message is an issue; it never arrives with less."""
    mailbox.new.behaviour.capabilities = capabilities
    for number in range(3):
        mailbox.deliver(number, flags=["\\Seen"])
    mailbox.new.behaviour.faults.append(Fault("APPEND", Action.NO, text="What?", times=times))
    mailbox.copy()
    if times == 1:
        mailbox.assert_equal()
    wanted = {(m.raw, m.internal_date, frozenset(m.flags)) for m in mailbox.folder("INBOX").messages}
    assert {(m.raw, m.internal_date, frozenset(m.flags)) for m in mailbox.target.folder("INBOX").messages} <= wanted


def test_each_refused_message_arrives_repaired_and_the_ledger_says_how(strict: Box) -> None:
    strict.copy(repair="refused")
    strict.assert_counted()
    assert strict.issues() == {}
    assert repairs(strict) == {
        4: ("nul", "NO Message contains NUL characters"),
        6: ("header_8bit", "NO Message contains non-ASCII characters in headers"),
        9: ("final_line_end", "NO [CLIENTBUG] APPEND Additional arguments found after last expected argument"),
        13: ("empty", "NO Can't save a zero byte message"),
    }
    assert strict.altered() == '{"repaired": 4}'
    expected = [mail(n) for n in range(12) if n not in {3, 5, 8}]
    for raw in (NUL, EIGHT_BIT, UNFINISHED, b""):
        found = repaired(raw, refuse_odd(raw) or "")
        assert found
        expected.append(found.raw)
    assert Counter(strict.arrived()) == Counter(expected)
    known = {e.source_uid: e.digest for b in strict.ledger.batches(strict.row().id or 0) for e in b.entries}
    assert known == {m.uid: digest(m.raw) for m in strict.folder("INBOX").messages}, "the source's, as ever"


@pytest.mark.parametrize("leave", ["refused", "never"])
@pytest.mark.parametrize("forget", [False, True], ids=["second pass", "ledger lost"])
def test_a_repaired_message_is_recognised_and_not_sent_again(
    strict: Box, leave: str, forget: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    strict.copy(repair="refused")
    before, sent = Counter(strict.arrived()), strict.sent()
    if forget:
        strict.target.folder("INBOX").change_uidvalidity()
    else:
        strict.deliver(30)
        before[mail(30)] += 1
        sent += 1
    strict.copy(repair=leave)
    assert Counter(strict.arrived()) == before
    assert strict.sent() == sent
    assert strict.issues() == {}


def test_what_a_server_does_to_a_message_on_its_own_is_not_called_repaired(mailbox: Box) -> None:
    mailbox.new.behaviour.rewrite = lambda raw: raw.replace(b"\0", b"")
    mailbox.deliver(1, raw=NUL)
    mailbox.copy(repair="refused")
    assert mailbox.altered() == '{"content": 1}'
    assert not repairs(mailbox)


def test_a_repaired_message_that_is_refused_too_is_an_issue_with_the_first_reason(mailbox: Box) -> None:
    mailbox.new.behaviour.refuse_message = lambda raw: (
        "Message contains NUL characters" if b"\0" in raw else "Message contains invalid header"
    )
    mailbox.deliver(1, raw=NUL)
    mailbox.copy(repair="refused")
    [issue] = mailbox.ledger.issues(mailbox.row().id or 0).values()
    assert (issue.cause, issue.server_text) == ("invalid_message", "NO Message contains NUL characters")
    assert mailbox.sent() == 3, "with the batch, alone, repaired; never more"


def test_a_refusal_for_another_reason_repairs_nothing(mailbox: Box) -> None:
    mailbox.new.behaviour.refuse_message = lambda raw: "Message refused because it contains a virus"
    mailbox.deliver(1, raw=NUL)
    mailbox.copy(repair="refused")
    assert mailbox.issues() == {1: "virus_rejected"}
    assert not repairs(mailbox)


def test_a_lost_answer_to_a_repaired_message_stores_it_once(mailbox: Box) -> None:
    mailbox.new.behaviour.refuse_message = refuse_nul
    mailbox.deliver(1, raw=NUL)
    mailbox.new.behaviour.faults.append(Fault("APPEND", Action.DROP_AFTER, nth=3))
    mailbox.copy(repair="refused")
    assert mailbox.arrived() == [mail(3, b"ab")]
    assert repairs(mailbox) == {1: ("nul", "NO Message contains NUL characters")}
    mailbox.assert_counted()


def test_a_repaired_copy_that_is_moved_is_still_known_as_repaired(mailbox: Box, copy: Callable[..., None]) -> None:
    mailbox.new.behaviour.refuse_message = refuse_nul
    mailbox.deliver(1, raw=NUL)
    copy(repair="refused")
    [message] = mailbox.folder("INBOX").messages
    mailbox.deliver(1, folder="Later", raw=NUL, internal_date=message.internal_date)
    mailbox.folder("INBOX").expunge([message.uid])
    copy(repair="refused")
    assert mailbox.arrived("Later") == [mail(3, b"ab")]
    assert mailbox.arrived() == []
    assert list(repairs(mailbox).values()) == [("nul", "")]


REFUSALS: dict[str, tuple[str, dict[str, Any]]] = {
    "NUL": ("NO Message contains NUL characters", {"raw": NUL}),
    "newline": ("NO Message contains bare newlines", {"raw": mail(3, b"a\nb")}),
    "header": ("NO Message contains invalid header", {"raw": b"no field\r\n" + mail(3)}),
    "too large": ("BAD [TOOBIG] Message too large", {"raw": mail(3, b"x" * 2000)}),
    "too large in words": (
        "NO Mail size is larger than the maximum size allowed by server configuration",
        {"raw": mail(3, b"x" * 2000)},
    ),
    "limit": ("NO [LIMIT] APPEND Command exceeds the maximum allowed size", {"raw": mail(3, b"x" * 2000)}),
    "virus": ("NO Message refused because it contains a virus", {"raw": mail(3, b"EICAR")}),
    "no reason": ("NO Error in IMAP command received by server.", {"raw": mail(3, b"odd")}),
    "no reason, BAD": ("BAD Error in IMAP command received by server.", {"raw": mail(3, b"odd")}),
}


@pytest.mark.parametrize("capabilities", PROFILES, ids=["full", "only UIDPLUS", "nothing"])
@pytest.mark.parametrize("kind", REFUSALS)
def test_one_refused_message_never_takes_its_neighbours_along(
    mailbox: Box, kind: str, capabilities: frozenset[str]
) -> None:
    words, message = REFUSALS[kind]
    status, _, text = words.partition(" ")
    mailbox.new.behaviour.capabilities = capabilities
    for number in range(6):
        mailbox.deliver(number, **(message if number == 3 else {}))
    if status == "NO":
        mailbox.new.behaviour.refuse_message = lambda raw: text if raw == message["raw"] else None
    else:
        sized = f"{{{len(message['raw'])}"
        fault = Fault("APPEND", Action.BAD, containing=sized, text=text, times=None)
        mailbox.new.behaviour.faults.append(fault)
    mailbox.copy()
    assert Counter(mailbox.arrived()) == Counter(mail(n) for n in range(6) if n != 3)
    assert list(mailbox.issues()) == [4]
    assert ("large" in kind or kind == "limit") == (mailbox.issues()[4] == "message_too_large")
    mailbox.assert_counted()


# Too large


def large(mailbox: Box, *sizes: int) -> None:
    for number, size in enumerate(sizes):
        mailbox.deliver(number, raw=mail(number, b"x" * (size - len(mail(number)) + 4)))


def fetched(mailbox: Box) -> str:
    """Which bodies were asked for."""
    return " ".join(entry.rest for entry in mailbox.old.commands("UID FETCH") if "BODY" in entry.rest)


@pytest.mark.parametrize("each", [False, True], ids=["for all folders", "folder by folder"])
def test_what_is_larger_than_the_target_takes_is_never_read(mailbox: Box, each: bool) -> None:
    limit = 100_000
    mailbox.new.behaviour.max_message_bytes = limit
    mailbox.new.behaviour.capabilities |= {"APPENDLIMIT"}
    if each:
        mailbox.new.behaviour.announced_after_login = " ".join(mailbox.new.behaviour.capabilities)
    large(mailbox, 5000, limit, limit + limit // 10 + (1 << 16) + 1, 6000)
    mailbox.copy()
    assert mailbox.issues() == {3: "message_too_large"}
    [issue] = mailbox.ledger.issues(mailbox.row().id or 0).values()
    assert (issue.server_text, issue.size) == (f"APPENDLIMIT {limit}", limit + limit // 10 + (1 << 16) + 1)
    assert [len(raw) for raw in mailbox.arrived()] == [5000, limit, 6000]
    assert fetched(mailbox).startswith("1:2,4 ")
    assert len(mailbox.new.commands("STATUS")) == (1 if each else 0)
    mailbox.assert_counted()


def test_an_estimate_a_little_above_the_limit_is_no_reason_to_leave_a_message(mailbox: Box) -> None:
    limit = 100_000
    mailbox.new.behaviour.max_message_bytes = limit
    mailbox.new.behaviour.capabilities |= {"APPENDLIMIT"}
    mailbox.old.behaviour.told_size = lambda raw: len(raw) + len(raw) // 10
    large(mailbox, 5000, limit - 1000, limit + 1000)
    mailbox.copy()
    assert sorted(len(raw) for raw in mailbox.arrived()) == [5000, limit - 1000]
    assert mailbox.issues() == {3: "message_too_large"}
    [issue] = mailbox.ledger.issues(mailbox.row().id or 0).values()
    assert issue.size == limit + 1000, "measured, and not sent"
    assert not [entry for entry in mailbox.new.commands("APPEND") if str(limit + 1000) in entry.rest]
    mailbox.assert_counted()


def test_a_message_that_lies_there_already_is_adopted_whatever_its_size(mailbox: Box) -> None:
    large(mailbox, 250_000)
    [message] = mailbox.folder("INBOX").messages
    mailbox.target.folder("INBOX").deliver(message.raw, message.internal_date)
    mailbox.new.behaviour.max_message_bytes = 1000
    mailbox.new.behaviour.capabilities |= {"APPENDLIMIT"}
    mailbox.copy()
    assert (mailbox.row().already_there, mailbox.issues()) == (1, {})


def test_a_server_that_hangs_up_on_a_large_message_is_asked_before_the_next_attempt(mailbox: Box) -> None:
    """With an unannounced literal it can only hang up; announced, the same message gets its reason."""
    large(mailbox, 5000, 200_000, 6000)
    mailbox.new.behaviour.faults.append(Fault("APPEND", Action.DROP_BEFORE, containing="{200000+}", times=None))
    mailbox.new.behaviour.max_message_bytes = 100_000
    mailbox.copy()
    assert mailbox.issues() == {2: "message_too_large"}
    assert [len(raw) for raw in mailbox.arrived()] == [5000, 6000]
    mailbox.assert_counted()
