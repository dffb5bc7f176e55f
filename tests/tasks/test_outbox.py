"""The door to mail servers: what is known of a mail after it was handed over, whatever the server did."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.handed_over import HandedOver, Outcome
from tasks.notice_mail import Mail
from tasks.outbox import SIGN_IN_REFUSED_WAIT, TROUBLE_WAIT, ServerTrouble, mail_server, outbox
from tasks.settings import Settings, SettingUnusable
from tests.servers.certificates import Authority, self_signed
from tests.servers.smtp import HANG_UP, PASSWORD, USER, Answer, MailSink, running_smtp

# aiosmtpd's own, of servers that take a password in clear text; here on loopback.
pytestmark = pytest.mark.filterwarnings("ignore:Requiring AUTH while not requiring TLS:UserWarning")

TO = "anna@old.example"
KEY = "1-1-invitation-0-abc"


def mail(to: str = TO, subject: str = "邮箱搬家", key: str = KEY) -> Mail:
    return Mail(to, subject, "正文\n.\n..two\n", "<p>正文</p>", "zh-CN", key)


@pytest.fixture
def sink() -> Iterator[MailSink]:
    with running_smtp() as found:
        yield found


def settings(port: int, **instead: object) -> Settings:
    given_ = {
        "smtp_host": "127.0.0.1",
        "smtp_port": port,
        "smtp_security": "plain",
        "mail_from": "IT <it@corp.example>",
    }
    return Settings(**{**given_, **instead})  # type: ignore[arg-type]


def hand_over(sink: MailSink, *mails: Mail, **instead: object) -> list[HandedOver]:
    server = mail_server(settings(sink.port, **instead), {"smtp": PASSWORD}.get)
    assert server is not None
    with outbox(server) as box:
        return [box.hand_over(each) for each in mails]


def at(step: str, reply: str, times: int = 1000) -> Answer:
    """Give that reply at that step, so often."""
    left = [times]

    def answer(now: str, _about: str) -> str | None:
        if now == step and left[0]:
            left[0] -= 1
            return reply
        return None

    return answer


def test_a_mail_arrives_in_both_forms_and_its_dots_stay(sink: MailSink) -> None:
    assert hand_over(sink, mail()) == [HandedOver(Outcome.SENT)]
    (message,) = sink.taken
    text, html = (message.get_body((kind,)) for kind in ("plain", "html"))
    assert text is not None
    assert html is not None
    assert text.get_content().splitlines() == ["正文", ".", "..two"]
    assert html.get_content().strip() == "<p>正文</p>"
    assert message["Message-ID"] == f"<{KEY}@corp.example>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["From"].addresses[0].addr_spec == "it@corp.example"
    assert sink.recipients == [TO]


@pytest.mark.parametrize(
    ("step", "reply", "outcome"),
    [
        ("RCPT", "450 4.2.0 greylisted, come back later", Outcome.LATER),
        ("RCPT", "452 4.2.2 mailbox full", Outcome.LATER),
        ("RCPT", "550 5.1.1 no such user", Outcome.BOUNCED),
        ("RCPT", "551 user has moved", Outcome.BOUNCED),
        ("RCPT", "550 5.7.1 relaying denied", Outcome.REFUSED),
        ("RCPT", "552 5.2.2 over quota", Outcome.REFUSED),
        ("DATA", "451 4.3.0 busy", Outcome.LATER),
        ("DATA", "554 5.5.1 no valid recipients", Outcome.REFUSED),
        ("END", "451 4.7.1 greylisted", Outcome.LATER),
        ("END", "554 5.7.1 looks like spam", Outcome.REFUSED),
    ],
)
def test_each_refusal_is_about_this_mail_and_the_next_one_goes_out(
    sink: MailSink, step: str, reply: str, outcome: Outcome
) -> None:
    sink.answer = at(step, reply, times=1)
    refused, after = hand_over(sink, mail(), mail("bo@old.example"))
    assert refused == HandedOver(outcome, reply)
    assert after.outcome == Outcome.SENT
    assert sink.recipients == ["bo@old.example"]


@pytest.mark.parametrize(
    ("step", "reply"),
    [
        ("MAIL", "550 5.7.1 sender not allowed"),
        ("MAIL", "451 too many messages"),
        ("MAIL", HANG_UP),
        ("RCPT", "421 closing"),
        ("RCPT", HANG_UP),
        ("DATA", "421 closing"),
        ("DATA", HANG_UP),
    ],
)
def test_what_is_about_all_mail_is_the_servers_trouble_and_nothing_was_handed_over(
    sink: MailSink, step: str, reply: str
) -> None:
    sink.answer = at(step, reply)
    with pytest.raises(ServerTrouble):
        hand_over(sink, mail())
    assert sink.taken == []


def test_a_connection_that_breaks_after_the_end_of_a_mail_leaves_it_unknown(sink: MailSink) -> None:
    """It may have been taken, and here it was: handing it over again would double it."""
    sink.answer = at("END", HANG_UP)
    (result,) = hand_over(sink, mail())
    assert result.outcome == Outcome.UNKNOWN
    assert sink.recipients == [TO]


def test_a_connection_that_breaks_within_the_content_was_not_taken_and_may_be_tried_again(
    sink: MailSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the final dot no server may take it (RFC 5321 section 4.1.1.4)."""
    server = mail_server(settings(sink.port), {}.get)
    assert server is not None
    with outbox(server) as box:
        whole = box._smtp.send

        def half(content: bytes | str) -> None:
            if isinstance(content, bytes) and b"Message-ID" in content:
                whole(content[: len(content) // 2])
                assert box._smtp.sock is not None
                box._smtp.sock.close()
                raise ConnectionResetError("reset")
            whole(content)

        monkeypatch.setattr(box._smtp, "send", half)
        assert box.hand_over(mail()).outcome == Outcome.LATER
    assert sink.taken == []


# Signing in


def test_over_tls_and_starttls_the_certificate_is_verified_before_the_password(
    authority: Authority, tmp_path: Path
) -> None:
    root = tmp_path / "root.pem"
    root.write_bytes(authority.root)
    for kind in ("tls", "starttls"):
        with running_smtp(**{kind: authority.issue()}, sign_in=True) as sink:
            sent = hand_over(sink, mail(), smtp_security=kind, smtp_user=USER, ca_file=root)
            assert [each.outcome for each in sent] == [Outcome.SENT]
            assert sink.sign_ins == ["PLAIN"]
        with running_smtp(**{kind: self_signed()}, sign_in=True) as stranger:
            with pytest.raises(ServerTrouble, match="certificate"):
                hand_over(stranger, mail(), smtp_security=kind, smtp_user=USER, ca_file=root)
            assert stranger.sign_ins == []


def test_a_server_without_starttls_gets_no_password_and_no_mail() -> None:
    with running_smtp(sign_in=True) as sink:
        with pytest.raises(ServerTrouble, match="STARTTLS"):
            hand_over(sink, mail(), smtp_security="starttls", smtp_user=USER)
        assert sink.sign_ins == []
        assert sink.taken == []


def test_a_refused_sign_in_is_tried_in_one_way_and_once(capfd: pytest.CaptureFixture[str]) -> None:
    """smtplib's own `login` would try every mechanism with the same wrong password; that is how accounts get locked."""
    with running_smtp(sign_in=True) as sink:
        server = mail_server(settings(sink.port, smtp_user=USER), {"smtp": "canary-wrong-password"}.get)
        assert server is not None
        with pytest.raises(ServerTrouble, match="535") as caught, outbox(server):
            pass
        assert sink.sign_ins == ["PLAIN"]
        assert caught.value.wait == SIGN_IN_REFUSED_WAIT
        assert "canary" not in f"{server!r}{caught.value!r}{capfd.readouterr()}"


def test_a_sign_in_that_the_server_cannot_judge_now_is_tried_sooner_than_a_refused_one() -> None:
    with running_smtp(sign_in=True) as sink:
        sink.sign_in_refusal = "454 4.7.0 Temporary authentication failure"
        with pytest.raises(ServerTrouble, match="454") as caught:
            hand_over(sink, mail(), smtp_user=USER)
        assert sink.sign_ins == ["PLAIN"]
        assert caught.value.wait == TROUBLE_WAIT


def test_a_server_that_repeats_the_password_does_not_make_us_show_it(sink: MailSink) -> None:
    sink.answer = at("RCPT", f"550 5.7.1 what is {PASSWORD}")
    with running_smtp(sign_in=True) as strict:
        strict.answer = at("RCPT", f"550 5.7.1 what is {PASSWORD}")
        (result,) = hand_over(strict, mail(), smtp_user=USER)
    assert result == HandedOver(Outcome.REFUSED, "550 5.7.1 what is ***")


def test_nobody_listening_is_the_servers_trouble() -> None:
    server = mail_server(settings(9), {}.get)
    assert server is not None
    with pytest.raises(ServerTrouble, match=r"127\.0\.0\.1:9"), outbox(server):
        pass


# Settings


def test_without_a_host_there_is_no_mail_server() -> None:
    assert mail_server(Settings(), {}.get) is None


@pytest.mark.parametrize(
    ("instead", "said"),
    [
        ({"mail_from": ""}, "BANJIA_MAIL_FROM"),
        ({"mail_from": "nobody"}, "BANJIA_MAIL_FROM"),
        ({"mail_from": "IT <邮箱@corp.example>"}, "BANJIA_MAIL_FROM"),
        ({"mail_from": "IT <it@a..example>"}, "BANJIA_MAIL_FROM"),
        ({"smtp_host": "mail.corp.example"}, "BANJIA_PLAIN_HOSTS"),
        ({"smtp_user": "me"}, "banjia vault set smtp"),
        ({"smtp_user": "me", "smtp_password_file": Path("/nowhere/at/all")}, "cannot be read"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named(instead: dict[str, object], said: str) -> None:
    with pytest.raises(SettingUnusable, match=said) as caught:
        mail_server(settings(25, **instead), {}.get)
    assert caught.value.told.zh != caught.value.told.en


def test_a_password_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text(f"{PASSWORD}\n")
    file.chmod(0o640)
    asked = settings(25, smtp_user=USER, smtp_password_file=file)
    with pytest.raises(SettingUnusable, match="chmod 600"):
        mail_server(asked, {}.get)
    file.chmod(0o600)
    found = mail_server(asked, {}.get)
    assert found is not None
    assert found.password == PASSWORD
    file.write_text("密码")
    with pytest.raises(SettingUnusable, match="ASCII"):
        mail_server(asked, {}.get)


# Recipients


@pytest.mark.parametrize("to", ["a\r\nb@old.example", "two@signs@old.example\n", "<>", "名字@old.example", "@", ""])
def test_an_address_that_fits_no_header_is_refused_before_the_server_sees_it(sink: MailSink, to: str) -> None:
    steps: list[str] = []

    def answer(step: str, _about: str) -> str | None:
        steps.append(step)
        return None

    sink.answer = answer
    (result,) = hand_over(sink, mail(to))
    assert result.outcome == Outcome.BOUNCED
    assert steps == []


def test_a_domain_in_chinese_is_written_as_dns_knows_it(sink: MailSink) -> None:
    assert hand_over(sink, mail("anna@例子.example"))[0].outcome == Outcome.SENT
    assert sink.recipients == ["anna@xn--fsqu00a.example"]
