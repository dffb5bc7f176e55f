"""Secrets are typed or piped, never shown, never an argument."""

import json
from pathlib import Path

from typer.testing import CliRunner

from console.cli import app
from tasks.store import store
from tests.console.conftest import CommandLine
from tests.servers.secrets_scan import find_secrets

SECRET = "canary-admin, of all 7"


def test_a_secret_is_read_from_stdin_kept_listed_and_forgotten(banjia: CommandLine, home: Path) -> None:
    piped = CliRunner().invoke(app, ["vault", "set", "source", "--json"], input=f"{SECRET}\nnext line\n")
    assert (piped.exit_code, json.loads(piped.stdout)) == (0, {"stored": "source"})
    assert store().vault.get_standing("source") == SECRET
    assert banjia("vault", "list", "--json").document == {"secrets": ["source"]}
    assert banjia("vault", "rotate", "--json").document == {"rotated": 1}
    assert store().vault.get_standing("source") == SECRET
    assert find_secrets([SECRET], [home]) == []
    assert banjia("vault", "forget", "source").code == 0
    assert banjia("vault", "list", "--json").document == {"secrets": []}
    assert store().vault.get_standing("source") is None


def test_nothing_read_is_nothing_stored(banjia: CommandLine) -> None:
    empty = CliRunner().invoke(app, ["vault", "set", "source"], input="\n")
    assert empty.exit_code == 2
    assert "nothing is stored" in empty.output
    assert store().vault.standing() == []


def test_a_secret_that_is_not_there_is_named(banjia: CommandLine) -> None:
    ended = banjia("vault", "forget", "no-such")
    assert ended.code == 2
    assert "no-such" in ended.stderr
