"""Reads the checks of a wave out of the database into the values of `reports.check`."""

from collections.abc import Iterable, Iterator

from sqlmodel import Session, col, select

from models.address_pairs import AGREE, DIFFER, last_seen, pair_of
from models.check import Finding, Look, MemberCheck, Severity
from models.detection import known_provider
from models.hints import Hint
from models.member import Member
from models.receive_range import Holding, LimitedRange, far_below
from models.states import MemberState
from models.wave import Event, Wave
from reports.check import CheckedMember, is_checked, with_findings


def limited_ranges(members: Iterable[Member]) -> dict[int, LimitedRange]:
    """By member's id, why a wave's old mailboxes are suspected to show only a part of their mail."""
    holdings, found = {}, {}
    for member in members:
        own = LimitedRange.read(member.limited_range)
        if own is not None:
            found[member.id or 0] = own
        if member.messages_found and not member.shared and not member.since and member.state != MemberState.REMOVED:
            holdings[member.id or 0] = Holding(member.messages_found, member.source_bytes)
    return far_below(holdings) | found


def _apart(member: Member, seen: Event | None) -> Finding | None:
    """That the two addresses do not agree, as they stand; confirmed or not."""
    if seen is None or seen.why != pair_of(member) or seen.what == AGREE:
        return None
    name = "addresses_differ" if seen.what == DIFFER else "addresses_confirmed"
    return Finding(name, Severity.WARNS if seen.what == DIFFER else Severity.TELLS, where=seen.why)


def read_checks(session: Session, wave: Wave) -> Iterator[CheckedMember]:
    """The members that have not been moved yet, in the order of the roster; none where nobody was ever checked."""
    query = (
        select(Member, MemberCheck)
        .outerjoin(MemberCheck, col(MemberCheck.member_id) == col(Member.id))
        .where(Member.wave_id == wave.id)
        .order_by(col(Member.line))
    )
    everybody = [(member, check) for member, check in session.exec(query)]
    ranges = limited_ranges([member for member, _ in everybody])
    rows = [(member, check) for member, check in everybody if is_checked(member.state)]
    if not any(check for _, check in rows):
        return
    pairs = last_seen(session, wave.id or 0)
    for member, check in rows:
        look = Look.read(check.document) if check else None
        limited = ranges.get(member.id or 0)
        failed = None
        if member.cause:
            # What is said of a member's failure, as a finding.
            failed = Finding(
                member.cause,
                Severity.BLOCKS,
                member.cause_side,
                server_text=member.server_text,
                hint=Hint.read(member.hint),
                known_by=member.known_by,
            )
        yield CheckedMember(
            id=member.id or 0,
            email=member.email,
            state=member.state,
            source_host=member.source_host or "",
            target_host=member.target_host or "",
            look=look,
            source_provider=known_provider(member, "source"),
            target_provider=known_provider(member, "target"),
            at=check.at if check else None,
            findings=with_findings(look, member.state, failed, limited, _apart(member, pairs.get(member.id or 0))),
        )
