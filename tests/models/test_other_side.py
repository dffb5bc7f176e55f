"""The new address typed where the old one is due, told from companies that keep their domain."""

import pytest

from models.other_side import is_of_the_other_side

OLD = [f"{name}@old.example" for name in ("li", "wang", "zhao", "sun")]
NEW = [f"{name}@new.example" for name in ("li", "wang", "zhao", "sun")]


@pytest.mark.parametrize(
    ("login", "own", "other", "swapped"),
    [
        ("lin@new.example", OLD, NEW, True),
        ("lin@NEW.example", OLD, NEW, True),
        ("lin@old.example", OLD, NEW, False),
        ("lin@new.example", NEW, NEW, False),
        ("lin@new.example", [*OLD, "boss@new.example"], NEW, False),
        ("lin", OLD, NEW, False),
        ("lin@new.example", ["li", "wang", "zhao"], NEW, True),
        ("lin@new.example", OLD[:2], NEW[:2], False),
        ("lin@new.example", [], [], False),
        ("lin", OLD, ["li", "wang", "zhao"], False),
    ],
)
def test_the_others_of_the_wave_tell(login: str, own: list[str], other: list[str], swapped: bool) -> None:
    assert is_of_the_other_side(login, own, other) is swapped
