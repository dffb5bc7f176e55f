"""What is said to lie behind a refused login, beside its cause; and that no such guess is made of good logins."""

from dataclasses import replace

import pytest

from deployments.demo.imap_server import ImapServer
from imapcopy.account import Account, Server
from imapcopy.errors import MigrationError
from imapcopy.refused_login import login_hint
from imapcopy.source_connection import SourceConnection
from models.providers import provider_named
from tests.imapcopy.world import LIN

SERVER = Server("imap.example", 993)


@pytest.mark.parametrize(
    ("provider", "user", "password", "kind"),
    [
        ("anybody", "lin@old.example", "correct horse", "password_blanks_inside"),
        ("anybody", "lin@old.example", "correct-horse", ""),
        ("anybody", "lin＠old.example", "correct-horse", "user_full_width"),
        ("anybody", "lin@old。example", "correct-horse", "user_full_width"),
        ("anybody", "lin@old.example\u200b", "correct-horse", "user_invisible"),
        ("anybody", "lin\u00a0@old.example", "correct-horse", "user_invisible"),
        ("anybody", "lin @old.example", "correct-horse", "user_blanks"),
        ("anybody", "Lin@Old.Example", "correct-horse", "user_upper_case"),
        ("anybody", "lin@old.example", "correct-horse ", "password_blanks_at_ends"),
        ("anybody", "lin@old.example", "ｃorrect", "password_full_width"),
        ("anybody", "lin@old.example", "“correct”", "password_full_width"),
        ("anybody", "lin@old.example", "cor\u00adrect", "password_invisible"),
        ("anybody", "lin@old.example", "cor\u3000rect", "password_invisible"),
        ("netease_163", "lin", "ABCDEFGHIJKLMNOP", "user_wants_address"),
        ("netease_163", "lin@163.com", "Summer2024!", "password_not_a_code"),
        ("netease_163", "lin@163.com", "ABCDEFGHIJKLMNOP", ""),
        ("qq", "lin@qq.com", "abcd efgh ijkl mnop", "password_blanks_inside"),
        ("gmail", "lin@gmail.com", "Summer2024!", "password_not_a_code"),
        ("icloud", "lin@icloud.com", "abcd-efgh-ijkl-mnop", "user_wants_local_part"),
        ("icloud", "lin", "abcd-efgh-ijkl-mnop", ""),
        ("feishu", "lin@company.example", "whatever", ""),
    ],
)
def test_the_likeliest_mistake_is_named(provider: str, user: str, password: str, kind: str) -> None:
    found = login_hint(Account(SERVER, user, password), provider_named(provider))
    assert (found.kind if found else "") == kind
    if found:
        assert found.text is not None
        assert password not in str(found)


def test_the_length_of_a_code_is_said() -> None:
    found = login_hint(Account(SERVER, "lin@qq.com", "Summer2024!"), provider_named("qq"))
    assert found is not None
    assert found.values == {"length": "16"}
    assert found.text is not None
    assert "16" in found.text.zh
    assert "16" in found.text.en


def test_nothing_is_said_of_a_secret_that_no_member_typed() -> None:
    member = Account(SERVER, "lin@qq.com", "Summer 2024!")
    assert login_hint(replace(member, login="admin", on_behalf=True), provider_named("qq")) is None


def test_a_refused_login_carries_its_hint(old: ImapServer) -> None:
    account = Account(Server("127.0.0.1", old.port, "plain"), LIN, "pass word ")
    with pytest.raises(MigrationError) as caught:
        SourceConnection(account)
    assert caught.value.cause_id == "bad_credentials"
    assert caught.value.hint is not None
    assert caught.value.hint.kind == "password_blanks_at_ends"


def test_a_server_that_is_busy_is_no_mistake_of_the_member(old: ImapServer) -> None:
    old.behaviour.login_refusals = {LIN: "[UNAVAILABLE] try again later"}
    with pytest.raises(MigrationError) as caught:
        SourceConnection(Account(Server("127.0.0.1", old.port, "plain"), LIN, "pass word "))
    assert caught.value.hint is None
