"""What a command and a server's session cost is read from the kernel, with their children."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.processes import run_command, session_cpu_seconds, session_peak_bytes

BUSY = "import time\nwhile time.process_time() < 0.2: pass\n"
KEPT = "kept = b'x' * 50_000_000\n"


def test_a_command_is_measured_from_start_to_end(tmp_path: Path) -> None:
    ended = run_command([sys.executable, "-c", BUSY + "print('done')"], os.environ, tmp_path)

    assert ended.stdout == "done\n"
    assert ended.cpu_seconds >= 0.2
    assert ended.began < ended.ended


def test_a_command_that_fails_ends_the_benchmark_with_its_words(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="no such wave"):
        run_command([sys.executable, "-c", "raise SystemExit('no such wave')"], os.environ, tmp_path)


def test_a_session_is_its_leader_and_its_children() -> None:
    child = [sys.executable, "-c", BUSY + KEPT + "print(flush=True)\ninput()"]
    leader = f"import subprocess\nsubprocess.run({child!r})"
    with subprocess.Popen(
        [sys.executable, "-c", leader],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert process.stdout
        process.stdout.readline()
        spent, peak = session_cpu_seconds(process.pid), session_peak_bytes(process.pid)
        process.communicate(b"\n")

    assert spent >= 0.19  # the kernel counts ticks of a hundredth
    assert peak > 50_000_000
