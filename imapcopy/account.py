"""Where a mailbox is and how to sign in to it."""

import base64
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from imapcopy.errors import Side, redact

Security = Literal["tls", "starttls", "plain"]
DEFAULT_PORTS: dict[Security, int] = {"tls": 993, "starttls": 143, "plain": 143}


@dataclass(frozen=True, slots=True)
class Server:
    """One IMAP server. `ca_file` is trusted beside the system's authorities."""

    host: str
    port: int
    security: Security = "tls"
    ca_file: Path | None = None
    plain_allowed: bool = False
    """The admin named this host as one that may be spoken to in clear text."""

    @property
    def is_loopback(self) -> bool:
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def _nobody_listens(side: Side, text: str) -> None:
    return


@dataclass(frozen=True, slots=True)
class Account:
    """One mailbox on a server; the password never shows in a repr."""

    server: Server
    user: str
    password: str = field(repr=False)
    heard: Callable[[Side, str], None] = field(default=_nobody_listens, repr=False, compare=False)
    """Called with what a server says to people, outside of any failure: warnings, and what it wants to be shown."""

    def hear(self, side: Side, text: str) -> None:
        self.heard(side, self.redacted(text))

    def redacted(self, text: str) -> str:
        """A server's words with the password taken out."""
        # Servers quote what they did not understand, also the line of a PLAIN login.
        return redact(text, [self.password, base64.b64encode(f"\0{self.user}\0{self.password}".encode()).decode()])
