"""What goes wrong around a command is one sentence and an exit code, never a traceback."""

from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from console import run
from tasks.store import store
from tests.console.conftest import CommandLine, Ended
from tests.servers.postgres import PASSWORD, Postgres
from tests.tasks.conftest import forget_everything
from tests.tasks.office import Enrolled, Office, old_password


@pytest.fixture
def wave(office: Office, banjia: CommandLine) -> Enrolled:
    office.add("li")
    return Enrolled(office)


def assert_sentence(ended: Ended, code: int, *words: str) -> None:
    assert ended.code == code, ended
    assert ended.stderr.count("\n") == 1, ended
    assert "Traceback" not in ended.stdout + ended.stderr
    for word in words:
        assert word in ended.stderr


@pytest.mark.parametrize(("language", "said"), [("en", "A setting cannot be used"), ("zh-CN", "设置有误")])
def test_a_mistake_in_banjia_toml(
    banjia: CommandLine, wave: Enrolled, monkeypatch: pytest.MonkeyPatch, language: str, said: str
) -> None:
    forget_everything()
    monkeypatch.delenv("BANJIA_LANGUAGE")
    monkeypatch.delenv("LC_ALL", raising=False)
    monkeypatch.setenv("LANG", {"en": "C.UTF-8", "zh-CN": "zh_CN.UTF-8"}[language])
    Path("banjia.toml").write_text("membres_at_once = 3")
    assert_sentence(banjia("wave", "status", "first"), 2, said, "'membres_at_once'")


def test_a_home_that_is_no_folder(banjia: CommandLine, home: Path) -> None:
    home.write_text("a file")
    assert_sentence(banjia("wave", "status", "first"), 1, str(home))


def test_a_file_that_is_no_database(banjia: CommandLine, home: Path) -> None:
    home.mkdir()
    (home / "banjia.sqlite").write_bytes(b"no database, but long enough to be taken for one" * 100)
    assert_sentence(banjia("wave", "status", "first"), 1, "database cannot be used", "not a database")


def test_a_full_disk(banjia: CommandLine, office: Office, wave: Enrolled, tmp_path: Path) -> None:
    """SQLite is told that its file may not grow, which is the same to it."""
    for number in range(300):
        office.add(f"person{number}")
    roster = office.write_roster(tmp_path / "many.csv")
    store().engine.dispose()
    with store().engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count = 1")
    assert_sentence(banjia("wave", "create", roster), 1, "database or disk is full")


@pytest.mark.parametrize(
    ("language", "said"), [("en", "The database cannot be used"), ("zh-CN", "数据库无法使用")], ids=["en", "zh"]
)
def test_a_postgresql_that_does_not_answer(
    banjia: CommandLine, home: Path, monkeypatch: pytest.MonkeyPatch, language: str, said: str
) -> None:
    monkeypatch.setenv("BANJIA_LANGUAGE", language)
    monkeypatch.setenv("BANJIA_DATABASE_URL", "postgresql://banjia:canary@127.0.0.1:1/banjia")
    assert_sentence(banjia("wave", "status", "first"), 5, said, "port 1", "refused")
    ended = banjia("doctor")
    assert "BAD database: connection failed" in ended.stdout
    assert "canary" not in str(ended)


def test_a_postgresql_that_refuses_the_password(
    banjia: CommandLine, home: Path, monkeypatch: pytest.MonkeyPatch, postgres: Postgres
) -> None:
    monkeypatch.setenv("BANJIA_DATABASE_URL", postgres.url("postgres", "canary-wrong-one"))
    ended = banjia("wave", "status", "first")
    assert_sentence(ended, 5, "password authentication failed")
    assert "canary" not in str(ended)


def test_the_doctor_names_a_postgresql_without_its_password(
    banjia: CommandLine, home: Path, monkeypatch: pytest.MonkeyPatch, postgres: Postgres
) -> None:
    name = postgres.create_database()
    for url in (postgres.url(name), postgres.url(name).replace(f":{PASSWORD}@", "@") + f"?password={PASSWORD}"):
        forget_everything()
        monkeypatch.setenv("BANJIA_DATABASE_URL", url)
        found = banjia("doctor", "--json")
        assert found.document["database"]["ok"], found
        assert f"{postgres.host}:{postgres.port}/{name}, 0 waves" in found.document["database"]["detail"]
        assert PASSWORD not in str(found)


def test_a_folder_for_reports_that_cannot_be_made(banjia: CommandLine, wave: Enrolled, tmp_path: Path) -> None:
    (tmp_path / "a file").write_text("")
    assert_sentence(banjia("wave", "report", "first", "--report", tmp_path / "a file" / "reports"), 1, "a file")


def test_a_key_that_others_can_read_stops_a_run_before_it_starts(
    banjia: CommandLine, wave: Enrolled, home: Path, office: Office
) -> None:
    (home / "keys" / "vault.key").chmod(0o644)
    for command in (("wave", "start", "first"), ("wave", "check", "first"), ("wave", "retry", "first")):
        assert_sentence(banjia(*command), 1, "chmod 600")
    assert office.old.log == []
    assert wave.member("li").attempts == 0


def test_the_wrong_key_stops_a_run_before_it_starts(banjia: CommandLine, wave: Enrolled, home: Path) -> None:
    (home / "keys" / "vault.key").write_bytes(Fernet.generate_key())
    assert_sentence(banjia("wave", "start", "first"), 1, "do not open")


@pytest.mark.parametrize(("language", "said"), [("en", "Prefect is not available"), ("zh-CN", "Prefect 服务不可用")])
def test_a_prefect_server_that_does_not_answer(
    banjia: CommandLine, wave: Enrolled, monkeypatch: pytest.MonkeyPatch, language: str, said: str
) -> None:
    monkeypatch.setattr(wave.store.settings, "language", language)
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    assert_sentence(banjia("wave", "start", "first"), 5, said, "PREFECT_API_URL")


@pytest.mark.parametrize(("language", "said"), [("en", "Something unexpected"), ("zh-CN", "程序出错")])
def test_what_nobody_expected_is_in_the_log_without_its_text(
    banjia: CommandLine, wave: Enrolled, home: Path, monkeypatch: pytest.MonkeyPatch, language: str, said: str
) -> None:
    def broken(*_: object) -> None:
        try:
            raise KeyError(old_password("li"))
        except KeyError as error:
            raise ValueError(f"a defect that quotes {old_password('li')}") from error

    monkeypatch.setattr(wave.store.settings, "language", language)
    monkeypatch.setattr(run, "wave_progress", broken)
    ended = banjia("wave", "status", "first")
    assert_sentence(ended, 1, said, "ValueError", str(home / "banjia.log"))
    log = (home / "banjia.log").read_text()
    assert "ValueError at " in log
    assert "after KeyError at " in log
    assert "broken" in log
    assert "canary" not in ended.stderr + log


def test_ctrl_c_before_a_run_is_130(banjia: CommandLine, wave: Enrolled, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "use_prefect", interrupted)
    assert_sentence(banjia("wave", "start", "first"), 130, "the state is saved")
