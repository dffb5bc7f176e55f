"""The two mail servers of a benchmark: throw-away Dovecots on loopback, a source and a target."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from benchmarks.job import PASSWORD
from tests.servers.dovecot import PLAIN_CAPABILITY, Dovecot, User

CAPABILITIES = {"full": None, "plain": PLAIN_CAPABILITY}
"""What the target offers: all that Dovecot can, or only single APPENDs with UIDPLUS as some services do."""


class LeanDovecot(Dovecot):
    """Dovecot without the quota and the session records that tests need and that cost time."""

    def _settings(self) -> str:
        lean = "mail_plugins =\nprotocol imap {\n  mail_plugins =\n  rawlog_dir =\n}\n"
        return super()._settings() + lean


@contextmanager
def two_servers(
    target: str, mail: Path, source_users: Sequence[str], target_users: Sequence[str]
) -> Iterator[tuple[Dovecot, Dovecot]]:
    """Start a source and a target with their accounts; all they store is below `mail`."""
    with ExitStack() as stack:
        started = []
        for users, capability in ((source_users, None), (target_users, CAPABILITIES[target])):
            directory = Path(tempfile.mkdtemp(prefix="bench-", dir=mail))
            directory.chmod(0o711)  # started by root, Dovecot runs as nobody
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            server = LeanDovecot(directory, capability=capability, connections_per_user=50)
            server.add_users([User(name, PASSWORD) for name in users])
            started.append(stack.enter_context(server))
        yield started[0], started[1]


def forget_mail(server: Dovecot, user: str) -> None:
    """Delete what an account holds, for the disk's sake."""
    shutil.rmtree(server.directory / "mail" / user, ignore_errors=True)
