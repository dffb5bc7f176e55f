"""What a failure says of itself is public."""

import pickle

import pytest

from imapcopy.account import Account, Server
from imapcopy.errors import (
    ConnectionLost,
    FolderError,
    MemberError,
    MessageError,
    MigrationError,
    Refused,
    ServerError,
    error_of_reach,
)
from models.causes import causes
from models.hints import Hint

KINDS = [MessageError, FolderError, MemberError, ServerError, ConnectionLost]


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_survives_pickling(kind: type[MigrationError]) -> None:
    """Prefect and process pools hand them on that way."""
    hint = Hint("near_host", {"host": "imap.fishu.cn", "near": "imap.feishu.cn"})
    error = kind("over_quota", "target", "NO full", where="INBOX", hint=hint)
    again = pickle.loads(pickle.dumps(error))  # noqa: S301
    assert type(again) is kind
    assert again.hint == hint
    assert (again.cause_id, again.side, again.server_text, again.where) == ("over_quota", "target", "NO full", "INBOX")
    assert str(again) == str(error) == "over_quota (target in 'INBOX'): NO full"


@pytest.mark.parametrize("cause_id", causes())
def test_the_class_of_a_failure_is_its_causes_reach(cause_id: str) -> None:
    error, cause = error_of_reach(cause_id, "source", ""), causes()[cause_id]
    expected = {"message": MessageError, "folder": FolderError}.get(
        cause.reach, ServerError if cause.retryable else MemberError
    )
    assert type(error) is expected
    assert error.retryable is cause.retryable


def test_an_unknown_cause_of_a_later_version_is_unclassified() -> None:
    assert MemberError("from the future", "source").cause.id == "unclassified"


def test_a_refusal_does_not_repeat_the_servers_words() -> None:
    """They are not redacted yet."""
    refused = Refused("NO", "wrong password: hunter2")
    assert "hunter2" not in f"{refused} {refused!r} {refused.args}"


def test_an_account_does_not_show_its_password() -> None:
    account = Account(Server("imap.example.com", 993), "lin", "hunter2")
    assert "hunter2" not in f"{account} {account!r}"


@pytest.mark.parametrize(
    ("host", "loopback"),
    [
        ("127.0.0.1", True),
        ("::1", True),
        ("localhost", True),
        ("127.1.2.3", True),
        ("10.0.0.1", False),
        ("localhost.example.com", False),
        ("127.0.0.1.example.com", False),
        ("", False),
    ],
)
def test_only_this_machine_is_loopback(host: str, loopback: bool) -> None:
    assert Server(host, 143).is_loopback is loopback
