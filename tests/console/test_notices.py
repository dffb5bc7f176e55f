"""`banjia notices` and `banjia wave addresses`: what they print, write and end with."""

import json
from collections.abc import Iterator
from email import message_from_bytes, policy
from pathlib import Path

import pytest

from tests.console.conftest import CommandLine
from tests.servers.feishu import APP_ID, APP_SECRET, OpenPlatform, refusal, running_platform
from tests.servers.smtp import MailSink, running_smtp
from tests.tasks.conftest import forget_everything
from tests.tasks.office import Enrolled, Office

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def enrolled(office: Office, home: Path) -> Enrolled:
    for name in ("li", "wang"):
        office.add(name)
    return Enrolled(office)


@pytest.fixture
def sink(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MailSink]:
    with running_smtp() as found:
        for name, value in {
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(found.port),
            "SMTP_SECURITY": "plain",
            "MAIL_FROM": "IT <it@corp.example>",
            "QUIET_HOURS": "never",
        }.items():
            monkeypatch.setenv(f"BANJIA_{name}", value)
        yield found


def test_a_preview_writes_files_in_both_languages_and_sends_nothing(
    sink: MailSink, enrolled: Enrolled, banjia: CommandLine, tmp_path: Path
) -> None:
    ended = banjia("notices", "preview", "first", "--out", str(tmp_path / "out"), "--json")
    assert ended.code == 0
    listed = {Path(file).name for file in json.loads(ended.stdout)["files"]}
    assert listed == {
        f"{kind}.{language}.{ending}"
        for kind in ("invitation", "reminder", "completion", "summary")
        for language in ("zh-CN", "en")
        for ending in ("html", "txt", "eml")
    }
    assert {file.name for file in (tmp_path / "out").iterdir()} == listed
    message = message_from_bytes((tmp_path / "out" / "invitation.en.eml").read_bytes(), policy=policy.default)
    assert message["To"] == "li@old.example"
    assert sink.taken == []
    assert json.loads(banjia("notices", "status", "first", "--json").stdout)["notices"] == []


def test_a_preview_may_be_of_one_kind_one_member_and_one_language(
    enrolled: Enrolled, banjia: CommandLine, tmp_path: Path
) -> None:
    only = ("--kind", "invitation", "--member", "Wang@new.example", "--language", "zh-CN")
    assert banjia("notices", "preview", "first", *only, "--out", str(tmp_path / "o")).code == 0
    assert sorted(file.suffix for file in (tmp_path / "o").iterdir()) == [".eml", ".html", ".txt"]
    assert "wang@old.example" in (tmp_path / "o" / "invitation.zh-CN.txt").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--kind", "invitations"), "invitation, reminder, completion, summary, alarm"),
        (("--member", "nobody@new.example"), "nobody@new.example"),
        (("--language", "fr"), "zh-CN or en"),
    ],
)
def test_a_preview_of_what_there_is_not_is_refused(
    enrolled: Enrolled, banjia: CommandLine, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], said: str
) -> None:
    monkeypatch.setenv("BANJIA_LANGUAGE", "en")
    ended = banjia("notices", "preview", "first", *words)
    assert ended.code == 2
    assert said in ended.stderr


def test_sending_opens_the_wave_and_status_tells_what_became_of_it(
    sink: MailSink, enrolled: Enrolled, banjia: CommandLine
) -> None:
    sink.answer = lambda step, about: "550 5.1.1 unknown" if (step, about) == ("RCPT", "wang@old.example") else None
    dry = json.loads(banjia("notices", "send", "first", "--dry-run", "--json").stdout)
    assert [each["recipient"] for each in dry["due"]] == ["li@old.example", "wang@old.example"]
    assert json.loads(banjia("notices", "status", "first", "--json").stdout)["members_since"] is None
    ended = banjia("notices", "send", "first", "--json")
    assert ended.code == 3
    assert json.loads(ended.stdout) == {
        "wave": "first",
        "sent": 1,
        "later": 0,
        "refused": 1,
        "unknown": 0,
        "quiet_until": None,
        "trouble": "",
    }
    told = json.loads(banjia("notices", "status", "first", "--json").stdout)
    assert told["members_since"]
    assert [(each["member"], each["recipient"], each["state"], each["bounced"]) for each in told["notices"]] == [
        ("li@new.example", "li@old.example", "sent", False),
        ("wang@new.example", "wang@old.example", "refused", True),
    ]
    shown = banjia("notices", "status", "first").stdout
    assert "550 5.1.1 unknown" in shown
    again = banjia("notices", "send", "first", "--json")
    assert again.code == 0
    assert len(sink.taken) == 1


def test_status_tells_a_trouble_of_many_once_and_when_they_are_tried_again(
    sink: MailSink, enrolled: Enrolled, banjia: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANJIA_LANGUAGE", "en")
    sink.answer = lambda step, _about: "451 4.7.1 too many" if step == "MAIL" else None
    assert banjia("notices", "send", "first").code == 3
    shown = banjia("notices", "status", "first").stdout
    assert shown.count("451 4.7.1 too many") == 1
    assert "Next try: 20" in shown
    assert "li@old.example, wang@old.example" in shown


def test_again_sends_what_was_refused_once_more(sink: MailSink, enrolled: Enrolled, banjia: CommandLine) -> None:
    sink.answer = lambda step, _about: "554 5.7.1 no" if step == "END" else None
    assert banjia("notices", "send", "first").code == 3
    sink.answer = lambda _step, _about: None
    assert banjia("notices", "send", "first", "--again").code == 0
    assert len(sink.taken) == 2


def test_without_a_mail_server_and_a_chat_nothing_can_be_sent(
    enrolled: Enrolled, banjia: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANJIA_LANGUAGE", "zh-CN")
    ended = banjia("notices", "send", "first")
    assert ended.code == 2
    assert "BANJIA_SMTP_HOST" in ended.stderr


def test_a_setting_that_cannot_be_used_is_said_in_one_sentence(
    sink: MailSink, enrolled: Enrolled, banjia: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANJIA_SMTP_USER", "it")
    monkeypatch.setenv("BANJIA_LANGUAGE", "en")
    forget_everything()
    ended = banjia("notices", "send", "first")
    assert ended.code == 2
    assert "banjia vault set smtp" in ended.stderr
    assert banjia("doctor").code == 3


def test_the_doctor_signs_in_to_the_mail_server(sink: MailSink, home: Path, banjia: CommandLine) -> None:
    found = json.loads(banjia("doctor", "--json").stdout)["notices"]
    assert found["ok"]
    assert "127.0.0.1" in found["detail"]
    assert sink.taken == []


# Addresses


@pytest.fixture
def platform(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[OpenPlatform]:
    secret = tmp_path / "feishu"
    secret.write_text(APP_SECRET)
    secret.chmod(0o600)
    with running_platform() as found:
        monkeypatch.setenv("BANJIA_FEISHU_APP_ID", APP_ID)
        monkeypatch.setenv("BANJIA_FEISHU_SECRET_FILE", str(secret))
        monkeypatch.setenv("BANJIA_FEISHU_DOMAIN", found.url)
        monkeypatch.setenv("BANJIA_LANGUAGE", "en")
        yield found


def test_new_addresses_are_told_with_what_is_wrong_and_what_to_do(
    platform: OpenPlatform, enrolled: Enrolled, banjia: CommandLine
) -> None:
    platform.known = {"li@new.example": (4, 1), "wang@new.example": (5, 1)}
    ended = banjia("wave", "addresses", "first")
    assert ended.code == 3
    assert "in the recycle bin (1)" in ended.stdout
    assert "wang@new.example" in ended.stdout
    assert "What to do: Restore the mailbox" in ended.stdout
    told = json.loads(banjia("wave", "addresses", "first", "--json").stdout)["addresses"]
    assert [(each["email"], each["standing"], each["finding"]) for each in told] == [
        ("li@new.example", "enabled", None),
        ("wang@new.example", "recycled", "address_recycled"),
    ]
    platform.known["wang@new.example"] = (4, 3)
    assert banjia("wave", "addresses", "first").code == 0


def test_a_permission_that_is_missing_is_told_with_its_page(
    platform: OpenPlatform, enrolled: Enrolled, banjia: CommandLine
) -> None:
    platform.instead.append(refusal(99991672))
    ended = banjia("wave", "addresses", "first")
    assert ended.code == 5
    assert f"/app/{APP_ID}/auth?q=mail:user_mailbox" in ended.stderr


def test_without_an_app_the_setting_is_named(enrolled: Enrolled, banjia: CommandLine) -> None:
    ended = banjia("wave", "addresses", "first")
    assert ended.code == 2
    assert "BANJIA_FEISHU_APP_ID" in ended.stderr
