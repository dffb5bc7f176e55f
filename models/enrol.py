"""Takes the rows of a roster into a wave: new members are added, known ones updated, problems kept for the report."""

from collections.abc import Callable, Iterable, Iterator, Sequence

from sqlalchemy import Engine, delete
from sqlmodel import Session, col, select

from models.database import writing
from models.detection import DefaultServers, Records, Settled, no_records, nothing_against, settle
from models.member import Member, change_state
from models.refusals import read_refusals, write_refusals
from models.roster import Roster, RosterProblem, RosterRow
from models.states import MemberState
from models.vault import Side, Vault
from models.wave import Event, InvalidRow, Wave

_COPIED_FIELDS = (
    "line",
    "user_name",
    "user_root",
    "display_name",
    "department",
    "provider",
    "source_host",
    "source_port",
    "source_security",
    "target_host",
    "target_port",
    "target_security",
    "target_user_name",
    "source_admin",
    "target_admin",
    "since",
    "language",
    "notify_address",
    "shared",
    "note",
)


def enrol(
    engine: Engine,
    vault: Vault,
    wave_name: str,
    roster: Roster,
    default: DefaultServers,
    records: Callable[[str], Records] = no_records,
    judge: Callable[[Settled], list[RosterProblem]] = nothing_against,
) -> Wave:
    """Make the wave hold these members; a second upload updates rows and passwords and starts nothing twice.

    Members who are not on a later roster stay: admins upload the failures alone, mended, to retry those. `records`
    tells what DNS says of a domain, `judge` what a row decides that it may not.
    """
    settled, extra = settle(roster.rows, default, records, judge)
    rows = [each.row for each in settled]
    with writing(engine) as session:
        wave = session.exec(select(Wave).where(Wave.name == wave_name)).first() or Wave(name=wave_name)
        wave.roster_columns = ",".join(roster.columns)
        session.add(wave)
        session.flush()
        if wave.id is None:
            raise AssertionError("a flushed row has an id")
        known = {m.email.casefold(): m for m in session.exec(select(Member).where(Member.wave_id == wave.id))}
        members = [_member(session, wave.id, known.get(each.row.email.casefold()), each) for each in settled]
        session.flush()
        _replace_problems(session, wave.id, [*roster.problems, *extra])
        session.add(Event(wave_id=wave.id, who="admin", what="roster", why=f"{len(rows)} rows"))
        ids = [(member.id or 0, row) for member, row in zip(members, rows, strict=True)]
        if any(row.password or row.target_password for row in rows):
            wave.credentials_purged_at = None
    secrets = list(_secrets(ids))
    _forget_refusals(engine, vault, members, secrets)
    vault.put_many(secrets)
    return wave


def _forget_refusals(
    engine: Engine, vault: Vault, members: Iterable[Member], secrets: Iterable[tuple[int, Side, str]]
) -> None:
    """What an account was answered counts no more when it has another password; the same one proves nothing new."""
    new = {(member_id, side): secret for member_id, side, secret in secrets}
    for member in members:
        refusals = read_refusals(member.refusals)
        if not refusals:
            continue
        known = vault.get_sides(member.id or 0)
        mended: set[str] = {side for of, side in new if of == member.id and new[of, side] != known.get(side)}
        if mended & refusals.keys():
            with writing(engine, alone=False) as session:
                row = session.get_one(Member, member.id, with_for_update=True)
                row.refusals = write_refusals({side: each for side, each in refusals.items() if side not in mended})
                session.add(row)


def _secrets(rows: Iterable[tuple[int, RosterRow]]) -> Iterator[tuple[int, Side, str]]:
    for member_id, row in rows:
        if row.password is not None:
            yield member_id, "source", row.password.get_secret_value()
        if row.target_password is not None:
            yield member_id, "target", row.target_password.get_secret_value()


def _member(session: Session, wave_id: int, known: Member | None, settled: Settled) -> Member:
    row = settled.row
    member = known or Member(wave_id=wave_id, line=row.line, email=row.email, user_name=row.user_name)
    before = _logins(member)
    for name in _COPIED_FIELDS:
        setattr(member, name, getattr(row, name))
    if server := settled.server:
        member.source_host, member.source_security = server.host, server.security
        member.source_port = row.source_port or server.port
    # What a server said of itself is forgotten where the roster has changed.
    member.source_provider, member.target_provider = settled.source_provider, settled.target_provider
    if member.refusals:
        refusals = read_refusals(member.refusals)
        same = {side for side, login in _logins(member).items() if login == before[side]}
        member.refusals = write_refusals({side: each for side, each in refusals.items() if side in same})
    member.exclude_folders = "\n".join(row.exclude_folders)
    if known is None:
        member.state = MemberState.QUEUED
    elif member.state == MemberState.REMOVED:
        change_state(session, member, MemberState.QUEUED, who="admin", why="roster")
    session.add(member)
    return member


def _logins(member: Member) -> dict[str, tuple[str | None, ...]]:
    """Which account is signed in to on either side, and by whom."""
    return {
        "source": (member.source_host, member.user_name, member.source_admin),
        "target": (member.target_host, member.target_user_name, member.target_admin),
    }


def _replace_problems(session: Session, wave_id: int, problems: Sequence[RosterProblem]) -> None:
    session.exec(delete(InvalidRow).where(col(InvalidRow.wave_id) == wave_id))
    for problem in sorted(problems, key=lambda p: p.line):
        session.add(
            InvalidRow(
                wave_id=wave_id,
                line=problem.line,
                column=problem.column,
                value=problem.value,
                code=problem.code,
                problem_zh=problem.problem.zh,
                problem_en=problem.problem.en,
                fix_zh=problem.fix.zh,
                fix_en=problem.fix.en,
            )
        )
