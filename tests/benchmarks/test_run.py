"""The benchmarks still fit the program: a small one of each kind runs to its end, and its numbers can be drawn."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.earlier import checked_out

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


@pytest.mark.dovecot
def test_another_commit_takes_turns_with_what_lies_here(tmp_path: Path) -> None:
    """What lies at HEAD without what is not committed: enough to see whose code has run."""
    numbers = tmp_path / "numbers.json"

    table = _benchmark(
        *("run", "--shape", "tiny", "--messages", "5", "--latency", "0", "--runs", "1", "--peers", ""),
        *("--against", "HEAD", "--json", numbers),
    )

    ours, earlier = json.loads(numbers.read_text())
    assert earlier["tool"].startswith("banjia@")
    assert earlier["first"][0]["messages"] == ours["first"][0]["messages"] == 5
    assert f"of the time of {earlier['tool']}" in table


def test_another_commit_is_unpacked_beside_ours_and_one_that_is_none_is_refused() -> None:
    with checked_out("HEAD") as (name, directory):
        command = [sys.executable, "-c", "import imapcopy, models; print(imapcopy.__file__); print(models.__file__)"]
        used = subprocess.run(command, cwd=directory, check=True, capture_output=True, text=True).stdout.split()

    assert name.startswith("banjia@")
    assert [Path(file).parents[1] for file in used] == [directory, directory]
    assert not directory.exists()
    with pytest.raises(SystemExit, match="git rev-parse"), checked_out("no-such-commit"):
        pass
