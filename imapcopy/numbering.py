"""UIDVALIDITY of the target's folders, and what to go by where a server tells another one with every SELECT.

A new UIDVALIDITY means that no UID means what it did (RFC 9051 section 2.3.1.1). A server that renews it each time
although the UIDs stay would make all that was sent unknown: for such a folder the first one is kept to.
"""

from collections.abc import Mapping
from datetime import datetime

Looks = Mapping[int, tuple[int, datetime | None]]
"""Size and moment of arrival by UID."""


class Numbering:
    """What is known of one account's folders, named as on the wire; for all connections to it, one after the other."""

    def __init__(self) -> None:
        self._known: dict[bytes, int] = {}
        self._restless: dict[bytes, Looks] = {}

    def expect(self, raw: bytes, uidvalidity: int) -> None:
        """UIDs of the folder are known under this one."""
        self._known.setdefault(raw, uidvalidity)

    def is_another(self, raw: bytes, told: int) -> bool:
        """Whether a folder has a new UIDVALIDITY, and nobody knows yet what that means."""
        return raw not in self._restless and self._known.setdefault(raw, told) != told

    def numbered_anew(self, raw: bytes, told: int) -> None:
        """The UIDs are others now."""
        self._known[raw] = told

    def is_restless(self, raw: bytes) -> bool:
        """Whether UIDVALIDITY says nothing there."""
        return raw in self._restless

    def note_restless(self, raw: bytes, looks: Looks) -> None:
        """UIDVALIDITY changes with each opening, and these messages keep their UIDs."""
        self._restless[raw] = looks

    def looks(self, raw: bytes) -> Looks:
        """What a restless folder held when it was found to be one."""
        return self._restless.get(raw, {})

    def of(self, raw: bytes, told: int) -> int:
        """The UIDVALIDITY to go by."""
        return self._known[raw] if raw in self._restless else told


def keep_their_uids(before: Looks, after: Looks) -> bool:
    """Whether the messages of two looks at a folder are the same under the same UIDs; some may have come or gone."""
    return all(after.get(uid, look) == look for uid, look in before.items())
