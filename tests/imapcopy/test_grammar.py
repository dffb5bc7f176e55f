"""The grammar reads what servers write and raises nothing but GrammarError."""

import time
from contextlib import suppress
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imapcopy import grammar
from imapcopy.grammar import GrammarError
from models.uid_sets import format_uids, parse_uids

NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(NAMES)
def test_every_folder_name_survives_modified_utf7(name: str) -> None:
    raw = grammar.encode_mailbox(name)
    assert grammar.decode_mailbox(raw) == name
    assert all(0x20 <= octet <= 0x7E for octet in raw)


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        (b"~peter/mail/&U,BTFw-/&ZeVnLIqe-", "~peter/mail/台北/日本語"),
        (b"&-", "&"),
        (b"a &- b", "a & b"),
        (b"&", "&"),
        (b"a&b", "a&b"),
        (b"&broke-", "&broke-"),
        (b"&2D0-", "&2D0-"),
        ("中文".encode(), "中文"),
        ("中文".encode("gbk"), "中文"),
        (b"\xff\xff", "ÿÿ"),
        (b"a&AAA-b", "a\ufffdb"),
        (b"a\0b", "a\ufffdb"),
    ],
)
def test_odd_folder_names_are_shown_and_never_fail(raw: bytes, name: str) -> None:
    assert grammar.decode_mailbox(raw) == name


@given(st.binary())
def test_no_folder_name_can_fail(raw: bytes) -> None:
    assert "\0" not in grammar.decode_mailbox(raw)


@given(st.lists(st.binary()), st.lists(st.binary()))
def test_the_parser_raises_nothing_but_grammar_error(segments: list[bytes], literals: list[bytes]) -> None:
    try:
        tokens = grammar.parse(segments, literals)
    except GrammarError:
        return
    for token in tokens:
        for read in (grammar.pairs, grammar.number):
            with suppress(GrammarError):
                read(token)


ALPHABET = st.sampled_from([b"(", b")", b'"', b"\\", b"[", b"]", b" ", b"NIL", b"a", b"{5}", b"\xff", b"\r", b"9" * 30])


@given(st.lists(ALPHABET).map(b"".join))
def test_nor_does_it_for_what_looks_like_imap(line: bytes) -> None:
    test_the_parser_raises_nothing_but_grammar_error.hypothesis.inner_test([line], [])  # type: ignore[attr-defined]


@given(st.binary().filter(lambda text: not set(text) & set(b"\r\n\0")))
def test_what_is_quoted_is_read_as_it_was(text: bytes) -> None:
    assert grammar.parse([b"x " + grammar.quote(text)], []) == [b"x", text]


@pytest.mark.parametrize("text", [b"a\r\nb", b"\0", b"\n"])
def test_what_no_quotes_can_hold_is_refused(text: bytes) -> None:
    with pytest.raises(GrammarError):
        grammar.quote(text)


def test_an_answer_becomes_tokens() -> None:
    assert grammar.parse(
        [b'* 1 FETCH (UID 7 FLAGS (\\Seen $x) X "a \\"b\\"" N nil BODY[H (M I)] ', b")"], [b"li\r\nt"]
    ) == [
        *(b"*", b"1", b"FETCH"),
        [b"UID", b"7", b"FLAGS", [b"\\Seen", b"$x"], b"X", b'a "b"', b"N", None, b"BODY[H (M I)]", b"li\r\nt"],
    ]


@pytest.mark.parametrize("line", [b"(", b")", b"(()", b'"open', b"(" * 60 + b")" * 60, b'a "b'])
def test_an_answer_that_is_none_is_refused(line: bytes) -> None:
    with pytest.raises(GrammarError):
        grammar.parse([line], [])


@pytest.mark.parametrize("token", [None, [], b"", b"x", b"-1", b"1.0", "٣".encode(), b"9" * 20, b"9" * 5000])
def test_what_is_no_number_is_refused(token: grammar.Token) -> None:
    with pytest.raises(GrammarError):
        grammar.number(token)


def test_a_line_of_brackets_takes_no_time_that_grows_with_its_square() -> None:
    """CPU time, not the clock: a megabyte took minutes when each bracket was searched to the end of the line."""
    start = time.process_time()
    grammar.parse([b"[" * 1_000_000], [])
    assert time.process_time() - start < 30


@pytest.mark.parametrize(
    ("line", "size"),
    [
        (b"x {5}\r\n", 5),
        (b"x {5+}\r\n", 5),
        (b"x ~{5}", 5),
        (b"x {5} \r\n", None),
        (b"x {}\r\n", None),
        (b"{-1}\r\n", None),
        (b"{" + b"9" * 5000 + b"}\r\n", None),
    ],
)
def test_a_literal_is_announced_at_the_end_of_a_line(line: bytes, size: int | None) -> None:
    found = grammar.LITERAL_AT_END.search(line)
    assert (int(found[1]) if found else None) == size


MOMENTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30)).map(lambda found: found.replace(microsecond=0))  # noqa: DTZ001
ZONES = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@given(MOMENTS, ZONES)
def test_every_date_survives_being_written_and_read(moment: datetime, zone: timezone) -> None:
    given_moment = moment.replace(tzinfo=zone)
    read = grammar.parse_date_time(grammar.format_date_time(given_moment))
    assert read == given_moment
    assert read.utcoffset() == zone.utcoffset(None)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        (" 1-Jan-2024 00:00:00 +0000", datetime(2024, 1, 1, tzinfo=UTC)),
        ("1-jan-2024 00:00:00 +0000", datetime(2024, 1, 1, tzinfo=UTC)),
        ("29-Feb-2024 23:59:60 -0330", datetime(2024, 3, 1, 3, 29, 59, tzinfo=UTC)),
    ],
)
def test_odd_dates_that_are_dates_are_read(text: str, moment: datetime) -> None:
    assert grammar.parse_date_time(text) == moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00-Jan-0000 00:00:00 +0000",
        "01-Jan-2024 24:00:00 +0000",
        "30-Feb-2024 00:00:00 +0000",
        "x" * 40,
        "01-Foo-2024 00:00:00 +0000",
        "01-Jan-2024 00:00:00",
        "01-Jan-2024 00:00:00 +9999",
        "01-Jan-24 00:00:00 +0000",
    ],
)
def test_what_is_no_date_is_none(text: str) -> None:
    assert grammar.parse_date_time(text) is None


@given(st.text("0123456789-+: JanFeb²٣", max_size=30))
def test_no_date_can_fail(text: str) -> None:
    grammar.parse_date_time(text)


@given(st.lists(st.integers(1, 50)))
def test_uid_sets_keep_their_order(uids: list[int]) -> None:
    assert parse_uids(format_uids(uids)) == uids


@pytest.mark.parametrize(
    ("flag", "good"),
    [
        (b"\\Seen", True),
        (b"$Label1", True),
        (b"a]b", False),
        (b"a b", False),
        (b"", False),
        (b"\xff", False),
        (b"a*", False),
    ],
)
def test_only_flags_that_can_be_written_back_are_flags(flag: bytes, good: bool) -> None:
    assert grammar.is_flag(flag) is good


def test_flags_are_written_in_order() -> None:
    assert grammar.flag_list(["b", "\\Seen", "a"]) == b"(\\Seen a b)"
