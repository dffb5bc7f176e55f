"""Mail servers for every test that wants one; each is started once it is asked for, and gone afterwards."""

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.servers.certificates import Authority
from tests.servers.dovecot import Dovecot, StartDovecot


@pytest.fixture(scope="session")
def authority() -> Authority:
    """A private certificate authority."""
    return Authority()


@contextmanager
def _dovecots() -> Iterator[StartDovecot]:
    with ExitStack() as stack:

        def start(**options: object) -> Dovecot:
            # Not pytest's own tmp_path: too long for Unix sockets, and closed to the account that Dovecot runs under.
            directory = Path(tempfile.mkdtemp(prefix="dovecot-"))
            directory.chmod(0o711)
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            server = Dovecot(directory, **options)  # type: ignore[arg-type]
            stack.callback(server.stop)
            server.start()
            return server

        yield start


@pytest.fixture
def start_dovecot() -> Iterator[StartDovecot]:
    """Start Dovecots for one test: `server = start_dovecot(capability=..., certificate=...)`."""
    with _dovecots() as start:
        yield start


@pytest.fixture(scope="session")
def start_lasting_dovecot() -> Iterator[StartDovecot]:
    """Start Dovecots that several tests share."""
    with _dovecots() as start:
        yield start
