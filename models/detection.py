"""Which provider a member comes from and goes to, and by which server the old mailbox is reached. Pure.

Who says it, the surest first: the roster's Provider column, the name of the server, the domain of the login, the
records of that domain; what the server says at sign-in serves where nobody else does.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from models.member import Member
from models.providers import (
    ANYBODY,
    MailServer,
    Provider,
    provider_at,
    provider_meant,
    provider_named,
    provider_of_domain,
    provider_of_records,
    similar_words,
)
from models.roster_problems import RosterProblem, roster_problem
from models.roster_row import RosterRow


@dataclass(frozen=True, slots=True)
class DefaultServers:
    """The servers of rows that name none, "" where there is no default."""

    source_host: str = ""
    target_host: str = ""


@dataclass(frozen=True, slots=True)
class Records:
    """What DNS says of a domain."""

    mx: tuple[str, ...] = ()
    """Names of its mail exchangers."""
    cname: str = ""
    """What `imap.<domain>` stands for."""


def no_records(domain: str) -> Records:
    """Nobody is asked."""
    return Records()


@dataclass(frozen=True, slots=True)
class Settled:
    """A row whose servers are known; "" for a provider that nobody could tell."""

    row: RosterRow
    source_provider: str
    target_provider: str
    server: MailServer | None
    """The old mailbox's, where the table gave it and not the roster or the settings."""


def nothing_against(settled: Settled) -> list[RosterProblem]:
    """Every row may decide everything."""
    return []


def settle(
    rows: Iterable[RosterRow],
    default: DefaultServers,
    records: Callable[[str], Records] = no_records,
    judge: Callable[[Settled], list[RosterProblem]] = nothing_against,
) -> tuple[list[Settled], list[RosterProblem]]:
    """Tell the provider and the servers of each row; rows for which that fails are problems instead.

    So are those of which `judge` says that they decide what they may not.
    """
    settled: list[Settled] = []
    problems: list[RosterProblem] = []
    for row in rows:
        found, told = _settle_one(row, default, records)
        told = told or judge(found)
        problems += told
        if not told:
            settled.append(found)
    return settled, problems


def _settle_one(
    row: RosterRow, default: DefaultServers, records: Callable[[str], Records]
) -> tuple[Settled, list[RosterProblem]]:
    problems = []
    named = provider_meant(row.provider) if row.provider else None
    if row.provider and named is None:
        problems.append(_unknown_provider(row, row.provider))
    domain = row.user_name.rpartition("@")[2] if "@" in row.user_name else ""
    target_host = row.target_host or default.target_host
    going_to = _known(provider_at(target_host))
    host = row.source_host or (default.source_host if _may_serve(named, default.source_host) else "")
    dns = Records()
    told = _unless_anybody(named) or _known(provider_at(host)) or provider_of_domain(domain)
    if told is None and domain and not problems:
        dns = records(domain)
        told = _by_records(dns, going_to)
    server = None
    if not host and told is not None:
        server = _server_of(told, domain, dns.cname)
    if not host and server is None and not problems:
        problems.append(_no_server(row, "SourceHost", "BANJIA_SOURCE_HOST", told))
    if not target_host:
        problems.append(_no_server(row, "TargetHost", "BANJIA_TARGET_HOST", None))
    return Settled(row, told.name if told else "", going_to.name if going_to else "", server), problems


def provider_of(member: Member, side: Literal["source", "target"]) -> Provider:
    """What is known of a member's provider on one side; the row of `anybody` where nobody could tell."""
    if side == "target":
        return _stored(member.target_provider) or provider_at(member.target_host or "")
    found = _stored(member.source_provider) or (provider_meant(member.provider) if member.provider else None)
    return found or provider_at(member.source_host or "")


def known_provider(member: Member, side: Literal["source", "target"]) -> str:
    """The name of that row, "" where nobody could tell."""
    found = _known(provider_of(member, side))
    return found.name if found else ""


def _stored(name: str) -> Provider | None:
    return provider_named(name) if name else None


def _may_serve(named: Provider | None, default_host: str) -> bool:
    """Whether the default server may be that of a row whose provider is named: unless it is known to be another's."""
    theirs = _known(provider_at(default_host))
    return named is None or theirs is None or theirs == named


def _by_records(records: Records, going_to: Provider | None) -> Provider | None:
    found = provider_of_records(records.mx, records.cname)
    # After the switch of the MX records they name the new provider, which nobody moves from.
    return None if found == going_to else found


def _server_of(provider: Provider, domain: str, cname: str) -> MailServer | None:
    """The server of a provider for a login of that domain; None where each customer has servers of their own."""
    # The certificate is for the name behind an alias, and it tells the region.
    for name in (cname.lower().rstrip("."), f"imap.{domain.lower()}"):
        if own := next((server for server in provider.imap if server.host == name), None):
            return own
    return provider.imap[0] if provider.imap else None


def _known(provider: Provider) -> Provider | None:
    return None if provider.name == ANYBODY else provider


def _unless_anybody(provider: Provider | None) -> Provider | None:
    return provider and _known(provider)


def _unknown_provider(row: RosterRow, written: str) -> RosterProblem:
    near = similar_words(written)
    titles = [provider_named(name).title for name in near]
    if near:
        zh = "、".join(f"{name}（{title.zh}）" for name, title in zip(near, titles, strict=True))
        en = ", ".join(f"{name} ({title.en})" for name, title in zip(near, titles, strict=True))
        return roster_problem("unknown-provider", row.line, "Provider", written, near_zh=zh, near_en=en)
    return roster_problem("strange-provider", row.line, "Provider", written)


def _no_server(row: RosterRow, column: str, setting: str, provider: Provider | None) -> RosterProblem:
    if provider is not None:
        names = {"title_zh": provider.title.zh, "title_en": provider.title.en}
        return roster_problem("server-of-their-own", row.line, column, **names)
    return roster_problem("server-missing", row.line, column, setting=setting)
