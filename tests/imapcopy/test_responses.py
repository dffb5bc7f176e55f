"""An answer means the same in whatever order and spelling it comes: the short way and the long one agree."""

import itertools
from datetime import UTC, datetime

import pytest

from imapcopy import responses
from imapcopy.plan import Envelope
from imapcopy.responses import Message
from imapcopy.scan_answers import Answers
from imapcopy.wire import Response

DATE = " 7-May-2024 12:30:15 +0000"


def scanned(flags: bytes = b"\\Seen", date: bytes = b'"' + DATE.encode() + b'"', size: bytes = b"42") -> list[bytes]:
    return [b"UID 9", b"FLAGS (" + flags + b")", b"INTERNALDATE " + date, b"RFC822.SIZE " + size]


def ways(items: list[bytes], verb: bytes = b"FETCH") -> list[Response]:
    """The same items in every order; the first is the one that is read the short way."""
    return [Response([b"3 " + verb + b" (" + b" ".join(each) + b")"]) for each in itertools.permutations(items)]


def short(response: Response) -> bool:
    return bool(responses._SCANNED.match(response.segments[0]))


def envelope_of(response: Response) -> Envelope | None:
    """The message that one answer to a scan tells everything of."""
    answers = Answers()
    answers.take(response)
    answers.settle()
    [envelope] = answers.whole.values() or [None]
    return envelope


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        (b"", set()),
        (b"\\Seen", {"\\Seen"}),
        (
            b"\\SEEN \\answered \\fLAGGED \\deleted \\draft",
            {"\\Seen", "\\Answered", "\\Flagged", "\\Deleted", "\\Draft"},
        ),
        (b"\\Recent", set()),
        (b"\\recent \\Seen \\RECENT", {"\\Seen"}),
        (b"$Forwarded NonJunk $MDNSent", {"$Forwarded", "NonJunk", "$MDNSent"}),
        (b"\\Odd \\*", {"\\Odd", "\\*"}),
        (b"[a] b] [c", {"[a]", "b]", "[c"}),
        (b"NIL", {"NIL"}),
        (b"  two   blanks  ", {"two", "blanks"}),
        (b"\xe4\xb8\xad", {"\xe4\xb8\xad"}),
        (b"a\\b", {"a\\b"}),
    ],
)
def test_flags_are_the_same_in_every_order_of_the_items(flags: bytes, found: set[str]) -> None:
    first, *others = ways(scanned(flags))
    assert short(first)
    assert not any(map(short, others))
    expected = Envelope(9, frozenset(found), "", datetime(2024, 5, 7, 12, 30, 15, tzinfo=UTC), 42)
    assert envelope_of(first) == expected
    assert [envelope_of(other) for other in others] == [expected] * 23


@pytest.mark.parametrize(
    "text", ["", "00-Jan-0000 00:00:00 +0000", "7-May-2024", "yesterday", "31-Feb-2024 10:00:00 +0"]
)
def test_a_date_that_is_none_is_kept_as_it_was_written(text: str) -> None:
    for way in ways(scanned(date=b'"' + text.encode() + b'"')):
        envelope = envelope_of(way)
        assert envelope
        assert (envelope.internal_date, envelope.arrived) == (text, None)


@pytest.mark.parametrize("date", [b"NIL", b"nil", b"()"])
def test_a_date_that_is_no_string_is_no_date(date: bytes) -> None:
    for way in ways(scanned(date=date)):
        envelope = envelope_of(way)
        assert envelope
        assert (envelope.internal_date, envelope.arrived, envelope.size) == ("", None, 42)


@pytest.mark.parametrize("verb", [b"FETCH", b"fetch", b"Fetch"])
def test_a_scan_may_be_spelled_small_and_tell_more_than_was_asked(verb: bytes) -> None:
    expected = envelope_of(ways(scanned())[0])
    small = [item.replace(b"UID", b"uid").replace(b"RFC822.SIZE", b"rfc822.size") for item in scanned()]
    for items in (scanned(), small, [*scanned(), b"MODSEQ (5)"]):
        assert [envelope_of(way) for way in ways(items, verb)] == [expected] * len(ways(items))


@pytest.mark.parametrize("missing", [0, 3])
def test_an_answer_without_uid_or_size_is_no_part_of_a_scan(missing: int) -> None:
    items = scanned()
    del items[missing]
    assert [envelope_of(way) for way in ways(items)] == [None] * 6


BODIES = [
    Response([b"3 FETCH (UID 9 BODY[] ", b")"], [b"hi (x) \r\n"]),
    Response([b"3 FETCH (BODY[] ", b" UID 9)"], [b"hi (x) \r\n"]),
    Response([b"3 fetch (uid 9 body[] ", b")"], [b"hi (x) \r\n"]),
    Response([b"3 FETCH (UID 9 BODY[] ", b" FLAGS (\\Seen))"], [b"hi (x) \r\n"]),
    Response([b"3 FETCH (FLAGS () UID 9 BODY[] ", b")"], [b"hi (x) \r\n"]),
    Response([b"3 FETCH (UID 9 X ", b" BODY[] ", b")"], [b"other", b"hi (x) \r\n"]),
    Response([b"3 FETCH (BODY[] ", b" UID 9 X ", b")"], [b"hi (x) \r\n", b"other"]),
]


@pytest.mark.parametrize("response", BODIES, ids=range(len(BODIES)))
def test_a_body_is_the_same_wherever_it_stands(response: Response) -> None:
    assert responses.message(response) == Message(9, b"hi (x) \r\n")


@pytest.mark.parametrize(
    ("body", "raw"), [(b'"quoted \\"x\\" \\\\"', b'quoted "x" \\'), (b'""', b""), (b"NIL", None), (b"nil", None)]
)
def test_a_body_may_be_quoted_or_none(body: bytes, raw: bytes | None) -> None:
    for way in ways([b"UID 9", b"BODY[] " + body, b"FLAGS ()"]):
        assert responses.message(way) == Message(9, raw)


@pytest.mark.parametrize(
    "segments",
    [
        [b"3 FETCH (BODY[] ", b")"],
        [b"3 FETCH (UID 9 BODY[TEXT] ", b")"],
        [b"3 FETCH (UID 9 BODY[]<0> ", b")"],
        [b"3 SEARCH (UID 9 X ", b")"],
    ],
)
def test_what_is_no_whole_message_is_none(segments: list[bytes]) -> None:
    assert responses.message(Response(segments, [b"hi"])) is None


@pytest.mark.parametrize("text", [b'OK after FETCH "5', b"NO FETCH of (9 failed", b"OK [X] FETCH )"])
def test_words_about_a_fetch_need_not_follow_the_grammar(text: bytes) -> None:
    """They are for people."""
    for read in (envelope_of, responses.message, responses.message_id):
        assert read(Response([text])) is None
