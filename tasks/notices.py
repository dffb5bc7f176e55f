"""Tells the people of a wave what they are to know now: looks, lets the policy decide, writes down, hands over.

May be run at any time, and by several processes: what is not due, or was said before, is not said.
"""

from collections import deque
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from typing import TypeVar

from models.columns import now
from models.notices import (
    MEMBER_KINDS,
    Channel,
    NewNotice,
    Notice,
    NoticeKind,
    NoticeState,
    claim_notice,
    drop_notices,
    file_notices,
    forget_dead_runners,
    put_off,
    settle_notice,
    wave_notices,
)
from reports.letters import as_chat
from tasks import notice_policy, policy
from tasks.chats import Chat, chats, hand_over_to_chat
from tasks.handed_over import HandedOver, Outcome
from tasks.notice_letters import Look
from tasks.notice_policy import Hours, Plan
from tasks.outbox import MailServer, ServerTrouble, mail_server, outbox
from tasks.settings import Settings
from tasks.store import Store, log, places

T = TypeVar("T")

_STATES = {
    Outcome.SENT: NoticeState.SENT,
    Outcome.LATER: NoticeState.WAITING,
    Outcome.UNKNOWN: NoticeState.UNKNOWN,
    Outcome.REFUSED: NoticeState.REFUSED,
    Outcome.BOUNCED: NoticeState.REFUSED,
}


@dataclass(slots=True)
class Told:
    """What came of one round."""

    sent: int = 0
    later: int = 0
    refused: int = 0
    unknown: int = 0
    quiet_until: datetime | None = None
    """Members' notices wait for the end of the quiet hours."""
    trouble: str = ""
    """Why the mail server took nothing more."""
    due: Sequence[NewNotice] = ()
    """Of a dry run: what would be filed now."""


def configured(settings: Settings) -> bool:
    """Whether anybody can be told anything."""
    return bool(settings.smtp_host or settings.chat_urls_file)


def plan_of(settings: Settings, chat_names: Collection[str]) -> Plan:
    """How the settings want notices to go out."""
    by_mail = settings.admin_addresses if settings.smtp_host else ()
    return Plan(
        Hours(settings.notices_zone, settings.quiet_times, settings.quiet_weekends),
        settings.reminder_days,
        settings.summary_time,
        settings.alarm_hours,
        (*((Channel.MAIL, each) for each in by_mail), *((Channel.CHAT, each) for each in chat_names)),
        mail=bool(settings.smtp_host),
    )


def tell_wave(
    kept: Store,
    wave: str,
    *,
    kinds: Collection[NoticeKind] = tuple(NoticeKind),
    dry_run: bool = False,
    in_quiet_hours: bool = False,
    by_mail: bool = True,
    patient: bool = True,
) -> Told:
    """Hand over every notice of these kinds that is due; a dry run writes nothing and sends nothing.

    `patient` leaves a mail server alone that had trouble a short while ago, in particular one that refused our sign-in.
    """
    ways = {each.name: each for each in chats(kept.settings)}
    server = mail_server(kept.settings, kept.vault.get_standing)
    at, told = now(), Told()
    plan = plan_of(kept.settings, ways)
    if not dry_run:
        forget_dead_runners(kept.engine, wave)
    look = Look(kept, wave, at)
    if dry_run:
        # What sending would open.
        look.facts = replace(look.facts, opened_at=look.facts.opened_at or at)
    due = [each for each in _due(look, plan, at) if each.kind in kinds]
    if dry_run:
        told.due = due
        return told
    drop_notices(kept.engine, _overtaken(look, plan, at))
    file_notices(kept.engine, wave, due)
    look.notices = wave_notices(kept.engine, wave)

    opens = at if in_quiet_hours else plan.hours.next_open(at)
    waiting = [notice for notice in look.notices if notice.state == NoticeState.WAITING and notice.kind in kinds]
    if trouble := _recent_trouble(look.notices, at) if patient else "":
        by_mail, told.trouble = False, trouble
    # What was only put off may be tried by an admin who has mended the server; what the server put off may not.
    waiting = [notice for notice in waiting if notice.next_at <= at or (not patient and not notice.attempts)]
    if opens > at and any(notice.kind in MEMBER_KINDS for notice in waiting):
        told.quiet_until = opens
        waiting = [notice for notice in waiting if notice.kind not in MEMBER_KINDS]
    _tell_in_chats(kept, ways, [notice for notice in waiting if notice.recipient in ways], look, told)
    if server is not None and by_mail:
        _tell_by_mail(kept, server, [notice for notice in waiting if notice.channel == Channel.MAIL], look, told)
    return told


def _recent_trouble(notices: Sequence[Notice], at: datetime) -> str:
    """Why the mail server is to be left alone for now; "" when it is not."""
    put_off_since = (
        notice.error
        for notice in notices
        if notice.state == NoticeState.WAITING
        and notice.channel == Channel.MAIL
        and notice.next_at > at
        and notice.error
        and not notice.attempts
    )
    return next(put_off_since, "")


def _due(look: Look, plan: Plan, at: datetime) -> list[NewNotice]:
    summaries: list[NewNotice] = []
    if plan.admins and look.facts.started:
        summaries = notice_policy.due_summaries(look.facts, look.standing.written(), look.notices, plan, at)
    return [
        *notice_policy.due_alarms(look.facts, look.troubles, look.notices, plan, at),
        *notice_policy.due_to_members(look.facts, look.people, look.notices, plan, at),
        *summaries,
    ]


def _overtaken(look: Look, plan: Plan, at: datetime) -> list[int]:
    return [
        *notice_policy.no_longer_wanted(look.facts, look.people, look.notices),
        *notice_policy.outdated(look.notices, look.troubles, at, plan),
    ]


def _tell_in_chats(kept: Store, ways: Mapping[str, Chat], notices: Sequence[Notice], look: Look, told: Told) -> None:
    for notice in notices:
        if policy.STOP.is_set():
            return
        chat, letter = ways[notice.recipient], _written(look.chat_letter, notice)
        if letter is None:
            _tell(kept, notice, _unwritable, told)
            continue
        subject, text = letter.subject, as_chat(letter)
        _tell(kept, notice, partial(hand_over_to_chat, chat, subject, text, kept.settings), told)


def _tell_by_mail(kept: Store, server: MailServer, notices: Sequence[Notice], look: Look, told: Told) -> None:
    """Hand mails over, on as many connections as it takes: a server may end one after so many."""
    rest = deque(notices)
    while rest and not policy.STOP.is_set():
        handed_over = 0
        try:
            with outbox(server) as box:
                while rest and not policy.STOP.is_set():
                    mail = _written(look.mail, rest[0])
                    _tell(kept, rest[0], partial(box.hand_over, mail) if mail else _unwritable, told)
                    rest.popleft()
                    handed_over += 1
        except ServerTrouble as trouble:
            if handed_over:
                continue
            log.warning("notices: %s", trouble)
            told.trouble = str(trouble)
            put_off(kept.engine, [notice.id or 0 for notice in rest], str(trouble), now() + trouble.wait)
            told.later += len(rest)
            return


def _written(write: Callable[[Notice], T], notice: Notice) -> T | None:
    """The notice in words; None where that fails: one that cannot be written must not stop those behind it."""
    try:
        return write(notice)
    except Exception as error:  # noqa: BLE001  (a defect of ours; it becomes the notice's end, and stands in the log)
        log.error("notice %s: %s", notice.key, places(error))
        return None


def _unwritable() -> HandedOver:
    return HandedOver(Outcome.REFUSED, "it could not be written; the log says where")


def _tell(kept: Store, notice: Notice, hand_over: Callable[[], HandedOver], told: Told) -> None:
    """Commit that it is handed over, hand it over, and write down what came of it."""
    claimed = claim_notice(kept.engine, notice.id or 0)
    if claimed is None:
        return
    try:
        result = hand_over()
    except ServerTrouble as trouble:
        settle_notice(kept.engine, notice.id or 0, NoticeState.WAITING, error=str(trouble), tried=False)
        raise
    state, next_at = _STATES[result.outcome], None
    if state == NoticeState.WAITING:
        next_at = notice_policy.next_try(claimed.attempts, claimed.due_at, now())
        state = NoticeState.REFUSED if next_at is None else state
    bounced = result.outcome == Outcome.BOUNCED
    settle_notice(kept.engine, notice.id or 0, state, error=result.said, next_at=next_at, bounced=bounced)
    told.sent += state == NoticeState.SENT
    told.later += state == NoticeState.WAITING
    told.refused += state == NoticeState.REFUSED
    told.unknown += state == NoticeState.UNKNOWN
    if result.said:
        log.warning("notice %s: %s, %s", notice.key, state, result.said)
