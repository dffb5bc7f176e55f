"""What a report says, as plain values: counted, grouped and graded here, rendered elsewhere. Pure.

Every number of the HTML, the CSV and the JSON comes from these values, so they cannot disagree.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import IntEnum

from models.bilingual import Text
from models.causes import Cause, cause
from models.hints import Hint
from models.hosts import HostWait
from models.ledger_rows import BENIGN
from models.providers import ANYBODY, Provider, provider_named
from models.receive_range import LimitedRange
from models.server_words import KnownBy
from models.states import MOVED, SHORT_STATES, MemberState, ShortState, WaveState
from reports.check import CheckedMember
from reports.steps import Cure, cures_of, hints_of

# A mailbox with more refused or lost messages than this share, and more than this many, is Poor.
POOR_SHARE = 0.01
POOR_COUNT = 10

# The cause of an issue whose copy is elsewhere: its server's words are the folder, "" where the member removed it.
MOVED_AT_SOURCE = "moved_at_source"


class Grade(IntEnum):
    """How well a mailbox arrived; a wave takes its worst member."""

    PERFECT = 0
    GOOD = 1
    INVESTIGATE = 2
    POOR = 3


GRADE_NAMES: dict[Grade, Text] = {
    Grade.PERFECT: Text("完美", "Perfect"),
    Grade.GOOD: Text("良好", "Good"),
    Grade.INVESTIGATE: Text("需查看", "Investigate"),
    Grade.POOR: Text("较差", "Poor"),
}

GRADE_RULES: dict[Grade, Text] = {
    Grade.PERFECT: Text(
        "全部邮件已搬到，读回核对完全一致，日期和标记相同",
        "every message arrived; what was read back is identical, dates and flags are equal",
    ),
    Grade.GOOD: Text(
        "全部邮件已搬到；最多是服务器改动了换行、放弃了自定义标记，个别邮件经修复送达、日期取自邮件头，或者有邮件后来在源邮箱中移动，而成员已在新邮箱中删除了副本",
        "every message arrived; at most, the server changed line ends or dropped a keyword, a message was repaired or "
        "dated by its header, or one was moved at the source whose copy the member had removed",
    ),
    Grade.INVESTIGATE: Text(
        "有少量邮件未搬，或服务器改动了内容、邮件头、日期或标记，或有邮件在目标邮箱中有两份，或有邮件后来在源邮箱中移动而副本仍在原来的文件夹，或旧邮箱的收取范围可能不是“全部”",
        "a few messages were not moved, the server altered text, a header, a date or a flag, some are there twice, "
        "copies of messages that were moved at the source are still in the folder where they were, or the old service "
        "seems to hide older mail (receive range)",
    ),
    Grade.POOR: Text(
        f"未搬邮件超过 {POOR_COUNT} 封且超过 {POOR_SHARE:.0%}",
        f"more than {POOR_COUNT} messages and more than {POOR_SHARE:.0%} were not moved",
    ),
}


@dataclass(frozen=True, slots=True)
class MessageCounts:
    """Messages of the source by their end; `unaccounted` is 0 when the pass went through."""

    source: int = 0
    copied: int = 0
    already_there: int = 0
    issues: int = 0

    @property
    def unaccounted(self) -> int:
        return self.source - self.copied - self.already_there - self.issues

    def __add__(self, other: "MessageCounts") -> "MessageCounts":
        return MessageCounts(
            self.source + other.source,
            self.copied + other.copied,
            self.already_there + other.already_there,
            self.issues + other.issues,
        )


@dataclass(frozen=True, slots=True)
class Followed:
    """What happened at the source to messages after they had been brought over."""

    gone: int = 0
    """Deleted there; nothing is deleted at the target."""
    moved: int = 0
    """Moved into another folder, and their copies too."""
    flags_changed: int = 0
    strayed: int = 0
    """Moved into another folder, and their copies not."""

    def __bool__(self) -> bool:
        return bool(self.gone or self.moved or self.flags_changed or self.strayed)

    def __add__(self, other: "Followed") -> "Followed":
        return Followed(
            self.gone + other.gone,
            self.moved + other.moved,
            self.flags_changed + other.flags_changed,
            self.strayed + other.strayed,
        )


@dataclass(frozen=True, slots=True)
class FolderSummary:
    """One folder of one member; `altered` counts messages by what the target's server changed."""

    source_name: str
    target_name: str
    counts: MessageCounts
    bytes: int
    oldest: datetime | None
    newest: datetime | None
    altered: Mapping[str, int]
    read_back: int
    """Messages whose bytes were read back from the target and compared."""
    followed: Followed = Followed()
    why: str = ""
    """Why it went where it went, where that does not follow from its name; a name in `texts.toml`."""
    elsewhere: int = 0
    """Of a view: messages that were moved from other folders, where they are too."""


@dataclass(frozen=True, slots=True)
class LeftOutSummary:
    """A folder that was not moved, with the reason and how many messages stay in it."""

    source_name: str
    why: str
    messages: int


@dataclass(frozen=True, slots=True)
class IssueSummary:
    """One message that was not moved."""

    folder: str
    source_uid: int
    cause: Cause
    arrived: datetime | None
    size: int
    server_text: str
    known_by: KnownBy | None = None
    """What told the cause; None where no server said anything."""
    subject: str | None = None
    """None where nobody has looked, or it is hidden."""
    sender: str | None = None


@dataclass(frozen=True, slots=True)
class AlterationGroup:
    """What servers altered in one way, over the members of a wave."""

    name: str
    messages: int
    members: int


@dataclass(frozen=True, slots=True)
class RepairSummary:
    """One message that arrived only after it had been changed, and the server's words for which it was."""

    folder: str
    source_uid: int
    repairs: tuple[str, ...]
    server_text: str


@dataclass(frozen=True, slots=True)
class EventSummary:
    """One line of a member's or a wave's timeline."""

    at: datetime
    who: str
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class MemberSummary:
    """One row of the report; `cause` is set for every member that needs attention."""

    id: int
    line: int
    email: str
    display_name: str
    department: str
    source_user: str
    source_host: str
    target_user: str
    target_host: str
    state: MemberState
    cause: Cause | None
    cause_side: str
    """"source", "target" or "": whose server gave the answer."""
    server_text: str
    """The server's own words, redacted: the technical detail under the advice."""
    bytes: int
    """Bytes this program copied."""
    known_by: KnownBy | None = None
    """What told the cause; None where no server said anything."""
    found: int = 0
    """Messages at the source when the last pass listed it; folders it did not reach are not in `folders`."""
    folders: tuple[FolderSummary, ...] = ()
    left_out: tuple[LeftOutSummary, ...] = ()
    issues: tuple[IssueSummary, ...] = ()
    repaired: tuple[RepairSummary, ...] = ()
    events: tuple[EventSummary, ...] = ()
    attempts: int = 0
    limited_range: LimitedRange | None = None
    """Why the source is suspected to show only a part of the mail."""
    source_provider: str = ""
    """Whose the old mailbox is, a row of the table of providers; "" where nobody could tell."""
    target_provider: str = ""
    hint: Hint | None = None
    """What probably lies behind the cause."""
    resume_at: datetime | None = None
    """When it goes on by itself."""
    started_at: datetime | None = None
    finished_at: datetime | None = None

    @property
    def counts(self) -> MessageCounts:
        total = sum((folder.counts for folder in self.folders), MessageCounts())
        return total if self.moved else replace(total, source=max(total.source, self.found))

    @property
    def short_state(self) -> ShortState:
        return SHORT_STATES[self.state]

    @property
    def moved(self) -> bool:
        return self.state in MOVED

    @property
    def grade(self) -> Grade | None:
        """None while the mailbox has not been moved through once."""
        if not self.moved:
            return None
        found = grade(self.counts, self.altered, self.harmless, self.misplaced)
        return max(found, Grade.INVESTIGATE) if self.limited_range else found

    @property
    def harmless(self) -> int:
        """Messages among those that were not moved for which nobody has to do anything."""
        return sum(issue.cause.harmless for issue in self.issues)

    @property
    def misplaced(self) -> int:
        """Messages among those whose copies lie in another folder than they do."""
        return sum(issue.cause.id == MOVED_AT_SOURCE and bool(issue.server_text) for issue in self.issues)

    @property
    def followed(self) -> Followed:
        return sum((folder.followed for folder in self.folders), Followed())

    @property
    def altered(self) -> dict[str, int]:
        total: dict[str, int] = defaultdict(int)
        for folder in self.folders:
            for name, count in folder.altered.items():
                total[name] += count
        return dict(total)

    @property
    def advice(self) -> Text | None:
        return self.cause.advice if self.cause else None

    def provider(self, side: str) -> Provider:
        """What is known of the provider on one side."""
        return provider_named((self.target_provider if side == "target" else self.source_provider) or ANYBODY)

    def steps_against(self, cause: Cause) -> tuple[Text, ...]:
        """What to click at the member's own provider against a cause; empty where nothing is known."""
        return self.cured_at(cause).steps_for(cause.step)

    def cured_at(self, cause: Cause) -> Provider:
        """Whose answer it was: one of the new side is cured there; all else, as a limited range, at the source."""
        return self.provider(self.cause_side if self.cause and self.cause.id == cause.id else "source")

    @property
    def leading_cause(self) -> Cause | None:
        """The member's own cause, else the commonest among its messages that were not moved."""
        if self.cause:
            return self.cause
        found = Counter(issue.cause.id for issue in self.issues if not issue.cause.harmless)
        return cause(min(found, key=lambda name: (-found[name], name))) if found else None


@dataclass(frozen=True, slots=True)
class InvalidRowSummary:
    """A problem of the roster; its row was not moved."""

    line: int
    column: str
    value: str
    problem: Text
    fix: Text


@dataclass(frozen=True, slots=True)
class CauseGroup:
    """The members that share a cause, and so a cure."""

    cause: Cause
    members: tuple[MemberSummary, ...]
    messages: int

    @property
    def cures(self) -> tuple[Cure[MemberSummary], ...]:
        """What members of each provider click against it."""
        return cures_of(self.cause, ((member, member.cured_at(self.cause)) for member in self.members))

    @property
    def hints(self) -> tuple[tuple[Text, tuple[MemberSummary, ...]], ...]:
        """What probably lies behind it, with the members of whom it is thought."""
        return hints_of((member, member.hint) for member in self.members if member.cause == self.cause)

    @property
    def without_steps(self) -> tuple[MemberSummary, ...]:
        """The members of providers of which no steps are known: the general advice is for them."""
        return tuple(member for member in self.members if not member.steps_against(self.cause))


@dataclass(frozen=True, slots=True)
class PreviousReport:
    """The numbers of the report before this one, for "what changed"."""

    made_at: datetime
    copied: int
    synced: int
    needs_attention: int


@dataclass(frozen=True, slots=True)
class WaveSummary:
    """Everything that a report of a wave says."""

    wave: str
    state: WaveState
    report_id: str
    made_at: datetime
    members: tuple[MemberSummary, ...]
    invalid_rows: tuple[InvalidRowSummary, ...] = ()
    roster_columns: tuple[str, ...] = ()
    previous: PreviousReport | None = None
    credentials_purged_at: datetime | None = None
    seconds: float = 0.0
    """Wall time of the last run over the wave."""
    run_messages: int = 0
    run_bytes: int = 0
    """What that run alone copied; with `seconds` it gives the speed, which the sums over all passes would not."""
    events: tuple[EventSummary, ...] = field(default=())
    checks: tuple[CheckedMember, ...] = ()
    """What the last check saw of the members that have not been moved yet; empty when there was none."""
    waits: tuple[HostWait, ...] = ()
    """Hosts that are left alone now."""

    @property
    def counts(self) -> MessageCounts:
        return sum((member.counts for member in self.members), MessageCounts())

    @property
    def harmless(self) -> int:
        return sum(member.harmless for member in self.members)

    @property
    def followed(self) -> Followed:
        return sum((member.followed for member in self.members), Followed())

    @property
    def bytes(self) -> int:
        return sum(member.bytes for member in self.members)

    @property
    def altered(self) -> tuple[AlterationGroup, ...]:
        """What was altered in messages that arrived, the gravest first, then the commonest."""
        messages: Counter[str] = Counter()
        members: Counter[str] = Counter()
        for altered in (member.altered for member in self.members):
            messages.update(altered)
            members.update(name for name, count in altered.items() if count)
        found = (AlterationGroup(name, count, members[name]) for name, count in messages.items() if count)
        return tuple(sorted(found, key=lambda each: (each.name in BENIGN, -each.messages, each.name)))

    @property
    def completed(self) -> tuple[MemberSummary, ...]:
        return tuple(m for m in self.members if m.moved and m.short_state != ShortState.NEEDS_ATTENTION)

    @property
    def needs_attention(self) -> tuple[MemberSummary, ...]:
        return tuple(m for m in self.members if m.short_state == ShortState.NEEDS_ATTENTION)

    @property
    def unfinished(self) -> tuple[MemberSummary, ...]:
        """Members that are neither through nor in need of anybody: waiting or under way."""
        return tuple(m for m in self.members if m.short_state in {ShortState.WAITING, ShortState.ACTIVE})

    @property
    def removed(self) -> tuple[MemberSummary, ...]:
        """Members that were taken out of the wave: none of ours any more, but never silently gone."""
        return tuple(m for m in self.members if m.state == MemberState.REMOVED)

    @property
    def grade(self) -> Grade | None:
        return max((m.grade for m in self.members if m.grade is not None), default=None)

    @property
    def invalid_lines(self) -> int:
        """Roster rows that were left out."""
        return len({row.line for row in self.invalid_rows})

    @property
    def all_done(self) -> bool:
        return not self.needs_attention and not self.unfinished and not self.invalid_rows

    @property
    def only_checked(self) -> bool:
        """Nothing was ever moved, and the check says everything that is to be said of a member."""
        return bool(self.checks) and all(event.what != "start" for event in self.events)

    @property
    def retried_later(self) -> bool:
        """Whether members wait for somebody, and are to be tried again after that."""
        return any(group.cause.owner in {"admin", "member", "support"} for group in self.causes)

    @property
    def causes(self) -> tuple[CauseGroup, ...]:
        """Causes of members and of single messages, the commonest first."""
        return group_by_cause(self.members)

    @property
    def limited(self) -> CauseGroup | None:
        """The members whose source seems to show only a part of the mail; their state says nothing of it."""
        found = tuple(member for member in self.members if member.limited_range)
        return CauseGroup(cause("receive_range"), found, 0) if found else None

    @property
    def harmless_causes(self) -> tuple[CauseGroup, ...]:
        """Causes for which nobody has to do anything, with the members that have messages of them."""
        return group_harmless(self.members)


def grade(counts: MessageCounts, altered: Mapping[str, int], harmless: int = 0, misplaced: int = 0) -> Grade:
    """Grade one mailbox by the published rule (GRADE_RULES); `harmless` are the issues that lose no message, of which
    `misplaced` have their copy in another folder.
    """
    not_moved = counts.issues - harmless + max(counts.unaccounted, 0)
    if not_moved > POOR_COUNT and not_moved > POOR_SHARE * counts.source:
        return Grade.POOR
    changed = {name for name, count in altered.items() if count}
    if not_moved or misplaced or changed - BENIGN:
        return Grade.INVESTIGATE
    return Grade.GOOD if changed or harmless else Grade.PERFECT


def group_by_cause(members: Iterable[MemberSummary]) -> tuple[CauseGroup, ...]:
    """Group members in need of attention by cause; a member with issues counts once for each cause among them."""
    troubled = [member for member in members if member.short_state == ShortState.NEEDS_ATTENTION]
    own = ((member.cause, member, 0) for member in troubled if member.cause)
    issues = ((i.cause, member, 1) for member in troubled for i in member.issues if not i.cause.harmless)
    return _grouped([*own, *issues])


def group_harmless(members: Iterable[MemberSummary]) -> tuple[CauseGroup, ...]:
    """Group all members by those causes of their issues that ask nothing of anybody."""
    return _grouped((i.cause, member, 1) for member in members for i in member.issues if i.cause.harmless)


def _grouped(found: Iterable[tuple[Cause, MemberSummary, int]]) -> tuple[CauseGroup, ...]:
    # A cause may be cured differently on the two sides; then it is two groups.
    groups: dict[Cause, dict[int, MemberSummary]] = defaultdict(dict)
    messages: Counter[Cause] = Counter()
    for each, member, count in found:
        groups[each][member.id] = member
        messages[each] += count
    made = (CauseGroup(each, tuple(some.values()), messages[each]) for each, some in groups.items())
    return tuple(sorted(made, key=lambda group: (-len(group.members), group.cause.id, group.cause.advice.en)))
