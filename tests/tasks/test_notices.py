"""A wave's notices from end to end: real mail over loopback, and what is left after a kill, a refusal, an absence."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from queue import SimpleQueue

import pytest
from sqlmodel import select

from models.bilingual import Language
from models.columns import now
from models.database import reading, writing
from models.enrol import enrol
from models.hosts import Host
from models.member import Member
from models.notices import MEMBER_KINDS, Notice, NoticeKind, NoticeState, open_notices, send_again, wave_notices
from models.roster import read_roster
from models.states import MemberState, WaveState
from models.wave import Wave
from tasks.migrate_member import migrate_member
from tasks.notice_letters import Look
from tasks.notice_mail import Mail
from tasks.notices import Told, due_notices, tell_wave
from tasks.store import store
from tests.servers.chat import HANG_UP as CHAT_HANGS_UP
from tests.servers.chat import ChatRoom, running_chats
from tests.servers.secrets_scan import find_secrets
from tests.servers.smtp import HANG_UP, PASSWORD, USER, MailSink, running_smtp
from tests.tasks.conftest import forget_everything
from tests.tasks.office import Enrolled, Office

pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning")
N, K = NoticeState, NoticeKind
CHILD = "import sys; from console.cli import app; app(sys.argv[1:])"


@pytest.fixture
def sink(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MailSink]:
    with running_smtp() as found:
        set_all(
            monkeypatch,
            SMTP_HOST="127.0.0.1",
            SMTP_PORT=str(found.port),
            SMTP_SECURITY="plain",
            MAIL_FROM="IT <it@corp.example>",
            QUIET_HOURS="never",
            LANGUAGE="en",
        )
        yield found


def set_all(monkeypatch: pytest.MonkeyPatch, **settings: str) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(f"BANJIA_{name}", value)


@pytest.fixture
def enrolled(office: Office, sink: MailSink) -> Enrolled:
    """Three members who were invited to nothing yet."""
    for name in ("li", "wang", "zhao"):
        office.add(name)
    found = Enrolled(office)
    open_notices(store().engine, "first")
    return found


def tell(**options: object) -> Told:
    return tell_wave(store(), "first", **options)  # type: ignore[arg-type]


def notices(*kinds: NoticeKind) -> list[Notice]:
    return [notice for notice in wave_notices(store().engine, "first") if notice.kind in (kinds or tuple(K))]


def change(name: str, **values: object) -> None:
    with writing(store().engine) as session:
        member = session.exec(select(Member).where(Member.email == f"{name}@new.example")).one()
        for column, value in values.items():
            setattr(member, column, value)
        session.add(member)


def later(**by: float) -> None:
    """Let all notices have been due, and sent, that much earlier; a summary's key names its day."""
    with writing(store().engine) as session:
        for notice in session.exec(select(Notice)):
            notice.next_at -= timedelta(**by)
            notice.due_at -= timedelta(**by)
            notice.sent_at = notice.sent_at - timedelta(**by) if notice.sent_at else None
            if notice.kind == K.SUMMARY and "days" in by:
                notice.key = f"earlier-{notice.id}-{notice.key}"
            session.add(notice)


def states() -> dict[str, NoticeState]:
    return {notice.recipient: notice.state for notice in notices()}


def test_everybody_is_invited_once_however_often_it_runs(enrolled: Enrolled, sink: MailSink) -> None:
    assert tell().sent == 3
    assert tell().sent == 0
    assert sorted(sink.recipients) == ["li@old.example", "wang@old.example", "zhao@old.example"]
    assert sink.connections == 2  # aiosmtpd looks whether it listens with one of its own


def test_nothing_goes_out_before_the_wave_is_opened(office: Office, sink: MailSink) -> None:
    office.add("li")
    Enrolled(office)
    assert tell() == Told()
    assert sink.taken == []


def test_a_dry_run_names_what_is_due_and_writes_nothing(enrolled: Enrolled, sink: MailSink) -> None:
    assert [(each.kind, each.recipient) for each in due_notices(store(), "first")] == [
        (K.INVITATION, f"{name}@old.example") for name in ("li", "wang", "zhao")
    ]
    assert notices() == []
    assert sink.taken == []


def test_members_read_their_own_language(enrolled: Enrolled, sink: MailSink) -> None:
    change("li", language="zh-CN", display_name="李雷")
    tell()
    subjects = {message["To"]: message["Subject"] for message in sink.taken}
    assert subjects["li@old.example"] == "邮箱搬家：li@old.example 将搬到 li@new.example"
    assert subjects["wang@old.example"] == "Your mailbox moves: wang@old.example to wang@new.example"
    assert sink.to("li@old.example")[0]["Content-Language"] == "zh-CN"


def test_in_quiet_hours_members_wait_and_an_alarm_does_not(
    enrolled: Enrolled, sink: MailSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    local = now()
    quiet = f"{local - timedelta(hours=1):%H:%M}-{local + timedelta(hours=1):%H:%M}"
    set_all(monkeypatch, QUIET_HOURS=quiet, ADMIN_ADDRESSES='["admin@corp.example"]')
    forget_everything()
    change("zhao", state=MemberState.FAILED, cause="connect_failed")
    told = tell()
    assert told.quiet_until is not None
    assert timedelta() < told.quiet_until - now() <= timedelta(hours=1)
    assert [message["To"] for message in sink.taken] == ["admin@corp.example"]
    assert tell(in_quiet_hours=True).sent == 3


def test_greylisting_is_waited_for_and_the_mail_is_the_same_one(enrolled: Enrolled, sink: MailSink) -> None:
    sink.answer = lambda step, about: "450 4.2.0 later" if (step, about) == ("RCPT", "li@old.example") else None
    told = tell()
    assert (told.sent, told.later) == (2, 1)
    assert tell() == Told()
    key = next(notice.key for notice in notices() if notice.state == N.WAITING)
    sink.answer = lambda _step, _about: None
    later(minutes=16)
    assert tell().sent == 1
    assert sink.to("li@old.example")[0]["Message-ID"] == f"<{key}@corp.example>"
    assert states()["li@old.example"] == N.SENT


def test_an_address_that_nobody_has_is_told_and_not_written_to_again(enrolled: Enrolled, sink: MailSink) -> None:
    sink.answer = lambda step, about: "550 5.1.1 unknown" if (step, about) == ("RCPT", "li@old.example") else None
    assert tell().refused == 1
    (bounced,) = [notice for notice in notices() if notice.bounced]
    assert (bounced.state, bounced.error) == (N.REFUSED, "550 5.1.1 unknown")
    sink.answer = lambda _step, _about: None
    later(days=30)
    change("li", state=MemberState.NEEDS_PASSWORD, cause="bad_credentials")
    assert tell().sent == 0
    change("li", notify_address="li@mail.example")
    assert tell().sent == 1
    assert sink.recipients[-1] == "li@mail.example"


def test_a_server_that_is_away_loses_nothing_and_is_left_alone_for_a_while(
    enrolled: Enrolled, sink: MailSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, SMTP_PORT="9")
    forget_everything()
    told = tell()
    assert (told.later, told.sent) == (3, 0)
    assert "127.0.0.1:9" in told.trouble
    assert {notice.state for notice in notices()} == {N.WAITING}
    assert all("127.0.0.1:9" in notice.error for notice in notices())
    set_all(monkeypatch, SMTP_PORT=str(sink.port))
    forget_everything()
    assert tell().sent == 0
    assert tell(patient=False).sent == 3


def test_a_server_that_ends_each_connection_after_two_mails_takes_all(enrolled: Enrolled, sink: MailSink) -> None:
    taken_before: list[int] = []

    def answer(step: str, _about: str) -> str | None:
        if step == "MAIL" and len(sink.taken) - (taken_before[-1] if taken_before else 0) == 2:
            taken_before.append(len(sink.taken))
            return HANG_UP
        return None

    sink.answer = answer
    assert tell().sent == 3
    assert len(sink.taken) == 3


def test_a_broken_connection_after_the_end_is_unknown_and_not_sent_again_by_itself(
    enrolled: Enrolled, sink: MailSink
) -> None:
    sink.answer = lambda step, about: HANG_UP if (step, about) == ("END", "li@old.example") else None
    told = tell()
    assert (told.unknown, told.sent) == (1, 2)
    sink.answer = lambda _step, _about: None
    later(days=30)
    tell()
    assert len(sink.to("li@old.example")) == 1
    send_again(store().engine, "first", MEMBER_KINDS)
    assert tell().sent == 1
    first, second = sink.to("li@old.example")
    assert first["Message-ID"] == second["Message-ID"]


def test_a_sender_that_is_refused_burns_no_try_and_an_admin_may_try_at_once(enrolled: Enrolled, sink: MailSink) -> None:
    sink.answer = lambda step, _about: "550 5.7.1 sender not allowed" if step == "MAIL" else None
    told = tell()
    assert (told.later, told.trouble) == (3, "550 5.7.1 sender not allowed")
    assert {notice.attempts for notice in notices()} == {0}
    sink.answer = lambda _step, _about: None
    assert tell().trouble == "550 5.7.1 sender not allowed"
    assert tell(patient=False).sent == 3


def test_a_notice_that_cannot_be_written_stops_no_other(
    enrolled: Enrolled, sink: MailSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Look.mail

    def broken(self: Look, notice: Notice, language: Language | None = None) -> Mail:
        if notice.recipient == "li@old.example":
            raise KeyError("canary-of-the-text")
        return whole(self, notice, language)

    monkeypatch.setattr(Look, "mail", broken)
    told = tell()
    assert (told.sent, told.refused) == (2, 1)
    assert states()["li@old.example"] == N.REFUSED
    assert "canary" not in str([notice.error for notice in notices()])


def meanwhile(monkeypatch: pytest.MonkeyPatch, happens: Callable[[], object]) -> None:
    """Let something happen once, when everything is planned and the first notice is about to be written."""
    whole, left = Look.mail, [happens]

    def mail(self: Look, notice: Notice, language: Language | None = None) -> Mail:
        if left:
            left.pop()()
        return whole(self, notice, language)

    monkeypatch.setattr(Look, "mail", mail)


def test_who_is_through_before_their_reminder_leaves_is_not_reminded(
    enrolled: Enrolled, sink: MailSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    tell()
    for name in ("li", "wang", "zhao"):
        change(name, state=MemberState.NEEDS_PASSWORD, cause="bad_credentials")
    later(days=2)
    meanwhile(monkeypatch, lambda: change("zhao", state=MemberState.SYNCED, cause=None))
    assert tell(kinds=[K.REMINDER]).sent == 2
    assert len(sink.to("zhao@old.example")) == 1
    dropped = {notice.recipient for notice in notices(K.REMINDER) if notice.state == N.DROPPED}
    assert dropped == {"zhao@old.example"}


def test_who_leaves_the_wave_or_is_written_to_elsewhere_meanwhile_gets_nothing_at_the_old_address(
    enrolled: Enrolled, sink: MailSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    def happens() -> None:
        change("wang", state=MemberState.REMOVED)
        change("zhao", notify_address="zhao@mail.example")

    meanwhile(monkeypatch, happens)
    assert tell().sent == 1
    assert sink.recipients == ["li@old.example"]
    assert tell().sent == 1
    assert sink.recipients == ["li@old.example", "zhao@mail.example"]


def test_a_wave_that_is_cancelled_stops_its_notices_at_once_and_for_good(
    enrolled: Enrolled, sink: MailSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, ADMIN_ADDRESSES='["admin@corp.example"]')
    forget_everything()

    def cancel() -> None:
        with writing(store().engine) as session:
            wave = session.exec(select(Wave)).one()
            wave.state = WaveState.CANCELLED
            session.add(wave)

    meanwhile(monkeypatch, cancel)
    assert tell().sent == 1  # it was being written
    assert {notice.state for notice in notices()} == {N.SENT, N.DROPPED}
    change("wang", state=MemberState.FAILED, cause="connect_failed")
    later(days=30)
    assert tell() == Told()
    assert len(sink.taken) == 1


def test_two_runs_at_once_say_everything_once(
    enrolled: Enrolled, sink: MailSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    inner: list[Told] = []
    meanwhile(monkeypatch, lambda: inner.append(tell()))
    assert tell().sent == 0
    assert inner[0].sent == 3
    assert sorted(sink.recipients) == ["li@old.example", "wang@old.example", "zhao@old.example"]


def test_two_processes_at_once_say_everything_once(office: Office, sink: MailSink) -> None:
    names = [f"m{number}" for number in range(12)]
    for name in names:
        office.add(name)
    Enrolled(office)
    command = [sys.executable, "-c", CHILD, "notices", "send", "first"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for _ in range(2)]
    for each in both:
        out, _ = each.communicate()
        assert each.returncode == 0, out.decode()
    assert sorted(sink.recipients) == sorted(f"{name}@old.example" for name in names)
    assert set(states().values()) == {N.SENT}


def test_a_server_that_takes_only_so_much_a_while_gets_the_rest_later_and_all_of_it_once(
    enrolled: Enrolled, sink: MailSink
) -> None:
    refusals: list[str] = []

    def answer(step: str, _about: str) -> str | None:
        if step == "MAIL" and sink.taken:
            refusals.append(step)
            return "451 4.7.1 too many messages in this hour"
        return None

    sink.answer = answer
    told = tell()
    assert (told.sent, told.later, told.trouble) == (1, 2, "451 4.7.1 too many messages in this hour")
    assert len(refusals) == 2  # once in that connection, once in a new one, and then no more
    sink.answer = lambda _step, _about: None
    assert tell().sent == 0
    later(minutes=31)
    assert tell().sent == 2
    assert sorted(sink.recipients) == ["li@old.example", "wang@old.example", "zhao@old.example"]


def test_greylisting_after_a_long_absence_is_waited_for_all_the_same(
    enrolled: Enrolled, sink: MailSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Time in which nothing could be tried is no time in which it was refused."""
    set_all(monkeypatch, SMTP_PORT="9")
    forget_everything()
    assert tell().later == 3
    later(days=3)
    set_all(monkeypatch, SMTP_PORT=str(sink.port))
    forget_everything()
    sink.answer = lambda step, _about: "450 4.2.0 later" if step == "RCPT" else None
    assert tell().later == 3
    sink.answer = lambda _step, _about: None
    later(minutes=16)
    assert tell().sent == 3


def test_a_refused_sign_in_is_refused_for_all_waves_and_an_admin_may_try_at_once(
    office: Office, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running_smtp(sign_in=True) as sink:
        set_all(monkeypatch, SMTP_HOST="127.0.0.1", SMTP_PORT=str(sink.port), SMTP_SECURITY="plain", SMTP_USER=USER)
        set_all(monkeypatch, MAIL_FROM="it@corp.example", QUIET_HOURS="never")
        for name in ("li", "wang"):
            office.add(name)
        kept = Enrolled(office, office.row("li")).store
        enrol(kept.engine, kept.vault, "second", read_roster(office.roster(office.row("wang"))), kept.default_servers)
        kept.vault.put_standing("smtp", PASSWORD)
        for wave in ("first", "second"):
            open_notices(kept.engine, wave)
        sink.sign_in_refusal = "535 5.7.8 wrong"
        assert [tell_wave(kept, wave).trouble for wave in ("first", "second")] == ["535 5.7.8 wrong"] * 2
        assert len(sink.sign_ins) == 1
        sink.sign_in_refusal = ""
        assert [tell_wave(kept, wave, patient=False).sent for wave in ("first", "second")] == [1, 1]
        assert sorted(sink.recipients) == ["li@old.example", "wang@old.example"]


@pytest.mark.parametrize("step", ["MAIL", "RCPT", "DATA", "END"])
def test_a_process_that_is_killed_while_it_hands_a_mail_over_sends_it_no_second_time(
    enrolled: Enrolled, sink: MailSink, step: str
) -> None:
    """Killed at each step of the dialogue with the mail server; that mail is unknown, the others go out."""
    started: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()

    def kill(now_at: str, about: str) -> str | None:
        if now_at == step and (step == "MAIL" or about == "li@old.example"):
            # Once: what the test says after its end comes to other ears.
            child = started.get()
            child.kill()
            child.wait()
            return HANG_UP
        return None

    sink.answer = kill
    command = [sys.executable, "-c", CHILD, "notices", "send", "first"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        started.put(child)
    assert child.returncode == -signal.SIGKILL
    sink.answer = lambda _step, _about: None
    told = tell(patient=False)
    assert (told.sent, told.unknown) == (2, 0)
    assert states() == {"li@old.example": N.UNKNOWN, "wang@old.example": N.SENT, "zhao@old.example": N.SENT}
    assert len(sink.to("li@old.example")) == (1 if step == "END" else 0)
    later(days=3)
    tell()
    assert len(sink.to("li@old.example")) == (1 if step == "END" else 0)


def test_the_password_stays_out_of_everything_that_is_kept(
    office: Office, home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with running_smtp(sign_in=True) as sink:
        sink.answer = lambda step, _about: f"550 5.7.1 {PASSWORD}?" if step == "RCPT" else None
        set_all(monkeypatch, SMTP_HOST="127.0.0.1", SMTP_PORT=str(sink.port), SMTP_SECURITY="plain", SMTP_USER=USER)
        set_all(monkeypatch, MAIL_FROM="it@corp.example", QUIET_HOURS="never")
        office.add("li")
        Enrolled(office)
        store().vault.put_standing("smtp", PASSWORD)
        open_notices(store().engine, "first")
        assert tell().refused == 1
        assert sink.sign_ins == ["PLAIN"]
    assert notices()[0].error == "550 5.7.1 ***?"
    assert find_secrets([PASSWORD], [home]) == []


# Admins


def told_to_admin(sink: MailSink) -> list[str]:
    return [str(message["Subject"]) for message in sink.to("admin@corp.example")]


@pytest.fixture
def running(enrolled: Enrolled, monkeypatch: pytest.MonkeyPatch) -> Enrolled:
    """A wave that has run, and an admin who wants to know.

    Their day does not end while a test runs: each day has a summary of its own.
    """
    zone = "UTC" if 6 <= now().hour < 18 else "Etc/GMT+12"
    set_all(monkeypatch, ADMIN_ADDRESSES='["admin@corp.example"]', SUMMARY_AT="00:00", NOTICE_ZONE=zone)
    forget_everything()
    with writing(store().engine) as session:
        wave = session.exec(select(Wave)).one()
        wave.run_started_at = now() - timedelta(hours=1)
        session.add(wave)
    return enrolled


def test_the_daily_summary_tells_what_changed_since_the_last_one(running: Enrolled, sink: MailSink) -> None:
    tell(kinds=[K.SUMMARY])
    assert told_to_admin(sink) == ["Move first: 0 of 3 mailboxes moved, 0 need attention"]
    later(days=1)
    assert tell(kinds=[K.SUMMARY]).sent == 0  # nothing has changed
    change("li", state=MemberState.SYNCED)
    change("wang", state=MemberState.NEEDS_PASSWORD, cause="bad_credentials")
    tell(kinds=[K.SUMMARY])
    message = sink.to("admin@corp.example")[-1]
    assert message["Subject"] == "Move first: 1 of 3 mailboxes moved, 1 needs attention"
    body = message.get_body(("plain",))
    assert body is not None
    text = body.get_content().replace("\r\n", "\n")
    assert "■ Moved since\nli@new.example\n" in text
    assert "Wrong user name or password (member's turn): wang@new.example" in text
    assert "1 (+1)" in text


def test_a_summary_that_was_lost_is_told_with_the_next_one(running: Enrolled, sink: MailSink) -> None:
    tell(kinds=[K.SUMMARY])
    later(days=1)
    change("li", state=MemberState.SYNCED)
    sink.answer = lambda step, _about: "554 5.7.1 no" if step == "END" else None
    assert tell(kinds=[K.SUMMARY]).refused == 1
    sink.answer = lambda _step, _about: None
    later(days=1)
    assert tell(kinds=[K.SUMMARY]).sent == 1
    body = sink.to("admin@corp.example")[-1].get_body(("plain",))
    assert body is not None
    assert "li@new.example" in body.get_content()


def test_a_server_that_stops_members_is_an_alarm_and_not_every_hour(running: Enrolled, sink: MailSink) -> None:
    for name in ("li", "wang"):
        change(name, state=MemberState.FAILED, cause="connect_failed", cause_side="source")
    assert tell(kinds=[K.ALARM]).sent == 1
    assert tell(kinds=[K.ALARM]).sent == 0
    (subject,) = told_to_admin(sink)
    assert subject.startswith("Move first: ")
    body = sink.to("admin@corp.example")[0].get_body(("plain",))
    assert body is not None
    assert "127.0.0.1" in body.get_content()
    assert "li@new.example, wang@new.example" in body.get_content()


def test_an_alarm_says_until_when_a_server_is_left_alone(running: Enrolled, sink: MailSink, office: Office) -> None:
    """Also one that listens at a port of its own, and the new one."""
    until = now() + timedelta(hours=2)
    with writing(store().engine) as session:
        session.add(Host(name=f"127.0.0.1:{office.new.port}", cause="login_throttled", paused_until=until))
    assert tell(kinds=[K.ALARM]).sent == 1
    body = sink.to("admin@corp.example")[0].get_body(("plain",))
    assert body is not None
    said = body.get_content()
    assert f"127.0.0.1:{office.new.port}" in told_to_admin(sink)[0]
    assert f"{until.astimezone(store().settings.notices_zone):%Y-%m-%d %H:%M}" in said
    assert "left alone until" in said


def test_the_completion_counts_what_was_moved(running: Enrolled, sink: MailSink) -> None:
    with reading(store().engine) as session:
        member = session.exec(select(Member).where(Member.email == "li@new.example")).one()
    migrate_member.fn(member.id or 0, member.email)
    tell(kinds=[K.COMPLETION])
    (message,) = sink.to("li@old.example")
    assert message["Subject"] == "Your mail is in the new mailbox li@new.example"
    body = message.get_body(("plain",))
    assert body is not None
    lines = [line.strip() for line in body.get_content().splitlines()]
    assert "Messages in the old mailbox  3" in lines
    assert "Copied  3" in lines
    assert "Not moved  0" in lines


# Chats


@pytest.fixture
def room(running: Enrolled, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[ChatRoom]:
    """A wave that has run, and admins in a chat."""
    with running_chats() as found:
        file = tmp_path / "chats"
        file.write_text(f"{found.url}/open-apis/bot/v2/hook/canary-hook\n")
        file.chmod(0o600)
        set_all(monkeypatch, CHAT_URLS_FILE=str(file), ADMIN_ADDRESSES="[]")
        forget_everything()
        yield found


def test_a_chat_that_refuses_is_told_of_and_its_next_summary_tells_everything(room: ChatRoom) -> None:
    room.instead.append((200, {"code": 19024, "msg": "Key Words Not Found"}))
    assert tell(kinds=[K.SUMMARY]).refused == 1
    (refused,) = notices()
    assert "关键词" in refused.error
    assert "canary" not in refused.error + refused.recipient
    later(days=1)
    change("li", state=MemberState.SYNCED)
    assert tell(kinds=[K.SUMMARY]).sent == 1
    text = room.received[-1].body["content"]["text"]
    assert "This is the first summary" in text
    assert "li@new.example" in text
    assert "This mail" not in text


def test_a_chat_that_is_busy_gets_the_message_later_and_once(room: ChatRoom) -> None:
    room.instead.append((200, {"code": 11232, "msg": "frequency limited"}))
    change("li", state=MemberState.FAILED, cause="connect_failed", cause_side="source")
    assert tell(kinds=[K.ALARM]).later == 1
    assert tell(kinds=[K.ALARM]).sent == 0
    later(minutes=16)
    assert tell(kinds=[K.ALARM]).sent == 1
    assert tell(kinds=[K.ALARM]).sent == 0
    assert len(room.received) == 2


def test_a_chat_that_hangs_up_after_the_message_does_not_get_it_again_by_itself(room: ChatRoom) -> None:
    room.instead.append(CHAT_HANGS_UP)
    change("li", state=MemberState.FAILED, cause="connect_failed", cause_side="source")
    assert tell(kinds=[K.ALARM]).unknown == 1
    later(minutes=90)
    assert tell(kinds=[K.ALARM]) == Told()
    assert len(room.received) == 1


def test_a_process_that_is_killed_while_it_writes_into_a_chat_does_not_write_it_again(room: ChatRoom) -> None:
    started: SimpleQueue[subprocess.Popen[bytes]] = SimpleQueue()

    def kill() -> object:
        child = started.get()
        child.kill()
        child.wait()
        return CHAT_HANGS_UP

    room.instead.append(kill)
    command = [sys.executable, "-c", CHILD, "notices", "send", "first", "--kind", "summary"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        started.put(child)
    assert child.returncode == -signal.SIGKILL
    assert tell(kinds=[K.SUMMARY]).sent == 0
    assert [notice.state for notice in notices(K.SUMMARY)] == [N.UNKNOWN]
    later(minutes=90)
    assert tell(kinds=[K.ALARM, K.SUMMARY], patient=False).unknown == 0
    later(days=1)
    assert tell(kinds=[K.SUMMARY]).sent == 1
    assert len(room.received) == 2


def test_a_chat_and_a_mail_server_do_not_wait_for_each_other(
    room: ChatRoom, sink: MailSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_all(monkeypatch, ADMIN_ADDRESSES='["admin@corp.example"]')
    forget_everything()
    room.instead.append((503, b""))
    told = tell(kinds=[K.SUMMARY])
    assert (told.sent, told.later) == (1, 1)
    assert sink.recipients == ["admin@corp.example"]
    later(minutes=16)
    set_all(monkeypatch, SMTP_PORT="9")
    forget_everything()
    assert tell(kinds=[K.SUMMARY]).sent == 1
    assert len(room.received) == 2
