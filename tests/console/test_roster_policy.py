"""What a roster may not decide by itself, from the file to the timeline."""

import getpass
import json
from pathlib import Path

import pytest
from sqlmodel import col, select

from models.database import reading
from models.member import Member
from models.states import MemberState
from models.wave import Event
from tasks.roster_decisions import confirm, pair_rule, pairs_held
from tasks.settings import SettingUnusable, settings
from tasks.store import store
from tests.console.conftest import CommandLine, Program
from tests.tasks.conftest import forget_everything
from tests.tasks.office import Office, new_password

ADMIN = {"SourceAdmin": "mailadmin", "Password": "canary-admin, of all 7"}
PAIR = "wang@old.example > boss@new.example"


def write_policy(home: Path, text: str) -> None:
    home.mkdir(exist_ok=True)
    (home / "banjia.toml").write_text(f"[policy]\n{text}\n")
    forget_everything()


@pytest.fixture
def roster(office: Office, tmp_path: Path) -> Path:
    """An administrator signs in for both; li's addresses agree, wang's do not."""
    office.old.behaviour.masters = {ADMIN["SourceAdmin"]: ADMIN["Password"]}
    for name in ("li", "wang"):
        office.add(name)
    office.new.add_account("boss@new.example", new_password("boss"))
    boss = {"EmailAddress": "boss@new.example", "TargetUserName": "", "TargetPassword": new_password("boss")}
    return office.write_roster(tmp_path / "first.csv", office.row("li", **ADMIN), office.row("wang", **ADMIN, **boss))


def test_rows_that_name_servers_beside_the_policy_are_problems_and_the_others_go_on(
    banjia: CommandLine, home: Path, office: Office, tmp_path: Path
) -> None:
    for name in ("li", "wang", "chen"):
        office.add(name)
    rows = [office.row("li"), office.row("wang", SourceHost="imap.evil.example"), office.row("chen", TargetPort="25")]
    file = office.write_roster(tmp_path / "first.csv", *rows)
    assert banjia("roster", "check", file).code == 0
    old, new = f'"127.0.0.1:{office.old.port}"', f'"127.0.0.1:{office.new.port}"'
    write_policy(home, f'hosts = "known"\nsource_hosts = [{old}]\ntarget_hosts = [{new}]')
    for command in (("roster", "check"), ("wave", "create")):
        ended = banjia(*command, file, "--json")
        assert ended.code == 3, ended
        problems = ended.document["invalid_rows"]
        assert [(each["line"], each["column"]) for each in problems] == [
            (3, "SourceHost"),
            (3, "SourceSecurity"),
            (4, "TargetPort"),
        ]
    with reading(store().engine) as session:
        assert session.exec(select(Member.email)).all() == ["li@new.example"]


def test_servers_of_the_wave_stay_known_and_private_ones_are_not_connected_to_unless_named(
    banjia: CommandLine, home: Path, office: Office, tmp_path: Path
) -> None:
    office.add("li")
    row = office.row("li", SourceHost="imap.old.example", SourcePort="1143", SourceSecurity="starttls")
    file = office.write_roster(tmp_path / "first.csv", row)
    assert banjia("wave", "create", file).code == 0
    write_policy(home, f'hosts = "known"\ntarget_hosts = ["127.0.0.1:{office.new.port}"]')
    assert banjia("wave", "create", file).code == 0
    assert banjia("roster", "check", file).code == 4, "without the wave nothing knows the server"
    with reading(store().engine) as session:
        member = session.exec(select(Member)).one()
    assert [server.private_allowed for server in store().servers(member)] == [False, True]


@pytest.mark.prefect
def test_a_row_whose_addresses_do_not_agree_waits_until_somebody_confirms_it(
    program: Program, office: Office, roster: Path
) -> None:
    ended = program.run("migrate", roster, "--json")
    assert ended.code == 3, ended
    assert PAIR in ended.stderr
    assert "--confirm-pairs" in ended.stderr
    assert {m["email"]: m["state"] for m in ended.document["members"]} == {
        "li@new.example": MemberState.SYNCED,
        "boss@new.example": MemberState.QUEUED,
    }
    assert not office.new.account("boss@new.example").folder("INBOX").messages
    assert f"1: {PAIR}".replace(">", "&gt;") in Path(ended.document["report"]["html"]).read_text()

    checked = program.run("wave", "check", "first", "--json")
    assert checked.code == 0, checked
    [finding] = [each for each in checked.document["findings"] if each["finding"] == "addresses_differ"]
    assert (finding["severity"], finding["members"]) == ("warns", ["boss@new.example"])
    assert "The two addresses do not agree" in Path(checked.document["report"]["html"]).read_text()

    started = program.run("wave", "start", "first", "--confirm-pairs", "--json")
    assert started.code == 0, started
    assert len(office.new.account("boss@new.example").folder("INBOX").messages) == 3
    who = getpass.getuser()
    told = json.loads(program.run("member", "show", "boss@new.example", "--json").stdout)
    assert told["state"] == MemberState.SYNCED
    with reading(store().engine) as session:
        events = session.exec(select(Event).where(col(Event.what).startswith("pair_")).order_by(col(Event.id))).all()
    assert [(e.who, e.what, e.why, e.member_id is None) for e in events] == [
        ("runner", "pair_differs", PAIR, False),
        ("runner", "pair_differs", f"1: {PAIR}", True),
        (who, "pair_confirmed", PAIR, False),
        (who, "pair_confirmed", f"1: {PAIR}", True),
    ]
    report = Path(started.document["report"]["html"])
    assert PAIR.replace(">", "&gt;") in report.read_text()
    # Remembered: nobody is asked again.
    again = program.run("migrate", roster)
    assert again.code == 0, again
    assert PAIR not in again.stderr


def test_what_is_confirmed_is_the_pair_as_it_stands(
    banjia: CommandLine, home: Path, office: Office, roster: Path
) -> None:
    assert banjia("wave", "create", roster).code == 0
    assert [each.pair for each in confirm(store(), "first", "admin")] == [PAIR]
    assert pairs_held(store(), "first") == []
    boss = {"EmailAddress": "boss@new.example", "TargetUserName": "ceo@new.example"}
    office.write_roster(roster, office.row("wang", **ADMIN, **boss))
    assert banjia("wave", "create", roster).code == 0
    assert [each.pair for each in pairs_held(store(), "first")] == ["wang@old.example > ceo@new.example"]
    # Back again: what was confirmed before the row was another counts no more.
    office.write_roster(roster, office.row("wang", **ADMIN, **{**boss, "TargetUserName": ""}))
    assert banjia("wave", "create", roster).code == 0
    assert [each.pair for each in pairs_held(store(), "first")] == [PAIR]
    aliases = home.parent / "pairs.csv"
    aliases.write_text("wang@old.example,boss@new.example\n")
    write_policy(home, f'aliases = "{aliases}"')
    assert pairs_held(store(), "first") == []
    aliases.write_text("wang@old.example\n")
    with pytest.raises(SettingUnusable, match="line 1"):
        pair_rule(settings())


def test_whoever_signs_in_with_a_password_of_their_own_needs_no_agreement(
    banjia: CommandLine, office: Office, roster: Path
) -> None:
    boss = {"EmailAddress": "boss@new.example", "TargetUserName": ""}
    office.write_roster(roster, office.row("wang", **boss))
    assert banjia("wave", "create", roster).code == 0
    assert pairs_held(store(), "first") == []


@pytest.mark.parametrize("side", ["source", "target"])
def test_a_side_that_the_settings_let_an_administrator_open_counts_as_well(
    banjia: CommandLine, home: Path, office: Office, roster: Path, side: str
) -> None:
    office.write_roster(roster, office.row("wang", EmailAddress="boss@new.example", TargetUserName=""))
    home.mkdir()
    (home / "banjia.toml").write_text(f"[sign_in.{side}]\nmethod = 'master'\nadmin = 'a'\nhosts = ['127.0.0.1']\n")
    assert banjia("wave", "create", roster).code == 0
    assert [each.pair for each in pairs_held(store(), "first")] == [PAIR]
