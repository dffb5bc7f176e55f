"""A real mail server for one test run: Dovecot 2.3 on a loopback port, with everything it writes under one directory.

Needs no root; started by root it becomes `nobody`. Users, passwords and quotas can be changed while it runs. It records
what every session sent (Dovecot's rawlog), so that a test can prove which commands a server saw.
"""

import base64
import contextlib
import grp
import math
import os
import pwd
import re
import shutil
import signal
import socket
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

import pytest

from tests.servers.certificates import Certificate
from tests.servers.loopback import DEADLINE, reserved_port

INSTALL = "run tests/setup/install_servers"
PLAIN_CAPABILITY = "IMAP4rev1 UIDPLUS"
SPECIAL_USE = ("Sent", "Drafts", "Trash", "Junk")
# Verbs that change a mailbox. SELECT is here because it takes \Recent from the messages.
WRITING_VERBS = frozenset(
    {"APPEND", "COPY", "CREATE", "DELETE", "EXPUNGE", "MOVE", "RENAME", "SELECT", "STORE", "SUBSCRIBE"}
    | {"UID COPY", "UID EXPUNGE", "UID MOVE", "UID STORE", "UNSUBSCRIBE"}
)


@dataclass(frozen=True)
class User:
    """One account of a server. `quota` is Dovecot's rule, such as `storage=200K` or `messages=50`."""

    name: str
    password: str
    quota: str | None = None
    rules: dict[str, str] = field(default_factory=dict)


def wait_until(done: Callable[[], bool], what: str, deadline: float = DEADLINE) -> None:
    """Poll until `done()` is true; raise TimeoutError naming `what` after `deadline` seconds."""
    end = time.monotonic() + deadline
    while not done():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {deadline:g} s for {what}")
        time.sleep(0.02)


def dovecot_binary(name: str) -> str:
    """Path of `dovecot` or `doveadm`; fail the test (a skipped proof proves nothing) when it is missing."""
    path = shutil.which(name, path=os.pathsep.join((os.environ.get("PATH", ""), "/usr/sbin", "/usr/bin")))
    if path is None:
        pytest.fail(f"{name} is not installed: {INSTALL}", pytrace=False)
    return path


def installed_version() -> str:
    """Version of the installed Dovecot; fail the test when its configuration language is not that of 2.3."""
    answer = subprocess.run([dovecot_binary("dovecot"), "--version"], capture_output=True, text=True, check=True)
    version = answer.stdout.split()[0]
    if not version.startswith("2.3."):
        pytest.fail(
            f"Dovecot {version} is installed; the tests write the configuration of 2.3 (Debian 12), not of another",
            pytrace=False,
        )
    return version


StartDovecot = Callable[..., "Dovecot"]


class Dovecot:
    """A throw-away Dovecot below `directory`, which must be short (Unix sockets) and, for root, open to `nobody`.

    `settings` are added to its configuration, `files` lie beside it; HERE in the settings is that directory.
    """

    host = "127.0.0.1"

    def __init__(
        self,
        directory: Path,
        *,
        certificate: Certificate | None = None,
        capability: str | None = None,
        special_use: bool = False,
        connections_per_user: int = 10,
        settings: str = "",
        files: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.directory = directory
        self.port = reserved_port(self)
        self.tls_port = reserved_port(self) if certificate else 0
        self.users: dict[str, User] = {}
        self._certificate = certificate
        self._capability = capability
        self._special_use = special_use
        self._connections_per_user = connections_per_user
        self._more_settings = settings
        self._files = files
        self._revision = 0
        self._process: subprocess.Popen[bytes] | None = None
        # Dovecot refuses to open mail as root, and needs a name for the account that it runs under.
        self._account = pwd.getpwnam("nobody") if os.getuid() == 0 else pwd.getpwuid(os.getuid())

    # Start and stop

    def start(self) -> None:
        """Start, or start again on the same ports, and return when the server answers."""
        if self._process:
            raise RuntimeError("already started")
        installed_version()
        self._lay_out()
        self._configuration.write_text(self._settings())
        self._write_users()
        self._launch()
        try:
            wait_until(self._answers_or_ended, "Dovecot's greeting")
        except TimeoutError as error:
            self.stop()
            raise RuntimeError(f"{error}\n{self.log()}") from error
        if self._process and self._process.poll() is not None:
            self._process = None
            raise RuntimeError(f"Dovecot did not start:\n{self.log()}")

    def stop(self) -> None:
        """End the server and its sessions, and return when they have ended; a second call does nothing."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(DEADLINE)
            # Sessions outlive their master, and what they store would come behind the back of a test.
            _signal_all(process.pid, signal.SIGTERM)
            wait_until(lambda: not _living(process.pid), "Dovecot's sessions to end")
        except (subprocess.TimeoutExpired, TimeoutError):
            self._kill(process)

    def kill(self) -> None:
        """End all of it at once, whatever it is doing: for one that is not needed any more."""
        process, self._process = self._process, None
        if process is not None:
            self._kill(process)

    def _kill(self, process: "subprocess.Popen[bytes]") -> None:
        _signal_all(process.pid, signal.SIGKILL)
        process.wait()
        wait_until(lambda: not _living(process.pid), "Dovecot's processes to be gone")

    def __enter__(self) -> "Dovecot":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def log(self) -> str:
        """The end of what the server wrote to its log."""
        with contextlib.suppress(FileNotFoundError):
            return self._log.read_text(errors="replace")[-4000:]
        return "(no log)"

    # Users

    def add_user(self, name: str, password: str, quota: str | None = None, **rules: str) -> User:
        """Add or replace an account; `rules` are Dovecot settings for it alone (`quota_max_mail_size="10K"`)."""
        self.add_users([User(name, password, quota, rules)])
        return self.users[name]

    def add_users(self, users: list[User]) -> None:
        """Add or replace accounts and wait until the server uses them."""
        self.users |= {user.name: user for user in users}
        if self._process:
            self._write_users()

    def set_password(self, name: str, password: str) -> None:
        """Change a password for the next log-in; open sessions stay."""
        self.add_users([replace(self.users[name], password=password)])

    def set_quota(self, name: str, quota: str | None) -> None:
        """Change a quota for the next session, e.g. `storage=1M`; None lifts it."""
        self.add_users([replace(self.users[name], quota=quota)])

    def share(self, owner: str, folder: str, user: str, *rights: str) -> None:
        """Give a user rights to another one's folder, by the ACL plugin, which the settings have to load."""
        self._doveadm("acl", "set", "-u", owner, folder, f"user={user}", *rights)

    def disconnect(self, name: str) -> None:
        """End the open sessions of a user, as a restarting server does, and return when they have ended."""
        self._doveadm("kick", name, accept=(0, 68))  # 68: none was open
        wait_until(lambda: not self._is_signed_in(name), f"the sessions of {name} to end")

    def _is_signed_in(self, name: str) -> bool:
        # The first line is that of the column's names.
        return any(line.split()[:1] == [name] for line in self._doveadm("who", "-1").splitlines()[1:])

    def refused_logins(self, name: str) -> int:
        """How often a wrong password was given for a user."""
        pattern = rf"auth failed.*user=<{re.escape(name)}>"
        return len(re.findall(pattern, self._log.read_text(errors="replace")))

    def has_no_lost_session(self, proxy_port: int) -> bool:
        """Whether each session has a client at the other end, behind the proxy through which they come.

        What a session of a client that has gone was sent it may still be storing.
        """
        connections = _tcp_connections()
        clients = sum(c.remote == proxy_port for c in connections)
        carried = {c.inode for c in connections if c.local == self.port}
        if clients != len(carried) or any(c.waits_for_close and c.local == proxy_port for c in connections):
            return False  # the proxy has not noticed yet that somebody came or left
        return self._process is not None and all(
            carried & _sockets(process) for process in _living(self._process.pid) if _name(process) == "imap"
        )

    # What arrived, and what was said

    def message_count(self, *names: str) -> int:
        """Count the messages stored for the users named, or for all, without a session."""
        return sum(
            1
            for name in names or tuple(self.users)
            for folder, _, files in os.walk(self._mail / name)
            if Path(folder).name in ("cur", "new")
            for _ in files
        )

    def sessions(self, name: str) -> list[list[str]]:
        """Command lines of each session of a user, oldest session first; no tags, literals shown as `{n}`."""
        return [session_lines(log) for log in sorted((self._rawlog / name).glob("*.in"), key=_start_of_session)]

    def commands(self, name: str) -> list[str]:
        """Verbs that a user's sessions sent, in order and in capitals (`UID FETCH`), beginning after the log-in."""
        return [verb(line) for session in self.sessions(name) for line in session]

    def forget_commands(self) -> None:
        """Begin a new record of commands; what open sessions still say is lost."""
        for log in self._rawlog.glob("*/*"):
            log.unlink()

    # Inside

    @property
    def _configuration(self) -> Path:
        return self.directory / "dovecot.conf"

    @property
    def _log(self) -> Path:
        return self.directory / "dovecot.log"

    @property
    def _passwd(self) -> Path:
        return self.directory / "passwd"

    @property
    def _mail(self) -> Path:
        return self.directory / "mail"

    @property
    def _rawlog(self) -> Path:
        return self.directory / "rawlog"

    def _lay_out(self) -> None:
        if len(str(self.directory)) > 60:
            raise ValueError(f"too long a path for Dovecot's sockets: {self.directory}")
        for directory in (self.directory, *(self.directory / name for name in ("run", "state", "mail", "rawlog"))):
            directory.mkdir(parents=True, exist_ok=True)
            self._hand_over(directory)
        for name, text in self._files.items():
            (self.directory / name).write_text(text)
            self._hand_over(self.directory / name)
        if self._certificate:
            for name, content in (("tls.crt", self._certificate.chain), ("tls.key", self._certificate.key)):
                (self.directory / name).write_bytes(content)
                self._hand_over(self.directory / name)
        if os.getuid() == 0:
            closed = [str(parent) for parent in self.directory.parents if not parent.stat().st_mode & 0o001]
            if closed:
                raise ValueError(f"started by root, Dovecot runs as nobody, who cannot enter {', '.join(closed)}")

    def _hand_over(self, path: Path) -> None:
        if os.getuid() == 0:
            os.chown(path, self._account.pw_uid, self._account.pw_gid)

    def _launch(self) -> None:
        command = [dovecot_binary("dovecot"), "-F", "-c", str(self._configuration)]
        root = os.getuid() == 0
        with self._log.open("ab") as log:
            self._hand_over(self._log)
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.directory,
                env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"},
                start_new_session=True,  # so that Ctrl-C reaches the test first
                user=self._account.pw_uid if root else None,
                group=self._account.pw_gid if root else None,
                extra_groups=[] if root else None,
            )

    def _answers_or_ended(self) -> bool:
        if self._process is None or self._process.poll() is not None:
            return True
        try:
            with socket.create_connection((self.host, self.port), timeout=1) as connection:
                return connection.recv(4096).startswith(b"* OK")
        except OSError:
            return False

    def _write_users(self) -> None:
        self._revision += 1
        for name in self.users:
            (self._rawlog / name).mkdir(exist_ok=True)
            self._hand_over(self._rawlog / name)
        new = self._passwd.with_suffix(".new")
        new.write_text("".join(self._passwd_line(user) for user in self.users.values()))
        self._hand_over(new)
        # Dovecot compares whole seconds of this time, so every revision gets a second of its own.
        os.utime(new, (self._revision, self._revision))
        new.replace(self._passwd)
        if self._process and self.users:
            last = next(reversed(self.users))
            # It looks at the file at most once a second.
            wait_until(
                lambda: self._doveadm("user", "-f", "revision", last, accept=(0, 67)).strip() == str(self._revision),
                "Dovecot to read its changed users",
            )

    def _passwd_line(self, user: User) -> str:
        password = base64.b64encode(user.password.encode()).decode()
        rules = {"revision": str(self._revision)} | user.rules
        if user.quota is not None:
            rules["quota_rule"] = f"*:{user.quota}"
        extra = " ".join(f"userdb_{name}={value}" for name, value in rules.items())
        return f"{user.name}:{{PLAIN.b64}}{password}::::::{extra}\n"

    def _doveadm(self, *arguments: str, accept: tuple[int, ...] = (0,)) -> str:
        command = [dovecot_binary("doveadm"), "-c", str(self._configuration), *arguments]
        answer = subprocess.run(command, capture_output=True, text=True, check=False)
        if answer.returncode not in accept:
            raise RuntimeError(f"{arguments}: {answer.stderr}\n{self.log()}")
        return answer.stdout

    def _settings(self) -> str:
        name, group = self._account.pw_name, grp.getgrgid(self._account.pw_gid).gr_name
        here = self.directory
        tls = "ssl = no"
        if self._certificate:
            tls = f"ssl = yes\nssl_cert = <{here}/tls.crt\nssl_key = <{here}/tls.key"
        folders = "".join(
            f"  mailbox {folder} {{\n    special_use = \\{folder}\n    auto = subscribe\n  }}\n"
            for folder in SPECIAL_USE
        )
        return f"""\
protocols = imap
listen = {self.host}
base_dir = {here}/run
state_dir = {here}/state
log_path = {self._log}
default_internal_user = {name}
default_internal_group = {group}
default_login_user = {name}
default_vsz_limit = 2G
first_valid_uid = 1
first_valid_gid = 0
{tls}
disable_plaintext_auth = no
{f"imap_capability = {self._capability}" if self._capability else ""}

mail_location = maildir:~/Maildir:LAYOUT=fs
mail_fsync = never
mail_plugins = quota
mail_max_userip_connections = {self._connections_per_user}
namespace inbox {{
  inbox = yes
  separator = /
{folders if self._special_use else ""}}}

{self._more_settings.replace("HERE", str(here))}
# Any character may stand in a user name; a refused password is answered within half a second.
auth_username_chars =
auth_failure_delay = 0
passdb {{
  driver = passwd-file
  args = username_format=%u {self._passwd}
}}
userdb {{
  driver = passwd-file
  args = username_format=%u {self._passwd}
  default_fields = uid={self._account.pw_uid} gid={self._account.pw_gid} home={self._mail}/%u
}}

plugin {{
  quota = count:Mailbox
  quota_vsizes = yes
  quota_grace = 0
}}

protocol imap {{
  mail_plugins = $mail_plugins imap_quota imap_zlib
  rawlog_dir = {self._rawlog}/%u
}}

service imap-login {{
  chroot =
  service_count = 0
  process_min_avail = 1
  inet_listener imap {{
    port = {self.port}
  }}
  inet_listener imaps {{
    port = {self.tls_port}
    ssl = yes
  }}
}}
service anvil {{
  chroot =
  # Without this socket no address is slowed down after refused passwords.
  unix_listener anvil-auth-penalty {{
    mode = 0
  }}
}}
"""


class _Connection(NamedTuple):
    """One end of a TCP connection on loopback, by its ports."""

    local: int
    remote: int
    waits_for_close: bool
    """The other end has closed it."""
    inode: str


def _tcp_connections() -> list[_Connection]:
    """Those that are open at this end (proc_net_tcp(5)), or that only this end has not closed."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [
        _Connection(int(row[1].partition(":")[2], 16), int(row[2].partition(":")[2], 16), row[3] == "08", row[9])
        for row in rows
        if row[3] in ("01", "08")
    ]


def _sockets(process: int) -> set[str]:
    found = set()
    # Processes end, and close files, while they are looked at.
    with contextlib.suppress(OSError):
        for file in Path(f"/proc/{process}/fd").iterdir():
            with contextlib.suppress(OSError):
                found.add(str(file.readlink()).removeprefix("socket:[").removesuffix("]"))
    return found


def _name(process: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/comm").read_text().strip()
    return ""


def _start_of_session(log: Path) -> bytes:
    """Every answer begins with the greeting after the log-in, so its first stamp is the start of the session."""
    with contextlib.suppress(FileNotFoundError):
        # What was said is written down after it was sent: a session that has only just begun may not have any yet.
        if greeting := log.with_suffix(".out").read_bytes()[:17]:
            return greeting
    return b"~"


def _signal_all(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


def _living(group: int) -> list[int]:
    """The processes of a group, without those that have only not been buried yet."""
    found = []
    for entry in Path("/proc").iterdir():
        # Processes end while they are looked at.
        with contextlib.suppress(OSError):
            if entry.name.isdecimal():
                state, _, its_group = (entry / "stat").read_text().rpartition(")")[2].split()[:3]
                if its_group == str(group) and state not in "ZX":
                    found.append(int(entry.name))
    return found


def session_lines(log: Path) -> list[str]:
    """Read the command lines of one session from its rawlog pair (`*.in`, and `*.out` beside it)."""
    refusals: dict[bytes, float] = {}
    said = log.with_suffix(".out")
    for line in _timed_lines(said.read_bytes() if said.exists() else b""):
        words = line.text.split(b" ", 2)
        if len(words) > 1 and words[1] in (b"NO", b"BAD"):
            refusals.setdefault(words[0], line.time)
    received = deque(_timed_lines(log.read_bytes()))
    commands = []
    idle = False
    while received:
        first = received.popleft()
        tag, _, text = first.text.rstrip(b"\r\n").partition(b" ")
        if idle and tag.upper() == b"DONE" and not text:
            idle = False
            continue
        command = b""
        while literal := LITERAL.search(text):
            command += text[: literal.start()] + b"{%b}" % literal["size"]
            text = b""
            # A literal that waits for leave is not sent when the command is refused first.
            answered = refusals.get(tag, math.inf)
            if received and (literal["plus"] or answered >= received[0].time):
                text = _after_literal(received, int(literal["size"]))
        command += text
        idle = command.upper() == b"IDLE"
        commands.append(command.decode(errors="replace"))
    return commands


def verb(command: str) -> str:
    """The verb of a command line without its tag: `FETCH`, `UID FETCH`."""
    words = command.upper().split(maxsplit=2)
    return " ".join(words[:2]) if words[:1] == ["UID"] else "".join(words[:1])


LITERAL = re.compile(rb"~?\{(?P<size>\d+)(?P<plus>[+-]?)\}$")


@dataclass(frozen=True)
class _Line:
    time: float
    text: bytes


def _timed_lines(rawlog: bytes) -> Iterator[_Line]:
    """Split a rawlog, where every line carries the time of its arrival in front."""
    for line in rawlog.split(b"\n"):
        time_of_arrival, _, text = line.partition(b" ")
        if time_of_arrival:
            yield _Line(float(time_of_arrival), text + b"\n")


def _after_literal(received: deque[_Line], size: int) -> bytes:
    """Drop a literal from the front and return the rest of its last line, where the command goes on."""
    while received:
        text = received.popleft().text
        if size < len(text):
            return text[size:].rstrip(b"\r\n")
        size -= len(text)
    return b""
