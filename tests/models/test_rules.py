"""The admin's rules: read from a file, and every mistake in it told by line and key."""

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bilingual import LANGUAGES, Language
from models.rules import FolderRules, Rules, RulesMistaken, fits, parse_rules, rules_template


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_template_parses_and_changes_nothing(language: Language) -> None:
    assert parse_rules(rules_template(language), alone=True) == Rules()


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_example_of_the_template_can_be_put_in_force(language: Language) -> None:
    """Taken out of their comments, the examples are rules."""
    text = re.sub(r"^# (?='.*' = '[^'、]*'$)", "", rules_template(language), flags=re.MULTILINE)
    found = parse_rules(text, alone=True)
    assert found.folders.rename
    assert set(found.folders.roles.values()) == {"sent"}


def test_all_rules_are_read() -> None:
    text = """
[folders]
only = ["INBOX", "Work"]
include = ['\\Virus']
exclude = ["Temp/*"]
[folders.rename]
"Projects/Old" = "/Archive/Projects/"
[folders.roles]
"发信" = "Sent"
[messages]
repair = "refused"
[report]
subjects = "hidden"
"""
    assert parse_rules("target_host = 'imap.example'\n" + text) == Rules(
        FolderRules(
            ("INBOX", "Work"), ("\\Virus",), ("Temp/*",), {"Projects/Old": "Archive/Projects"}, {"发信": "sent"}
        ),
        "refused",
        "hidden",
    )


@pytest.mark.parametrize(
    ("text", "line", "key", "says"),
    [
        ("[folders]\n\nexlude = ['A']", 3, "folders.exlude", "only, include, exclude"),
        ("[folders]\nexclude = 'A'", 2, "folders.exclude", "list"),
        ("[folders]\nexclude = ['A', 3]", 2, "folders.exclude", "list"),
        ("[folders]\nexclude = ['\\\\Spam']", 2, "folders.exclude", "\\Junk"),
        ("[folders]\n[folders.roles]\n'A B' = 'inbox'", 3, "folders.roles.A B", "junk"),
        ("[folders.rename]\n'A' = ''", 2, "folders.rename.A", "Projects"),
        ("folders = 3", 1, "folders", "[folders]"),
        ("[folders]\nrename = ['A']", 2, "folders.rename", "[folders.rename]"),
        ("[messages]\nrepair = true", 2, "messages.repair", "refused"),
        ("[report]\nsubjects = false", 2, "report.subjects", "hidden"),
        ("[messages]\nrepairs = 'never'", 2, "messages.repairs", "repair"),
        ("[folder]\nexclude = []", 1, "folder", "folders, messages, report"),
        ("[folders]\nexclude = [\n'A'\nB]", 4, "", "quotes"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_its_cure(text: str, line: int, key: str, says: str) -> None:
    with pytest.raises(RulesMistaken) as caught:
        parse_rules(text, "rules.toml", alone=True)
    [mistake] = caught.value.mistakes
    assert (mistake.line, mistake.key) == (line, key)
    assert says in mistake.fix.en
    told = caught.value.told
    assert f"rules.toml, line {line}" in told.en
    assert f"rules.toml 第 {line} 行" in told.zh
    assert not re.search(r"[\u4e00-\u9fff][,:;!?()]", told.zh)


def test_all_mistakes_are_told_at_once() -> None:
    with pytest.raises(RulesMistaken) as caught:
        parse_rules("[folders]\nexclude = 1\nonly = 2\n[messages]\nrepair = 3")
    assert [mistake.line for mistake in caught.value.mistakes] == [2, 3, 5]


@pytest.mark.parametrize(
    ("pattern", "path", "kinds", "fit"),
    [
        ("A", ("A", "B"), (), True),
        ("A/", ("A", "B"), (), True),
        ("A", ("AB",), (), False),
        ("A/*", ("A",), (), False),
        ("*B", ("A", "B"), (), True),
        ("[A]", ("[A]",), (), True),
        ("\\junk", ("X",), ("junk",), True),
        ("\\Junk", ("Junk",), (), False),
    ],
)
def test_what_a_pattern_means(pattern: str, path: tuple[str, ...], kinds: tuple[str, ...], fit: bool) -> None:
    assert fits(pattern, path, kinds) is fit


@given(st.text("[]=.'\"\\\n#foldersrnm a", max_size=80))
def test_any_text_is_rules_or_a_mistake(text: str) -> None:
    with suppress(RulesMistaken):
        parse_rules(text, alone=True)
