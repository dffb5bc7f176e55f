"""The report's own words: each in both languages, each used; numbers and times as people read them."""

import re
import string
from datetime import UTC, datetime
from importlib.resources import files
from zoneinfo import ZoneInfo

import pytest

from models.ledger_rows import BENIGN, SEEN_ONCE
from models.rules import ROLES
from reports.letters import letter_texts
from reports.texts import (
    Wording,
    alteration,
    alterations,
    placements,
    repairs,
    roles,
    savings,
    sentence,
    texts,
    visible,
)

ENGLISH = Wording("en", ZoneInfo("UTC"))
NAMED = {
    "role": roles(),
    "repair": repairs(),
    "saving": savings(),
    "seen of": {name: alteration(name).seen for name in alterations()},
    "help with": {name: alteration(name).helps for name in alterations()},
}
ALL = {
    **texts(),
    **alterations(),
    **placements(),
    **{f"{kind} {name}": text for kind, some in NAMED.items() for name, text in some.items()},
}
CHINESE = Wording("zh-CN", ZoneInfo("Asia/Shanghai"))


def used() -> set[str]:
    """Names of sentences that the templates and the modules say; `say("a" if x else "b", …)` says both."""
    names: set[str] = set()
    reports = files("reports")
    for file in [*reports.iterdir(), *(reports / "templates").iterdir()]:
        if file.name.endswith((".py", ".j2")):
            source = file.read_text(encoding="utf-8")
            for said in re.findall(r"\b(?:say|sentence)\(([^(),]*)", source):
                names |= set(re.findall(r'"(\w+)"', said))
            names |= set(re.findall(r'"((?:result|followed)_\w+)"', source))
    return names


def test_every_sentence_that_is_said_exists_and_none_is_idle() -> None:
    assert set(texts()) <= used() <= set(texts()) | set(letter_texts())


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_sentence_is_in_both_languages_with_the_same_places(name: str) -> None:
    text = ALL[name]
    assert text.zh.strip()
    assert text.en.strip()
    places = [{field for _, field, _, _ in string.Formatter().parse(each) if field} for each in (text.zh, text.en)]
    assert places[0] == places[1]


@pytest.mark.parametrize("name", sorted(ALL))
def test_chinese_is_written_with_chinese_punctuation(name: str) -> None:
    assert not re.search(r"[\u4e00-\u9fff][,:;!?()]|[,:;!?()][\u4e00-\u9fff]", ALL[name].zh)


def test_every_benign_alteration_has_a_name() -> None:
    assert set(alterations()) >= BENIGN | SEEN_ONCE
    assert all(len(alteration(name).seen.en) > 1 < len(alteration(name).helps.en) for name in alterations())
    assert ENGLISH.alteration("line_ends") == "line ends rewritten"
    assert ENGLISH.alteration("of_a_later_version") == "of_a_later_version"


def test_every_reason_for_a_folders_place_has_words() -> None:
    """The engine's modules name reasons as plain words; each of them is told in both languages."""
    source = "".join((files("imapcopy") / name).read_text(encoding="utf-8") for name in ("folders.py", "created.py"))
    assert set(re.findall(r'"(\w+)"', source)) >= set(placements())
    assert ENGLISH.placement("of_a_later_version") == "of_a_later_version"
    assert set(roles()) == set(ROLES)


def test_one_message_is_not_messages() -> None:
    assert sentence("cause_messages", n=1).en == "1 message"
    assert sentence("cause_messages", n=1200).en == "1,200 messages"
    assert sentence("cause_messages", n=1200).zh == "1,200 封邮件"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1536, "1.5 KB"),
        (5_000_000, "4.8 MB"),
        (25_018_034_176, "23.3 GB"),
        (10**13, "9.1 TB"),
    ],
)
def test_sizes(value: int, text: str) -> None:
    assert ENGLISH.size(value) == text


def test_numbers_and_changes() -> None:
    assert ENGLISH.number(1234567) == "1,234,567"
    assert [ENGLISH.change(value) for value in (1200, 0, -3)] == ["+1,200", "0", "−3"]


@pytest.mark.parametrize(("seconds", "text"), [(0.44, "0.4 s"), (59, "59 s"), (61, "1 min 1 s"), (5025, "1 h 23 min")])
def test_durations(seconds: float, text: str) -> None:
    assert ENGLISH.duration(seconds) == text


def test_times_are_local_and_name_their_zone() -> None:
    at = datetime(2026, 12, 31, 23, 59, 30, tzinfo=UTC)
    assert ENGLISH.moment_with_zone(at) == "2026-12-31 23:59 UTC"
    assert CHINESE.moment_with_zone(at) == "2027-01-01 07:59 Asia/Shanghai"
    assert CHINESE.moment(at.replace(tzinfo=None)) == "2027-01-01 07:59"
    assert CHINESE.day(at) == "2027-01-01"
    assert CHINESE.day(None) == "—"


@pytest.mark.parametrize(
    ("hidden", "seen"),
    [
        ("a\x1b[2Jb", r"a\x1b[2Jb"),
        ("a\u202eb", r"a\u202eb"),
        ("a\u2066b\u200bc\ufeff", r"a\u2066b\u200bc\ufeff"),
        ("one\r\ntwo", r"one\x0d\x0atwo"),
        ("\U000e0041", r"\U000e0041"),
        ("caf\udce9", r"caf\udce9"),
    ],
)
def test_what_hides_or_reorders_is_made_visible(hidden: str, seen: str) -> None:
    assert visible(hidden) == seen


@pytest.mark.parametrize("plain", ["王芳", "Göran Ćosić", "שלום", "👩\u200d💻", "a <b> & 'c'"])
def test_ordinary_writing_is_left_alone(plain: str) -> None:
    assert visible(plain) == plain
