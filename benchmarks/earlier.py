"""Another commit of the program in a temporary directory, to be measured in turn with what lies here.

It runs by its own `benchmarks.engine`, with this interpreter and the libraries that are installed for us. So it goes
as far back as that module reads the same job (`job.Job`) and its code runs with these libraries.
"""

import io
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.bench import OURS

_ROOT = Path(__file__).parents[1]
_CODE = ("benchmarks", "imapcopy", "models", "tests/servers")
"""What the engine's benchmark imports."""


@contextmanager
def checked_out(commit: str) -> Iterator[tuple[str, Path]]:
    """The name under which a commit runs as a tool (`banjia@49f3cc7`), and where its code lies; SystemExit for none."""
    found = _git("rev-parse", "--short", "--verify", "--end-of-options", commit + "^{commit}").decode().strip()
    # Unpacked and not a work tree of git's, which would stay on record after a kill.
    packed = _git("archive", found, "--", *_CODE)
    with tempfile.TemporaryDirectory(prefix="bench-earlier-") as directory:
        with tarfile.open(fileobj=io.BytesIO(packed)) as files:
            files.extractall(directory, filter="data")
        yield f"{OURS}@{found}", Path(directory)


def _git(*arguments: str) -> bytes:
    found = subprocess.run([shutil.which("git") or "git", *arguments], cwd=_ROOT, capture_output=True, check=False)
    if found.returncode:
        raise SystemExit(f"git {arguments[0]}: {found.stderr.decode(errors='replace').strip()}")
    return found.stdout
