"""Has a roster's bytes made into cells by a process of its own, with bounds of memory and time.

A workbook is read by native code, which ends its process where memory does; encodings are guessed by trying them. What
a stranger's file does there ends there: the process that asked goes on, and its admin learns which bound it was.
"""

import json
import os
import resource
import signal
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from models.bilingual import Text
from models.roster_file import Record, RosterLimits, Sheet, TooLarge, read_sheet, refused_sheet
from models.roster_problems import RosterProblem, roster_problem

_WALL = 4
"""So many times its processor time may a reader take by the clock: machines have other work."""
_NO_MEMORY = 77
"""How the reader ends where Python is told that there is no more memory."""


def read_sheet_apart(data: bytes, name: str, limits: RosterLimits = RosterLimits()) -> Sheet:  # noqa: B008  (frozen)
    """`read_sheet` in a process of its own; a file that ends that process is a sheet with the problem."""
    if len(data) > limits.octets:
        return read_sheet(data, name, limits)
    asked = json.dumps({"name": name, "limits": asdict(limits)}).encode()
    # Isolated: neither the working directory nor PYTHON* variables say what is imported.
    reader = subprocess.Popen(
        [sys.executable, "-I", "-m", "models.roster_apart"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={"OPENBLAS_NUM_THREADS": "1"},
    )
    try:
        answer, _ = reader.communicate(asked + b"\n" + data, timeout=_WALL * limits.seconds)
    except subprocess.TimeoutExpired:
        return refused_sheet(TooLarge("too-much-time", most=_WALL * limits.seconds), name)
    finally:
        reader.kill()
        reader.communicate()
    if reader.returncode == 0:
        return _sheet(json.loads(answer))
    if reader.returncode == -signal.SIGXCPU:
        return refused_sheet(TooLarge("too-much-time", most=limits.seconds), name)
    if reader.returncode in (_NO_MEMORY, -signal.SIGABRT, -signal.SIGKILL):
        return refused_sheet(TooLarge("too-much-memory", most=limits.memory >> 20), name)
    return Sheet(problems=[roster_problem("unreadable-workbook", 1, name=name)])


def _sheet(told: dict[str, object]) -> Sheet:
    """A sheet out of JSON: cells are text there, whatever the reader has become."""
    header, records, damage = told["header"], told["records"], told["damage"]
    return Sheet(
        encoding=str(told["encoding"]),
        delimiter=str(told["delimiter"]),
        header=_record(header) if header else None,
        records=[_record(record) for record in _items(records)],
        total=_number(told["total"]),
        problems=[_problem(_items(problem)) for problem in _items(told["problems"])],
        damage={
            _number(line): {_number(index): str(code) for index, code in _items(codes)}
            for line, codes in _items(damage)
        },
    )


def _items(value: object) -> list[Any]:
    if not isinstance(value, list):
        raise TypeError("not a list")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int):
        raise TypeError("not a number")
    return value


def _record(value: object) -> Record:
    line, cells = _items(value)
    return Record(_number(line), tuple(str(cell) for cell in _items(cells)))


def _problem(values: list[object]) -> RosterProblem:
    line, column, value, zh, en, fix_zh, fix_en, code, wave = values
    texts = [str(text) for text in (zh, en, fix_zh, fix_en)]
    return RosterProblem(
        _number(line), str(column), str(value), Text(*texts[:2]), Text(*texts[2:]), str(code), str(wave)
    )


def _told(sheet: Sheet) -> dict[str, object]:
    return {
        "encoding": sheet.encoding,
        "delimiter": sheet.delimiter,
        "header": sheet.header,
        "records": sheet.records,
        "total": sheet.total,
        "problems": [
            (p.line, p.column, p.value, p.problem.zh, p.problem.en, p.fix.zh, p.fix.en, p.code, p.wave)
            for p in sheet.problems
        ],
        "damage": [(line, list(codes.items())) for line, codes in sheet.damage.items()],
    }


def _bounded(limits: RosterLimits) -> None:
    # What is mapped and may be written to: libraries alone are mapped to more than the limit.
    resource.setrlimit(resource.RLIMIT_DATA, (limits.memory, limits.memory))
    # The first signal of the two can be told from any other end.
    resource.setrlimit(resource.RLIMIT_CPU, (limits.seconds, limits.seconds + 5))
    # It holds passwords, and may end by a fault.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _serve() -> None:
    asked = json.loads(sys.stdin.buffer.readline())
    limits = RosterLimits(**asked["limits"])
    _bounded(limits)
    try:
        told = _told(read_sheet(sys.stdin.buffer.read(), asked["name"], limits))
        json.dump(told, sys.stdout)
    except MemoryError:
        # At once: what is half written must not be ended.
        os._exit(_NO_MEMORY)


if __name__ == "__main__":
    _serve()
