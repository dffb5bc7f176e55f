"""The tables and the JSON: the same numbers, no formula, no secret, and a roster that can go back in."""

import csv
import io
import json
from dataclasses import replace

import pytest

from models.states import ShortState
from reports.export import (
    ALTERED_COLUMNS,
    FORMULA_STARTS,
    WAVE_COLUMNS,
    altered_csv,
    altered_json,
    cell,
    document_bytes,
    failures_csv,
    followed_sentence,
    result_sentence,
    short_state_counts,
    summary_document,
    wave_csv,
)
from reports.summary import Followed, WaveSummary
from tests.reports.sample import (
    ESCAPE,
    OVERRIDE,
    ROSTER_COLUMNS,
    SCRIPT,
    SampleAltered,
    sample_later_summary,
    sample_member,
    sample_rows,
    sample_summary,
)


@pytest.fixture(scope="module")
def summary() -> WaveSummary:
    return sample_summary()


def read(content: bytes | None) -> list[dict[str, str]]:
    assert content is not None
    return list(csv.DictReader(io.StringIO(content.decode("utf-8-sig"), newline="")))


def test_a_table_opens_in_excel_as_it_is(summary: WaveSummary) -> None:
    content = wave_csv(summary)
    assert content.startswith(b"\xef\xbb\xbfEmail,")
    assert content.count(b"\r\n") == content.count(b"\n") == len(summary.members) + 1


def test_the_table_has_a_row_a_member_with_the_numbers_of_the_json(summary: WaveSummary) -> None:
    rows, members = read(wave_csv(summary)), summary_document(summary)["members"]
    assert list(rows[0]) == list(WAVE_COLUMNS)
    for row, member in zip(rows, members, strict=True):
        assert row["Email"] == member["email"]
        assert row["State"] == member["state"]
        assert row["Cause"] == (member["cause"] or "")
        assert row["AdviceZh"] == (member["advice"]["zh-CN"] if member["advice"] else "")
        assert row["AdviceEn"] == (member["advice"]["en"] if member["advice"] else "")
        assert row["Grade"] == (member["grade"] or "")
        assert [int(row[name]) for name in ("SourceMessages", "Copied", "AlreadyThere", "NotMoved", "Bytes")] == [
            *member["messages"].values(),
            member["bytes"],
        ]


def test_members_of_the_json_add_up_to_its_counts(summary: WaveSummary) -> None:
    document = summary_document(summary)
    counts = document["counts"]
    for name in ("source", "copied", "already_there", "issues"):
        assert sum(member["messages"][name] for member in document["members"]) == counts[name]
        assert sum(f["messages"][name] for m in document["members"] for f in m["folders"]) == counts[name]
    assert sum(len(member["issues"]) for member in document["members"]) == counts["issues"]
    assert sum(member["bytes"] for member in document["members"]) == document["bytes"]
    assert sum(counts[state.value] for state in ShortState) + counts["removed"] == counts["members"]


def test_what_happened_at_the_source_is_in_table_and_json_also_where_nothing_did() -> None:
    later = sample_later_summary()
    rows, document = read(wave_csv(later)), summary_document(later)
    for row, member in zip(rows, document["members"], strict=True):
        assert [int(row[name]) for name in ("NothingToDo", "Gone", "Moved", "Strayed", "FlagsChanged")] == [
            member["nothing_to_do"],
            *(member["followed"][name] for name in ("gone", "moved", "strayed", "flags_changed")),
        ]
    assert rows[3]["Gone"] == "3"
    assert rows[0]["Gone"] == "0"
    folders = [folder["followed"] for member in document["members"] for folder in member["folders"]]
    for name in ("gone", "moved", "strayed", "flags_changed"):
        assert sum(followed[name] for followed in folders) == document["followed"][name]
    assert document["counts"]["nothing_to_do"] == 3
    assert [(group["cause"], group["messages"]) for group in document["nothing_to_do"]] == [("moved_at_source", 3)]


def test_the_result_tells_what_was_not_moved_from_what_needs_nobody() -> None:
    text = result_sentence(sample_later_summary())
    assert (
        "9 messages were not moved; 3 messages were moved at the source afterwards, without their copies; 1 old mailbox"
        in text.en
    )
    assert "9 封邮件未搬；3 封后来在源邮箱中移动，副本没有跟着移动；1 个旧邮箱" in text.zh


def test_what_happened_at_the_source_is_said_in_one_sentence_or_not_at_all() -> None:
    assert followed_sentence(Followed()) is None
    one = followed_sentence(Followed(gone=1, moved=1))
    assert one is not None
    assert one.en == (
        "What happened at the source afterwards: 1 message deleted (kept in the new mailbox); 1 moved (the copy too)."
    )
    assert one.zh == "搬过之后源邮箱的变化：删除 1 封（新邮箱中保留）；移动 1 封（副本已随之移动）。"


def test_removed_members_are_not_called_done(summary: WaveSummary) -> None:
    assert short_state_counts(summary) == {
        "waiting": 4,
        "active": 2,
        "synced": 3,
        "needs_attention": 8,
        "done": 2 + 1,
        "removed": 1,
    }


def test_a_repaired_message_is_told_with_what_was_changed_and_why(summary: WaveSummary) -> None:
    document = summary_document(summary)
    repaired = next(member["repaired"] for member in document["members"] if member["repaired"])
    assert [(each["folder"], each["uid"]) for each in repaired] == [("INBOX", 77), ("已发送/客户 <重要>", 78)]
    assert repaired[0]["repairs"][0] == {"id": "nul", "title": {"zh-CN": "去掉了 NUL 字节", "en": "NUL bytes removed"}}
    assert repaired[0]["server_text"].endswith("contains NUL characters")
    assert repaired[1]["repairs"][0]["title"]["en"] == "of_a_later_version"


def test_a_member_synced_with_issues_shows_the_commonest_cause(summary: WaveSummary) -> None:
    member = summary_document(summary)["members"][6]
    assert member["state"] == "synced_with_issues"
    assert member["cause"] == "message_too_large"
    assert member["grade"] == "Investigate"
    assert member["title"] == {"zh-CN": "邮件过大", "en": "Message too large"}


def test_invalid_rows_are_in_both_languages(summary: WaveSummary) -> None:
    assert summary_document(summary)["invalid_rows"][0] == {
        "line": 4,
        "column": "EmailAddress",
        "value": "wang fang@new.example",
        "problem": "The address has a blank in it",
        "fix": "Remove the blank",
        "zh-CN": {"problem": "地址中有空格", "fix": "去掉空格"},
    }


def test_the_json_is_exact_and_still_harmless_on_a_terminal(summary: WaveSummary) -> None:
    odd = {"names": [SCRIPT, OVERRIDE, ESCAPE, "\x9b31m", "\U000e0041", "plain 中文"]}
    content = document_bytes(odd)
    assert json.loads(content) == odd
    assert "中文".encode() in content
    assert all(mark.encode() not in content for mark in ("\x1b", "\u202e", "\x9b", "\U000e0041"))
    assert json.loads(document_bytes(summary_document(summary))) == summary_document(summary)


def test_half_a_character_does_not_stop_the_report(summary: WaveSummary) -> None:
    """A name that was decoded with surrogateescape cannot be encoded again."""
    wave = replace(summary, members=(replace(sample_member(9), display_name="caf\udce9"),))
    assert json.loads(document_bytes(summary_document(wave)))["members"][0]["display_name"] == "caf\udce9"
    assert b"caf\\udce9" in wave_csv(wave)
    assert failures_csv(wave, {}) is not None


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20"])
def test_no_cell_starts_a_formula(summary: WaveSummary, start: str) -> None:
    assert cell(f"{start}cmd") == f"'{start}cmd"
    for separator in ";,|" if start.strip() else "":
        # On another machine the separator is another sign, and our quotation marks are letters.
        assert cell(f"a{separator}{start}cmd") == f"a{separator}'{start}cmd"
    member = replace(
        sample_member(9), display_name=f"{start}1+1", server_text=f"{start}2+2", email=f"{start}a@b.example"
    )
    wave = replace(summary, members=(member,))
    for content in (wave_csv(wave), failures_csv(wave, {}), failures_csv(wave, sample_rows(wave))):
        for row in read(content):
            assert not any(value.startswith(start) for value in row.values())
            assert row["DisplayName"].startswith("'")


def test_a_long_answer_fits_a_cell(summary: WaveSummary) -> None:
    wave = replace(summary, members=(replace(sample_member(9), server_text="A" * 100_000),))
    assert len(read(wave_csv(wave))[0]["ServerText"]) == 2001
    assert len(summary_document(wave)["members"][0]["server_text"]) == 100_000


def test_failures_are_a_roster_in_the_uploads_own_order(summary: WaveSummary) -> None:
    rows = read(failures_csv(summary, sample_rows(summary)))
    assert list(rows[0]) == [*ROSTER_COLUMNS, "Cause", "Fix"]
    assert [row["EmailAddress"] for row in rows] == [member.email for member in summary.needs_attention]
    assert {row["UserRoot"] for row in rows} == {"INBOX.Work"}
    assert {row["Note"] for row in rows} == {"'+86 21 5555 0100"}
    assert all(row["Cause"] and row["Fix"] for row in rows)


def test_no_secret_leaves_with_the_failures(summary: WaveSummary) -> None:
    content = failures_csv(summary, sample_rows(summary))
    assert content is not None
    assert b"hunter" not in content
    assert all(row["Password"] == row["TargetPassword"] == "" for row in read(content))


def test_without_the_rosters_values_the_members_own_are_given(summary: WaveSummary) -> None:
    row = read(failures_csv(replace(summary, roster_columns=()), {}))[2]
    assert list(row) == ["EmailAddress", "UserName", "Password", "UserRoot", "DisplayName", "Cause", "Fix"]
    assert row["EmailAddress"] == "goran.cosic@new.example"
    assert row["UserName"] == "goran.cosic@old.example"
    assert "IMAP is switched off" in row["Cause"]


def test_failures_of_a_roster_of_failures_have_their_columns_once(summary: WaveSummary) -> None:
    again = replace(summary, roster_columns=("EmailAddress", "UserName", "Cause", "Fix"))
    assert list(read(failures_csv(again, {}))[0]) == ["EmailAddress", "UserName", "Cause", "Fix"]


def test_nothing_to_mend_makes_no_roster(summary: WaveSummary) -> None:
    assert failures_csv(replace(summary, members=(sample_member(1),)), {}) is None


def test_the_json_says_why_a_folder_went_where_it_went_and_what_was_left_out(summary: WaveSummary) -> None:
    member = next(each for each in summary_document(summary)["members"] if each["id"] == 5)
    inbox, sent = member["folders"]
    assert (inbox["why"], inbox["reason"], inbox["elsewhere"]) == (None, None, 0)
    assert (sent["why"], sent["elsewhere"]) == ("parent", 1200)
    assert set(sent["reason"]) == {"zh-CN", "en"}
    assert [(each["why"], each["messages"]) for each in member["left_out"]] == [("not_mail", 2310), ("excluded", 1)]


def test_the_table_of_altered_messages_has_all_and_starts_no_formula() -> None:
    messages = list(SampleAltered(2500).every())
    content = b"".join(altered_csv(messages))
    assert content.count(b"\xef\xbb\xbf") == 1
    rows = read(content)
    assert list(rows[0]) == list(ALTERED_COLUMNS)
    assert [(row["Folder"], int(row["UID"])) for row in rows] == [(each.folder, each.uid) for each in messages]
    assert len(rows) > 5000
    assert not any(value.startswith(FORMULA_STARTS) for row in rows for value in row.values())
    found = next(row for row in rows if row["Subject"] == "'=1+1")
    assert (found["TargetUID"], found["Sender"]) == ("100002", "")
    assert found["SeenEn"].startswith("Nothing: only a line end")
    assert found["AlteredZh"].startswith("末尾换行不同；")


def test_the_json_of_altered_messages_says_the_same_and_what_it_means_once() -> None:
    messages = list(SampleAltered(1200).every())
    content = b"".join(altered_json("春季", messages))
    document = json.loads(content)
    assert (document["wave"], len(document["messages"])) == ("春季", len(messages))
    assert [each["subject"] for each in document["messages"]] == [each.subject for each in messages]
    assert document["alterations"]["header_8bit"].keys() == {"title", "seen", "helps"}
    assert all(mark.encode() not in content for mark in ("\x1b", "\u202e"))
    assert json.loads(b"".join(altered_json("none", ())))["messages"] == []


def test_alterations_of_a_wave_are_counted_over_its_members_the_gravest_first(summary: WaveSummary) -> None:
    told = summary_document(summary)["altered"]
    assert [each["id"] for each in told] == ["header_8bit", "final_line_end", "keyword_dropped"]
    assert told[0]["messages"] == 4 * told[0]["members"]
    assert told[0]["helps"]["en"].startswith("The subject and sender")
