"""Mail servers whose packages exclude each other: each in a root directory of its own, unpacked by the test set-up.

A running server gets a copy of that root (hard links, so it costs milliseconds) and writes only there. Started by root
it becomes `nobody`; an ordinary user starts it in a user namespace, where they are `nobody`.
"""

import abc
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import pytest

from tests.servers.dovecot import DEADLINE, INSTALL, User, wait_until
from tests.servers.loopback import reserved_port

CACHE = Path(os.environ.get("BANJIA_TEST_CACHE", "/var/cache/banjia-tests"))
NOBODY = 65534
LOG_LINES = 40


class Unpacked(abc.ABC):
    """A throw-away server in its own root below `directory`; what is common to Cyrus and Courier."""

    host = "127.0.0.1"
    package: str
    """The folder under CACHE."""
    accounts: Sequence[str]
    """Names that the server wants to find in /etc/passwd."""

    def __init__(self, directory: Path) -> None:
        self.port = reserved_port(self)
        self.users: dict[str, User] = {}
        self.root = directory / "root"
        self._processes: list[subprocess.Popen[bytes]] = []
        self._log: list[str] = []
        self._syslog: socket.socket | None = None
        self._log_keeper: threading.Thread | None = None

    # Start and stop

    def start(self) -> None:
        """Start, or start again on the same port, and return when the server answers."""
        if self._processes:
            raise RuntimeError("already started")
        if not self.root.exists():
            self._lay_out()
        self._listen_to_log()
        self._launch()
        try:
            wait_until(self._answers_or_ended, f"the greeting of {self.package}")
        except TimeoutError as error:
            self.stop()
            raise RuntimeError(f"{error}\n{self.log()}") from error
        if any(process.poll() is not None for process in self._processes):
            self.stop()
            raise RuntimeError(f"{self.package} did not start:\n{self.log()}")

    def stop(self) -> None:
        """End the server and its sessions; a second call does nothing."""
        processes, self._processes = self._processes, []
        for process in reversed(processes):
            process.terminate()
        for process in reversed(processes):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(DEADLINE)
        # Sessions may live on when their server has gone.
        wait_until(self._kill_those_left, f"the processes of {self.package} to end")
        for process in processes:
            process.wait()
        syslog, self._syslog = self._syslog, None
        if syslog:
            # Wakes the thread that reads it. Closed under its hands, the number of the file might be another's by then.
            syslog.shutdown(socket.SHUT_RDWR)
            if self._log_keeper:
                self._log_keeper.join()
            syslog.close()

    def _kill_those_left(self) -> bool:
        """Kill what lives in the root, with what it has started meanwhile; whether nothing does any more."""
        left = self.living()
        for process in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        return not left

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def living(self) -> list[int]:
        """The processes that live in this server's root."""
        found = []
        for entry in Path("/proc").iterdir():
            # Processes end while they are looked at, and those of others cannot be.
            with contextlib.suppress(OSError):
                if entry.name.isdecimal() and (entry / "root").readlink() == self.root:
                    found.append(int(entry.name))
        return found

    def log(self) -> str:
        """The end of what the server wrote to its log."""
        return "\n".join(self._log[-LOG_LINES:]) or "(no log)"

    # Users

    def add_user(self, name: str, password: str) -> User:
        """Add an account with an empty mailbox."""
        self.add_users([User(name, password)])
        return self.users[name]

    @abc.abstractmethod
    def add_users(self, users: Sequence[User]) -> None:
        """Add accounts with empty mailboxes."""

    # Inside

    @abc.abstractmethod
    def _launch(self) -> None: ...

    def _lay_out(self) -> None:
        unpacked = CACHE / self.package
        if not (unpacked / ".recipe").exists():
            pytest.fail(f"{self.package} is not unpacked under {CACHE}: {INSTALL}", pytrace=False)
        shutil.copytree(unpacked, self.root, symlinks=True, copy_function=_link)
        for name in ("dev", "tmp", "srv", "run"):
            (self.root / name).mkdir(exist_ok=True)
        # A device file is nothing that every container allows; what is written to this one is little.
        self.write("dev/null", "")
        self.write("etc/passwd", "".join(f"{name}:x:{NOBODY}:{NOBODY}::/:/bin/false\n" for name in self.accounts))
        self.write("etc/group", "".join(f"{name}:x:{NOBODY}:\n" for name in ("mail", *self.accounts)))

    def write(self, path: str, content: str) -> None:
        """Make a file of the server's own; what the cached root has there stays as it is."""
        file = self.root / path
        file.unlink(missing_ok=True)
        file.write_text(content)
        self.hand_over(file)

    def make(self, *paths: str) -> None:
        """Make directories that the server may write to."""
        for path in paths:
            for part in (*reversed(Path(path).parents), Path(path)):
                directory = self.root / part
                if not directory.exists():
                    directory.mkdir()
                    self.hand_over(directory)
            self.hand_over(self.root / path)

    def hand_over(self, path: Path) -> None:
        if os.getuid() == 0:
            os.chown(path, NOBODY, NOBODY)

    def run(self, *command: str, send: bytes = b"") -> None:
        """Carry out a command inside to its end."""
        answer = subprocess.run(
            self._inside(command), input=send, capture_output=True, check=False, env=_environment({})
        )
        if answer.returncode:
            raise RuntimeError(f"{command[0]}: {answer.stderr.decode(errors='replace')}\n{self.log()}")

    def spawn(self, *command: str, environment: Mapping[str, str] | None = None, memory: int = 0) -> None:
        """Start a process inside that lives until `stop`; `memory` is its limit in bytes."""
        limit = ["prlimit", f"--as={memory}"] if memory else []
        process = subprocess.Popen(
            [*limit, *self._inside(command)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(environment or {}),
            start_new_session=True,  # so that Ctrl-C reaches the test first
        )
        self._processes.append(process)
        threading.Thread(target=self._keep_output, args=(process,), daemon=True).start()

    def _inside(self, command: Sequence[str]) -> list[str]:
        if os.getuid() == 0:
            return ["chroot", f"--userspec={NOBODY}:{NOBODY}", str(self.root), *command]
        who = (f"--map-user={NOBODY}", f"--map-group={NOBODY}")
        return ["unshare", "--user", *who, f"--root={self.root}", "--wd=/", *command]

    def _keep_output(self, process: "subprocess.Popen[bytes]") -> None:
        if process.stdout:
            with process.stdout as lines:
                self._log += (line.decode(errors="replace").rstrip() for line in lines)

    def _listen_to_log(self) -> None:
        path = self.root / "dev/log"
        path.unlink(missing_ok=True)
        self._syslog = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._syslog.bind(str(path))
        path.chmod(0o666)
        self._log_keeper = threading.Thread(target=self._keep_log, args=(self._syslog,), daemon=True)
        self._log_keeper.start()

    def _keep_log(self, syslog: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while line := syslog.recv(8192):
                self._log.append(line.decode(errors="replace").rstrip())

    def _answers_or_ended(self) -> bool:
        if any(process.poll() is not None for process in self._processes):
            return True
        try:
            with socket.create_connection((self.host, self.port), timeout=5) as connection:
                return connection.recv(4096).startswith(b"* OK")
        except OSError:
            return False


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        # On another file system, or of another owner.
        shutil.copy2(source, target)


def _environment(values: Mapping[str, str]) -> dict[str, str]:
    return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8", **values}
