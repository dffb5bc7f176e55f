"""What an admin is shown of mail services, and what becomes of a file of one's own."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from console.cli import app
from console.outcome import Exit
from models.bilingual import LANGUAGES, Language
from models.providers import STEPS, providers, providers_of, providers_template, read_table, shipped, use_providers
from tasks.settings import settings

OWN = """
[corp]
title = { zh = "公司旧邮箱", en = "our old mail" }
like = "coremail"
imap = [{ host = "mail.corp.example", port = 1993 }]
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("BANJIA_HOME", str(tmp_path))
    settings.cache_clear()
    yield tmp_path
    settings.cache_clear()
    use_providers("", "")


def run(*arguments: str, language: Language = "en", code: int = Exit.DONE) -> str:
    settings.cache_clear()
    result = CliRunner(env={"BANJIA_LANGUAGE": language}).invoke(app, ["provider", *arguments])
    assert result.exit_code == code, result.output
    return result.output


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("name", [row.name for row in providers()])
def test_a_provider_is_shown_whole_in_both_languages(name: str, language: Language) -> None:
    shown = run("show", name, language=language)
    row = next(each for each in providers() if each.name == name)
    assert shown.startswith(f"{row.title.in_language(language)} ({name})")
    for server in (*row.imap, *row.smtp):
        assert str(server) in shown
    for kind, steps in row.steps.items():
        assert STEPS[kind][1].in_language(language) in shown
        for number, step in enumerate(steps, 1):
            assert f"{number}. {step.in_language(language)}" in shown
    for quirk in row.quirks:
        assert quirk.in_language(language) in shown


def test_the_list_has_every_provider_and_says_so_as_json() -> None:
    shown = run("list")
    document = json.loads(run("list", "--json"))
    assert [row["name"] for row in document["providers"]] == [row.name for row in providers()]
    assert all(row.name in shown for row in providers() if row.name != "anybody")
    one = json.loads(run("show", "企业微信", "--json"))
    assert one["name"] == "exmail"
    assert one["imap"][0] == {"host": "imap.exmail.qq.com", "port": 993, "security": "tls", "area": None}
    assert one["steps"]["receive_range"]["turn"] == "member"
    assert one["limits"]["logins_a_minute"] == 10


def test_a_provider_that_is_not_there_is_answered_with_its_neighbours() -> None:
    assert "exmail (Tencent Exmail)" in run("show", "exmial", code=Exit.USAGE)
    assert "exmail (腾讯企业邮箱)" in run("show", "exmial", language="zh-CN", code=Exit.USAGE)
    assert "?" not in run("show", "zzzz", code=Exit.USAGE)


def test_an_own_table_is_taken_from_the_home_or_from_where_the_setting_says(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("show", "corp", code=Exit.USAGE)
    (home / "providers.toml").write_text(OWN, encoding="utf-8")
    assert "mail.corp.example:1993" in run("show", "公司旧邮箱")
    elsewhere = home / "elsewhere.toml"
    elsewhere.write_text(OWN.replace("1993", "2993"), encoding="utf-8")
    monkeypatch.setenv("BANJIA_PROVIDERS", str(elsewhere))
    assert "mail.corp.example:2993" in run("show", "corp")
    elsewhere.write_text("[corp]\nport = 1\n", encoding="utf-8")
    assert "elsewhere.toml：[corp] title：必须填写" in run("list", language="zh-CN", code=Exit.USAGE)
    elsewhere.unlink()
    assert "elsewhere.toml" in run("list", code=Exit.USAGE)


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_template_changes_nothing_as_it_is_and_means_what_it_says_without_its_marks(language: Language) -> None:
    template = providers_template(language)
    assert run("template", language=language) == template
    assert read_table(template, "providers.toml") == {}
    lines = [line for line in template.split("\n") if line.startswith(("# [", "# ]", "#   {")) or " = " in line]
    table = read_table("\n".join(line.removeprefix("# ") for line in lines), "providers.toml")
    corp = next(row for row in providers_of(*shipped(), ("providers.toml", table)) if row.name == "corp")
    assert corp.largest_message == 52428800
    assert len(corp.steps["client_password"]) == 2
