"""`banjia demo`: the story ends as planned, and nothing of it runs on when it is asked to end."""

import json
import signal
import sys
import threading
from pathlib import Path

import pytest

from console import demo as story
from tests.console.conftest import LONGEST_RUN, Program
from tests.servers.dovecot import wait_until


@pytest.mark.prefect
def test_a_demo_that_is_kept_and_asked_to_end_leaves_no_prefect_server(program: Program) -> None:
    demo = program.start("demo", "--keep", "--json")
    wait_until(lambda: "Ctrl-C" in program.said(demo) or demo.poll() is not None, "demo", LONGEST_RUN)
    assert demo.poll() is None, program.end(demo)
    [home] = {line.partition("BANJIA_HOME=")[2] for line in program.said(demo).splitlines() if "BANJIA_HOME=" in line}
    server = json.loads((Path(home) / "prefect" / "server.json").read_text())["pid"]
    assert lives(server)
    demo.send_signal(signal.SIGTERM)
    ended = program.end(demo)
    assert ended.code == 0, ended
    assert not lives(server)
    acts = ended.document["acts"]
    assert [sum(bool(member["cause"]) for member in acts[act]["members"]) for act in acts] == [3, 0, 0]


def test_a_kept_demo_also_ends_when_another_thread_is_given_the_signal() -> None:
    """Which wakes nobody who waits without end in the main thread, where Python's handlers run."""
    main = threading.get_ident()

    def waits() -> bool:
        frame = sys._current_frames()[main]
        while frame.f_back and frame.f_code is not story._stay.__code__:
            frame = frame.f_back
        return frame.f_code is story._stay.__code__

    def give_it_to_this_thread() -> None:
        wait_until(waits, "the main thread to wait")
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    other = threading.Thread(target=give_it_to_this_thread)
    try:
        other.start()
        with pytest.raises(KeyboardInterrupt):
            story._stay()
        other.join()
    finally:
        signal.signal(signal.SIGTERM, before)


def lives(pid: int) -> bool:
    """Whether a process still runs (proc(5)); one that nobody has waited for yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
