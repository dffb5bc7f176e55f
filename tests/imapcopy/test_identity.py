"""What makes two messages one, and how a change is named."""

import re
from itertools import product

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from imapcopy.identity import (
    Identification,
    alteration,
    core_digest,
    digest,
    digest_and_hazard,
    may_be_cut,
    tolerant_digest,
)
from imapcopy.look_up import Fingerprint, Wanted, forms, match
from imapcopy.twins import Mark
from models.ledger_rows import Entry

MAIL = b"Message-ID: <1@x>\r\nSubject: s\r\n\r\nbody\r\n"
GBK = "Subject: 标题\r\n\r\nbody 标题\r\n".encode("gbk")
HEADER_X = re.sub(rb"[\x80-\xff]", b"X", GBK.partition(b"\r\n\r\n")[0]) + b"\r\n\r\n" + GBK.partition(b"\r\n\r\n")[2]

CHANGES = {
    "": (MAIL, MAIL),
    "final_line_end": (b"a: b\r\n\r\nx", b"a: b\r\n\r\nx\r\n"),
    "line_ends": (b"a: b\n\nx\ry\n", b"a: b\r\n\r\nx\r\ny\r\n"),
    "nul": (b"a: b\r\n\r\nx\0y\r\n", b"a: b\r\n\r\nx\x80y\r\n"),
    "header_8bit": (GBK, HEADER_X),
    "content": (MAIL, MAIL.replace(b"body", b"Body")),
}


@pytest.mark.parametrize("name", CHANGES)
def test_a_change_has_the_mildest_name_that_explains_it(name: str) -> None:
    sent, stored = CHANGES[name]
    assert alteration(sent, stored) == name


def test_changes_that_come_together_have_the_graver_name() -> None:
    assert alteration(b"a: b\n\nx\0", b"a: b\r\n\r\nx\x80\r\n") == "nul"
    assert alteration(GBK.rstrip(), HEADER_X) == "header_8bit"


@pytest.mark.parametrize("name", CHANGES)
def test_the_digest_forgives_line_ends_and_the_tolerant_one_every_known_server(name: str) -> None:
    sent, stored = CHANGES[name]
    assert (digest(sent) == digest(stored)) == (name in ("", "final_line_end", "line_ends"))
    assert (tolerant_digest(sent) == tolerant_digest(stored)) == (name != "content")


MULTIPART = b'Content-type: MultiPart/Mixed;\r\n boundary="b"\r\n' + MAIL
ATTACHED = b"Content-Transfer-Encoding: base64\r\n\r\n" + (b"QUJD" * 19 + b"\r\n") * 400


@pytest.mark.parametrize(
    ("raw", "may_be"),
    [
        (MULTIPART + b"--b\r\n\r\nx\r\n" * 310, True),
        (MULTIPART + b"--b\r\n\r\nx\r\n" * 100, False),
        (MULTIPART + (b"--b\r\n" + ATTACHED) * 250, True),
        (MULTIPART + (b"--b\r\n" + ATTACHED) * 249, False),
        (MULTIPART + (b"--b\r\nContent-Type: message/rfc822\r\n\r\n") * 130, True),
        (MULTIPART + (b"--b\r\nContent-Type:\r\n message/rfc822\r\n\r\n" + ATTACHED) * 126, True),
        (MULTIPART.replace(b"\r\n", b"\n") + b"--b\n\nx\n" * 310, True),
        (b"Content-Type: message/rfc822\r\n\r\n" * 310, True),
        (b"Content-Type: MESSAGE/RFC822\r\n\r\n" * 310, True),
        (MAIL + b"-- \r\nregards\r\n" * 310, False),  # a message without parts
        (MULTIPART + b"-- \r\nregards\r\n", False),
    ],
)
def test_what_has_very_many_parts_may_have_been_cut(raw: bytes, may_be: bool) -> None:
    assert may_be_cut(raw) == may_be


@pytest.mark.parametrize("end", [b"\r\n", b"\n", b"\r", b"\n\r"])
def test_line_ends_leave_the_digest_however_even_the_lines_are(end: bytes) -> None:
    """What is cut out where it should be, and not looked for, is still only line ends, and all of them."""
    uneven = b"".join(b"b" * (n % 90) + end for n in range(500))
    for length, within in product([31, 32, 76, 999], [b"", b"\r", b"\n", b"\r\n", b"\r\n\r\n"]):
        even = b"a" * (length // 3) + within + b"a" * (length - length // 3 - len(within)) + end
        some = even * (40_000 // length)
        for raw in (some, MAIL + uneven + some + b"--b--" + end, some + even[1:] * 20 + some + uneven + some):
            text = raw.translate(None, b"\r\n")
            assert digest(raw) == blake3(text).digest(16)
            pieces = [raw[start : start + 30_000] for start in range(0, len(raw), 30_000)]
            assert Identification(pieces).digests()[0] == digest(raw)


def test_an_eight_bit_body_is_not_forgiven() -> None:
    assert tolerant_digest(GBK) != tolerant_digest(HEADER_X.replace("标题".encode("gbk"), b"XXXX"))


def test_fields_that_a_server_adds_leave_the_core() -> None:
    assert core_digest(MAIL) == core_digest(b"Received: by us;\r\n\tnow\r\nX-Spam: no\r\n" + MAIL)
    assert core_digest(MAIL) == core_digest(MAIL.replace(b"Subject: s", b"subject:\r\n s").replace(b"\r\n", b"\n"))
    for old, new in ((b"<1@x>", b"<2@x>"), (b"Subject: s", b"Subject: t"), (b"body", b"Body")):
        assert core_digest(MAIL) != core_digest(MAIL.replace(old, new))


def test_a_message_without_fields_of_its_own_has_no_core() -> None:
    """Otherwise all of them that are empty would be one."""
    assert core_digest(b"X-A: 1\r\n\r\n") != core_digest(b"X-A: 2\r\n\r\n")


@pytest.mark.parametrize("raw", [b"", b"\0", b"\r\n", b"no header", b"\n\n", b"a: b\r\n\r\n", b"\r\r\n\n"])
def test_no_message_is_too_odd_to_be_known(raw: bytes) -> None:
    assert {len(digest(raw)), len(tolerant_digest(raw)), len(core_digest(raw))} == {16}
    assert alteration(raw, raw) == ""


@pytest.mark.parametrize(
    ("raw", "hazardous"),
    [
        (MAIL, False),
        (MAIL[:-2], True),
        (MAIL + b"\0\r\n", True),
        (MAIL + b"a\nb\r\n", True),
        (GBK, True),
        (MAIL + b"a\rb\r\n", True),
        (MAIL + "标题\r\n".encode(), False),
        (b"", True),
        (MULTIPART + ATTACHED * 9, False),
        (MULTIPART + ATTACHED + b"a\nb\r\n" + ATTACHED * 9, True),
        (MULTIPART + ATTACHED + (b"QUJD" * 4 + b"\n" + b"QUJD" * 14 + b"QUJ\r\n") * 400, True),
        (MULTIPART + ATTACHED + (b"QUJD" * 4 + b"\r" + b"QUJD" * 14 + b"QUJ\r\n") * 400, True),
        # What is changed further behind changes the size.
        (MULTIPART + ATTACHED * 9 + b"a\nb\rc\r\n", False),
    ],
)
def test_what_some_server_would_alter_is_hazardous(raw: bytes, hazardous: bool) -> None:
    assert digest_and_hazard(raw) == (digest(raw), hazardous)


def prints(raws: list[bytes], first: int = 1) -> list[Fingerprint]:
    return [
        Fingerprint(uid, forms(raw)[0].digests, Mark(size=len(raw), uid=uid))
        for uid, raw in enumerate(raws, start=first)
    ]


RAWS = st.lists(st.sampled_from([v for pair in CHANGES.values() for v in pair]), max_size=12)


@given(RAWS, RAWS)
def test_messages_are_matched_as_a_multiset(source: list[bytes], target: list[bytes]) -> None:
    """Nothing is matched twice, equal messages pair off one by one, and nothing that could pair is left."""
    wanted = [Wanted(Entry(uid, 0, digest(raw)), Mark(size=len(raw))) for uid, raw in enumerate(source, 100)]
    found = match(wanted, prints(target))
    assert len({entry.target_uid for entry in found}) == len({entry.source_uid for entry in found}) == len(found)
    for entry in found:
        assert digest(source[entry.source_uid - 100]) == digest(target[entry.target_uid - 1])
    for kind in {digest(raw) for raw in [*source, *target]}:
        expected = min([digest(raw) for raw in source].count(kind), [digest(raw) for raw in target].count(kind))
        assert sum(entry.digest == kind for entry in found) == expected


@given(RAWS, RAWS)
def test_looser_digests_only_add_to_what_is_found(source: list[bytes], target: list[bytes]) -> None:
    wanted = [Wanted(Entry(uid, 0, digest(raw)), Mark(size=len(raw))) for uid, raw in enumerate(source, 100)]
    known = [each._replace(forms=forms(source[each.uid - 100])[:1]) for each in wanted]
    strict, loose = match(wanted, prints(target)), match(known, prints(target))
    assert set(strict) <= set(loose)
    assert len({entry.target_uid for entry in loose}) == len(loose)
    tolerant = match((each._replace(forms=[each.forms[0].at_most(1)]) for each in known), prints(target))
    for entry in tolerant:
        assert tolerant_digest(source[entry.source_uid - 100]) == tolerant_digest(target[entry.target_uid - 1])


def test_the_earliest_target_goes_to_the_earliest_source() -> None:
    wanted = [Wanted(Entry(uid, 0, digest(MAIL))) for uid in (5, 6)]
    assert [(e.source_uid, e.target_uid) for e in match(wanted, prints([MAIL] * 3, first=20))] == [(5, 20), (6, 21)]
