"""Cyrus and Courier, tried on themselves."""

import imaplib
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers.compare import mail_of
from tests.servers.courier import Courier, StartCourier
from tests.servers.cyrus import Cyrus, StartCyrus
from tests.servers.dovecot import DEADLINE, User
from tests.servers.unpacked import Unpacked

PASSWORD = 'Zürich "密码"\\ 7;%+'

Start = Callable[..., Unpacked]


@pytest.fixture(params=["cyrus", "courier"])
def start_server(request: pytest.FixtureRequest) -> Start:
    start: Start = request.getfixturevalue(f"start_{request.param}")
    return start


def _connected(server: Unpacked, user: str) -> imaplib.IMAP4:
    connection = imaplib.IMAP4(server.host, server.port, timeout=DEADLINE)
    connection.authenticate("PLAIN", lambda _: f"\0{user}\0{PASSWORD}".encode())
    return connection


def test_a_server_starts_keeps_mail_and_leaves_no_process(start_server: Start) -> None:
    server = start_server()
    server.add_users([User("ming", PASSWORD), User("fang", PASSWORD)])
    with _connected(server, "ming") as connection:
        for number in range(3):
            assert connection.append("INBOX", "", "", b"Subject: %d\r\n\r\nx\r\n" % number)[0] == "OK"
    server.stop()
    assert server.living() == []
    server.start()
    assert (mail_of(server, "ming").total(), mail_of(server, "fang").total()) == (3, 0)


def test_a_session_that_is_open_ends_with_its_server(start_server: Start) -> None:
    server = start_server()
    server.add_user("ming", PASSWORD)
    connection = _connected(server, "ming")
    assert server.living()
    server.stop()
    assert server.living() == []
    connection.shutdown()


def test_a_wrong_password_is_refused(start_cyrus: StartCyrus) -> None:
    server = start_cyrus()
    server.add_user("ming", PASSWORD)
    with imaplib.IMAP4(server.host, server.port, timeout=DEADLINE) as connection, pytest.raises(imaplib.IMAP4.error):
        connection.login("ming", "something else")


def test_accounts_can_be_added_while_a_server_runs(start_server: Start) -> None:
    server = start_server()
    for name in ("ming", "fang", "wei"):
        server.add_user(name, PASSWORD)
        assert mail_of(server, name).total() == 0


def test_cyrus_is_configured_by_its_settings(start_cyrus: StartCyrus) -> None:
    server: Cyrus = start_cyrus(settings={"unixhierarchysep": "yes", "altnamespace": "yes", "reject8bit": "yes"})
    server.add_user("li.ming", PASSWORD)
    with _connected(server, "li.ming") as connection:
        assert connection.create("a/b")[0] == "OK"
        assert connection.append("INBOX", "", "", "Subject: ü\r\n\r\n".encode())[0] == "NO"


def test_courier_is_configured_by_its_settings(start_courier: StartCourier) -> None:
    server: Courier = start_courier(settings={"IMAP_CAPABILITY": "IMAP4rev1 AUTH=PLAIN"})
    server.add_user("ming", PASSWORD)
    with _connected(server, "ming") as connection:
        assert "UIDPLUS" not in connection.capabilities


def test_a_root_that_is_not_unpacked_is_a_failure_and_no_skip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.servers.unpacked.CACHE", tmp_path)
    with pytest.raises(pytest.fail.Exception, match="run tests/setup/install_servers"):
        Cyrus(tmp_path).start()
