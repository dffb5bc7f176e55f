"""Re-reads the target: success is what is there, not what we sent.

Every message that was handed over is looked for by its UID, with its arrival date and flags; then the bytes of those
that some server is known to alter, and of a random sample, are read back and compared by digest (`deep`: of all).
"""

import contextlib
import random
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from imapcopy.account import Account
from imapcopy.connection import Selected, SourceConnection, TargetConnection, sendable_flags
from imapcopy.errors import FolderError, Refused
from imapcopy.identity import alteration, digest
from imapcopy.plan import Envelope, batches
from models.ledger import BatchKind, BatchRecord, BatchState, Entry, Ledger

SAMPLE_SHARE = 0.02
SAMPLE_LEAST = 3
CHUNK_MESSAGES = 100
CHUNK_BYTES = 4 << 20


@dataclass(slots=True)
class Verdict:
    """What re-reading found: messages that are not there, and how many the server altered in which way."""

    lost: set[int] = field(default_factory=set)
    """Source UIDs."""
    altered: Counter[str] = field(default_factory=Counter)
    checked: int = 0
    read_back: int = 0


@dataclass(frozen=True, slots=True)
class Delivered:
    """What this run knows of what it sent: octets by source UID, and the UIDs of messages worth reading back."""

    sizes: Mapping[int, int]
    hazardous: Collection[int]
    keywords_dropped: Collection[int]


def verify_mailbox(source: Account, target: Account, ledger: Ledger, *, deep: bool) -> list[Verdict]:
    """Re-read every folder of a mailbox that the ledger knows; writes nothing."""
    verdicts = []
    with SourceConnection(source) as from_source, TargetConnection(target) as to_target:
        raw_names = {folder.name: folder for folder in from_source.listing().folders}
        for copied in ledger.folders():
            recorded = [b for b in ledger.batches(copied.id or 0) if b.state != BatchState.INTENDED]
            landed = _opened(to_target, copied.target_name)
            if landed is None or landed.uidvalidity != copied.target_uidvalidity:
                # Gone, or another folder under the same name: none of the recorded UIDs means anything in it.
                lost = {entry.source_uid for batch in recorded for entry in batch.entries}
                verdicts.append(Verdict(lost=lost, checked=len(lost)))
                continue
            scan: dict[int, Envelope] = {}
            if copied.source_name in raw_names:
                opened = from_source.examine(raw_names[copied.source_name])
                if opened.uidvalidity == copied.source_uidvalidity:
                    scan = {e.uid: e for e in from_source.scan()}
            nothing_known = Delivered(sizes={}, hazardous=(), keywords_dropped=())
            verdicts.append(
                verify_folder(
                    from_source, to_target, recorded, scan, landed.keywords, nothing_known, deep=deep, flags=False
                )
            )
    return verdicts


def _opened(target: TargetConnection, name: str) -> Selected | None:
    try:
        return target.select(name)
    except FolderError as error:
        if error.cause_id == "folder_missing":
            return None
        raise


def verify_folder(
    source: SourceConnection,
    target: TargetConnection,
    recorded: Sequence[BatchRecord],
    scan: Mapping[int, Envelope],
    keywords: frozenset[str] | None,
    delivered: Delivered,
    *,
    deep: bool = False,
    flags: bool = True,
) -> Verdict:
    """Compare these batches with what the target's opened folder holds; `scan` is the source's, by UID.

    `flags` only right after the copy: later they are the member's own.
    """
    verdict = Verdict(checked=sum(len(batch.entries) for batch in recorded))
    entries = [(batch.kind, entry) for batch in recorded for entry in batch.entries]
    stored = {e.uid: e for e in target.scan_uids([entry.target_uid for _, entry in entries])}
    suspicious: list[Entry] = []
    plain: list[Entry] = []
    for kind, entry in entries:
        found = stored.get(entry.target_uid)
        if found is None:
            verdict.lost.add(entry.source_uid)
            continue
        if kind == BatchKind.ADOPTED:
            # Not ours: its content was compared when it was adopted, its flags belong to the member.
            continue
        sent = scan.get(entry.source_uid)
        if sent is not None:
            dropped = entry.source_uid in delivered.keywords_dropped
            if flags:
                verdict.altered.update(_flag_changes(sent, found, keywords, dropped))
            if sent.arrived is None or sent.arrived != found.arrived:
                verdict.altered["date"] += 1
        # An earlier run may have sent it: then the source's own number is the best that is known.
        size = delivered.sizes.get(entry.source_uid, sent.size if sent else None)
        differs = size is not None and size != found.size
        (suspicious if differs or entry.source_uid in delivered.hazardous else plain).append(entry)
    to_read = suspicious + (plain if deep else _sample(plain))
    by_target = {entry.target_uid: entry for entry in to_read}
    # In pieces, because the bytes that differ are kept until the source's are there to compare.
    for some in batches([stored[uid] for uid in sorted(by_target)], CHUNK_MESSAGES, CHUNK_BYTES):
        _read_back(source, target, [by_target[e.uid] for e in some], delivered.sizes, scan, verdict)
    return verdict


def _flag_changes(
    sent: Envelope, stored: Envelope, keywords: frozenset[str] | None, without_keywords: bool
) -> Iterable[str]:
    wished = frozenset(f for f in sent.flags if f.lower() != "\\recent")
    expected = sendable_flags(wished, keywords)
    if without_keywords or expected != wished:
        yield "keyword_dropped"
    if without_keywords:
        expected = frozenset(f for f in expected if f.startswith("\\"))
    if _folded(expected) != _folded(stored.flags):
        yield "flags"


def _read_back(
    source: SourceConnection,
    target: TargetConnection,
    entries: Sequence[Entry],
    sizes: Mapping[int, int],
    scan: Mapping[int, Envelope],
    verdict: Verdict,
) -> None:
    """Compare the bytes; only a difference needs the source's bytes once more, to be named."""
    by_target = {entry.target_uid: entry for entry in entries}
    different: dict[int, tuple[bytes, str]] = {}
    for message in target.read_back(list(by_target)):
        if message.raw is None:
            continue
        entry = by_target.pop(message.uid)
        verdict.read_back += 1
        if digest(message.raw) != entry.digest:
            different[entry.source_uid] = message.raw, "content"
        elif len(message.raw) != sizes.get(entry.source_uid, len(message.raw)):
            different[entry.source_uid] = message.raw, "line_ends"
    if by_target:
        # Not delivered: gone meanwhile, or there and unreadable. To send the latter again would double it.
        target.refresh()
        listed = {e.uid for e in target.scan_uids(list(by_target))}
        verdict.lost.update(entry.source_uid for uid, entry in by_target.items() if uid not in listed)
        verdict.altered["content"] += len(listed)
    with contextlib.suppress(Refused):
        for original in source.messages([uid for uid in different if uid in scan]):
            if original.raw is not None and (name := alteration(original.raw, different.pop(original.uid)[0])):
                verdict.altered[name] += 1
    # What the source refuses or has no more: the digest and the size alone tell in which way it is another.
    verdict.altered.update(kind for _, kind in different.values())
    verdict.altered = +verdict.altered


def _sample(entries: Sequence[Entry]) -> list[Entry]:
    count = min(len(entries), max(SAMPLE_LEAST, round(len(entries) * SAMPLE_SHARE)))
    return random.sample(entries, count)


def _folded(flags: Iterable[str]) -> frozenset[str]:
    # Flags are compared without regard to case (RFC 9051 section 2.3.2).
    return frozenset(flag.lower() for flag in flags)
