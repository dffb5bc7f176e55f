"""Turns what a server or the network answered into a cause. Pure; the rules are rows of `answers.toml`.

The stage and the side come first, then the rules in order; the first that matches wins.
"""

import re
import socket
import ssl
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal

from imapcopy.errors import Side
from imapcopy.waits import suggested_wait as suggested_wait

Stage = Literal["connect", "login", "list", "select", "fetch", "create", "append"]


@dataclass(frozen=True, slots=True)
class Rule:
    """One row of the table."""

    id: str
    pattern: re.Pattern[str]
    cause: str
    stage: str
    hosts: re.Pattern[str] | None
    side: str
    samples: tuple[str, ...]
    sample_host: str


@cache
def rules() -> tuple[Rule, ...]:
    """The table, in order."""
    rows = tomllib.loads((files("imapcopy") / "answers.toml").read_text(encoding="utf-8"))["answer"]
    flags = re.IGNORECASE | re.DOTALL
    return tuple(
        Rule(
            id=row["id"],
            pattern=re.compile(row["regex"], flags),
            cause=row["cause"],
            stage=row.get("stage", ""),
            hosts=re.compile(row["hosts"], flags) if "hosts" in row else None,
            side=row.get("side", ""),
            samples=tuple(row["samples"]),
            sample_host=row.get("sample_host", ""),
        )
        for row in rows
    )


# An answer without a telling text still means something by where it was given.
DEFAULT_CAUSES: dict[Stage, str] = {
    "connect": "connect_failed",
    "login": "ambiguous_login",
    "list": "unclassified",
    "select": "mailbox_unavailable",
    "fetch": "source_unreadable",
    "create": "folder_name_invalid",
    "append": "unclassified",
}


def classify(text: str, *, stage: Stage, side: Side, host: str) -> str:
    """The cause of an answer; the stage's default when no rule knows the text."""
    for rule in rules():
        if rule.stage and rule.stage != stage:
            continue
        if rule.side and rule.side != side:
            continue
        if rule.hosts and not rule.hosts.search(host):
            continue
        if rule.pattern.search(text):
            return rule.cause
    return DEFAULT_CAUSES[stage]


def classify_exception(error: BaseException, *, stage: Stage, side: Side, host: str) -> str:
    """The cause of what a socket or TLS raised."""
    # A host name that cannot even be asked for (an empty or endless label) is a UnicodeError.
    if isinstance(error, (socket.gaierror, UnicodeError)):
        return "dns_error"
    if isinstance(error, ssl.SSLCertVerificationError):
        return "tls_cert"
    if isinstance(error, TimeoutError):
        return "connect_failed" if stage == "connect" else "timeout"
    if isinstance(error, ConnectionRefusedError):
        return "connect_failed"
    if isinstance(error, ssl.SSLError):
        found = classify(str(error), stage="connect", side=side, host=host)
        return found if found != DEFAULT_CAUSES["connect"] else "tls_protocol"
    if stage == "connect" and isinstance(error, OSError):
        return "connect_failed"
    return "connection_dropped"
