"""Two runs over one database keep to one account of a mail server: connections, pauses, and no account is locked."""

import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlmodel import col, select

from deployments.demo.imap_server import Action, Fault, ImapServer, Received
from models import hosts
from models.columns import now
from models.database import reading
from models.member import Member
from models.progress import wave_progress
from models.states import MemberState, WaveState
from models.wave import Event
from tasks.store import store
from tests.console.conftest import LONGEST_RUN, CommandLine, Program
from tests.servers.dovecot import wait_until
from tests.servers.postgres import Postgres
from tests.tasks.office import Office, new_password, old_password

pytestmark = pytest.mark.prefect
LONG_PAUSE = 3600
"""Seconds that the busy server asks for first: they are not over before the test ends them."""
PAUSE = 10
"""Seconds that it asks for next: they end by themselves."""
ESTABLISHED = 1
"""The first octet of TCP_INFO of a connection that neither side has ended (linux/tcp.h, TCP_ESTABLISHED)."""


class Throttle:
    """Has a server ask to be left alone: first when both waves ask it for mail, which each does not do alone."""

    def __init__(self, server: ImapServer) -> None:
        self.most_connections = 0
        self.heard: list[datetime] = []
        """When each command came."""
        self._told = threading.Event()
        self._server = server
        self._waves: set[str] = set()
        self._lock = threading.Lock()

    def tell(self, command: Received) -> None:
        """Keep each wave's first FETCH until the other's is there, and answer that one NO."""
        with self._lock:
            self.heard.append(now())
            self.most_connections = max(self.most_connections, open_connections(self._server))
        if not command.verb.endswith("FETCH"):
            return
        with self._lock:
            if command.account[:1] in self._waves:
                return
            self._waves.add(command.account[:1])
            if len(self._waves) == 2:
                self.ask_for(LONG_PAUSE, command.account)
                self._told.set()
        assert self._told.wait(LONGEST_RUN), "one of the waves was not begun"

    def ask_for(self, seconds: int, account: str | None = None) -> None:
        """Answer the next FETCH, of this account or of any, with a request to be left alone for so long."""
        text = f"Request is throttled. Suggested Backoff Time: {seconds * 1000} milliseconds"
        self._server.behaviour.faults = [Fault("FETCH", Action.NO, account=account, text=text)]


def open_connections(server: ImapServer) -> int:
    """How many its clients have open: the server's own threads may be late to see that one has ended."""
    with server.lock:
        connections = [session._connection for session in server.sessions]
    states = []
    for connection in connections:
        with suppress(OSError):  # closed here, too
            states.append(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0])
    return states.count(ESTABLISHED)


@contextmanager
def in_two_processes(program: Program, **environment: str) -> Iterator[None]:
    """Both waves begin; what is done in the block is done meanwhile, and then they end."""
    running = [program.start("wave", "start", wave, "--json", **environment) for wave in "ab"]
    yield
    ended = [program.end(process) for process in running]
    assert [each.code for each in ended] == [0, 0], "\n".join(map(str, ended))


@contextmanager
def by_two_workers(program: Program, **environment: str) -> Iterator[None]:
    """The same, as scheduled runs of Prefect; each worker takes one of them."""
    deployed = program.run("deploy")
    assert deployed.code == 0, deployed
    names = ["day shift", "night shift"]
    environment["PREFECT_WORKER_QUERY_SECONDS"] = "1"  # so often it looks for runs
    workers = [program.start("worker", "--name", name, "--limit", "1", **environment) for name in names]
    at = now().isoformat(timespec="seconds")
    scheduling = [program.start("wave", "start", wave, "--at", at, "--json") for wave in "ab"]
    ids = [program.end(process).document["flow_run_id"] for process in scheduling]

    yield
    wait_until(lambda: not any(map(is_running, "ab")), "both waves to end", LONGEST_RUN)
    wait_until(lambda: all(program.flow_run(run_id)["end_time"] for run_id in ids), "both runs to end", LONGEST_RUN)
    assert [worker.poll() for worker in workers] == [None, None], "\n".join(map(program.said, workers))
    runs = [program.flow_run(run_id) for run_id in ids]
    assert [run["state_name"] for run in runs] == ["Completed", "Completed"]
    assert sorted(run["labels"]["prefect.worker.name"] for run in runs) == names
    program.close(*workers)


@pytest.fixture
def quiet() -> Iterator[ImapServer]:
    with ExitStack() as stack:
        yield stack.enter_context(ImapServer("quiet.example"))


@pytest.mark.parametrize(
    ("moving", "kind"), [(in_two_processes, "sqlite"), (by_two_workers, "postgresql")], ids=["processes", "workers"]
)
def test_a_server_that_asks_to_be_left_alone_hears_from_nobody_and_nobody_else_waits(
    program: Program,
    banjia: CommandLine,
    office: Office,
    quiet: ImapServer,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    moving: Callable[..., AbstractContextManager[None]],
    kind: str,
    request: pytest.FixtureRequest,
) -> None:
    """Two runs, 40 members at a server that stands ten connections, 20 at another."""
    if kind == "postgresql":
        postgres: Postgres = request.getfixturevalue("postgres")
        monkeypatch.setenv("BANJIA_DATABASE_URL", postgres.url(postgres.create_database()))
    for wave in "ab":
        rows = []
        for number in range(20):
            name = f"{wave}{number}"
            office.add(name, messages=2)
            rows.append(office.row(name))
        for number in range(10):
            name = f"quiet-{wave}{number}"
            inbox = quiet.add_account(f"{name}@old.example", old_password(name)).folder("INBOX")
            inbox.deliver(f"Subject: {name}\r\n\r\nHello\r\n".encode())
            office.new.add_account(f"{name}@new.example", new_password(name))
            rows.insert(number, office.row(name, SourcePort=str(quiet.port)))
        assert banjia("wave", "create", office.write_roster(tmp_path / f"{wave}.csv", *rows)).code == 0
    busy = f"127.0.0.1:{office.old.port}"
    assert banjia("host", "set", busy, "--connections", "10").code == 0
    # Until both runs have begun, which takes them as long as it takes.
    assert banjia("host", "pause", busy, "--minutes", "60").code == 0
    throttle = Throttle(office.old)
    office.old.behaviour.before_command = throttle.tell
    left_alone = threading.Event()

    def wait_until_the_busy_one_is_left_alone(command: Received) -> None:
        if command.verb.endswith("FETCH"):
            assert left_alone.wait(LONGEST_RUN), "the busy server was not left"

    quiet.behaviour.before_command = wait_until_the_busy_one_is_left_alone
    limits = {"BANJIA_MEMBERS_AT_ONCE": "16", "BANJIA_TARGET_CONNECTIONS": "64", "BANJIA_HOST_CONNECTIONS": "64"}
    with moving(program, **limits):
        wait_until(lambda: all(is_running(wave) for wave in "ab"), "both waves to begin", LONGEST_RUN)
        assert office.old.log == []
        assert banjia("host", "resume", busy).code == 0
        # What was under way when it asked for rest may still come in, until both runs have left.
        wait_until(lambda: is_left(busy) and not office.old.connections, "both runs to leave it", LONGEST_RUN)
        heard = len(office.old.log)
        left_alone.set()
        wait_until(lambda: states("quiet-") == {MemberState.SYNCED: 20}, "who is elsewhere to be through", LONGEST_RUN)
        assert office.old.log[heard:] == []
        assert not office.old.connections
        assert states("a") + states("b") != {MemberState.SYNCED: 40}, "or nobody was left to wait"
        throttle.ask_for(PAUSE)
        asked = now()
        assert banjia("host", "resume", busy).code == 0
        wait_until(lambda: paused_until(busy) is not None, "it to be heard again", LONGEST_RUN)
        over = paused_until(busy)
        assert over is not None
        assert over >= asked + timedelta(seconds=PAUSE)
        wait_until(lambda: (is_left(busy) and not office.old.connections) or now() > over, "both to leave it again")
        left = now()
    assert not [at for at in throttle.heard if left < at < over], "all of it is waited for"
    assert max(throttle.heard) >= over, "and it ends by itself"
    assert 0 < throttle.most_connections <= 10
    assert states() == {MemberState.SYNCED: 60}
    office.assert_moved(*(name for name in office.people))


def is_left(name: str) -> bool:
    """Whether a server has asked for rest, once, and neither run holds a slot of it any more: both know of it then."""
    [(host, claims)] = [each for each in hosts.all_hosts(store().engine) if each[0].name == name]
    resting = host.paused_until is not None and host.paused_until > now() and host.paused_by == "server"
    if not resting or any(claim.slots for claim in claims.values()):
        return False
    assert (host.cause, host.pauses) == ("throttled", 1)
    return True


def paused_until(name: str) -> datetime | None:
    [until] = [host.paused_until for host, _ in hosts.all_hosts(store().engine) if host.name == name]
    return until


def states(beginning: str = "") -> Counter[MemberState]:
    """The states of those whose names begin so."""
    with reading(store().engine) as session:
        query = select(Member.state).where(col(Member.email).startswith(beginning))
        return Counter(session.exec(query))


def is_running(wave: str) -> bool:
    return wave_progress(store().engine, wave).state == WaveState.RUNNING


def test_thirty_wrong_passwords_are_tried_once_however_often_the_wave_is_started(
    program: Program, banjia: CommandLine, office: Office, home: Path, tmp_path: Path
) -> None:
    """A server locks accounts by counting. Both sides count; a retry and a mended password are the admin's wish."""
    names = [f"m{number}" for number in range(30)]
    for name in names:
        office.add(name)
    rows = [office.row(name, Password="canary-wrong-one", TargetPassword="canary-wrong-two") for name in names]
    roster = office.write_roster(tmp_path / "members.csv", *rows)
    for number in range(2):
        moved = program.run("migrate", roster, "--json")
        assert moved.code == 3, moved
        assert ("left out" in moved.stderr) == bool(number), moved
        assert {m["state"] for m in moved.document["members"]} == {"needs_password"}
    checked = program.run("wave", "check", "members", "--json")
    assert checked.code == 3, checked
    for server in (office.old, office.new):
        tries = Counter(entry.account for verb in ("LOGIN", "AUTHENTICATE") for entry in server.commands(verb))
        assert set(tries) == {f"{name}@{server.name}" for name in names}
        assert set(tries.values()) == {1}, server.name

    mended = office.write_roster(tmp_path / "mended.csv", office.row("m0"))
    completed = program.run("migrate", mended, "--wave", "members", "--json")
    assert {m["email"]: m["state"] for m in completed.document["members"]}["m0@new.example"] == "synced"
    office.assert_moved("m0")
    assert sum(len(office.old.commands(verb)) for verb in ("LOGIN", "AUTHENTICATE")) == 31
    with reading(store().engine) as session:
        events = session.exec(select(Event).where(col(Event.who) == "host")).all()
    assert events == [], "wrong passwords are no event of the host"


def test_a_host_can_be_shown_set_paused_and_resumed(banjia: CommandLine, home: Path) -> None:
    assert "No mail server has been used" in banjia("host", "list").stdout
    assert banjia("host", "show", "nowhere").code == 2
    assert banjia("host", "set", "imap.old.example").code == 2
    assert banjia("host", "set", "IMAP.old.example", "--connections", "4", "--logins-a-minute", "10").code == 0
    [host] = json.loads(banjia("host", "show", "imap.old.example", "--json").stdout)["hosts"]
    assert host["connections"] == {"set": 4, "learned": None, "held": 0, "wanted": 0}
    assert (host["logins_a_minute"], host["paused_until"]) == (10, None)
    assert "left alone until" in banjia("host", "pause", "imap.old.example", "--minutes", "5").stdout
    assert "by the admin" in banjia("host", "list").stdout
    assert "left alone" not in banjia("host", "resume", "imap.old.example").stdout
    [host] = json.loads(banjia("host", "set", "imap.old.example", "--connections", "0", "--json").stdout)["hosts"]
    assert host["connections"]["set"] is None
