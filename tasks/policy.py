"""When a member is tried again. Pure decisions; the cause decides, not the exception's words."""

import random
import threading

STOP = threading.Event()
"""Set once this process has been asked to end: every member stops after the batch under way."""

# A wrong name or port stays wrong; a server that is down for a moment comes back. A member that another runner has
# taken over is left to it.
_FEWER_TRIES = {"dns_error": 2, "connect_failed": 3, "unclassified": 2, "lease_lost": 1}
_LONG_WAITS = frozenset({"login_throttled", "bandwidth_exceeded"})
JITTER = 0.3
"""Share by which a delay varies, so that members do not return together."""


def tries(cause: str, delays: tuple[float, ...]) -> int:
    """How often a member may be tried in one run when it fails for this cause."""
    if cause in _LONG_WAITS:
        # Trying again within minutes makes it worse; the next run goes on.
        return 1
    return min(_FEWER_TRIES.get(cause, len(delays) + 1), len(delays) + 1)


def delay(attempt: int, delays: tuple[float, ...]) -> float:
    """Seconds to wait after this many tries; the last delay goes on for all that follow."""
    if not delays:
        return 0.0
    return delays[min(attempt, len(delays)) - 1] * random.uniform(1 - JITTER, 1 + JITTER)  # noqa: S311  (no secret)
