"""The table of a check: who stands where, what members have in common, and when a server is away."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest

from models.bilingual import LANGUAGES
from models.causes import causes
from models.check import Finding, Look, Severity
from models.hints import Hint
from models.providers import provider_named
from models.receive_range import LimitedRange, Sign
from models.states import MemberState
from reports.check import (
    CheckedMember,
    check_document,
    groups,
    in_order,
    result,
    sentence_of,
    unreachable,
    with_findings,
)
from reports.render import render_report
from tests.reports.pages import read_page
from tests.reports.sample import sample_summary

M = MemberState
LOOK = Look(folders=2, messages=5, bytes=1000)


def member(name: str, *findings: Finding, look: Look | None = LOOK) -> CheckedMember:
    return CheckedMember(1, name, M.READY, "old.example", "new.example", look, None, findings)


AWAY = Finding("connect_failed", Severity.BLOCKS, "target")
WRONG = Finding("bad_credentials", Severity.BLOCKS, "source")
LARGE = Finding("too_large", Severity.WARNS, "target", {"n": 1, "limit": 1 << 20, "largest": 3 << 20})
THERE = Finding("target_not_empty", Severity.TELLS, "target", {"n": 2})


def test_who_needs_somebody_first_comes_first() -> None:
    members = [member("ready"), member("told", THERE), member("wrong", WRONG, LARGE), member("large", LARGE)]
    assert [m.email for m in in_order(members)] == ["wrong", "large", "told", "ready"]
    assert [m.ready for m in members] == [True, True, False, True]
    assert [m.clear for m in members] == [True, True, False, False]
    unmarked = Finding("no_special_use", Severity.TELLS, "target")
    assert member("told", unmarked, THERE).told == [THERE]
    assert result(members).en == "3 of 4 members can be moved; 1 needs somebody first."


def test_members_with_the_same_finding_stand_together_the_gravest_first() -> None:
    found = groups([member("a", LARGE, THERE), member("b", WRONG), member("c", LARGE)])
    assert [(g.name, [m.email for m in g.members]) for g in found] == [
        ("bad_credentials", ["b"]),
        ("too_large", ["a", "c"]),
        ("target_not_empty", ["a"]),
    ]


def test_each_provider_has_its_own_steps_and_each_side_its_own_advice() -> None:
    at_feishu = replace(member("a", replace(WRONG, side="target")), target_provider="feishu")
    elsewhere = member("b", replace(WRONG, side="target"))
    [group] = groups([at_feishu, elsewhere])
    assert [(cure.provider.name, [m.email for m in cure.members]) for cure in group.cures] == [("feishu", ["a"])]
    assert group.cures[0].steps
    assert group.kind.advice == causes()["bad_credentials"].at("target").advice
    assert groups([member("c", AWAY)])[0].kind.advice == causes()["connect_failed"].at("target").advice


def test_what_probably_lies_behind_it_stands_with_its_own_side() -> None:
    blank, swapped = Hint("password_blanks_at_ends"), Hint("user_of_other_side")
    both = [replace(WRONG, hint=blank), replace(WRONG, side="target", hint=swapped)]
    found = groups([member("a", *both), member("b", *both), member("c", WRONG)])
    told = {(group.side, text): [m.email for m in some] for group in found for text, some in group.hints}
    assert told == {("source", blank.text): ["a", "b"], ("target", swapped.text): ["a", "b"]}
    [first] = check_document([member("a", *both)])["members"]
    assert [each["hint"]["kind"] for each in first["findings"]] == ["password_blanks_at_ends", "user_of_other_side"]
    assert all(each["hint"]["zh-CN"] and each["hint"]["en"] for each in first["findings"])


def test_a_finding_says_its_numbers_in_both_languages() -> None:
    assert sentence_of(LARGE).en.endswith(": 1 message is beyond 1.0 MB; the largest has 3.0 MB")
    assert sentence_of(LARGE).zh.endswith("：1 封超过 1.0 MB，最大的 3.0 MB")
    assert sentence_of(THERE).en.endswith(": 2 messages")


@pytest.mark.parametrize(
    ("members", "away"),
    [
        ([member("a", AWAY), member("b", AWAY, WRONG)], True),
        ([member("a", AWAY), member("b")], False),
        ([member("a", AWAY)], False),
        ([member("a", WRONG), member("b", WRONG)], False),
        ([member("a", AWAY), member("b", Finding("connect_failed", Severity.BLOCKS, "source"))], False),
        ([], False),
    ],
)
def test_a_server_is_away_when_every_one_of_several_members_needs_it(members: list[CheckedMember], away: bool) -> None:
    assert unreachable(members) is away


def test_what_the_members_row_says_is_a_finding_too() -> None:
    limited = LimitedRange(Sign.AGE, 30)
    assert with_findings(LOOK, M.READY, None, None) == ()
    assert [f.name for f in with_findings(LOOK, M.READY, None, limited)] == ["receive_range"]
    assert [f.name for f in with_findings(None, M.QUEUED, None, None)] == ["not_checked"]
    closed = Finding("vault_closed", Severity.BLOCKS, "", {}, "closed")
    assert with_findings(None, M.FAILED, closed, None) == (closed,)
    look = Look(findings=(WRONG,))
    assert with_findings(look, M.NEEDS_PASSWORD, replace(WRONG, server_text="no"), None) == (WRONG,)
    other = replace(WRONG, side="target")
    assert with_findings(look, M.FAILED, other, None) == (other, WRONG)


def test_the_document_has_every_number_and_both_languages() -> None:
    document = check_document([member("a", LARGE), member("b", WRONG, look=None)])
    assert (document["ready"], document["not_ready"], document["messages"], document["bytes"]) == (1, 1, 5, 1000)
    assert [each["email"] for each in document["members"]] == ["b", "a"]
    assert document["findings"][0]["turn"]["en"]
    assert document["members"][1]["findings"][0]["detail"]["zh-CN"]


def test_page_member_page_and_roster_of_failures_have_both_sides_with_their_hints_and_steps(tmp_path: Path) -> None:
    person = next(each for each in sample_summary().members if each.email.startswith("sun.li"))
    blank, swapped = Hint("password_blanks_at_ends"), Hint("user_of_other_side")
    old = Finding("app_password_required", Severity.BLOCKS, "source", {}, "NO ERR.LOGIN.REQCODE", hint=blank)
    new = replace(WRONG, side="target", hint=swapped, server_text="NO [AUTHENTICATIONFAILED] no")
    check = replace(
        member(person.email, old, new),
        id=person.id,
        source_provider=person.source_provider,
        target_provider=person.target_provider,
    )
    person = replace(person, hint=blank, server_text=old.server_text)
    files = render_report(replace(sample_summary(), members=(person,), checks=(check,), events=()), tmp_path)
    failures = (
        next(csv.DictReader(io.StringIO(files.failures.read_text(encoding="utf-8-sig")))) if files.failures else {}
    )
    said = {side: causes()[found.name].at(side).advice for side, found in (("source", old), ("target", new))}
    steps = provider_named("feishu").steps_for("client_password")
    assert steps
    for language in LANGUAGES:
        wave = read_page((tmp_path / f"wave.{language}.html").read_text(encoding="utf-8")).text
        own = read_page((tmp_path / "members" / f"{person.id}.{language}.html").read_text(encoding="utf-8")).text
        for text in (blank.text, swapped.text, *said.values(), *steps):
            assert text is not None
            for place in (wave, own, failures["Fix"]):
                assert text.in_language(language) in place
        assert wave.count(said["source"].in_language(language)) == 1, "what the check says is said once"
