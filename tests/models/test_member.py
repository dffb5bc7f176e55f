"""The lease: one runner moves a member, and one that died or slept does not hold it for ever."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from models.columns import now
from models.database import writing
from models.member import (
    LeaseHeld,
    LeaseLost,
    Member,
    change_state,
    has_runner,
    release_lease,
    renew_lease,
    take_lease,
    this_runner,
)
from models.states import IllegalChange, MemberState
from tests.models.company import Company
from tests.servers.databases import full_url

ROOT = Path(__file__).parents[2]


@pytest.fixture
def member_id(company: Company) -> int:
    return company.add("a@new.example")


@pytest.fixture
def another(engine: Engine, member_id: int) -> Iterator[subprocess.Popen[str]]:
    """Another process, which holds the member's lease until it is ended."""
    code = (
        "import sys; from models.database import open_database; from models.member import take_lease;"
        f"print(take_lease(open_database({full_url(engine)!r}), {member_id}), flush=True); sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "1\n"
        yield process
        process.kill()


def test_a_lease_is_taken_and_given_back(engine: Engine, company: Company, member_id: int) -> None:
    token = take_lease(engine, member_id)
    member = company.member(member_id)
    assert (member.lease_owner, member.lease_token) == (this_runner(), token)
    assert has_runner(member)
    release_lease(engine, member_id, token)
    member = company.member(member_id)
    assert (member.lease_owner, member.lease_until) == ("", None)
    assert not has_runner(member)


def test_the_token_grows_with_every_taking(engine: Engine, member_id: int) -> None:
    tokens = []
    for _ in range(3):
        tokens.append(take_lease(engine, member_id))
        release_lease(engine, member_id, tokens[-1])
    assert tokens == [1, 2, 3]


def test_a_member_is_not_taken_from_a_process_that_lives(
    engine: Engine, company: Company, member_id: int, another: subprocess.Popen[str]
) -> None:
    with pytest.raises(LeaseHeld, match=f"/{another.pid}/"):
        take_lease(engine, member_id)
    assert company.member(member_id).lease_token == 1


def test_a_member_is_taken_over_at_once_from_a_process_that_was_killed(
    engine: Engine, member_id: int, another: subprocess.Popen[str]
) -> None:
    another.kill()
    another.wait()
    assert take_lease(engine, member_id) == 2


def test_a_killed_process_that_nobody_has_reaped_is_dead_too(
    engine: Engine, member_id: int, another: subprocess.Popen[str]
) -> None:
    another.kill()
    assert another.stdout is not None
    assert another.stdout.read() == ""  # its end, before it is waited for
    stat = Path(f"/proc/{another.pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "Z":
        pass
    assert take_lease(engine, member_id) == 2


def test_within_one_process_a_lease_is_taken_once(engine: Engine, member_id: int) -> None:
    take_lease(engine, member_id)
    with pytest.raises(LeaseHeld):
        take_lease(engine, member_id)


@pytest.mark.parametrize(
    ("owner", "free"),
    [
        ("another-machine/boot/1/1", False),
        ("another-machine", False),
        ("{host}/an-earlier-boot/1/1", True),
        ("{host}/{boot}/{pid}/1", True),  # the number of a process that has gone, used again
        ("{host}/{boot}/{pid}/{started}", False),
        ("{host}/{boot}/no-number/1", False),
    ],
)
def test_only_what_is_known_to_be_dead_is_taken_for_dead(
    engine: Engine, member_id: int, owner: str, free: bool
) -> None:
    host, boot, pid, started = this_runner().split("/")
    take_lease(engine, member_id, owner.format(host=host, boot=boot, pid=pid, started=started))
    if free:
        assert take_lease(engine, member_id) == 2
    else:
        with pytest.raises(LeaseHeld):
            take_lease(engine, member_id)


def test_after_its_time_a_lease_is_free_whoever_holds_it(engine: Engine, company: Company, member_id: int) -> None:
    old = take_lease(engine, member_id, "another-machine/boot/1/1")
    company.expire_lease(member_id)
    new = take_lease(engine, member_id)
    assert new == old + 1
    with pytest.raises(LeaseLost), writing(engine) as session:
        renew_lease(session, member_id, old)


def test_a_runner_of_this_machine_keeps_its_member_whatever_the_clock_says_unless_it_is_stopped(
    engine: Engine, company: Company, member_id: int, another: subprocess.Popen[str]
) -> None:
    """A clock that was set makes the lease of a runner look old that renews it all the time."""
    with writing(engine) as session:
        member = session.get_one(Member, member_id)
        member.lease_until = now() - timedelta(days=1)
        session.add(member)
    with pytest.raises(LeaseHeld):
        take_lease(engine, member_id)
    another.send_signal(signal.SIGSTOP)
    stat = Path(f"/proc/{another.pid}/stat")
    while stat.read_text().rpartition(")")[2].split()[0] != "T":
        pass
    assert take_lease(engine, member_id) == 2


def test_giving_back_a_lost_lease_leaves_the_new_runner_alone(engine: Engine, company: Company, member_id: int) -> None:
    old = take_lease(engine, member_id, "another-machine/boot/1/1")
    company.expire_lease(member_id)
    new = take_lease(engine, member_id)
    release_lease(engine, member_id, old)
    assert company.member(member_id).lease_owner == this_runner()
    with writing(engine) as session:
        renew_lease(session, member_id, new)


def test_a_change_of_state_is_written_into_the_timeline(engine: Engine, company: Company, member_id: int) -> None:
    with writing(engine) as session:
        change_state(session, session.get_one(Member, member_id), MemberState.SYNCING, who="runner", why="because")
    assert company.member(member_id).state == MemberState.SYNCING
    assert company.events(member_id) == ["queued > syncing"]
    with writing(engine) as session:
        change_state(session, session.get_one(Member, member_id), MemberState.SYNCING, who="runner")
    assert company.events(member_id) == ["queued > syncing"]


def test_a_refused_change_changes_and_writes_nothing(engine: Engine, company: Company) -> None:
    member_id = company.add("done@new.example", MemberState.COMPLETED)
    with pytest.raises(IllegalChange, match="completed to syncing"), writing(engine) as session:
        change_state(session, session.get_one(Member, member_id), MemberState.SYNCING)
    assert company.member(member_id).state == MemberState.COMPLETED
    assert company.events(member_id) == []
