"""What is installed is what was locked, and what is known against it can be asked."""

import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]


def packages() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))["package"]
    return found


def test_every_locked_file_of_a_registry_has_its_hash() -> None:
    files = {
        (each["name"], file.get("url", "")): file.get("hash", "")
        for each in packages()
        if "registry" in each["source"]
        for file in (*each.get("wheels", ()), *([each["sdist"]] if "sdist" in each else ()))
    }
    assert len(files) > 500
    assert [file for file, digest in files.items() if not digest.startswith("sha256:") or len(digest) != 71] == []


def test_nothing_is_locked_but_this_project_and_files_of_the_registry() -> None:
    elsewhere = [each["name"] for each in packages() if each["source"] != {"registry": "https://pypi.org/simple"}]
    assert elsewhere == ["banjia"]
    assert [each["name"] for each in packages() if each["name"] != "banjia" and not each.get("wheels")] == []


@pytest.mark.parametrize(
    ("said", "code", "told"),
    [
        ("", 0, 0),
        ("Found 1 known vulnerability", 1, 1),
        ("error: Request failed after 3 retries\n  cause: dns error", 2, 75),
        ("error: HTTP status server error (503)", 2, 75),
        ("error: The lockfile at `uv.lock` needs to be updated", 2, 2),
    ],
)
def test_an_audit_tells_by_its_exit_code_whether_anything_was_audited(
    said: str, code: int, told: int, tmp_path: Path
) -> None:
    uv = tmp_path / "uv"
    uv.write_text(f"#!/bin/sh\ncat >&2 <<'END'\n{said}\nEND\nexit {code}\n")
    uv.chmod(0o700)
    ended = subprocess.run(
        [ROOT / ".ci" / "audit"],
        env={**os.environ, "UV": str(uv)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == told, ended.stderr
    assert said in ended.stderr
    assert ("NOTHING WAS AUDITED" in ended.stderr) == (told == 75)
