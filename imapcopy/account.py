"""Where a mailbox is and how to sign in to it."""

import ipaddress
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from imapcopy.admission import OPEN, Admission
from imapcopy.errors import MigrationError, Side
from imapcopy.limits import DEFAULT, Limits
from imapcopy.redaction import redact

Security = Literal["tls", "starttls", "plain"]
DEFAULT_PORTS: dict[Security, int] = {"tls": 993, "starttls": 143, "plain": 143}
Credential = Literal["password", "token"]


@dataclass(frozen=True, slots=True)
class Server:
    """One IMAP server. `ca_file` is trusted beside the system's authorities."""

    host: str
    port: int
    security: Security = "tls"
    ca_file: Path | None = None
    plain_allowed: bool = False
    """The admin named this host as one that may be spoken to in clear text."""
    private_allowed: bool = True
    """It may be within a network of the company's own."""
    provider: str = field(default="", compare=False)
    """The row of the table of providers that it is one of, as far as was told; its name may tell better."""

    @property
    def is_loopback(self) -> bool:
        if self.host.lower() == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


@dataclass(frozen=True, slots=True)
class Token:
    """An access token (RFC 6750)."""

    value: str = field(repr=False)
    fresh: bool = False
    """It was issued for this very sign-in: a server that refuses it would refuse another one, too."""


class Tokens(Protocol):
    """Where one account's access tokens come from."""

    def current(self) -> Token:
        """A token to sign in with; the MigrationError that says why there is none."""

    def ended(self, token: Token) -> None:
        """The server takes this one no longer."""

    def issued(self) -> Iterable[str]:
        """All that servers may have been shown, to be taken out of what they say."""


class Ways(Protocol):
    """What is remembered of servers that do not take the mechanism that would be tried first."""

    def known(self, server: Server, credential: Credential) -> str:
        """The name of the one that they take, "" where nothing is known."""

    def worked(self, server: Server, credential: Credential, mechanism: str) -> None:
        """A sign-in went through by another mechanism than the first that was tried."""

    def is_given_up(self, server: Server, password: str) -> bool:
        """Whether an administrator's password has been refused so often that it is not tried again."""

    def answered(self, server: Server, password: str, *, let_in: bool) -> None:
        """A server let an administrator in, or refused them."""


class _NothingRemembered:
    def known(self, server: Server, credential: Credential) -> str:
        return ""

    def worked(self, server: Server, credential: Credential, mechanism: str) -> None:
        return

    def is_given_up(self, server: Server, password: str) -> bool:
        return False

    def answered(self, server: Server, password: str, *, let_in: bool) -> None:
        return


def _nobody_listens(side: Side, text: str) -> None:
    return


@dataclass(frozen=True, slots=True)
class Account:
    """One mailbox on a server, and what opens it: a password, or tokens. Neither ever shows in a repr."""

    server: Server
    user: str
    password: str = field(default="", repr=False)
    heard: Callable[[Side, str], None] = field(default=_nobody_listens, repr=False, compare=False)
    """Called with what a server says to people, outside of any failure: warnings, and what it wants to be shown."""
    met: Callable[[Side, str], None] = field(default=_nobody_listens, repr=False, compare=False)
    """Called with the row of the table of providers that a server's greeting, or what it offers, gives away."""
    login: str = ""
    """The name that the password belongs to, where it is not `user`: an administrator's, or both in one."""
    on_behalf: bool = False
    """`login` signs in for `user` (the authorization identity of RFC 4616)."""
    tokens: Tokens | None = field(default=None, repr=False, compare=False)
    """In place of the password."""
    lacking: MigrationError | None = field(default=None, repr=False, compare=False)
    """Why there is nothing to sign in with: nobody connects then."""
    also_secret: Callable[[], Iterable[str]] = field(default=tuple, repr=False, compare=False)
    """What opens the member's mailbox on the other side: servers share logs, and members passwords."""
    ways: Ways = field(default_factory=_NothingRemembered, repr=False, compare=False)
    admission: Admission = field(default=OPEN, repr=False, compare=False)
    limits: Limits = field(default=DEFAULT, repr=False, compare=False)

    @property
    def credential(self) -> Credential:
        return "token" if self.tokens else "password"

    @property
    def is_the_admins(self) -> bool:
        """Whether the password is not the member's own."""
        return bool(self.login) and self.login != self.user

    def hear(self, side: Side, text: str) -> None:
        self.heard(side, self.redacted(text))

    def redacted(self, text: str) -> str:
        """A server's words with the secrets taken out, in whatever form it quotes them."""
        return redact(text, (*self.secrets(), *self.also_secret()))

    def secrets(self) -> tuple[str, ...]:
        """What opens it, and has opened it."""
        return self.password, *(self.tokens.issued() if self.tokens else ())
