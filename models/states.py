"""The states of members and waves, and the changes that are allowed between them.

One word never stands for two situations: `throttled` always has a time to go on, `failed` always has a cause.
"""

from enum import StrEnum

from models.bilingual import Text


class MemberState(StrEnum):
    INVALID = "invalid"
    AWAITING_PASSWORD = "awaiting_password"
    CHECKING = "checking"
    READY = "ready"
    QUEUED = "queued"
    SYNCING = "syncing"
    THROTTLED = "throttled"
    SYNCED = "synced"
    SYNCED_WITH_ISSUES = "synced_with_issues"
    NEEDS_PASSWORD = "needs_password"
    PAUSED = "paused"
    FAILED = "failed"
    COMPLETED = "completed"
    COMPLETED_WITH_ISSUES = "completed_with_issues"
    REMOVED = "removed"


class WaveState(StrEnum):
    DRAFT = "draft"
    CHECKING = "checking"
    SCHEDULED = "scheduled"
    RUNNING = "running"
    PAUSED = "paused"
    SYNCED = "synced"
    SYNCED_WITH_FAILURES = "synced_with_failures"
    COMPLETING = "completing"
    COMPLETED = "completed"
    COMPLETED_WITH_FAILURES = "completed_with_failures"
    CANCELLED = "cancelled"


class ShortState(StrEnum):
    """The few words for lists and filters."""

    WAITING = "waiting"
    ACTIVE = "active"
    SYNCED = "synced"
    NEEDS_ATTENTION = "needs_attention"
    DONE = "done"


MEMBER_STATE_NAMES: dict[MemberState, Text] = {
    MemberState.INVALID: Text("名单有误", "Row has a problem"),
    MemberState.AWAITING_PASSWORD: Text("待填写密码", "Password missing"),
    MemberState.CHECKING: Text("检查登录中", "Checking sign-in"),
    MemberState.READY: Text("已就绪", "Ready"),
    MemberState.QUEUED: Text("排队中", "In line"),
    MemberState.SYNCING: Text("搬家中", "Moving"),
    MemberState.THROTTLED: Text("服务器限速，稍后继续", "Server asks us to wait"),
    MemberState.SYNCED: Text("已同步", "Synced"),
    MemberState.SYNCED_WITH_ISSUES: Text("已同步，有未搬邮件", "Synced, some messages not moved"),
    MemberState.NEEDS_PASSWORD: Text("密码失效，待重新填写", "Password not accepted"),
    MemberState.PAUSED: Text("已暂停", "Paused"),
    MemberState.FAILED: Text("失败", "Failed"),
    MemberState.COMPLETED: Text("已完成", "Completed"),
    MemberState.COMPLETED_WITH_ISSUES: Text("已完成，有未搬邮件", "Completed, some messages not moved"),
    MemberState.REMOVED: Text("已移出", "Removed"),
}

WAVE_STATE_NAMES: dict[WaveState, Text] = {
    WaveState.DRAFT: Text("草稿", "Draft"),
    WaveState.CHECKING: Text("检查中", "Checking"),
    WaveState.SCHEDULED: Text("已排期", "Scheduled"),
    WaveState.RUNNING: Text("进行中", "Running"),
    WaveState.PAUSED: Text("已暂停", "Paused"),
    WaveState.SYNCED: Text("本轮完成", "Synced"),
    WaveState.SYNCED_WITH_FAILURES: Text("本轮完成（有失败）", "Synced, with failures"),
    WaveState.COMPLETING: Text("收尾中", "Completing"),
    WaveState.COMPLETED: Text("已完成", "Completed"),
    WaveState.COMPLETED_WITH_FAILURES: Text("已完成（有失败）", "Completed, with failures"),
    WaveState.CANCELLED: Text("已取消", "Cancelled"),
}

SHORT_STATE_NAMES: dict[ShortState, Text] = {
    ShortState.WAITING: Text("等待", "Waiting"),
    ShortState.ACTIVE: Text("进行中", "Active"),
    ShortState.SYNCED: Text("已同步", "Synced"),
    ShortState.NEEDS_ATTENTION: Text("需处理", "Needs attention"),
    ShortState.DONE: Text("已完成", "Done"),
}

_M = MemberState
SHORT_STATES: dict[MemberState, ShortState] = {
    _M.INVALID: ShortState.NEEDS_ATTENTION,
    _M.AWAITING_PASSWORD: ShortState.NEEDS_ATTENTION,
    _M.CHECKING: ShortState.ACTIVE,
    _M.READY: ShortState.WAITING,
    _M.QUEUED: ShortState.WAITING,
    _M.SYNCING: ShortState.ACTIVE,
    _M.THROTTLED: ShortState.WAITING,
    _M.SYNCED: ShortState.SYNCED,
    _M.SYNCED_WITH_ISSUES: ShortState.NEEDS_ATTENTION,
    _M.NEEDS_PASSWORD: ShortState.NEEDS_ATTENTION,
    _M.PAUSED: ShortState.WAITING,
    _M.FAILED: ShortState.NEEDS_ATTENTION,
    _M.COMPLETED: ShortState.DONE,
    _M.COMPLETED_WITH_ISSUES: ShortState.DONE,
    _M.REMOVED: ShortState.DONE,
}

# Where a member is after a pass has run over it, well or badly.
AT_REST = frozenset(
    {
        _M.AWAITING_PASSWORD,
        _M.READY,
        _M.QUEUED,
        _M.THROTTLED,
        _M.SYNCED,
        _M.SYNCED_WITH_ISSUES,
        _M.NEEDS_PASSWORD,
        _M.PAUSED,
        _M.FAILED,
    }
)
MOVED = frozenset({_M.SYNCED, _M.SYNCED_WITH_ISSUES, _M.COMPLETED, _M.COMPLETED_WITH_ISSUES})
FINAL = frozenset({_M.COMPLETED, _M.COMPLETED_WITH_ISSUES, _M.REMOVED})
_RUNNING = frozenset({_M.CHECKING, _M.SYNCING})

# A process that died leaves `checking` or `syncing` behind, so both may be queued, and started, again.
MEMBER_CHANGES: dict[MemberState, frozenset[MemberState]] = {
    _M.INVALID: frozenset({_M.QUEUED, _M.AWAITING_PASSWORD, _M.REMOVED}),
    **{state: (AT_REST | _RUNNING | FINAL) - {state} for state in AT_REST},
    _M.CHECKING: AT_REST | {_M.SYNCING},
    _M.SYNCING: AT_REST | {_M.CHECKING},
    _M.COMPLETED: frozenset({_M.REMOVED}),
    _M.COMPLETED_WITH_ISSUES: frozenset({_M.QUEUED, _M.REMOVED}),
    _M.REMOVED: frozenset({_M.QUEUED}),
}


class IllegalChange(Exception):
    """A change of state that the table does not allow: a defect of ours, never an admin's mistake."""


def check_member_change(old: MemberState, new: MemberState) -> None:
    """Raise IllegalChange unless a member may go from `old` to `new`; staying is always allowed."""
    if new != old and new not in MEMBER_CHANGES[old]:
        raise IllegalChange(f"a member cannot go from {old} to {new}")
