"""A wave with every state and every nasty name, for tests and for looking at the pages."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from models.bilingual import Text
from models.causes import cause
from models.issues import AlteredFolder, AlteredMessage
from models.receive_range import LimitedRange, Sign
from models.states import MemberState, WaveState
from reports.summary import (
    EventSummary,
    FolderSummary,
    Followed,
    InvalidRowSummary,
    IssueSummary,
    LeftOutSummary,
    MemberSummary,
    MessageCounts,
    PreviousReport,
    RepairSummary,
    WaveSummary,
)

MADE_AT = datetime(2026, 3, 14, 9, 26, 53, tzinfo=UTC)
SCRIPT = "<script>alert('mail')</script>"
OVERRIDE = "invoice\u202efdp.exe"
ESCAPE = "\x1b[31mred\x1b[0m"
ROSTER_COLUMNS = ("UserName", "Password", "EmailAddress", "UserRoot", "DisplayName", "TargetPassword", "Note")

M = MemberState
# state, name, address, source messages, cause, side, the server's words
PEOPLE: tuple[tuple[MemberState, str, str, int, str | None, str, str], ...] = (
    (M.COMPLETED, "王芳", "wang.fang", 48213, None, "", ""),
    (M.COMPLETED, "Anna Lindqvist", "anna.lindqvist", 12840, None, "", ""),
    (M.COMPLETED_WITH_ISSUES, "陈建国", "chen.jianguo", 90412, None, "", ""),
    (M.SYNCED, "李娜", "li.na", 7315, None, "", ""),
    (M.SYNCED, "Shared: Sales 销售部", "sales", 151006, None, "", ""),
    (M.SYNCED, "=cmd|' /C calc'!A0", "formula", 42, None, "", ""),
    (M.SYNCED_WITH_ISSUES, "赵敏", "zhao.min", 23177, None, "", ""),
    (M.SYNCED_WITH_ISSUES, SCRIPT, "script", 900, None, "", ""),
    (M.FAILED, "Göran Ćosić", "goran.cosic", 0, "imap_disabled", "source", "NO [ALERT] IMAP access is disabled"),
    (M.FAILED, OVERRIDE, "override", 310, "over_quota", "target", f"NO [OVERQUOTA] {ESCAPE} {SCRIPT}\r\n"),
    (M.FAILED, "刘洋", "liu.yang", 0, "imap_disabled", "source", "NO [ALERT] IMAP access is disabled"),
    (M.NEEDS_PASSWORD, "孙丽", "sun.li", 6120, "app_password_required", "source", "NO ERR.LOGIN.REQCODE"),
    (M.AWAITING_PASSWORD, "@SUM(1+1)", "sum", 0, "password_missing", "", ""),
    (M.INVALID, "周杰", "zhou.jie", 0, "server_missing", "", ""),
    (M.SYNCING, "吴磊", "wu.lei", 33480, None, "", ""),
    (M.CHECKING, "Mary O'Neill", "mary.oneill", 0, None, "", ""),
    (M.QUEUED, "郑爽", "zheng.shuang", 0, None, "", ""),
    (M.READY, "Priya Raman", "priya.raman", 0, None, "", ""),
    (M.THROTTLED, "钱伟", "qian.wei", 18004, "throttled", "source", "NO [THROTTLED] Account exceeded limits"),
    (M.PAUSED, "冯雪", "feng.xue", 5210, None, "", ""),
    (M.REMOVED, "褚明", "chu.ming", 0, None, "", ""),
)
PROVIDERS = {"goran.cosic": "exmail", "liu.yang": "netease_qiye", "sun.li": "netease_qiye", "sales": "aliyun_qiye"}
"""Whose old mailbox is known; the new ones are all Feishu's."""


def sample_summary(members: int = len(PEOPLE)) -> WaveSummary:
    """Make a wave; beyond one member a state, the well-behaved ones repeat."""
    made = [sample_member(number) for number in range(1, members + 1)]
    return WaveSummary(
        wave="2026-03 上海 & Göteborg",
        state=WaveState.SYNCED_WITH_FAILURES,
        report_id="r-20260314-0926-7c1f",
        made_at=MADE_AT,
        members=tuple(made),
        invalid_rows=(
            InvalidRowSummary(
                4,
                "EmailAddress",
                "wang fang@new.example",
                Text("地址中有空格", "The address has a blank in it"),
                Text("去掉空格", "Remove the blank"),
            ),
            InvalidRowSummary(
                9,
                "UserName",
                SCRIPT,
                Text("与第 3 行重复", "The same as in line 3"),
                Text("删去其中一行", "Remove one of the two rows"),
            ),
            InvalidRowSummary(
                9, "SourcePort", ESCAPE, Text("不是数字", "Not a number"), Text("填写 993", "Write 993 into it")
            ),
        ),
        roster_columns=ROSTER_COLUMNS,
        previous=PreviousReport(MADE_AT - timedelta(days=1), copied=201_115, synced=4, needs_attention=9),
        seconds=5025.4,
        run_messages=104_233,
        run_bytes=9_412_003_884,
        events=(
            EventSummary(MADE_AT - timedelta(days=1, hours=2), "admin", "draft → running", "started by hand"),
            EventSummary(MADE_AT - timedelta(minutes=2), "banjia", "running → synced_with_failures", ""),
        ),
    )


def sample_later_summary() -> WaveSummary:
    """The wave after a later pass: in some mailboxes mail was deleted, moved and marked at the source meanwhile.

    One mailbox seems to show only its last month.
    """
    summary = sample_summary()
    changed = {
        4: _with_stayed(_followed(sample_member(4), Followed(3, 2, 1041, 2), Followed(0, 1, 0)), 2),
        5: replace(
            _followed(sample_member(5), Followed(1204, 0, 0), Followed()), limited_range=LimitedRange(Sign.AGE, 30)
        ),
        7: _with_stayed(sample_member(7), 1),
    }
    return replace(summary, members=tuple(changed.get(member.id, member) for member in summary.members))


def _followed(member: MemberSummary, *followed: Followed) -> MemberSummary:
    folders = tuple(replace(f, followed=each) for f, each in zip(member.folders, followed, strict=True))
    return replace(member, folders=folders)


def _with_stayed(member: MemberSummary, count: int) -> MemberSummary:
    """So many messages were moved into INBOX at the source, and their copies did not follow."""
    inbox = member.folders[0]
    counts = replace(inbox.counts, copied=inbox.counts.copied - count, issues=inbox.counts.issues + count)
    arrived = datetime(2026, 3, 2, 10, 15, tzinfo=UTC)
    stayed = tuple(
        IssueSummary("INBOX", 5100 + n, cause("moved_at_source"), arrived, 48_211, "" if n else "Sent")
        for n in range(count)
    )
    return replace(member, folders=(replace(inbox, counts=counts), *member.folders[1:]), issues=member.issues + stayed)


def sample_rows(summary: WaveSummary) -> dict[int, dict[str, str]]:
    """Give roster values as an admin uploaded them; the secrets must not come through even so."""
    return {
        member.id: {
            "UserName": member.source_user,
            "Password": "hunter2",
            "EmailAddress": member.email,
            "UserRoot": "INBOX.Work",
            "DisplayName": member.display_name,
            "TargetPassword": "hunter3",
            "Note": "+86 21 5555 0100",
        }
        for member in summary.members
    }


def sample_member(number: int) -> MemberSummary:
    person = number - 1 if number <= len(PEOPLE) else number % 6
    state, name, local, messages, cause_name, side, words = PEOPLE[person]
    local = local if number <= len(PEOPLE) else f"{local}.{number}"
    folders = sample_folders(state, messages)
    return MemberSummary(
        id=number,
        line=number + 1,
        email=f"{local}@new.example",
        display_name=name,
        department="财务部" if number % 3 else "R&D",
        source_user=f"{local}@old.example",
        source_host="imap.old.example",
        target_user=f"{local}@new.example",
        target_host="imap.new.example",
        state=state,
        cause=cause(cause_name) if cause_name else None,
        cause_side=side,
        server_text=words,
        bytes=sum(folder.bytes for folder in folders),
        folders=folders,
        left_out=(LeftOutSummary("日历", "not_mail", 2310), LeftOutSummary(SCRIPT, "excluded", 1)) if folders else (),
        issues=sample_issues(state, folders),
        repaired=sample_repairs(state),
        events=(
            EventSummary(MADE_AT - timedelta(hours=3), "admin", "ready → queued", "wave started"),
            EventSummary(MADE_AT - timedelta(hours=2), "banjia", f"queued → {state.value}", words),
        ),
        source_provider=PROVIDERS.get(local, ""),
        target_provider="feishu",
        attempts=0 if state in {M.READY, M.QUEUED, M.INVALID, M.AWAITING_PASSWORD} else 1 + number % 3,
        started_at=MADE_AT - timedelta(hours=3) if messages else None,
        finished_at=MADE_AT - timedelta(hours=2) if messages else None,
    )


def sample_folders(state: MemberState, messages: int) -> tuple[FolderSummary, ...]:
    if not messages:
        return ()
    lost = 3 if state in {M.SYNCED_WITH_ISSUES, M.COMPLETED_WITH_ISSUES} else 0
    through = lost or state in {M.SYNCED, M.COMPLETED}
    inbox = messages * 6 // 10
    already = inbox // 10
    copied = inbox - already - lost if through else inbox // 2
    return (
        FolderSummary(
            "INBOX",
            "INBOX",
            MessageCounts(inbox, copied, already, lost),
            copied * 81_920,
            datetime(2009, 4, 1, tzinfo=UTC),
            datetime(2026, 3, 14, 8, 0, tzinfo=UTC),
            {"final_line_end": copied // 3, "keyword_dropped": 2} if messages % 2 else {},
            copied,
        ),
        FolderSummary(
            "已发送/客户 <重要>",
            "Sent",
            MessageCounts(messages - inbox, messages - inbox if through else 0, 0, 0),
            (messages - inbox) * 65_000 if through else 0,
            datetime(2011, 7, 9, tzinfo=UTC),
            None,
            {"header_8bit": 4} if lost else {},
            messages - inbox if through else 0,
            why="parent",
            elsewhere=1200,
        ),
    )


def sample_repairs(state: MemberState) -> tuple[RepairSummary, ...]:
    if state is not MemberState.SYNCED_WITH_ISSUES:
        return ()
    return (
        RepairSummary("INBOX", 77, ("nul", "header_8bit"), f"NO {SCRIPT} contains NUL characters"),
        RepairSummary("已发送/客户 <重要>", 78, ("of_a_later_version",), ""),
    )


class SampleAltered:
    """What was altered in the sample: of each member that has any, one message a folder of many, with a nasty name."""

    def __init__(self, each: int = 1) -> None:
        self._each = each

    def every(self) -> Iterator[AlteredMessage]:
        for number in range(1, len(PEOPLE) + 1):
            for folder in self.of_member(number, self._each):
                yield from folder.messages

    def of_member(self, member_id: int, first: int) -> Sequence[AlteredFolder]:
        folders = [folder for folder in sample_member(member_id).folders if any(folder.altered.values())]
        return [AlteredFolder(f.source_name, self._each, self._messages(member_id, f, first)) for f in folders]

    def _messages(self, member_id: int, folder: FolderSummary, first: int) -> list[AlteredMessage]:
        return [
            AlteredMessage(
                member_id=member_id,
                email=sample_member(member_id).email,
                folder=folder.source_name,
                uidvalidity=1,
                uid=uid,
                target_folder=folder.target_name,
                target_uid=100_000 + uid,
                arrived=datetime(2019, 2, 3, 4, 5, tzinfo=UTC),
                size=4096,
                alterations=(*sorted(folder.altered), "of_a_later_version"),
                repairs=("nul",) if uid % 2 else (),
                server_text=f"NO {ESCAPE} contains NUL" if uid % 2 else "",
                subject=(SCRIPT, OVERRIDE, "=1+1", None, "")[uid % 5],
                sender=(ESCAPE, "王芳 <wang@old.example>", "", None, "")[uid % 5],
            )
            for uid in range(1, min(first, self._each) + 1)
        ]


def sample_issues(state: MemberState, folders: tuple[FolderSummary, ...]) -> tuple[IssueSummary, ...]:
    if not any(folder.counts.issues for folder in folders):
        return ()
    arrived = datetime(2018, 11, 2, 7, 30, tzinfo=UTC)
    too_large = IssueSummary("INBOX", 4711, cause("message_too_large"), arrived, 78_643_200, "NO [TOOBIG] max 50 MB")
    return (
        too_large,
        IssueSummary("INBOX", 4712, cause("message_too_large"), None, 61_865_984, "NO [TOOBIG] max 50 MB"),
        IssueSummary(
            "INBOX",
            9001,
            cause("invalid_message"),
            arrived,
            1834,
            f"NO {OVERRIDE} {SCRIPT} {ESCAPE}",
            subject=f"预算 {SCRIPT}",
            sender=f"@{OVERRIDE}",
        ),
    )
