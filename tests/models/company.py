"""A wave in a database, whose members a test makes and looks at."""

from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Engine
from sqlmodel import col, select

from models.columns import now
from models.database import reading, writing
from models.member import Member
from models.states import MemberState
from models.wave import Event, Wave


@dataclass(frozen=True)
class Company:
    """One wave whose members a test makes."""

    engine: Engine
    wave: str = "first"

    def add(self, email: str, state: MemberState = MemberState.QUEUED, wave: str = "first", **values: object) -> int:
        """Add a member and return its id; its wave is made with the first one."""
        with writing(self.engine) as session:
            found = session.exec(select(Wave).where(Wave.name == wave)).first() or Wave(name=wave)
            session.add(found)
            session.flush()
            count = len(session.exec(select(Member).where(Member.wave_id == found.id)).all())
            row = {"user_name": email, **values}
            member = Member(wave_id=found.id, line=count + 2, email=email, state=state, **row)
            session.add(member)
            session.flush()
            assert member.id is not None
            return member.id

    def member(self, member_id: int) -> Member:
        with reading(self.engine) as session:
            return session.get_one(Member, member_id)

    def expire_lease(self, member_id: int) -> None:
        """Let the member's runner be one on another machine that has been silent for too long."""
        with writing(self.engine) as session:
            member = session.get_one(Member, member_id)
            member.lease_owner = "another-machine/boot/1/1"
            member.lease_until = now() - timedelta(seconds=1)
            session.add(member)

    def wave_row(self) -> Wave:
        with reading(self.engine) as session:
            return session.exec(select(Wave).where(Wave.name == self.wave)).one()

    def events(self, member_id: int | None = None) -> list[str]:
        """What happened, oldest first: of a member, or of the wave itself."""
        with reading(self.engine) as session:
            found = session.exec(select(Event).where(Event.member_id == member_id).order_by(col(Event.id)))
            return [event.what for event in found]
