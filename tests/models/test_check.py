"""Findings: what follows from a look, what is said of each, and how a look is kept."""

from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from models.causes import OWNERS, causes
from models.check import Circumstances, Finding, Look, MemberCheck, Severity, finding_names, findings, kind, note_check
from models.database import reading
from models.hints import Hint
from models.member import LeaseLost, take_lease
from tests.models.company import Company

AT = datetime(2026, 5, 1, 12, tzinfo=UTC)
FULL = Look(
    folders=3,
    messages=10,
    bytes=5000,
    largest=900,
    oldest=AT,
    newest=AT,
    limit=800,
    limit_of="server",
    too_large=1,
    there=4,
    target_quota=(10, 20),
    findings=(
        Finding("too_large", Severity.WARNS, "target", {"n": 1, "limit": 800, "largest": 900}, "words"),
        Finding("dns_error", Severity.BLOCKS, "source", where="li", hint=Hint("user_blanks"), known_by="connect:x"),
    ),
)


@pytest.mark.parametrize("look", [Look(), FULL])
def test_a_look_is_read_back_as_it_was_kept(look: Look) -> None:
    assert Look.read(look.document()) == look


def test_a_look_of_another_version_is_no_look() -> None:
    assert Look.read('{"version": 99, "folders": 1}') is None


def test_a_finding_that_an_earlier_version_kept_is_read() -> None:
    kept = '"name": "no_mail", "severity": "warns", "side": "source", "values": {}, "server_text": ""'
    told = FULL.document().rpartition('"findings": ')[0] + f'"findings": [{{{kept}}}]}}'
    look = Look.read(told)
    assert look is not None
    assert look.findings == (Finding("no_mail", Severity.WARNS, "source"),)


def test_one_side_alone_says_nothing_of_how_both_fit_together() -> None:
    seen = Circumstances(sides_read=False, renamed=3, left_out=3, roles_wanted=True, roles_marked=False)
    assert [f.name for f in findings(FULL, seen)] == ["too_large"]
    assert [f.name for f in findings(FULL, Circumstances())] == ["over_quota", "too_large", "target_not_empty"]


@pytest.mark.parametrize(
    ("read", "written", "told"),
    [(None, None, []), (6000, None, []), (2000, 1000, [("target", 6)]), (1000, 2000, [("source", 6)])],
)
def test_a_mailbox_beyond_a_daily_limit_is_told_with_the_days_of_the_slower_side(
    read: int | None, written: int | None, told: list[tuple[str, int]]
) -> None:
    found = findings(Look(folders=1, messages=1, bytes=5000), Circumstances(read_a_day=read, written_a_day=written))
    assert [(each.side, each.values["days"]) for each in found if each.name == "daily_limit"] == told


@pytest.mark.parametrize("name", finding_names())
def test_every_finding_has_a_cure_and_somebodys_turn(name: str) -> None:
    found = kind(name)
    assert found.owner in OWNERS
    assert all(text.zh and text.en for text in (found.title, found.advice))


def test_a_finding_with_the_name_of_a_cause_says_what_the_cause_says() -> None:
    assert kind("over_quota").advice == causes()["over_quota"].advice
    assert kind("over_quota").detail is not None
    assert kind("of a later version").title == causes()["unclassified"].title


def test_a_check_takes_the_place_of_the_one_before_and_needs_the_lease(engine: Engine, company: Company) -> None:
    member = company.add("a@new.example")
    token = take_lease(engine, member)
    note_check(engine, member, token, Look(folders=1))
    note_check(engine, member, token, FULL)
    with reading(engine) as session:
        row = session.get_one(MemberCheck, member)
    assert Look.read(row.document) == FULL
    with pytest.raises(LeaseLost):
        note_check(engine, member, token - 1, Look())


def test_a_login_of_the_other_mailbox_is_suspected_on_each_side(engine: Engine, company: Company) -> None:
    for number in range(3):
        company.add(f"m{number}@new.example", user_name=f"m{number}@old.example")
    member = company.add("li@old.example", user_name="li@new.example")
    refused = tuple(Finding("bad_credentials", Severity.BLOCKS, side) for side in ("source", "target"))
    away = Finding("dns_error", Severity.BLOCKS, "source")
    note_check(engine, member, take_lease(engine, member), Look(findings=(*refused, away)))
    with reading(engine) as session:
        look = Look.read(session.get_one(MemberCheck, member).document)
    assert look is not None
    swapped = Hint("user_of_other_side")
    assert [found.hint for found in look.findings] == [swapped, swapped, None]
