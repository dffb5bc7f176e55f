"""Whether a login that was refused belongs to the other mailbox: the new address typed where the old one is due."""

from collections import Counter
from collections.abc import Iterable

from sqlmodel import Session, col, select

from models.hints import Hint
from models.member import Member

OF_THE_NAME = frozenset({"bad_credentials", "ambiguous_login", "no_such_user"})
"""Failures that a wrong name may be behind."""
LEAST = 3
"""So many others of the wave must agree on what a side's addresses look like."""
_MOST = 200


def is_of_the_other_side(login: str, own: Iterable[str], other: Iterable[str]) -> bool:
    """Whether the login's domain is the usual one of the other side's logins, and never seen on its own side."""
    mine = Counter(_domain(each) for each in own)
    theirs = Counter(_domain(each) for each in other)
    if not mine or not theirs:
        return False
    [(usual, count)] = theirs.most_common(1)
    return count >= LEAST and mine.total() >= LEAST and usual != "" and _domain(login) == usual and not mine[usual]


def hint_of_the_other_side(session: Session, member: Member, side: str) -> Hint | None:
    """The same, by what the others of the member's wave have on the roster."""
    rows = session.exec(
        select(Member.user_name, Member.target_user_name, Member.email)
        .where(Member.wave_id == member.wave_id, col(Member.id) != member.id)
        .limit(_MOST)
    ).all()
    old, new = [row[0] for row in rows], [row[1] or row[2] for row in rows]
    if side == "source":
        found = is_of_the_other_side(member.user_name, old, new)
    else:
        found = is_of_the_other_side(member.target_user_name or member.email, new, old)
    return Hint("user_of_other_side") if found else None


def _domain(login: str) -> str:
    return login.rpartition("@")[2].casefold() if "@" in login else ""
