"""Copies one mailbox: pair the folders, then pass over them in groups.

Everything that is true afterwards is in the ledger; running again does only what is still missing.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace

from imapcopy.account import Account
from imapcopy.aliases import Names, find_aliases
from imapcopy.connection import Connection, Listing
from imapcopy.copy_options import CopyOptions, Watch
from imapcopy.created import Created
from imapcopy.deliver import Delivery
from imapcopy.departures import tell_moved_from_deleted
from imapcopy.endpoint import Endpoint, ask_both, source_endpoint, target_endpoint
from imapcopy.errors import MemberError, MigrationError, is_of_the_folder
from imapcopy.folder_pass import settled_as
from imapcopy.folders import Folder, FolderPair, FolderPlan, Place, map_folders
from imapcopy.grammar import decode_mailbox, encode_mailbox
from imapcopy.group_pass import GroupPass, Surroundings
from imapcopy.plan import groups
from imapcopy.responses import FolderStatus
from imapcopy.set_apart import C, ask_each
from imapcopy.source_connection import SourceConnection
from imapcopy.stopping import ended_by
from imapcopy.target_connection import TargetConnection
from models.ledger import Ledger
from models.ledger_rows import BatchRecord, BatchState, FolderCopy
from models.places import FolderPlace


def copy_mailbox(
    source: Account, target: Account, ledger: Ledger, options: CopyOptions, watch: Watch | None = None
) -> None:
    """Bring the target up to the source; raise what stopped it, after all that could be done."""
    watch = watch or Watch()
    with (
        source_endpoint(source, watch.stop) as from_source,
        target_endpoint(target, watch.stop) as to_target,
        ended_by(watch.stop, from_source, to_target),
    ):
        old, new = ask_both(
            lambda: from_source.ask(SourceConnection.listing, statuses=True),
            lambda: to_target.ask(TargetConnection.listing, statuses=True),
        )
        # What was measured holds for the server that was measured.
        options = replace(options, known=options.known.of(to_target.connection.greeting))
        rows = ledger.folders()
        for row in rows:
            to_target.connection.numbering.expect(encode_mailbox(row.target_name), row.target_uidvalidity)
        before = ledger.places()
        known = known_places(rows, before)
        plan, statuses = plan_each_once(from_source, old, new, options, known, seconds(before))
        pairs = plan.pairs
        # How many a view contributes is known only when it has been scanned.
        counted = [pair.source.raw for pair in pairs if not pair.source.elsewhere]
        watch.found(sum(statuses[raw].messages for raw in counted if raw in statuses))
        created = Created(to_target, plan, {folder.name for folder in new.folders}, known, watch.rest)
        created.make()
        pairs = created.plan.pairs
        places = _Places(ledger, before)
        places.note(created.plan, statuses)
        failures: list[MigrationError] = list(created.refused.values())
        unchanged = _unchanged(pairs, statuses, to_target, new.statuses, rows, options)
        seen: list[int] = list(unchanged.values())
        changed = [p for p in pairs if p.source.raw not in unchanged and p.target_name not in created.refused]
        _recover_elsewhere(pairs, statuses, to_target, ledger, rows)
        listed = {folder.name: folder for folder in (*old.folders, *(pair.source for pair in pairs))}
        surroundings = Surroundings(listed, dict(statuses), created)
        counts = {raw: status.messages for raw, status in statuses.items()}
        for apart in _apart(changed):
            for group in groups(apart, lambda pair: counts.get(pair.source.raw, 0), options.grouping):
                for folder in GroupPass(group, surroundings, from_source, to_target, ledger, options, watch).run():
                    if folder.failed:
                        failures.append(folder.failed)
                    else:
                        seen.append(folder.id)
                        places.count(folder.source, folder.elsewhere)
        places.note(created.plan, statuses)
        every = ledger.folders(superseded=True)
        left = {row.source_name for row in every if not row.superseded and row.id not in seen}
        if left and not failures:
            there = {folder.name for folder in old.folders if folder.selectable}
            ledger.supersede_all_but(seen, left - there)
        if left or any(row.gone or row.strayed for row in every):
            tell_moved_from_deleted(ledger)
        if failures:
            raise _all_of(failures)


def plan_folders(
    source: SourceConnection,
    old: Listing,
    new: Listing,
    options: CopyOptions,
    known: Mapping[str, Place] | None = None,
    aliases: Collection[str] = (),
) -> FolderPlan:
    """Decide which folder goes where, from what both sides list and where folders went before."""
    if not any(folder.selectable for folder in old.folders):
        # There is always an INBOX (RFC 9051 section 5.1): this is no empty mailbox, but one that is not shown.
        raise MemberError("no_folders", "source", "", where=source.server.host)
    plan = map_folders(
        old.folders,
        new.folders,
        source_prefix=old.prefix,
        target_prefix=new.prefix,
        target_separator=new.separator,
        source_namespaces=old.namespaces,
        target_namespaces=new.namespaces,
        root=options.root,
        exclude=options.exclude,
        rules=options.folders,
        traits=source.provider.traits,
        known=known,
        aliases=aliases,
    )
    while foreseen := {p.target_name for p in plan.pairs if p.create and options.known.refuses(p.target_name)}:
        other = plan.renamed(foreseen)
        if other == plan:
            break
        plan = other
    return plan


def plan_each_once(
    source: Endpoint[SourceConnection],
    old: Listing,
    new: Listing,
    options: CopyOptions,
    known: Mapping[str, Place],
    remembered: Collection[str],
) -> tuple[FolderPlan, Mapping[bytes, FolderStatus]]:
    """The same without the further names of a folder, and STATUS of all of the source's; `remembered` are such names
    that an earlier pass has found.
    """
    plan = plan_folders(source.connection, old, new, options, known)
    statuses = dict(old.statuses or {})
    # Of what LIST has not told, or in a line that cannot be read: without it nobody would see that mail has left.
    if untold := [folder.raw for folder in plan.sources if folder.raw not in statuses]:
        statuses |= source.ask(_statuses, source, untold)
    names = Names(old.namespaces, known, remembered)
    aliases = source.ask(find_aliases, [pair.source for pair in plan.pairs], statuses, names)
    return plan_folders(source.connection, old, new, options, known, aliases) if aliases else plan, statuses


def seconds(places: Mapping[str, FolderPlace]) -> set[str]:
    """The names that an earlier pass has found to be further ones of other folders."""
    return {name for name, place in places.items() if place.why == "same_folder"}


def known_places(rows: Iterable[FolderCopy], places: Mapping[str, FolderPlace]) -> dict[str, Place]:
    """Where folders went before. Of a folder that a run made before it died, only the place may tell."""
    known = {name: Place(place.target_name, place.why) for name, place in places.items() if place.target_name}
    for row in rows:
        why = known[row.source_name].why if row.source_name in known else ""
        known[row.source_name] = Place(row.target_name, why)
    return known


def _statuses(_: Connection, end: Endpoint[C], names: Sequence[bytes]) -> dict[bytes, FolderStatus]:
    """STATUS of these folders, as they are named on the wire; without those that are refused, or come to nothing."""
    asked = ask_each(end, names, Connection.each_status, decode_mailbox, alone=False)
    return {name: status for name, status in asked if isinstance(status, FolderStatus)}


class _Places:
    """What the report says about the places of folders; written down when it has changed."""

    def __init__(self, ledger: Ledger, before: Mapping[str, FolderPlace]) -> None:
        self._ledger = ledger
        self._before = {name: (row.target_name, row.why, row.messages) for name, row in before.items()}
        self._elsewhere = {name: row.messages for name, row in before.items() if row.target_name}

    def count(self, folder: Folder, elsewhere: int) -> None:
        """So many messages of a view are in other folders."""
        if folder.elsewhere:
            self._elsewhere[folder.name] = elsewhere

    def note(self, plan: FolderPlan, statuses: Mapping[bytes, FolderStatus]) -> None:
        now = {
            pair.source.name: (pair.target_name, pair.why, self._elsewhere.get(pair.source.name, 0))
            for pair in plan.pairs
            if pair.why
        }
        for each in plan.left_out:
            status = statuses.get(each.source.raw)
            now[each.source.name] = "", each.why, status.messages if status else 0
        if now != self._before:
            self._ledger.note_places([self._ledger.place(name, *place) for name, place in now.items()])
            self._before = now


def _apart(pairs: Iterable[FolderPair]) -> list[list[FolderPair]]:
    """Folders that share a target, one after the other: each has to know what the one before has brought there."""
    rounds: list[list[FolderPair]] = []
    met: Counter[str] = Counter()
    for pair in pairs:
        if met[pair.target_name] == len(rounds):
            rounds.append([])
        rounds[met[pair.target_name]].append(pair)
        met[pair.target_name] += 1
    return rounds


def _unchanged(
    pairs: Sequence[FolderPair],
    statuses: Mapping[bytes, FolderStatus],
    target: Endpoint[TargetConnection],
    told: Mapping[bytes, FolderStatus] | None,
    rows: Iterable[FolderCopy],
    options: CopyOptions,
) -> dict[bytes, int]:
    """Ledger ids of the folders in which nothing has happened since a pass left nothing to do, by raw name."""
    if options.deep:
        return {}
    known = {(folder.source_name, folder.target_name): folder for folder in rows}
    candidates: list[tuple[FolderPair, FolderCopy]] = []
    for pair in pairs:
        folder = known.get((pair.source.name, pair.target_name))
        status = statuses.get(pair.source.raw)
        # Without CONDSTORE nothing tells whether flags have changed but the flags.
        tells_flags = status is not None and status.highestmodseq
        if (
            folder
            and folder.settled
            and tells_flags
            and folder.settled == settled_as(status, options.since, pair.source)
        ):
            candidates.append((pair, folder))
    names = [encode_mailbox(pair.target_name) for pair, _ in candidates]
    targets = target.ask(_statuses, target, names) if told is None else told
    found = {}
    for (pair, folder), name in zip(candidates, names, strict=True):
        status = targets.get(name)
        if status and status.uidvalidity == folder.target_uidvalidity:
            found[pair.source.raw] = folder.id or 0
    return found


def _recover_elsewhere(
    pairs: Sequence[FolderPair],
    statuses: Mapping[bytes, FolderStatus],
    target: Endpoint[TargetConnection],
    ledger: Ledger,
    known: Iterable[FolderCopy],
) -> None:
    """Settle what an earlier run left open in folders that this pass does not meet under their names and UIDs again:
    otherwise nobody would know the copies when their messages turn up elsewhere.
    """
    met = {(pair.source.name, pair.target_name): statuses.get(pair.source.raw) for pair in pairs}
    rows = {}
    for row in known:
        status = met.get((row.source_name, row.target_name))
        if status is None or status.uidvalidity != row.source_uidvalidity:
            rows[row.id or 0] = row
    for folder_id, recorded in ledger.batches_of(rows).items():
        if not any(batch.state == BatchState.INTENDED for batch in recorded):
            continue
        try:
            target.ask(_recovered, target, ledger, rows[folder_id], recorded)
        except MigrationError as error:
            if not is_of_the_folder(error):
                raise


def _recovered(
    connection: TargetConnection,
    target: Endpoint[TargetConnection],
    ledger: Ledger,
    row: FolderCopy,
    recorded: Sequence[BatchRecord],
) -> None:
    """Look up what is open in a folder of the target, if it is still the same."""
    landed = connection.select(row.target_name)
    if landed.uidvalidity == row.target_uidvalidity:
        claimed = ledger.claimed_target_uids([row.target_name])[row.target_name, row.target_uidvalidity]
        Delivery(target, ledger, row, landed, recorded, claimed).recover(lambda uids: (), {})


def _all_of(failures: Sequence[MigrationError]) -> MigrationError:
    """One error for several folders: one that waiting mends first, and the names of the others."""
    first, *others = sorted(failures, key=lambda error: not error.retryable)
    if not others:
        return first
    names = ", ".join(repr(error.where) for error in others)
    return first.told_as(type(first), server_text=f"{first.server_text} (also {names})")
