"""A process that holds passwords leaves no picture of its memory."""

import subprocess
import sys
from pathlib import Path


def test_a_process_that_opened_the_store_dumps_no_core(tmp_path: Path) -> None:
    """A process of its own, because what it does to itself cannot be taken back."""
    program = (
        "import ctypes, resource\nfrom tasks.store import store\nstore()\n"
        "print(resource.getrlimit(resource.RLIMIT_CORE), ctypes.CDLL(None).prctl(3, 0, 0, 0, 0))\n"
    )
    environment = {"BANJIA_HOME": str(tmp_path / "home"), "PATH": "/usr/bin", "LANG": "C.UTF-8"}
    ended = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert ended.stdout.strip() == "(0, 0) 0"
