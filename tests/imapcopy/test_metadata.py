"""What travels with a message: when it arrived, and its flags, whatever either server makes of them."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deployments.demo.imap_server import Action, Fault
from imapcopy.arrival import EARLIEST, LATEST, arrival, is_kept_everywhere
from imapcopy.grammar import flag_list, format_date_time, is_flag, parse, parse_date_time
from imapcopy.responses import sendable_flags
from imapcopy.scan_answers import Answers
from imapcopy.wire import Response
from tests.imapcopy.scripted import Scripted
from tests.imapcopy.world import Box, mail

RECEIVED = b"Received: from a (b; c) by d;\r\n\tWed, 1 May 2024 10:00:00 +0800 (CST)\r\n"
DATE = b"Date: Tue, 30 Apr 2024 09:00:00 -0000\r\n"
BY_RECEIVED = datetime(2024, 5, 1, 2, 0, tzinfo=UTC)
BY_DATE = datetime(2024, 4, 30, 9, 0, tzinfo=UTC)
NONSENSE = b"Received: by d; yesterday\r\nDate: 99 Foo 2024\r\n"
IMPOSSIBLE = [
    None,
    datetime(1900, 1, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2038, 1, 19, 3, 14, 8, tzinfo=UTC),
    datetime(9999, 12, 31, tzinfo=UTC),
]


@pytest.mark.parametrize("told", IMPOSSIBLE)
@pytest.mark.parametrize(
    ("header", "expected", "rule"),
    [
        (RECEIVED + b"Received: by e; Mon, 1 Jan 2001 00:00:00 +0000\r\n" + DATE, BY_RECEIVED, "date_received"),
        (RECEIVED.replace(b"2024", b"24"), BY_RECEIVED, "date_received"),
        (b"Received: by d\r\n" + DATE, BY_DATE, "date_header"),
        (b"Received: by d; Fri, 31 Dec 1999 24:61:00 +0000\r\n" + DATE, BY_DATE, "date_header"),
        (b"Received: by d; Fri, 31 Dec 9999 10:00:00 +0000\r\n" + DATE, BY_DATE, "date_header"),
        (b"DATE : Tue, 30 Apr 2024 09:00:00\r\n", BY_DATE, "date_header"),
        (b"Date: Tue, 30 Apr 2024 18:29:60 +0930\r\n", BY_DATE.replace(hour=8, minute=59, second=59), "date_header"),
        (NONSENSE, None, "date_unknown"),
        (b"\r\n" + DATE, None, "date_unknown"),
        (b"", None, "date_unknown"),
    ],
)
def test_a_message_whose_server_tells_no_arrival_is_dated_by_its_header(
    told: datetime | None, header: bytes, expected: datetime | None, rule: str
) -> None:
    found = arrival(told, lambda: header + b"Subject: x\r\n\r\n" + DATE)
    if expected is None and told is not None:
        assert found == (told, ""), "a moment that some servers keep is better than none"
    else:
        assert found == (expected, rule)


@pytest.mark.parametrize("told", [EARLIEST, LATEST - timedelta(seconds=1), datetime(2024, 5, 1, tzinfo=UTC)])
def test_an_arrival_that_every_server_keeps_is_never_looked_at_twice(told: datetime) -> None:
    def nobody_asks() -> bytes:
        raise AssertionError

    assert arrival(told, nobody_asks) == (told, "")


TEXTS = [
    b'"01-May-2024 12:30:15 PM +0800"',
    b'"01-May-24 12:30:15 +0800"',
    b'"01-May-2024 12:30:15"',
    b'"00-Jan-0000 00:00:00 +0000"',
    b'"01-May-9999 12:30:15 +0000"',
    b'""',
    b"NIL",
]


@pytest.mark.parametrize("text", TEXTS)
def test_a_date_that_cannot_be_read_is_repaired_and_the_report_says_by_which_rule(mailbox: Box, text: bytes) -> None:
    """The source tells the same nonsense of three messages, of which two know better."""
    raws = [RECEIVED + mail(1), DATE + mail(2), mail(3)]

    def fetch(rest: bytes) -> bytes:
        answers = b""
        for uid, raw in enumerate(raws, 1):
            if b"INTERNALDATE" in rest:
                items = b"FLAGS () INTERNALDATE %b RFC822.SIZE %d" % (text, len(raw))
            else:
                items = b"BODY[] {%d}\r\n%b" % (len(raw), raw)
            answers += b"* %d FETCH (UID %d %b)\r\n" % (uid, uid, items)
        return answers + b"TAG OK done\r\n"

    answers = {
        "LIST": b'* LIST () "/" INBOX\r\n',
        "STATUS": b"* STATUS INBOX (MESSAGES 3 UIDNEXT 4 UIDVALIDITY 7)\r\n",
        "FETCH": fetch,
    }
    with Scripted(answers) as source:  # type: ignore[arg-type]
        mailbox.copy(source=source.account)
    inbox = mailbox.target.folder("INBOX").messages
    assert [message.raw for message in inbox] == raws
    assert [message.internal_date.astimezone(UTC) for message in inbox][:2] == [BY_RECEIVED, BY_DATE]
    # A year 9999 is a date for those servers that keep it, and better than none.
    unknown = {} if b"9999" in text else {"date_unknown": 1}
    assert json.loads(mailbox.altered()) == {"date_received": 1, "date_header": 1, **unknown}


def test_impossible_dates_are_repaired_counted_once_and_no_difference_later(mailbox: Box) -> None:
    for number, when in enumerate(IMPOSSIBLE[1:], 1):
        mailbox.deliver(number, raw=RECEIVED + mail(number), internal_date=when)
    mailbox.deliver(10, internal_date=datetime(1900, 1, 1, tzinfo=UTC))
    mailbox.copy()
    inbox = mailbox.target.folder("INBOX").messages
    assert [m.internal_date.astimezone(UTC) for m in inbox[:-1]] == [BY_RECEIVED] * len(IMPOSSIBLE[1:])
    assert inbox[-1].internal_date.year == 1900, "nothing better is known"
    assert mailbox.altered() == '{"date_received": 5}'
    mailbox.copy(deep=True)
    assert mailbox.altered() == '{"date_received": 5}'
    mailbox.assert_counted()


@pytest.mark.parametrize("words", ["Invalid date-time in Append command", "Error in IMAP command"])
@pytest.mark.parametrize("capabilities", [None, frozenset({"IMAP4rev1", "UIDPLUS", "AUTH=PLAIN"})])
def test_a_date_that_the_target_refuses_is_left_out_and_the_mail_arrives(
    mailbox: Box, words: str, capabilities: frozenset[str] | None
) -> None:
    mailbox.new.behaviour.capabilities = capabilities or mailbox.new.behaviour.capabilities
    fault = Fault("APPEND", Action.BAD, containing="-1900 ", text=words, times=None)
    mailbox.new.behaviour.faults.append(fault)
    mailbox.deliver(1)
    mailbox.deliver(2, internal_date=datetime(1900, 1, 1, tzinfo=UTC), flags=["\\Seen", "$Label1"])
    mailbox.deliver(3)
    mailbox.copy()
    assert sorted(mailbox.arrived()) == [mail(1), mail(2), mail(3)]
    assert mailbox.altered() == '{"date_unknown": 1}'
    [dated] = [m for m in mailbox.target.folder("INBOX").messages if m.raw == mail(2)]
    assert dated.flags == {"\\Seen", "$Label1"}, "they were not to blame"
    mailbox.assert_counted()


# Flags


LONG = "k" * 51


@pytest.mark.parametrize("capabilities", [None, frozenset({"IMAP4rev1", "UIDPLUS", "AUTH=PLAIN"})])
@pytest.mark.parametrize("words", ["[CANNOT] Keyword length too long", "Error in IMAP command received by server."])
def test_a_keyword_that_is_too_long_is_left_out_alone_and_only_once_found_out(
    mailbox: Box, words: str, capabilities: frozenset[str] | None
) -> None:
    mailbox.new.behaviour.capabilities = capabilities or mailbox.new.behaviour.capabilities
    mailbox.new.behaviour.faults.append(Fault("APPEND", Action.NO, containing=LONG, text=words, times=None))
    for number in range(6):
        mailbox.deliver(number, flags=["\\Seen", "$MDNSent", "NonJunk", *([LONG] if number % 2 else [])])
    mailbox.copy()
    expected = {"\\Seen", "$MDNSent", "NonJunk"}
    assert [m.flags for m in mailbox.target.folder("INBOX").messages] == [expected] * 6
    assert mailbox.altered() == '{"keyword_dropped": 3}'
    refused = [e for e in mailbox.new.commands("APPEND") if LONG in e.rest]
    assert 1 <= len(refused) <= 4, "not each message asks for it again"
    mailbox.assert_counted()


def test_more_keywords_than_the_target_takes_are_left_out_and_the_mail_arrives(mailbox: Box) -> None:
    fault = Fault("APPEND", Action.NO, containing="kw119", text="Too many user flags in mailbox", times=None)
    mailbox.new.behaviour.faults.append(fault)
    mailbox.deliver(1, flags=["\\Flagged", *(f"kw{number}" for number in range(120))])
    mailbox.deliver(2, flags=["$Label1"])
    mailbox.copy()
    assert {m.raw: m.flags for m in mailbox.target.folder("INBOX").messages} == {
        mail(1): {"\\Flagged"},
        mail(2): {"$Label1"},
    }
    assert mailbox.altered() == '{"keyword_dropped": 1}'


def test_flags_that_a_server_ignores_at_append_are_set_afterwards(mailbox: Box) -> None:
    mailbox.new.behaviour.ignore_append_flags = True
    for number, flags in enumerate((["\\Seen"], ["\\Flagged", "\\Seen"], [], ["$Label1"], ["\\Seen", "\\Deleted"])):
        mailbox.deliver(number, flags=flags)
    mailbox.copy()
    assert [m.flags for m in mailbox.target.folder("INBOX").messages] == [
        {"\\Seen"},
        {"\\Flagged", "\\Seen"},
        frozenset(),
        {"$Label1"},
        {"\\Seen"},
    ]
    assert len(mailbox.new.commands("UID STORE")) == 3, "one for each set of flags"
    assert mailbox.altered() == '{"flags": 1}', "a mark for deletion is not set afterwards"
    mailbox.copy()
    assert len(mailbox.new.commands("UID STORE")) == 3


def test_a_flag_that_the_member_takes_away_meanwhile_is_not_set_again(mailbox: Box) -> None:
    for number in range(3):
        mailbox.deliver(number, flags=["\\Flagged"])
    inbox = mailbox.target.folder("INBOX")

    def unflag() -> None:
        if len(inbox.messages) == 3:
            inbox.set_flags(2, [])

    mailbox.later(mailbox.new, "FETCH", unflag)
    mailbox.copy()
    assert [m.flags for m in inbox.messages] == [{"\\Flagged"}, frozenset(), {"\\Flagged"}]
    assert not mailbox.new.commands("UID STORE")


# Whatever octets a server may send


DATES = st.one_of(
    st.binary(max_size=40),
    st.builds(
        b'"%b-%b-%b %b:%b:%b %b"'.__mod__,
        st.tuples(
            *(st.sampled_from([b"01", b"1", b"31", b"00", b"99", b"May", b"0001", b"9999", b"24", b"-1"]),) * 6
        ).flatmap(lambda six: st.tuples(*map(st.just, six), st.sampled_from([b"+0000", b"-9999", b"+1459", b""]))),
    ),
    st.datetimes(timezones=st.just(UTC)).map(lambda at: b'"' + format_date_time(at).encode() + b'"'),
)
FLAGS = st.lists(
    st.one_of(
        st.binary(max_size=12),
        st.sampled_from([b"\\Seen", b"\\seen", b"\\Recent", b"\\*", b"$Label1", b"NIL", b"a]b", b"\\", b"()", b'"x"']),
    ),
    max_size=8,
).map(b" ".join)
HEADERS = st.lists(
    st.one_of(
        st.binary(max_size=40), st.sampled_from([b"Received: x;", b"Date:", b"\r\n", b"1 May 2024 10:00:00 +99"])
    ),
    max_size=10,
).map(b" ".join)


def reading_and_writing(flags: bytes, date: bytes, header: bytes, keywords: frozenset[str] | None) -> None:
    """A scan's answer, through to what is sent: whatever comes out follows the grammar."""
    line = b"1 FETCH (UID 7 FLAGS (" + flags + b") INTERNALDATE " + date + b" RFC822.SIZE 5)"
    answers = Answers()
    answers.take(Response([line], []))
    answers.settle()
    if not (some := answers.envelopes()):
        return  # no answer that follows the grammar: as if nothing had been told
    [found] = some
    told = arrival(found.arrived, lambda: header)
    if told.moment:
        assert told.moment.astimezone(UTC).tzinfo == UTC
        assert parse_date_time(format_date_time(told.moment)) == told.moment
        assert is_kept_everywhere(told.moment) or told.moment == found.arrived
    sendable = sendable_flags(found.flags, keywords)
    for flag in sendable:
        assert is_flag(flag.encode()), flag
        assert flag.lower() != "\\recent"
    [listed] = parse([flag_list(sendable)], [])
    assert isinstance(listed, list)
    assert {flag.decode() for flag in listed if isinstance(flag, bytes)} | ({"NIL"} & set(sendable)) >= {
        flag for flag in sendable if flag.upper() != "NIL"
    }


ANY = given(FLAGS, DATES, HEADERS, st.sampled_from([None, frozenset({"$label1"})]))


@ANY
def test_any_octets_for_flags_and_dates_are_read_and_nothing_odd_goes_out(
    flags: bytes, date: bytes, header: bytes, keywords: frozenset[str] | None
) -> None:
    reading_and_writing(flags, date, header, keywords)


@pytest.mark.thorough
@settings(max_examples=100_000, derandomize=False, suppress_health_check=list(HealthCheck))
@ANY
def test_a_hundred_thousand_of_them(flags: bytes, date: bytes, header: bytes, keywords: frozenset[str] | None) -> None:
    reading_and_writing(flags, date, header, keywords)
