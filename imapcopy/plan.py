"""What is missing and in which batches it is to be sent. Pure."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime


@dataclass(frozen=True, slots=True)
class Envelope:
    """What a scan of a folder tells of one message, without its content.

    `size` is RFC822.SIZE: several servers only estimate it, so it plans and never proves.
    """

    uid: int
    flags: frozenset[str]
    internal_date: str
    """As the server wrote it, where that is no date."""
    arrived: datetime | None
    """The same moment, None when the server's text is no date."""
    size: int


def wanted(scan: Iterable[Envelope], since: date | None) -> list[Envelope]:
    """The messages that are to be moved: all, or those that arrived on or after `since`; undatable ones always."""
    return [e for e in scan if since is None or e.arrived is None or e.arrived.date() >= since]


def missing(scan: Iterable[Envelope], accounted: Collection[int]) -> list[Envelope]:
    """The messages that the ledger does not know yet, by ascending UID."""
    return sorted((e for e in scan if e.uid not in accounted), key=lambda e: e.uid)


def batches(envelopes: Sequence[Envelope], max_messages: int, max_bytes: int) -> Iterator[list[Envelope]]:
    """Cut into batches of at most so many messages and bytes; a larger message goes alone."""
    batch: list[Envelope] = []
    size = 0
    for envelope in envelopes:
        if batch and (len(batch) >= max_messages or size + envelope.size > max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(envelope)
        size += envelope.size
    if batch:
        yield batch
