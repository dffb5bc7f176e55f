"""What admins and members are handed before a move: their own services' steps, in both languages."""

from dataclasses import replace
from pathlib import Path

import pytest

from models.bilingual import LANGUAGES, Language
from models.providers import provider_named
from models.states import MemberState
from reports.letters import letter_texts
from reports.preparation import IN_ADVANCE
from reports.sheets import CHECKLIST, as_text, routes, sheets, write_sheets
from reports.summary import MemberSummary
from tests.reports.pages import read_page
from tests.reports.sample import sample_member


def member(number: int, source: str, target: str = "feishu", **more: object) -> MemberSummary:
    return replace(sample_member(number), source_provider=source, target_provider=target, **more)  # type: ignore[arg-type]


MEMBERS = [
    *(member(number, "exmail") for number in (1, 2, 3)),
    *(member(number, "netease_qiye") for number in (4, 5)),
    member(6, ""),
    member(7, "gmail", state=MemberState.REMOVED),
]


def test_the_ways_of_a_wave_are_counted_without_those_who_left_it() -> None:
    assert [(way.source.name, way.target.name, way.members) for way in routes(MEMBERS)] == [
        ("exmail", "feishu", 3),
        ("netease_qiye", "feishu", 2),
        ("anybody", "feishu", 1),
    ]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_admins_sheet_says_what_to_allow_at_both_ends_and_the_check_list(language: Language) -> None:
    admin = sheets("first", routes(MEMBERS), language)[0]
    text = as_text(admin)
    for name in ("feishu", "netease_qiye"):
        provider = provider_named(name)
        assert provider.admin_steps
        for kind in provider.admin_steps:
            assert all(step.in_language(language) in text for step in provider.steps[kind])
    assert all(letter_texts()[name].in_language(language) in text for name in CHECKLIST)
    assert f"members-exmail.{language}.html" in text
    assert provider_named("feishu").steps["client_password"][0].in_language(language) not in text


@pytest.mark.parametrize("language", LANGUAGES)
def test_a_members_sheet_has_the_steps_of_the_old_service_and_of_the_new_one_and_of_no_other(
    language: Language,
) -> None:
    own = {sheet.name: as_text(sheet) for sheet in sheets("first", routes(MEMBERS), language)}
    assert set(own) == {"admin", "members-exmail", "members-netease_qiye", "members-anybody"}
    exmail, netease, feishu = (provider_named(name) for name in ("exmail", "netease_qiye", "feishu"))
    text = own["members-exmail"]
    wanted = [exmail.steps[kind] for kind in IN_ADVANCE["source"] if kind in exmail.steps]
    places = [text.index(steps[-1].in_language(language)) for steps in [*wanted, feishu.steps["client_password"]]]
    assert places == sorted(places)
    for steps in [*wanted, feishu.steps["client_password"]]:
        assert all(f"{number}. {step.in_language(language)}" in text for number, step in enumerate(steps, 1))
    assert netease.steps["lock"][0].in_language(language) not in text
    assert netease.steps["lock"][0].in_language(language) in own["members-netease_qiye"]
    assert feishu.steps["allow_clients"][0].in_language(language) not in text
    for name in ("any_client_password", "any_receive_range", "security_new", "meanwhile_password"):
        assert letter_texts()[name].in_language(language) in own["members-anybody"]


def test_members_who_go_to_different_services_get_different_sheets() -> None:
    names = [sheet.name for sheet in sheets("first", routes([member(1, "qq"), member(2, "qq", "lark")]), "en")]
    assert names == ["admin", "members-qq-feishu", "members-qq-lark"]


def test_the_pages_are_whole_and_their_links_lead_somewhere(tmp_path: Path) -> None:
    written = write_sheets("<script>alert(1)</script>", MEMBERS, tmp_path)
    assert len(written) == 2 * 2 * 4
    for file in written:
        if file.suffix == ".html":
            page = read_page(file.read_text(encoding="utf-8"))
            assert not page.faults
            assert not page.loading
            assert page.links
            assert all((tmp_path / link).is_file() for link in page.links)
    assert (tmp_path / "admin.en.html").is_file()
    # A wave without members has the admins' sheet.
    assert [file.name for file in write_sheets("empty", [], tmp_path / "empty")][::2] == [
        "admin.zh-CN.html",
        "admin.en.html",
    ]
