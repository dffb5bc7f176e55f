"""Opens what this process remembers: the database, the vault and the log under BANJIA_HOME."""

import ctypes
import logging
import resource
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import cache
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Protocol, cast

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from imapcopy.account import DEFAULT_PORTS, Account, Security, Server, Ways
from imapcopy.errors import MemberError, Side
from imapcopy.limits import DEFAULT, Limits
from models import lifecycle
from models.addresses import AddressStatus
from models.database import open_database
from models.detection import DefaultServers
from models.member import Member, let_leases_last
from models.private_files import make_private, open_private
from models.providers import ANYBODY
from models.roster_policy import is_named
from models.rules import Rules
from models.vault import Vault
from tasks.credentials import SignIn, by_administrator, token_source
from tasks.policy import Attempts
from tasks.settings import Settings, know_own_answers, know_own_providers, read_secret, rules, settings
from tasks.tokens import TokenSource
from tasks.ways import RememberedWays

log = logging.getLogger("banjia")

MOST_NOTICES = 20
"""So many of a server's sayings are kept of one run of a member; one that says something new each time ends here."""


class Addressed(Protocol):
    """What says where somebody's mailboxes are."""

    @property
    def source_host(self) -> str | None: ...
    @property
    def source_port(self) -> int | None: ...
    @property
    def source_security(self) -> str | None: ...
    @property
    def target_host(self) -> str | None: ...
    @property
    def target_port(self) -> int | None: ...
    @property
    def target_security(self) -> str | None: ...
    @property
    def source_provider(self) -> str: ...
    @property
    def target_provider(self) -> str: ...


@dataclass(frozen=True, slots=True)
class Store:
    """Where things are kept, and who may sign in where."""

    settings: Settings
    engine: Engine
    vault: Vault
    ways: Ways
    rules: Rules = field(default_factory=Rules)
    unwritten: dict[int, str] = field(default_factory=dict)
    """Members that ended when the database took no word of it, with its own words; the flow writes them down later."""
    addresses: dict[str, AddressStatus] = field(default_factory=dict)
    """What the address book said of new addresses, folded, while a check runs."""
    _token_sources: dict[tuple[Side, str], TokenSource] = field(default_factory=dict)
    _opening: threading.Lock = field(default_factory=threading.Lock)

    attempts: dict[int, Attempts] = field(default_factory=dict)
    """What members have been through in this run."""
    met: dict[int, dict[Side, str]] = field(default_factory=dict)
    """Whose servers members' turned out to be; written down with the end of their try."""
    again: dict[int, datetime] = field(default_factory=dict)
    """When the run is to take up members that have ended their last try."""

    @property
    def default_servers(self) -> DefaultServers:
        return DefaultServers(self.settings.source_host, self.settings.target_host)

    def accounts(self, member: Member) -> tuple[Account, Account]:
        """The old and the new mailbox of a member; MemberError when a server or what opens one is missing."""
        both = self.accounts_so_far(member)
        for account in both:
            if account.lacking:
                raise account.lacking
        return both

    def accounts_so_far(self, member: Member) -> tuple[Account, Account]:
        """The same, and one that nothing opens yet is among them; MemberError when a server is missing."""
        passwords = self.vault.get_sides(member.id or 0)
        heard = _Hearing(self.engine, member.id or 0).hear
        old, new = self.servers(member)
        source = self._account("source", old, member.user_name, member.source_admin, passwords)
        target = self._account("target", new, member.target_user_name or member.email, member.target_admin, passwords)
        met = _meeting(member, self.met.setdefault(member.id or 0, {}))
        return (
            replace(source, heard=heard, met=met, ways=self.ways, also_secret=target.secrets),
            replace(target, heard=heard, met=met, ways=self.ways, also_secret=source.secrets),
        )

    def servers(self, of: Addressed) -> tuple[Server, Server]:
        """The old and the new server of a member; MemberError when one is missing."""
        source = self._server(
            "source",
            of.source_host or self.settings.source_host,
            of.source_port if of.source_host else of.source_port or self.settings.source_port,
            of.source_security or ("" if of.source_host else self.settings.source_security),
            of.source_provider,
        )
        target = self._server(
            "target",
            of.target_host or self.settings.target_host,
            of.target_port if of.target_host else of.target_port or self.settings.target_port,
            of.target_security or ("" if of.target_host else self.settings.target_security),
            of.target_provider,
        )
        return source, target

    def _account(
        self, side: Side, server: Server, user: str, admin: str | None, passwords: Mapping[Side, str]
    ) -> Account:
        """The account at a server with what opens it, or why nothing does."""
        try:
            opened = self._opened(side, server, user, admin, passwords)
            return replace(opened, limits=limits(self.settings))
        except MemberError as lacking:
            return Account(server, user, lacking=lacking)

    def _opened(
        self, side: Side, server: Server, user: str, admin: str | None, passwords: Mapping[Side, str]
    ) -> Account:
        """What the row says counts before what the settings say."""
        asked = self.settings.sign_in.side(side)
        default = self.settings.source_host if side == "source" else self.settings.target_host
        applies = asked.is_for(server.host, default)
        if admin or (applies and asked.method == "master"):
            password = passwords.get(side) if admin else None
            if password is None and applies:
                password = self._standing(side, asked)
            template = asked.template if applies else ""
            return by_administrator(server, side, user, admin or asked.admin, _given(password, side), template)
        if applies:
            return Account(server, user, tokens=self._token_source(side, asked, server.host).tokens(side, user))
        return Account(server, user, _given(passwords.get(side), side))

    def _standing(self, side: Side, asked: SignIn) -> str | None:
        """The password of a side's administrator, or the secret of its application."""
        if asked.secret_file:
            return read_secret(asked.secret_file).rstrip("\r\n")
        return self.vault.get_standing(asked.secret or side)

    def _token_source(self, side: Side, asked: SignIn, host: str) -> TokenSource:
        with self._opening:
            key = side, host.casefold()
            if key not in self._token_sources:
                secret = "" if asked.key_file else _given(self._standing(side, asked), side)
                self._token_sources[key] = token_source(asked, host, secret, self.settings.ca_file, side)
            return self._token_sources[key]

    def _server(self, side: Side, host: str, port: int | None, security: str, provider: str) -> Server:
        if not host:
            raise MemberError("server_missing", side)
        kind: Security = security if security in DEFAULT_PORTS else "tls"
        return Server(
            host,
            port or DEFAULT_PORTS[kind],
            kind,
            self.settings.ca_file,
            plain_allowed=host.lower() in {name.lower() for name in self.settings.plain_hosts},
            private_allowed=self.settings.policy.hosts == "any" or is_named(self.settings.named_servers(side), host),
            provider=provider,
        )


def limits(found: Settings) -> Limits:
    """How long and how much mail servers may answer, as it is set."""
    return replace(
        DEFAULT,
        connect_seconds=found.connect_seconds,
        silence_seconds=found.silence_seconds,
        answer_seconds=found.answer_seconds,
    )


def _meeting(known: Member, met: dict[Side, str]) -> Callable[[Side, str], None]:
    """Notes whose servers a member's turn out to be, where nobody could tell before; several threads may meet some."""
    told: dict[Side, str | None] = {"source": known.source_provider, "target": known.target_provider}

    def meet(side: Side, provider: str) -> None:
        if provider != ANYBODY and not told[side]:
            met.setdefault(side, provider)

    return meet


class _Hearing:
    """Writes down what servers say to people while a member is moved; several threads may hear something."""

    def __init__(self, engine: Engine, member_id: int) -> None:
        self._engine = engine
        self._member_id = member_id
        self._lock = threading.Lock()
        self._heard: set[tuple[Side, str]] = set()

    def hear(self, side: Side, text: str) -> None:
        with self._lock:
            if (side, text) in self._heard or len(self._heard) >= MOST_NOTICES:
                return
            self._heard.add((side, text))
        log.info("%s says: %s", side, text)
        try:
            lifecycle.member_heard(self._engine, self._member_id, side, text)
        except SQLAlchemyError as error:
            # The log has it, and a copy that goes on is worth more than the notice.
            log.error("member %d: %s", self._member_id, places(error))


def _given(password: str | None, side: Side) -> str:
    if password is None:
        raise MemberError("password_missing", side)
    return password


@cache
def store() -> Store:
    """The store of this process, opened once."""
    leave_no_core()
    found, asked = settings(), rules()
    know_own_providers()
    know_own_answers()
    log_to_file(found)
    let_leases_last(found.lease_seconds)
    engine = open_database(found.database)
    return Store(found, engine, Vault(engine, found.key_file), RememberedWays(engine), asked)


_PR_SET_DUMPABLE = 4
"""From <sys/prctl.h>."""


class _PrivateLog(RotatingFileHandler):
    """A log that only its owner reads."""

    def _open(self) -> TextIOWrapper:
        opened = open(self.baseFilename, self.mode, encoding="utf-8", opener=open_private)  # noqa: SIM115
        return cast(TextIOWrapper, opened)


def leave_no_core() -> None:
    """Let no picture of this process be written or taken: it holds passwords in clear."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        # Also what writes cores without asking for the limit, and debuggers of other processes of this user.
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def log_to_file(found: Settings) -> Path:
    """Let our log go to a file under BANJIA_HOME, and nowhere else; returns the file."""
    make_private(found.home)
    file = found.home / "banjia.log"
    if not any(isinstance(handler, RotatingFileHandler) for handler in log.handlers):
        handler = _PrivateLog(file, maxBytes=10_000_000, backupCount=3, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s %(message)s"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
        log.propagate = False
    return file


def places(error: BaseException) -> str:
    """What an exception is and where it and those behind it came from; their texts and values may be secret."""
    lines = []
    while True:
        trace = traceback.extract_tb(error.__traceback__)
        where = " > ".join(f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in trace[-12:])
        lines.append(f"{type(error).__name__} at {where}")
        before = error.__cause__ or error.__context__
        if before is None:
            return ", after ".join(lines)
        error = before
