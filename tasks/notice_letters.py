"""Looks at a wave once, and turns its notices into letters and mails."""

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from functools import cached_property

from sqlmodel import col, select

from imapcopy.errors import MemberError
from models.bilingual import LANGUAGES, Language
from models.causes import Side, cause
from models.database import reading
from models.detection import provider_of
from models.hosts import Host, host_name
from models.lifecycle import find_wave
from models.member import Member
from models.notices import MEMBER_KINDS, Channel, Notice, NoticeKind, NoticeState, wave_notices
from models.progress import WaveProgress, wave_progress
from models.providers import ANYBODY, Provider, provider_at
from models.states import FINAL, MOVED, SHORT_STATES, ShortState, WaveState
from models.vault import stored_sides
from reports.admin_letters import Standing, alarm, daily_summary, time_to_go
from reports.letters import Letter, as_html, as_text
from reports.member_letters import MemberNotice, completion, invitation, reminder
from reports.read import read_wave
from reports.summary import MemberSummary
from reports.texts import Wording
from tasks.notice_mail import Mail
from tasks.notice_policy import Person, WaveFacts, host_troubles, last_told, still_wanted
from tasks.store import Store

SHORT_PAUSE = timedelta(minutes=10)
"""A server that is left alone for less than this is no news to an admin."""


class Look:
    """A wave as it is now, as far as notices go; what is costly is read when it is asked for."""

    def __init__(self, kept: Store, wave: str, at: datetime) -> None:
        self._kept = kept
        self._name = wave
        self._at = at
        self.notices = wave_notices(kept.engine, wave)
        self.members: dict[int, Member] = {}
        self._missing: dict[int, frozenset[str]] = {}
        with reading(kept.engine) as session:
            self._wave = find_wave(session, wave)
            query = select(Member).where(Member.wave_id == self._wave.id).order_by(col(Member.line))
            stored = stored_sides(session, self._wave.id or 0)
            for member in session.exec(query):
                self._know(member, stored)
            left_alone = session.exec(select(Host).where(col(Host.paused_until) > at + SHORT_PAUSE))
            paused = {host.name: host for host in left_alone if host.cause}
        self._left_alone_until = {name: host.paused_until for name, host in paused.items()}
        self.troubles = host_troubles(self.people, {name: host.cause for name, host in paused.items()})
        self.names = {each: member.email for each, member in self.members.items()}

    @property
    def facts(self) -> WaveFacts:
        wave = self._wave
        return WaveFacts(wave.id or 0, wave.state, wave.notices_opened_at, wave.run_started_at)

    @property
    def people(self) -> list[Person]:
        return [self._person(member) for member in self.members.values()]

    def still_wanted(self, notice: Notice) -> bool:
        """Look at the notice's member again, and say whether there is still a reason to write."""
        if notice.member_id is None:
            return True
        with reading(self._kept.engine) as session:
            self._wave = find_wave(session, self._name)
            stored = stored_sides(session, self._wave.id or 0, notice.member_id)
            self._know(session.get_one(Member, notice.member_id), stored)
        return still_wanted(self.facts, self._person(self.members[notice.member_id]), notice)

    def _know(self, member: Member, stored: Mapping[int, frozenset[str]]) -> None:
        each = member.id or 0
        self.members[each] = member
        self._missing[each] = self._wanted_sides(member) - stored.get(each, frozenset())

    def _person(self, member: Member) -> Person:
        old, new = self._server_names(member)
        return Person(
            id=member.id or 0,
            state=member.state,
            cause=member.cause,
            new_address=member.email,
            old_login=member.user_name,
            notify_address=member.notify_address or "",
            host=old,
            new_host=new,
            cause_side=member.cause_side,
            passwords_missing=bool(self._missing[member.id or 0]),
        )

    def _server_names(self, member: Member) -> tuple[str, str]:
        try:
            old, new = self._kept.servers(member)
        except MemberError:  # the member's own cause says which one is missing
            return self._host(member, "source").lower(), self._host(member, "target").lower()
        return host_name(old.host, old.port), host_name(new.host, new.port)

    def _host(self, member: Member, side: Side) -> str:
        found = self._kept.settings
        if side == "source":
            return member.source_host or found.source_host
        return member.target_host or found.target_host

    def _provider(self, member: Member, side: Side) -> Provider:
        found = provider_of(member, side)
        return found if found.name != ANYBODY else provider_at(self._host(member, side))

    def _wanted_sides(self, member: Member) -> frozenset[str]:
        """Sides that are opened by the member's own password."""
        sign_in, default = self._kept.settings.sign_in, self._kept.default_servers
        own = set()
        if not member.source_admin and not sign_in.source.is_for(self._host(member, "source"), default.source_host):
            own.add("source")
        if not member.target_admin and not sign_in.target.is_for(self._host(member, "target"), default.target_host):
            own.add("target")
        return frozenset(own)

    @cached_property
    def progress(self) -> WaveProgress:
        return wave_progress(self._kept.engine, self._name)

    @cached_property
    def _moved(self) -> dict[int, MemberSummary]:
        return {member.id: member for member in read_wave(self._kept.engine, self._name).members}

    @cached_property
    def standing(self) -> Standing:
        """The numbers of a summary."""
        attention: dict[str, set[int]] = {}
        for person in self.people:
            if SHORT_STATES[person.state] == ShortState.NEEDS_ATTENTION:
                # A mailbox that is through, with messages that are not, has no cause of its own.
                name = person.cause or person.left_to_do or ("" if person.state in MOVED else "unclassified")
                if name:
                    attention.setdefault(name, set()).add(person.id)
        gone = {NoticeState.REFUSED, NoticeState.UNKNOWN}
        return Standing(
            at=self._at,
            all=len(self.people),
            moved=frozenset(person.id for person in self.people if person.state in MOVED),
            attention={name: frozenset(ids) for name, ids in attention.items()},
            unfinished=sum(_goes_on(person) for person in self.people),
            messages=sum(member.done for member in self.progress.members),
            left_behind=sum(member.issues for member in self.progress.members),
            waiting={about: len(ids) for about, ids in self.troubles.items()},
            unread=sum(notice.state in gone and notice.member_id is not None for notice in self.notices),
        )

    def _pace(self) -> tuple[int, timedelta] | None:
        """What is left of a run that goes on, and how long that takes; None where it cannot be said honestly."""
        now = self.progress
        open_ones = [m for m in now.members if m.short_state in {ShortState.WAITING, ShortState.ACTIVE}]
        if now.state != WaveState.RUNNING or now.started_at is None or not all(m.found for m in open_ones):
            return None
        left = sum(m.found - m.done for m in open_ones)
        time = time_to_go(left, now.copied_this_run, self._at - now.started_at)
        return None if time is None else (left, time)

    def language(self, member_id: int | None) -> Language:
        """What the member reads, or the admins."""
        wanted = self.members[member_id].language if member_id else None
        return next((each for each in LANGUAGES if each == wanted), self._kept.settings.spoken_language)

    def wording(self, member_id: int | None, language: Language | None = None) -> Wording:
        return Wording(language or self.language(member_id), self._kept.settings.notices_zone)

    def letter(self, notice: Notice, words: Wording) -> Letter:
        """What the notice says."""
        if notice.kind == NoticeKind.SUMMARY:
            now = Standing.read(json.loads(notice.snapshot))
            before = last_told(self.notices, notice.recipient)
            then = Standing.read(before) if before else None
            return daily_summary(self._name, now, then, self.names, words, self._pace())
        if notice.kind == NoticeKind.ALARM:
            until = self._left_alone_until.get(notice.about.partition(" ")[2])
            return alarm(self._name, notice.about, self.troubles.get(notice.about, []), self.names, words, until)
        member = self.members[notice.member_id or 0]
        told = self._member_notice(member)
        if notice.kind == NoticeKind.COMPLETION:
            return completion(told, self._moved[member.id or 0], words)
        if notice.kind == NoticeKind.REMINDER:
            return reminder(told, cause(notice.about), words)
        return invitation(told, words)

    def example(self, kind: NoticeKind, member_id: int | None) -> Notice | None:
        """A notice of that kind as it would be now, due or not; None where there is nothing to tell."""
        recipient, about, snapshot = "admin@example.invalid", "", ""
        if kind == NoticeKind.ALARM:
            about = next(iter(self.troubles), "")
            if not about:
                return None
        elif kind == NoticeKind.SUMMARY:
            snapshot = json.dumps(self.standing.written())
        else:
            person = next((each for each in self.people if each.id == member_id), None)
            if person is None:
                return None
            recipient = person.address or "nobody@example.invalid"
            about = (person.left_to_do or "password_missing") if kind == NoticeKind.REMINDER else ""
        return Notice(
            wave_id=self.facts.id,
            member_id=member_id if kind in MEMBER_KINDS else None,
            kind=kind,
            channel=Channel.MAIL,
            recipient=recipient,
            key=f"preview-{kind}",
            about=about,
            snapshot=snapshot,
            due_at=self._at,
            next_at=self._at,
        )

    def chat_letter(self, notice: Notice) -> Letter:
        """What the notice says, in the admins' language."""
        return self.letter(notice, self.wording(None))

    def mail(self, notice: Notice, language: Language | None = None) -> Mail:
        """The notice as a mail."""
        words = self.wording(notice.member_id, language)
        letter = self.letter(notice, words)
        return Mail(
            notice.recipient, letter.subject, as_text(letter), as_html(letter, words), words.language, notice.key
        )

    def _member_notice(self, member: Member) -> MemberNotice:
        start = self._wave.start_at
        return MemberNotice(
            old=member.user_name,
            new=member.email,
            name=member.display_name or "",
            starts_at=start if start and start > self._at else None,
            source=self._provider(member, "source"),
            target=self._provider(member, "target"),
            missing=self._missing[member.id or 0],
            contact=self._kept.settings.notice_contact,
            side=member.cause_side or "source",
        )


def _goes_on(person: Person) -> bool:
    return person.state not in FINAL and SHORT_STATES[person.state] in {ShortState.WAITING, ShortState.ACTIVE}
