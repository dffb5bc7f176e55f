"""What members are told: the invitation, reminders, the completion. Pure."""

from collections import Counter
from dataclasses import dataclass
from datetime import datetime

from models.causes import Cause, cause
from models.providers import ANYBODY, Provider
from models.states import MemberState
from reports.letters import LISTED, Letter, Saying, Section, plain
from reports.preparation import clicks, expectations, hand_over, numbered, preparation
from reports.summary import MemberSummary
from reports.texts import Wording


@dataclass(frozen=True, slots=True)
class MemberNotice:
    """What a letter to a member is made of."""

    old: str
    new: str
    source: Provider
    target: Provider
    name: str = ""
    starts_at: datetime | None = None
    """None when that is not fixed, or over."""
    missing: frozenset[str] = frozenset({"source", "target"})
    """Sides whose password is not known yet."""
    contact: str = ""
    side: str = "source"
    """Where a reminder's cause lies."""


def invitation(notice: MemberNotice, words: Wording) -> Letter:
    """What will happen, when, and what the member has to do before."""
    say = Saying(words)
    old, new = _mailboxes(say, notice)
    begin = notice.starts_at
    when = say("invitation_when", when=say.moment(begin)) if begin else say("invitation_soon")
    return Letter(
        say("invitation_subject", old=old, new=new),
        (_greeting(say, notice), say("invitation_lead", old=old, new=new), when),
        (
            Section(say("what_happens"), (say("happens_copied"), say("happens_alone"), say("happens_told"))),
            *preparation(say, notice.source, notice.target, notice.contact, notice.missing),
            *expectations(say),
        ),
        _closing(say, notice),
    )


def reminder(notice: MemberNotice, why: Cause, words: Wording) -> Letter:
    """What is still missing, and how the member mends it."""
    say = Saying(words)
    old, new = _mailboxes(say, notice)
    begin = notice.starts_at
    when = (say("reminder_when", when=say.moment(begin)),) if begin else ()
    return Letter(
        say("reminder_subject", old=old),
        (_greeting(say, notice), say("reminder_lead", old=old, new=new), say("reminder_safe"), *when),
        (
            Section(say("reminder_what"), (_matter(say, notice, why),)),
            *(
                preparation(say, notice.source, notice.target, notice.contact, notice.missing)
                if why.id == "password_missing"
                else _cure(say, notice, why)
            ),
        ),
        (say("reminder_done"), *_closing(say, notice)),
    )


def _matter(say: Saying, notice: MemberNotice, why: Cause) -> str:
    old, new = _mailboxes(say, notice)
    if why.id == "password_missing":
        return say("matter_passwords")
    if notice.side == "target":
        return say("matter_new", mailbox=new, title=say.of(why.title))
    return say("matter_old", mailbox=old, title=say.of(why.title))


def _cure(say: Saying, notice: MemberNotice, why: Cause) -> tuple[Section, ...]:
    provider = notice.target if notice.side == "target" else notice.source
    todo = [clicks(say, notice.side, provider, why.step)] if why.step else [Section(say("do"), (say("do_as_asked"),))]
    # A password that was mended is of no use before it is known.
    told = say("reminder_tell_whom", contact=plain(notice.contact)) if notice.contact else say("reminder_tell_anybody")
    passwords = why.step in ("client_password", "")
    todo.append(hand_over(say, notice.contact) if passwords else Section(say("reminder_tell"), (told,)))
    return numbered(say, todo)


def completion(notice: MemberNotice, moved: MemberSummary, words: Wording) -> Letter:
    """What was moved, where it is, what was not moved, and what comes next."""
    say = Saying(words)
    old, new = _mailboxes(say, notice)
    counts = moved.counts
    numbers = (
        ("number_source", words.number(counts.source)),
        ("number_copied", words.number(counts.copied)),
        ("number_already", words.number(counts.already_there)),
        ("number_issues", words.number(counts.issues)),
        ("number_bytes", words.size(moved.bytes)),
    )
    sections = [
        Section(say("completion_numbers"), rows=tuple((say(name), value) for name, value in numbers)),
        _places(moved, say),
    ]
    if counts.issues or moved.left_out:
        sections.append(_left_behind(moved, say))
    if moved.limited_range:
        known = clicks(say, "source", notice.source, "receive_range")
        sections.append(Section(say("range_suspected"), (say("range_suspected_why"),), known.steps))
    finished = moved.state in {MemberState.COMPLETED, MemberState.COMPLETED_WITH_ISSUES}
    following = ("next_none", "next_revoke") if finished else ("next_passes", "next_keep")
    sections.append(Section(say("completion_next"), (*map(say, following), say("next_untouched"))))
    return Letter(
        say("completion_subject", new=new),
        (_greeting(say, notice), say("completion_lead", old=old, new=new)),
        tuple(sections),
        _closing(say, notice),
    )


def _places(moved: MemberSummary, say: Saying) -> Section:
    renamed = [
        (plain(folder.source_name), f"→ {plain(folder.target_name)}")
        for folder in moved.folders
        if folder.target_name and folder.target_name.casefold() != folder.source_name.casefold()
    ]
    line = say("where_other" if renamed else "where_same")
    return Section(say("completion_where"), (line,), rows=_shortened(say, renamed))


def _left_behind(moved: MemberSummary, say: Saying) -> Section:
    lines = [say("issues_kept")] if moved.issues else []
    counted = Counter(issue.cause.id for issue in moved.issues)
    for name, count in sorted(counted.items(), key=lambda item: (-item[1], item[0])):
        lines.append(say("issue_line", title=say.of(cause(name).title), n=count))
    for folder in moved.left_out[:LISTED]:
        why = say.words.placement(folder.why)
        lines.append(say("left_out_line", folder=plain(folder.source_name), n=folder.messages, why=why))
    rows = [
        (
            say("inbox") if issue.folder.upper() == "INBOX" else plain(issue.folder),
            say(
                "issue_one",
                title=say.of(issue.cause.title),
                date=say.words.day(issue.arrived),
                size=say.words.size(issue.size),
            ),
        )
        for issue in moved.issues
    ]
    return Section(say("completion_issues"), tuple(lines), rows=_shortened(say, rows))


def _shortened(say: Saying, rows: list[tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    more = ((say("more", n=len(rows) - LISTED), ""),) if len(rows) > LISTED else ()
    return (*rows[:LISTED], *more)


def _mailboxes(say: Saying, notice: MemberNotice) -> tuple[str, str]:
    """The old and the new mailbox by their addresses; with their services where the address stays what it was."""
    old, new = plain(notice.old), plain(notice.new)
    if old.casefold() != new.casefold():
        return old, new
    return _at(say, old, notice.source), _at(say, new, notice.target)


def _at(say: Saying, address: str, provider: Provider) -> str:
    known = provider.name != ANYBODY
    return say("mailbox_at", address=address, service=say.of(provider.title)) if known else address


def _greeting(say: Saying, notice: MemberNotice) -> str:
    return say("greeting", name=plain(notice.name)) if notice.name else say("greeting_nobody")


def _closing(say: Saying, notice: MemberNotice) -> tuple[str, ...]:
    asked = say("questions", contact=plain(notice.contact)) if notice.contact else say("questions_anybody")
    return asked, say("no_reply")
