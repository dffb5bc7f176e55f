"""What is not loaded where nobody uses it: most of a small mailbox' memory is modules (docs/performance.md)."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.command_line import COLUMNS, write_roster

OPTIONAL = {
    "address books and tokens": ("lark_oapi", "msal", "google.auth", "requests", "dns"),
    "chats": ("apprise",),
    "PostgreSQL": ("psycopg", "sqlalchemy.dialects.postgresql"),
    "spreadsheets and odd encodings": ("pandas", "numpy", "python_calamine", "charset_normalizer"),
    "Prefect's server": ("prefect.server", "uvicorn"),
    "migrations of the database": ("alembic", "mako"),
}
"""What a roster in UTF-8 with hosts and passwords needs none of, once there is a database."""

OF_OTHERS = ("prefect", "rich", "typer", "jinja2", "fastapi", "httpx", "cryptography", "reports", "tasks", "console")
"""What the copier needs none of besides."""

MIGRATE = """
import sys
from pathlib import Path
from console import cli, run

assert run.enrol(Path(sys.argv[1]), "first", None, as_json=True) == "first"
import flows.migrate_wave
"""
"""What `banjia migrate` loads before its flow begins."""


def loaded(program: str, *arguments: str | Path, **environment: str) -> set[str]:
    """The modules that a process has loaded when it has run a program."""
    told = subprocess.run(
        [sys.executable, "-c", program + "\nimport sys; print(*sorted(sys.modules))", *map(str, arguments)],
        env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **environment},
        check=True,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return set(told.stdout.splitlines()[-1].split())


def test_the_copier_loads_nothing_of_the_program_around_it() -> None:
    names = loaded("import imapcopy.copy_mailbox, imapcopy.verify, models.ledger")
    assert {"imapcopy.group_pass", "sqlmodel", "blake3"} <= names
    unwanted = {*OF_OTHERS, *(name for some in OPTIONAL.values() for name in some)}
    assert names & unwanted == set()


@pytest.fixture(scope="module")
def migrating(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    home = tmp_path_factory.mktemp("home")
    row = {
        "EmailAddress": "zhang@example.com",
        "UserName": "zhang@old.example.com",
        "Password": "secret",
        "SourceHost": "imap.old.example.com",
        "TargetHost": "imap.example.com",
        "TargetPassword": "secret",
    }
    roster = write_roster(home / "roster.csv", [{name: row.get(name, "") for name in COLUMNS}])
    environment = {"HOME": str(home), "BANJIA_HOME": str(home / "banjia")}
    loaded("from tasks.store import store; store()", **environment)
    return loaded(MIGRATE, roster, **environment)


@pytest.mark.parametrize("what", OPTIONAL)
def test_a_plain_roster_is_moved_without_loading(migrating: set[str], what: str) -> None:
    assert {"prefect.flows", "imapcopy.copy_mailbox", "cryptography.fernet"} <= migrating
    assert migrating & set(OPTIONAL[what]) == set()
