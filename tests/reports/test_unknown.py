"""Answers that no rule knows: grouped without names, in page, document and as rules."""

import json
import re
from dataclasses import replace
from pathlib import Path

from imapcopy.answers import add_own_rules, judge, read_own_rules
from models.causes import cause
from models.check import Finding, Severity
from models.hints import Hint
from models.server_words import KnownBy
from models.states import MemberState
from reports.check import CheckedMember
from reports.export import summary_document
from reports.render import render_report
from reports.summary import IssueSummary, MemberSummary, WaveSummary
from reports.unknown import rules_text, unknown_answers
from tests.reports.sample import sample_member, sample_summary

B = Severity.BLOCKS


def refused(number: int, text: str, rule: str = "", *, stage: str = "login", side: str = "source") -> MemberSummary:
    return replace(
        sample_member(number),
        state=MemberState.FAILED,
        cause=cause("ambiguous_login"),
        cause_side=side,
        server_text=text,
        known_by=KnownBy(stage, rule),
        source_host="imap.old.example",
        issues=(),
    )


def wave(*members: MemberSummary) -> WaveSummary:
    return replace(sample_summary(), members=members, checks=())


def not_written(text: str, rule: str = "", stage: str = "append") -> IssueSummary:
    return IssueSummary("INBOX", 7, cause("unclassified"), None, 10, text, KnownBy(stage, rule))


def parked() -> WaveSummary:
    people = [refused(n, f"NO The seat of {sample_member(n).source_user} has been parked (no. 48{n})") for n in (1, 2)]
    issues = (not_written("NO Flumwex 4471"), not_written("NO Flumwex 90"), not_written("NO 邮箱已满", "overquota"))
    member = replace(sample_member(3), issues=issues)
    return replace(sample_summary(), members=(*people, refused(4, "NO password error", "netease-login-error"), member))


def test_answers_that_differ_in_names_and_numbers_are_one_and_known_ones_are_left_out() -> None:
    found = unknown_answers(parked())
    assert [(each.line, each.stage, each.side, each.members, each.count) for each in found] == [
        ("NO Flumwex <number>", "append", "target", 1, 2),
        (found[1].line, "login", "source", 2, 2),
    ]
    assert re.fullmatch(r"NO The seat of <(address|name)> has been parked \(no\. <number>\)", found[1].line)
    assert found[1].host == "imap.old.example"
    assert found[1].cause == "ambiguous_login"


def test_what_no_server_said_is_not_listed() -> None:
    silent = replace(refused(1, "Connection reset by peer"), known_by=None)
    assert unknown_answers(wave(silent, refused(2, ""))) == ()


def test_no_name_of_a_member_is_in_what_is_sent_on() -> None:
    member = refused(1, "")
    everything = (member.email, member.source_user, member.target_user, member.display_name, member.email.split("@")[0])
    text = "NO " + " and ".join(f"({name})" for name in everything) + " in 'Secret folder' at 10.1.2.3"
    line = unknown_answers(wave(replace(member, server_text=text)))[0].line
    for name in (*everything, "Secret", "10.1.2.3"):
        assert name not in line


def test_what_a_check_was_answered_is_listed_too_and_what_the_member_s_row_says_again_once() -> None:
    member = refused(1, "NO The seat has been parked")
    found = (
        Finding("ambiguous_login", B, "source", {}, "NO The seat has been parked", known_by="login:"),
        Finding("bad_credentials", B, "target", {}, "NO Quaffed by li", member.target_user, None, "login:"),
        Finding("no_such_user", B, "target", {}, "NO no such user", known_by="login:some-rule"),
        Finding(
            "folders_unreadable", Severity.WARNS, "source", {"n": 2}, "NO 工资 is 8 times shut", "工资", None, "select:"
        ),
        Finding("too_large", Severity.WARNS, "target", {"n": 1, "limit": 1, "largest": 2}),
    )
    check = CheckedMember(member.id, member.email, member.state, member.source_host, "new.example", None, None, found)
    told = unknown_answers(replace(wave(member), checks=(check,)))
    assert {(each.line, each.stage, each.side, each.host, each.cause, each.count) for each in told} == {
        ("NO The seat has been parked", "login", "source", "imap.old.example", "ambiguous_login", 1),
        ("NO Quaffed by li", "login", "target", member.target_host, "bad_credentials", 1),
        ("NO <name> is <number> times shut", "select", "source", "imap.old.example", "unclassified", 1),
    }


def test_the_rules_that_are_printed_are_rules_and_know_the_answers() -> None:
    summary = parked()
    text = rules_text(unknown_answers(summary))
    rules = read_own_rules(text)
    assert [rule.cause for rule in rules] == ["unclassified", "ambiguous_login"]
    add_own_rules(rules)
    try:
        for answer in (summary.members[0].server_text, summary.members[1].server_text):
            assert judge(answer, stage="login", side="source", host="").rule == rules[1].id
    finally:
        add_own_rules(())


def test_page_and_document_list_them(tmp_path: Path) -> None:
    summary = parked()
    files = render_report(summary, tmp_path)
    for file, head in ((files.html_zh, "还不认识的服务器答复"), (files.html_en, "Answers that are not known yet")):
        page = file.read_text(encoding="utf-8")
        assert head in page
        assert "Flumwex &lt;number&gt;" in page
        assert "banjia wave unknown" in page
    document = json.loads(files.json.read_bytes())
    assert [each["count"] for each in document["unknown_answers"]] == [2, 2]
    assert document["unknown_answers"][0]["rule"]["stages"] == ["append"]
    plain = render_report(replace(summary, members=(sample_member(1),)), tmp_path / "other")
    assert "Answers that are not known yet" not in plain.html_en.read_text(encoding="utf-8")


def test_a_hint_stands_beside_its_cause(tmp_path: Path) -> None:
    hint = Hint("near_host", {"host": "imap.fishu.cn", "near": "imap.feishu.cn"})
    member = replace(refused(1, "Name or service not known", "exception"), hint=hint, cause=cause("dns_error"))
    summary = replace(sample_summary(), members=(member,))
    [told] = summary_document(summary)["members"]
    assert "imap.feishu.cn" in told["hint"]["zh-CN"]
    render_report(summary, tmp_path)
    for language, words in (("zh-CN", "是不是想写 imap.feishu.cn"), ("en", "Was imap.feishu.cn meant?")):
        assert words in (tmp_path / "members" / f"{member.id}.{language}.html").read_text(encoding="utf-8")
        assert words in (tmp_path / f"wave.{language}.html").read_text(encoding="utf-8")
