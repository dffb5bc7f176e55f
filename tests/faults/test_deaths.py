"""A run may die at any step: few steps of every scenario here, all that matter with `make faults`.

In processes of their own, because a process with threads, such as that of the tests, must not be forked.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.scenarios import SCENARIOS

ROOT = Path(__file__).parents[2]
BROKEN = {
    "a run that does not look up what the one before had sent": "Delivery.recover = lambda self, bodies, scan: []",
    "a run that takes what was intended for arrived": """
from dataclasses import replace
def recover(self, source_bodies, scan):
    taken = [b for b in self.recorded if b.state == "intended"]
    uid = 1000
    for batch in taken:
        entries = [replace(e, target_uid=uid + e.source_uid) for e in batch.entries]
        self._ledger.advance([self.note(batch.id, entries, 0)])
    return []
Delivery.recover = recover
""",
}


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )


def test_every_scenario_ends_as_it_has_to_wherever_a_run_dies(tmp_path: Path) -> None:
    figures = tmp_path / "figures.json"
    ended = run("-m", "tests.faults", "--few", "--processes", "1", "--json", str(figures))
    assert ended.returncode == 0, ended.stdout + ended.stderr
    results = json.loads(figures.read_text())
    assert {result["scenario"] for result in results} == set(SCENARIOS)
    assert all(result["steps"] > 50 and result["deaths"] for result in results)


@pytest.mark.parametrize("fault", BROKEN)
def test_a_sweep_finds(fault: str) -> None:
    """Without the look-up there are doubles, or losses: the sweep has to complain."""
    code = f"""
from imapcopy.deliver import Delivery
{BROKEN[fault]}
from tests.faults.deaths import Sweeper
from tests.faults.scenarios import CHANGING
def at_appends(scenario, steps):
    return [n for n, step in enumerate(steps, 1) if step == "committed"][2:5]
with Sweeper() as sweeper:
    result = sweeper.sweep("first copy", "full", at_appends)
assert result.deaths == 3 and not result.is_right and result.complaints, result
"""
    ended = run("-c", code)
    assert ended.returncode == 0, ended.stdout + ended.stderr
