"""Notices and the address book in real flows."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlmodel import select

from models.check import MemberCheck
from models.database import reading
from models.notices import NoticeKind, open_notices, wave_notices
from models.states import MemberState
from tasks.store import store
from tests.servers.feishu import APP_ID, APP_SECRET, OpenPlatform, refusal, running_platform
from tests.servers.smtp import MailSink, running_smtp
from tests.tasks.conftest import forget_everything
from tests.tasks.office import Enrolled, Office

pytestmark = [pytest.mark.prefect, pytest.mark.filterwarnings("ignore::DeprecationWarning")]


@pytest.fixture
def sink(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MailSink]:
    with running_smtp() as found:
        for name, value in {
            "SMTP_HOST": "127.0.0.1",
            "SMTP_PORT": str(found.port),
            "SMTP_SECURITY": "plain",
            "MAIL_FROM": "IT <it@corp.example>",
            "QUIET_HOURS": "never",
            "LANGUAGE": "en",
        }.items():
            monkeypatch.setenv(f"BANJIA_{name}", value)
        yield found


def subjects(sink: MailSink) -> list[str]:
    return [str(message["Subject"]).split(":")[0] for message in sink.taken]


def test_a_run_tells_members_that_they_are_through_and_the_hourly_flow_says_it_no_second_time(
    sink: MailSink, office: Office
) -> None:
    from flows.migrate_wave import migrate_wave
    from flows.notify_wave import notify_wave

    office.add("li")
    Enrolled(office)
    open_notices(store().engine, "first")
    assert notify_wave(return_state=True).message == "1 sent, 0 to be tried again, 0 refused or perhaps sent"
    migrate_wave("first", return_state=True)
    assert subjects(sink) == ["Your mailbox moves", "Your mail is in the new mailbox li@new.example"]
    assert notify_wave(return_state=True).message == "0 sent, 0 to be tried again, 0 refused or perhaps sent"
    assert len(sink.taken) == 2


def test_a_mail_server_that_is_away_fails_no_run_and_the_flow_says_so(
    sink: MailSink, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.migrate_wave import migrate_wave
    from flows.notify_wave import notify_wave

    monkeypatch.setenv("BANJIA_SMTP_PORT", "9")
    forget_everything()
    office.add("li")
    enrolled = Enrolled(office)
    open_notices(store().engine, "first")
    assert migrate_wave("first", return_state=True).is_completed()
    assert enrolled.member("li").state == MemberState.SYNCED
    assert [notice.kind for notice in wave_notices(store().engine, "first")] == [NoticeKind.COMPLETION]
    ended = notify_wave(return_state=True)
    assert (ended.is_completed(), ended.name) == (True, "CompletedWithFailures")


def test_settings_that_cannot_be_used_fail_no_run(
    sink: MailSink, office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.migrate_wave import migrate_wave

    monkeypatch.setenv("BANJIA_SMTP_USER", "it")
    forget_everything()
    office.add("li")
    Enrolled(office)
    assert migrate_wave("first", return_state=True).is_completed()


def test_with_nothing_set_the_hourly_flow_does_nothing(office: Office, home: Path) -> None:
    from flows.notify_wave import notify_wave

    office.add("li")
    Enrolled(office)
    assert notify_wave(return_state=True).message == "neither a mail server nor a chat is set"


# Addresses in a check


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


def findings(name: str, enrolled: Enrolled) -> dict[str, str]:
    """What the last check found of a member, with the server's words."""
    with reading(store().engine) as session:
        row = session.exec(select(MemberCheck).where(MemberCheck.member_id == enrolled.member(name).id)).first()
    return {each["name"]: each["server_text"] for each in json.loads(row.document)["findings"]} if row else {}


def test_a_check_names_addresses_that_take_no_mail_also_where_a_password_is_missing(
    platform: OpenPlatform, office: Office
) -> None:
    from flows.check_wave import check_wave

    for name in ("li", "wang", "zhao"):
        office.add(name)
    enrolled = Enrolled(office, office.row("li"), office.row("wang"), office.row("zhao", Password=""))
    platform.known = {"li@new.example": (4, 1), "wang@new.example": (4, 2), "zhao@new.example": (6, 1)}
    check_wave("first", return_state=True)
    assert len(platform.queries) == 1
    assert "address_alias" in findings("wang", enrolled)
    assert "address_disabled" in findings("zhao", enrolled)
    assert not any(name.startswith("address") for name in findings("li", enrolled))


def test_a_check_goes_on_without_the_address_book_and_says_why_it_did(platform: OpenPlatform, office: Office) -> None:
    from flows.check_wave import check_wave

    office.add("li")
    enrolled = Enrolled(office)
    platform.instead.append(refusal(99991672))
    check_wave("first", return_state=True)
    assert "mail:user_mailbox" in findings("li", enrolled)["address_untold"]
    assert enrolled.member("li").state == MemberState.READY
