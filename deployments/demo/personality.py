"""Demo servers that speak like the services people move from and to; personalities.toml says how each one speaks.

What is known of a service comes from what its vendor published, from transcripts, and from the work-arounds of other
mail programs; each row names its origin. None of it comes from a service's own software.
"""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from deployments.demo.imap_behaviour import Behaviour
from deployments.demo.imap_store import Account

_SERVICES = Path(__file__).with_name("personalities.toml")


@dataclass(frozen=True, slots=True)
class Personality:
    """One service: how it greets, what it announces, which folders a new mailbox has, and where it is odd."""

    name: str
    title: str
    origin: str
    greeting: str
    before_login: str
    after_login: str
    folders: tuple[tuple[str, str], ...]
    """Name and special use, or "" without one; parents that are not named cannot be opened."""
    first_uid: int
    switches: Mapping[str, Any]
    """Fields of Behaviour."""
    refusals: Mapping[str, str]
    """By cause, what it answers a login that it refuses."""

    def behaviour(self, **changes: Any) -> Behaviour:
        """A server's behaviour, with changes that a table cannot say."""
        capabilities = _words(self.before_login) | _words(self.after_login)
        told = {
            "capabilities": frozenset(capabilities),
            "greeting": self.greeting,
            "announced_before_login": self.before_login,
            "announced_after_login": self.after_login,
            "login_tells_capabilities": False,
            "noselect_parents": False,
        }
        return Behaviour(**{**told, **self.switches, **changes})

    def furnish(self, account: Account) -> None:
        """Give a mailbox the folders that the service gives to a new one."""
        for name, special_use in self.folders:
            account.create(name, special_use or None, noselect_parents=True)
        for folder in account.folders:
            folder.uidnext = self.first_uid


def personality(name: str) -> Personality:
    """The service of that name; KeyError for one that nobody described."""
    return personalities()[name]


@cache
def personalities() -> Mapping[str, Personality]:
    """Every service, by its short name."""
    rows = tomllib.loads(_SERVICES.read_text(encoding="utf-8"))
    return {name: _read(name, row) for name, row in rows.items()}


def _read(name: str, row: Mapping[str, Any]) -> Personality:
    return Personality(
        name=name,
        title=row["title"],
        origin=row["origin"],
        greeting=row["greeting"],
        before_login=row["before_login"],
        after_login=row["after_login"],
        folders=tuple(_folder(each) for each in row.get("folders", ())),
        first_uid=row.get("first_uid", 1),
        switches={key: _frozen(value) for key, value in row.get("switches", {}).items()},
        refusals=row.get("refusals", {}),
    )


def _folder(each: str | Sequence[str]) -> tuple[str, str]:
    return (each, "") if isinstance(each, str) else (each[0], each[1])


def _frozen(value: Any) -> Any:
    return frozenset(value) if isinstance(value, list) else value


def _words(announced: str) -> set[str]:
    """What a CAPABILITY answer offers. One service writes `LITERAL +`."""
    words = announced.upper().replace("LITERAL +", "LITERAL+").split()
    return {
        "IMAP4rev1" if word == "IMAP4REV1" else word.partition("=")[0] if "LIMIT=" in word else word for word in words
    }
