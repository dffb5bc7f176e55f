"""File names for hostile, endless and similar texts: harmless everywhere, each text its own."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.file_names import LONGEST, file_names


@pytest.mark.parametrize("text", ["INBOX", "已发送", "lin@old.example", "Work 2023", "é", "v1.2"])
def test_what_is_harmless_stays_as_it_is(text: str) -> None:
    assert file_names([text]) == {text: text}


@pytest.mark.parametrize(
    ("text", "begins"),
    [
        ("../../etc/passwd", "_.._etc_passwd-"),
        ("/root", "_root-"),
        ("..", "_-"),
        ("", "_-"),
        ("a/b\\c", "a_b_c-"),
        ("CON", "_CON-"),
        ("lpt1.txt", "_lpt1.txt-"),
        ("-rf", "_-rf-"),
        ("a\0b\nc\u202ed", "a_b_c_d-"),
        ("end. . ", "end-"),
        ("长" * 200, "长" * (LONGEST // 3) + "-"),
    ],
)
def test_what_is_not_harmless_gets_a_form_that_is(text: str, begins: str) -> None:
    name = file_names([text])[text]
    assert name.startswith(begins)
    assert len(name) > len(begins)


def test_names_that_differ_only_in_case_are_two_files_everywhere() -> None:
    found = file_names(["Trash", "trash", "é", "e\u0301", "Work"])
    assert len({name.casefold() for name in found.values()}) == 5
    assert found["Work"] == "Work"


@given(st.lists(st.text(), unique=True, max_size=8))
def test_any_texts_get_names_of_their_own(texts: list[str]) -> None:
    found = file_names(texts)
    assert len({name.casefold() for name in found.values()}) == len(texts)
    for name in found.values():
        assert name not in ("", ".", "..")
        assert not set(name) & set('/\\:*?"<>|\0\n')
        assert len(name.encode()) <= LONGEST + 12
