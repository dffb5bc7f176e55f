"""What is changed in a message that a target refused: as little as cures it, and nothing gets lost."""

import re
from email import message_from_bytes, policy
from email.header import decode_header

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imapcopy.identity import digest
from imapcopy.repair import EMPTY, charset_of, repaired, repaired_forms

HEAD = b"From: a@old.example\r\nSubject: x\r\n"


@pytest.mark.parametrize(
    ("raw", "becomes", "repairs"),
    [
        (b"", EMPTY, ["empty"]),
        (b"\0\0", EMPTY, ["nul", "empty"]),
        (HEAD + b"\r\na\0b\0\r\n", HEAD + b"\r\nab\r\n", ["nul"]),
        (b"Subject: x\n\na\rb\r\r\nc\r\n", b"Subject: x\r\n\r\na\r\nb\r\nc\r\n", ["line_ends"]),
        (HEAD + b"\r\nbody", HEAD + b"\r\nbody\r\n", ["final_line_end"]),
        (
            b"From a Mon\r\n" + HEAD + b"\r\nb\r\n",
            b"X-Banjia-Line: From a Mon\r\n" + HEAD + b"\r\nb\r\n",
            ["header_line"],
        ),
        (b">From a Mon\r\n" + HEAD + b"\r\n", b"X-Banjia-Line: >From a Mon\r\n" + HEAD + b"\r\n", ["header_line"]),
        (b"Subject : x\r\nTo\t: y\r\n\r\n", b"Subject: x\r\nTo: y\r\n\r\n", ["header_line"]),
        (HEAD + b"half a line\r\n\r\nb\r\n", HEAD + b"X-Banjia-Line: half a line\r\n\r\nb\r\n", ["header_line"]),
        (
            b" begins folded\r\n" + HEAD + b"\r\n",
            b"X-Banjia-Line:  begins folded\r\n" + HEAD + b"\r\n",
            ["header_line"],
        ),
        (HEAD, HEAD + b"\r\n", ["separator"]),
        (HEAD + b"Dear Bob\r\nhow are you?\r\n", HEAD + b"\r\nDear Bob\r\nhow are you?\r\n", ["separator"]),
        (HEAD + b"Dear\r\nBob\r\n\r\nhi", HEAD + b"\r\nDear\r\nBob\r\n\r\nhi\r\n", ["separator", "final_line_end"]),
        (b"text alone", b"\r\ntext alone\r\n", ["separator", "final_line_end"]),
    ],
)
def test_each_defect_is_cured_by_the_smallest_change(raw: bytes, becomes: bytes, repairs: list[str]) -> None:
    found = repaired(raw, "")
    assert found
    assert found.raw == becomes
    assert list(found.repairs) == repairs
    assert repaired(found.raw, "") is None, "what is repaired has no defect left"


@pytest.mark.parametrize("raw", [HEAD + b"\r\nbody\r\n", HEAD + b"\r\n", b"\r\nbody\r\n", HEAD + b"A: b\r\n c\r\n\r\n"])
def test_a_message_without_a_known_defect_is_not_touched(raw: bytes) -> None:
    assert repaired(raw, "") is None
    assert not repaired_forms(raw)


@pytest.mark.parametrize(
    ("refusal", "encoded"),
    [
        ("NO Message contains NUL characters", False),
        ("NO Message contains bare newlines", False),
        ("NO Zero-length message literal", False),
        ("NO Message has no header/body separator", False),
        ("NO Message contains non-ASCII characters in headers", True),
        ("NO Message contains invalid header", True),
        ("NO Error in IMAP command received by server.", True),
    ],
)
def test_a_header_is_encoded_unless_the_refusal_is_about_something_else(refusal: str, encoded: bool) -> None:
    raw = "Subject: 标题\r\n\r\na\0b\r\n".encode()
    found = repaired(raw, refusal)
    assert found
    assert found.repairs == (("nul", "header_8bit") if encoded else ("nul",))
    assert found in repaired_forms(raw)


@pytest.mark.parametrize("charset", ["utf-8", "gb18030", "gbk", "big5"])
def test_eight_bit_headers_become_encoded_words_that_read_the_same(charset: str) -> None:
    body = "\r\n\r\n正文\r\n".encode(charset)
    # In Big5 some of these end in a backslash, in GBK some in other ASCII.
    subject, name = ("許功蓋的測試郵件", "許蓋") if charset == "big5" else ("关于搬家的通知", "张三, 李四")
    header = (
        f'Subject: Re: {subject} ok\r\nFrom: "{name}" <a@old.example>\r\nTo: {name[:2]}<b@old.example>\r\n'
        f'Content-Type: application/pdf; name="{subject}.pdf"'
    )
    found = repaired(header.encode(charset) + body, "")
    assert found
    assert found.repairs == ("header_8bit",)
    assert found.raw.partition(b"\r\n\r\n")[0].isascii()
    assert found.raw.endswith(body)
    message = message_from_bytes(found.raw, policy=policy.default)
    assert message["Subject"] == f"Re: {subject} ok"
    assert message["From"].addresses[0].display_name == name
    assert message["From"].addresses[0].addr_spec == "a@old.example"
    assert message["To"].addresses[0].display_name == name[:2]
    assert message.get_filename() == f"{subject}.pdf"


def test_encoded_words_are_short_and_hold_whole_characters() -> None:
    found = repaired(("Subject: " + "很长的主题" * 40 + "\r\n\r\n").encode("gb18030"), "")
    assert found
    words = re.findall(rb"=\?\S+\?=", found.raw)
    assert len(words) > 5
    assert all(len(word) <= 75 for word in words)
    assert "".join(octets.decode(charset) for octets, charset in map(_decoded, words)) == "很长的主题" * 40


def _decoded(word: bytes) -> tuple[bytes, str]:
    [(octets, charset)] = decode_header(word.decode())
    return octets, charset


@pytest.mark.parametrize(
    ("octets", "hint", "charset"),
    [
        ("主题".encode(), "gb18030", "utf-8"),
        ("主题".encode("gbk"), "", "gb18030"),
        ("關於搬家的通知".encode("big5"), "", "big5"),
        ("朱镕基".encode("gbk"), "gb18030", "gb18030"),
        (b"caf\xe9", "iso-8859-1", "iso-8859-1"),
        (b"\xff\xfe", "", "unknown-8bit"),
    ],
)
def test_the_charset_of_a_header_is_found(octets: bytes, hint: str, charset: str) -> None:
    assert charset_of(octets, hint) == charset


@pytest.mark.parametrize("declared", [b"utf-16", b"hex", b"idna", b"unicode_escape", b"utf-7", b"nonsense"])
def test_a_declared_charset_that_is_none_for_headers_is_not_believed(declared: bytes) -> None:
    found = repaired(b"Content-Type: text/plain; charset=" + declared + b"\r\nSubject: \xff\xfe\r\n\r\n", "")
    assert found
    assert b"=?unknown-8bit?B?//4=?=" in found.raw


LINE = st.one_of(
    st.binary(max_size=30),
    st.sampled_from(
        [b"", b"\r\n", b"\n", b"\r", b"\0", b"A: ", b"Subject : ", b"From x", b" ", b"\t", b'"', b"\\", b"("]
    ),
    st.text(alphabet='张三ab \t\u3000\xa0\x85"<>(),\\', max_size=20).flatmap(
        lambda text: st.sampled_from([text.encode(), text.encode("gb18030")])
    ),
)


@given(st.lists(LINE, max_size=20).map(b"".join), st.sampled_from(["", "NUL"]))
def test_any_octets_are_repaired_once_and_for_all_and_nothing_but_nul_is_lost(raw: bytes, refusal: str) -> None:
    found = repaired(raw, refusal)
    if found is None:
        return
    assert repaired(found.raw, refusal) is None
    assert found in repaired_forms(raw)
    assert b"\0" not in found.raw
    if not refusal:
        assert found.raw.startswith(b"\r\n") or found.raw.partition(b"\r\n\r\n")[0].isascii()
    if not {"empty", "header_line", "header_8bit", "nul"} & set(found.repairs):
        assert digest(found.raw) == digest(raw), "only line ends have changed"
