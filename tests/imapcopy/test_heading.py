"""Subject and sender as people read them, out of whatever stands in a header."""

import base64
import random

from imapcopy.heading import SENDER_LENGTH, SUBJECT_LENGTH, heading_of
from models.ledger_rows import Heading

TITLE, NAME = "季度报告：第三季度", "王芳 <wang@old.example>"


def encoded(text: str, charset: str) -> bytes:
    return b"=?" + charset.encode() + b"?B?" + base64.b64encode(text.encode(charset)) + b"?="


def field(name: bytes, value: bytes) -> bytes:
    return name + b": " + value + b"\r\n"


HALF = base64.b64encode("季度".encode()[:4]), base64.b64encode("季度".encode()[4:])

SUBJECTS: list[tuple[bytes, str]] = [
    (b"number 7", "number 7"),
    (TITLE.encode(), TITLE),
    (TITLE.encode("gb18030"), TITLE),
    (encoded(TITLE, "utf-8"), TITLE),
    (encoded(TITLE, "gb2312"), TITLE),
    (encoded("朱镕基", "gbk").replace(b"gbk", b"gb2312"), "朱镕基"),
    (encoded("日本", "iso-2022-jp"), "日本"),
    (b"=?utf-8?B?" + HALF[0] + b"?=\r\n =?utf-8?B?" + HALF[1] + b"?=", "季度"),
    (encoded("季度", "utf-8") + b" plain " + encoded("报告", "gb18030"), "季度 plain 报告"),
    (TITLE.encode() + b" " + encoded("报告", "utf-8"), TITLE + " 报告"),
    ("Müller grüßt, réponse".encode("cp1252"), "Müller grüßt, réponse"),
    ("発注書の件, Jürgen".encode("gb18030"), "発注書の件, Jürgen"),
    ("(大補帖麵) 大家說英語 每日頻道".encode("big5"), "(大補帖麵) 大家說英語 每日頻道"),
    ("Café 50 €, “prix d’ami”".encode("cp1252"), "Café 50 €, “prix d’ami”"),
    ("réélu déjà".encode("cp1252"), "réélu déjà"),
    (b"=?no-such-charset?B?5a2j?= abc", "季 abc"),
    (b"=?utf-8?B?!!!!?= abc", "abc"),
    (b"folded\r\n\there\r\n  and there", "folded here and there"),
    ("\u202efdp.exe \u200bthin \x1b[31mred\x00".encode(), "fdp.exe thin [31mred"),
    (b"=?utf-8?Q?=E2=80=AEabc=0D=0ABcc:_injected?=", "abc Bcc: injected"),
    (b"x" * 5000, "x" * (SUBJECT_LENGTH - 1) + "…"),
    (b"", ""),
]


def test_a_subject_is_read_as_its_writer_meant_it() -> None:
    read = [heading_of(field(b"Subject", raw) + b"\r\nSubject: of the body\r\n").subject for raw, _ in SUBJECTS]
    assert read == [meant for _, meant in SUBJECTS]


def test_a_sender_is_read_in_the_same_way_and_cut_shorter() -> None:
    senders = (NAME.encode(), NAME.encode("gb18030"), encoded("王芳", "gb2312") + b" <wang@old.example>")
    assert {heading_of(field(b"from", raw)) for raw in senders} == {Heading("", NAME)}
    assert len(heading_of(field(b"From", b"x" * 200)).sender) == SENDER_LENGTH


def test_the_charset_of_the_text_is_the_first_guess_at_raw_octets() -> None:
    text = "報告書の件"
    for charset in ("big5", "shift_jis", "euc-jp"):
        raw = field(b"Subject", text.encode(charset, "ignore"))
        told = field(b"Content-Type", b'text/plain;\r\n charset="' + charset.encode() + b'"')
        assert heading_of(raw + told + b"\r\n").subject == text.encode(charset, "ignore").decode(charset)


def test_the_first_field_of_a_name_counts_and_nothing_behind_the_header() -> None:
    raw = b"Received: x\nSubject: one\nSubject: two\n\nFrom: nobody\n"
    assert heading_of(raw) == Heading("one", "")
    assert heading_of(b"Subject : loose\r\n\r\n").subject == "loose"
    assert heading_of(b"") == heading_of(b"\r\n\r\nSubject: text") == Heading("", "")


def test_no_octets_break_it_and_what_comes_out_is_one_line_that_shows_all_of_itself() -> None:
    rolled = random.Random(7)
    pieces = [b"=?", b"?B?", b"?Q?", b"?=", b"utf-8", b"gb2312", b"\r\n ", b"\n", b" ", b"\0", b"\xe2\x80\xae", b"=FF"]
    for _ in range(3000):
        raw = b"".join(rolled.choice([*pieces, rolled.randbytes(3)]) for _ in range(rolled.randrange(30)))
        for part in heading_of(b"Subject: " + raw + b"\r\nFrom: " + raw):
            assert part == part.strip()
            assert part.isprintable() or set(part) & {"\u200c", "\u200d", "\u3000", "\xa0"}, part
            assert len(part) <= SUBJECT_LENGTH
            part.encode()
