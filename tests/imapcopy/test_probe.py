"""A probe measures real servers as they are, leaves nothing behind, and touches nothing that is not its own."""

import imaplib
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from deployments.demo.imap_server import Action, Fault, ImapServer, Received
from deployments.demo.personality import personality
from imapcopy import probe as probing
from imapcopy.account import Account, Server
from imapcopy.errors import MemberError, MigrationError
from imapcopy.probe import probe_mailbox
from imapcopy.probe_connection import ProbeConnection
from imapcopy.probe_samples import ROOT, Large, marker
from imapcopy.target_connection import TargetConnection
from models.probe import Probe, known
from models.probe_card import card
from tests.imapcopy.world import NEW, PASSWORD, account_at, everything, mail
from tests.servers.compare import mail_of
from tests.servers.courier import Courier, StartCourier
from tests.servers.cyrus import Cyrus, StartCyrus
from tests.servers.dovecot import DEADLINE, Dovecot, StartDovecot, User

Real = Dovecot | Cyrus | Courier
USER = User("lin", "invented-71")


def names_at(host: str, port: int, user: str, password: str) -> list[bytes]:
    """Every folder, by the standard library."""
    connection = imaplib.IMAP4(host, port)
    connection.authenticate("PLAIN", lambda _: f"\0{user}\0{password}".encode())
    _, lines = connection.list()
    connection.logout()
    # Without the attributes: \Marked comes and goes.
    return sorted(line.partition(b") ")[2] for line in lines if isinstance(line, bytes))


def states(probe: Probe) -> dict[str, str]:
    """The card by value, but for what depends on the speed of this machine."""
    return {line.capability: line.state for line in card(probe) if line.capability != "speed"}


ALL_WELL = {
    "sign_in": "works",
    "folders": "deep",
    "uidplus": "right",
    "shows": "at_once",
    "flags": "kept",
    "keywords": "kept",
    "duplicates": "kept",
    "leftovers": "none",
}


@pytest.fixture(params=["dovecot", "cyrus", "courier"])
def real(
    request: pytest.FixtureRequest, start_dovecot: StartDovecot, start_cyrus: StartCyrus, start_courier: StartCourier
) -> tuple[str, object]:
    kind = request.param
    server = {"dovecot": lambda: start_dovecot(special_use=True), "cyrus": start_cyrus, "courier": start_courier}[
        kind
    ]()
    server.add_users([USER])
    return kind, server


CARDS = {
    "dovecot": ALL_WELL
    | {
        "date": "zone",
        "names": "any",
        "bodies": "same",
        "odd": "refused",
        "extensions": "work",
        "special": "open",
        "size": "unknown",
        "quota": "unknown",
    },
    "cyrus": ALL_WELL
    | {
        "date": "zone",
        "names": "some",
        "bodies": "same",
        "odd": "refused",
        "extensions": "work",
        "special": "absent",
        "size": "told",
        "quota": "unknown",
    },
    "courier": ALL_WELL
    | {
        "date": "zone",
        "names": "some",
        "shows": "refreshed",
        "bodies": "same",
        "odd": "altered",
        "extensions": "none",
        "special": "absent",
        "size": "unknown",
        "quota": "unknown",
    },
    "feishu": ALL_WELL
    | {
        "date": "kept",
        "names": "any",
        "bodies": "same",
        "odd": "refused",
        "extensions": "none",
        "special": "open",
        "size": "unknown",
        "quota": "unknown",
    },
}
SAID = {
    "dovecot": "Refused: no octets. Altered: bare LF, NUL.",
    "cyrus": "Refused: bare LF, NUL, no header, no octets. Altered: 8-bit header.",
    "courier": "Altered: bare LF, bare CR, no octets, no final line end.",
    "feishu": "Refused: no octets. Altered: none.",
}
NAMES = {"cyrus": 'A name cannot have: /, \\, %, ", |, <, >.', "courier": "A name cannot have: emoji, /."}


def told(probe: Probe, capability: str) -> str:
    [line] = [line for line in card(probe) if line.capability == capability]
    return line.said.en


def test_real_servers_have_different_cards_and_nothing_is_left_at_them(real: tuple[str, Real]) -> None:
    kind, server = real
    account = Account(Server(server.host, server.port, "plain"), USER.name, USER.password)
    with TargetConnection(account) as connection:
        prefix = connection.listing().prefix
        connection.create([f"{prefix}Work"])
        for number in range(3):
            connection.append(f"{prefix}Work", [probing.Outgoing(mail(number), frozenset({"\\Seen"}), "")])
        connection.append("INBOX", [probing.Outgoing(mail(9), frozenset(), "")])
    before = mail_of(server, USER.name), names_at(server.host, server.port, USER.name, USER.password)
    probe = probe_mailbox(account)
    assert (mail_of(server, USER.name), names_at(server.host, server.port, USER.name, USER.password)) == before
    assert (probe.leftovers, probe.unfinished, probe.host) == ((), "", "127.0.0.1")
    assert states(probe) == CARDS[kind]
    assert told(probe, "odd") == SAID[kind]
    assert kind not in NAMES or told(probe, "names") == NAMES[kind]
    assert [rate.connections for rate in probe.rates] == [1, 2, 4, 8]
    assert [rate.messages for rate in probe.rates] == [20, 40, 80, 160]
    assert probe.mechanism == "PLAIN"


@pytest.fixture
def feishu() -> Iterator[ImapServer]:
    """The demo server as Feishu speaks, with somebody's mail in it."""
    one = personality("feishu")
    server = ImapServer("new", {NEW: PASSWORD}, one.behaviour())
    one.furnish(server.account(NEW))
    for folder in server.account(NEW).folders:
        folder.deliver(mail(1))
    with server:
        yield server


def probed(server: ImapServer, **options: Any) -> Probe:
    return probe_mailbox(account_at(server, NEW), **options)


def names(server: ImapServer) -> list[str]:
    return [folder.name for folder in server.account(NEW).folders]


def test_feishu_has_a_card_and_keeps_its_mail(feishu: ImapServer) -> None:
    before = everything(feishu, NEW), names(feishu)
    probe = probed(feishu)
    assert (everything(feishu, NEW), names(feishu)) == before
    assert states(probe) == CARDS["feishu"]
    assert told(probe, "odd") == SAID["feishu"]
    assert (probe.mechanism, probe.separator, probe.permanent_flags) == ("PLAIN", "/", "any")
    touched = {entry.rest for verb in ("APPEND", "DELETE", "CREATE", "UID STORE") for entry in feishu.commands(verb)}
    assert any(ROOT in rest for rest in touched)
    assert len(feishu.commands("UID EXPUNGE")) == 5, "one for each special folder"
    assert not feishu.commands("EXPUNGE")
    assert not feishu.commands("CLOSE")


@pytest.fixture
def server() -> Iterator[ImapServer]:
    with ImapServer("new", {NEW: PASSWORD}) as running:
        running.account(NEW).folder("INBOX").deliver(mail(1))
        yield running


def test_every_trait_of_a_server_is_found(server: ImapServer) -> None:
    how = server.behaviour
    how.capabilities -= {"LITERAL+", "MULTIAPPEND", "QUOTA"}
    how.separator = "/"
    how.ignore_append_date = True
    how.flags_lost_at_append = frozenset({"\\Flagged"})
    how.keywords_allowed = False
    how.stores_once = True
    how.reserved_names = frozenset()
    how.max_connections = 4
    probe = probed(server, size_limit=False)
    assert probe.date == "lost"
    assert probe.flags["\\Flagged"] == "stored"
    assert probe.flags["\\Seen"] == "kept"
    assert {state for flag, state in probe.flags.items() if not flag.startswith("\\")} <= {"refused", "stored"}
    assert probe.duplicates == 1
    assert [(rate.connections, rate.opened, rate.errors) for rate in probe.rates] == [
        (1, 1, ()),
        (2, 2, ()),
        (4, 3, ("too_many_connections",)),
    ]
    assert probe.most_connections == 2
    assert probe.connections <= 2
    assert probe.quota is None
    assert names(server) == ["INBOX"]


def test_what_is_rewritten_has_a_name_and_what_is_refused_its_words(server: ImapServer) -> None:
    server.behaviour.refuse_message = lambda raw: "Message contains NUL characters" if b"\0" in raw else None
    server.behaviour.rewrite = lambda raw: raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    probe = probed(server)
    assert (probe.messages["nul"], probe.words["nul"]) == ("repaired", "NO Message contains NUL characters")
    assert (probe.messages["bare_lf"], probe.messages["plain"]) == ("line_ends", "")


def test_a_server_that_tells_wrong_uids_or_none(server: ImapServer) -> None:
    server.behaviour.appenduid = "lying"
    assert probed(server).uidplus == "wrong"
    server.behaviour.appenduid = "absent"
    assert probed(server).uidplus == "absent"


def test_without_uidplus_nothing_is_put_where_it_could_not_be_taken_out_alone(server: ImapServer) -> None:
    server.behaviour.capabilities -= {"UIDPLUS"}
    server.account(NEW).create("Sent", "\\Sent")
    probe = probed(server)
    assert probe.special["sent"] == "not_tried"
    assert not any("Sent" in entry.rest for entry in server.commands("APPEND"))
    assert not server.commands("EXPUNGE")
    assert (probe.leftovers, names(server)) == ((), ["INBOX", "Sent"])


def test_a_special_folder_that_takes_nothing_is_named(server: ImapServer) -> None:
    server.account(NEW).create("Junk", "\\Junk")
    refusal = Fault("APPEND", Action.NO, containing="Junk", text="[CANNOT] Cannot APPEND to a SPAM folder", times=None)
    server.behaviour.faults.append(refusal)
    probe = probed(server)
    assert probe.special["junk"].startswith("NO [CANNOT]")
    assert told(probe, "special") == "Cannot be written to: junk."


def test_what_a_view_keeps_of_a_deleted_folder_is_taken_out_too(server: ImapServer) -> None:
    """As with labels: what lay in the scratch folder would stay in All Mail."""
    view = server.account(NEW).create("All Mail", "\\All")
    view.deliver(mail(4))

    def shown_too(raw: bytes) -> bytes:
        view.deliver(raw)
        return raw

    server.behaviour.rewrite = shown_too
    probe = probed(server)
    assert mail(4) in [message.raw for message in view.messages]
    assert len(view.messages) == 2
    assert probe.leftovers == ("All Mail (empty)",), "nothing tells it from somebody else's"
    assert names(server) == ["INBOX", "All Mail"]


def test_the_size_limit_is_found_on_request_alone(server: ImapServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probing, "MB", 1000)
    server.behaviour.max_message_bytes = 40_000
    assert probed(server).size_limit is None
    probe = probed(server, size_limit=True)
    assert (probe.largest_taken, probe.smallest_refused, probe.size_limit) == (35_000, 50_000, 49_999)
    server.behaviour.capabilities |= {"APPENDLIMIT"}
    told_by_server = probed(server, size_limit=True)
    assert (told_by_server.told_limit, told_by_server.largest_taken, told_by_server.size_limit) == (40_000, None, None)
    assert names(server) == ["INBOX"]


def test_a_large_message_has_the_octets_that_it_says() -> None:
    for octets in (10_000, 123_457, 10 << 20):
        large = Large("0123456789abcdef", octets)
        assert sum(map(len, large)) == len(large) == octets


def test_a_server_that_breaks_at_odd_messages_is_probed_to_the_end(server: ImapServer) -> None:
    server.behaviour.poison = lambda raw: b"\0" in raw
    probe = probed(server)
    assert (probe.messages["nul"], probe.unfinished, probe.leftovers) == ("repaired", "", ())
    assert probe.messages["many_parts"] == ""
    assert names(server) == ["INBOX"]


def test_a_server_that_asks_to_be_left_alone_ends_the_probe_and_is_cleaned(server: ImapServer) -> None:
    text = "[THROTTLED] Request is throttled. Suggested Backoff Time: 2000 milliseconds"
    server.behaviour.faults.append(Fault("APPEND", Action.NO, nth=5, text=text))
    probe = probed(server)
    assert probe.unfinished == "throttled"
    assert names(server) == ["INBOX"]
    assert known(probe, probe.at).outdated


def test_a_refused_password_and_a_refused_scratch_folder_are_raised(server: ImapServer) -> None:
    with pytest.raises(MemberError):
        probe_mailbox(replace(account_at(server, NEW), password="wrong"))
    assert len(server.commands("AUTHENTICATE")) == 1
    server.behaviour.faults.append(Fault("CREATE", Action.NO, text="[NOPERM] no folders here", times=None))
    with pytest.raises(MigrationError, match="no folders here"):
        probed(server)


def test_a_folder_that_cannot_be_removed_is_named_and_the_next_probe_removes_it(server: ImapServer) -> None:
    refusal = Fault("DELETE", Action.NO, text="[INUSE] not now", times=None)
    server.behaviour.faults.append(refusal)
    left = probed(server).leftovers
    assert len(left) > 5
    assert [name for name in names(server) if name.startswith(ROOT)]
    server.behaviour.faults.clear()
    again = probed(server)
    assert (len(again.removed), again.leftovers, names(server)) == (1, (), ["INBOX"])


DEATHS = [
    *((verb, nth) for verb in ("APPEND", "DELETE", "CREATE", "SELECT") for nth in (1, 2, 5)),
    *((verb, nth) for verb in ("UID STORE", "UID EXPUNGE") for nth in (1, 2)),
]


@pytest.mark.parametrize(("verb", "nth"), DEATHS)
def test_a_probe_that_died_anywhere_is_cleaned_up_by_the_next_one(verb: str, nth: int, server: ImapServer) -> None:
    """As after a kill: from one command on, nobody can be reached any more."""
    server.account(NEW).create("Sent", "\\Sent").deliver(mail(2))
    server.account(NEW).create("Drafts", "\\Drafts").deliver(mail(3))
    before = everything(server, NEW), names(server)
    met, reached = count(1), threading.Event()

    def die(entry: Received) -> None:
        if entry.verb == verb and next(met) == nth:
            reached.set()
            server.behaviour.faults = [
                Fault(each, Action.DROP_AFTER if each == verb.removeprefix("UID ") else Action.DROP_BEFORE, times=None)
                for each in ("CONNECT", "APPEND", "STORE", "EXPUNGE", "DELETE", "CREATE", "SELECT", "NOOP", "LIST")
            ]

    server.behaviour.before_command = die
    with suppress(MigrationError):
        probed(server)
    assert reached.is_set()
    server.settle()
    server.behaviour.before_command, server.behaviour.faults = None, []
    probe = probed(server)
    assert (probe.leftovers, probe.unfinished) == ((), "")
    assert (everything(server, NEW), names(server)) == before


def test_only_what_is_marked_as_a_probes_own_is_removed(server: ImapServer) -> None:
    account = server.account(NEW)
    token = "0123456789abcdef"
    account.create(f"{ROOT}{token}").deliver(mail(5))  # somebody's, who likes the name
    account.create(f"{ROOT}fedcba9876543210")  # died before its marker
    account.create(f"{ROOT}notes").deliver(mail(6))
    shared = account.create(f"{ROOT}00000000000000aa")
    shared.deliver(marker("00000000000000aa", "{}"))
    shared.deliver(mail(7))
    probe = probed(server)
    assert probe.removed == (f"{ROOT}fedcba9876543210",)
    assert {name for name in names(server) if name.startswith(ROOT)} == {
        f"{ROOT}{token}",
        f"{ROOT}notes",
        f"{ROOT}00000000000000aa",
    }
    assert [m.raw for m in account.folder(f"{ROOT}00000000000000aa").messages][1:] == [mail(7)]


def test_a_killed_process_leaves_what_the_next_probe_removes(server: ImapServer) -> None:
    """kill -9 in the middle, for real."""
    before = everything(server, NEW), names(server)
    code = (
        "import sys; from imapcopy.account import Account, Server; from imapcopy.probe import probe_mailbox;"
        f"probe_mailbox(Account(Server('127.0.0.1', {server.port}, 'plain'), {NEW!r}, {PASSWORD!r}))"
    )
    held, go_on, met = threading.Event(), threading.Event(), count(1)

    def hold(entry: Received) -> None:
        if entry.verb == "APPEND" and next(met) == 12:
            held.set()
            go_on.wait(DEADLINE)

    server.behaviour.before_command = hold
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    try:
        assert held.wait(DEADLINE)
    finally:
        process.kill()
        process.wait()
        go_on.set()
    server.settle()
    server.behaviour.before_command = None
    assert [name for name in names(server) if name.startswith(ROOT)]
    probe = probed(server)
    assert len(probe.removed) == 1
    assert (everything(server, NEW), names(server)) == before


def test_the_copier_has_no_command_that_removes_anything() -> None:
    own = set(vars(ProbeConnection)) - {"__module__", "__doc__", "__firstlineno__", "__static_attributes__"}
    assert {"delete_each", "expunge"} <= own
    assert not {"delete_each", "expunge"} & set(dir(TargetConnection))
    engine = (Path(__file__).parents[2] / "imapcopy").glob("*.py")
    users = [file.name for file in engine if "probe_connection" in file.read_text(encoding="utf-8")]
    assert sorted(users) == ["probe.py"]


def test_a_probe_is_read_back_as_it_was_kept(server: ImapServer) -> None:
    probe = probed(server)
    assert Probe.read(probe.document()) == probe
    assert Probe.read('{"version": 99}') is None
