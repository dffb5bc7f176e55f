"""No pattern, learned, ours or the admin's, may keep a run busy: a regular expression cannot be stopped from within."""

import random
import re

import pytest

from imapcopy.answers import RuleError, read_own_rules, rules
from imapcopy.pattern_trial import runaway
from models.server_words import LONGEST_LINE, normalised, pattern_of

PLACES = ("<name>", "<quoted>", "<number>", "<address>", "<word>", "<host>")


def test_no_pattern_of_our_own_table_runs_away() -> None:
    """In a process of its own: half a second."""
    patterns = [part.pattern for rule in rules() for part in (rule.pattern, rule.hosts, rule.unless) if part]
    assert len(patterns) > 100
    assert runaway(patterns) is None


def test_a_pattern_that_runs_away_is_found_and_named() -> None:
    """In a process of its own, which takes its two seconds."""
    assert runaway(["login failed", "(?:[a-z]+ ?)+!$", "quota"]) == 1
    with pytest.raises(RuleError) as refused:
        read_own_rules(
            '[[answer]]\nid = "mine"\nregex = "(a+)+b"\ncause = "throttled"\n[[answer]]\nid = "b"\nregex = "x"\n'
            'cause = "throttled"\n'
        )
    assert "(a+)+b" in refused.value.told.en
    assert "(a+)+b" in refused.value.told.zh


def test_learned_patterns_of_any_line_end_in_time() -> None:
    """Lines full of gaps, as a hostile server would have them learned; tried in a process of its own."""
    draw = random.Random(1)
    lines = ["NO " + " a ".join(["<quoted>"] * 40), "NO " + "".join(["<name>"] * 60), "NO " + "<number> <name> " * 20]
    for _ in range(60):
        words = [draw.choice([*PLACES, "a", "aa", " ", "-", "failed", "(", "登录"]) for _ in range(40)]
        lines.append(("NO " + draw.choice(["", " "]).join(words))[:LONGEST_LINE])
    assert runaway([pattern_of(line) for line in lines]) is None


def test_a_learned_pattern_still_finds_the_answers_that_it_was_learned_from() -> None:
    answers = [
        "NO [LIMIT] User lin@example.com has 12 connections from 10.1.2.3, try again in 30 seconds",
        'NO Mailbox "Sent Items 2024" is locked by session 4f3e2d1c0b9a8877 until 2026-01-02 03:04:05',
        "NO 用户 lin@example.com 登录过于频繁，请 15 分钟后再试",
    ]
    for answer in answers:
        assert re.search(pattern_of(normalised(answer)), answer, re.IGNORECASE | re.DOTALL), answer
