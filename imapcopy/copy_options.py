"""How a mailbox is to be copied, and how the caller follows a copy and ends it."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date

from imapcopy.errors import Stopped
from imapcopy.plan import GROUPING, Existing, Grouping
from imapcopy.send import Capacity
from models.probe import Known
from models.rules import FolderRules, Repair


@dataclass(frozen=True, slots=True)
class CopyOptions:
    """What the roster says about how a mailbox is to be copied."""

    root: str = ""
    exclude: tuple[str, ...] = ()
    since: date | None = None
    deep: bool = False
    """Read every byte back, not only the risky ones and a sample."""
    existing: Existing = "adopt"
    folders: FolderRules = field(default_factory=FolderRules)
    repair: Repair = "never"
    capacity: Capacity = field(default_factory=Capacity)
    grouping: Grouping = GROUPING
    known: Known = field(default_factory=Known)
    """What a probe has found out about the target."""


@dataclass(frozen=True, slots=True)
class Watch:
    """How the caller follows a copy and ends it."""

    stop: threading.Event = field(default_factory=threading.Event)
    found: Callable[[int], None] = lambda messages: None
    """Called once with the number of messages at the source."""
    pause: Callable[[float], object] | None = None
    """How to pass so many seconds, if not by waiting."""

    def rest(self, seconds: float) -> None:
        """Wait so long for a server, or until a stop is asked for."""
        if seconds:
            (self.pause or self.stop.wait)(seconds)
        self.check()

    def check(self) -> None:
        if self.stop.is_set():
            raise Stopped
