"""The demo's company: the same mail at every start, three failures, and each of them mended."""

import csv
import imaplib
import io
from collections.abc import Iterator

import pytest

from deployments.demo import company
from deployments.demo.imap_server import ImapServer

Contents = dict[str, list[tuple[str, list[tuple[bytes, str, list[str]]]]]]


@pytest.fixture(scope="module")
def old() -> Iterator[ImapServer]:
    with company.old_company() as server:
        yield server


@pytest.fixture
def new() -> Iterator[ImapServer]:
    with company.new_company() as server:
        yield server


def contents(server: ImapServer) -> Contents:
    return {
        address: [
            (folder.name, [(mail.raw, mail.internal_date.isoformat(), sorted(mail.flags)) for mail in folder.messages])
            for folder in server.account(address).folders
        ]
        for address in server.addresses
    }


def rows(old_port: int, new_port: int, *, mended: bool) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(company.roster_csv(old_port, new_port, mended))))


def logs_in(port: int, user: str, password: str) -> bool:
    with imaplib.IMAP4("127.0.0.1", port) as client:
        try:
            return client.login(user, password)[0] == "OK"
        except imaplib.IMAP4.error:
            return False


def test_the_mail_is_the_same_at_every_start(old: ImapServer) -> None:
    assert contents(company.old_company()) == contents(old)


def test_twelve_people_have_a_few_hundred_messages_in_chinese_and_nested_folders(old: ImapServer) -> None:
    assert len(old.addresses) == 12
    assert 300 < company.message_count(old) < 600
    for address in old.addresses:
        account = old.account(address)
        names = {folder.name: len(folder.messages) for folder in account.folders}
        assert names["项目/2025 预算"]
        assert names["旧资料"] == 0
        assert account.folder("已发送").special_use == "\\Sent"


def test_one_inbox_holds_what_careless_tools_lose(old: ImapServer) -> None:
    messages = old.account("lin.xiaoyu@old.example").folder("INBOX").messages
    raws = [message.raw for message in messages]
    assert any(raws.count(raw) == 2 for raw in raws)
    assert any(b"\r\n" not in raw for raw in raws)
    assert any(b"message-id:" not in raw.lower() for raw in raws)
    assert any("Subject: 未编码".encode("gbk") in raw for raw in raws)
    assert any(b"=?GBK?B?" in raw for raw in raws)
    assert any(b"filename*0*=utf-8''" in raw or b"filename*=utf-8''" in raw for raw in raws)
    assert any(message.internal_date.year == 1970 for message in messages)
    assert any("$Forwarded" in message.flags for message in messages)


@pytest.mark.parametrize("mended", [False, True])
def test_everybody_on_the_roster_can_log_in_but_one_until_it_is_mended(
    old: ImapServer, new: ImapServer, mended: bool
) -> None:
    roster = rows(old.port, new.port, mended=mended)
    assert tuple(roster[0]) == company.ROSTER_COLUMNS
    refused = [
        row["UserName"] for row in roster if not logs_in(int(row["SourcePort"]), row["UserName"], row["Password"])
    ]
    assert refused == ([] if mended else [company.WRONG_PASSWORD.old_address])
    assert all(logs_in(int(row["TargetPort"]), row["TargetUserName"], row["TargetPassword"]) for row in roster)


def test_one_mailbox_is_too_small_until_it_gets_room(old: ImapServer, new: ImapServer) -> None:
    person = company.FULL_MAILBOX
    need = old.account(person.old_address).used_bytes
    assert need > (new.behaviour.quota_of(person.new_address) or 0)
    company.give_room(new)
    assert need < (new.behaviour.quota_of(person.new_address) or 0)


def test_one_message_is_too_large_until_large_ones_are_allowed(old: ImapServer, new: ImapServer) -> None:
    large = [
        (address, message.raw)
        for address in old.addresses
        for folder in old.account(address).folders
        for message in folder.messages
        if len(message.raw) > (new.behaviour.max_message_bytes or 0)
    ]
    assert [address for address, _ in large] == [company.LARGE_MESSAGE.old_address]
    with imaplib.IMAP4("127.0.0.1", new.port) as client:
        client.login(company.LARGE_MESSAGE.new_address, company.LARGE_MESSAGE.new_password)
        assert client.append("INBOX", "", "", large[0][1]) == ("NO", [b"[TOOBIG] Message too large"])
        company.allow_large(new)
        assert client.append("INBOX", "", "", large[0][1])[0] == "OK"
