"""Flags of a batch's messages are read again as they were written, and take few octets."""

from hypothesis import given
from hypothesis import strategies as st

from models.flag_sets import Flags, format_flags, parse_flags

FLAG = st.sampled_from(["\\Seen", "\\Answered", "\\Flagged", "$Forwarded", "NonJunk", "$label1", "\\XSpam"]) | st.text(
    # What IMAP calls an atom: no blank, no line end.
    st.characters(min_codepoint=33, max_codepoint=126, exclude_characters='(){%*"\\]'),
    min_size=1,
    max_size=20,
)
FLAGS = st.frozensets(FLAG, max_size=5)


@given(st.lists(FLAGS, max_size=60))
def test_what_was_written_is_read_again_in_the_order_of_the_messages(flags: list[Flags]) -> None:
    assert parse_flags(format_flags(flags), len(flags)) == flags


@given(st.permutations([frozenset({"\\Seen"}), frozenset({"\\Seen", "$A"}), frozenset(), frozenset({"$A"})]))
def test_each_place_keeps_its_own(flags: list[Flags]) -> None:
    assert parse_flags(format_flags(flags), 4) == flags


@given(st.lists(FLAGS, max_size=20))
def test_equal_flags_are_written_alike_whatever_the_order_in_each_set(flags: list[Flags]) -> None:
    again = [frozenset(sorted(some, reverse=True)) for some in flags]
    assert format_flags(again) == format_flags(flags)


def test_the_flags_are_written_by_flag_with_the_places_that_have_it() -> None:
    flags = [frozenset({"\\Seen"}), frozenset({"\\Seen", "$Project"}), frozenset(), frozenset({"$Project"})]
    assert format_flags(flags) == "$Project 2,4\n\\Seen 1:2"


def test_messages_without_flags_take_nothing() -> None:
    assert format_flags([frozenset()] * 250) == ""
    assert parse_flags("", 250) == [frozenset()] * 250
    assert parse_flags(format_flags([]), 0) == []


def test_a_batch_whose_messages_are_nearly_all_read_takes_a_few_octets() -> None:
    seen = frozenset({"\\Seen"})
    assert len(format_flags([seen] * 250)) == len("\\Seen 1:250")
    flags = [frozenset() if n in {3, 77} else seen for n in range(250)]
    assert len(format_flags(flags)) < 30


def test_equal_sets_are_one_object() -> None:
    """A folder of a hundred thousand messages has a handful of them."""
    found = parse_flags("\\Answered 1:500\n\\Seen 1:1000", 1000)
    assert len({id(each) for each in found}) == 2
