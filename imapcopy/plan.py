"""What is missing, in which batches it is to be sent, and which folders are taken together. Pure."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Literal, TypeVar

from imapcopy.arrival import is_kept_everywhere

ESTIMATE_BYTES = 1 << 16
"""By so much and a tenth more than there is may an estimate of a size be wrong, as Exchange's are."""

UNSIZED_BYTES = 32 << 20
"""What a message is taken to weigh whose size is not told: it goes alone."""

Existing = Literal["adopt", "copy"]
"""What becomes of mail that was at the target before us and is equal to a message of the source: it stands for that
message, or stays beside a copy of it.
"""

F = TypeVar("F")


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
    flags_told: bool = True
    """Whether the server tells its flags; where not, `flags` is empty and says nothing."""
    sized: bool = True
    """Whether the server tells its size."""

    @property
    def weight(self) -> int:
        """Octets to reckon with before it has been read."""
        return self.size if self.sized else UNSIZED_BYTES


def wanted(scan: Iterable[Envelope], since: date | None) -> list[Envelope]:
    """The messages that are to be moved: all, or those that arrived on or after `since`; undatable ones always."""

    def is_wanted(e: Envelope) -> bool:
        return since is None or e.arrived is None or not is_kept_everywhere(e.arrived) or e.arrived.date() >= since

    return [e for e in scan if is_wanted(e)]


def is_too_large(size: int, limit: int | None) -> bool:
    """Whether a message of that RFC822.SIZE cannot be smaller than the limit: an estimate may say a little more."""
    return limit is not None and size > limit + limit // 10 + ESTIMATE_BYTES


def falls_short(octets: int, told: int) -> bool:
    """Whether what came of a message is less than its RFC822.SIZE lets expect, even if that is an estimate."""
    return told > octets + octets // 10 + ESTIMATE_BYTES


def batches(envelopes: Sequence[Envelope], max_messages: int, max_bytes: int) -> Iterator[list[Envelope]]:
    """Cut into batches of at most so many messages and bytes; a larger message goes alone."""
    batch: list[Envelope] = []
    size = 0
    for envelope in envelopes:
        weight = envelope.weight
        if batch and (len(batch) >= max_messages or size + weight > max_bytes):
            yield batch
            batch, size = [], 0
        batch.append(envelope)
        size += weight
    if batch:
        yield batch


@dataclass(frozen=True, slots=True)
class Grouping:
    """How many folders are taken together: as many as may stand in memory with all that is known of their messages."""

    messages: int = 20_000
    folders: int = 200


GROUPING = Grouping()


def groups(folders: Iterable[F], messages: Callable[[F], int], grouping: Grouping = GROUPING) -> Iterator[list[F]]:
    """Folders that are taken together; one with more messages than a group may have is alone."""
    group: list[F] = []
    total = 0
    for folder in folders:
        count = messages(folder)
        if group and (total + count > grouping.messages or len(group) >= grouping.folders):
            yield group
            group, total = [], 0
        group.append(folder)
        total += count
    if group:
        yield group
