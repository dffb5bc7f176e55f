"""What DNS says of a domain, asked of a small server on this machine."""

import socketserver
import threading
from collections.abc import Iterator

import dns.message
import dns.rdatatype
import dns.rrset
import pytest

from models.detection import Records, no_records
from tasks import domain_records
from tasks.domain_records import KEPT_SECONDS, DomainRecords, records_of
from tasks.settings import Settings
from tests.servers.dovecot import DEADLINE

ZONE = {
    ("corp.example.", "MX"): ["10 mxbiz1.qq.com.", "20 mxbiz2.qq.com."],
    ("imap.corp.example.", "CNAME"): ["imaphz.QIYE.163.com."],
}


class _Names(socketserver.UDPServer):
    """Answers from ZONE, and says that there is no such name for anything else."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        super().__init__(("127.0.0.1", 0), _Question)


class _Question(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        data, line = self.request
        query = dns.message.from_wire(data)
        question = query.question[0]
        key = (question.name.to_text().lower(), dns.rdatatype.to_text(question.rdtype))
        self.server.asked.append(key)  # type: ignore[attr-defined]
        answer = dns.message.make_response(query)
        if key in ZONE:
            answer.answer.append(dns.rrset.from_text(question.name, 300, "IN", key[1], *ZONE[key]))
        else:
            answer.set_rcode(dns.rcode.NXDOMAIN)
        line.sendto(answer.to_wire(), self.client_address)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[_Names]:
    monkeypatch.setattr(domain_records, "ANSWER_SECONDS", DEADLINE)
    with _Names() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_the_records_of_a_domain_are_read_once_in_half_an_hour(names: _Names, monkeypatch: pytest.MonkeyPatch) -> None:
    at = [0.0]
    look_up = DomainRecords("127.0.0.1", names.server_address[1], lambda: at[0])
    found = look_up("Corp.Example")
    assert found == Records(("mxbiz1.qq.com", "mxbiz2.qq.com"), "imaphz.qiye.163.com")
    assert set(names.asked) == {("corp.example.", "MX"), ("imap.corp.example.", "CNAME")}
    # What is asked cannot be counted: a question that is answered late is put twice.
    monkeypatch.setitem(ZONE, ("corp.example.", "MX"), ["10 mx.elsewhere.example."])
    at[0] = KEPT_SECONDS - 1
    assert look_up("corp.example") is found
    at[0] = KEPT_SECONDS
    assert look_up("corp.example") == Records(("mx.elsewhere.example",), "imaphz.qiye.163.com")


@pytest.mark.parametrize("domain", ["nowhere.example", "bad..name", "x" * 300, ""])
def test_a_domain_of_which_nothing_is_known_says_nothing(names: _Names, domain: str) -> None:
    assert DomainRecords("127.0.0.1", names.server_address[1])(domain) == Records()


def test_nobody_is_asked_unless_the_admin_wants_it() -> None:
    assert records_of(Settings(look_up_mx=False)) is no_records
    assert records_of(Settings(look_up_mx=True)) is records_of(Settings(look_up_mx=True)) is not no_records
