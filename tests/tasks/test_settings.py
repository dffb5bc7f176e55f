"""Settings: where they come from, which counts, and what is said of a wrong one."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from models.rules import Rules
from tasks.settings import (
    Settings,
    SettingsMistake,
    file_left_out,
    home_directory,
    rules,
    settings,
    terminal_language,
)
from tests.tasks.conftest import forget_everything


@pytest.fixture
def here(home: Path) -> Path:
    home.mkdir()
    return Path.cwd()


def test_the_environment_counts_before_the_files_and_this_folder_before_the_home(
    here: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (home / "banjia.toml").write_text('members_at_once = 2\nhost_connections = 2\nsource_host = "from home"\n')
    (here / "banjia.toml").write_text("members_at_once = 3\nhost_connections = 3\n")
    monkeypatch.setenv("BANJIA_MEMBERS_AT_ONCE", "4")
    found = settings()
    assert (found.members_at_once, found.host_connections, found.source_host) == (4, 3, "from home")


def test_lists_in_the_environment_are_written_with_commas_or_as_json(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANJIA_PLAIN_HOSTS", "imap.old.example, imap.new.example,")
    monkeypatch.setenv("BANJIA_RETRY_DELAYS", "5,60")
    monkeypatch.setenv("BANJIA_REMINDER_DAYS", "[1, 3]")
    found = settings()
    assert found.plain_hosts == ("imap.old.example", "imap.new.example")
    assert (found.retry_delays, found.reminder_days) == ((5.0, 60.0), (1.0, 3.0))


def test_an_empty_variable_is_as_good_as_none(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BANJIA_MEMBERS_AT_ONCE", "")
    assert settings().members_at_once == 8


def test_everything_is_kept_under_the_home(home: Path) -> None:
    found = settings()
    assert found.home == home
    assert found.database == f"sqlite:///{home / 'banjia.sqlite'}"
    assert found.key_file == home / "keys" / "vault.key"


def test_without_a_home_it_is_in_the_user_s(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("BANJIA_HOME", raising=False)
    monkeypatch.setenv("HOME", "/somewhere")
    assert home_directory() == Path("/somewhere/.banjia")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("membres_at_once = 3", "there is no setting 'membres_at_once'"),
        ('members_at_once = "many"', "members_at_once"),
        ("members_at_once = 0", "BANJIA_MEMBERS_AT_ONCE"),
        ('existing = "keep"', "'adopt' or 'copy'"),
        ('language = "fr"', "'zh-CN' or 'en'"),
        ('time_zone = "Mars/Olympus"', "is no time zone"),
        ('time_zone = "../../etc"', "is no time zone"),
        ("plain_hosts = 3", "plain_hosts"),
        ("members_at_once =", "banjia.toml"),
    ],
)
def test_a_mistake_in_a_file_is_named_in_one_line(here: Path, content: str, words: str) -> None:
    (here / "banjia.toml").write_text(content)
    with pytest.raises(SettingsMistake) as caught:
        settings()
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("BANJIA_PLAIN_HOSTS", '["a", "canary', "JSON"),
        ("BANJIA_RETRY_DELAYS", "5, canary", "retry_delays"),
        ("BANJIA_MEMBERS_AT_ONCE", "canary-value", "members_at_once"),
        ("BANJIA_TIME_ZONE", "canary-value", "is no time zone"),
        ("BANJIA_DATABASE_URL", "postgresql://banjia:canary@canary@db/banjia", "write %40"),
        ("BANJIA_DATABASE_URL", "mysql://banjia:canary@db/banjia", "must begin with postgresql://"),
        ("BANJIA_DATABASE_URL", "canary", "is no URL"),
    ],
)
def test_a_mistake_in_the_environment_is_named_without_its_value(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsMistake) as caught:
        settings()
    assert words in str(caught.value)
    assert "canary" not in str(caught.value)


def test_the_password_of_a_database_is_in_no_text_of_the_settings(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = "postgresql://banjia:canary@db.example/banjia"
    monkeypatch.setenv("BANJIA_DATABASE_URL", url)
    found = settings()
    assert found.database == url
    assert "canary" not in repr(found) + str(found) + repr(found.model_dump()) + found.model_dump_json()


def test_a_file_in_another_encoding_is_a_mistake(here: Path) -> None:
    (here / "banjia.toml").write_bytes('source_host = "邮箱"'.encode("gbk"))
    with pytest.raises(SettingsMistake, match=r"banjia\.toml"):
        settings()


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_says_what_it_is(name: str) -> None:
    assert Settings.model_fields[name].description


@pytest.mark.parametrize(
    ("variables", "language"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh-CN"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "en_US.UTF-8", "LC_ALL": "zh_TW.UTF-8"}, "zh-CN"),
        ({"LANG": "C.UTF-8"}, "en"),
    ],
)
def test_the_terminal_s_language_is_taken_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], language: str
) -> None:
    for name in ("LANG", "LC_ALL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert terminal_language() == language


def test_a_chosen_language_counts_before_the_terminal_s(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LANG", "en_US.UTF-8")
    monkeypatch.setenv("BANJIA_LANGUAGE", "zh-CN")
    assert settings().spoken_language == "zh-CN"


@pytest.mark.parametrize(
    "harm",
    [
        lambda here: (here / "banjia.toml").chmod(0o646),
        lambda here: here.chmod(0o757),
        lambda here: os.chown(here / "banjia.toml", 65534, 65534),
        lambda here: os.chown(here, 65534, 65534),
        lambda here: _linked(here),
    ],
    ids=["its mode", "the folder's mode", "its owner", "the folder's owner", "a link to a file of others"],
)
def test_a_file_here_that_another_user_may_have_written_does_not_count(
    here: Path, home: Path, harm: Callable[[Path], None]
) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root can give files away")
    (home / "banjia.toml").write_text('source_host = "from home"\n')
    (here / "banjia.toml").write_text('source_host = "from here"\n[folders]\nexclude = ["Archive"]\n')
    assert settings().source_host == "from here"
    assert rules() != Rules()
    assert file_left_out() is None
    forget_everything()
    harm(here)
    assert settings().source_host == "from home"
    assert rules() == Rules()
    told = file_left_out()
    assert told is not None
    assert "chmod go-w" in told.zh
    assert "chmod go-w" in told.en


def _linked(here: Path) -> None:
    other = here.parent / "other"
    other.mkdir()
    other.chmod(0o777)
    (here / "banjia.toml").rename(other / "banjia.toml")
    (here / "banjia.toml").symlink_to(other / "banjia.toml")
