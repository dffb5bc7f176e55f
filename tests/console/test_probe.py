"""`banjia probe`: the card, its page and its exit codes; the password is never an argument."""

import socket
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from deployments.demo.imap_server import Action, Behaviour, Fault
from models.probe import find_probe, note_probe
from tasks import probe as probing
from tasks.store import store
from tests.console.conftest import CommandLine, Ended
from tests.tasks.office import Enrolled, Office, new_password, old_password


@pytest.fixture
def wave(home: Path, office: Office) -> Enrolled:
    office.add("li")
    office.add("wang")
    return Enrolled(office)


def probe(office: Office, password: str, *more: str) -> Ended:
    """With a password from a pipe."""
    from console.cli import app

    address = ["--host", "127.0.0.1", "--port", str(office.new.port), "--security", "plain", "--user", "li@new.example"]
    result = CliRunner().invoke(app, ["probe", *address, *more], input=f"{password}\n")
    return Ended(result.exit_code, result.stdout, result.stderr)


def test_a_typed_in_mailbox_is_probed_and_the_card_kept(
    banjia: CommandLine, wave: Enrolled, office: Office, home: Path
) -> None:
    ended = probe(office, new_password("li"))
    assert ended.code == 0, ended
    for said in ("Signing in works with PLAIN.", "Nothing is left behind.", "● good", "Arrival date"):
        assert said in ended.stdout
    assert new_password("li") not in ended.stdout + ended.stderr
    shown = banjia("probe", "show", "127.0.0.1", "--json")
    assert (shown.code, shown.document["result"]["en"].split(";")[0]) == (0, "The move can begin")
    assert shown.document["card"][0]["banjia_does"]["zh-CN"]
    for name in ("127.0.0.1.html", "127.0.0.1.zh-CN.html", "127.0.0.1.en.html"):
        page = (home / "probes" / name).read_text()
        assert "<script" not in page
        assert "http" not in page.replace("http-equiv", "")
        assert new_password("li") not in page
    assert [folder.name for folder in office.new.account("li@new.example").folders] == ["INBOX"]


def test_the_password_may_come_from_the_environment(
    banjia: CommandLine, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.add("li")
    monkeypatch.setenv("BANJIA_PROBE_PASSWORD", new_password("li"))
    assert probe(office, "nothing that counts").code == 0


def test_a_members_new_mailbox_is_probed_with_its_stored_password(
    banjia: CommandLine, wave: Enrolled, office: Office
) -> None:
    ended = banjia("probe", "--wave", "first", "--member", "WANG@new.example", "--json")
    assert ended.code == 0, ended
    assert {entry.account for entry in office.new.commands("APPEND")} == {"wang@new.example"}
    assert banjia("probe", "--wave", "first", "--json").code == 0
    assert {entry.account for entry in office.new.commands("APPEND")} == {"wang@new.example", "li@new.example"}
    assert office.old.log == [], "a probe has no business there"
    nobody = banjia("probe", "--wave", "first", "--member", "nobody@new.example")
    assert (nobody.code, "nobody@new.example" in nobody.stderr) == (2, True)


def test_what_goes_wrong_is_said_with_its_cure(banjia: CommandLine, wave: Enrolled, office: Office) -> None:
    refused = probe(office, old_password("li"))
    assert refused.code == 3
    assert "Wrong user name or password" in refused.stderr
    assert old_password("li") not in refused.stderr
    with socket.socket() as nobody:  # to whom a port is given that no other server gets meanwhile
        nobody.bind(("127.0.0.1", 0))
        port = str(nobody.getsockname()[1])
        away = banjia("probe", "--host", "127.0.0.1", "--port", port, "--security", "plain", "--user", "li")
        assert (away.code, "Server cannot be reached" in away.stderr) == (5, True)
    assert banjia("probe").code == 2
    assert banjia("probe", "show", "nowhere.example").code == 2


def test_a_red_line_is_3_for_scripts(banjia: CommandLine, wave: Enrolled, office: Office) -> None:
    office.new.behaviour = Behaviour(ignore_append_date=True)
    ended = banjia("probe", "--wave", "first")
    assert ended.code == 3, ended
    assert "It is replaced by another one." in ended.stdout
    assert "● trouble" in ended.stdout


def test_what_was_found_is_gone_by_until_it_is_too_old(banjia: CommandLine, wave: Enrolled, office: Office) -> None:
    office.new.behaviour = Behaviour(stores_once=True)
    assert probing.known_of(store(), "127.0.0.1").one_of_equals is False
    assert banjia("probe", "--wave", "first").code == 0
    assert probing.known_of(store(), "127.0.0.1").one_of_equals is True
    found = find_probe(store().engine, "127.0.0.1")
    assert found is not None
    note_probe(store().engine, replace(found, at=found.at - timedelta(days=31)))
    probing.forget(store())
    assert probing.known_of(store(), "127.0.0.1").outdated
    shown = banjia("probe", "show", "127.0.0.1")
    assert "This probe is older than 30 days" in shown.stdout


def test_a_probe_that_ends_early_says_why_and_is_not_gone_by(
    banjia: CommandLine, wave: Enrolled, office: Office
) -> None:
    text = "[THROTTLED] Request is throttled. Suggested Backoff Time: 2000 milliseconds"
    office.new.behaviour.faults.append(Fault("APPEND", Action.NO, nth=4, text=text))
    ended = banjia("probe", "--wave", "first")
    assert ended.code == 3, ended
    assert "The probe ended early" in ended.stdout
    assert probing.known_of(store(), "127.0.0.1").outdated
