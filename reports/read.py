"""Reads a wave out of the database into the values of `reports.summary`. Needs neither Prefect nor a mail server."""

import json
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime

from sqlalchemy import Engine
from sqlmodel import Session, col, select

from models.bilingual import Text
from models.causes import cause
from models.columns import now
from models.database import reading, writing
from models.detection import known_provider
from models.hints import Hint
from models.hosts import waits
from models.ledger_rows import FolderCopy, MessageIssue, MessageRepair
from models.lifecycle import copied_so_far, find_wave
from models.member import Member
from models.places import FolderPlace
from models.rules import Subjects
from models.server_words import KnownBy
from models.uid_sets import parse_uids
from models.wave import Event, InvalidRow, Wave
from reports.read_check import limited_ranges, read_checks
from reports.summary import (
    EventSummary,
    FolderSummary,
    Followed,
    InvalidRowSummary,
    IssueSummary,
    LeftOutSummary,
    MemberSummary,
    MessageCounts,
    PreviousReport,
    RepairSummary,
    WaveSummary,
)


def read_wave(engine: Engine, name: str, subjects: Subjects = "hidden") -> WaveSummary:
    """Everything that the report of a wave says, as of this moment; but for what was altered (`AlteredMessages`)."""
    with reading(engine) as session:
        wave = find_wave(session, name)
        members = tuple(_members(session, wave, subjects))
        made_at = now()
        copied, size = copied_so_far(session, wave.id or 0)
        return WaveSummary(
            wave=wave.name,
            state=wave.state,
            report_id=f"{wave.id}-{made_at:%Y%m%d-%H%M%S}",
            made_at=made_at,
            members=members,
            invalid_rows=tuple(_invalid_rows(session, wave)),
            roster_columns=tuple(c for c in wave.roster_columns.split(",") if c),
            previous=_previous(wave),
            credentials_purged_at=wave.credentials_purged_at,
            seconds=_seconds(wave, made_at),
            run_messages=max(copied - wave.copied_before, 0),
            run_bytes=max(size - wave.bytes_before, 0),
            events=tuple(
                _event(event)
                for event in session.exec(
                    select(Event)
                    .where(Event.wave_id == wave.id, col(Event.member_id).is_(None))
                    .order_by(col(Event.id))
                )
            ),
            checks=tuple(read_checks(session, wave)),
            waits=waits(session, made_at),
        )


def remember_report(engine: Engine, summary: WaveSummary) -> None:
    """Keep the numbers of this report, so that the next one can say what changed."""
    numbers = {
        "made_at": summary.made_at.isoformat(),
        "copied": summary.counts.copied,
        "synced": len(summary.completed),
        "needs_attention": len(summary.needs_attention),
    }
    with writing(engine) as session:
        wave = find_wave(session, summary.wave)
        wave.reported_numbers = json.dumps(numbers)
        session.add(wave)


def roster_values(engine: Engine, name: str) -> dict[int, dict[str, str]]:
    """The roster's own values of each member, by canonical column, without the secrets."""
    with reading(engine) as session:
        wave = find_wave(session, name)
        members = session.exec(select(Member).where(Member.wave_id == wave.id))
        return {member.id or 0: _roster_row(member, wave) for member in members}


def _roster_row(member: Member, wave: Wave) -> dict[str, str]:
    values: dict[str, object] = {
        "EmailAddress": member.email,
        "UserName": member.user_name,
        "UserRoot": member.user_root,
        "DisplayName": member.display_name,
        "Department": member.department,
        "Wave": wave.name,
        "Provider": member.provider,
        "SourceHost": member.source_host,
        "SourcePort": member.source_port,
        "SourceSecurity": member.source_security,
        "TargetHost": member.target_host,
        "TargetPort": member.target_port,
        "TargetSecurity": member.target_security,
        "TargetUserName": member.target_user_name,
        "SourceAdmin": member.source_admin,
        "TargetAdmin": member.target_admin,
        "ExcludeFolders": "|".join(member.exclude_folders.split("\n")),
        "Since": member.since,
        "Language": member.language,
        "NotifyAddress": member.notify_address,
        "Shared": "yes" if member.shared else None,
        "Note": member.note,
    }
    return {column: "" if value is None else str(value) for column, value in values.items()}


def _members(session: Session, wave: Wave, subjects: Subjects) -> Iterable[MemberSummary]:
    folders: dict[int, list[FolderCopy]] = defaultdict(list)
    own = select(Member.id).where(Member.wave_id == wave.id)
    for folder in session.exec(
        select(FolderCopy)
        .where(col(FolderCopy.member_id).in_(own), col(FolderCopy.superseded).is_(False) | (col(FolderCopy.gone) != ""))
        .order_by(col(FolderCopy.id))
    ):
        folders[folder.member_id].append(folder)
    issues: dict[int, list[MessageIssue]] = defaultdict(list)
    for issue in session.exec(
        select(MessageIssue)
        .join(FolderCopy, col(FolderCopy.id) == col(MessageIssue.folder_copy_id))
        .where(col(FolderCopy.member_id).in_(own), col(FolderCopy.superseded).is_(False))
        .order_by(col(MessageIssue.id))
    ):
        issues[issue.folder_copy_id].append(issue)
    repaired: dict[int, list[RepairSummary]] = defaultdict(list)
    for repair, name in session.exec(
        select(MessageRepair, FolderCopy.source_name)
        .join(FolderCopy, col(FolderCopy.id) == col(MessageRepair.folder_copy_id))
        .where(col(FolderCopy.member_id).in_(own), col(FolderCopy.superseded).is_(False))
        .order_by(col(MessageRepair.id))
    ):
        mended = RepairSummary(name, repair.source_uid, tuple(repair.repairs.split(",")), repair.server_text)
        repaired[repair.folder_copy_id].append(mended)
    places: dict[int, dict[str, FolderPlace]] = defaultdict(dict)
    for place in session.exec(
        select(FolderPlace).where(col(FolderPlace.member_id).in_(own)).order_by(col(FolderPlace.id))
    ):
        places[place.member_id][place.source_name] = place
    events: dict[int, list[EventSummary]] = defaultdict(list)
    for event in session.exec(
        select(Event).where(Event.wave_id == wave.id, col(Event.member_id).is_not(None)).order_by(col(Event.id))
    ):
        events[event.member_id or 0].append(_event(event))
    everybody = session.exec(select(Member).where(Member.wave_id == wave.id).order_by(col(Member.line))).all()
    ranges = limited_ranges(everybody)
    for member in everybody:
        mine, placed = folders[member.id or 0], places[member.id or 0]
        yield MemberSummary(
            id=member.id or 0,
            line=member.line,
            email=member.email,
            display_name=member.display_name or "",
            department=member.department or "",
            source_user=member.user_name,
            source_host=member.source_host or "",
            target_user=member.target_user_name or member.email,
            target_host=member.target_host or "",
            state=member.state,
            cause=cause(member.cause).at(member.cause_side) if member.cause else None,
            cause_side=member.cause_side,
            server_text=member.server_text,
            known_by=KnownBy.read(member.known_by),
            hint=Hint.read(member.hint),
            resume_at=member.resume_at,
            bytes=sum(folder.bytes for folder in mine if not folder.superseded),
            found=member.messages_found,
            folders=tuple(_folder(folder, placed.get(folder.source_name)) for folder in mine),
            left_out=tuple(
                LeftOutSummary(place.source_name, place.why, place.messages)
                for place in placed.values()
                if not place.target_name
            ),
            issues=tuple(_issue(issue, folder, subjects) for folder in mine for issue in issues[folder.id or 0]),
            repaired=tuple(each for folder in mine for each in repaired[folder.id or 0]),
            events=tuple(events[member.id or 0]),
            attempts=member.attempts,
            limited_range=ranges.get(member.id or 0),
            source_provider=known_provider(member, "source"),
            target_provider=known_provider(member, "target"),
            started_at=member.started_at,
            finished_at=member.finished_at,
        )


def _folder(folder: FolderCopy, place: FolderPlace | None) -> FolderSummary:
    strayed = len(parse_uids(folder.strayed))
    deleted = len(parse_uids(folder.gone)) - strayed
    followed = Followed(deleted, folder.moved, folder.flags_changed, strayed)
    if folder.superseded:
        # Deleted at the source: nothing of it is counted there any more.
        return FolderSummary(
            folder.source_name,
            folder.target_name,
            MessageCounts(),
            0,
            None,
            None,
            {},
            0,
            Followed(deleted, strayed=strayed),
        )
    # Before the first pass is through, the ledger knows more messages than have been counted at the source.
    handled = folder.copied + folder.already_there + folder.issues
    return FolderSummary(
        source_name=folder.source_name,
        target_name=folder.target_name,
        counts=MessageCounts(max(folder.source_messages, handled), folder.copied, folder.already_there, folder.issues),
        bytes=folder.bytes,
        oldest=folder.oldest,
        newest=folder.newest,
        altered=json.loads(folder.altered),
        read_back=folder.read_back,
        followed=followed,
        why=place.why if place and place.target_name == folder.target_name != folder.source_name else "",
        elsewhere=place.messages if place and place.target_name else 0,
    )


def _issue(issue: MessageIssue, folder: FolderCopy, subjects: Subjects) -> IssueSummary:
    shown = subjects == "shown"
    return IssueSummary(
        folder=folder.source_name,
        source_uid=issue.source_uid,
        cause=cause(issue.cause),
        arrived=issue.arrived,
        size=issue.size,
        server_text=issue.server_text,
        known_by=KnownBy.read(issue.known_by),
        subject=issue.subject if shown else None,
        sender=issue.sender if shown else None,
    )


def _event(event: Event) -> EventSummary:
    return EventSummary(at=event.at, who=event.who, what=event.what, why=event.why)


def _invalid_rows(session: Session, wave: Wave) -> Iterable[InvalidRowSummary]:
    for row in session.exec(
        select(InvalidRow).where(InvalidRow.wave_id == wave.id).order_by(col(InvalidRow.line), col(InvalidRow.id))
    ):
        yield InvalidRowSummary(
            line=row.line,
            column=row.column,
            value=row.value,
            problem=Text(row.problem_zh, row.problem_en),
            fix=Text(row.fix_zh, row.fix_en),
        )


def invalid_rows(engine: Engine, wave: str) -> tuple[InvalidRowSummary, ...]:
    """What is to be mended in the wave's roster, by line; NoSuchWave where there is no such wave."""
    with reading(engine) as session:
        return tuple(_invalid_rows(session, find_wave(session, wave)))


def _previous(wave: Wave) -> PreviousReport | None:
    if not wave.reported_numbers:
        return None
    numbers = json.loads(wave.reported_numbers)
    return PreviousReport(
        made_at=datetime.fromisoformat(numbers["made_at"]).astimezone(UTC),
        copied=numbers["copied"],
        synced=numbers["synced"],
        needs_attention=numbers["needs_attention"],
    )


def _seconds(wave: Wave, made_at: datetime) -> float:
    if wave.run_started_at is None:
        return 0.0
    return ((wave.run_finished_at or made_at) - wave.run_started_at).total_seconds()
