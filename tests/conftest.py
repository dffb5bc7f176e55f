"""Servers for every test that wants one; each is started once it is asked for, and gone afterwards."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.internal.conjecture import providers

from tests.servers.certificates import Authority
from tests.servers.courier import Courier, StartCourier
from tests.servers.cyrus import Cyrus, StartCyrus
from tests.servers.databases import Databases
from tests.servers.dovecot import Dovecot, StartDovecot
from tests.servers.postgres import Postgres, running_postgres


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--cut-every", type=int, default=9000, help="cut a session after every so many octets (tests/faults)"
    )


# The same examples each time, however long a busy machine takes over one.
settings.register_profile("steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steady")

# Hypothesis also draws what stands in our modules, in all that are imported by then: what ran before in the same
# process would decide which examples a test sees.
_of_our_modules = providers._get_local_constants
_none = providers._local_constants


def _local_constants() -> providers.Constants:
    return _none if settings.get_profile("steady") == settings.default else _of_our_modules()


providers._get_local_constants = _local_constants

# For `pytest --hypothesis-profile=thorough`: others each time, and many of them.
settings.register_profile(
    "thorough",
    derandomize=False,
    max_examples=3000,
    stateful_step_count=50,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)

# For `pytest -m fuzz --hypothesis-profile=fuzz`: what takes no time for one takes minutes for so many.
settings.register_profile(
    "fuzz", derandomize=False, max_examples=100_000, print_blob=True, suppress_health_check=list(HealthCheck)
)


@pytest.fixture(scope="session")
def authority() -> Authority:
    """A private certificate authority."""
    return Authority()


S = TypeVar("S", Dovecot, Cyrus, Courier)


@contextmanager
def _servers(kind: type[S]) -> Iterator[Callable[..., S]]:
    with ExitStack() as stack:

        def start(**options: object) -> S:
            # Not pytest's own tmp_path: too long for Unix sockets, and closed to the account that servers run under.
            directory = Path(tempfile.mkdtemp(prefix=f"{kind.__name__.lower()}-"))
            directory.chmod(0o711)
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            server = kind(directory, **options)  # type: ignore[arg-type]
            stack.push(server)
            server.start()
            return server

        yield start


@pytest.fixture
def start_dovecot() -> Iterator[StartDovecot]:
    """Start Dovecots for one test: `server = start_dovecot(capability=..., certificate=...)`."""
    with _servers(Dovecot) as start:
        yield start


@pytest.fixture
def start_cyrus() -> Iterator[StartCyrus]:
    """Start Cyruses for one test: `server = start_cyrus(settings={"unixhierarchysep": "yes"})`."""
    with _servers(Cyrus) as start:
        yield start


@pytest.fixture
def start_courier() -> Iterator[StartCourier]:
    """Start Couriers for one test: `server = start_courier(settings={"IMAP_EMPTYTRASH": ""})`."""
    with _servers(Courier) as start:
        yield start


@pytest.fixture(scope="session")
def start_lasting_dovecot() -> Iterator[StartDovecot]:
    """Start Dovecots that several tests share."""
    with _servers(Dovecot) as start:
        yield start


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """A PostgreSQL that the tests of a session share."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def _second_postgres() -> Iterator[Postgres]:
    with running_postgres() as server:
        yield server


@pytest.fixture
def mortal_postgres(_second_postgres: Postgres) -> Postgres:
    """A PostgreSQL that a test may kill; it lives when the test begins."""
    if not _second_postgres.is_running:
        _second_postgres.restart()
    _second_postgres.wait_until_it_answers()
    return _second_postgres


@pytest.fixture(scope="session")
def databases(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Databases:
    """Fresh databases; PostgreSQL is started for the first that wants it."""
    return Databases(tmp_path_factory.mktemp("database"), lambda: request.getfixturevalue("postgres"))
