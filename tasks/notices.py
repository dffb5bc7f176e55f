"""Tells the people of a wave what they are to know now: looks, lets the policy decide, writes down, hands over.

May be run at any time, and by several processes: what is not due, or was said before, is not said.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping
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
    left_alone,
    put_off,
    settle_notice,
    wave_notices,
)
from reports.letters import Letter, as_chat
from tasks import notice_policy, policy
from tasks.chats import Chat, chats, hand_over_to_chat
from tasks.handed_over import HandedOver, Outcome
from tasks.notice_letters import Look
from tasks.notice_policy import Hours, Plan, WaveFacts
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
_UNWRITABLE = HandedOver(Outcome.REFUSED, "it could not be written; the log says where")


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


def due_notices(kept: Store, wave: str, kinds: Collection[NoticeKind] = tuple(NoticeKind)) -> list[NewNotice]:
    """What would be filed if the wave's notices were sent now; nothing is written and nothing sent."""
    at = now()
    look = Look(kept, wave, at)
    opened = replace(look.facts, opened_at=look.facts.opened_at or at)
    plan = plan_of(kept.settings, [chat.name for chat in chats(kept.settings)])
    return [each for each in _due(look, opened, plan, at) if each.kind in kinds]


def tell_wave(
    kept: Store,
    wave: str,
    *,
    kinds: Collection[NoticeKind] = tuple(NoticeKind),
    in_quiet_hours: bool = False,
    patient: bool = True,
) -> Told:
    """Hand over every notice of these kinds that is due.

    `patient` leaves a mail server alone that had trouble a short while ago, in particular one that refused our sign-in.
    """
    ways = {each.name: each for each in chats(kept.settings)}
    server = mail_server(kept.settings, kept.vault.get_standing)
    at = now()
    plan = plan_of(kept.settings, ways)
    forget_dead_runners(kept.engine, wave)
    look = Look(kept, wave, at)
    due = [each for each in _due(look, look.facts, plan, at) if each.kind in kinds]
    drop_notices(kept.engine, _overtaken(look, plan, at))
    file_notices(kept.engine, wave, due)
    look.notices = wave_notices(kept.engine, wave)

    this = _Round(kept, look)
    opens = at if in_quiet_hours else plan.hours.next_open(at)
    waiting = [notice for notice in look.notices if notice.state == NoticeState.WAITING and notice.kind in kinds]
    if patient:
        this.told.trouble = left_alone(kept.engine, at)
    # What was only put off may be tried by an admin who has mended the server; what the server put off may not.
    waiting = [notice for notice in waiting if notice.next_at <= at or (not patient and not notice.attempts)]
    if opens > at and any(notice.kind in MEMBER_KINDS for notice in waiting):
        this.told.quiet_until = opens
        waiting = [notice for notice in waiting if notice.kind not in MEMBER_KINDS]
    this.tell_in_chats(ways, [notice for notice in waiting if notice.recipient in ways])
    if server is not None and not this.told.trouble:
        this.tell_by_mail(server, [notice for notice in waiting if notice.channel == Channel.MAIL])
    return this.told


def _due(look: Look, facts: WaveFacts, plan: Plan, at: datetime) -> list[NewNotice]:
    summaries: list[NewNotice] = []
    if plan.admins and facts.started_at:
        summaries = notice_policy.due_summaries(facts, look.standing.written(), look.notices, plan, at)
    return [
        *notice_policy.due_alarms(facts, look.troubles, look.notices, plan, at),
        *notice_policy.due_to_members(facts, look.people, look.notices, plan, at),
        *summaries,
    ]


def _overtaken(look: Look, plan: Plan, at: datetime) -> list[int]:
    return [
        *notice_policy.no_longer_wanted(look.facts, look.people, look.notices),
        *notice_policy.outdated(look.notices, look.troubles, at, plan),
    ]


class _Round:
    """Hands notices of one wave over, and counts what came of them."""

    def __init__(self, kept: Store, look: Look) -> None:
        self._kept = kept
        self._look = look
        self.told = Told()

    def tell_in_chats(self, ways: Mapping[str, Chat], notices: Iterable[Notice]) -> None:
        for notice in notices:
            if policy.STOP.is_set():
                return
            self._tell(notice, self._look.chat_letter, partial(self._in_chat, ways[notice.recipient]))

    def _in_chat(self, chat: Chat, letter: Letter) -> HandedOver:
        return hand_over_to_chat(chat, letter.subject, as_chat(letter), self._kept.settings)

    def tell_by_mail(self, server: MailServer, notices: Iterable[Notice]) -> None:
        """Hand mails over, on as many connections as it takes: a server may end one after so many."""
        rest = deque(notices)
        while rest and not policy.STOP.is_set():
            handed_over = 0
            try:
                with outbox(server) as box:
                    while rest and not policy.STOP.is_set():
                        self._tell(rest[0], self._look.mail, box.hand_over)
                        rest.popleft()
                        handed_over += 1
            except ServerTrouble as trouble:
                if handed_over:
                    continue
                log.warning("notices: %s", trouble)
                self.told.trouble = str(trouble)
                put_off(self._kept.engine, [each.id or 0 for each in rest], str(trouble), now() + trouble.wait)
                self.told.later += len(rest)
                return

    def _tell(self, notice: Notice, write: Callable[[Notice], T], hand_over: Callable[[T], HandedOver]) -> None:
        """Commit that it is handed over, hand it over, and write down what came of it."""
        engine, key = self._kept.engine, notice.id or 0
        # Others go out before it, which takes its time: the member may be through meanwhile.
        if not self._look.still_wanted(notice):
            drop_notices(engine, [key])
            return
        words = _written(write, notice)
        claimed = claim_notice(engine, key)
        if claimed is None:
            return
        try:
            result = _UNWRITABLE if words is None else hand_over(words)
        except ServerTrouble as trouble:
            settle_notice(engine, key, NoticeState.WAITING, error=str(trouble), tried=False)
            raise
        state, next_at = _STATES[result.outcome], None
        if state == NoticeState.WAITING:
            next_at = notice_policy.next_try(claimed.attempts, now())
            state = NoticeState.REFUSED if next_at is None else state
        bounced = result.outcome == Outcome.BOUNCED
        settle_notice(engine, key, state, error=result.said, next_at=next_at, bounced=bounced)
        self.told.sent += state == NoticeState.SENT
        self.told.later += state == NoticeState.WAITING
        self.told.refused += state == NoticeState.REFUSED
        self.told.unknown += state == NoticeState.UNKNOWN
        if result.said:
            log.warning("notice %s: %s, %s", notice.key, state, result.said)


def _written(write: Callable[[Notice], T], notice: Notice) -> T | None:
    """The notice in words; None where that fails: one that cannot be written must not stop those behind it."""
    try:
        return write(notice)
    except Exception as error:  # noqa: BLE001  (a defect of ours; it becomes the notice's end, and stands in the log)
        log.error("notice %s: %s", notice.key, places(error))
        return None
