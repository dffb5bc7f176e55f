"""Imports only go down the house, and one door leads to IMAP."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("console", "flows", "tasks", "imapcopy", "reports", "models")


@pytest.fixture
def house(tmp_path: Path) -> Path:
    """A copy of the tree, to break something in."""
    for name in PACKAGES:
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def lint(tree: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()", "--no-cache"],
        cwd=tree,
        env={"PYTHONPATH": str(tree), "PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_tree_keeps_its_contracts(house: Path) -> None:
    result = lint(house)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "3 kept, 0 broken" in result.stdout


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("imapcopy/plan.py", "import prefect", "Below the tasks nothing knows Prefect"),
        ("models/states.py", "from imapcopy import plan", "Imports only go down the house"),
        ("reports/summary.py", "import imapcopy.plan", "Imports only go down the house"),
        ("reports/summary.py", "import imapclient", "One door to IMAP"),
    ],
)
def test_a_breach_is_named_by_its_contract(house: Path, file: str, line: str, contract: str) -> None:
    with (house / file).open("a") as source:
        source.write(f"\n{line}\n")
    result = lint(house)
    assert result.returncode == 1, result.stdout + result.stderr
    assert f"{contract} BROKEN" in result.stdout


def test_only_the_sign_in_imports_imapclient() -> None:
    importers = set()
    for file in (file for name in PACKAGES for file in (ROOT / name).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.split(".")[0] == "imapclient" for name in names):
                importers.add(str(file.relative_to(ROOT)))
    assert importers == {"imapcopy/sign_in.py"}
