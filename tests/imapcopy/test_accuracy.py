"""How often an answer is read as its cause; wrong is worse than not known."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imapcopy.answers import LONGEST_ANSWER, Stage, codes, judge
from imapcopy.errors import Side
from models.causes import causes
from tests.imapcopy import accuracy
from tests.imapcopy.accuracy import Case, samples, sentences


def test_every_answer_that_was_seen_is_read_as_its_cause_however_it_is_wrapped() -> None:
    for around in (str, accuracy._tagged, accuracy._as_library):
        for case in accuracy.wrapped(samples(), around):
            assert case.told() == "right", case
    assert all(case.told() == "right" for case in samples())
    assert len(samples()) >= 169


def test_what_general_words_were_written_for_is_read_as_its_cause() -> None:
    assert [case for case in sentences("learned.txt") if case.told() != "right"] == []


def test_no_sentence_that_nobody_wrote_a_rule_for_is_read_wrongly_and_most_are_read() -> None:
    unseen = sentences("unseen.txt")
    assert [case for case in unseen if case.told() == "wrong"] == []
    assert Counter(case.told() for case in unseen)["right"] > 0.7 * len(unseen)
    learned = {case.text for case in sentences("learned.txt")}
    assert not learned & {case.text for case in unseen}


@pytest.mark.parametrize("words", ["", "Flumwex gribble", "服务器拒绝了此项操作", "Сервер отклонил"])
def test_a_code_is_enough_whatever_the_language(words: str) -> None:
    cases = list(accuracy.with_code(samples(), words))
    assert len(cases) > 30
    assert [case for case in cases if case.told() != "right"] == []


@given(
    st.sampled_from(sorted(codes())), st.sampled_from(accuracy.STAGES), st.sampled_from(["source", "target"]), st.text()
)
def test_words_move_a_code_only_to_what_the_code_can_mean(code: str, stage: Stage, side: Side, words: str) -> None:
    row = next((row for row in codes()[code] if row.fits(stage, side)), None)
    verdict = judge(f"NO [{code}] {words}", stage=stage, side=side, host="imap.example.com")
    assert row is None or verdict.cause in {row.cause, *row.words}


@given(st.text(max_size=3000), st.sampled_from(accuracy.STAGES), st.sampled_from(["source", "target"]))
def test_whatever_a_server_says_has_a_cause(text: str, stage: Stage, side: Side) -> None:
    assert judge(text, stage=stage, side=side, host="imap.example.com").cause in causes()


def test_a_wrong_answer_would_be_counted() -> None:
    assert Case("NO 邮箱已满", "virus_rejected", "append", "target").told() == "wrong"
    assert Case("NO Flumwex", "over_quota", "append", "target").told() == "not known"


def test_the_documents_show_the_table_as_it_is() -> None:
    assert accuracy.in_docs(accuracy.DOCS.read_text(encoding="utf-8")) == accuracy.table(), (
        "python -m tests.imapcopy.accuracy --update"
    )


def test_of_an_endless_answer_the_beginning_is_looked_at() -> None:
    """A hostile server must not keep a thread busy with searching."""
    told = {"stage": "login", "side": "source", "host": "imap.example.com"}
    assert judge(f"NO password error {'x' * LONGEST_ANSWER}", **told).rule == "netease-login-error"  # type: ignore[arg-type]
    assert judge(f"NO {'x' * LONGEST_ANSWER} password error", **told).rule == ""  # type: ignore[arg-type]
