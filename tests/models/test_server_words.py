"""Server's words as others may see them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.server_words import LONGEST_LINE, KnownBy, normalised, pattern_of


@pytest.mark.parametrize(
    ("text", "names", "line"),
    [
        ("NO Unknown thing for lin@old.example at 2026-01-02 03:04:05", (), "NO Unknown thing for <address> at <time>"),
        ("NO Mailbox Kunden/Müller is odd", ("Kunden/Müller",), "NO Mailbox <name> is odd"),
        ("NO host mail-3.corp.example.com (session 9f8e7d6c5b4a)", (), "NO host <host> (session <hex>)"),
        ("NO [LIMIT 5 6] user 'Lin Na' over 15 things", (), "NO [LIMIT] user <quoted> over <number> things"),
        ("NO see https://a.example/x?u=lin%40x <abc@d.example>", (), "NO see <url> <message-id>"),
        ("NO 服务器 10.0.0.5 拒绝 lin.na 的请求", ("lin.na",), "NO 服务器 <ip> 拒绝 <name> 的请求"),
        ("BAD Command Error. 12", (), "BAD Command Error. <number>"),
        ("* BYE  two\tblanks", (), "* BYE two blanks"),
        ("NO it's the user's fault", (), "NO it's the user's fault"),
        ("NO nothing odd", ("", "x"), "NO nothing odd"),
        ("", (), ""),
    ],
)
def test_what_belongs_to_one_mailbox_is_taken_out(text: str, names: tuple[str, ...], line: str) -> None:
    assert normalised(text, names) == line


@pytest.mark.parametrize(
    "text",
    [
        "NO [LIMIT 5 6] user 'Lin Na' over 15 things",
        "NO Unknown thing for lin@old.example at 2026-01-02 03:04:05",
        "* BYE strange (very) end.",
        "NO 服务器 10.0.0.5 拒绝请求",
    ],
)
def test_the_pattern_of_a_line_finds_the_answers_that_are_it(text: str) -> None:
    assert re.search(pattern_of(normalised(text)), text)
    assert not re.search(pattern_of(normalised(text)), "NO something else")


@given(st.text(max_size=400), st.sampled_from(["lin.na@old.example", "wang@new.example.cn"]), st.text(max_size=50))
def test_no_address_comes_through_whatever_stands_around_it(before: str, address: str, after: str) -> None:
    line = normalised(f"NO {before} {address} {after}")
    assert address not in line
    assert len(line) <= LONGEST_LINE
    re.compile(pattern_of(line))


@given(st.text(alphabet="abc 0123456789@.<>'\"[]-/:", max_size=200))
def test_what_is_normalised_stays_so(text: str) -> None:
    assert not re.search(r"\d", re.sub(r"^NO (\[[A-Za-z-]+\])?", "", normalised(f"NO {text}")))


def test_what_told_a_cause_is_known_or_not() -> None:
    assert KnownBy.read("login:") == KnownBy("login", "")
    assert KnownBy.read("") is None
    assert str(KnownBy("append", "[LIMIT]")) == "append:[LIMIT]"
    assert KnownBy.read("append:[LIMIT]") == KnownBy("append", "[LIMIT]")
    assert not KnownBy("", "bye").is_known
    assert not KnownBy("login", "").is_known
    assert KnownBy("login", "qq-five-causes").is_known
