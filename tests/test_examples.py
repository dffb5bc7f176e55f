"""The examples that a test draws are the same each time, alone or after any other test of the same process."""

import importlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st


def test_examples_do_not_depend_on_what_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[tuple[int, str]] = []

    @given(st.integers(), st.text())
    def draw(number: int, text: str) -> None:
        drawn.append((number, text))

    draw()
    before = list(drawn)
    constants = ", ".join(f"{number}, 'canary {number}'" for number in range(700_000_000, 700_000_400))
    (tmp_path / "full_of_constants.py").write_text(f"VALUES = [{constants}]\n")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.import_module("full_of_constants")
    drawn.clear()
    draw()
    assert drawn == before
