"""A probe is kept by host, and each fact has a line on its card in both languages."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import pytest
from sqlalchemy import Engine

from models.bilingual import Text
from models.probe import Known, Probe, Rate, find_probe, known, note_probe, probes
from models.probe_card import LIGHTS, card, worst

AT = datetime(2026, 11, 1, tzinfo=UTC)
BEST = Probe(
    host="new.example",
    at=AT,
    greeting="* OK ready",
    mechanism="PLAIN",
    separator="/",
    folders={"level2": "", "level3": "", "chinese": "", "emoji": "", "char:*": ""},
    uidplus="right",
    shows="at_once",
    date="kept",
    flags={"\\Seen": "kept", "\\Flagged": "kept", "Work": "kept"},
    special={"sent": "", "junk": "absent"},
    messages={"plain": "", "nul": ""},
    duplicates=2,
    extensions={"LITERAL+": "works"},
    told_limit=50 << 20,
    quota=(1 << 20, 10 << 30),
    rates=(Rate(1, 1, 20, 1.0), Rate(2, 2, 40, 1.0)),
    connections=2,
)
ROWS = tomllib.loads((files("models") / "probe_card.toml").read_text(encoding="utf-8"))
FINDINGS = tomllib.loads((files("models") / "findings.toml").read_text(encoding="utf-8"))


def state(capability: str, **changes: Any) -> tuple[str, str, str]:
    """Of one line: its state, its light, and what it says in English."""
    [line] = [line for line in card(replace(BEST, **changes)) if line.capability == capability]
    return line.state, line.light, line.said.en


def test_a_server_that_does_everything_right_is_green_throughout() -> None:
    lines = card(BEST)
    assert {line.light for line in lines} == {"green"}
    assert (worst(lines), len(lines)) == ("green", 17)


@pytest.mark.parametrize(
    ("capability", "changes", "expected"),
    [
        ("folders", {"folders": {"level2": "", "level3": "NO"}}, ("two", "amber")),
        ("folders", {"folders": {"level2": "NO", "level3": "NO"}}, ("flat", "amber")),
        ("names", {"folders": {"chinese": "NO", "char:*": ""}}, ("no_chinese", "red")),
        ("names", {"folders": {"chinese": "", "char:*": "NO", "emoji": "NO"}}, ("some", "amber")),
        ("uidplus", {"uidplus": "wrong"}, ("wrong", "red")),
        ("shows", {"shows": "never"}, ("never", "red")),
        ("date", {"date": "lost"}, ("lost", "red")),
        ("date", {"date": ""}, ("unknown", "amber")),
        ("flags", {"flags": {"\\Seen": "kept", "\\Flagged": "stored"}}, ("stored", "amber")),
        ("flags", {"flags": {"\\Seen": "lost", "\\Flagged": "stored"}}, ("lost", "red")),
        ("keywords", {"flags": {"Work": "lost"}}, ("dropped", "amber")),
        ("keywords", {"flags": {"Work": "stored"}}, ("stored", "amber")),
        ("special", {"special": {"sent": "", "junk": "NO [CANNOT] no"}}, ("some", "amber")),
        ("special", {"special": {"sent": "not_tried"}}, ("not_tried", "amber")),
        ("special", {"special": {"sent": "absent"}}, ("absent", "amber")),
        ("bodies", {"messages": {"plain": "line_ends"}}, ("line_ends", "green")),
        ("bodies", {"messages": {"plain": "content"}}, ("altered", "amber")),
        ("bodies", {"messages": {"plain": "refused"}}, ("refused", "red")),
        ("odd", {"messages": {"plain": "", "nul": "nul"}}, ("altered", "amber")),
        ("odd", {"messages": {"plain": "", "nul": "repaired"}}, ("refused", "amber")),
        ("duplicates", {"duplicates": 1}, ("one", "amber")),
        ("duplicates", {"duplicates": 0}, ("unknown", "amber")),
        ("extensions", {"extensions": {}}, ("none", "green")),
        ("extensions", {"extensions": {"MULTIAPPEND": "NO"}}, ("broken", "amber")),
        ("size", {"told_limit": None}, ("unknown", "amber")),
        ("size", {"told_limit": None, "largest_taken": 150 << 20}, ("large", "green")),
        ("size", {"told_limit": None, "largest_taken": 1 << 20, "smallest_refused": 2 << 20}, ("measured", "green")),
        ("quota", {"quota": None}, ("unknown", "amber")),
        ("speed", {"rates": (Rate(1, 1, 20, 1.0), Rate(2, 1, 0, 0.0, ("throttled",)))}, ("refused", "amber")),
        ("speed", {"without_room": 4}, ("without_room", "amber")),
        ("speed", {"without_room": 1, "rates": ()}, ("without_room", "amber")),
        ("leftovers", {"leftovers": ("MigrationProbe-1",)}, ("some", "red")),
        ("unfinished", {"unfinished": "throttled"}, ("because", "red")),
    ],
)
def test_every_fact_has_its_light(capability: str, changes: dict[str, Any], expected: tuple[str, str]) -> None:
    assert state(capability, **changes)[:2] == expected


def test_the_line_of_names_says_which_characters() -> None:
    said = state("names", folders={"chinese": "", "char:*": "NO", "emoji": "NO", "blanks": "NO", "level3": ""})[2]
    assert said == "A name cannot have: *, emoji, double blanks."


def test_every_state_of_the_table_can_be_reached_and_speaks_both_languages() -> None:
    for name, text in texts():
        assert text.zh.strip(), name
        assert text.en.strip(), name
        assert not re.search(r"[\u4e00-\u9fff][,:;!?()]|[,:;!?()][\u4e00-\u9fff]", text.zh), name
    states = {(name, key) for name, row in ROWS.items() for key in row if key not in {"title", "words"}}
    assert {ROWS[name][key]["light"] for name, key in states} == set(LIGHTS)


def texts() -> Iterator[tuple[str, Text]]:
    for name, row in ROWS.items():
        yield name, Text(**row["title"])
        for key, value in row.items():
            if key == "words":
                yield from ((word, Text(**text)) for word, text in value.items() if word != "joint")
            elif key != "title":
                yield from ((f"{name}.{key}", Text(**value[part])) for part in ("said", "does"))
    for name, row in FINDINGS.items():
        if "title" in row:
            yield name, Text(**row["title"])
            yield name, Text(row["advice_zh"], row["advice_en"])
        if "detail" in row:
            yield name, Text(**row["detail"])


def test_an_empty_probe_has_a_card_too() -> None:
    assert worst(card(Probe("new.example", AT, unfinished="timeout"))) == "red"


def test_a_probe_takes_the_place_of_the_one_before_whatever_the_case_of_the_host(engine: Engine) -> None:
    note_probe(engine, replace(BEST, host="NEW.example", duplicates=1))
    note_probe(engine, BEST)
    note_probe(engine, replace(BEST, host="other.example"))
    assert find_probe(engine, "New.Example") == BEST
    assert [probe.host for probe in probes(engine)] == ["new.example", "other.example"]
    assert find_probe(engine, "nowhere.example") is None


def test_what_a_copy_may_go_by() -> None:
    found = known(
        replace(
            BEST,
            told_limit=None,
            smallest_refused=1000,
            flags={"\\Flagged": "stored", "Work": "refused"},
            messages={"plain": "", "nul": "repaired", "bare_cr": "refused"},
            words={"nul": "NO NUL"},
            folders={"char:*": "NO", "emoji": "NO", "chinese": "", "level3": "NO"},
        ),
        AT,
    )
    assert (found.size_limit, found.keywords, found.refused_defects) == (999, "dropped", {"nul": "NO NUL"})
    assert [found.ignores(flag) for flag in ("\\flagged", "\\Seen", "Work")] == [True, False, False]
    assert [found.refuses(name) for name in ("a*b", "搬家", "🎉", "😀", "ab")] == [True, False, True, True, False]
    assert (known(BEST, AT).size_limit, known(BEST, AT).connections) == (None, 2)
    assert known(BEST, AT).of("* OK somebody else") == Known(outdated=True)
