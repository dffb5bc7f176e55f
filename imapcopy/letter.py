"""A message on its way to the target, alone and in a batch that the ledger knows."""

from collections.abc import Sequence
from dataclasses import dataclass

from imapcopy.arrival import Arrival, arrival
from imapcopy.distant import Distant
from imapcopy.heading import heading_of
from imapcopy.identity import digest_and_hazard
from imapcopy.plan import Envelope
from imapcopy.repair import Repaired
from models.ledger_rows import Entry, Heading


@dataclass(frozen=True, slots=True)
class Terms:
    """On what terms a message goes out: whatever the target has refused of it is left out or changed."""

    without: frozenset[str] = frozenset()
    """Keywords."""
    dated: bool = True
    mended: Repaired | None = None
    refusal: str = ""
    """The server's words for which it was mended."""


@dataclass(slots=True)
class Letter:
    """A message on its way; to be identified before it is sent."""

    envelope: Envelope
    raw: bytes | Distant
    digest: bytes = b""
    terms: Terms = Terms()
    hazardous: bool = False
    """Some server is known to alter such a message."""

    def identify(self) -> None:
        """Work out what it is known by: the dear part of copying a message."""
        if isinstance(self.raw, bytes):
            self.digest, self.hazardous = digest_and_hazard(self.raw)
        else:
            # Worth reading back in any case: there are few, and much is in them.
            self.digest, self.hazardous = self.raw.identify()[0], True

    def close(self) -> None:
        """Nobody needs its content any more."""
        if isinstance(self.raw, Distant):
            self.raw.close()

    @property
    def uid(self) -> int:
        return self.envelope.uid

    @property
    def content(self) -> bytes | Distant:
        """What goes out."""
        return self.terms.mended.raw if self.terms.mended else self.raw

    def arrival(self) -> Arrival:
        """When it arrived, as the target is to be told."""
        return arrival(self.envelope.arrived, self._beginning)

    def _beginning(self) -> bytes:
        return self.raw if isinstance(self.raw, bytes) else next(iter(self.raw), b"")

    def heading(self) -> Heading | None:
        """Subject and sender, where the octets are at hand."""
        return heading_of(self.raw) if isinstance(self.raw, bytes) else None

    def entry(self, target_uid: int = 0) -> Entry:
        """What the ledger keeps of it."""
        repairs = ",".join(self.terms.mended.repairs) if self.terms.mended else ""
        return Entry(self.envelope.uid, target_uid, self.digest, self.envelope.flags, repairs, self.terms.refusal)


@dataclass(slots=True)
class Sent:
    """A batch that the ledger knows as intended."""

    id: int
    letters: Sequence[Letter]
    octets: int
    held: int = 0
    """Octets to be given back when it is settled."""
    tag: bytes = b""
    uids: Sequence[int] = ()
    """What the server gave to its messages, if it said so."""
    arrived: Sequence[Entry] = ()
    """What is known to be there."""
    certain: bool = False
    """Nothing of it is there but what is known to be."""
    heard: bool = False
    """The server has answered: it is storing nothing of it any more."""
    begun: float = 0.0
    """When it went out."""
