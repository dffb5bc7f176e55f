"""Runs tools over mailboxes on two filled servers, and checks on the target's disk what each pass has moved."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

from benchmarks.delay import Distance
from benchmarks.job import Job, Pass
from benchmarks.servers import LeanDovecot
from benchmarks.shapes import Seeded

OURS = "banjia"
MEMORY = Path("/dev/shm" if Path("/dev/shm").is_dir() else tempfile.gettempdir())  # noqa: S108


class Bench:
    """Two filled servers and what is left of the fresh target accounts."""

    def __init__(
        self,
        source: LeanDovecot,
        target: LeanDovecot,
        holds: Mapping[str, Seeded],
        fresh: Sequence[str],
        earlier: Mapping[str, Path] | None = None,
    ) -> None:
        self._source = source
        self._target = target
        self._holds = holds
        self._fresh = list(fresh)
        self._earlier = dict(earlier or {})
        """Where other commits of ours lie, by the names under which they run as tools."""
        self._distance: Distance | None = None

    @contextmanager
    def at_distance(self, milliseconds: float) -> Iterator[None]:
        """Keep the servers that far away; at 0 nothing stands between."""
        far = Distance(milliseconds, self._source.port, self._target.port) if milliseconds else nullcontext()
        with far as self._distance:
            yield

    def run(self, tool: str, passes: int, *, at_once: int = 0, profile: bool = False) -> list[Pass]:
        """Run a tool over all mailboxes, `at_once` at the same time (0: all), in a process of its own."""
        users = [self._fresh.pop() for _ in self._holds]
        from_port, to_port = self._distance.ports if self._distance else (self._source.port, self._target.port)
        with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
            pairs = list(zip(self._holds, users, strict=True))
            job = Job(tool, from_port, to_port, pairs, min(at_once or len(pairs), len(pairs)), scratch, profile)
            module = "benchmarks.engine" if tool == OURS or tool in self._earlier else "benchmarks.peers"
            # Python looks into its working directory first: another commit runs its own code in our environment.
            with subprocess.Popen(
                [sys.executable, "-m", module],
                cwd=self._earlier.get(tool),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            ) as process:
                try:
                    found = [
                        self._pass(process, line, users)
                        for line in [json.dumps(asdict(job)) + "\n\n"] + ["\n"] * (passes - 1)
                    ]
                except BaseException:
                    process.kill()
                    raise
        for user in users:
            self._target.forget_mail(user)
        return found

    def _pass(self, process: "subprocess.Popen[str]", line: str, users: list[str]) -> Pass:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("started with pipes")
        before = self._distance.wire() if self._distance else None
        process.stdin.write(line)
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise SystemExit(f"the tool ended without an answer: {process.args!r}")
        found = Pass(**json.loads(answer))
        self._check(found, users)
        return replace(found, wire=self._distance.wire() - before if self._distance and before else None)

    def _check(self, found: Pass, users: Sequence[str]) -> None:
        expected = {user: holds.messages for user, holds in zip(users, self._holds.values(), strict=True)}
        arrived = {user: self._target.message_count(user) for user in users}
        wrong = [f"{user}: {arrived[user]} of {expected[user]}" for user in users if arrived[user] != expected[user]]
        if wrong:
            raise SystemExit(f"{len(wrong)} of {len(users)} mailboxes are not complete: {', '.join(wrong[:5])}")
        if found.messages not in (0, sum(expected.values())):
            raise SystemExit(f"{sum(expected.values())} arrived, but the tool counted {found.messages}")
