"""Reads the checks of a wave out of the database into the values of `reports.check`."""

from collections.abc import Iterator

from sqlmodel import Session, col, select

from models.check import Look, MemberCheck
from models.member import Member
from models.receive_range import LimitedRange
from models.wave import Wave
from reports.check import CheckedMember, is_checked, with_findings


def read_checks(session: Session, wave: Wave) -> Iterator[CheckedMember]:
    """The members that have not been moved yet, in the order of the roster; none where nobody was ever checked."""
    query = (
        select(Member, MemberCheck)
        .outerjoin(MemberCheck, col(MemberCheck.member_id) == col(Member.id))
        .where(Member.wave_id == wave.id)
        .order_by(col(Member.line))
    )
    rows = [(member, check) for member, check in session.exec(query) if is_checked(member.state)]
    if not any(check for _, check in rows):
        return
    for member, check in rows:
        look = Look.read(check.document) if check else None
        limited = LimitedRange.read(member.limited_range)
        yield CheckedMember(
            id=member.id or 0,
            email=member.email,
            state=member.state,
            source_host=member.source_host or "",
            target_host=member.target_host or "",
            look=look,
            at=check.at if check else None,
            findings=with_findings(
                look, member.state, member.cause or "", member.cause_side, member.server_text, limited
            ),
        )
