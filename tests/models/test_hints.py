"""Hints: kept as kind and values, read in both languages."""

import re
import string

import pytest

from models.hints import LONGEST_VALUE, MOST_VALUES, Hint, hint_texts, places


@pytest.mark.parametrize("kind", sorted(hint_texts()))
def test_a_hint_is_in_both_languages_with_the_same_places(kind: str) -> None:
    text = hint_texts()[kind]
    assert re.search("[\u4e00-\u9fff]{2}", text.zh)
    assert not re.search("[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]", text.en)
    assert not re.search(r"[\u4e00-\u9fff][,:;!?()]|[,:;!?()][\u4e00-\u9fff]", text.zh)
    assert text.zh.endswith(("。", "？"))
    assert text.en.endswith((".", "?"))
    assert {name for _, name, _, _ in string.Formatter().parse(text.en) if name} == places(kind)


def test_a_hint_survives_its_column() -> None:
    hint = Hint("certificate_names", {"names": ("*.qiye.163.com", "qiye.163.com"), "host": "imap.corp.example"})
    assert Hint.read(str(hint)) == hint
    assert Hint.read("") is None
    assert hint.text is not None
    assert "*.qiye.163.com、qiye.163.com" in hint.text.zh
    assert "*.qiye.163.com, qiye.163.com" in hint.text.en


def test_a_hint_says_what_its_kind_can_say_and_no_more() -> None:
    with pytest.raises(ValueError, match="near_host"):
        Hint("near_host", {"host": "imap.fishu.cn"})
    with pytest.raises(ValueError, match="user_blanks"):
        Hint("user_blanks", {"password": "hunter2"})


def test_a_hint_that_another_version_kept_otherwise_is_none() -> None:
    assert Hint.read('{"kind": "near_host", "values": {"host": "imap.fishu.cn"}}') is None


def test_a_kind_of_a_later_version_has_no_words() -> None:
    assert Hint.read('{"kind": "of_2031", "values": {"x": "y"}}') == Hint("of_2031", {"x": "y"})
    assert Hint("of_2031").text is None


def test_what_a_server_says_of_itself_is_made_visible_and_cut() -> None:
    hint = Hint("certificate_names", {"names": ("\x1b[31mred\u202e",) + ("x" * 500,) * 50, "host": "a\r\nb"})
    names = hint.values["names"]
    assert isinstance(names, tuple)
    assert len(names) == MOST_VALUES
    assert names[0] == "?[31mred?"
    assert len(names[1]) == LONGEST_VALUE
    assert hint.values["host"] == "a??b"
