"""`banjia wave unknown`: what no rule knows, as rules; and rules of an admin's own."""

import contextlib
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.demo.imap_server import Action, Fault
from imapcopy.answers import add_own_rules
from imapcopy.errors import MigrationError
from models import lifecycle
from tasks.migrate_member import check_member, migrate_member
from tests.console.conftest import CommandLine
from tests.tasks.conftest import forget_everything
from tests.tasks.office import Enrolled, Office

WORDS = "The seat of wang@old.example has been parked (case 48120)"
OWN = """
[[answer]]
id = "own-parked"
regex = "seat of .* has been parked"
cause = "account_locked"
samples = ["NO The seat of x has been parked"]
"""


@pytest.fixture(autouse=True)
def _without_own_rules() -> Iterator[None]:
    yield
    add_own_rules(())


def run(enrolled: Enrolled) -> None:
    kept = enrolled.store
    for due in lifecycle.start_wave(kept.engine, "first", parked_too=True):
        with contextlib.suppress(MigrationError):
            migrate_member.fn(due.id, due.email)
    lifecycle.finish_wave(kept.engine, "first")


@pytest.fixture
def parked(office: Office, banjia: CommandLine, monkeypatch: pytest.MonkeyPatch) -> Enrolled:
    """wang's old server refuses with words that nobody knows, and li's new one refuses a message in such words."""
    monkeypatch.setenv("BANJIA_RETRY_DELAYS", "[]")
    for name in ("li", "wang"):
        office.add(name)
    enrolled = Enrolled(office)
    for verb in ("LOGIN", "AUTHENTICATE"):
        office.old.behaviour.faults.append(Fault(verb, Action.NO, account="wang@old.example", text=WORDS, times=None))
    office.new.behaviour.refuse_message = lambda raw: "Flumwex 4471" if b"Subject: 1\r\n" in raw else None
    run(enrolled)
    return enrolled


def test_unknown_answers_are_printed_as_rules_without_names(parked: Enrolled, banjia: CommandLine) -> None:
    ended = banjia("wave", "unknown", "first")
    assert ended.code == 0
    rules = tomllib.loads(ended.stdout)["answer"]
    assert {rule["samples"][0] for rule in rules} == {
        "NO The seat of <address> has been parked (case <number>)",
        "NO Flumwex <number>",
    }
    assert "wang" not in ended.stdout + ended.stderr
    document = banjia("wave", "unknown", "first", "--json").document
    told = {each["stage"]: each for each in document["unknown_answers"]}
    assert (told["login"]["side"], told["login"]["taken_for"]) == ("source", "ambiguous_login")
    assert (told["append"]["side"], told["append"]["count"]) == ("target", 1)
    status = banjia("wave", "failures", "first")
    assert "banjia wave unknown first" in status.stderr


def test_an_admins_rules_are_known_from_the_next_command_on(
    parked: Enrolled, banjia: CommandLine, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "answers.toml").write_text(OWN, encoding="utf-8")
    forget_everything()
    run(parked)
    assert parked.member("wang").cause == "account_locked"
    assert parked.member("wang").known_by == "login:own-parked"
    left = banjia("wave", "unknown", "first", "--json").document["unknown_answers"]
    assert [each["answer"] for each in left] == ["NO Flumwex <number>"]


@pytest.mark.parametrize(
    ("language", "told"), [("en", "answer 1 (own-parked), cause"), ("zh-CN", "第 1 条 (own-parked)，cause")]
)
def test_a_mistake_in_them_is_told_with_row_and_field_and_nothing_is_started(
    banjia: CommandLine, home: Path, monkeypatch: pytest.MonkeyPatch, language: str, told: str
) -> None:
    file = home / "mine.toml"
    home.mkdir(exist_ok=True)
    file.write_text(OWN.replace("account_locked", "acount_locked"), encoding="utf-8")
    monkeypatch.setenv("BANJIA_ANSWERS", str(file))
    monkeypatch.setenv("BANJIA_LANGUAGE", language)
    forget_everything()
    ended = banjia("wave", "unknown", "first")
    assert ended.code == 2
    assert told in ended.stderr
    assert "mine.toml" in ended.stderr
    assert "account_locked" in ended.stderr


def test_what_a_check_is_answered_on_either_side_is_listed(
    office: Office, banjia: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANJIA_RETRY_DELAYS", "[]")
    for name in ("li", "wang"):
        office.add(name)
    office.old.account("li@old.example").create("Wages").deliver(b"Subject: 5\r\n\r\nHello\r\n")
    faults = office.old.behaviour.faults
    faults.append(Fault("EXAMINE", Action.NO, containing="Wages", text="Wages is quibbled", times=None))
    office.old.behaviour.login_refusals = {"wang@old.example": WORDS}
    office.new.behaviour.login_refusals = {"wang@new.example": "Flumwex 4471"}
    enrolled = Enrolled(office)
    kept = enrolled.store
    for due in lifecycle.start_check(kept.engine, "first"):
        with contextlib.suppress(MigrationError):
            check_member.fn(due.id, due.email)
    lifecycle.finish_wave(kept.engine, "first", checked_only=True)
    told = banjia("wave", "unknown", "first", "--json").document["unknown_answers"]
    assert sorted((each["answer"], each["stage"], each["side"], each["members"], each["count"]) for each in told) == [
        ("NO <name> is quibbled", "select", "source", 1, 1),
        ("NO Flumwex <number>", "login", "target", 1, 1),
        ("NO The seat of <address> has been parked (case <number>)", "login", "source", 1, 1),
    ]


def test_a_wave_without_unknown_answers_says_so(office: Office, banjia: CommandLine) -> None:
    office.add("li")
    run(Enrolled(office))
    ended = banjia("wave", "unknown", "first")
    assert (ended.code, ended.stdout) == (0, "")
    assert "There is no answer that is not known." in ended.stderr
