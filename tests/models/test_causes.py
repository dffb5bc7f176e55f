"""The causes: whole, in both languages, and every one that the code names exists."""

import ast
import re
import tomllib
from pathlib import Path
from typing import get_args

import pytest

from models.causes import OWNERS, SIDES, Cause, Owner, Reach, cause, causes
from models.lifecycle import SIGN_IN_CAUSES
from models.providers import STEPS
from models.roster_columns import COLUMNS

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


EVERY = [(name, side, causes()[name].at(side)) for name in sorted(causes()) for side in ("", *SIDES)]
OF_MESSAGES_AND_FOLDERS = {name for name, each in causes().items() if each.reach in {"message", "folder"}}
SOURCE_ONLY = OF_MESSAGES_AND_FOLDERS | {"receive_range", "over_quota", "no_folders"}
"""Causes whose advice may speak of the old mailbox: the message stays there, or it is about it alone."""


@pytest.mark.parametrize(("name", "side", "found"), EVERY, ids=[f"{name} {side}" for name, side, _ in EVERY])
def test_advice_is_whole_on_either_side_and_speaks_of_what_there_is(name: str, side: str, found: Cause) -> None:
    zh, en = found.advice.zh, found.advice.en
    assert zh.endswith("。")
    assert en.endswith(".")
    assert not re.search(r"[\u4e00-\u9fff][,:;!?()]|[,:;!?()][\u4e00-\u9fff]", zh)
    assert not re.search(r"点“|点击|按钮|\bpress\b|\bclick\b|\bbutton\b", zh + en), "there are no buttons"
    for command in re.findall(r"banjia (?:wave|vault|roster) \w+", en):
        assert command in zh
    for column in re.findall(r"\b(?:Source|Target|Exclude|User|Email)[A-Z]\w+", zh + en):
        assert column in {each.name for each in COLUMNS}
    if name not in SOURCE_ONLY:
        assert not re.search("源邮箱|旧邮箱|原邮箱|旧服务", zh), "it may happen in the new mailbox"
        assert not re.search(r"\bold (mailbox|server|service)|\bsource\b", en)


@pytest.mark.parametrize("name", sorted(causes()))
def test_what_is_the_admins_turn_says_what_to_do(name: str) -> None:
    found = causes()[name]
    if found.owner in {"member", "admin"}:
        assert not found.advice.zh.endswith("无需处理。") or "如果" in found.advice.zh
    if found.owner == "nobody":
        assert not re.match("请", found.advice.zh)
    assert not found.step or found.step in STEPS


@pytest.mark.parametrize("name", sorted(causes()))
def test_a_retry_waits_and_ends(name: str) -> None:
    retry = causes()[name].retry
    assert retry is None or (0 < retry.first <= retry.most <= 4 * 3600 and 1 <= retry.tries <= 20)


def test_what_a_server_asks_to_wait_for_is_waited_for_longest() -> None:
    """Tried again fast, a login that was too frequent becomes a blocked company."""
    of = {
        name: causes()[name].retry
        for name in ("timeout", "mailbox_unavailable", "login_throttled", "bandwidth_exceeded")
    }
    pauses = [retry.first for retry in of.values() if retry]
    assert pauses == sorted(pauses)
    assert len(pauses) == 4
    assert causes()["login_throttled"].reach == "host"


def test_a_full_new_mailbox_and_a_full_old_one_are_mended_at_different_places() -> None:
    full = cause("over_quota")
    assert full.at("target") is full
    assert full.at("source").advice != full.advice
    assert cause("imap_disabled").at("target").owner == "admin"
    assert cause("bad_credentials").at("target").id == "bad_credentials"
