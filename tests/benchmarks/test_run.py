"""The benchmarks still fit the program: a small one of each kind runs to its end, and its numbers can be drawn."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def _benchmark(module: str, *arguments: str | Path) -> str:
    command = [sys.executable, "-m", f"benchmarks.{module}", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=300).stdout


@pytest.mark.dovecot
def test_the_engine_is_measured_and_drawn(tmp_path: Path) -> None:
    first, growth = tmp_path / "first.json", tmp_path / "growth.json"

    table = _benchmark(
        *("run", "--shape", "tiny", "--messages", "20", "--mailboxes", "2", "--latency", "1", "--cap", "8"),
        *("--runs", "1", "--peers", "", "--json", first),
    )
    _benchmark("growth", "--messages", "5", "--mailboxes", "", "--json", growth)
    _benchmark("chart", first, growth, "--out", tmp_path)

    assert "tiny: 2 x 20 messages" in table
    assert "at most 8 connections an account" in table
    (outcome,) = json.loads(first.read_text())
    first_pass, second_pass = (outcome[name][0]["wire"] for name in ("first", "second"))
    assert first_pass["target"]["up"] > second_pass["target"]["up"] > 0
    assert first_pass["in_a_row"] > 0  # how many depends on how the two mailboxes overlap
    assert second_pass["in_a_row"] > 0
    (point,) = json.loads(growth.read_text())
    assert (point["unit"], point["size"], point["messages"]) == ("message", 5, 5)
    assert (tmp_path / "first_pass.svg").exists()
    assert (tmp_path / "growth.svg").exists()
