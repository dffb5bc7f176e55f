"""Members whose two addresses do not agree, though nobody's own password proves that both are theirs.

An administrator or an application opens any mailbox, so a wrong row would bring one person's mail to another. What was
seen of a pair, and who confirmed it, are events of the member: the pair as it stands is what counts, so a row that
names another address later has to be confirmed anew.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from models.database import reading, writing
from models.lifecycle import find_wave
from models.member import Member
from models.roster_policy import PairRule
from models.states import FINAL
from models.wave import Event

DIFFER, AGREE, CONFIRMED = "pair_differs", "pair_agrees", "pair_confirmed"
_SEEN = (DIFFER, AGREE, CONFIRMED)
NAMED = 20
"""So many pairs are named in the wave's own timeline."""


@dataclass(frozen=True, slots=True)
class HeldPair:
    """A member who is not begun before the pair is confirmed."""

    member_id: int
    email: str
    pair: str


def pair_of(member: Member) -> str:
    """Old login and new address as people read them."""
    return f"{member.user_name} > {_new(member)}"


def _new(member: Member) -> str:
    return member.target_user_name or member.email


def held_pairs(engine: Engine, wave: str, rule: PairRule, opened_by_others: Callable[[Member], bool]) -> list[HeldPair]:
    """The pairs that have to be confirmed yet, in the order of the roster; what is new of pairs is noted."""
    with reading(engine) as session:
        wave_id = find_wave(session, wave).id or 0
        members = [each for each in _members(session, wave_id) if each.state not in FINAL]
        apart = {m.id or 0 for m in members if opened_by_others(m) and not rule.allows(m.user_name, _new(m))}
        seen = last_seen(session, wave_id)
    news = []
    for member in members:
        before, pair = seen.get(member.id or 0), pair_of(member)
        known = before is not None and before.why == pair
        if member.id in apart and not (known and before and before.what in (DIFFER, CONFIRMED)):
            news.append((member, DIFFER))
        elif member.id not in apart and before is not None and before.what != AGREE:
            news.append((member, AGREE))
    if news:
        with writing(engine) as session:
            for member, what in news:
                session.add(Event(wave_id=wave_id, member_id=member.id, who="runner", what=what, why=pair_of(member)))
            if apart_now := [pair_of(member) for member, what in news if what == DIFFER]:
                session.add(Event(wave_id=wave_id, who="runner", what=DIFFER, why=_named(apart_now)))
    confirmed = {
        member_id: event.why for member_id, event in seen.items() if event.what == CONFIRMED and member_id in apart
    }
    return [
        HeldPair(member.id or 0, member.email, pair_of(member))
        for member in members
        if member.id in apart and confirmed.get(member.id or 0) != pair_of(member)
    ]


def confirm_pairs(engine: Engine, wave: str, pairs: Sequence[HeldPair], who: str) -> None:
    """Note who says that these belong together; the pair is what they were shown."""
    if not pairs:
        return
    with writing(engine) as session:
        wave_id = find_wave(session, wave).id or 0
        for each in pairs:
            session.add(Event(wave_id=wave_id, member_id=each.member_id, who=who, what=CONFIRMED, why=each.pair))
        named = _named([each.pair for each in pairs])
        session.add(Event(wave_id=wave_id, who=who, what=CONFIRMED, why=named))


def _named(pairs: Sequence[str]) -> str:
    """How many there are, and the first of them, for the wave's own timeline."""
    return f"{len(pairs)}: " + "; ".join(pairs[:NAMED]) + (" ..." if len(pairs) > NAMED else "")


def last_seen(session: Session, wave_id: int) -> dict[int, Event]:
    """By member, what was noted last of its pair; most waves have none."""
    own = select(Event).where(Event.wave_id == wave_id, col(Event.member_id).is_not(None), col(Event.what).in_(_SEEN))
    return {event.member_id or 0: event for event in session.exec(own.order_by(col(Event.id)))}


def _members(session: Session, wave_id: int) -> Iterable[Member]:
    return session.exec(select(Member).where(Member.wave_id == wave_id).order_by(col(Member.line))).all()
