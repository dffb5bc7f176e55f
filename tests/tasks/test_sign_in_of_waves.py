"""Whole sides that are signed in to by an administrator or with access tokens, from the settings to the mailbox."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from deployments.demo.imap_server import Action, Fault
from deployments.demo.personality import personality
from imapcopy import look_up
from imapcopy.errors import MemberError, MigrationError
from models.hints import Hint
from models.roster_columns import COLUMNS
from models.states import MemberState
from reports.read import roster_values
from tasks.migrate_member import check_member, migrate_member
from tasks.settings import SettingsMistake, settings
from tasks.store import store
from tests.servers.certificates import Authority
from tests.servers.secrets_scan import find_secrets
from tests.servers.token_endpoint import CLIENT, CLIENT_SECRET, TENANT, Refusal, TokenEndpoint, token_endpoint
from tests.tasks.conftest import forget_everything
from tests.tasks.office import Enrolled, Office, new_password, old_password

M = MemberState
ADMIN_PASSWORD = "canary-admin, of all 7"

Settle = Callable[..., None]


@pytest.fixture(autouse=True)
def one_try(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANJIA_RETRY_DELAYS", "[]")
    # The servers here have stored what they store when they end a session.
    monkeypatch.setattr(look_up, "SETTLE_SECONDS", 0)


@pytest.fixture
def settle(home: Path, tmp_path: Path) -> Settle:
    """Write a side's table into banjia.toml, as an admin does."""
    tables: dict[str, dict[str, str]] = {}

    def write(side: str, **keys: str) -> None:
        tables[side] = {"hosts": '["127.0.0.1"]', **{name: f"'{value}'" for name, value in keys.items()}}
        text = "".join(
            f"[sign_in.{name}]\n" + "".join(f"{key} = {value}\n" for key, value in table.items())
            for name, table in tables.items()
        )
        home.mkdir(exist_ok=True)
        (home / "banjia.toml").write_text(text)
        forget_everything()

    return write


def run(enrolled: Enrolled, name: str = "li") -> str:
    member = enrolled.member(name)
    return migrate_member.fn(member.id or 0, member.email)


def without_passwords(office: Office, *names: str, **instead: str) -> Enrolled:
    blank = {"Password": "", "TargetPassword": "", **instead}
    return Enrolled(office, *(office.row(name, **blank) for name in names))


def failure(enrolled: Enrolled, name: str = "li") -> MigrationError:
    with pytest.raises(MigrationError) as caught:
        run(enrolled, name)
    return caught.value


# An administrator


@pytest.mark.parametrize(
    ("template", "pattern"),
    [
        ("{user}*{admin}", r"(?P<user>[^*]+)\*(?P<admin>.+)"),
        ("{domain}/{admin}/{user}", "(?P<domain>[^/]+)/(?P<admin>[^/]+)/(?P<local>.+)"),
        ("#{user}@{domain}#{admin}#", "#(?P<user>[^#]+)#(?P<admin>[^#]+)#"),
        ("", "no template"),
    ],
)
@pytest.mark.parametrize("offered", [True, False])
def test_an_administrator_moves_mailboxes_whose_passwords_nobody_has(
    office: Office, settle: Settle, template: str, pattern: str, offered: bool
) -> None:
    for server in (office.old, office.new):
        server.behaviour.masters = {"mailadmin": ADMIN_PASSWORD}
        server.behaviour.master_login = pattern
        if not offered and template:
            server.behaviour.capabilities -= {"AUTH=PLAIN", "SASL-IR"}
    office.add("li")
    for side in ("source", "target"):
        settle(side, method="master", admin="mailadmin", **({"template": template} if template else {}))
    for name in ("source", "target"):
        store().vault.put_standing(name, ADMIN_PASSWORD)
    enrolled = without_passwords(office, "li")
    assert run(enrolled) == M.SYNCED
    office.assert_moved()
    if not offered and template:
        assert office.old.commands("LOGIN")
        assert not office.old.commands("AUTHENTICATE")


EXCHANGE = " The Microsoft Exchange IMAP4 service is ready."
AS_EXCHANGE = "(?P<domain>[^/]+)/(?P<admin>[^/]+)/(?P<local>.+)"


@pytest.mark.parametrize("known_by", ["greeting", "roster"])
@pytest.mark.parametrize("own", [False, True])
def test_an_administrator_is_named_as_a_known_service_wants_it(
    office: Office, settle: Settle, known_by: str, own: bool
) -> None:
    """By a side's settings, and by a row that has an administrator of its own."""
    office.old.behaviour.masters = {"mailadmin": ADMIN_PASSWORD}
    office.old.behaviour.master_login = AS_EXCHANGE
    if known_by == "greeting":
        office.old.behaviour.greeting = EXCHANGE
    office.add("li")
    provider = {"Provider": "exchange"} if known_by == "roster" else {}
    row = {"SourceAdmin": "mailadmin", "Password": ADMIN_PASSWORD} if own else {"Password": ""}
    if not own:
        settle("source", method="master", admin="mailadmin")
        store().vault.put_standing("source", ADMIN_PASSWORD)
    assert run(Enrolled(office, office.row("li", **row, **provider))) == M.SYNCED
    office.assert_moved()
    assert len(office.old.commands("AUTHENTICATE")) == 1


def test_a_refused_administrator_is_told_the_template_that_was_used_or_which_there_are(
    office: Office, settle: Settle
) -> None:
    office.old.behaviour.masters = {"mailadmin": ADMIN_PASSWORD}
    office.old.behaviour.master_login = r"(?P<user>[^%]+)%(?P<admin>.+)"
    office.add("li")
    settle("source", method="master", admin="mailadmin")
    store().vault.put_standing("source", "canary-wrong-admin")
    enrolled = without_passwords(office, "li", TargetPassword=new_password("li"))
    hint = failure(enrolled).hint
    assert hint is not None
    assert hint.text is not None
    assert all(part in hint.text.en for part in ("Dovecot {user}*{admin}", "{domain}/{admin}/{user}", "banjia.toml"))
    office.old.behaviour.greeting = EXCHANGE
    assert failure(enrolled).hint == Hint("admin_template", {"template": "{domain}/{admin}/{user}"})
    settle("source", method="master", admin="mailadmin", template="{user}%{admin}")
    assert failure(enrolled).hint is None


def test_an_administrator_without_a_right_is_told_from_one_with_a_wrong_password(
    office: Office, settle: Settle, home: Path
) -> None:
    office.old.behaviour.masters = {"mailadmin": ADMIN_PASSWORD}
    office.old.behaviour.masters_of = {"mailadmin": frozenset({"wang@old.example"})}
    office.add("li")
    settle("source", method="master", admin="mailadmin")
    enrolled = without_passwords(office, "li", TargetPassword=new_password("li"))
    assert failure(enrolled).cause_id == "password_missing"
    store().vault.put_standing("source", ADMIN_PASSWORD)
    assert failure(enrolled).cause_id == "not_authorized"
    store().vault.put_standing("source", "canary-wrong-admin")
    assert failure(enrolled).cause_id == "admin_refused"
    assert enrolled.member("li").state == M.FAILED
    assert find_secrets([ADMIN_PASSWORD, "canary-wrong-admin"], [home]) == []


@pytest.mark.parametrize("hosts", ["hosts = ['imap.old.example']", "", "hosts = []"])
def test_an_administrator_s_password_goes_to_no_other_server(office: Office, home: Path, hosts: str) -> None:
    office.old.behaviour.masters = {"mailadmin": ADMIN_PASSWORD}
    office.add("li")
    home.mkdir()
    (home / "banjia.toml").write_text(
        f"source_host = 'imap.old.example'\n[sign_in.source]\nmethod = 'master'\nadmin = 'mailadmin'\n{hosts}\n"
    )
    store().vault.put_standing("source", ADMIN_PASSWORD)
    enrolled = Enrolled(office, office.row("li"))
    source, target = store().accounts(enrolled.member("li"))
    assert (source.password, source.login) == (old_password("li"), "")
    assert not target.is_the_admins


def test_a_wrong_administrator_s_password_is_tried_three_times_and_not_once_for_every_member(
    office: Office, settle: Settle
) -> None:
    """The administrator's account would be locked, and with it the whole wave."""
    office.old.behaviour.masters = {"mailadmin": ADMIN_PASSWORD}
    names = ("li", "wang", "zhao", "sun", "qian", "zhou")
    for name in names:
        office.add(name)
    settle("source", method="master", admin="mailadmin")
    store().vault.put_standing("source", "canary-wrong-admin")
    enrolled = Enrolled(office, *(office.row(name, Password="") for name in names))
    assert {failure(enrolled, name).cause_id for name in names} == {"admin_refused"}
    assert len(office.old.commands("AUTHENTICATE")) == 3
    # Another password is another matter, also in the same process.
    store().vault.put_standing("source", ADMIN_PASSWORD)
    assert {run(enrolled, name) for name in names} == {M.SYNCED}


def test_a_row_names_its_own_administrator(office: Office, home: Path) -> None:
    office.old.behaviour.masters = {"boss": ADMIN_PASSWORD}
    office.add("li")
    office.add("wang")
    columns = {"SourceAdmin": "boss", "Password": ADMIN_PASSWORD}
    rows = [office.row("li", **columns), office.row("wang", SourceAdmin="")]
    enrolled = Enrolled(office, *rows)
    assert (run(enrolled, "li"), run(enrolled, "wang")) == (M.SYNCED, M.SYNCED)
    office.assert_moved()


def test_a_template_that_wants_a_domain_says_so_where_there_is_none(office: Office, settle: Settle) -> None:
    office.add("li")
    settle("source", method="master", admin="mailadmin", template="{domain}/{admin}/{user}")
    store().vault.put_standing("source", ADMIN_PASSWORD)
    error = failure(without_passwords(office, "li", UserName="li"))
    assert (error.cause_id, error.side) == ("admin_refused", "source")
    assert "{domain}" in error.server_text
    assert not office.old.commands("LOGIN")


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ("method = 'master'", "needs admin"),
        ("method = 'google'", "needs key_file"),
        ("method = 'microsoft'\ntenant = 'x'", "needs client"),
        ("method = 'kerberos'", "sign_in.source.method"),
        ("method = 'google'\nkey_file = '/no/such/file'", "there is no such file"),
        ("method = 'master'\nadmin = 'a'\ntemplate = '{user}'", "must have {user} and {admin}"),
        ("method = 'master'\nadmin = 'a'\ntemplate = '{user.__class__}{admin}'", "must have {user} and {admin}"),
        ("method = 'master'\nadmin = 'a'\ntemplate = '{'", "must have {user} and {admin}"),
        ("password = 'canary-in-clear'", "there is no setting"),
    ],
)
def test_a_mistake_in_the_table_is_named_and_no_value_is_shown(home: Path, table: str, words: str) -> None:
    home.mkdir()
    (home / "banjia.toml").write_text(f"[sign_in.source]\n{table}\n")
    with pytest.raises(SettingsMistake) as caught:
        settings()
    assert words in str(caught.value)
    assert "canary" not in str(caught.value)


# Access tokens


@pytest.fixture
def endpoint(
    office: Office, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TokenEndpoint]:
    """One authorization server whose tokens both mail servers take; each ends after so many commands."""
    for server in (office.old, office.new):
        server.behaviour.capabilities |= {"AUTH=XOAUTH2"}
        server.behaviour.capabilities -= {"AUTH=PLAIN", "MULTIAPPEND"}
    office.new.behaviour.tokens = office.old.behaviour.tokens
    (tmp_path / "ca.pem").write_bytes(authority.root)
    monkeypatch.setenv("BANJIA_CA_FILE", str(tmp_path / "ca.pem"))

    def issue(subject: str) -> str:
        return office.old.behaviour.tokens.issue(subject, 12 if subject else 60)

    with token_endpoint(issue, authority, tmp_path) as running:
        yield running


@pytest.fixture
def by_tokens(endpoint: TokenEndpoint, settle: Settle, tmp_path: Path) -> None:
    """The old side is Google's, the new one Microsoft's."""
    key_file = endpoint.write_service_account(tmp_path / "service-account.json")
    settle("source", method="google", key_file=str(key_file))
    settle("target", method="microsoft", tenant=TENANT, client=CLIENT, endpoint=endpoint.url)
    store().vault.put_standing("target", CLIENT_SECRET)


@pytest.mark.usefixtures("by_tokens")
def test_tokens_that_end_in_mid_mailbox_cost_no_try_and_no_message(
    office: Office, endpoint: TokenEndpoint, home: Path
) -> None:
    office.add("li", messages=400)
    enrolled = without_passwords(office, "li")
    assert run(enrolled) == M.SYNCED
    office.assert_moved()
    assert enrolled.member("li").attempts == 1
    assert endpoint.subjects.count("li@old.example") > 1
    assert endpoint.subjects.count("") > 1
    sent = len(office.new.commands("APPEND"))
    assert run(enrolled) == M.SYNCED
    assert len(office.new.commands("APPEND")) == sent
    # Neither the tokens, nor what they were got with, is anywhere under the home.
    assertions = [form.get("assertion") or form.get("client_secret") or "" for form in endpoint.asked]
    needles = [*office.old.behaviour.tokens.issued(), CLIENT_SECRET, *assertions]
    assert find_secrets(needles, [home]) == []


@pytest.mark.usefixtures("by_tokens")
@pytest.mark.parametrize(
    ("refused", "cause", "side"),
    [("li@old.example", "oauth_consent", "source"), ("", "oauth_consent", "target")],
)
def test_a_refresh_that_is_refused_in_mid_run_ends_the_member_and_the_next_run_goes_on(
    office: Office, endpoint: TokenEndpoint, refused: str, cause: str, side: str
) -> None:
    office.add("li", messages=400)
    issue = endpoint.issue

    def once(subject: str) -> str:
        if subject == refused:
            endpoint.refuse(subject, Refusal("invalid_grant", "Token has been expired or revoked."))
        return issue(subject)

    endpoint.issue = once
    enrolled = without_passwords(office, "li")
    error = failure(enrolled)
    assert (error.cause_id, error.side) == (cause, side)
    assert "revoked" in error.server_text
    assert office.mail(office.new, "li") < office.mail(office.old, "li")
    endpoint.issue = issue
    endpoint.refused.clear()
    forget_everything()
    assert run(enrolled) == M.SYNCED
    office.assert_moved()


@pytest.mark.usefixtures("by_tokens")
def test_a_member_whom_google_does_not_know_is_named_and_stops_nobody(office: Office, endpoint: TokenEndpoint) -> None:
    office.add("li")
    office.add("wang")
    endpoint.refuse("li@old.example", Refusal("invalid_grant", "Invalid email or User ID"))
    enrolled = without_passwords(office, "li", "wang")
    assert failure(enrolled, "li").cause_id == "no_such_user"
    assert run(enrolled, "wang") == M.SYNCED
    office.assert_moved("wang")


@pytest.mark.usefixtures("endpoint")
def test_a_key_file_that_is_none_is_the_admin_s_to_mend(office: Office, settle: Settle, tmp_path: Path) -> None:
    (tmp_path / "key.json").touch(mode=0o600)
    (tmp_path / "key.json").write_text("{}")
    settle("source", method="google", key_file=str(tmp_path / "key.json"))
    office.add("li")
    error = failure(without_passwords(office, "li", TargetPassword=new_password("li")))
    assert isinstance(error, MemberError)
    assert error.cause_id == "oauth_consent"


# What is remembered of servers


def test_the_mechanism_that_worked_is_known_to_the_next_process(office: Office, home: Path) -> None:
    """Sina announces PLAIN and answers it with BAD; the second process does not ask again."""
    office.old.behaviour.faults.append(Fault("AUTHENTICATE", Action.BAD, text="AUTHENTICATE with LOGIN", times=None))
    for name in ("li", "wang"):
        office.add(name)
    enrolled = Enrolled(office)
    assert run(enrolled, "li") == M.SYNCED
    assert (len(office.old.commands("AUTHENTICATE")), len(office.old.commands("LOGIN"))) == (1, 1)
    assert run(enrolled, "li") == M.SYNCED
    forget_everything()
    assert run(enrolled, "wang") == M.SYNCED
    assert (len(office.old.commands("AUTHENTICATE")), len(office.old.commands("LOGIN"))) == (1, 3)
    with sqlite3.connect(home / "banjia.sqlite") as database:
        rows = database.execute("SELECT server, credential, mechanism FROM signinway").fetchall()
    database.close()
    assert rows == [(f"127.0.0.1:{office.old.port}", "password", "LOGIN")]


def test_a_server_that_takes_what_is_tried_first_leaves_no_row(office: Office, home: Path) -> None:
    office.add("li")
    assert run(Enrolled(office)) == M.SYNCED
    with sqlite3.connect(home / "banjia.sqlite") as database:
        assert database.execute("SELECT count(*) FROM signinway").fetchone() == (0,)
    database.close()


def test_a_check_opens_the_inbox_where_a_list_says_nothing(office: Office, home: Path) -> None:
    """NetEase lists folders to anybody and opens none to a client that it was not told of: here ID never arrives."""
    office.old.behaviour = personality("netease").behaviour()
    office.add("li", messages=0)
    office.old.behaviour.unknown_commands |= {"ID"}
    enrolled = Enrolled(office)
    member = enrolled.member("li")
    with pytest.raises(MigrationError) as caught:
        check_member.fn(member.id or 0, member.email)
    assert (caught.value.cause_id, caught.value.side) == ("id_required", "source")
    assert office.old.commands("LIST")
    assert office.old.commands("EXAMINE")


def test_a_roster_of_failures_has_every_column_that_was_uploaded(office: Office, home: Path) -> None:
    """But for the passwords; an administrator's name that got lost would be a member's own login next time."""
    office.add("li")
    columns = {column.name for column in COLUMNS if not column.secret}
    enrolled = Enrolled(office, office.row("li", SourceAdmin="boss"))
    [values] = roster_values(enrolled.store.engine, "first").values()
    assert set(values) == columns
    assert values["SourceAdmin"] == "boss"
