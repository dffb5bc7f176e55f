"""The test servers and the instruments of the acceptance tests, tried on themselves."""

import base64
import gc
import gzip
import hashlib
import html
import imaplib
import json
import socket
import sqlite3
import ssl
import subprocess
import sys
import urllib.parse
from collections import Counter
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.servers.certificates import Authority, self_signed
from tests.servers.compare import Mail, assert_same_mail, decode_folder, differences_between, mail_of, mailbox_multiset
from tests.servers.dovecot import DEADLINE, PLAIN_CAPABILITY, WRITING_VERBS, Dovecot, StartDovecot, User, verb
from tests.servers.fault_proxy import FaultProxy
from tests.servers.loopback import reserved_port
from tests.servers.mail import FOLDERS, Message, folder_octets, mailbox_messages, seed
from tests.servers.secrets_scan import ArgumentWatch, find_in_process_arguments, find_secrets
from tests.servers.smtp import running_smtp

PASSWORD = 'Zürich "密码"\\ 7;%+'


@pytest.fixture(scope="module")
def source(start_lasting_dovecot: StartDovecot) -> Dovecot:
    """A server with two small, different mailboxes."""
    server = start_lasting_dovecot()
    server.add_users([User(name, PASSWORD) for name in ("li.ming@old.example", "jane@old.example")])
    for name in server.users:
        seed(server, name, PASSWORD, mailbox_messages(name, 60))
    return server


def _as_mail(message: Message) -> Mail:
    flags = frozenset(flag.lower() if flag.startswith("\\") else flag for flag in message.flags)
    return Mail(message.folder, hashlib.sha256(message.raw).hexdigest(), message.arrived.astimezone(UTC), flags)


def _connect(server: Dovecot, user: str, password: str = PASSWORD) -> imaplib.IMAP4:
    connection = imaplib.IMAP4(server.host, server.port, timeout=DEADLINE)
    connection.authenticate("PLAIN", lambda _: f"\0{user}\0{password}".encode())
    return connection


def _copy_naively(source: Dovecot, target: Dovecot, user: str) -> None:
    """Copy a mailbox as the shortest program would, with the standard library alone."""
    with _connect(source, user) as old, _connect(target, user) as new:
        for name in (folder_octets(folder).decode() for folder in FOLDERS):
            if name != '"INBOX"':
                new.create(name)
            old.select(name, readonly=True)
            for number in old.search(None, "ALL")[1][0].split():
                answer: Any = old.fetch(number.decode(), "(FLAGS INTERNALDATE BODY.PEEK[])")[1]
                described = answer[0][0] + answer[-1]
                flags = " ".join(flag.decode() for flag in imaplib.ParseFlags(described) if flag != b"\\Recent")
                arrived = described.split(b"INTERNALDATE ")[1][:28].decode()
                # Not imaplib's append(): it makes every bare CR a line end.
                raw = answer[0][1]
                new.send(
                    f"c{number.decode()} APPEND {name} ({flags}) {arrived} {{{len(raw)}+}}\r\n".encode() + raw + b"\r\n"
                )
                while not (line := new.readline()).startswith(b"c"):
                    assert line
                assert b"OK" in line


@pytest.mark.dovecot
def test_a_server_gives_back_what_it_was_seeded_with(source: Dovecot) -> None:
    for name in source.users:
        messages = mailbox_messages(name, 60)
        expected = Counter(_as_mail(message) for message in messages)
        assert_same_mail(expected, mail_of(source, name))
        assert {mail.folder for mail in expected} == set(FOLDERS)
        assert max(expected.values()) == 2, "one message is there twice"
        assert source.message_count(name) == 60


@pytest.mark.dovecot
def test_a_copy_is_equal_and_every_kind_of_damage_is_named(source: Dovecot, start_dovecot: StartDovecot) -> None:
    user = "li.ming@old.example"
    target = start_dovecot()
    target.add_user(user, PASSWORD)
    _copy_naively(source, target, user)
    before, after = mail_of(source, user), mail_of(target, user)
    assert_same_mail(before, after)

    one = next(mail for mail, times in before.items() if times == 1)
    damages = {
        "missing in": before - Counter([one]),
        "twice in": before + Counter([one]),
        "extra in": before + Counter([one._replace(sha256="0" * 64)]),
        "has flags": before - Counter([one]) + Counter([one._replace(flags=frozenset({"Other"}))]),
        "arrived": before - Counter([one]) + Counter([one._replace(arrived=one.arrived.replace(year=2020))]),
        "is in": before - Counter([one]) + Counter([one._replace(folder="Elsewhere")]),
    }
    for word, damaged in damages.items():
        (difference,) = differences_between(before, damaged)
        assert word in difference
        with pytest.raises(AssertionError, match="1 differences"):
            assert_same_mail(before, damaged)


@pytest.mark.dovecot
def test_the_commands_of_a_session_are_known(source: Dovecot) -> None:
    """What stands inside a literal is no command, and a literal that was refused was never sent."""
    source.add_user("said@old.example", PASSWORD, quota="storage=20K")
    with _connect(source, "said@old.example") as session:
        session.create("Notes")
        text = b"Subject: x\r\n\r\na1 DELETE Notes\r\nA2 APPEND INBOX {3}\r\n" + b"y" * 9000
        session.append("INBOX", r"(\Seen)", None, text)
        assert session.append("INBOX", "", None, b"z" * 30000)[0] == "NO"
        session.select(readonly=True)
        session.uid("FETCH", "1:*", "(UID FLAGS)")
        session.uid("STORE", "1", "+FLAGS", r"(\Flagged)")
        session.send(b"i1 IDLE\r\nDONE\r\n")
        while not session.readline().startswith(b"i1 "):
            pass
    short = Message("INBOX", text[:1000], (), datetime(2024, 2, 29, tzinfo=UTC))
    seed(source, "said@old.example", PASSWORD, [short] * 3)

    said = source.commands("said@old.example")
    assert said == [
        *("CREATE", "APPEND", "APPEND", "EXAMINE", "UID FETCH", "UID STORE", "IDLE", "LOGOUT"),
        *("APPEND", "LOGOUT"),
    ]
    first, second = source.sessions("said@old.example")
    assert first[1] == rf"APPEND INBOX (\Seen) {{{len(text)}}}"
    assert second[0].count("{1000}") == 3
    assert WRITING_VERBS & set(said) == {"CREATE", "APPEND", "UID STORE"}

    source.forget_commands()
    assert source.commands("said@old.example") == []
    mail_of(source, "said@old.example")
    reading = source.commands("said@old.example")
    assert "UID FETCH" in reading
    assert not WRITING_VERBS & set(reading)


@pytest.mark.dovecot
def test_a_full_mailbox_refuses_until_it_gets_more_room(source: Dovecot) -> None:
    source.add_user("full@old.example", PASSWORD, quota="storage=10K")
    letter = b"Subject: large\r\n\r\n" + b"x" * 20000
    with _connect(source, "full@old.example") as session:
        state, answer = session.append("INBOX", "", None, letter)
        assert (state, b"[OVERQUOTA]" in answer[0]) == ("NO", True)
    source.set_quota("full@old.example", "storage=1M")
    with _connect(source, "full@old.example") as session:
        assert session.append("INBOX", "", None, letter)[0] == "OK"


@pytest.mark.dovecot
def test_a_password_counts_from_the_moment_it_is_changed(source: Dovecot) -> None:
    source.add_user("new@old.example", PASSWORD)
    with pytest.raises(imaplib.IMAP4.error, match="AUTHENTICATIONFAILED"):
        mailbox_multiset(source.host, source.port, "new@old.example", "wrong")
    source.set_password("new@old.example", "another one")
    assert mail_of(source, "new@old.example") == Counter()


@pytest.mark.dovecot
def test_a_self_signed_certificate_is_refused_and_a_private_authority_is_believed(
    start_dovecot: StartDovecot, authority: Authority
) -> None:
    stranger = start_dovecot(certificate=self_signed())
    with pytest.raises(ssl.SSLCertVerificationError):
        imaplib.IMAP4_SSL(stranger.host, stranger.tls_port, ssl_context=ssl.create_default_context(), timeout=DEADLINE)

    known = start_dovecot(certificate=authority.issue())
    known.add_user("li", PASSWORD)
    trust = ssl.create_default_context(cadata=authority.root.decode())
    trust.verify_flags |= ssl.VERIFY_X509_STRICT
    for host in ("127.0.0.1", "localhost"):
        assert mailbox_multiset(host, known.tls_port, "li", PASSWORD, tls=trust) == Counter()
    with imaplib.IMAP4(known.host, known.port, timeout=DEADLINE) as session:
        assert session.starttls(trust)[0] == "OK"


@pytest.mark.dovecot
def test_a_server_can_offer_little_and_come_back_on_the_same_port(start_dovecot: StartDovecot) -> None:
    server = start_dovecot(capability=PLAIN_CAPABILITY, special_use=True)
    server.add_user("li", PASSWORD)
    port = server.port
    session = _connect(server, "li")
    try:
        assert set(session.capability()[1][0].split()) == {b"IMAP4rev1", b"UIDPLUS"}
        listed = str(session.list()[1])
        assert r"\\Sent) " in listed
        assert r"\\Junk) " in listed
        server.disconnect("li")
        with pytest.raises((imaplib.IMAP4.abort, OSError)):
            session.noop()
    finally:
        session.shutdown()
    server.stop()
    server.stop()
    with pytest.raises(OSError, match="refused"):
        imaplib.IMAP4(server.host, port, timeout=DEADLINE)
    server.start()
    assert server.port == port
    assert mail_of(server, "li") == Counter()


def test_sample_mail_is_the_same_for_the_same_seed() -> None:
    messages = mailbox_messages("li", 500)
    assert messages == mailbox_messages("li", 500)
    assert messages != mailbox_messages("wang", 500)
    assert all(b"\n" not in message.raw.replace(b"\r\n", b"") for message in messages)
    assert sum(len(message.raw) for message in messages) > 500_000
    assert len({message.arrived.utcoffset() for message in messages}) > 5


@pytest.mark.parametrize("name", ["项目/华东区", "R&D", 'a"b\\c', "Café 🎉", "&"])
def test_a_folder_name_survives_its_encoding(name: str) -> None:
    quoted = folder_octets(name)
    assert quoted.isascii()
    assert decode_folder(quoted[1:-1].replace(rb"\"", b'"').replace(rb"\\", b"\\")) == name


SECRET = "Canary 密码/7+x&\"'é\\end"


def _plant(directory: Path, name: str) -> None:
    raw = SECRET.encode()
    plain = {
        "plain.log": b"... password=" + raw + b" ...",
        "json": json.dumps({"note": SECRET}).encode(),
        "json-twice": json.dumps(json.dumps(SECRET)).encode(),
        "repr-in-json": json.dumps({"error": repr(SECRET)}).encode(),
        "json-in-base64": base64.b64encode(json.dumps({"p": SECRET}).encode()),
        "html-in-json": json.dumps({"p": html.escape(SECRET)}).encode(),
        "repr": repr([SECRET.encode()]).encode(),
        "url": urllib.parse.quote(SECRET).encode(),
        "form": urllib.parse.urlencode({"p": SECRET}).encode(),
        "utf-16": SECRET.encode("utf-16"),
        "gb18030": SECRET.encode("gb18030"),
        "sasl": base64.b64encode(b"\0somebody\0" + raw),
        "basic": base64.urlsafe_b64encode(b"ab:" + raw + b"tail"),
        "lines": base64.encodebytes(b"x" * 40 + raw + b"y" * 90),
        "hex": raw.hex().encode(),
        "log.gz": gzip.compress(b"line\n" + raw),
        "html": SECRET.replace("&", "&amp;").replace('"', "&#34;").replace("'", "&#39;").encode(),
    }
    if name in plain:
        (directory / name).write_bytes(plain[name])
        return
    with closing(sqlite3.connect(directory / "state.db")) as database:
        # A page holds less than the text, so that the secret is torn apart in the file.
        database.execute("PRAGMA page_size = 512")
        database.execute("CREATE TABLE state (id INTEGER PRIMARY KEY, value TEXT, data BLOB)")
        torn = "".join("x" * n + SECRET for n in range(400, 520, 7))
        database.execute("INSERT INTO state VALUES (1, ?, ?)", (torn, gzip.compress(raw)))
        database.commit()


PLANTS = ["plain.log", "json", "json-twice", "repr", "repr-in-json", "json-in-base64", "html", "html-in-json", "url"]
PLANTS += ["form", "utf-16", "gb18030", "sasl", "basic", "lines", "hex", "log.gz", "database"]


@pytest.mark.parametrize("name", PLANTS)
def test_a_planted_secret_is_found(tmp_path: Path, name: str) -> None:
    innocent = "a different secret"
    (tmp_path / "deep" / "er").mkdir(parents=True)
    assert find_secrets([SECRET], [tmp_path]) == []
    _plant(tmp_path / "deep" / "er", name)
    hits = find_secrets([innocent, SECRET], [tmp_path])
    assert {hit.needle for hit in hits} == {SECRET}
    if name == "database":
        assert {"state.value", "state.data!gz"} <= {hit.where.split("!", 1)[-1] for hit in hits}


def test_the_part_of_a_secret_that_no_escaping_changes_is_enough(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(b"[[Canary-old-01?%5B")
    (hit,) = find_secrets(['Canary-old-01 "q"'], [tmp_path])
    assert hit.form == "a part"


def test_a_secret_in_the_write_ahead_log_is_found(tmp_path: Path) -> None:
    file = tmp_path / "state.db"
    with closing(sqlite3.connect(file)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE state (value TEXT)")
        database.execute("INSERT INTO state VALUES (?)", (SECRET,))
        database.commit()
        places = {Path(hit.where.split("!")[0]).name for hit in find_secrets([SECRET], [tmp_path])}
    assert places == {"state.db", "state.db-wal"}


def test_a_secret_in_the_arguments_or_environment_of_a_process_is_found() -> None:
    wait = "import sys; print(flush=True); sys.stdin.read()"
    assert find_in_process_arguments([SECRET]) == []
    with ArgumentWatch([SECRET]) as watch:
        for arguments, environment in ((["--password", SECRET], None), ([], {"P": SECRET})):
            with subprocess.Popen(
                [sys.executable, "-c", wait, *arguments],
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            ) as process:
                assert process.stdout
                process.stdout.readline()
                assert {hit.where.split("/")[-2] for hit in find_in_process_arguments([SECRET])} == {str(process.pid)}
                while str(process.pid) not in {hit.where.split("/")[-2] for hit in watch.hits}:
                    assert process.poll() is None
    assert {hit.where.split("/")[-1] for hit in watch.hits} == {"cmdline", "environ"}


def test_the_verb_of_a_command_is_in_capitals() -> None:
    assert verb('append "INBOX" {3}') == "APPEND"
    assert verb("uid fetch 1:* (FLAGS)") == "UID FETCH"


def test_the_port_of_a_server_is_kept_for_it_while_it_is_down() -> None:
    class Server:
        pass

    server = Server()
    port = reserved_port(server)
    with socket.socket() as stranger, pytest.raises(OSError, match="in use"):
        stranger.bind(("127.0.0.1", port))
    with socket.create_server(("127.0.0.1", port)):
        socket.create_connection(("127.0.0.1", port)).close()


def test_a_proxy_leaves_nothing_open_whatever_has_not_been_taken_yet() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, closing(socket.socket()) as client:
        with FaultProxy(server.getsockname()[1]) as proxy:
            client.connect(("127.0.0.1", proxy.port))
            there, _ = server.accept()
            client.setblocking(False)
            with suppress(BlockingIOError):
                while client.send(b"x" * 65536):
                    pass
            late = socket.create_connection(("127.0.0.1", proxy.port))
        late.close()
        there.close()
    # What is still open then says so while it is collected, and pytest takes that for a failure.
    gc.collect()


def test_a_mail_sink_leaves_nothing_open_of_a_client_that_goes_or_stays() -> None:
    with closing(socket.socket()) as staying:
        for _ in range(10):
            with running_smtp() as sink:
                socket.create_connection(("127.0.0.1", sink.port)).close()
        with running_smtp() as sink:
            staying.connect(("127.0.0.1", sink.port))
    gc.collect()
