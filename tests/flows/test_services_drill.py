"""A wave with members at every service that the demo servers can play: each is checked through, or told what to click.

On loopback no name gives a service away, so the roster tells it, or the greeting.
"""

import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from console.check import print_check
from deployments.demo.imap_server import ImapServer
from deployments.demo.personality import personalities
from models.bilingual import LANGUAGES
from models.causes import cause
from models.columns import now
from models.providers import provider_meant, provider_named
from models.states import MemberState
from reports.check import check_document
from tests.reports.pages import read_page
from tests.tasks.office import Enrolled, Office, Row, new_password, old_password

pytestmark = pytest.mark.prefect

# By personality: how the roster names it, and whose its greeting says it is.
PROVIDERS = {
    "netease": ("网易企业邮箱", "netease_163"),
    "qq": ("腾讯企业邮", "qq"),
    "alibaba": ("阿里", "aliyun_qiye"),
    "feishu": ("飞书", ""),
    "gmail": ("gsuite", "gmail"),
    "microsoft365": ("office365", "exchange"),
    "yahoo": ("雅虎", "yahoo"),
    "icloud": ("苹果", "icloud"),
    "yandex": ("yandex", "yandex"),
    "zoho": ("zoho", "zoho"),
    "courier": ("courier", "courier"),
    "homepl": ("自建", ""),
}
OLDEST = 30
"""Days that Alibaba's member lets clients see."""


@dataclass
class Services:
    """One old server for each service, and who is on them; `refused`: by name, the service and the cause."""

    office: Office
    servers: dict[str, ImapServer]
    rows: list[Row] = field(default_factory=list)
    refused: dict[str, tuple[str, str]] = field(default_factory=dict)

    def add(self, service: str, cause_id: str = "") -> str:
        """Somebody with mail at a service; the roster names the service of who is refused. Returns the name."""
        name = f"{service}-{cause_id.replace('_', '-') or 'well'}"
        server, one = self.servers[service], personalities()[service]
        account = server.add_account(f"{name}@old.example", old_password(name))
        one.furnish(account)
        for number in range(OLDEST + 20):
            raw = f"Message-ID: <{number}@{name}>\r\nSubject: {number}\r\n\r\nHello\r\n".encode()
            account.folder("INBOX").deliver(raw, now() - timedelta(days=number, hours=1))
        self.office.new.add_account(f"{name}@new.example", new_password(name))
        self.office.people.append(name)
        provider = PROVIDERS[service][0] if cause_id else ""
        self.rows.append(self.office.row(name, SourcePort=str(server.port), Provider=provider))
        if cause_id:
            self.refused[name] = service, cause_id
            server.behaviour.login_refusals = {
                **server.behaviour.login_refusals,
                f"{name}@old.example": one.refusals[cause_id],
            }
        return name


@pytest.fixture
def services(office: Office) -> Iterator[Services]:
    def limit(service: str) -> dict[str, datetime]:
        return {"hidden_before": now() - timedelta(days=OLDEST)} if service == "alibaba" else {}

    with ExitStack() as stack:
        servers = {
            name: stack.enter_context(ImapServer("old.example", behaviour=one.behaviour(**limit(name))))
            for name, one in personalities().items()
        }
        yield Services(office, servers)


def test_a_check_names_what_each_service_wants_and_shows_its_own_steps(
    services: Services, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANJIA_RETRY_DELAYS", "[]")
    assert services.servers.keys() == PROVIDERS.keys()
    for service, one in personalities().items():
        services.add(service)
        for cause_id in one.refusals:
            services.add(service, cause_id)
    enrolled = Enrolled(services.office, *services.rows)
    published = checked()

    for service, (_, greeted) in PROVIDERS.items():
        well = enrolled.member(f"{service}-well")
        assert (well.state, well.cause) == (MemberState.READY, None), service
        assert well.source_provider == greeted, service
        assert well.limited_range.startswith("age 30") == (service == "alibaba"), service
    document = json.loads(published.files.json.read_text(encoding="utf-8"))
    members = {each["email"].partition("@")[0]: each for each in document["members"]}
    pages = {
        language: read_page(published.files.html.with_name(f"wave.{language}.html").read_text(encoding="utf-8")).text
        for language in LANGUAGES
    }
    for name, (service, cause_id) in services.refused.items():
        told = members[name]
        assert told["cause"] == cause_id, (name, told["server_text"])
        assert personalities()[service].refusals[cause_id] in told["server_text"], name
        provider = provider_meant(PROVIDERS[service][0])
        assert provider is not None
        assert told["source"]["provider"] == provider.name
        steps = provider.steps.get(cause(cause_id).step, ())
        assert (told["steps"] or {"en": []})["en"] == [step.en for step in steps], name
        for language, page in pages.items():
            assert all(step.in_language(language) in page for step in steps), name
    with_steps = {name for name in services.refused if members[name]["steps"]}
    assert {"netease-app-password-required", "qq-app-password-required", "gmail-imap-disabled"} <= with_steps
    # What the check itself says, before anything is moved, has the same steps.
    checks = {(each["finding"], each["side"]): each for each in check_document(published.summary.checks)["findings"]}
    for language in LANGUAGES:
        out = io.StringIO()
        print_check(published.summary.checks, Console(file=out, width=1000), language)
        for name in with_steps:
            told = members[name]
            assert all(step in out.getvalue() for step in told["steps"][language]), name
            [own] = [cure for cure in checks[told["cause"], "source"]["cures"] if told["email"] in cure["members"]]
            assert own["steps"] == told["steps"]
    # The limited range is told with the steps of the service that its greeting gave away.
    assert document["limited"]["members"] == ["alibaba-well@new.example"]
    [cure] = document["limited"]["cures"]
    assert cure["steps"]["zh-CN"] == [step.zh for step in provider_named("aliyun_qiye").steps["receive_range"]]


def checked() -> Any:
    from flows.check_wave import check_wave
    from flows.report_wave import last_report

    check_wave("first", return_state=True)
    return last_report("first")
