"""What is to be clicked stands beside its cause: for each provider its own steps, and nobody else's."""

import csv
import io
import json
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from console.outcome import print_causes
from models.bilingual import LANGUAGES, Language
from models.causes import cause
from models.providers import provider_named
from reports.export import document_bytes, failures_csv, summary_document, wave_csv
from reports.render import render_report
from reports.steps import services_sentence
from reports.summary import CauseGroup, MemberSummary, WaveSummary
from tests.reports.pages import read_page
from tests.reports.sample import sample_later_summary, sample_member, sample_summary

GORAN, LIU, SUN = 9, 11, 12
"""IMAP is off for the first two, at two providers; the third needs a client password."""


def group(summary: WaveSummary, name: str) -> CauseGroup:
    return next(each for each in summary.causes if each.cause.id == name)


def refused(number: int, **more: str) -> MemberSummary:
    return replace(sample_member(number), cause=cause("app_password_required"), **more)  # type: ignore[arg-type]


def test_members_of_one_cause_get_the_steps_of_their_own_providers() -> None:
    found = group(sample_summary(), "imap_disabled")
    assert [(cure.provider.name, [m.id for m in cure.members]) for cure in found.cures] == [
        ("exmail", [GORAN]),
        ("netease_qiye", [LIU]),
    ]
    for cure in found.cures:
        assert cure.steps == provider_named(cure.provider.name).steps["imap"]
    assert found.without_steps == ()


def test_the_provider_with_most_members_comes_first_and_members_of_unknown_ones_keep_the_advice() -> None:
    members = (
        refused(9, source_provider="exmail", cause_side="source"),
        refused(11, source_provider="netease_163", cause_side="source"),
        refused(12, source_provider="netease_163", cause_side="source"),
        refused(10, source_provider="", cause_side="source"),
        refused(14, source_provider="gone_from_the_table", cause_side="source"),
    )
    found = group(replace(sample_summary(), members=members), "app_password_required")
    assert [cure.provider.name for cure in found.cures] == ["netease_163", "exmail"]
    assert [m.id for m in found.without_steps] == [10, 14]


def test_what_the_new_side_refuses_is_cured_at_the_new_side() -> None:
    member = refused(9, source_provider="exmail", cause_side="target")
    assert member.cured_at(cause("app_password_required")).name == "feishu"
    assert member.steps_against(cause("app_password_required")) == provider_named("feishu").steps["client_password"]


def test_where_members_have_no_switch_for_imap_the_admins_is_shown() -> None:
    member = replace(sample_member(9), cause_side="target")
    assert member.steps_against(cause("imap_disabled")) == provider_named("feishu").steps["allow_clients"]


def test_a_limited_range_is_widened_where_the_mail_comes_from() -> None:
    summary = sample_later_summary()
    assert summary.limited is not None
    [cure] = summary.limited.cures
    assert cure.provider.name == "aliyun_qiye"
    # Also where the member's own cause lies with the new side.
    failing = replace(summary.limited.members[0], cause=cause("over_quota"), cause_side="target")
    assert failing.steps_against(cause("receive_range")) == cure.steps


@pytest.mark.parametrize("language", LANGUAGES)
def test_page_and_terminal_show_the_steps_as_numbered_clicks(tmp_path: Path, language: Language) -> None:
    summary = sample_later_summary()
    render_report(summary, tmp_path)
    wave = read_page((tmp_path / f"wave.{language}.html").read_text(encoding="utf-8"))
    member = read_page((tmp_path / "members" / f"{SUN}.{language}.html").read_text(encoding="utf-8"))
    out = io.StringIO()
    print_causes(summary, Console(file=out, width=1000), language)
    netease, exmail, alibaba = (provider_named(name) for name in ("netease_qiye", "exmail", "aliyun_qiye"))
    for provider, kind in (
        (exmail, "imap"),
        (netease, "imap"),
        (netease, "client_password"),
        (alibaba, "receive_range"),
    ):
        for number, step in enumerate(provider.steps[kind], 1):
            assert step.in_language(language) in wave.text
            assert f"{number}. {step.in_language(language)}" in out.getvalue()
        assert provider.title.in_language(language) in wave.text
        assert provider.title.in_language(language) in out.getvalue()
    assert netease.steps["client_password"][2].in_language(language) in member.text
    assert netease.title.in_language(language) in member.text
    assert provider_named("feishu").title.in_language(language) in member.text
    assert exmail.steps["imap"][0].in_language(language) not in member.text
    assert not wave.faults
    assert not member.faults


@pytest.mark.parametrize(
    ("language", "told"),
    [
        ("zh-CN", "旧邮箱：网易企业邮箱 2、阿里邮箱（企业版） 1、腾讯企业邮箱 1、未知 17；新邮箱：飞书邮箱 21。"),
        (
            "en",
            "Old mailboxes: NetEase enterprise mail 2, Alibaba Mail 1, Tencent Exmail 1, unknown 17; "
            "new ones: Feishu Mail 21.",
        ),
    ],
)
def test_the_report_counts_the_services(tmp_path: Path, language: Language, told: str) -> None:
    render_report(sample_summary(), tmp_path)
    assert told in read_page((tmp_path / f"wave.{language}.html").read_text(encoding="utf-8")).text


def test_a_wave_of_unknown_services_says_nothing_of_them() -> None:
    assert services_sentence([refused(9, source_provider="", target_provider="")]) is None


def test_the_json_and_the_tables_say_the_same() -> None:
    summary = sample_summary()
    document = json.loads(document_bytes(summary_document(summary)))
    steps = [step.as_dict() for step in provider_named("netease_qiye").steps["client_password"]]
    [sun] = [each for each in document["members"] if each["id"] == SUN]
    assert sun["source"]["provider"] == "netease_qiye"
    assert sun["target"]["provider"] == "feishu"
    assert sun["steps"] == {language: [step[language] for step in steps] for language in LANGUAGES}
    [told] = [each for each in document["causes"] if each["cause"] == "app_password_required"]
    assert told["cures"][0] == {
        "provider": "netease_qiye",
        "title": {"zh-CN": "网易企业邮箱", "en": "NetEase enterprise mail"},
        "steps": sun["steps"],
        "members": ["sun.li@new.example"],
    }
    rows = csv.DictReader(io.StringIO((failures_csv(summary, {}) or b"").decode("utf-8-sig")))
    fix = next(row["Fix"] for row in rows if row["EmailAddress"] == "sun.li@new.example")
    for number, step in enumerate(steps, 1):
        assert f"{number}. {step['zh-CN']}" in fix
        assert f"{number}. {step['en']}" in fix
    table = {row["Email"]: row for row in csv.DictReader(io.StringIO(wave_csv(summary).decode("utf-8-sig")))}
    assert table["sun.li@new.example"]["SourceProvider"] == "netease_qiye"
    assert table["li.na@new.example"]["SourceProvider"] == ""
