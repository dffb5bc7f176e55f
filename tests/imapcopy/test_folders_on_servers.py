"""Folders on real servers: one for each special use from five languages, and a place for any name."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from hashlib import sha256

import pytest
from sqlalchemy import Engine

from deployments.demo.imap_server import ImapServer
from imapcopy.account import Account, Server
from imapcopy.copy_mailbox import copy_mailbox
from imapcopy.copy_options import CopyOptions
from models.ledger import Ledger
from models.member import release_lease, take_lease
from tests.imapcopy.world import LIN, account_at, mail, moment, new_member
from tests.servers.compare import Mail, mail_of
from tests.servers.courier import StartCourier
from tests.servers.cyrus import Cyrus, StartCyrus
from tests.servers.dovecot import Dovecot, StartDovecot, User
from tests.servers.mail import Message, seed

NAME, PASSWORD = "lin", "invented-40"
SPECIAL = {
    "Sent": ("Sent", "已发送", "寄件備份", "送信済みアイテム", "Gesendete Elemente", "Éléments envoyés"),
    "Drafts": ("Drafts", "草稿箱", "草稿匣", "下書き", "Entwürfe", "Brouillons"),
    "Trash": ("Deleted Items", "已删除", "ゴミ箱", "Papierkorb", "Corbeille"),
    "Junk": ("Spam", "垃圾邮件", "迷惑メール", "Unerwünscht", "Courrier indésirable"),
    "Archive": ("Archive", "存档", "アーカイブ", "Archiv"),
}
ORDINARY = (
    *(
        "项目",
        "项目/华东区",
        "项目/华东区/2024 年",
        "客户（重要）",
        "発注書",
        "会議/議事録",
        "Verträge",
        "Kunden/Müller & Söhne",
    ),
    *("Factures", "Reçus/2024", "Notizen", "Mail from me", "已发送/2019"),
)
FOLDERS = ("INBOX", *(name for names in SPECIAL.values() for name in names), *ORDINARY)


def messages() -> list[Message]:
    """Two of each folder; one is in two of them, and one is in the same folder twice."""
    made = []
    for number, folder in enumerate(FOLDERS):
        for nth in range(2):
            arrived = datetime(2024, 1, 1, tzinfo=UTC) + timedelta(hours=number, minutes=nth)
            text = f"Message-ID: <{number}.{nth}@old.example>\r\nSubject: {number}\r\n\r\nmail {nth} of {number}\r\n"
            made.append(Message(folder, text.encode(), ("\\Seen",) if nth else (), arrived))
    same = b"Message-ID: <same@old.example>\r\nSubject: same\r\n\r\nthe same everywhere\r\n"
    moment = datetime(2024, 2, 1, tzinfo=UTC)
    return made + [Message(folder, same, (), moment) for folder in ("Sent", "已发送", "已发送", "项目")]


Target = tuple[Dovecot | Cyrus, str, str]
"""A server, and the prefix and separator of the names in it."""


@pytest.fixture(params=["dovecot that marks", "dovecot that does not", "cyrus", "courier"])
def target(
    request: pytest.FixtureRequest, start_dovecot: StartDovecot, start_cyrus: StartCyrus, start_courier: StartCourier
) -> Target:
    match request.param:
        case "cyrus":
            found: Target = start_cyrus(), "INBOX.", "."
        case "courier":
            found = start_courier(settings={"IMAP_EMPTYTRASH": ""}), "INBOX.", "."
        case _:
            found = start_dovecot(special_use="marks" in request.param.split()), "", "/"
    found[0].add_users([User(NAME, PASSWORD)])
    return found


def special_of(folder: str) -> str:
    return next((role for role, names in SPECIAL.items() if folder in names), "")


def test_forty_folders_in_five_languages_arrive_with_one_for_each_special_use(
    start_dovecot: StartDovecot, target: Target, engine: Engine
) -> None:
    assert len(FOLDERS) == 40
    server, prefix, separator = target
    source = start_dovecot()
    source.add_users([User(NAME, PASSWORD)])
    seed(source, NAME, PASSWORD, messages())
    member = new_member(engine, NAME)
    copy(source, server, engine, member)

    def place(folder: str) -> str:
        if folder == "INBOX":
            return "INBOX"
        role = special_of(folder)
        name = role or folder.replace("已发送/", "Sent/", 1)
        return prefix + name.replace("/", separator)

    there = mail_of(server, NAME)
    expected: Counter[Mail] = Counter()
    for each, count in mail_of(source, NAME).items():
        expected[each._replace(folder=place(each.folder))] += count
    assert there == expected
    folders = {each.folder for each in there}
    assert len(folders) == 1 + len(SPECIAL) + len(ORDINARY)
    claims: Counter[tuple[str, int]] = Counter()
    ledger = Ledger(engine, member, 0)
    for row in ledger.folders():
        assert row.copied == row.source_messages
        for batch in ledger.batches(row.id or 0):
            claims.update((row.target_name, entry.target_uid) for entry in batch.entries)
    assert set(claims.values()) == {1}
    copy(source, server, engine, member)
    assert mail_of(server, NAME) == there


def copy(source: Dovecot, target: Dovecot | Cyrus, engine: Engine, member: int) -> None:
    token = take_lease(engine, member)
    accounts = [Account(Server("127.0.0.1", server.port, "plain"), NAME, PASSWORD) for server in (source, target)]
    copy_mailbox(*accounts, Ledger(engine, member, token), CopyOptions())
    release_lease(engine, member, token)


ODD = (
    *(
        "v1.2",
        "example.org/a.b",
        '50% "off"',
        "back\\slash",
        "~home",
        "a*b",
        "#hash",
        "&",
        "R&D",
        "'quoted'",
        "a^b",
        "<x>",
    ),
    *(
        " leading",
        "trailing ",
        "two  blanks",
        "tab\there",
        "emoji 🎉",
        "e\u0301",
        "é",
        "..",
        "x/../y",
        "INBOX/Kinder/Enkel",
    ),
    *("长" * 80, "a" * 200, "/".join("abcdefghij"), "Plain", "plain", "trash", "Trash", "user", "Sent/v2.0"),
)


def test_names_that_servers_refuse_arrive_under_others_and_stay_there(
    old: ImapServer, target: Target, engine: Engine
) -> None:
    """Every folder's mail is there, once, in a folder of its own but for the two bins; the second pass adds to it."""
    server, _, _ = target
    account = old.account(LIN)
    for number, name in enumerate(ODD):
        if account.find(name) is None:
            account.create(name)
        account.folder(name).deliver(mail(number), moment(1))
    member = new_member(engine)

    def move() -> dict[str, str]:
        token = take_lease(engine, member)
        ledger = Ledger(engine, member, token)
        there = Account(Server("127.0.0.1", server.port, "plain"), NAME, PASSWORD)
        copy_mailbox(account_at(old, LIN), there, ledger, CopyOptions())
        release_lease(engine, member, token)
        return {row.source_name: row.target_name for row in ledger.folders()}

    def folders() -> dict[str, set[str]]:
        """Folders of the target by what is in them."""
        found: dict[str, set[str]] = {}
        for each, count in mail_of(server, NAME).items():
            found.setdefault(each.sha256, set()).add(each.folder)
            assert count == 1
        return found

    places = move()
    digests = {name: sha256(mail(number)).hexdigest() for number, name in enumerate(ODD)}
    first = folders()
    assert {digest: len(some) for digest, some in first.items()} == dict.fromkeys(digests.values(), 1)
    alone = [next(iter(first[digest])) for name, digest in digests.items() if name not in ("trash", "Trash")]
    assert len(set(alone)) == len(alone)
    assert places["trash"] == places["Trash"]
    for number, name in enumerate(ODD, start=100):
        account.folder(name).deliver(mail(number), moment(2))
    assert move() == places
    again = folders()
    for number, name in enumerate(ODD, start=100):
        assert again[sha256(mail(number)).hexdigest()] == again[digests[name]]
