"""Tries patterns on hostile texts in a process of its own, which ends when one takes too long.

A regular expression may take longer than the sun burns over a text that almost fits, and nothing stops it from within.
An admin's own file is tried when it is read; our own table by a test.
"""

import json
import re
import resource
import string
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

SECONDS = 2
"""Of processor time, for each pattern over all its texts: a good one takes a few milliseconds."""
LENGTH = 500
"""Characters of an answer that are looked at (`answers.LONGEST_ANSWER`)."""
_FLAGS = re.IGNORECASE | re.DOTALL


def runaway(patterns: Sequence[str]) -> int | None:
    """The place of the first pattern that runs away; None where all end in time."""
    trial = subprocess.run(
        [sys.executable, "-I", "-m", "imapcopy.pattern_trial"],
        input=json.dumps(list(patterns)).encode(),
        capture_output=True,
        check=False,
    )
    tried = len(trial.stdout.split())
    return None if tried == len(patterns) else tried


def hostile(pattern: str) -> Iterator[str]:
    """Texts of its own words and letters again and again, which end otherwise than it wants."""
    words = re.findall(r"\w+", pattern)
    letters = sorted({*string.ascii_lowercase[:3], *"0 .-(", *(character for word in words for character in word[:2])})
    for piece in (*words[:40], *(f"{word} " for word in words[:40]), " ".join(words) + " ", *letters, "a1 "):
        yield (piece * LENGTH)[: LENGTH - 1] + "\0"


def _try() -> None:
    patterns = json.loads(sys.stdin.buffer.read())
    for number, pattern in enumerate(patterns):
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time()) + SECONDS, resource.RLIM_INFINITY))
        compiled = re.compile(pattern, _FLAGS)
        for text in hostile(pattern):
            compiled.search(text)
        print(number, flush=True)


if __name__ == "__main__":
    _try()
