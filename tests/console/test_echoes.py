"""Servers that quote what they were sent, in every form and at every stage: no file holds a password afterwards."""

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from deployments.demo.imap_server import Action, Fault
from tests.console.conftest import Program
from tests.servers.secrets_scan import find_secrets
from tests.tasks.office import Office
from tests.tasks.prefect_home import prefect_home

pytestmark = pytest.mark.prefect

AWKWARD = (
    'Canary "quoted" and \\back\\slashed\\',
    "Canary with  blanks inside it",
    "Canary-客户端专用密码-授权码",
    "Canary🔑🦊😀-emoji-密",
    "Canary'%41&amp;<z>;=+,`$HOME",
    "Canary-plain-and-long-enough",
)
SAID = (
    "LOGIN lin {0} is wrong",
    "BAD line: LOGIN lin {1}",
    "AUTHENTICATE PLAIN {2} refused",
    "half of it was {3}",
    "see https://example.com/login?password={4}",
    "log entry {5}",
    "in small letters {6}",
)


def echoes(user: str, password: str) -> list[str]:
    """What a server says that repeats a password: one answer a form."""
    line = base64.b64encode(f"\0{user}\0{password}".encode()).decode()
    forms = (
        password,
        '"' + password.replace("\\", "\\\\").replace('"', '\\"') + '"',
        line,
        line[len(line) // 2 :],
        quote(password, safe=""),
        json.dumps(password),
        line.lower(),
    )
    return [text.format(*forms) for text in SAID]


@pytest.fixture
def careless_umask() -> Iterator[None]:
    """One that closes no file to anybody, as some machines have."""
    before = os.umask(0)
    yield
    os.umask(before)


def assert_ours_alone(*folders: Path) -> None:
    """Nobody else can look into what was written, whatever the umask; Prefect writes below a folder that is closed."""
    written = [
        path for folder in folders for path in (folder, *folder.rglob("*")) if "prefect" not in path.parent.parts
    ]
    assert [str(path) for path in written if path.stat(follow_symlinks=False).st_mode & 0o077] == []
    assert len(written) > 20


@pytest.mark.usefixtures("careless_umask")
def test_no_file_holds_what_servers_repeated(
    office: Office, program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every form, at the sign-in and after it, on both sides, through a whole life of a wave."""
    rows, secrets = [], []
    for number in range(2 * len(SAID)):
        awkward = AWKWARD[number % len(AWKWARD)]
        name = f"p{number}"
        office.add(name, 1)
        # As octets, which the demo's servers take for Latin-1.
        said = echoes(name, awkward)[number // 2].encode().decode("latin-1")
        old, new = f"{name}@old.example", f"{name}@new.example"
        secrets.append(awkward)
        if number % 2:
            # Typed wrong: what was sent comes back in the refusal.
            rows.append(office.row(name, **{"TargetPassword" if number % 4 == 1 else "Password": awkward}))
            server, user = (office.new, new) if number % 4 == 1 else (office.old, old)
            server.behaviour.login_refusals = {
                **server.behaviour.login_refusals,
                user: f"[AUTHENTICATIONFAILED] {said}",
            }
        else:
            office.old.account(old).password = awkward
            rows.append(office.row(name, Password=awkward))
            action = Action.BYE if number % 4 else Action.NO
            times = 1 if action is Action.BYE else None
            verb = "FETCH" if number % 3 else "EXAMINE"
            office.old.behaviour.faults.append(Fault(verb, action, account=old, text=said, times=times))
        office.new.behaviour.says_with = {"SELECT": f"OK [ALERT] {said}"}
    roster = office.write_roster(tmp_path / "members.csv", *rows)
    # A closed folder is tried again in half an hour: what is said then is the same.
    monkeypatch.setenv("BANJIA_RETRY_DELAYS", "[0]")

    moved = program.run("migrate", roster, "--wave", "echoes", "--report", tmp_path / "reports", "--json")
    later = [
        program.run("wave", "check", "echoes"),
        program.run("verify", "echoes"),
        program.run("wave", "issues", "echoes"),
        program.run("member", "show", "echoes", "p0@new.example"),
        program.run("wave", "report", "echoes", "--report", tmp_path / "again"),
        program.run("wave", "sheet", "echoes", "--out", tmp_path / "sheets"),
    ]
    assert moved.code == 3, moved
    causes = [member["cause"] for member in moved.document["members"] if member["cause"]]
    assert len(causes) >= len(SAID), moved

    places = [program.home, prefect_home(), tmp_path / "output", tmp_path / "reports", tmp_path / "again"]
    hits = find_secrets({*secrets, *office.secrets}, places)
    assert not hits, "\n".join(f"{hit.needle!r} as {hit.form} in {hit.where}" for hit in hits[:20])
    assert_ours_alone(program.home, tmp_path / "reports", tmp_path / "again", tmp_path / "sheets")
    for ended in later:
        assert "Traceback" not in ended.stderr, ended
