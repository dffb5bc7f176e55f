"""What the documentation says is what the program has: every command, setting, roster column, cause and link."""

import re
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.core import TyperGroup

from console.cli import app
from models.causes import OWNERS, Cause, causes
from models.providers import ANYBODY, STEPS, Provider, providers
from models.roster import COLUMNS, Column
from models.roster_policy import RosterPolicy
from reports.summary import MessageCounts, grade
from reports.texts import alterations
from tasks.credentials import SignIn
from tasks.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
OPERATING = (ROOT / "docs" / "operating.md").read_text(encoding="utf-8")


def _commands(group: Any, path: str = "banjia") -> list[str]:
    found = []
    for name, command in group.commands.items():
        if isinstance(command, TyperGroup):
            found += _commands(command, f"{path} {name}")
        else:
            found.append(f"{path} {name}")
    return found


@pytest.mark.parametrize("command", _commands(typer.main.get_command(app)))
def test_every_command_is_documented(command: str) -> None:
    parent, _, last = command.rpartition(" ")
    assert command in OPERATING or re.search(rf"`{parent} \w+`.*`{last}`", OPERATING)


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_is_documented_with_its_meaning(name: str) -> None:
    assert f"| `BANJIA_{name.upper()}` |" in OPERATING
    assert str(Settings.model_fields[name].description) in OPERATING


@pytest.mark.parametrize("name", SignIn.model_fields)
def test_every_key_of_signing_in_is_documented_with_its_meaning(name: str) -> None:
    assert f"| `{name}` | {SignIn.model_fields[name].description} |" in OPERATING


@pytest.mark.parametrize("name", RosterPolicy.model_fields)
def test_every_key_of_the_policy_is_documented_with_its_meaning(name: str) -> None:
    assert f"| `{name}` | {RosterPolicy.model_fields[name].description} |" in OPERATING


def test_no_setting_is_documented_that_does_not_exist() -> None:
    named = set(re.findall(r"`BANJIA_([A-Z_]+)", "".join(page.read_text(encoding="utf-8") for page in PAGES)))
    assert {name.lower() for name in named} <= set(Settings.model_fields)


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_every_roster_column_is_documented(column: Column) -> None:
    assert f"| `{column.name}` |" in OPERATING


@pytest.mark.parametrize("cause", causes().values(), ids=lambda cause: cause.id)
def test_every_cause_is_documented_as_it_is(cause: Cause) -> None:
    rows = (ROOT / "docs" / "causes.md").read_text(encoding="utf-8").split("\n")
    row = next(line for line in rows if f"`{cause.id}`" in line)
    for text in (cause.title.zh, cause.title.en, OWNERS[cause.owner].en, "yes" if cause.retryable else "no"):
        assert f"| {text} |" in row


@pytest.mark.parametrize("row", [row for row in providers() if row.name != ANYBODY], ids=lambda row: row.name)
def test_every_mail_service_is_documented_with_the_steps_that_are_known(row: Provider) -> None:
    lines = (ROOT / "docs" / "providers.md").read_text(encoding="utf-8").split("\n")
    line = next(line for line in lines if line.startswith(f"| `{row.name}` |"))
    server = f"`{row.imap[0].host}`" if row.imap else "the customer's own"
    steps = ", ".join(kind for kind in STEPS if kind in row.steps) or "–"
    assert f"| {row.title.zh} | {row.title.en} | {server}" in line
    assert line.endswith(f"| {steps} |")


def test_every_difference_that_re_reading_finds_is_listed_with_the_grade_that_it_leaves() -> None:
    """No difference is passed over: the mildest takes the best grade away."""
    listed = dict(re.findall(r"^\| `(\w+)` \| (Perfect|Good|Investigate|Poor) \|", OPERATING, re.MULTILINE))
    counts = MessageCounts(source=1000, copied=1000)
    assert listed == {name: grade(counts, {name: 1}).name.title() for name in alterations()}
    assert "Perfect" not in listed.values()
    assert listed["doubled"] == "Investigate"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_test_that_the_documentation_names_exists() -> None:
    """Named as `file.py::test`, with the folder under tests/ unless that is imapcopy/."""
    named = set(re.findall(r"`([\w/]+\.py)::(test_\w+)`", "".join(page.read_text(encoding="utf-8") for page in PAGES)))
    assert len(named) > 80
    for file, test in sorted(named):
        path = ROOT / "tests" / (file if "/" in file else f"imapcopy/{file}")
        assert re.search(rf"^def {test}\(", path.read_text(encoding="utf-8"), re.MULTILINE), f"{file}::{test}"


def test_the_quirks_of_every_personality_are_listed() -> None:
    listed = (ROOT / "docs" / "services.md").read_text(encoding="utf-8")
    quirks = re.findall(r"`test_personalities\.py::(test_\w+)`", listed)
    written = (ROOT / "tests" / "imapcopy" / "test_personalities.py").read_text(encoding="utf-8")
    assert set(re.findall(r"^def (test_\w+)\(", written, re.MULTILINE)) - {
        "test_a_personality_is_data_with_an_origin"
    } == set(quirks)


def test_the_map_of_the_house_is_the_house() -> None:
    folders = re.findall(r"^(\w+)/ ", (ROOT / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert all((ROOT / folder).is_dir() for folder in folders)
    assert {"console", "flows", "tasks", "imapcopy", "reports", "models", "deployments", "tests", "docs"} <= set(
        folders
    )
