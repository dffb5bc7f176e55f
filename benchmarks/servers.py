"""The two mail servers of a benchmark: throw-away Dovecots on loopback, a source and a target."""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.job import PASSWORD
from benchmarks.maildir import Maildir
from tests.servers.dovecot import PLAIN_CAPABILITY, Dovecot, User

CAPABILITIES = {"full": None, "plain": PLAIN_CAPABILITY}
"""What the target offers: all that Dovecot can, or only single APPENDs with UIDPLUS as some services do."""
NO_CAP = 0
"""Dovecot's own word for any number of connections of one account (`mail_max_userip_connections`)."""


class LeanDovecot(Dovecot):
    """Dovecot without the quota and the session records that tests need and that cost time."""

    def maildir(self, user: str) -> Maildir:
        """Where to store an account's mail without a session; `index` afterwards."""
        owner = (self._account.pw_uid, self._account.pw_gid) if os.getuid() == 0 else (os.getuid(), os.getgid())
        return Maildir(self.directory / "mail" / user / "Maildir", owner)

    def index(self) -> None:
        """Let the server take notice of all accounts' mail now, so that no tool that is measured waits for it."""
        self._doveadm("index", "-A", "*")

    def forget_mail(self, user: str) -> None:
        """Delete what an account holds, for the disk's sake."""
        shutil.rmtree(self.directory / "mail" / user, ignore_errors=True)

    def _settings(self) -> str:
        lean = "mail_plugins =\nprotocol imap {\n  mail_plugins =\n  rawlog_dir =\n}\n"
        return super()._settings() + lean


@contextmanager
def two_servers(
    target: str, mail: Path, source_users: Sequence[str], target_users: Sequence[str], cap: int = NO_CAP
) -> Iterator[tuple[LeanDovecot, LeanDovecot]]:
    """Start a source and a target with their accounts; all they store is below `mail`.

    `cap` is how many connections either side allows an account at the same time, as services do.
    """
    with ExitStack() as stack:
        started = []
        for users, capability in ((source_users, None), (target_users, CAPABILITIES[target])):
            directory = Path(tempfile.mkdtemp(prefix="bench-", dir=mail))
            directory.chmod(0o711)  # started by root, Dovecot runs as nobody
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            server = LeanDovecot(directory, capability=capability, connections_per_user=cap)
            server.add_users([User(name, PASSWORD) for name in users])
            stack.enter_context(server)
            started.append(server)
        yield started[0], started[1]
