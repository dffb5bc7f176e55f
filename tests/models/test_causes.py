"""The causes: whole, in both languages, and every one that the code names exists."""

import ast
import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from models.causes import OWNERS, Owner, Reach, cause, causes
from models.lifecycle import SIGN_IN_CAUSES

ROOT = Path(__file__).parents[2]
CODE = [
    file
    for folder in ("imapcopy", "models", "tasks", "flows", "reports", "console")
    for file in (ROOT / folder).glob("*.py")
]
# Where a cause is named: the first argument of our errors, or of an issue its second; and what is compared with one.
ERRORS = {
    "MessageError",
    "FolderError",
    "MemberError",
    "ServerError",
    "ConnectionLost",
    "error_of_reach",
    "MigrationError",
}


def named_causes(source: str) -> set[str]:
    """Ids of causes that stand in a piece of code as string literals."""
    found: list[ast.expr] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if name in ERRORS:
                found += node.args[:1]
            elif name == "GivenUp":
                found += node.args[1:2]
            elif name == "cause":
                found += node.args[:1]
        elif isinstance(node, ast.Compare) and re.search(r"\bcause(_id|\.id)?$", ast.unparse(node.left)):
            found += node.comparators
    return {
        part.value
        for each in found
        for part in ast.walk(each)
        if isinstance(part, ast.Constant) and isinstance(part.value, str)
    }


def test_the_search_finds_causes_where_they_are_named() -> None:
    code = 'raise MemberError("a" if x else "b", side)\nGivenUp(1, "c")\nif error.cause_id == "d": cause("e")\nf("g")'
    assert named_causes(code) == {"a", "b", "c", "d", "e"}


def test_every_cause_that_the_code_names_exists() -> None:
    named = {name for file in CODE for name in named_causes(file.read_text(encoding="utf-8"))}
    assert len(named) > 8
    assert named - set(causes()) == set()
    assert set(causes()) >= SIGN_IN_CAUSES


def test_every_cause_that_an_answer_is_read_as_exists() -> None:
    rows = tomllib.loads((ROOT / "imapcopy" / "answers.toml").read_text(encoding="utf-8"))["answer"]
    assert {row["cause"] for row in rows} - set(causes()) == set()


@pytest.mark.parametrize("name", sorted(causes()))
def test_a_cause_says_in_both_languages_what_it_is_and_what_to_do(name: str) -> None:
    found = causes()[name]
    assert found.id == name
    assert found.owner in get_args(Owner)
    assert found.reach in get_args(Reach)
    for text in (found.title, found.advice):
        assert re.search("[\u4e00-\u9fff]{2}", text.zh), text
        assert not re.search("[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]", text.en), text
        assert text.en.strip()
    for sentence in (found.advice.zh, found.advice.en):
        assert sentence.rstrip().endswith(("。", ".")), sentence


def test_titles_are_told_apart() -> None:
    for titles in ([c.title.zh for c in causes().values()], [c.title.en for c in causes().values()]):
        assert len(set(titles)) == len(titles)


def test_every_owner_has_a_name_in_both_languages() -> None:
    assert set(OWNERS) == set(get_args(Owner))
    assert all(text.zh and text.en.isascii() for text in OWNERS.values())


def test_a_cause_of_a_later_version_reads_as_unclassified() -> None:
    assert cause("invented_in_2031").id == "unclassified"
