"""Daily limits: an account is left alone before its service locks it, and its mailbox still comes over, day by day."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from deployments.demo import imap_server
from deployments.demo.imap_server import CAPABILITIES
from deployments.demo.imap_session import Session
from imapcopy import distant, look_up
from imapcopy.account import Account, Server
from imapcopy.errors import ConnectionLost, LeftOff
from models.providers import use_providers
from models.states import MemberState
from models.traffic import traffic
from tasks.governor import Governor, dismiss_governors
from tasks.migrate_member import migrate_member
from tasks.traffic import Meter
from tests.models.counting import counted
from tests.tasks.governors import OLD, accounts
from tests.tasks.office import Enrolled, Office

LIMIT = 200_000
DAY = timedelta(days=1)
NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
TABLE = """
[corp]
title = {{ zh = "公司旧邮箱", en = "our old mail" }}
hosts = {hosts}
{limits}
"""


@dataclass
class Clock:
    at: datetime = NOON

    def __call__(self) -> datetime:
        return self.at


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    found = Clock()
    monkeypatch.setattr("tasks.traffic.now", found)
    return found


@pytest.fixture
def limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Give `old.example`, or what else is named, daily limits, in the admin's own table."""
    file = tmp_path / "own.toml"
    monkeypatch.setenv("BANJIA_PROVIDERS", str(file))

    def limit(host: str = "old.example", **each: int) -> None:
        rows = "\n".join(f"{name} = {octets}" for name, octets in each.items())
        table = TABLE.format(hosts=f'["{host}"]', limits=rows)
        file.write_text(table, encoding="utf-8")
        use_providers(table, file.name)

    yield limit
    use_providers("", "")


# One account


def meter(engine: Engine, read: int = LIMIT) -> Meter:
    return Meter(engine, "old.example", "Li@Old.Example", {"read": read}, "source")


def test_what_was_moved_is_known_to_the_next_one_and_all_runners_count_together(engine: Engine, clock: Clock) -> None:
    first, second = meter(engine), meter(engine)
    for each in (first, second):
        assert each.let_through("read", [50_000]) == 1
        each.count("read", 50_000)
    assert traffic(engine, "old.example", "li@old.example", clock.at)["read"] == {NOON: 100_000}
    third = meter(engine)
    assert third.let_through("read", [50_000, 30_000, 20_000]) == 2
    clock.at += timedelta(hours=25)
    assert meter(engine).let_through("read", [190_000]) == 1


def test_an_account_that_has_moved_as_much_as_it_may_is_left_alone_until_enough_is_a_day_old(
    engine: Engine, clock: Clock
) -> None:
    one = meter(engine)
    for octets in (100_000, 70_000):
        assert one.let_through("read", [octets]) == 1
        one.count("read", octets)
        clock.at += timedelta(hours=3)
    with pytest.raises(LeftOff) as caught:
        one.let_through("read", [30_000])
    assert (caught.value.cause_id, caught.value.side) == ("bandwidth_exceeded", "source")
    assert one.until == NOON + timedelta(hours=25)
    one.check()
    one.finish()
    other = meter(engine)
    assert (other.until, one.let_through("read", [1])) == (None, 1), "there is room for less"


def test_mail_that_is_asked_for_counts_before_it_comes_and_once(engine: Engine, clock: Clock) -> None:
    one = meter(engine)
    assert one.let_through("read", [60_000, 60_000]) == 2
    assert one.let_through("read", [60_000, 60_000]) == 1
    one.count("read", 180_000)
    assert one.let_through("read", [9_000]) == 1


def test_a_message_beyond_the_limit_of_a_day_has_a_day_of_its_own(engine: Engine, clock: Clock) -> None:
    one = meter(engine)
    one.count("read", 1_000)
    assert one.let_through("read", [500_000]) == 1
    one.count("read", 501_000)
    one.check()
    with pytest.raises(LeftOff):
        one.let_through("read", [10])
    one.finish()
    with pytest.raises(ConnectionLost):
        meter(engine).check()
    clock.at += timedelta(hours=23)
    other = meter(engine)
    assert other.until is not None
    clock.at = other.until
    assert meter(engine).let_through("read", [500_000]) == 1


def test_lists_and_scans_without_end_close_the_account_too(engine: Engine, clock: Clock) -> None:
    one = meter(engine)
    one.count("read", LIMIT * 97 // 100)
    one.check()
    one.count("read", LIMIT * 2 // 100)
    with pytest.raises(ConnectionLost):
        one.check()


def test_a_small_mailbox_writes_no_row_and_a_large_one_few(engine: Engine, clock: Clock) -> None:
    small, large = meter(engine, 64_000_000), meter(engine, 64_000_000)
    with counted(engine) as count:
        for _ in range(900):
            small.count("read", 1_000)
        small.finish()
    assert count.writing == 0
    with counted(engine) as count:
        for _ in range(10_000):
            large.count("read", 1_000)
        large.finish()
    assert count.writing <= 10
    assert traffic(engine, "old.example", "li@old.example", NOON)["read"] == {NOON: 10_000_000}


def test_an_account_without_a_limit_asks_nothing_of_the_database(
    governed: Callable[..., Governor], engine: Engine, limits: Callable[..., None]
) -> None:
    governor = governed()
    with governor.places(1, *accounts()):
        pass

    def visit() -> tuple[int, int]:
        with counted(engine) as count, governor.places(2, *accounts()) as (source, _):
            account = source.of(Account(OLD, "li"))
            account.admission.may_read([1 << 40])
            account.admission.read(1 << 40)
            account.admission.may_read([1])
            account.admission.check()
        return count.writing, count.statements

    assert visit() == (0, 0)
    limits(download_a_day=LIMIT)
    with pytest.raises(ConnectionLost):
        visit()


def test_a_member_at_an_alias_has_the_limits_of_its_service(
    governed: Callable[..., Governor], limits: Callable[..., None]
) -> None:
    limits(download_a_day=LIMIT)
    governor = governed()
    alias = Server("mail.company.example", 993, provider="corp")
    with governor.visit(Account(alias, "li"), "source") as admitted:
        assert admitted.admission.may_read([LIMIT // 2, LIMIT]) == 1


# Whole mailboxes


@dataclass
class Served:
    """What a server has given and taken, as it counts itself, by the moment."""

    given: list[tuple[datetime, int]] = field(default_factory=list)
    taken: list[tuple[datetime, int]] = field(default_factory=list)


class _File:
    """Counts what goes through a session's file."""

    def __init__(self, file: Any, moved: list[tuple[datetime, int]], clock: Clock) -> None:
        self._file, self._moved, self._clock = file, moved, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def write(self, octets: bytes) -> None:
        self._moved.append((self._clock.at, len(octets)))
        self._file.write(octets)

    def writelines(self, several: Iterable[bytes]) -> None:
        for octets in several:
            self.write(octets)

    def read(self, size: int) -> bytes:
        return self._counted(self._file.read(size))

    def readline(self, size: int) -> bytes:
        return self._counted(self._file.readline(size))

    def _counted(self, octets: bytes) -> bytes:
        self._moved.append((self._clock.at, len(octets)))
        return octets


@pytest.fixture
def served(office: Office, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> dict[str, Served]:
    """What the two servers have moved, by name."""
    found = {"old.example": Served(), "new.example": Served()}

    class Counting(Session):
        def __init__(self, server: Any, *rest: Any) -> None:
            super().__init__(server, *rest)
            count = found[server.name]
            self._in: Any = _File(self._in, count.taken, clock)
            self.out: Any = _File(self.out, count.given, clock)

    monkeypatch.setattr(imap_server, "Session", Counting)
    return found


def fill(office: Office, messages: int, octets: int) -> None:
    office.add("li", messages=0)
    inbox = office.old.account("li@old.example").folder("INBOX")
    for number in range(messages):
        head = f"Message-ID: <{number}@old.example>\r\nSubject: {number}\r\n\r\n".encode()
        body = (b"x" * 76 + b"\r\n") * (octets // 78)
        inbox.deliver(head + body, datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=number))


def moved_in_visits(office: Office, clock: Clock) -> int:
    """Move the member, whenever it may be gone on with, until it has arrived; how often that was."""
    enrolled = Enrolled(office, office.row("li", Provider="corp"))
    for visits in range(1, 100):
        member = enrolled.member("li")
        state = migrate_member.fn(member.id or 0, member.email)
        if state == MemberState.SYNCED:
            return visits
        assert state == MemberState.THROTTLED
        member = enrolled.member("li")
        assert member.cause == "bandwidth_exceeded"
        assert member.resume_at is not None
        assert member.resume_at > clock.at, "it gets on"
        assert enrolled.store.attempts[member.id or 0].tries == 0, "no try is counted"
        clock.at = member.resume_at
    raise AssertionError("it does not arrive")


def assert_spread(moved: list[tuple[datetime, int]]) -> None:
    """More than one day's limit has been moved, and in no 24 hours more than that."""
    assert sum(octets for _, octets in moved) > 3 * LIMIT
    for begin in {at for at, _ in moved}:
        assert sum(octets for at, octets in moved if begin <= at < begin + DAY) <= LIMIT


def test_a_mailbox_is_read_over_as_many_days_as_its_service_takes(
    office: Office, home: Path, clock: Clock, limits: Callable[..., None], served: dict[str, Served]
) -> None:
    limits(download_a_day=LIMIT)
    fill(office, messages=66, octets=10_000)
    assert moved_in_visits(office, clock) > 3
    office.assert_moved()
    assert clock.at > NOON + 3 * DAY
    assert_spread(served["old.example"].given)
    read_back = sum(octets for _, octets in served["new.example"].given)
    assert read_back < 2 * LIMIT, "each visit verifies what it has brought"


def test_a_mailbox_is_written_over_as_many_days_as_its_service_takes(
    office: Office,
    home: Path,
    clock: Clock,
    limits: Callable[..., None],
    served: dict[str, Served],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(look_up, "SETTLE_SECONDS", 0)
    limits("127.0.0.1", upload_a_day=LIMIT)
    office.new.behaviour.capabilities = CAPABILITIES - {"MULTIAPPEND"}
    fill(office, messages=66, octets=10_000)
    assert moved_in_visits(office, clock) > 3
    office.assert_moved()
    assert_spread(served["new.example"].taken)


def test_a_message_beyond_the_limit_of_a_day_arrives_too_held_in_memory_or_not(
    office: Office, home: Path, clock: Clock, limits: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(distant, "LARGE_BYTES", 300_000)
    limits(download_a_day=LIMIT)
    fill(office, messages=4, octets=10_000)
    inbox = office.old.account("li@old.example").folder("INBOX")
    for number, octets in enumerate((250_000, 400_000)):
        inbox.deliver(b"Message-ID: <large%d@old.example>\r\n\r\n" % number + b"x" * octets + b"\r\n", NOON)
    assert moved_in_visits(office, clock) == 3
    office.assert_moved()


def test_who_waits_for_tomorrow_costs_its_servers_nothing_and_others_go_on(
    office: Office, home: Path, clock: Clock, limits: Callable[..., None]
) -> None:
    limits(download_a_day=LIMIT)
    fill(office, messages=30, octets=10_000)
    office.add("wang")
    enrolled = Enrolled(office, *(office.row(name, Provider="corp") for name in ("li", "wang")))
    li, wang = enrolled.member("li"), enrolled.member("wang")
    assert migrate_member.fn(li.id or 0, li.email) == MemberState.THROTTLED
    until = enrolled.member("li").resume_at
    before = len(office.old.log), len(office.new.log)
    dismiss_governors()
    assert migrate_member.fn(li.id or 0, li.email) == MemberState.THROTTLED
    assert (len(office.old.log), len(office.new.log)) == before
    assert enrolled.member("li").resume_at == until, "also for the process after"
    assert migrate_member.fn(wang.id or 0, wang.email) == MemberState.SYNCED
