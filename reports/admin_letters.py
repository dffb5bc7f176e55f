"""What admins are told: the daily summary, and alarms about servers. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from models.causes import OWNERS, cause
from models.uid_sets import format_uids, parse_uids
from reports.letters import LISTED, Letter, Saying, Section, plain
from reports.texts import Wording

PACE_KNOWN_AFTER = timedelta(minutes=10)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a wave stands, small enough to be kept with each summary: ids of members by how they are."""

    at: datetime
    all: int
    moved: frozenset[int]
    attention: Mapping[str, frozenset[int]]
    """By cause."""
    unfinished: int
    messages: int
    left_behind: int
    waiting: Mapping[str, int] = field(default_factory=dict)
    """Members that wait for a whole server, by `cause host`."""
    unread: int = 0
    """Notices that were refused, or may not have gone out."""

    def written(self) -> dict[str, object]:
        return {
            "at": self.at.isoformat(),
            "all": self.all,
            "moved": format_uids(sorted(self.moved)),
            "attention": {name: format_uids(sorted(ids)) for name, ids in sorted(self.attention.items())},
            "unfinished": self.unfinished,
            "messages": self.messages,
            "left_behind": self.left_behind,
            "waiting": dict(sorted(self.waiting.items())),
            "unread": self.unread,
        }

    @classmethod
    def read(cls, written: Mapping[str, object]) -> "Standing":
        found: dict[str, object] = dict(written)
        return cls(
            datetime.fromisoformat(str(found["at"])),
            _int(found["all"]),
            frozenset(parse_uids(str(found["moved"]))),
            {name: frozenset(parse_uids(str(ids))) for name, ids in _mapping(found["attention"]).items()},
            _int(found["unfinished"]),
            _int(found["messages"]),
            _int(found["left_behind"]),
            {name: _int(count) for name, count in _mapping(found["waiting"]).items()},
            _int(found["unread"]),
        )


def _int(value: object) -> int:
    return value if isinstance(value, int) else 0


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def daily_summary(
    wave: str,
    now: Standing,
    then: Standing | None,
    names: Mapping[int, str],
    words: Wording,
    pace: tuple[int, timedelta] | None = None,
) -> Letter:
    """What changed since the last summary; `names` are the members' addresses by id.

    `pace` is how many messages are left of a run that goes on, and the time that they take at its pace, where known.
    """
    say = Saying(words)
    troubled = frozenset().union(*now.attention.values())
    before = frozenset().union(*then.attention.values()) if then else frozenset()

    def row(name: str, value: int, old: int | None) -> tuple[str, str]:
        text = words.number(value)
        changed = old is not None and old != value
        return say(name), say("with_change", now=text, change=words.change(value - (old or 0))) if changed else text

    sections = [
        Section(
            say("summary_numbers"),
            rows=(
                row("number_moved", len(now.moved), len(then.moved) if then else None),
                row("number_attention", len(troubled), len(before) if then else None),
                row("number_unfinished", now.unfinished, then.unfinished if then else None),
                row("number_messages", now.messages, then.messages if then else None),
                row("number_left_behind", now.left_behind, then.left_behind if then else None),
            ),
        )
    ]
    if fresh := now.moved - (then.moved if then else frozenset()):
        sections.append(Section(say("summary_done"), (_members(fresh, names, say),)))
    new, still = [], []
    for name, ids in sorted(now.attention.items(), key=lambda item: (-len(item[1]), item[0])):
        why = cause(name)
        title, turn = words.of(why.title), words.of(OWNERS[why.owner])
        known = then.attention.get(name, frozenset()) if then else frozenset()
        if ids - known:
            new.append(say("cause_turn", title=title, turn=turn, members=_members(ids - known, names, say)))
            new.append(words.of(why.advice))
        if ids & known:
            still.append(say("cause_count", title=title, turn=turn, n=len(ids & known)))
    if new:
        sections.append(Section(say("summary_new"), tuple(new)))
    if still:
        sections.append(Section(say("summary_still"), tuple(still)))
    if now.waiting:
        sections.append(Section(say("summary_hosts"), tuple(_host_lines(now.waiting, words, say))))
    if now.unread:
        sections.append(Section(say("summary_notices"), (say("summary_notices_look", n=now.unread),)))
    lead = []
    if pace is not None:
        left, time = pace
        lead.append(say("summary_pace", n=left, time=words.duration(time.total_seconds())))
    lead.append(say("summary_since", when=say.moment(then.at)) if then else say("summary_first"))
    subject = say("summary_subject", wave=plain(wave), all=now.all, moved=len(now.moved), attention=len(troubled))
    return Letter(subject, tuple(lead), tuple(sections), (say("automatic"),))


def time_to_go(left: int, done: int, elapsed: timedelta) -> timedelta | None:
    """How long the rest of a run takes at its pace so far; None before that says anything."""
    if left <= 0 or done <= 0 or elapsed < PACE_KNOWN_AFTER:
        return None
    return elapsed * (left / done)


def alarm(
    wave: str,
    about: str,
    members: Sequence[int],
    names: Mapping[int, str],
    words: Wording,
    until: datetime | None = None,
) -> Letter:
    """A server, or the database, that stops members: `about` is `cause host`, which is left alone `until` then."""
    say = Saying(words)
    name, _, host = about.partition(" ")
    why = cause(name)
    title = words.of(why.title)
    what = say("alarm_what", host=plain(host), title=title) if host else title
    return Letter(
        say("alarm_subject", wave=plain(wave), what=what),
        (say("alarm_lead", n=len(members)), _members(members, names, say)),
        (
            Section(
                say("alarm_how"),
                (
                    words.of(why.advice),
                    say("alarm_turn", turn=words.of(OWNERS[why.owner])),
                    *([say("alarm_until", when=say.moment(until))] if until else []),
                ),
            ),
        ),
        (say("automatic"),),
    )


def _host_lines(waiting: Mapping[str, int], words: Wording, say: Saying) -> Iterable[str]:
    for about, count in waiting.items():
        name, _, host = about.partition(" ")
        yield say("host_line", host=plain(host) or say("product"), title=words.of(cause(name).title), n=count)


def _members(ids: Iterable[int], names: Mapping[int, str], say: Saying) -> str:
    found = [plain(names[each]) for each in sorted(ids) if each in names]
    shown = found[:LISTED]
    if len(found) > LISTED:
        shown.append(say("more", n=len(found) - LISTED))
    return say("list_comma").join(shown)
