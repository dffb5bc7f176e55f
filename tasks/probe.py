"""Probes a destination and keeps what was found: with an account that is typed in, or a member's new mailbox."""

import time
from collections.abc import Callable
from weakref import WeakKeyDictionary

from sqlalchemy import Engine
from sqlmodel import col, select

from imapcopy.account import DEFAULT_PORTS, Account, Security, Server
from imapcopy.errors import MemberError
from imapcopy.probe import probe_mailbox
from models.columns import now
from models.database import reading
from models.hosts import host_name
from models.lifecycle import find_wave
from models.member import Member
from models.probe import Known, Probe, find_probe, known, note_probe
from models.states import FINAL
from tasks.governor import governor
from tasks.store import Store, limits, log

FRESH_SECONDS = 60.0
_known: WeakKeyDictionary[Engine, dict[str, tuple[float, Known | None]]] = WeakKeyDictionary()


class NoSuchMember(Exception):
    """No member of that address in the wave, or none whose new mailbox can be signed in to."""


def typed_account(kept: Store, host: str, port: int | None, security: Security, user: str, password: str) -> Account:
    """The mailbox that an admin names."""
    found = kept.settings
    plain = host.lower() in {name.lower() for name in found.plain_hosts}
    server = Server(host, port or DEFAULT_PORTS[security], security, found.ca_file, plain_allowed=plain)
    return Account(server, user, password, ways=kept.ways, limits=limits(found))


def target_of(kept: Store, wave: str, email: str | None) -> Account:
    """The new mailbox of a member of a wave: of that one, or of the first that has a password."""
    with reading(kept.engine) as session:
        found = find_wave(session, wave)
        members = session.exec(select(Member).where(Member.wave_id == found.id).order_by(col(Member.line))).all()
    wanted = [m for m in members if m.state not in FINAL and email in (None, m.email)]
    if email is not None:
        wanted = wanted or [m for m in members if m.email.casefold() == email.casefold()]
    for member in wanted:
        try:
            return kept.accounts(member)[1]
        except MemberError:
            if email is not None:
                raise
    raise NoSuchMember(email or wave)


def run_probe(kept: Store, account: Account, *, size_limit: bool, told: Callable[[str], None]) -> Probe:
    """Probe with the connections and at the pace that the host allows everybody, and keep the result."""
    server, slots = account.server, governor(kept).slots
    with governor(kept).visit(account, "target") as admitted:
        name = host_name(server.host, server.port)
        probe = probe_mailbox(admitted, size_limit=size_limit, told=told, spare=lambda: slots.spare(name))
    note_probe(kept.engine, probe)
    forget(kept)
    return probe


def known_of(kept: Store, host: str) -> Known:
    """What a copy into that host may go by; asked for again after a minute, because members come by the thousand."""
    asked = _known.setdefault(kept.engine, {})
    at, found = asked.get(host, (0.0, None))
    if found is None or time.monotonic() - at > FRESH_SECONDS:
        found = known(find_probe(kept.engine, host), now())
        if found.outdated:
            log.warning("%s: the last probe is too old or was not finished, and is not gone by; run banjia probe", host)
        asked[host] = time.monotonic(), found
    return found


def forget(kept: Store) -> None:
    """Ask for every probe anew."""
    _known.pop(kept.engine, None)
