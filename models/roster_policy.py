"""What a roster may decide: which servers its rows may name, and whose mail may go where. Pure.

On the command line a roster is the admin's own doing, and only addresses that are no mail server's are refused. What
`[policy]` of banjia.toml adds is for rosters that others write.
"""

import csv
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from models.bilingual import Text
from models.detection import DefaultServers, Settled
from models.host_addresses import address_of, is_no_servers, is_private
from models.providers import ANYBODY, provider_at
from models.roster_problems import RosterProblem, roster_problem
from models.roster_row import folded_account

Side = Literal["source", "target"]
SIDES: tuple[Side, Side] = ("source", "target")
USUAL_PORTS = frozenset({143, 993})


class RosterPolicy(BaseModel):
    """`[policy]` of banjia.toml."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    hosts: Literal["any", "known"] = Field(
        default="any",
        description="known: rows name only servers of mail services that are known, of the settings, of the wave as it "
        "is, and the two below; nothing in a private network that is not named, and no clear text but to "
        "BANJIA_PLAIN_HOSTS",
    )
    source_hosts: tuple[str, ...] = Field(
        default=(), description="old servers that rows may name, too; written with :port if that is not 143 or 993"
    )
    target_hosts: tuple[str, ...] = Field(default=(), description="new servers that rows may name, too")
    agree: tuple[str, ...] = Field(
        default=("{local}",),
        description="what a new address is beside the old login where an administrator or an application signs in: "
        "templates with {local} and {domain} of the old login, for what stands before the @ or for all of it",
    )
    aliases: Path | None = Field(
        default=None, description="file with pairs that agree beside that: old login, comma, new address; one a line"
    )

    @field_validator("source_hosts", "target_hosts")
    @classmethod
    def _named(cls, named: tuple[str, ...]) -> tuple[str, ...]:
        for each in named:
            host, port = named_server(each)
            if not host or (port is not None and not 1 <= port <= 65535):
                raise ValueError("are written such as imap.corp.example, imap.corp.example:1143 or [fd00::25]:993")
        return named

    @field_validator("agree")
    @classmethod
    def _templates(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for each in templates:
            try:
                places = {name for _, name, _, _ in Formatter().parse(each) if name is not None}
            except ValueError:
                places = set()
            if "local" not in places or places - {"local", "domain"}:
                raise ValueError("need {local}, and may have {domain}")
        return templates

    @field_validator("aliases")
    @classmethod
    def _there(cls, file: Path | None) -> Path | None:
        if file is not None and not file.expanduser().is_file():
            raise ValueError("there is no such file")
        return file and file.expanduser()

    def named(self, side: Side) -> tuple[str, ...]:
        return self.source_hosts if side == "source" else self.target_hosts


def named_server(text: str) -> tuple[str, int | None]:
    """Host, folded, and port of `host`, `host:port` or `[address]:port`; None for the usual ports."""
    if address_of(text) is not None:
        return _folded_host(text), None
    host, colon, port = text.rpartition(":")
    if not colon:
        return _folded_host(text), None
    return _folded_host(host), int(port) if re.fullmatch("[0-9]{1,5}", port) else 0


def _folded_host(host: str) -> str:
    address = address_of(host)
    return str(address) if address is not None else folded_account(host.strip().rstrip("."))


# -- which servers


@dataclass(frozen=True, slots=True)
class KnownServers:
    """The servers of one side that a row may name, beside those of the table of services."""

    named: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """By folded host, the ports: what the admin wrote into settings or policy; may be in a private network."""
    in_use: Mapping[str, frozenset[int]] = field(default_factory=dict)
    """What members of the wave have already."""

    def ports(self, host: str) -> frozenset[int]:
        """The ports at which a host may be named; none where it is not known."""
        folded = _folded_host(host)
        found = self.named.get(folded, frozenset()) | self.in_use.get(folded, frozenset())
        provider = provider_at(host)
        if provider.name != ANYBODY:
            found |= USUAL_PORTS | {server.port for server in provider.imap if server.host == folded}
        return found

    def is_named(self, host: str) -> bool:
        return is_named(self.named, host)


def is_named(servers: Mapping[str, frozenset[int]], host: str) -> bool:
    """Whether a host is among these."""
    return _folded_host(host) in servers


def by_host(servers: Iterable[tuple[str, int | None]]) -> dict[str, frozenset[int]]:
    """The ports of each folded host; None stands for the usual ones."""
    found: dict[str, frozenset[int]] = {}
    for host, port in servers:
        if host:
            own = USUAL_PORTS if port is None else frozenset({port})
            found[_folded_host(host)] = found.get(_folded_host(host), frozenset()) | own
    return found


@dataclass(frozen=True, slots=True)
class RowJudge:
    """Says what a row decides that it may not; called with a row whose servers are settled."""

    policy: RosterPolicy
    known: Mapping[Side, KnownServers]
    default: DefaultServers
    default_ports: Mapping[Side, int | None] = field(default_factory=dict)
    default_security: Mapping[Side, str] = field(default_factory=dict)
    plain_hosts: Collection[str] = ()

    def __call__(self, settled: Settled) -> list[RosterProblem]:
        return [problem for side in SIDES for problem in self._of(side, settled)]

    def _of(self, side: Side, settled: Settled) -> Iterator[RosterProblem]:
        row, server = settled.row, settled.server if side == "source" else None
        name = side.title()
        written: str | None = getattr(row, f"{side}_host")
        if server is not None:
            host, port, security = server.host, server.port, str(server.security)
        elif written:
            host, port, security = written, None, ""
        else:
            host = getattr(self.default, f"{side}_host")
            port, security = self.default_ports.get(side), self.default_security.get(side, "")
        port = getattr(row, f"{side}_port") or port
        if server is None:
            security = getattr(row, f"{side}_security") or security
        address, known = address_of(host), self.known[side]

        def problem(code: str, column: str, value: object) -> RosterProblem:
            return roster_problem(code, row.line, f"{name}{column}", str(value), setting=f"{side}_hosts", host=host)

        if address is not None and is_no_servers(address):
            yield problem("no-servers-address", "Host", host)
            return
        if self.policy.hosts == "any":
            return
        ports = known.ports(host)
        local = address.is_loopback if address is not None else host.casefold() == "localhost"
        private = is_private(address) if address is not None else local
        if not ports:
            yield problem("host-not-allowed", "Host", host)
        elif private and not known.is_named(host):
            yield problem("private-host-not-named", "Host", host)
        elif (port or (143 if security in ("starttls", "plain") else 993)) not in ports:
            yield problem("port-not-allowed", "Port", port or "")
        plain_too = (local and known.is_named(host)) or is_named(
            by_host((each, None) for each in self.plain_hosts), host
        )
        if security == "plain" and not plain_too:
            yield problem("plain-not-allowed", "Security", security)


# -- whose mail goes where


class AliasesMistaken(Exception):
    """A file of pairs cannot be used; `told` names the line."""

    def __init__(self, told: Text) -> None:
        super().__init__(told.en)
        self.told = told


@dataclass(frozen=True, slots=True)
class PairRule:
    """Which new address belongs to which old login."""

    agree: tuple[str, ...] = ("{local}",)
    aliases: frozenset[tuple[str, str]] = frozenset()
    """Pairs of old and new, folded."""

    def allows(self, old: str, new: str) -> bool:
        """Whether mail of that login may go to that address without being confirmed."""
        old, new = folded_account(old), folded_account(new)
        if (old, new) in self.aliases:
            return True
        before, at, domain = old.rpartition("@")
        # Exchange's logins may have the domain of Windows before them.
        local = (before if at else old).rpartition("\\")[2]
        new_local = new.rpartition("@")[0] or new
        for template in self.agree:
            if "{domain}" in template and not at:
                continue
            wanted = folded_account(template.format(local=local, domain=domain))
            if wanted == (new if "@" in template else new_local):
                return True
        return False


def read_aliases(text: str, file: str) -> frozenset[tuple[str, str]]:
    """The pairs of a file, folded; blank lines and those that begin with # are none. AliasesMistaken."""
    pairs = set()
    for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        cells = [cell.strip() for cell in next(csv.reader([line]))]
        if len(cells) != 2 or not all(cells):
            raise AliasesMistaken(
                Text(
                    f"{file} 第 {number} 行：应当是“原账号,新地址”两项。",
                    f"{file}, line {number}: write the old login, a comma, and the new address.",
                )
            )
        pairs.add((folded_account(cells[0]), folded_account(cells[1])))
    return frozenset(pairs)
