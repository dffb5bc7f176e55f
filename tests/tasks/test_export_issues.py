"""Messages that were not moved, saved from the old mailbox: whole or not at all, and nothing written there."""

import stat
from pathlib import Path

import pytest

from deployments.demo.imap_server import Action, Fault
from models.issues import issues_of
from tasks.export_issues import Exported, export_issues
from tasks.migrate_member import migrate_member
from tests.tasks.office import Enrolled, Office, written

HOSTILE = "../=cmd|' /C calc'!A0"


@pytest.fixture
def refused(office: Office, home: Path) -> Enrolled:
    """Li with three messages in INBOX, of which two are refused, and two in a folder with a hostile name."""
    office.add("li")
    account = office.old.account("li@old.example")
    account.folder("INBOX").deliver(b"Subject: empty inside\r\n\r\na\0b\r\n")
    hostile = account.create(HOSTILE)
    for raw in (b"Subject: nul\0\r\n\r\nx\r\n", b""):
        hostile.deliver(raw)
    office.new.behaviour.refuse_message = lambda raw: "Message contains NUL characters" if b"\0" in raw else None
    enrolled = Enrolled(office)
    member = enrolled.member("li")
    migrate_member.fn(member.id or 0, member.email)
    return enrolled


def export(refused: Enrolled, directory: Path) -> list[Exported]:
    engine = refused.store.engine
    return list(export_issues(refused.store, issues_of(engine, "first"), directory))


def outcomes(refused: Enrolled, directory: Path) -> list[str]:
    """By folder and UID."""
    found = export(refused, directory)
    return [each.outcome for each in sorted(found, key=lambda each: (each.issue.folder, each.issue.uid))]


def test_each_message_is_saved_byte_for_byte_and_only_once(refused: Enrolled, tmp_path: Path) -> None:
    found = export(refused, tmp_path / "out")
    assert [each.outcome for each in found] == ["saved"] * 3
    account = refused.office.old.account("li@old.example")
    for each in found:
        message = account.folder(each.issue.folder).get(each.issue.uid)
        file = tmp_path / "out" / each.file
        assert message
        assert file.read_bytes() == message.raw
        assert file.resolve().is_relative_to(tmp_path / "out"), "whatever a folder is called"
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert len(each.file.parts) == 3
    assert not list(tmp_path.rglob("*.part"))
    assert written(refused.office.old) == set(), "read only"
    fetches = len(refused.office.old.commands("UID FETCH"))
    assert outcomes(refused, tmp_path / "out") == ["kept"] * 3
    assert len(refused.office.old.commands("UID FETCH")) == fetches, "nothing is read again"


def test_a_file_that_is_not_the_message_is_written_anew(refused: Enrolled, tmp_path: Path) -> None:
    first = export(refused, tmp_path)[0]
    (tmp_path / first.file).write_bytes(b"half of it")
    assert sorted(outcomes(refused, tmp_path)) == ["kept", "kept", "saved"]


def test_a_message_that_has_left_the_old_mailbox_is_said_to_be_gone(refused: Enrolled, tmp_path: Path) -> None:
    account = refused.office.old.account("li@old.example")
    account.folder("INBOX").expunge([4])
    account.folder(HOSTILE).change_uidvalidity()
    assert outcomes(refused, tmp_path) == ["gone"] * 3
    account.delete(account.folder(HOSTILE))
    assert outcomes(refused, tmp_path) == ["gone"] * 3
    assert not list(tmp_path.rglob("*.eml"))


def test_a_message_that_became_another_is_not_saved(refused: Enrolled, tmp_path: Path) -> None:
    message = refused.office.old.account("li@old.example").folder("INBOX").get(4)
    assert message
    object.__setattr__(message, "raw", b"Subject: other\r\n\r\n")
    assert outcomes(refused, tmp_path) == ["saved", "saved", "changed"]
    assert len(list(tmp_path.rglob("*.eml"))) == 2


def test_a_connection_that_breaks_in_the_middle_is_gone_on_with(refused: Enrolled, tmp_path: Path) -> None:
    refused.office.old.behaviour.faults.append(Fault("FETCH", Action.CUT, containing="BODY.PEEK[]<", cut_at=10))
    assert outcomes(refused, tmp_path) == ["saved"] * 3


@pytest.mark.parametrize("verb", ["AUTHENTICATE", "LIST"])
def test_a_mailbox_that_cannot_be_read_gives_its_cause(refused: Enrolled, tmp_path: Path, verb: str) -> None:
    refused.office.old.behaviour.faults.append(Fault(verb, Action.DROP_BEFORE, times=None))
    assert outcomes(refused, tmp_path) == ["connection_dropped"] * 3


def test_a_folder_that_cannot_be_read_hides_no_other(refused: Enrolled, tmp_path: Path) -> None:
    fault = Fault("EXAMINE", Action.NO, containing="INBOX", text="[INUSE] locked", times=None)
    refused.office.old.behaviour.faults.append(fault)
    assert outcomes(refused, tmp_path) == ["saved", "saved", "unreadable"]
