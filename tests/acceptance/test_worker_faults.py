"""A scheduled wave whose worker or whose Prefect server is killed (`kill -9`) in the middle, and started again."""

import json
import os
import signal
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from tests.acceptance.command_line import LONGEST_RUN, Banjia, Started
from tests.acceptance.ledger_file import LedgerFile
from tests.acceptance.office import Office
from tests.servers.dovecot import wait_until

pytestmark = [pytest.mark.dovecot, pytest.mark.prefect, pytest.mark.thorough]


def schedule(banjia: Banjia) -> None:
    at = (datetime.now(UTC) + timedelta(seconds=3)).isoformat(timespec="seconds")
    scheduled = banjia.start(["wave", "start", "night", "--at", at, "--json"]).wait()
    assert scheduled.result["state"] == "scheduled", scheduled


def kill_server(banjia: Banjia) -> None:
    server = json.loads((banjia.home / "prefect" / "server.json").read_text())
    os.killpg(server["pid"], signal.SIGKILL)


def start_server(banjia: Banjia) -> None:
    started = banjia.start(["prefect", "start"]).wait()
    assert started.code == 0, started


def all_moved(banjia: Banjia) -> bool:
    return set(LedgerFile(banjia.home).states.values()) == {"synced"}


def wait_until_moved(banjia: Banjia) -> None:
    wait_until(lambda: all_moved(banjia), "the wave to be moved", LONGEST_RUN)


@pytest.fixture
def in_the_middle(office: Office, banjia: Banjia) -> Callable[[], Started]:
    """Schedule the wave and wait until its worker is in the middle of it."""

    def begin() -> Started:
        create = ["wave", "create", str(office.roster), "--wave", "night", "--report", str(banjia.reports)]
        assert banjia.start(create).wait().code == 0
        deployed = banjia.start(["deploy"]).wait()
        assert deployed.code == 0, deployed
        worker = banjia.start(["worker"])
        schedule(banjia)
        office.wait_for_mail(worker)
        return worker

    return begin


@pytest.mark.parametrize("first", ["worker", "server"])
def test_when_worker_and_server_were_killed_the_wave_is_completed_in_whatever_order_they_return(
    office: Office, banjia: Banjia, in_the_middle: Callable[[], Started], first: str
) -> None:
    worker = in_the_middle()
    worker.kill(everything=True)
    kill_server(banjia)
    banjia.kill_everything()
    office.line.hurry()
    if first == "server":
        start_server(banjia)
    worker = banjia.start(["worker"])
    try:
        schedule(banjia)
        wait_until_moved(banjia)
        office.assert_moved(banjia)
    finally:
        worker.kill(everything=True)


def test_a_server_that_was_killed_and_returns_does_not_end_the_wave(
    office: Office, banjia: Banjia, in_the_middle: Callable[[], Started]
) -> None:
    worker = in_the_middle()
    kill_server(banjia)
    try:
        start_server(banjia)
        office.line.hurry()
        wait_until_moved(banjia)
        office.assert_moved(banjia)
    finally:
        worker.kill(everything=True)
