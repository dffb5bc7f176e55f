"""`banjia demo`: the story ends as planned, and nothing of it runs on when it is asked to end."""

import signal
from pathlib import Path

import pytest

from tasks.prefect_server import running_server
from tests.console.conftest import Program
from tests.servers.dovecot import wait_until

pytestmark = pytest.mark.prefect


def test_a_demo_that_is_kept_and_asked_to_end_leaves_no_prefect_server(program: Program) -> None:
    demo = program.start("demo", "--keep", "--json")
    wait_until(lambda: "Ctrl-C" in program.said(demo) or demo.poll() is not None, "demo", deadline=300)
    assert demo.poll() is None, program.end(demo)
    [home] = {line.partition("BANJIA_HOME=")[2] for line in program.said(demo).splitlines() if "BANJIA_HOME=" in line}
    server = running_server(Path(home))
    assert server is not None
    demo.send_signal(signal.SIGTERM)
    ended = program.end(demo)
    assert ended.code == 0, ended
    assert not lives(server.pid)
    acts = ended.document["acts"]
    assert [sum(bool(member["cause"]) for member in acts[act]["members"]) for act in acts] == [3, 0, 0]


def lives(pid: int) -> bool:
    """Whether a process still runs (proc(5)); one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
