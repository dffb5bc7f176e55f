"""A roster taken into a wave: added once, updated after that, and nothing started twice."""

import csv
import io

import pytest
from sqlalchemy import Engine
from sqlmodel import col, select

from models.columns import now
from models.database import reading, writing
from models.detection import DefaultServers
from models.enrol import enrol
from models.member import Member
from models.roster import read_roster
from models.states import MemberState
from models.vault import Vault
from models.wave import InvalidRow, Wave
from tests.models.company import Company

NO_DEFAULT = DefaultServers()
COLUMNS = (
    "EmailAddress",
    "UserName",
    "Password",
    "Provider",
    "SourceHost",
    "TargetHost",
    "TargetPassword",
    "ExcludeFolders",
    "Note",
)


def row(name: str, **instead: str) -> dict[str, str]:
    return {
        "EmailAddress": f"{name}@new.example",
        "UserName": f"{name}@old.example",
        "Password": f"password of {name}",
        "SourceHost": "imap.old.example",
        "TargetHost": "imap.new.example",
        "TargetPassword": f"new password of {name}",
        **instead,
    }


def upload(engine: Engine, vault: Vault, *rows: dict[str, str], default: DefaultServers = NO_DEFAULT) -> Wave:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, restval="")
    writer.writeheader()
    writer.writerows(rows)
    return enrol(engine, vault, "first", read_roster(text.getvalue().encode(), "members.csv"), default)


def members(engine: Engine) -> dict[str, Member]:
    with reading(engine) as session:
        return {m.email: m for m in session.exec(select(Member).order_by(col(Member.line)))}


def invalid_rows(engine: Engine) -> list[InvalidRow]:
    with reading(engine) as session:
        return list(session.exec(select(InvalidRow).order_by(col(InvalidRow.id))))


def test_the_rows_become_members_in_line_with_their_passwords_in_the_vault(engine: Engine, vault: Vault) -> None:
    wave = upload(engine, vault, row("a", ExcludeFolders="Spam|Trash", Note="first"), row("b"))
    found = members(engine)
    assert list(found) == ["a@new.example", "b@new.example"]
    first = found["a@new.example"]
    assert (first.line, first.state, first.source_host) == (2, MemberState.QUEUED, "imap.old.example")
    assert first.exclude_folders == "Spam\nTrash"
    assert wave.roster_columns == ",".join(COLUMNS)
    assert vault.get(first.id or 0, "source") == "password of a"
    assert vault.get(first.id or 0, "target") == "new password of a"
    assert invalid_rows(engine) == []


def test_a_second_upload_updates_and_starts_nothing_twice(engine: Engine, vault: Vault, company: Company) -> None:
    upload(engine, vault, row("a"), row("b"))
    before = members(engine)["a@new.example"]
    with writing(engine) as session:
        member = session.get_one(Member, before.id)
        member.state, member.cause, member.attempts = MemberState.SYNCED, None, 3
        session.add(member)
    upload(engine, vault, row("b"), row("A", Password="a newer password", Note="mended"))
    found = members(engine)
    assert list(found) == ["b@new.example", "a@new.example"]  # in the order of the new file
    after = found["a@new.example"]
    assert (after.id, after.state, after.attempts, after.note) == (before.id, MemberState.SYNCED, 3, "mended")
    assert vault.get(after.id or 0, "source") == "a newer password"
    with reading(engine) as session:
        assert len(session.exec(select(Wave)).all()) == 1
    assert company.events() == ["roster", "roster"]


@pytest.mark.parametrize("state", [s for s in MemberState if s != MemberState.REMOVED])
def test_an_upload_changes_no_state(engine: Engine, vault: Vault, state: MemberState) -> None:
    upload(engine, vault, row("a"))
    with writing(engine) as session:
        member = session.exec(select(Member)).one()
        member.state = state
        session.add(member)
    upload(engine, vault, row("a"))
    assert members(engine)["a@new.example"].state == state


def test_a_removed_member_that_is_on_the_roster_again_gets_in_line(
    engine: Engine, vault: Vault, company: Company
) -> None:
    upload(engine, vault, row("a"))
    with writing(engine) as session:
        member = session.exec(select(Member)).one()
        member.state = MemberState.REMOVED
        session.add(member)
    upload(engine, vault, row("a"))
    found = members(engine)["a@new.example"]
    assert found.state == MemberState.QUEUED
    assert company.events(found.id) == ["removed > queued"]


def test_a_blank_password_keeps_the_one_that_is_stored(engine: Engine, vault: Vault) -> None:
    upload(engine, vault, row("a"))
    upload(engine, vault, row("a", Password="", TargetPassword=""))
    member_id = members(engine)["a@new.example"].id or 0
    assert vault.get(member_id, "source") == "password of a"
    assert vault.get(member_id, "target") == "new password of a"


def test_members_who_are_no_longer_on_the_roster_stay(engine: Engine, vault: Vault) -> None:
    """To retry some, admins upload only those."""
    upload(engine, vault, row("a"), row("b"))
    upload(engine, vault, row("b", Password="mended one"))
    found = members(engine)
    assert set(found) == {"a@new.example", "b@new.example"}
    assert vault.get(found["a@new.example"].id or 0, "source") == "password of a"


def test_the_problems_are_those_of_the_last_upload(engine: Engine, vault: Vault) -> None:
    upload(engine, vault, row("a"), row("b", EmailAddress="no address"), row("c", SourceHost="imap old"))
    assert [(r.line, r.column) for r in invalid_rows(engine)] == [(3, "EmailAddress"), (4, "SourceHost")]
    upload(engine, vault, row("a"), row("b"), row("c", SourceHost="imap old"))
    (left,) = invalid_rows(engine)
    assert (left.line, left.column) == (4, "SourceHost")
    for text in (left.problem_zh, left.fix_zh):
        assert not text.isascii()
    assert left.problem_en
    assert left.fix_en
    assert set(members(engine)) == {"a@new.example", "b@new.example"}


def test_a_row_without_server_is_a_problem_unless_the_settings_have_one(engine: Engine, vault: Vault) -> None:
    nowhere = row("a", SourceHost="", TargetHost="")
    upload(engine, vault, nowhere, row("b"))
    assert [(r.line, r.column, r.code) for r in invalid_rows(engine)] == [
        (2, "SourceHost", "server-missing"),
        (2, "TargetHost", "server-missing"),
    ]
    assert set(members(engine)) == {"b@new.example"}
    upload(engine, vault, nowhere, row("b"), default=DefaultServers("imap.old.example", "imap.new.example"))
    assert invalid_rows(engine) == []
    assert set(members(engine)) == {"a@new.example", "b@new.example"}


def test_a_row_that_names_a_provider_gets_its_server_and_an_unknown_one_is_left_out(
    engine: Engine, vault: Vault
) -> None:
    gmail, misspelt = row("a", Provider="谷歌", SourceHost=""), row("b", Provider="gmial")
    upload(engine, vault, gmail, misspelt)
    member = members(engine)["a@new.example"]
    assert (member.source_host, member.source_port, member.source_security) == ("imap.gmail.com", 993, "tls")
    assert (member.provider, member.source_provider, member.target_provider) == ("谷歌", "gmail", "")
    assert [(r.line, r.column, r.value, r.code) for r in invalid_rows(engine)] == [
        (3, "Provider", "gmial", "unknown-provider")
    ]
    upload(engine, vault, row("a", TargetHost="imap.feishu.cn"))
    member = members(engine)["a@new.example"]
    assert (member.source_host, member.source_port) == ("imap.old.example", None)
    assert (member.source_provider, member.target_provider) == ("", "feishu")


@pytest.mark.parametrize("column", ["Password", "TargetPassword"])
def test_a_wave_that_gets_passwords_again_is_no_longer_purged(engine: Engine, vault: Vault, column: str) -> None:
    upload(engine, vault, row("a"))
    with writing(engine) as session:
        wave = session.exec(select(Wave)).one()
        wave.credentials_purged_at = now()
        session.add(wave)
    blank = {"Password": "", "TargetPassword": ""}
    assert upload(engine, vault, row("a", **blank)).credentials_purged_at is not None
    assert upload(engine, vault, row("a", **{**blank, column: "one is back"})).credentials_purged_at is None


def test_the_same_address_in_two_waves_is_two_members(engine: Engine, vault: Vault) -> None:
    upload(engine, vault, row("a"))
    roster = read_roster(b"EmailAddress,UserName,SourceHost,TargetHost\na@new.example,a,old.example,new.example\n")
    enrol(engine, vault, "second", roster, NO_DEFAULT)
    with reading(engine) as session:
        assert len(session.exec(select(Member)).all()) == 2
