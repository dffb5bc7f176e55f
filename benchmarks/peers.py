"""The tools that the engine is compared with.

`mbsync` (Debian: isync) keeps its pipe full and remembers what it has done; `naive` is what a short script with imaplib
does: one FETCH, one APPEND, and wait for each.
"""

import imaplib
import re
import resource
import shutil
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from benchmarks.job import HOST, PASSWORD, Job, Pass, answer, peak_bytes, read_job, stopwatch

MBSYNC_MISSING = "mbsync is not installed. Debian: apt-get install --no-install-recommends isync"

_CONFIGURATION = """\
IMAPStore source
Host {host}
Port {source_port}
User {source}
Pass {password}
SSLType None
AuthMechs LOGIN

IMAPStore target
Host {host}
Port {target_port}
User {target}
Pass {password}
SSLType None
AuthMechs LOGIN

Channel mailbox
Far :source:
Near :target:
Patterns *
Create Near
Sync Pull
CopyArrivalDate yes
SyncState {state}/
"""


class Mbsync:
    """One mbsync for each mailbox, with the tool's own defaults. Its memory is that of the largest process."""

    def __init__(self, job: Job) -> None:
        path = shutil.which("mbsync")
        if path is None:
            raise SystemExit(MBSYNC_MISSING)
        self._commands = []
        for number, (source, target) in enumerate(job.pairs):
            home = Path(job.scratch) / str(number)
            state = home / "state"
            state.mkdir(parents=True)
            configuration = home / "mbsyncrc"
            configuration.write_text(
                _CONFIGURATION.format(
                    host=HOST,
                    password=PASSWORD,
                    source=source,
                    target=target,
                    source_port=job.source_port,
                    target_port=job.target_port,
                    state=state,
                )
            )
            self._commands.append([path, "-q", "-c", str(configuration), "-a"])
        self._at_once = job.at_once

    def run_pass(self) -> Pass:
        with stopwatch(resource.RUSAGE_CHILDREN) as spent, ThreadPoolExecutor(self._at_once) as threads:
            ended = list(threads.map(_run, self._commands))
        if any(process.returncode for process in ended):
            raise SystemExit(f"mbsync failed: {''.join(process.stderr for process in ended)}")
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
        return Pass(*spent(), peak)


def _run(command: list[str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)


class Naive:
    """imaplib, one message at a time; remembers nothing, so it has no second pass."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def run_pass(self) -> Pass:
        with stopwatch() as spent, ThreadPoolExecutor(self._job.at_once) as threads:
            moved = sum(threads.map(self._copy, *zip(*self._job.pairs, strict=True)))
        return Pass(*spent(), peak_bytes(), moved)

    def _copy(self, source_user: str, target_user: str) -> int:
        source, target = imaplib.IMAP4(HOST, self._job.source_port), imaplib.IMAP4(HOST, self._job.target_port)
        source.login(source_user, PASSWORD)
        target.login(target_user, PASSWORD)
        moved = 0
        for line in source.list()[1]:
            if not isinstance(line, bytes):
                continue
            name = line.rpartition(b'"/" ')[2].decode()
            if name.strip('"').upper() != "INBOX":
                target.create(name)
            source.select(name, readonly=True)
            for uid in source.uid("search", "ALL")[1][0].split():
                answers = source.uid("fetch", uid.decode(), "(FLAGS INTERNALDATE BODY.PEEK[])")[1]
                head, raw = next(part for part in answers if isinstance(part, tuple))
                flags = re.search(rb"FLAGS \(([^)]*)\)", head)
                kept = b" ".join(flag for flag in flags[1].split() if flag != rb"\Recent") if flags else b""
                date = re.search(rb'INTERNALDATE ("[^"]*")', head)
                status, answer_text = target.append(name, kept.decode(), date[1].decode() if date else "", raw)
                if status != "OK":
                    raise SystemExit(f"APPEND: {answer_text!r}")
                moved += 1
        source.logout()
        target.logout()
        return moved


PEERS: dict[str, Callable[[Job], Mbsync | Naive]] = {"mbsync": Mbsync, "naive": Naive}

if __name__ == "__main__":
    job = read_job()
    answer(PEERS[job.tool](job).run_pass)
