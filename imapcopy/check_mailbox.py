"""Looks at both sides of a move and writes to neither: sign in, EXAMINE, count, and compare the need with the room.

Both sides are looked at, whatever the other one says, because an admin wants both faults at once; each is signed in to
once. No content of a message is read.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import date, datetime

from imapcopy.account import Account
from imapcopy.aliases import Names, find_aliases
from imapcopy.connection import Listing
from imapcopy.copy_mailbox import plan_folders
from imapcopy.copy_options import CopyOptions
from imapcopy.endpoint import Endpoint, source_endpoint
from imapcopy.errors import MemberError, MigrationError, Side, is_of_the_folder
from imapcopy.folders import WHY_NOT_OWN, Folder, FolderPlan, is_inbox
from imapcopy.grammar import quote
from imapcopy.plan import is_too_large, wanted
from imapcopy.responses import FolderStatus, append_limit
from imapcopy.set_apart import ask_each
from imapcopy.source_connection import SourceConnection, Surveyed
from imapcopy.target_connection import TargetConnection
from models.check import Circumstances, Finding, Look, Severity, findings
from models.probe import Known
from models.receive_range import FolderAge
from models.server_words import KnownBy

_NOTHING = Listing("", "/", (), None)
_NAMED_ANEW = {"characters", "depth", "length", "separator", "collision", "beside_inbox", "not_own"}
"""Why a folder has another name at the target, where no rule and no special use is the reason."""
_ROLES = {"\\sent", "\\drafts", "\\trash", "\\junk", "\\archive"}
_INBOX = b"INBOX"


@dataclass(frozen=True, slots=True)
class MailboxCheck:
    """What a check saw, and what a copy would fail for."""

    folders: Sequence[FolderAge]
    look: Look
    failures: tuple[MigrationError, ...] = ()

    @property
    def failure(self) -> MigrationError | None:
        """The one to act upon: while one side waits for somebody, the other is not signed in to again and again."""
        return min(self.failures, key=lambda error: error.retryable, default=None)

    @property
    def quota_used(self) -> int:
        """Octets of the source's quota, 0 where it does not tell."""
        return self.look.source_quota[0] if self.look.source_quota else 0


class _CheckedTarget(TargetConnection):
    """A target that is only looked at."""

    def examine_inbox(self) -> None:
        """Open INBOX for reading, because some servers refuse only then; one that knows no EXAMINE has listed it."""
        try:
            self._open(b"EXAMINE", _INBOX)
        except MigrationError as error:
            if not error.server_text.startswith("BAD "):
                raise

    def is_restless(self, told: FolderStatus | None) -> bool:
        """Whether INBOX, which is open, has another UIDVALIDITY than STATUS told, and yet another one when it is opened
        again.
        """
        if told is None or not self.selected or self.uidvalidity == told.uidvalidity:
            return False
        before = self.uidvalidity
        self.examine_inbox()
        return self.uidvalidity not in (before, told.uidvalidity)

    def largest_message(self) -> int | None:
        """What the server says of its limit (RFC 7889), for all folders or for INBOX."""
        if not self.has("APPENDLIMIT"):
            return self.append_limit
        asked = self._dialogue.send(b"STATUS " + quote(_INBOX) + b" (APPENDLIMIT)")
        return append_limit(self._dialogue.unless_refused(asked))


@dataclass(frozen=True, slots=True)
class _AtTarget:
    listing: Listing
    there: int
    quota: tuple[int, int] | None
    limit: int | None
    limit_of: str
    known: Known
    restless: bool
    """Its UIDVALIDITY changes each time that a folder is opened."""
    a_day: int | None
    """Octets that its service lets be written in a day."""


@dataclass(frozen=True, slots=True)
class _AtSource:
    folders: Sequence[FolderAge]
    look: Look
    unreadable: tuple[Finding, ...]
    plan: FolderPlan
    hidden: int
    """Messages that its server counts and does not show."""
    a_day: int | None
    """Octets that its service lets be read in a day."""


@dataclass(frozen=True, slots=True)
class _Seen:
    """What counts of one folder; its messages are not kept."""

    age: FolderAge
    moments: tuple[datetime, ...]
    octets: int
    largest: int
    too_large: int
    hidden: int


def check_mailbox(source: Account, target: Account, options: CopyOptions) -> MailboxCheck:
    """Check one member; what a copy would meet at either side is in `failures`, and said as a finding."""
    with (
        source_endpoint(source) as from_source,
        Endpoint(target, _CheckedTarget) as to_target,
        ThreadPoolExecutor(1) as other,
    ):
        asking = other.submit(_at_target, to_target, options)
        failures: list[MigrationError] = []
        old: Listing | None = None
        try:
            old = from_source.again(SourceConnection.listing, statuses=True)
        except MigrationError as error:
            failures.append(error)
        there: _AtTarget | None = None
        try:
            there = asking.result()
        except MigrationError as error:
            failures.append(error)
        here: _AtSource | None = None
        if old:
            try:
                here = _at_source(from_source, old, there, options)
            except MigrationError as error:
                failures.append(error)
    return _concluded(here, there, failures)


def _at_target(target: Endpoint[_CheckedTarget], options: CopyOptions) -> _AtTarget:
    listing = target.again(_CheckedTarget.listing, statuses=True)
    target.again(_CheckedTarget.examine_inbox)
    statuses = listing.statuses
    if statuses is None:
        told = target.each([folder.raw for folder in listing.own if folder.selectable], _CheckedTarget.each_status)
        statuses = {name: status for name, status in told if status}
    restless = target.again(_CheckedTarget.is_restless, statuses.get(_INBOX))
    known = options.known.of(target.connection.greeting)
    limit, limit_of = target.again(_CheckedTarget.largest_message), "server"
    if limit is None and (limit := known.size_limit) is not None:
        limit_of = "probe"
    provider = target.connection.provider
    if limit is None:
        limit, limit_of = provider.largest_message, "provider"
    there = sum(statuses[folder.raw].messages for folder in listing.own if folder.raw in statuses)
    limit_of = limit_of if limit is not None else ""
    quota = target.again(_CheckedTarget.quota)
    return _AtTarget(listing, there, quota, limit, limit_of, known, restless, provider.upload_a_day)


def _at_source(
    source: Endpoint[SourceConnection], old: Listing, there: _AtTarget | None, options: CopyOptions
) -> _AtSource:
    options = replace(options, known=there.known if there else Known())
    plan = plan_folders(source.connection, old, there.listing if there else _NOTHING, options)
    inbox = next((folder for folder in old.folders if is_inbox(folder.name) and folder.selectable), None)
    if inbox and all(pair.source.raw != inbox.raw for pair in plan.pairs):
        # On NetEase a LIST succeeds where nothing can be read, so INBOX is opened even where it is not to be moved.
        source.again(SourceConnection.examine, inbox)
    seen: dict[Folder, _Seen] = {}
    refused: dict[Folder, MigrationError] = {}
    statuses: dict[bytes, FolderStatus] = {}

    def ask(connection: SourceConnection, some: Sequence[Folder]) -> Iterator[tuple[Folder, Surveyed | MigrationError]]:
        return connection.survey(some, old.statuses)

    for folder, survey in ask_each(source, [pair.source for pair in plan.pairs], ask, lambda folder: folder.name):
        if isinstance(survey, Surveyed):
            opened = survey.opened
            statuses[folder.raw] = FolderStatus(opened.messages, opened.uidnext, opened.uidvalidity)
            seen[folder] = _seen(survey, options.since, there.limit if there else None)
        elif is_inbox(folder.name) or not is_of_the_folder(survey):
            raise survey
        else:
            refused[folder] = survey
    if aliases := source.again(find_aliases, [*seen, *refused], statuses, Names(old.namespaces)):
        plan = plan_folders(source.connection, old, there.listing if there else _NOTHING, options, aliases=aliases)
    counted = [each for folder, each in seen.items() if folder.name not in aliases]
    unreadable = [error for folder, error in refused.items() if folder.name not in aliases]
    if unreadable and not counted:
        raise unreadable[0]
    folders = [each.age for each in counted]
    hidden = sum(each.hidden for each in counted)
    moments = [moment for each in counted for moment in each.moments]
    look = Look(
        folders=len(folders),
        messages=sum(folder.messages for folder in folders),
        bytes=sum(each.octets for each in counted),
        largest=max((each.largest for each in counted), default=0),
        oldest=min(moments, default=None),
        newest=max(moments, default=None),
        too_large=sum(each.too_large for each in counted),
        source_quota=source.again(SourceConnection.quota),
    )
    return _AtSource(folders, look, _unreadable(unreadable), plan, hidden, source.connection.provider.download_a_day)


def _seen(survey: Surveyed, since: date | None, limit: int | None) -> _Seen:
    found, hidden = wanted(survey.scan, since), len(survey.hidden)
    dates = [envelope.arrived for envelope in found if envelope.arrived]
    return _Seen(
        FolderAge(len(found) + hidden, min(dates, default=None)),
        (min(dates), max(dates)) if dates else (),
        sum(envelope.size for envelope in found),
        max((envelope.size for envelope in found), default=0),
        sum(is_too_large(envelope.size, limit) for envelope in found),
        hidden,
    )


def _concluded(here: _AtSource | None, there: _AtTarget | None, failures: list[MigrationError]) -> MailboxCheck:
    """Put what both sides told together. Pure."""
    look = here.look if here else Look()
    if there:
        look = replace(look, limit=there.limit, limit_of=there.limit_of, there=there.there, target_quota=there.quota)
    pairs = here.plan.pairs if here else ()
    whys = Counter(each.why for each in here.plan.left_out) if here else Counter[str]()
    not_own, other_names = sum(whys[why] for why in WHY_NOT_OWN.values()), whys["same_folder"]
    seen = Circumstances(
        sides_read=here is not None and there is not None,
        renamed=sum(pair.why in _NAMED_ANEW for pair in pairs),
        left_out=whys.total() - not_own - other_names,
        not_own=not_own,
        other_names=other_names,
        hidden=here.hidden if here else 0,
        restless=there is not None and there.restless,
        roles_wanted=any(pair.role for pair in pairs),
        roles_marked=there is None or any(folder.attributes & _ROLES for folder in there.listing.own),
        keywords_kept=there is None or there.known.keywords != "dropped",
        probe_outdated=there is not None and there.known.outdated,
        read_a_day=here.a_day if here else None,
        written_a_day=there.a_day if there else None,
    )
    told = findings(look, seen)
    met = (*(_met(error.cause_id, Severity.BLOCKS, error) for error in failures), *(here.unreadable if here else ()))
    blocking = [_failure(found) for found in told if found.severity == Severity.BLOCKS]
    return MailboxCheck(here.folders if here else (), replace(look, findings=(*met, *told)), (*failures, *blocking))


def _unreadable(errors: Sequence[MigrationError]) -> tuple[Finding, ...]:
    """The folders that the source does not open, with what it says of one: of one whose answer nobody knows, if any."""
    if not errors:
        return ()
    told = [KnownBy.read(error.known_by) for error in errors]
    unknown = [error for error, known_by in zip(errors, told, strict=True) if known_by and not known_by.is_known]
    return (_met("folders_unreadable", Severity.WARNS, (unknown or errors)[0], n=len(errors)),)


def _met(name: str, severity: Severity, error: MigrationError, **values: int) -> Finding:
    return Finding(name, severity, error.side, values, error.server_text, error.where, error.hint, error.known_by)


def _failure(found: Finding) -> MigrationError:
    side: Side = "target" if found.side == "target" else "source"
    return MemberError(found.name, side, ", ".join(f"{name} {value}" for name, value in found.values.items()))
