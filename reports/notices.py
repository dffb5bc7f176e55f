"""What notices say, as letters: a subject, a few sections, in one language. Pure.

Text, HTML and chat are made from the same letter, so they cannot disagree.
What a stranger wrote (names, folders, hosts) is made visible here; the templates escape it.
"""

import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from models.bilingual import Text
from models.causes import OWNERS, Cause, cause
from models.providers import STEPS, Provider, Step
from models.states import MemberState
from models.uid_sets import format_uids, parse_uids
from reports.summary import MemberSummary
from reports.texts import Wording, filled, visible

LISTED = 20
"""So many of a kind are listed in a notice; the report has all."""
LONGEST = 200
"""Characters of a name that somebody chose."""
CHAT_BYTES = 2000
"""WeCom takes 2,048 octets of text, DingTalk and Feishu 20,000; longer is not read in a chat anyway."""
PACE_KNOWN_AFTER = timedelta(minutes=10)


@cache
def notice_texts() -> dict[str, Text]:
    """Every sentence of the notices by its name."""
    rows = tomllib.loads((files("reports") / "notices.toml").read_text(encoding="utf-8"))
    return {name: Text(**row) for name, row in rows.items()}


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with sentences, numbered steps and a table of two columns below it."""

    title: str
    lines: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()
    rows: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Letter:
    """A notice in one language."""

    subject: str
    lead: tuple[str, ...]
    sections: tuple[Section, ...] = ()
    closing: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class MemberNotice:
    """What a letter to a member is made of."""

    wave: str
    old: str
    new: str
    name: str = ""
    starts_at: datetime | None = None
    source: Provider | None = None
    target: Provider | None = None
    missing: frozenset[str] = frozenset({"source", "target"})
    """Sides whose password is not known yet."""
    contact: str = ""
    side: str = "source"
    """Where a reminder's cause lies."""


def invitation(notice: MemberNotice, words: Wording) -> Letter:
    """What will happen, when, and what the member has to do before."""
    say = _saying(words)
    old, new = _plain(notice.old), _plain(notice.new)
    when = (
        say("invitation_when", when=words.moment_with_zone(notice.starts_at))
        if notice.starts_at
        else say("invitation_when_open")
    )
    todo = _old_password(say, notice, words) if "source" in notice.missing else _clicks(notice.source, ["lock"], words)
    todo += _clicks(notice.source, ["receive_range"], words, (say("prepare_range_why"),))
    if not {"receive_range"} & _kinds_of(notice.source):
        todo.append(Section(say("prepare_range"), (say("prepare_range_why"),), (say("prepare_range_any"),)))
    if "target" in notice.missing:
        todo += _new_password(say, notice, words)
    if notice.missing:
        todo.append(Section(say("prepare_hand_over"), (_hand_over(say, notice),)))
    return Letter(
        say("invitation_subject", old=old, new=new),
        (_greeting(say, notice), say("invitation_lead", old=old, new=new), when),
        (
            Section(say("what_happens"), (say("happens_copied"), say("happens_both"), say("happens_told"))),
            *_in_order(say, todo),
            Section(say("security_notices"), (say("security_old"), say("security_new"), say("security_fine"))),
            Section(say("please_do_not"), (say("do_not_change"),)),
        ),
        _closing(say, notice),
    )


def reminder(notice: MemberNotice, why: Cause, words: Wording) -> Letter:
    """What is still missing, and how the member mends it."""
    say = _saying(words)
    old, new = _plain(notice.old), _plain(notice.new)
    passwords = why.id == "password_missing"
    matter = say("reminder_password") if passwords else words.of(why.title) + say("stop")
    todo: list[Section] = []
    if passwords:
        if "source" in notice.missing:
            todo += _old_password(say, notice, words)
        if "target" in notice.missing:
            todo += _new_password(say, notice, words)
    else:
        where = notice.target if notice.side == "target" else notice.source
        known = _clicks(where, _step_of(why), words)
        todo += known or [
            Section(say("reminder_how"), (say("how_target" if notice.side == "target" else "how_source"),))
        ]
    if passwords or why.step == "client_password":
        todo.append(Section(say("prepare_hand_over"), (_hand_over(say, notice),)))
    elif notice.contact:
        todo.append(Section(say("reminder_tell"), (_plain(notice.contact),)))
    return Letter(
        say("reminder_subject", old=old),
        (_greeting(say, notice), say("reminder_lead", old=old, new=new)),
        (Section(say("reminder_what"), (matter,)), *_in_order(say, todo)),
        (say("reminder_done"), *_closing(say, notice)),
    )


def completion(notice: MemberNotice, moved: MemberSummary, words: Wording) -> Letter:
    """What was moved, where it is, what was not moved, and what comes next."""
    say = _saying(words)
    old, new = _plain(notice.old), _plain(notice.new)
    counts = moved.counts
    sections = [
        Section(
            say("completion_numbers"),
            rows=(
                (say("number_source"), words.number(counts.source)),
                (say("number_copied"), words.number(counts.copied)),
                (say("number_already"), words.number(counts.already_there)),
                (say("number_issues"), words.number(counts.issues)),
                (say("number_bytes"), words.size(moved.bytes)),
            ),
        ),
        _places(moved, say),
    ]
    if counts.issues or moved.left_out:
        sections.append(_left_behind(moved, words, say))
    if moved.limited_range:
        known = _clicks(notice.source, ["receive_range"], words)
        steps = known[0].steps if known else (say("prepare_range_any"),)
        sections.append(Section(say("range_suspected"), (say("range_why"),), steps))
    finished = moved.state in {MemberState.COMPLETED, MemberState.COMPLETED_WITH_ISSUES}
    sections.append(
        Section(say("completion_next"), (say("next_none" if finished else "next_passes"), say("next_untouched")))
    )
    return Letter(
        say("completion_subject", new=new),
        (_greeting(say, notice), say("completion_lead", old=old, new=new)),
        tuple(sections),
        _closing(say, notice),
    )


def _places(moved: MemberSummary, say: "_Say") -> Section:
    renamed = [
        (_plain(folder.source_name), f"→ {_plain(folder.target_name)}")
        for folder in moved.folders
        if folder.target_name and folder.target_name.casefold() != folder.source_name.casefold()
    ]
    more = ((say("more", n=len(renamed) - LISTED), ""),) if len(renamed) > LISTED else ()
    line = say("where_other" if renamed else "where_same")
    return Section(say("completion_where"), (line,), rows=(*renamed[:LISTED], *more))


def _left_behind(moved: MemberSummary, words: Wording, say: "_Say") -> Section:
    lines = [say("issues_kept")] if moved.issues else []
    counted = Counter(issue.cause.id for issue in moved.issues)
    for name, count in sorted(counted.items(), key=lambda item: (-item[1], item[0])):
        lines.append(say("issue_line", title=words.of(cause(name).title), n=count))
    for folder in moved.left_out[:LISTED]:
        why = words.placement(folder.why)
        lines.append(say("left_out_line", folder=_plain(folder.source_name), n=folder.messages, why=why))
    rows = [
        (
            _plain(issue.folder),
            say(
                "issue_one",
                folder=words.of(issue.cause.title),
                date=words.day(issue.arrived),
                size=words.size(issue.size),
            ),
        )
        for issue in moved.issues[:LISTED]
    ]
    if len(moved.issues) > LISTED:
        rows.append((say("more", n=len(moved.issues) - LISTED), ""))
    return Section(say("completion_issues"), tuple(lines), rows=tuple(rows))


# Admins.


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
    say = _saying(words)
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
        sections.append(Section(say("summary_notices"), (words.number(now.unread),)))
    lead = []
    if pace is not None:
        left, time = pace
        lead.append(say("summary_pace", n=left, time=words.duration(time.total_seconds())))
    lead.append(say("summary_since", when=words.moment_with_zone(then.at)) if then else say("summary_first"))
    subject = say("summary_subject", wave=_plain(wave), all=now.all, moved=len(now.moved), attention=len(troubled))
    return Letter(subject, tuple(lead), tuple(sections), (say("automatic"),))


def time_to_go(left: int, done: int, elapsed: timedelta) -> timedelta | None:
    """How long the rest of a run takes at its pace so far; None before that says anything."""
    if left <= 0 or done <= 0 or elapsed < PACE_KNOWN_AFTER:
        return None
    return elapsed * (left / done)


def alarm(wave: str, about: str, members: Sequence[int], names: Mapping[int, str], words: Wording) -> Letter:
    """A server, or the database, that stops members: `about` is `cause host`."""
    say = _saying(words)
    name, _, host = about.partition(" ")
    why = cause(name)
    title = words.of(why.title)
    lead = (
        say("alarm_lead", host=_plain(host), title=title, n=len(members))
        if host
        else say("alarm_ours", title=title, n=len(members))
    )
    how = (words.of(why.advice), say("alarm_turn", turn=words.of(OWNERS[why.owner])))
    return Letter(
        say("alarm_subject", wave=_plain(wave), title=title),
        (lead, _members(members, names, say)),
        (Section(say("alarm_how"), how),),
        (say("automatic"),),
    )


def _host_lines(waiting: Mapping[str, int], words: Wording, say: "_Say") -> Iterable[str]:
    for about, count in waiting.items():
        name, _, host = about.partition(" ")
        yield say("host_line", host=_plain(host) or say("product"), title=words.of(cause(name).title), n=count)


def _members(ids: Iterable[int], names: Mapping[int, str], say: "_Say") -> str:
    found = [_plain(names[each]) for each in sorted(ids) if each in names]
    shown = found[:LISTED]
    if len(found) > LISTED:
        shown.append(say("more", n=len(found) - LISTED))
    return say("list_comma").join(shown)


# Forms of a letter.


def as_text(letter: Letter) -> str:
    """The letter for those who read plain text."""
    return _environment().get_template("notice.txt.j2").render(letter=letter).strip() + "\n"


def as_html(letter: Letter, words: Wording) -> str:
    """The letter as a page that asks for nothing from elsewhere."""
    product = words.of(notice_texts()["product"])
    return _environment().get_template("notice.html.j2").render(letter=letter, language=words.language, product=product)


def as_chat(letter: Letter) -> str:
    """The letter for a group chat: plain, short, and unable to call everybody (`<at user_id="all">`, `<!channel>`)."""
    text = as_text(letter).replace("<", "‹").replace(">", "›")
    octets = text.encode()
    return text if len(octets) <= CHAT_BYTES else octets[:CHAT_BYTES].decode(errors="ignore").rstrip() + " …"


@cache
def _environment() -> Environment:
    return Environment(
        autoescape=select_autoescape(["html.j2"]),
        undefined=StrictUndefined,
        loader=PackageLoader("reports", "templates"),
        trim_blocks=True,
        lstrip_blocks=True,
    )


class _Say:
    """Says sentences of the notices in one language."""

    def __init__(self, words: Wording) -> None:
        self._words = words

    def __call__(self, name: str, /, **values: object) -> str:
        return self._words.of(filled(notice_texts()[name], **values))


def _saying(words: Wording) -> _Say:
    return _Say(words)


def _plain(text: str) -> str:
    shown = visible(text)
    return shown if len(shown) <= LONGEST else shown[:LONGEST] + "…"


def _greeting(say: _Say, notice: MemberNotice) -> str:
    return say("greeting", name=_plain(notice.name)) if notice.name else say("greeting_nobody")


def _closing(say: _Say, notice: MemberNotice) -> tuple[str, ...]:
    asked = (say("questions", contact=_plain(notice.contact)),) if notice.contact else ()
    return (*asked, say("automatic"))


def _in_order(say: _Say, todo: Sequence[Section]) -> list[Section]:
    """Things to do, numbered where there are several."""
    if len(todo) < 2:
        return list(todo)
    return [replace(each, title=say("numbered", n=n, title=each.title)) for n, each in enumerate(todo, start=1)]


def _hand_over(say: _Say, notice: MemberNotice) -> str:
    return say("hand_over_way", contact=_plain(notice.contact)) if notice.contact else say("hand_over_any")


def _kinds_of(provider: Provider | None) -> set[Step]:
    return set(provider.steps) if provider else set()


def _step_of(why: Cause) -> list[Step]:
    return [kind for kind in STEPS if kind == why.step]


def _clicks(
    provider: Provider | None, kinds: Iterable[Step], words: Wording, lines: tuple[str, ...] = ()
) -> list[Section]:
    """The service's own steps of these kinds, as far as they are known, a section for each."""
    found = []
    for kind in kinds:
        if provider and (steps := provider.steps.get(kind)):
            title = filled(notice_texts()["step_in"], title=words.of(STEPS[kind][1]), service=words.of(provider.title))
            found.append(Section(words.of(title), lines, tuple(words.of(step) for step in steps)))
    return found


def _old_password(say: _Say, notice: MemberNotice, words: Wording) -> list[Section]:
    """What the member clicks until there is a password for the old mailbox."""
    found = _clicks(notice.source, ["lock", "imap", "client_password"], words)
    if "client_password" not in _kinds_of(notice.source):
        found.append(Section(say("prepare_old"), (), (say("prepare_old_any"),)))
    return found


def _new_password(say: _Say, notice: MemberNotice, words: Wording) -> list[Section]:
    """What the member clicks to get a password for the new mailbox."""
    known = _clicks(notice.target, ["client_password"], words)
    return known or [Section(say("prepare_new"), (), (say("prepare_new_any"),))]
