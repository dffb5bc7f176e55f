"""The door to mail servers: what is known of a mail after it was handed over, whatever the server did."""

from collections.abc import Iterator

import pytest

from tasks.notify import Mail, Outcome, mail_server, outbox
from tasks.settings import Settings
from tests.servers.smtp import PASSWORD, MailSink, running_smtp

TO = "anna@old.example"


def mail(to: str = TO, subject: str = "邮箱搬家", key: str = "1-1-invitation-0-abc") -> Mail:
    return Mail(to, subject, "正文\n.\n..two\n", "<p>正文</p>", "zh-CN", key)


@pytest.fixture
def sink() -> Iterator[MailSink]:
    with running_smtp() as found:
        yield found


def settings(port: int, **instead: object) -> Settings:
    given = {"smtp_host": "127.0.0.1", "smtp_port": port, "smtp_security": "plain", "mail_from": "IT <it@corp.example>"}
    return Settings(**{**given, **instead})  # type: ignore[arg-type]


def hand_over(sink: MailSink, *mails: Mail, **instead: object) -> list[Outcome]:
    server = mail_server(settings(sink.port, **instead), {"smtp": PASSWORD}.get)
    assert server is not None
    with outbox(server) as box:
        return [box.hand_over(each).outcome for each in mails]


def test_a_mail_arrives_in_both_forms_and_its_dots_stay(sink: MailSink) -> None:
    assert hand_over(sink, mail()) == [Outcome.SENT]
    (message,) = sink.taken
    text, html = (message.get_body((kind,)) for kind in ("plain", "html"))
    assert text is not None
    assert html is not None
    assert text.get_content().splitlines() == ["正文", ".", "..two"]
    assert html.get_content().strip() == "<p>正文</p>"
    assert message["Message-ID"] == "<1-1-invitation-0-abc@corp.example>"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message["From"].addresses[0].addr_spec == "it@corp.example"
    assert sink.recipients == [TO]
