"""Notices: what members and admins are told, by which way, and whether it went out.

A notice is written down when it is due, and again as `sending` before a word of it leaves, so that one whose runner
died is known as such and goes out a second time only when an admin says so. Its key names what it says to whom: the
same is never filed twice.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import Engine
from sqlmodel import Field, Session, SQLModel, col, select

from models.bilingual import Text
from models.columns import now, stored_as_value
from models.database import reading, writing
from models.lifecycle import find_wave
from models.member import lives, this_runner
from models.wave import Event

SILENT_RUNNER = timedelta(hours=1)
"""A runner of another machine that has been handing one notice over for so long has died."""
_AT_ONCE = 500
"""A database takes only so many values in one statement."""


class NoticeKind(StrEnum):
    INVITATION = "invitation"
    REMINDER = "reminder"
    COMPLETION = "completion"
    SUMMARY = "summary"
    ALARM = "alarm"


class NoticeState(StrEnum):
    WAITING = "waiting"
    """Due, and not handed over: never tried yet, or put off."""
    SENDING = "sending"
    """Its runner is handing it over, or died at it."""
    SENT = "sent"
    """The server has taken it."""
    UNKNOWN = "unknown"
    """Handed over, and no answer came: nobody knows whether it went out."""
    REFUSED = "refused"
    """The server will not take it, now or later."""
    DROPPED = "dropped"
    """No longer wanted before it went out."""


class Channel(StrEnum):
    MAIL = "mail"
    CHAT = "chat"


MEMBER_KINDS = (NoticeKind.INVITATION, NoticeKind.REMINDER, NoticeKind.COMPLETION)
ADMIN_KINDS = (NoticeKind.SUMMARY, NoticeKind.ALARM)

NOTICE_KIND_NAMES: dict[NoticeKind, Text] = {
    NoticeKind.INVITATION: Text("邀请", "Invitation"),
    NoticeKind.REMINDER: Text("提醒", "Reminder"),
    NoticeKind.COMPLETION: Text("完成通知", "Completion"),
    NoticeKind.SUMMARY: Text("每日摘要", "Daily summary"),
    NoticeKind.ALARM: Text("告警", "Alarm"),
}
NOTICE_STATE_NAMES: dict[NoticeState, Text] = {
    NoticeState.WAITING: Text("等待发送", "Waiting"),
    NoticeState.SENDING: Text("发送中", "Being sent"),
    NoticeState.SENT: Text("已发送", "Sent"),
    NoticeState.UNKNOWN: Text("不确定是否送出", "Perhaps sent"),
    NoticeState.REFUSED: Text("被拒收", "Refused"),
    NoticeState.DROPPED: Text("已不需要", "No longer needed"),
}


class Notice(SQLModel, table=True):
    """One notice to one recipient."""

    id: int | None = Field(default=None, primary_key=True)
    wave_id: int = Field(foreign_key="wave.id", index=True)
    member_id: int | None = Field(default=None, foreign_key="member.id", index=True)
    """None for what an admin is told."""
    kind: NoticeKind = Field(sa_type=stored_as_value(NoticeKind))
    channel: Channel = Field(sa_type=stored_as_value(Channel))
    recipient: str
    """An address, or the public name of a chat."""
    key: str = Field(unique=True)
    about: str = ""
    """Which cause a reminder or an alarm is about, and where."""
    snapshot: str = ""
    """JSON of the numbers that a summary tells; the next one tells what changed since."""
    state: NoticeState = Field(default=NoticeState.WAITING, sa_type=stored_as_value(NoticeState))
    due_at: datetime
    next_at: datetime
    """When it may be handed over; when it was, while it is."""
    attempts: int = 0
    owner: str = ""
    """The runner that hands it over, or did last."""
    sent_at: datetime | None = None
    error: str = ""
    """Why it was not sent, in the server's words, without secrets."""
    bounced: bool = False
    """Refused because of its recipient: nothing more goes to that address."""


@dataclass(frozen=True, slots=True)
class NewNotice:
    """A notice that is due."""

    kind: NoticeKind
    channel: Channel
    recipient: str
    key: str
    due_at: datetime
    member_id: int | None = None
    about: str = ""
    snapshot: str = ""


def wave_notices(engine: Engine, name: str) -> list[Notice]:
    """Every notice of a wave, the oldest first."""
    with reading(engine) as session:
        return _of_wave(session, find_wave(session, name).id or 0)


def _of_wave(session: Session, wave_id: int) -> list[Notice]:
    return list(session.exec(select(Notice).where(Notice.wave_id == wave_id).order_by(col(Notice.id))))


def open_notices(engine: Engine, name: str) -> datetime:
    """Note that an admin wants the members of a wave to be written to; returns since when."""
    with writing(engine) as session:
        wave = find_wave(session, name)
        if wave.notices_opened_at is None:
            wave.notices_opened_at = now()
            session.add(wave)
            session.add(Event(wave_id=wave.id or 0, who="admin", what="notices"))
        return wave.notices_opened_at


def file_notices(engine: Engine, name: str, due: Iterable[NewNotice]) -> int:
    """Write down what is due and was not before; returns how many that are."""
    found = {each.key: each for each in due}
    if not found:
        return 0
    with writing(engine) as session:
        wave_id = find_wave(session, name).id or 0
        keys = list(found)
        known: dict[str, Notice] = {}
        for at in range(0, len(keys), _AT_ONCE):
            rows = session.exec(select(Notice).where(col(Notice.key).in_(keys[at : at + _AT_ONCE])))
            known |= {row.key: row for row in rows}
        fresh = [each for key, each in found.items() if key not in known]
        wanted_again = [row for row in known.values() if row.state == NoticeState.DROPPED]
        for row in wanted_again:
            row.state, row.next_at = NoticeState.WAITING, found[row.key].due_at
            session.add(row)
        session.add_all(
            Notice(
                wave_id=wave_id,
                member_id=each.member_id,
                kind=each.kind,
                channel=each.channel,
                recipient=each.recipient,
                key=each.key,
                about=each.about,
                snapshot=each.snapshot,
                due_at=each.due_at,
                next_at=each.due_at,
            )
            for each in fresh
        )
        return len(fresh) + len(wanted_again)


def claim_notice(engine: Engine, notice_id: int) -> Notice | None:
    """Commit that this runner hands the notice over now; None when another one has, or it is wanted no more."""
    with writing(engine) as session:
        notice = session.get_one(Notice, notice_id)
        if notice.state != NoticeState.WAITING:
            return None
        notice.state, notice.owner, notice.next_at = NoticeState.SENDING, this_runner(), now()
        notice.attempts += 1
        session.add(notice)
        return notice


def settle_notice(
    engine: Engine,
    notice_id: int,
    state: NoticeState,
    *,
    error: str = "",
    next_at: datetime | None = None,
    bounced: bool = False,
    tried: bool = True,
) -> None:
    """Write down what became of a notice that this runner handed over, or could not (`tried`)."""
    with writing(engine) as session:
        notice = session.get_one(Notice, notice_id)
        if notice.state != NoticeState.SENDING or notice.owner != this_runner():
            return  # found without its runner meanwhile, and known as such
        notice.state, notice.error, notice.bounced = state, error, bounced
        notice.next_at = next_at or notice.next_at
        notice.attempts -= not tried
        notice.sent_at = now() if state == NoticeState.SENT else None
        session.add(notice)


def put_off(engine: Engine, notice_ids: Sequence[int], error: str, next_at: datetime) -> None:
    """Note why notices that wait cannot go out now; none of them has been tried."""
    with writing(engine) as session:
        for notice in _by_id(session, notice_ids):
            if notice.state == NoticeState.WAITING:
                notice.error, notice.next_at = error, next_at
                session.add(notice)


def left_alone(engine: Engine, at: datetime) -> str:
    """Why the mail server is left alone at that moment: what it said when notices were put off; "" when it is not."""
    query = select(Notice.error).where(
        Notice.state == NoticeState.WAITING,
        Notice.channel == Channel.MAIL,
        col(Notice.next_at) > at,
        col(Notice.error) != "",
        # One that was tried waits for a reason of its own.
        Notice.attempts == 0,
    )
    with reading(engine) as session:
        return session.exec(query).first() or ""


def drop_notices(engine: Engine, notice_ids: Sequence[int]) -> None:
    """Take back notices that wait and are wanted no more."""
    with writing(engine) as session:
        for notice in _by_id(session, notice_ids):
            if notice.state == NoticeState.WAITING:
                notice.state = NoticeState.DROPPED
                session.add(notice)


def forget_dead_runners(engine: Engine, name: str) -> int:
    """Call those notices unknown whose runner died while it handed them over; returns how many."""
    with writing(engine) as session:
        left = [
            notice
            for notice in _of_wave(session, find_wave(session, name).id or 0)
            if notice.state == NoticeState.SENDING and not lives(notice.owner, notice.next_at + SILENT_RUNNER)
        ]
        for notice in left:
            notice.state = NoticeState.UNKNOWN
            notice.error = "its runner died while it was being handed over"
            session.add(notice)
        return len(left)


def send_again(engine: Engine, name: str, kinds: Collection[NoticeKind]) -> int:
    """Let notices that were refused, or perhaps sent, go out once more, as an admin wishes; returns how many."""
    with writing(engine) as session:
        found = [
            notice
            for notice in _of_wave(session, find_wave(session, name).id or 0)
            if notice.kind in kinds and notice.state in {NoticeState.UNKNOWN, NoticeState.REFUSED}
        ]
        for notice in found:
            notice.state, notice.next_at, notice.attempts, notice.bounced = NoticeState.WAITING, now(), 0, False
            session.add(notice)
        return len(found)


def _by_id(session: Session, notice_ids: Sequence[int]) -> Iterable[Notice]:
    for at in range(0, len(notice_ids), _AT_ONCE):
        yield from session.exec(select(Notice).where(col(Notice.id).in_(notice_ids[at : at + _AT_ONCE]))).all()
