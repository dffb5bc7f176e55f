"""What is known of a notice after it was handed over to a mail server or a chat."""

from dataclasses import dataclass
from enum import StrEnum


class Outcome(StrEnum):
    SENT = "sent"
    LATER = "later"
    """It broke before the other side could have taken it, or was asked to come back."""
    UNKNOWN = "unknown"
    """It may have been taken: not tried again by itself."""
    REFUSED = "refused"
    BOUNCED = "bounced"
    """Refused because of the recipient."""


@dataclass(frozen=True, slots=True)
class HandedOver:
    """How it ended; `said` are the other side's words, without our secrets."""

    outcome: Outcome
    said: str = ""
