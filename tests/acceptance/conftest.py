"""A company to be moved: an old server full of mail, a new one, and the program with a home of its own."""

from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.acceptance.command_line import Banjia, write_roster
from tests.acceptance.company import MEMBERS, MESSAGES, Company, password
from tests.acceptance.office import A_PART, Office
from tests.acceptance.office import MEMBERS as FEW_MEMBERS
from tests.acceptance.office import MESSAGES as FEW_MESSAGES
from tests.servers.certificates import Authority
from tests.servers.compare import Mail, mail_of
from tests.servers.dovecot import PLAIN_CAPABILITY, Dovecot, StartDovecot, User
from tests.servers.line import Line
from tests.servers.mail import mailbox_messages, seed


@pytest.fixture(scope="session")
def full_server(start_lasting_dovecot: StartDovecot, authority: Authority) -> tuple[Dovecot, dict[str, Counter[Mail]]]:
    """The old server: 20 members with 500 messages each in eight folders. Nobody may change it."""
    server = start_lasting_dovecot(certificate=authority.issue())
    server.add_users([User(f"member{n:02d}@old.example", password("old", n)) for n in range(1, MEMBERS + 1)])
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda user: _fill(server, user), server.users.values()))
    return server, {name: mail_of(server, name) for name in server.users}


def _fill(server: Dovecot, user: User) -> None:
    seed(server, user.name, user.password, mailbox_messages(user.name, MESSAGES))


@pytest.fixture
def two_dovecots(
    full_server: tuple[Dovecot, dict[str, Counter[Mail]]], start_dovecot: StartDovecot, authority: Authority
) -> Company:
    """The old server, and a new one where every member has an empty mailbox."""
    source, mail = full_server
    target = start_dovecot(certificate=authority.issue())
    target.add_users([User(name, password("new", n)) for n, name in enumerate(mail, 1)])
    source.forget_commands()
    return Company(source, target, mail)


@pytest.fixture
def banjia(tmp_path: Path, authority: Authority) -> Iterator[Banjia]:
    """The program; what it leaves running is stopped afterwards."""
    program = Banjia(tmp_path / "banjia", authority.root)
    yield program
    program.close()


@pytest.fixture(scope="session")
def lasting_banjia(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Banjia]:
    """A Prefect server for all that do not end it: it takes ten seconds to start."""
    program = Banjia(tmp_path_factory.mktemp("prefect"), authority.root)
    program.start(["prefect", "start"]).wait()
    yield program
    program.close()


@pytest.fixture
def guest(tmp_path: Path, authority: Authority, lasting_banjia: Banjia) -> Iterator[Banjia]:
    """The program with a home of its own, at the Prefect server of others."""
    program = Banjia(tmp_path / "banjia", authority.root, lasting_banjia)
    yield program
    program.assert_nothing_runs()


@pytest.fixture
def office(
    request: pytest.FixtureRequest, start_dovecot: StartDovecot, banjia: Banjia, tmp_path: Path
) -> Iterator[Office]:
    """Three members with mail; the target offers UIDPLUS alone, unless a test names other capabilities.

    The line to it takes a part of the mail, and then nothing until it is told to go on.
    """
    capability = getattr(request, "param", PLAIN_CAPABILITY)
    source, target = start_dovecot(), start_dovecot(capability=capability)
    for number in range(FEW_MEMBERS):
        email = f"member{number}@old.example"
        source.add_user(email, f"Canary-old-{number}")
        target.add_user(email, f"Canary-new-{number}")
        seed(source, email, source.users[email].password, mailbox_messages(email, FEW_MESSAGES))
    banjia.keep_secret(source, target)
    with Line(target.port) as line:
        line.hold(after=A_PART)
        mail = {email: mail_of(source, email) for email in source.users}
        office = Office(source, target, line, mail, tmp_path / "members.csv")
        write_roster(office.roster, [office.row(email) for email in mail])
        yield office
    banjia.assert_no_secret_was_written()
