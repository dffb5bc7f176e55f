"""What a run's outcome means to a script."""

import io
from dataclasses import replace

import pytest
from rich.console import Console

from console.outcome import Exit, exit_code, print_summary
from models.bilingual import Language, Text
from models.causes import cause
from models.columns import now
from models.states import MemberState, WaveState
from reports.check import SERVER_CAUSES
from reports.summary import (
    FolderSummary,
    Followed,
    InvalidRowSummary,
    MemberSummary,
    MessageCounts,
    WaveSummary,
)

ROW = InvalidRowSummary(2, "SourceHost", "", Text("x", "x"), Text("x", "x"))


def member(
    number: int, state: MemberState = MemberState.SYNCED, name: str = "", side: str = "source", host: str = "old"
) -> MemberSummary:
    return MemberSummary(
        id=number,
        line=number + 1,
        email=f"{number}@new.example",
        display_name="",
        department="",
        source_user="",
        source_host=host,
        target_user="",
        target_host="new",
        state=state,
        cause=cause(name) if name else None,
        cause_side=side,
        server_text="",
        bytes=0,
        found=0,
        folders=(),
        issues=(),
        events=(),
        attempts=1,
        started_at=None,
        finished_at=None,
    )


def wave(*members: MemberSummary) -> WaveSummary:
    return WaveSummary("first", WaveState.SYNCED, "1", now(), members)


FAILED = MemberState.FAILED


@pytest.mark.parametrize(
    ("members", "code"),
    [
        ((member(1), member(2)), Exit.DONE),
        ((member(1), member(2, FAILED, "timeout")), Exit.PARTIAL),
        ((member(1), member(2, MemberState.PAUSED)), Exit.PARTIAL),
        ((member(1), member(2, MemberState.SYNCED_WITH_ISSUES)), Exit.PARTIAL),
        ((member(1, FAILED, "connect_failed"), member(2, FAILED, "connect_failed")), Exit.UNREACHABLE),
        ((member(1, FAILED, "tls_cert"), member(2, FAILED, "tls_cert")), Exit.UNREACHABLE),
        ((member(1, FAILED, "over_quota"), member(2, FAILED, "over_quota")), Exit.PARTIAL),
        ((member(1, FAILED, "connect_failed"), member(2, FAILED, "dns_error")), Exit.PARTIAL),
        ((member(1, FAILED, "dns_error"), member(2, FAILED, "dns_error", host="older")), Exit.PARTIAL),
        (
            (
                member(1, FAILED, "dns_error", side="target", host="old"),
                member(2, FAILED, "dns_error", side="target", host="older"),
            ),
            Exit.UNREACHABLE,
        ),
        ((member(1, FAILED, "connect_failed"), member(2)), Exit.PARTIAL),
    ],
)
def test_the_code_tells_a_whole_server_from_some_members(members: tuple[MemberSummary, ...], code: Exit) -> None:
    assert exit_code(wave(*members)) == code


@pytest.mark.parametrize(
    ("language", "words"), [("en", "2 messages deleted (kept"), ("zh-CN", "删除 2 封（新邮箱中保留）")]
)
def test_what_happened_at_the_source_since_is_printed_where_something_did(language: Language, words: str) -> None:
    folder = FolderSummary("INBOX", "INBOX", MessageCounts(1, 1), 10, None, None, {}, 0)
    for followed, said in ((Followed(), False), (Followed(gone=2), True)):
        console = Console(record=True, width=200, file=io.StringIO())
        print_summary(wave(replace(member(1), folders=(replace(folder, followed=followed),))), console, language)
        assert (words in console.export_text()) is said


def test_a_row_left_out_is_partial() -> None:
    assert exit_code(replace(wave(member(1)), invalid_rows=(ROW,))) == Exit.PARTIAL


def test_the_codes_are_the_contract_with_scripts() -> None:
    assert {code.name: int(code) for code in Exit} == {
        "DONE": 0,
        "UNEXPECTED": 1,
        "USAGE": 2,
        "PARTIAL": 3,
        "ROSTER_REFUSED": 4,
        "UNREACHABLE": 5,
        "INTERRUPTED": 130,
    }


def test_every_cause_of_a_whole_server_is_a_cause() -> None:
    assert all(cause(name).id == name for name in SERVER_CAUSES)
