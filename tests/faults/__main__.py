"""The matrix of `make faults`: every scenario over every profile, with deaths at its steps.

    python -m tests.faults [--few | --whole] [--thin N] [--only TEXT] [--profile NAME] [--processes N] [--json FILE]

Exits with 1 when anything was lost, was there twice, or was otherwise not as it should be.
"""

import argparse
import json
import os
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict
from multiprocessing import Pipe
from pathlib import Path

from tests.faults.deaths import Result, Sweeper, Thin
from tests.faults.scenarios import PROFILES, SCENARIOS, Scenario, few, usual, whole

PROCESSES = 2


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults")
    extent = parser.add_mutually_exclusive_group()
    extent.add_argument("--few", action="store_true", help="two deaths for each scenario, each over one profile")
    extent.add_argument("--whole", action="store_true", help="a death at every step of everything, an hour")
    parser.add_argument("--thin", type=int, default=1, help="only every nth of those deaths")
    parser.add_argument("--only", default="", help="scenarios whose name contains this")
    parser.add_argument("--profile", choices=list(PROFILES))
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--json", type=Path, help="write the figures here")
    given = parser.parse_args()
    work = [
        (name, profile)
        for turn, name in enumerate(SCENARIOS)
        if given.only in name
        for number, profile in enumerate(PROFILES)
        if given.profile in (None, profile) and not (given.few and (turn + number) % len(PROFILES))
    ]
    chosen = few if given.few else whole if given.whole else usual

    def thin(scenario: Scenario, steps: Sequence[str]) -> Sequence[int]:
        deaths = chosen(scenario, steps)
        return deaths[len(scenario.name) % min(given.thin, len(deaths)) :: given.thin]

    begun = time.monotonic()
    results = run(work, thin, given.processes)
    seconds = time.monotonic() - begun
    print(table(results))
    print(f"\n{seconds:.0f} s")
    if given.json:
        given.json.parent.mkdir(parents=True, exist_ok=True)
        given.json.write_text(json.dumps([asdict(result) for result in results], indent=1, ensure_ascii=False))
    return 0 if all(result.is_right for result in results) else 1


def run(work: Sequence[tuple[str, str]], thin: Thin, processes: int) -> list[Result]:
    """Share the work among processes; each forks its own servers and its own copiers."""
    pipes = []
    for number in range(processes):
        receiving, sending = Pipe(duplex=False)
        if not os.fork():
            receiving.close()
            status = 1
            try:
                with Sweeper() as sweeper:
                    for name, profile in work[number::processes]:
                        begun = time.monotonic()
                        result = _swept(sweeper, name, profile, thin)
                        spent = time.monotonic() - begun
                        print(f"{'' if result.is_right else 'WRONG '}{name}, {profile}: {spent:.1f} s", file=sys.stderr)
                        sending.send(result)
                status = 0
            except BaseException:  # noqa: BLE001  (this process has nobody above it)
                traceback.print_exc()
            finally:
                os._exit(status)
        sending.close()
        pipes.append(receiving)
    found: dict[tuple[str, str], Result] = {}
    for receiving in pipes:
        try:
            while True:
                result = receiving.recv()
                found[result.scenario, result.profile] = result
        except EOFError:
            pass
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    return [found.get(key) or Result(*key, unexpected=1, complaints=["the sweep itself died"]) for key in work]


def _swept(sweeper: Sweeper, name: str, profile: str, thin: Thin) -> Result:
    try:
        return sweeper.sweep(name, profile, thin)
    except (AssertionError, TimeoutError) as error:
        return Result(name, profile, unexpected=1, complaints=[str(error)])


def table(results: Sequence[Result]) -> str:
    """The matrix as Markdown, and what was wrong."""
    head = ["scenario", "profile", "steps", "deaths", "losses", "doubles", "unexpected"]
    rows = [[r.scenario, r.profile, r.steps, r.deaths, r.losses, r.doubles, r.unexpected] for r in results]
    total = ["total", "", *(sum(int(row[column]) for row in rows) for column in range(2, 7))]
    lines = ["| " + " | ".join(map(str, row)) + " |" for row in [head, ["---"] * 7, *rows, total]]
    for result in results:
        lines += [f"\n{result.scenario}, {result.profile}: {complaint}" for complaint in result.complaints[:5]]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
