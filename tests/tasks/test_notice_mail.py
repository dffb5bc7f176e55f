"""Notices as Internet messages: nothing that somebody chose breaks out of its header."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.notice_mail import Mail, composed

SENDER = "IT <it@corp.example>"


def mail(subject: str) -> Mail:
    return Mail("anna@old.example", subject, "正文", "<p>正文</p>", "zh-CN", "1-1-invitation-0-abc")


HOSTILE = [
    "a\r\nBcc: all@corp.example",
    "a\nBcc: all@corp.example",
    "x" * 5000,
    "\u202eevil",
    '"; DROP TABLE member; --',
    "=?utf-8?q?=0d=0aBcc:_a@b.example?=",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_nothing_that_somebody_chose_becomes_another_header(text: str) -> None:
    message = composed(mail(text), SENDER)
    head = message.as_bytes().partition(b"\r\n\r\n")[0]
    names = {line.partition(b":")[0] for line in head.split(b"\r\n") if line[:1] not in (b" ", b"\t")}
    assert b"Bcc" not in names
    assert all(len(line) < 999 for line in head.split(b"\r\n"))


@given(st.text())
def test_any_subject_makes_a_mail_with_one_recipient(text: str) -> None:
    raw = composed(mail(text.encode(errors="replace").decode()), SENDER).as_bytes()
    head = raw.partition(b"\r\n\r\n")[0].lower()
    assert head.count(b"\r\nto:") == 1
    assert b"\r\nbcc:" not in head
