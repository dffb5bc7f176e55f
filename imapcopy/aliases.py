"""Which names of a mailbox are one folder, so that its mail is moved once.

A second namespace that is listed shows every folder again, and some servers list a name once more with a separator at
its end. Numbers that are equal only raise the question: what answers it is the mail itself. Folders that might be two
are two, because a double is a nuisance and a folder that is left out is a loss.
"""

import unicodedata
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from imapcopy.errors import FolderError
from imapcopy.folders import Folder, is_inbox
from imapcopy.namespaces import Namespaces
from imapcopy.responses import FolderStatus
from imapcopy.source_connection import SourceConnection, Surveyed

_LOOKS = 3
"""So often two names are compared whose mail changes while it is looked at."""
_IDS = 200
"""Of so many messages, the oldest and the newest, Message-IDs are compared."""


@dataclass(frozen=True, slots=True)
class Names:
    """What is known of a mailbox's names before any folder is opened."""

    namespaces: Namespaces
    known: Collection[str] = ()
    """Names under which folders were moved before."""
    remembered: Collection[str] = ()
    """Names that were found to be second ones before."""

    def rank(self, folder: Folder) -> tuple[object, ...]:
        """Which name is kept, the lowest: the one that was moved before, else the plainest of the member's own."""
        name = folder.name
        own = self.namespaces.own(name)
        nth = self.namespaces.personal.index(own) if own in self.namespaces.personal else len(self.namespaces.personal)
        owner = self.namespaces.owner(name) != ""
        return name not in self.known, not is_inbox(name), owner, nth, name != _unended(folder), len(name), name


def place_of(folder: Folder, namespaces: Namespaces) -> tuple[str, ...]:
    """Where a name leads in any personal namespace: equal for names that may be one folder by what they say."""
    below = namespaces.own(folder.name).below(folder.name)
    separator = namespaces.own(folder.name).separator or folder.separator
    parts = [part for part in (below.split(separator) if separator else [below]) if part]
    if len(parts) > 1 and is_inbox(parts[0]):
        parts = parts[1:]
    return tuple(unicodedata.normalize("NFC", part) for part in parts) or ("INBOX",)


@dataclass(frozen=True, slots=True)
class Suspected:
    """Folders that may be one; `by_number` where no other folders of the mailbox have their UIDVALIDITY by chance."""

    folders: tuple[Folder, ...]
    by_number: bool


def suspects(folders: Iterable[Folder], statuses: Mapping[bytes, FolderStatus], names: Names) -> list[Suspected]:
    """The folders that may be one: by name, by MAILBOXID (RFC 8474) or by equal numbers. Pure."""
    told = [folder for folder in folders if folder.raw in statuses and not folder.elsewhere]
    by_uidvalidity: dict[int, list[Folder]] = defaultdict(list)
    for folder in told:
        by_uidvalidity[statuses[folder.raw].uidvalidity].append(folder)
    # Some servers give all folders one UIDVALIDITY, or that of the second in which a tool made many of them.
    tells = 2 * len(by_uidvalidity) > len(told)
    return [
        Suspected(tuple(group), tells)
        for alike in by_uidvalidity.values()
        if len(alike) > 1
        for group in _together(alike, statuses, names, tells=tells)
    ]


def _together(
    alike: Sequence[Folder], statuses: Mapping[bytes, FolderStatus], names: Names, *, tells: bool
) -> list[list[Folder]]:
    """Folders of one UIDVALIDITY, in groups of those that share a sign with one another."""
    remembered = tells and any(folder.name in names.remembered for folder in alike)
    first: dict[object, int] = {}
    leads_to = list(range(len(alike)))

    def root(at: int) -> int:
        while leads_to[at] != at:
            leads_to[at] = leads_to[leads_to[at]]
            at = leads_to[at]
        return at

    for at, folder in enumerate(alike):
        status = statuses[folder.raw]
        signs: list[object] = [place_of(folder, names.namespaces)]
        if status.mailbox_id:
            signs.append(status.mailbox_id)
        if tells and status.messages and status.uidnext and status.uidvalidity:
            signs.append((status.uidnext, status.messages, status.highestmodseq))
        if remembered:
            signs.append("remembered")
        for sign in signs:
            leads_to[root(at)] = root(first.setdefault(sign, at))
    groups: dict[int, list[Folder]] = defaultdict(list)
    for at, folder in enumerate(alike):
        groups[root(at)].append(folder)
    return [group for group in groups.values() if len(group) > 1]


def find_aliases(
    source: SourceConnection,
    folders: Sequence[Folder],
    statuses: Mapping[bytes, FolderStatus],
    names: Names,
) -> set[str]:
    """The names under which a folder of these would be moved a second time; opens and scans only what is suspected."""
    found = {folder.name for folder in _only_ended(folders, statuses)}
    for group in suspects([folder for folder in folders if folder.name not in found], statuses, names):
        ranked = sorted(group.folders, key=names.rank)
        if _are_as_before(ranked, group, statuses, names):
            found |= {folder.name for folder in ranked[1:]}
            continue
        for _ in range(_LOOKS):
            surveyed = source.survey(ranked)
            seen = {folder.raw: survey for folder, survey in surveyed if isinstance(survey, Surveyed)}
            kept, doubtful = _kept(source, ranked, seen, statuses, names)
            # Something may have arrived, or been read, between the looks at two names.
            if not doubtful:
                break
        found |= {folder.name for folder in ranked if folder not in kept}
    return found


def _only_ended(folders: Iterable[Folder], statuses: Mapping[bytes, FolderStatus]) -> list[Folder]:
    """Names that cannot be opened, and are those of other folders with a separator behind them: that is no name of its
    own (RFC 9051 section 6.3.4).
    """
    there = {folder.name for folder in folders if folder.raw in statuses}
    return [folder for folder in folders if folder.raw not in statuses and _unended(folder) in there - {folder.name}]


def _unended(folder: Folder) -> str:
    return folder.name.rstrip(folder.separator) if folder.separator else folder.name


def _are_as_before(
    ranked: Sequence[Folder], group: Suspected, statuses: Mapping[bytes, FolderStatus], names: Names
) -> bool:
    """Whether nothing speaks against what an earlier look has shown."""
    told = {statuses[folder.raw] for folder in ranked}
    remembered = ranked[0].name in names.known and all(folder.name in names.remembered for folder in ranked[1:])
    return remembered and len(told) == 1 and (group.by_number or bool(told.pop().mailbox_id))


def _kept(
    source: SourceConnection,
    ranked: Iterable[Folder],
    seen: Mapping[bytes, Surveyed],
    statuses: Mapping[bytes, FolderStatus],
    names: Names,
) -> tuple[list[Folder], bool]:
    """The folders that are different ones, by their first names; and whether another look may tell more."""
    kept: list[Folder] = []
    doubtful = False
    for folder in ranked:
        remembered = folder.name in names.remembered and bool(kept)
        if folder.raw not in seen:
            if not remembered:
                kept.append(folder)
            continue
        one = seen[folder.raw]
        for other in kept:
            if other.raw not in seen:
                # Moved under its second name while the first cannot be opened, it would come twice.
                if remembered:
                    break
                continue
            two = seen[other.raw]
            if _are_told_apart(statuses[folder.raw], statuses[other.raw]):
                continue
            if not one.scan and not two.scan:
                if place_of(folder, names.namespaces) == place_of(other, names.namespaces):
                    break
            elif is_same_mail(one, two) or (remembered and may_be_same_mail(one, two)):
                # What has been found once is not given up because its mail is never at rest.
                if _have_same_ids(source, folder, other, {e.uid for e in one.scan} & {e.uid for e in two.scan}):
                    break
            else:
                doubtful = doubtful or may_be_same_mail(one, two)
        else:
            kept.append(folder)
    return kept, doubtful


def is_same_mail(one: Surveyed, two: Surveyed) -> bool:
    """Whether two folders show the same messages under the same UIDs: sizes, dates and flags."""
    return one.opened.uidvalidity == two.opened.uidvalidity and list(one.scan) == list(two.scan)


def may_be_same_mail(one: Surveyed, two: Surveyed) -> bool:
    """Whether they differ only by what may have happened between two looks at one folder."""
    if one.opened.uidvalidity != two.opened.uidvalidity:
        return False
    left, right = ({e.uid: (e.size, e.arrived, e.internal_date) for e in survey.scan} for survey in (one, two))
    shared = left.keys() & right.keys()
    return 2 * len(shared) > max(len(left), len(right)) and all(left[uid] == right[uid] for uid in shared)


def _have_same_ids(source: SourceConnection, one: Folder, two: Folder, uids: Collection[int]) -> bool:
    """Whether messages that both have, the oldest and the newest, have the same Message-IDs."""
    some = sorted(uids) if len(uids) <= _IDS else [*sorted(uids)[: _IDS // 2], *sorted(uids)[-_IDS // 2 :]]
    told: list[dict[int, str]] = []
    for folder in (one, two):
        try:
            source.examine(folder)
            told.append(source.message_ids(some))
        except FolderError:
            return False
    left, right = told
    shared = left.keys() & right.keys()
    return bool(shared) and all(left[uid] == right[uid] for uid in shared)


def _are_told_apart(one: FolderStatus, two: FolderStatus) -> bool:
    return bool(one.mailbox_id and two.mailbox_id) and one.mailbox_id != two.mailbox_id
