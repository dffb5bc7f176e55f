"""The commands that need no Prefect: what they print, as text and as JSON, and the code that they end with."""

import contextlib
import csv
import io
import json
from pathlib import Path

import pytest
from sqlmodel import select

import reports.texts
from console import doctor, prefect_way
from imapcopy.errors import MemberError
from models import lifecycle
from models.database import reading
from models.member import Member
from models.rules import Rules
from models.wave import Wave
from tasks import prefect_server
from tasks.migrate_member import migrate_member
from tasks.store import store
from tests.console.conftest import CommandLine, Ended
from tests.tasks.conftest import forget_everything
from tests.tasks.office import Enrolled, Office, old_password
from tests.tasks.prefect_home import fresh_settings

COMMANDS = {
    "": "migrate roster rules wave member provider verify vault probe notices host deploy worker prefect demo doctor",
    "roster": "check template",
    "rules": "template",
    "wave": "create sheet check addresses plan start retry status report failures issues unknown",
    "member": "show",
    "provider": "list show template",
    "probe": "show",
    "vault": "set list forget rotate purge",
    "notices": "preview send status",
    "host": "list show set pause resume",
    "prefect": "start stop status link",
}


@pytest.fixture
def roster(office: Office, home: Path, tmp_path: Path) -> Path:
    for name in ("li", "wang"):
        office.add(name)
    return office.write_roster(tmp_path / "members.csv")


@pytest.fixture
def moved(office: Office, banjia: CommandLine) -> Enrolled:
    """A wave called first: li's mailbox is through, wang's password is wrong, one row has no address."""
    for name in ("li", "wang"):
        office.add(name)
    enrolled = Enrolled(
        office,
        office.row("li"),
        office.row("wang", Password="canary-wrong-one"),
        office.row("li", EmailAddress="no address"),
    )
    kept = enrolled.store
    for due in lifecycle.start_wave(kept.engine, "first"):
        with contextlib.suppress(MemberError):
            migrate_member.fn(due.id, due.email)
    lifecycle.finish_wave(kept.engine, "first")
    return enrolled


@pytest.mark.parametrize("group", COMMANDS)
def test_help_lists_every_command(banjia: CommandLine, group: str) -> None:
    ended = banjia(*group.split(), "--help")
    assert ended.code == 0
    assert set(COMMANDS[group].split()) <= set(ended.stdout.replace("│", " ").split())


def test_this_list_of_commands_is_the_program_s() -> None:
    from console.cli import app

    groups = {"": app, **{str(group.name): group.typer_instance for group in app.registered_groups}}
    for name, group in groups.items():
        assert group is not None
        commands = {
            command.name or (command.callback.__name__ if command.callback else "")
            for command in group.registered_commands
        }
        below = {str(group.name) for group in group.registered_groups}
        assert commands | below == set(COMMANDS[name].split())


# -- rules


@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_the_template_of_rules_can_be_used_as_it_is(
    banjia: CommandLine, home: Path, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    monkeypatch.setenv("BANJIA_LANGUAGE", language)
    printed = banjia("rules", "template")
    assert printed.code == 0
    home.mkdir(exist_ok=True)
    (home / "banjia.toml").write_text("members_at_once = 3\n" + printed.stdout, encoding="utf-8")
    forget_everything()
    assert store().rules == Rules()
    assert store().settings.members_at_once == 3


@pytest.mark.parametrize("where", ["home", "named"])
def test_a_mistake_in_the_rules_is_2_and_says_where_it_is(
    banjia: CommandLine, home: Path, roster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    file = home / "banjia.toml" if where == "home" else tmp_path / "our rules.toml"
    file.parent.mkdir(exist_ok=True)
    file.write_text("[folders]\nexlude = ['\\Junk']\n", encoding="utf-8")
    if where == "named":
        monkeypatch.setenv("BANJIA_RULES", str(file))
    for language, said in (("en", f"{file}, line 2, folders.exlude: "), ("zh-CN", f"{file} 第 2 行 folders.exlude：")):
        monkeypatch.setenv("BANJIA_LANGUAGE", language)
        forget_everything()
        ended = banjia("wave", "create", roster)
        assert (ended.code, ended.stdout) == (2, "")
        assert said in ended.stderr
    assert not (home / "banjia.sqlite").exists()


def test_a_file_of_rules_that_is_not_there_is_2(
    banjia: CommandLine, roster: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANJIA_RULES", str(tmp_path / "nowhere.toml"))
    ended = banjia("wave", "create", roster)
    assert (ended.code, ended.stdout) == (2, "")
    assert "nowhere.toml" in ended.stderr


def test_where_folders_went_is_shown_of_a_member(
    banjia: CommandLine, office: Office, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.add("li")
    old = office.old.account("li@old.example")
    old.create("已发送").deliver(b"Subject: sent\r\n\r\nx\r\n")
    old.create("病毒文件夹").deliver(b"Subject: bad\r\n\r\nx\r\n")
    enrolled = Enrolled(office, office.row("li"))
    member = enrolled.member("li")
    migrate_member.fn(member.id or 0, member.email)
    shown = banjia("member", "show", member.email)
    assert "“已发送” arrived as “Sent”: a special folder by its well-known name" in shown.stdout
    assert "“病毒文件夹” was left out, messages in it: 1" in shown.stdout
    document = banjia("member", "show", member.email, "--json").document
    assert [(f["source_name"], f["why"]) for f in document["left_out"]] == [("病毒文件夹", "virus")]
    assert {f["source_name"]: f["why"] for f in document["folders"]} == {"INBOX": None, "已发送": "known_name"}
    monkeypatch.setenv("BANJIA_LANGUAGE", "zh-CN")
    forget_everything()
    assert "“已发送”搬到了“Sent”" in banjia("member", "show", member.email).stdout


# -- roster check


def check(banjia: CommandLine, file: Path) -> tuple[Ended, Ended]:
    return banjia("roster", "check", file), banjia("roster", "check", file, "--json")


def test_a_good_roster_is_0(banjia: CommandLine, roster: Path, home: Path) -> None:
    text, as_json = check(banjia, roster)
    assert (text.code, as_json.code) == (0, 0)
    assert "2 / 2 OK" in text.stdout
    assert as_json.document["rows"] == 2
    assert as_json.document["invalid_rows"] == []
    assert not (home / "banjia.sqlite").exists(), "nothing is stored"


def test_a_roster_with_a_bad_row_is_3_and_names_it(
    banjia: CommandLine, office: Office, roster: Path, tmp_path: Path
) -> None:
    office.write_roster(tmp_path / "bad.csv", office.row("li"), office.row("wang", SourceHost="imap old"))
    text, as_json = check(banjia, tmp_path / "bad.csv")
    assert (text.code, as_json.code) == (3, 3)
    assert "line 3 SourceHost 'imap old'" in text.stdout
    (problem,) = as_json.document["invalid_rows"]
    assert (problem["line"], problem["column"]) == (3, "SourceHost")
    assert not problem["zh-CN"]["problem"].isascii()


def test_a_row_whose_provider_nobody_knows_is_not_counted_as_good(
    banjia: CommandLine, office: Office, roster: Path, tmp_path: Path
) -> None:
    unknown = office.row("wang", Provider="nobody's mail", SourceHost="")
    office.write_roster(tmp_path / "some.csv", office.row("li"), unknown)
    text, as_json = check(banjia, tmp_path / "some.csv")
    assert (text.code, as_json.code, as_json.document["rows"]) == (3, 3, 1)
    assert "1 / 2 OK" in text.stdout
    office.write_roster(tmp_path / "none.csv", unknown)
    text, as_json = check(banjia, tmp_path / "none.csv")
    assert (text.code, as_json.code, as_json.document["rows"]) == (4, 4, 0)


@pytest.mark.parametrize("content", [b"", b"nothing,of,use\n1,2,3\n", b"EmailAddress,UserName\nno,address at all\n"])
def test_a_roster_without_a_usable_row_is_4(banjia: CommandLine, tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "bad.csv"
    file.write_bytes(content)
    text, as_json = check(banjia, file)
    assert (text.code, as_json.code) == (4, 4)
    assert as_json.document["invalid_rows"]
    refused = banjia("wave", "create", file, "--json")
    assert refused.code == 4
    assert refused.document["state"] == "refused"


@pytest.mark.parametrize("command", [("roster", "check"), ("wave", "create"), ("migrate",)])
def test_a_file_that_is_not_there_is_2(banjia: CommandLine, tmp_path: Path, command: tuple[str, ...]) -> None:
    ended = banjia(*command, tmp_path / "nowhere.csv")
    assert ended.code == 2
    assert ended.stderr == f"{tmp_path / 'nowhere.csv'}: No such file or directory\n"
    assert banjia(*command, tmp_path).code == 2


def test_no_password_of_a_roster_is_ever_printed(banjia: CommandLine, office: Office, tmp_path: Path) -> None:
    office.add("li")
    rows = [office.row("li", SourceHost="imap old"), office.row("li", Password=" canary with blanks ")]
    office.write_roster(tmp_path / "bad.csv", *rows)
    for ended in (*check(banjia, tmp_path / "bad.csv"), banjia("wave", "create", tmp_path / "bad.csv", "--json")):
        assert "canary" not in ended.stdout + ended.stderr


# -- waves


@pytest.mark.parametrize("language", ["en", "zh-CN"])
@pytest.mark.parametrize(
    "command",
    [
        ("wave", "status", "nowhere"),
        ("wave", "report", "nowhere"),
        ("wave", "failures", "nowhere"),
        ("wave", "unknown", "nowhere"),
        ("wave", "start", "nowhere"),
        ("wave", "check", "nowhere"),
        ("wave", "plan", "nowhere"),
        ("wave", "retry", "nowhere"),
        ("verify", "nowhere"),
        ("member", "show", "li@new.example", "--wave", "nowhere"),
    ],
)
def test_an_unknown_wave_is_2_and_is_named(
    banjia: CommandLine, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...], language: str
) -> None:
    monkeypatch.setenv("BANJIA_LANGUAGE", language)
    ended = banjia(*command)
    assert (ended.code, ended.stdout) == (2, "")
    said = {"en": "There is no wave called 'nowhere'.\n", "zh-CN": "没有名为“nowhere”的批次。\n"}
    assert ended.stderr == said[language]


def test_creating_a_wave_stores_it_and_moves_nothing(banjia: CommandLine, roster: Path, office: Office) -> None:
    text = banjia("wave", "create", roster)
    assert text.code == 0
    assert "li@new.example" in text.stdout
    assert "Waiting 2" in text.stdout
    as_json = banjia("wave", "create", roster, "--json")
    assert as_json.code == 0
    assert as_json.document["wave"] == "members"
    assert [(m["email"], m["state"]) for m in as_json.document["members"]] == [
        ("li@new.example", "queued"),
        ("wang@new.example", "queued"),
    ]
    assert office.old.log == []


def test_the_status_shows_every_member_with_its_cause(banjia: CommandLine, moved: Enrolled) -> None:
    text, as_json = banjia("wave", "status", "first"), banjia("wave", "status", "first", "--json")
    assert (text.code, as_json.code) == (0, 0)
    assert "li@new.example Synced 3/3" in text.stdout
    assert "Password not accepted: Wrong user name or password" in text.stdout
    assert as_json.document["state"] == "synced_with_failures"
    li, wang = as_json.document["members"]
    assert li["messages"] == {"found": 3, "done": 3, "issues": 0}
    assert (wang["state"], wang["cause"]) == ("needs_password", "bad_credentials")


def test_a_report_is_written_where_it_is_wanted_and_again_there(
    banjia: CommandLine, moved: Enrolled, tmp_path: Path
) -> None:
    first = banjia("wave", "report", "first", "--json")
    assert first.code == 0
    assert Path(first.document["html"]).exists()
    text = banjia("wave", "report", "first", "--report", tmp_path / "elsewhere")
    assert text.code == 0
    assert str(tmp_path / "elsewhere") in text.stdout
    again = banjia("wave", "report", "first", "--json").document
    assert Path(again["html"]).parent == tmp_path / "elsewhere"
    assert Path(again["failures"]).exists()


def test_the_failures_are_a_roster_to_mend(banjia: CommandLine, moved: Enrolled) -> None:
    text, as_json = banjia("wave", "failures", "first"), banjia("wave", "failures", "first", "--json")
    assert (text.code, as_json.code) == (0, 0)
    (row,) = csv.DictReader(io.StringIO(text.stdout.removeprefix("\ufeff")))
    assert row["EmailAddress"] == "wang@new.example"
    assert row["Password"] == ""
    assert "What to do" in text.stderr
    assert [m["email"] for m in as_json.document["members"]] == ["wang@new.example"]


def test_a_member_is_shown_whatever_the_case(banjia: CommandLine, moved: Enrolled) -> None:
    text = banjia("member", "show", "WANG@new.example")
    assert text.code == 0
    assert "Wrong user name or password" in text.stdout
    assert "syncing > needs_password" in text.stdout
    as_json = banjia("member", "show", "li@new.example", "--wave", "first", "--json")
    assert as_json.code == 0
    assert (as_json.document["wave"], as_json.document["state"]) == ("first", "synced")


@pytest.mark.parametrize(("language", "said"), [("en", "There is no member"), ("zh-CN", "没有地址为")])
def test_an_unknown_member_is_2(
    banjia: CommandLine, moved: Enrolled, monkeypatch: pytest.MonkeyPatch, language: str, said: str
) -> None:
    monkeypatch.setattr(moved.store.settings, "language", language)
    ended = banjia("member", "show", "nobody@new.example")
    assert (ended.code, ended.stdout) == (2, "")
    assert said in ended.stderr


def test_verifying_reads_the_new_mailboxes_again(banjia: CommandLine, moved: Enrolled) -> None:
    text, as_json = banjia("verify", "first"), banjia("verify", "first", "--deep", "--json")
    assert (text.code, as_json.code) == (3, 3)  # wang's mailbox cannot be read
    li, wang = as_json.document["members"]
    assert (li["present"], li["missing"], li["read_back"]) == (3, 0, 3)
    assert wang["cause"] == "bad_credentials"
    assert "missing 0" in text.stdout
    assert "Old mailbox: Wrong user name or password NO [AUTHENTICATIONFAILED]" in text.stdout


@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_verifying_does_not_end_well_when_a_message_is_there_twice(
    office: Office, banjia: CommandLine, monkeypatch: pytest.MonkeyPatch, language: str
) -> None:
    office.add("li")
    enrolled = Enrolled(office, office.row("li"))
    for due in lifecycle.start_wave(enrolled.store.engine, "first"):
        migrate_member.fn(due.id, due.email)
    monkeypatch.setattr(enrolled.store.settings, "language", language)
    assert banjia("verify", "first", "--deep").code == 0
    inbox = office.new.account("li@new.example").folder("INBOX")
    inbox.deliver(inbox.messages[0].raw)
    ended = banjia("verify", "first", "--deep")
    assert ended.code == 3
    assert ("there twice 1" if language == "en" else "目标邮箱中有两份 1") in ended.stdout
    assert f"INBOX UID 1: {'there twice' if language == 'en' else '目标邮箱中有两份'}" in ended.stdout
    inbox.expunge([inbox.messages[1].uid])
    missing = "not in the new mailbox" if language == "en" else "新邮箱中没有"
    assert f"INBOX UID 2: {missing}" in banjia("verify", "first").stdout


@pytest.mark.parametrize("language", ["en", "zh-CN"])
def test_messages_that_were_not_moved_are_listed_and_saved(
    office: Office, banjia: CommandLine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, language: str
) -> None:
    office.add("li")
    office.old.account("li@old.example").folder("INBOX").deliver(
        b"Subject: nul\r\nFrom: hr@old.example\r\n\r\na\0b\r\n"
    )
    formula = office.old.account("li@old.example").create("=HYPERLINK(1)")
    formula.deliver(b"Subject: nul\r\n\r\na\0c\r\n")
    office.new.behaviour.refuse_message = lambda raw: "=1+1 Message contains NUL characters" if b"\0" in raw else None
    enrolled = Enrolled(office, office.row("li"))
    for due in lifecycle.start_wave(enrolled.store.engine, "first"):
        migrate_member.fn(due.id, due.email)
    monkeypatch.setattr(enrolled.store.settings, "language", language)
    ended = banjia("wave", "issues", "first")
    assert ended.code == 0
    assert "li@new.example" in ended.stdout
    assert "  INBOX UID 4 · " in ended.stdout
    assert "    nul — hr@old.example" in ended.stdout
    assert ended.stdout.count("Message refused as malformed" if language == "en" else "邮件格式被拒") == 2
    exported = banjia("wave", "issues", "first", "--export", str(tmp_path / "out"), "--json")
    assert exported.code == 0
    first, second = exported.document["issues"]
    assert (first["folder"], first["uid"], first["cause"], first["outcome"]) == ("INBOX", 4, "invalid_message", "saved")
    assert first["advice"].keys() >= {"zh-CN", "en"}
    assert (tmp_path / "out" / first["file"]).read_bytes().endswith(b"\r\n\r\na\0b\r\n")
    assert (exported.document["repaired"], exported.document["altered"]) == ([], [])
    index = (tmp_path / "out" / "index.csv").read_text("utf-8-sig")
    assert "'=HYPERLINK(1)" in index
    assert ",=" not in index
    formula.expunge([1])
    (tmp_path / "out" / second["file"]).unlink()
    ended = banjia("wave", "issues", "first", "--export", str(tmp_path / "out"))
    assert ended.code == 3
    assert ("no longer in the old mailbox" if language == "en" else "原邮箱中已没有") in ended.stdout


@pytest.mark.parametrize("language", ["en", "zh-CN"])
@pytest.mark.parametrize("subjects", ["shown", "hidden"])
def test_messages_that_the_new_server_altered_are_listed_with_what_that_means_and_saved(
    office: Office,
    banjia: CommandLine,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    language: str,
    subjects: str,
) -> None:
    home.mkdir(mode=0o700)
    (home / "banjia.toml").write_text(f"[report]\nsubjects = '{subjects}'\n")
    office.add("li")
    inbox = office.old.account("li@old.example").folder("INBOX")
    raw = "Subject: =1+1 预算\r\nFrom: 王芳 <w@old.example>\r\n\r\nx\r\n".encode()
    inbox.deliver(raw)
    inbox.deliver(b"Subject: harmless\r\n\r\nno line end")
    office.new.behaviour.rewrite = lambda raw: (
        raw if raw.isascii() and raw.endswith(b"\n") else bytes(o if o < 128 else 88 for o in raw.rstrip()) + b"\r\n"
    )
    enrolled = Enrolled(office, office.row("li"))
    for due in lifecycle.start_wave(enrolled.store.engine, "first"):
        migrate_member.fn(due.id, due.email)
    monkeypatch.setattr(enrolled.store.settings, "language", language)
    listed = banjia("wave", "issues", "first")
    assert listed.code == 0
    assert ("=1+1 预算 — 王芳 <w@old.example>" in listed.stdout) is (subjects == "shown")
    assert ("预算" in listed.stdout or "harmless" in listed.stdout) is (subjects == "shown")
    assert "INBOX UID 4 > UID 4 · " in listed.stdout
    for name in ("header_8bit", "final_line_end"):
        told = reports.texts.alteration(name)
        for text in (told.name, told.seen, told.helps):
            assert getattr(text, language[:2]) in listed.stdout
    assert ("预算" in banjia("member", "show", "li@new.example").stdout) is (subjects == "shown")
    out = tmp_path / "out"
    exported = banjia("wave", "issues", "first", "--export", str(out), "--altered", "--json")
    assert exported.code == 0
    grave, mild = exported.document["altered"]
    assert (grave["uid"], grave["altered"], grave["outcome"]) == (4, ["header_8bit"], "saved")
    assert (mild["uid"], mild["altered"], mild["file"]) == (5, ["final_line_end"], "")
    assert (out / grave["file"]).read_bytes() == raw
    assert out.stat().st_mode & 0o077 == 0
    table = (out / "altered.csv").read_text("utf-8-sig")
    assert ("'=1+1 预算" in table) is (subjects == "shown")
    assert banjia("wave", "report", "first").code == 0
    pages = "".join(path.read_text("utf-8-sig") for path in (home / "reports").rglob("*.*"))
    assert ("预算" in pages) is (subjects == "shown")


# -- vault


def test_the_vault_is_rotated_and_still_opens(banjia: CommandLine, moved: Enrolled, home: Path) -> None:
    before = (home / "keys" / "vault.key").read_bytes()
    assert banjia("vault", "rotate").stdout == "Sealed with a new key: 4.\n"
    assert banjia("vault", "rotate", "--json").document == {"rotated": 4}
    assert (home / "keys" / "vault.key").read_bytes() != before
    assert moved.store.vault.get(moved.member("li").id or 0, "source") == old_password("li")


def test_the_vault_is_purged_of_a_wave(banjia: CommandLine, moved: Enrolled) -> None:
    assert banjia("vault", "purge", "first").stdout == "Passwords of wave first that were deleted: 4.\n"
    assert banjia("vault", "purge", "first", "--json").document == {"purged": 0, "still_in": []}
    assert moved.store.vault.get(moved.member("li").id or 0, "source") is None
    assert banjia("wave", "report", "first").code == 0, "reports stay"


# -- doctor


def test_the_doctor_finds_a_new_installation_well(banjia: CommandLine) -> None:
    text, as_json = banjia("doctor"), banjia("doctor", "--json")
    assert (text.code, as_json.code) == (0, 0), text
    assert text.stdout.count("ok  ") == len(as_json.document)
    assert {"settings", "database", "keys", "authorities", "prefect"} <= as_json.document.keys()


@pytest.mark.parametrize(
    ("harm", "bad"),
    [
        (lambda home: (home / "keys" / "vault.key").chmod(0o644), "keys"),
        (lambda home: (home / "keys" / "vault.key").unlink(), "keys"),
        (lambda home: Path("banjia.toml").write_text("time_zone = 'nowhere'"), "settings"),
    ],
)
def test_the_doctor_finds_what_would_stop_a_migration(
    banjia: CommandLine, moved: Enrolled, home: Path, harm: object, bad: str
) -> None:
    harm(home)  # type: ignore[operator]
    if bad == "settings":
        forget_everything()
    as_json = banjia("doctor", "--json")
    assert as_json.code == 3
    assert not as_json.document[bad]["ok"]
    assert as_json.document["versions"]["ok"]
    assert banjia("doctor").code == 3


def test_the_doctor_asks_the_admin_s_own_prefect_server(banjia: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    assert not banjia("doctor", "--json").document["prefect"]["ok"]


@pytest.mark.parametrize(("language", "said"), [("en", "is not https"), ("zh-CN", "不是 https")])
def test_the_doctor_and_a_start_warn_of_a_prefect_server_of_the_admin_s_that_anybody_can_use(
    banjia: CommandLine, monkeypatch: pytest.MonkeyPatch, language: str, said: str
) -> None:
    monkeypatch.setenv("BANJIA_LANGUAGE", language)
    monkeypatch.setattr(prefect_server, "_answers", lambda url, context, seconds: True)
    forget_everything()
    with fresh_settings(monkeypatch, {"PREFECT_API_URL": "http://prefect.example/api"}):
        found = banjia("doctor", "--json").document["prefect"]
        with contextlib.redirect_stderr(io.StringIO()) as written:
            prefect_way.use_prefect()
    assert found["ok"]
    assert said in found["detail"]
    assert "PREFECT_API_AUTH_STRING" in found["detail"]
    assert said in written.getvalue()


@pytest.mark.parametrize(("language", "said"), [("en", "has no password"), ("zh-CN", "没有密码")])
def test_a_prefect_server_of_an_older_version_is_told_of(
    banjia: CommandLine, monkeypatch: pytest.MonkeyPatch, language: str, said: str
) -> None:
    monkeypatch.setenv("BANJIA_LANGUAGE", language)
    forget_everything()
    older = prefect_server.RunningServer(4711, "http://127.0.0.1:1/api", "")
    monkeypatch.setattr(prefect_server, "open_server", lambda home: older)
    monkeypatch.setattr(doctor, "open_server", lambda home: older)
    found = banjia("doctor", "--json")
    assert not found.document["prefect"]["ok"]
    assert said in found.document["prefect"]["detail"]
    status = banjia("prefect", "status", "--json")
    assert status.document == {"running": False, "ui": None}
    assert said in status.stderr
    assert "4711" in status.stderr


@pytest.mark.parametrize(("language", "said"), [("en", "does not count"), ("zh-CN", "不算数")])
def test_each_command_says_that_settings_which_others_could_write_do_not_count_and_the_doctor_which_do(
    banjia: CommandLine, home: Path, monkeypatch: pytest.MonkeyPatch, language: str, said: str
) -> None:
    monkeypatch.setenv("BANJIA_LANGUAGE", language)
    home.mkdir(mode=0o700)
    counted = home / "banjia.toml"
    counted.write_text("time_zone = 'Asia/Shanghai'\n")
    Path("banjia.toml").write_text("time_zone = 'nowhere'\n")
    Path("banjia.toml").chmod(0o666)
    forget_everything()
    found = banjia("doctor", "--json")
    assert not found.document["settings"]["ok"]
    assert said in found.document["settings"]["detail"]
    assert str(counted) in found.document["settings"]["detail"]
    assert said in banjia("host", "list").stderr
    Path("banjia.toml").unlink()
    assert banjia("doctor", "--json").document["settings"] == {"ok": True, "detail": str(counted)}
    assert banjia("host", "list").stderr == ""


def test_there_is_no_link_without_a_server_of_our_own(banjia: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = banjia("prefect", "link")
    assert (ended.code, ended.stdout) == (5, "")
    assert "banjia prefect start" in ended.stderr
    monkeypatch.setenv("PREFECT_API_URL", "https://prefect.example/api")
    assert banjia("prefect", "link").code == 2


# -- several waves in one roster


@pytest.fixture
def two_waves(office: Office, home: Path, tmp_path: Path) -> Path:
    for name in ("li", "wang", "chen"):
        office.add(name)
    rows = [office.row("li", Wave="north"), office.row("wang", Wave="south"), office.row("chen")]
    return office.write_roster(tmp_path / "members.csv", *rows)


def test_a_database_of_a_newer_program_is_named_with_what_to_do(banjia: CommandLine, home: Path) -> None:
    assert banjia("host", "list").code == 0
    with store().engine.begin() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    forget_everything()
    refused = banjia("host", "list")
    assert refused.code == 1, refused
    assert "newer version of banjia" in refused.stderr
    assert "9999" in refused.stderr


@pytest.mark.parametrize(("language", "said"), [("en", "Choose one with --wave"), ("zh-CN", "请用 --wave 选择一个")])
def test_a_roster_of_several_waves_wants_one_chosen(
    banjia: CommandLine, two_waves: Path, monkeypatch: pytest.MonkeyPatch, language: str, said: str
) -> None:
    monkeypatch.setenv("BANJIA_LANGUAGE", language)
    for command in (("migrate",), ("wave", "create")):
        ended = banjia(*command, two_waves)
        assert ended.code == 2
        assert said in ended.stderr
        assert "north, south" in ended.stderr


def test_the_chosen_wave_takes_its_rows_and_those_that_name_none(banjia: CommandLine, two_waves: Path) -> None:
    ended = banjia("wave", "create", two_waves, "--wave", "north", "--json")
    assert ended.code == 0
    assert [m["email"] for m in ended.document["members"]] == ["li@new.example", "chen@new.example"]
    banjia("wave", "create", two_waves, "--wave", "south", "--json")
    with reading(store().engine) as session:
        assert sorted(session.exec(select(Wave.name)).all()) == ["north", "south"]
        assert len(session.exec(select(Member)).all()) == 4


def test_a_row_to_mend_is_told_of_the_wave_that_it_names(
    banjia: CommandLine, office: Office, two_waves: Path, tmp_path: Path
) -> None:
    rows = [
        *(office.row("li", Wave="north"), office.row("wang", Wave="south", SourcePort="north of 1")),
        *(office.row("chen", EmailAddress="no address"), office.row("chen", Wave="east", SourcePort="none")),
    ]
    file = office.write_roster(tmp_path / "members.csv", *rows)

    def lines(wave: str, code: int) -> set[int]:
        created = banjia("wave", "create", file, "--wave", wave, "--json")
        assert created.code == code, created
        return {problem["line"] for problem in created.document["invalid_rows"]}

    assert lines("north", 3) == {4}
    assert lines("south", 4) == {3, 4}
    assert lines("east", 4) == {4, 5}
    assert banjia("wave", "create", file, "--wave", "west").code == 2


def test_a_wave_that_the_roster_does_not_have_is_2(
    banjia: CommandLine, office: Office, two_waves: Path, tmp_path: Path
) -> None:
    office.write_roster(tmp_path / "south.csv", office.row("li", Wave="south"))
    ended = banjia("wave", "create", tmp_path / "south.csv", "--wave", "west")
    assert ended.code == 2
    assert "it names: south" in ended.stderr


def test_the_only_wave_that_a_roster_names_needs_no_choice(
    banjia: CommandLine, office: Office, two_waves: Path, tmp_path: Path
) -> None:
    office.write_roster(tmp_path / "south.csv", office.row("li", Wave="south"), office.row("wang"))
    assert banjia("wave", "create", tmp_path / "south.csv", "--json").document["wave"] == "south"


# -- in Chinese


def test_everything_is_said_in_chinese_where_that_is_chosen(
    banjia: CommandLine, moved: Enrolled, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moved.store.settings, "language", "zh-CN")
    status = banjia("wave", "status", "first").stdout
    assert "已同步" in status
    assert "密码失效" in status
    shown = banjia("member", "show", "wang@new.example").stdout
    assert "处理方法" in shown
    assert "名单" in banjia("wave", "failures", "first").stderr
    document = banjia("wave", "status", "first", "--json").document
    assert document["members"][1]["state"] == "needs_password", "JSON is for programs and has one language"


def test_the_roster_template_is_in_the_language_of_the_terminal(
    banjia: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANJIA_LANGUAGE", "zh-CN")
    chinese = banjia("roster", "template")
    assert chinese.code == 0
    assert "EmailAddress" in chinese.stdout
    assert not chinese.stdout.isascii()


def test_a_json_document_is_all_that_stands_on_stdout(banjia: CommandLine, roster: Path) -> None:
    for command in (
        ("wave", "create", roster),
        ("wave", "status", "members"),
        ("wave", "report", "members"),
        ("wave", "failures", "members"),
        ("member", "show", "li@new.example"),
        ("prefect", "status"),
        ("prefect", "stop"),
    ):
        ended = banjia(*command, "--json")
        assert ended.code == 0, ended
        assert isinstance(json.loads(ended.stdout), dict)
