"""Feishu's address book, asked by the real SDK over loopback: what it says of addresses, and what its refusals mean."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.addresses import Mailbox, Standing
from models.check import Severity
from tasks import policy
from tasks.address_book import AT_ONCE, LONGEST_WAIT, TRIES, AddressBook, AddressBookClosed, address_book
from tasks.settings import Settings
from tests.servers.feishu import APP_ID, APP_SECRET, OpenPlatform, refusal, running_platform

# What the SDK brings along: its WebSocket part warns of its own dependencies when it is imported.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")


@pytest.fixture
def platform() -> Iterator[OpenPlatform]:
    with running_platform() as found:
        yield found


def book(platform: OpenPlatform, secret: str = APP_SECRET) -> AddressBook:
    settings = Settings(feishu_app_id=APP_ID, feishu_domain=platform.url)
    found = address_book(settings, {"feishu": secret}.get)
    assert found is not None
    return found


def test_each_status_and_type_that_is_documented_is_known(platform: OpenPlatform) -> None:
    platform.known = {f"s{status}@corp.example": (status, 1) for status in range(1, 8)}
    platform.known |= {f"t{kind}@corp.example": (4, kind) for kind in range(1, 7)}
    found = book(platform).unknown_addresses(platform.known)
    assert [found[f"s{status}@corp.example"].standing for status in range(1, 8)] == [
        Standing.INVALID,
        Standing.NO_DOMAIN,
        Standing.MISSING,
        Standing.ENABLED,
        Standing.RECYCLED,
        Standing.DISABLED,
        Standing.UNTOLD,
    ]
    assert [found[f"t{kind}@corp.example"].mailbox for kind in range(1, 7)] == list(Mailbox)[:6]
    findings = {email.partition("@")[0]: status.finding for email, status in found.items()}
    assert {name: each.name if each else None for name, each in findings.items()} == {
        "s1": "address_missing",
        "s2": "address_no_domain",
        "s3": "address_missing",
        "s4": None,
        "s5": "address_recycled",
        "s6": "address_disabled",
        "s7": "address_untold",
        "t1": None,
        "t2": "address_alias",
        "t3": "address_public",
        "t4": "address_alias",
        "t5": "address_group",
        "t6": "address_group",
    }
    public = findings["t3"]
    assert public is not None
    assert public.severity == Severity.TELLS
    assert all(each.kind.title.zh and each.kind.advice.en for each in findings.values() if each)


def test_a_thousand_addresses_take_few_requests_and_one_token(platform: OpenPlatform) -> None:
    emails = [f"User{n}@Corp.example" for n in range(1000)]
    platform.known = dict.fromkeys(emails, (4, 1))
    found = book(platform).unknown_addresses(emails)
    assert list(found) == emails
    assert {status.standing for status in found.values()} == {Standing.ENABLED}
    assert len(platform.queries) == 1000 / AT_ONCE
    assert platform.tokens == 1


def test_an_address_that_spoils_its_batch_is_found_and_the_others_are_told(platform: OpenPlatform) -> None:
    emails = [f"u{n}@corp.example" for n in range(AT_ONCE)]
    platform.known = dict.fromkeys(emails, (4, 1))
    platform.malformed = {"u7@corp.example", "u31@corp.example"}
    found = book(platform).unknown_addresses(emails)
    assert {email for email, status in found.items() if status.standing == Standing.INVALID} == platform.malformed
    assert sum(status.standing == Standing.ENABLED for status in found.values()) == AT_ONCE - 2


def test_a_smaller_limit_of_addresses_than_ours_is_found_out(platform: OpenPlatform) -> None:
    emails = [f"u{n}@corp.example" for n in range(60)]
    platform.known = dict.fromkeys(emails, (4, 1))
    platform.most = 10
    assert {s.standing for s in book(platform).unknown_addresses(emails).values()} == {Standing.ENABLED}


def test_addresses_that_an_answer_leaves_out_are_asked_for_again_while_that_helps(platform: OpenPlatform) -> None:
    emails = [f"u{n}@corp.example" for n in range(5)]
    platform.known = dict.fromkeys(emails, (4, 1))
    platform.told = 2
    assert {s.standing for s in book(platform).unknown_addresses(emails).values()} == {Standing.ENABLED}
    assert [len(each) for each in platform.queries] == [5, 3, 1]
    platform.told = 0
    silent = book(platform).unknown_addresses(emails)
    assert list(silent) == emails
    assert {(s.standing, bool(s.said)) for s in silent.values()} == {(Standing.UNTOLD, True)}
    assert len(platform.queries) == 4


@pytest.mark.parametrize(
    "answer",
    [
        [],
        None,
        "x",
        {},
        {"code": "x"},
        {"msg": "bad gateway"},
        {"code": 0, "data": []},
        {"code": 0, "data": {"user_list": [None]}},
        {"code": 0, "data": {"user_list": {}}},
        {"code": 0, "data": {"user_list": [{"email": 5, "status": "4"}]}},
    ],
)
@pytest.mark.parametrize("step", ["query", "token"])
def test_an_answer_of_another_shape_closes_the_book_and_says_what_to_check(
    platform: OpenPlatform, step: str, answer: object
) -> None:
    if step == "query":
        platform.instead.append((502, answer, {}))
    else:
        platform.token_reply = (200, answer, {})
    with pytest.raises(AddressBookClosed, match="BANJIA_FEISHU_DOMAIN") as caught:
        book(platform).unknown_addresses(["a@corp.example"])
    assert "BANJIA_FEISHU_DOMAIN" in caught.value.told.zh


def test_asked_for_too_often_for_too_long_it_says_so_and_counts_its_tries(
    platform: OpenPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(policy.STOP, "wait", lambda seconds: waits.append(seconds))
    platform.instead.extend([refusal(99991400, status=429, x_ogw_ratelimit_reset="3600")] * TRIES)
    with pytest.raises(AddressBookClosed, match="try again in some minutes"):
        book(platform).unknown_addresses(["a@corp.example"])
    assert waits == [LONGEST_WAIT] * (TRIES - 1)


def test_too_many_tokens_asked_for_is_waited_for_too(platform: OpenPlatform, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(_seconds: float) -> None:
        platform.token_reply = None

    monkeypatch.setattr(policy.STOP, "wait", wait)
    platform.token_reply = (400, {"code": 99991400, "msg": "request trigger frequency limit"}, {})
    platform.known = {"a@corp.example": (4, 1)}
    assert book(platform).unknown_addresses(["a@corp.example"])["a@corp.example"].standing == Standing.ENABLED


def test_asked_to_wait_it_waits_as_long_as_told_and_goes_on(
    platform: OpenPlatform, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(policy.STOP, "wait", lambda seconds: waits.append(seconds))
    platform.known = {"a@corp.example": (4, 1)}
    platform.instead.extend(
        [refusal(99991400, status=429, x_ogw_ratelimit_reset="7"), refusal(99991400), refusal(99991400)]
    )
    found = book(platform).unknown_addresses(["a@corp.example"])
    assert found["a@corp.example"].standing == Standing.ENABLED
    assert waits[0] == 7
    assert 2 <= waits[1] < 4 <= waits[2] < 8


def test_a_token_that_is_not_taken_is_replaced_once(platform: OpenPlatform) -> None:
    asked = book(platform)
    platform.known = {"a@corp.example": (4, 1)}
    asked.unknown_addresses(["a@corp.example"])
    platform.tokens_taken.clear()
    assert asked.unknown_addresses(["a@corp.example"])["a@corp.example"].standing == Standing.ENABLED
    assert platform.tokens == 2
    platform.instead.extend([refusal(99991677), refusal(99991677)])
    with pytest.raises(AddressBookClosed, match="nor a new one"):
        asked.unknown_addresses(["a@corp.example"])


@pytest.mark.parametrize(
    ("code", "english", "chinese"),
    [
        (99991672, f"/app/{APP_ID}/auth?q=mail:user_mailbox", "缺少权限 mail:user_mailbox"),
        (99991679, "mail:user_mailbox", "缺少权限"),
        (99991543, f"/app/{APP_ID}/baseinfo", "App Secret 不对"),
        (99991676, "mail:user_mailbox", "缺少权限"),
        (10003, f"/app/{APP_ID}/baseinfo", "App Secret 不对"),
        (99991400, "try again in some minutes", "过几分钟再试"),
        (99991661, "reset the App Secret", "重置 App Secret"),
        (99991662, "Publish a version", "还没有在企业内启用"),
        (99991673, "Publish a version", "还没有在企业内启用"),
        (1234567, "refuses the query (1234567 refused). Look", "拒绝了查询（1234567 refused）。请"),
    ],
)
def test_a_refusal_says_what_it_means_and_the_next_click(
    platform: OpenPlatform, code: int, english: str, chinese: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(policy.STOP, "wait", lambda _seconds: None)
    platform.instead.extend([refusal(code)] * TRIES)
    with pytest.raises(AddressBookClosed) as caught:
        book(platform).unknown_addresses(["a@corp.example"])
    assert english in caught.value.told.en
    assert chinese in caught.value.told.zh
    assert str(code) in caught.value.told.zh


def test_a_wrong_secret_is_named_and_shown_nowhere(
    platform: OpenPlatform, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    platform.token_reply = (200, {"code": 10014, "msg": f"app secret invalid: {APP_SECRET}"}, {})
    with pytest.raises(AddressBookClosed) as caught:
        book(platform).unknown_addresses(["a@corp.example"])
    assert "App Secret is wrong" in caught.value.told.en
    out = capfd.readouterr()
    assert out.out == ""
    assert APP_SECRET not in f"{caught.value!r}{caught.value.told}{out}{caplog.text}"


def test_a_platform_that_cannot_be_reached_is_said_so(platform: OpenPlatform) -> None:
    settings = Settings(feishu_app_id=APP_ID, feishu_domain="http://127.0.0.1:9")
    found = address_book(settings, {"feishu": APP_SECRET}.get)
    assert found is not None
    with pytest.raises(AddressBookClosed, match="cannot be reached"):
        found.unknown_addresses(["a@corp.example"])


def test_without_an_app_there_is_no_book_and_without_a_secret_the_cure_is_named(tmp_path: Path) -> None:
    assert address_book(Settings(), {}.get) is None
    with pytest.raises(AddressBookClosed, match="banjia vault set feishu"):
        address_book(Settings(feishu_app_id=APP_ID), {}.get)
    with pytest.raises(AddressBookClosed, match="BANJIA_FEISHU_DOMAIN"):
        address_book(Settings(feishu_app_id=APP_ID, feishu_domain="http://feishu.example/x"), {"feishu": "s"}.get)
    file = tmp_path / "secret"
    file.write_text(f"{APP_SECRET}\n")
    file.chmod(0o600)
    assert address_book(Settings(feishu_app_id=APP_ID, feishu_secret_file=file), {}.get) is not None
