"""Where a process spends processor time: cProfile over every thread, in processor seconds, so that waiting is free."""

import cProfile
import pstats
import sys
import sysconfig
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

LINES = 20
_ROOT = str(Path(__file__).parents[1])
_LIBRARIES = tuple(sysconfig.get_paths()[name] for name in ("purelib", "platlib", "stdlib"))

Function = tuple[str, int, str]
Spent = tuple[int, float, float]
"""Calls; processor seconds in the function itself; processor seconds with all that it called."""


@contextmanager
def profiled(out: TextIO = sys.stderr) -> Iterator[None]:
    """Profile the body and the threads that it starts, and print which files and functions cost processor time.

    The profiler itself costs: read shares, not seconds.
    """
    found: list[cProfile.Profile] = []

    def begin(*_: object) -> None:
        # From 3.12 on one profiler serves the whole process, and a second one is refused.
        profile = cProfile.Profile(time.thread_time)
        try:
            profile.enable()
        except ValueError:
            return
        found.append(profile)

    threading.setprofile(begin)
    begin()
    try:
        yield
    finally:
        threading.setprofile(None)
        out.write(hotspots(_functions(found)))


def hotspots(functions: dict[Function, Spent], lines: int = LINES) -> str:
    """Write three lists: files by their own time, functions by their own time, our functions with what they called."""
    total = sum(own for _, own, _ in functions.values()) or 1.0
    files: defaultdict[str, float] = defaultdict(float)
    for (file, _, _), (_, own, _) in functions.items():
        files[_short(file)] += own
    by_file = sorted(files.items(), key=lambda item: -item[1])
    text = [f"\n{total:.2f} s of processor time in Python's functions\n", "\nseconds      %  file\n"]
    text += [f"{own:7.3f} {own / total:6.1%}  {file}\n" for file, own in by_file[:lines]]
    text.append("\nseconds      %     calls  function\n")
    by_own = sorted(functions.items(), key=lambda item: -item[1][1])
    text += [_line(function, spent[1], spent[0], total) for function, spent in by_own[:lines]]
    text.append("\nseconds      %     calls  our function, with all that it called\n")
    ours = sorted(
        (item for item in functions.items() if item[0][0].startswith(_ROOT) and not item[0][0].startswith(_LIBRARIES)),
        key=lambda item: -item[1][2],
    )
    text += [_line(function, spent[2], spent[0], total) for function, spent in ours[:lines]]
    return "".join(text)


def _functions(profiles: list[cProfile.Profile]) -> dict[Function, Spent]:
    if not profiles:
        return {}
    stats: Any = pstats.Stats(*profiles)  # its numbers are there, but the stubs do not say so
    return {function: (calls, own, cumulative) for function, (_, calls, own, cumulative, _) in stats.stats.items()}


def _line(function: Function, seconds: float, calls: int, total: float) -> str:
    file, number, name = function
    place = f"{_short(file)}:{number} {name}" if number else name
    return f"{seconds:7.3f} {seconds / total:6.1%} {calls:9,}  {place}\n"


def _short(file: str) -> str:
    """A path without the directories that everybody knows."""
    for directory in (*_LIBRARIES, _ROOT):
        if file.startswith(directory):
            return file.removeprefix(directory).lstrip("/")
    return "built in" if file == "~" else file
