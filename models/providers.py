"""What is known of mail services, from `providers.toml`: nothing else asks who the server is."""

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from models.bilingual import Text


@dataclass(frozen=True, slots=True)
class Traits:
    """How a server's folders differ from plain ones; names are folded."""

    containers: frozenset[str] = frozenset()
    not_mail: frozenset[str] = frozenset()
    views: tuple[str, ...] = ()
    """Attributes of folders that show mail of other folders, the widest first."""
    view_role: str = ""
    labels: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """By role, what stands for such a folder among a message's labels; empty where messages have none."""


@dataclass(frozen=True, slots=True)
class Provider:
    """One row of the table."""

    name: str
    """Its id in the table, the roster and the database."""
    hosts: tuple[str, ...]
    greeting: str
    capability: str
    traits: Traits
    title: Text
    mechanisms: tuple[str, ...] = ()
    """How to sign in, the best first: `PLAIN`, `LOGIN`, `XOAUTH2`, `OAUTHBEARER`; empty leaves it to the server."""
    connections: int | None = None
    """How many connections the service stands, of all members together; None where nothing is known."""
    mailbox_connections: int | None = None
    """The same for one mailbox."""
    logins_a_minute: int | None = None
    """How many sign-ins of all members together it stands."""
    largest_message: int | None = None
    """Octets, where the service publishes a limit and its server does not tell it."""
    steps: Mapping[str, tuple[Text, ...]] = field(default_factory=dict)
    """What to click, by what for (`client_password`, `imap`, `receive_range` ...), one text a step."""

    def is_it(self, host: str, greeting: str, capabilities: Collection[str]) -> bool:
        """Whether a server is one of this provider; a row that names no sign is everybody's."""
        if not (self.hosts or self.greeting or self.capability):
            return True
        host = host.lower().rstrip(".")
        return (
            any(host == end or host.endswith(f".{end}") for end in self.hosts)
            or (bool(self.greeting) and self.greeting.casefold() in greeting.casefold())
            or self.capability in capabilities
        )


@cache
def providers() -> tuple[Provider, ...]:
    """The table, in its order."""
    rows = tomllib.loads((files("models") / "providers.toml").read_text(encoding="utf-8"))
    return tuple(
        Provider(
            name,
            tuple(row.get("hosts", ())),
            row.get("greeting", ""),
            row.get("capability", ""),
            Traits(
                frozenset(each.casefold() for each in row.get("containers", ())),
                frozenset(each.casefold() for each in row.get("not_mail", ())),
                tuple(row.get("views", ())),
                row.get("view_role", ""),
                row.get("labels", {}),
            ),
            Text(**row["title"]),
        )
        for name, row in rows.items()
    )


def traits_of(host: str, greeting: str, capabilities: Collection[str]) -> Traits:
    """What is known of a server, from the last row that is about it."""
    return [row for row in providers() if row.is_it(host, greeting, capabilities)][-1].traits
