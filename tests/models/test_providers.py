"""The table of mail services: whose a server is, whom a roster means, and what may be written into a table."""

import re
import subprocess
import sys
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.bilingual import Text
from models.causes import causes
from models.providers import (
    ANYBODY,
    STEPS,
    Provider,
    ProvidersMistaken,
    provider_at,
    provider_meant,
    provider_named,
    provider_of_domain,
    provider_of_records,
    providers,
    providers_of,
    read_table,
    shipped,
    similar_words,
    use_providers,
)

OWN = "providers.toml"


def read(text: str) -> dict[str, Provider]:
    return {row.name: row for row in providers_of(*shipped(), (OWN, read_table(text, OWN)))}


def refused(text: str) -> Text:
    with pytest.raises(ProvidersMistaken) as mistaken:
        read(text)
    return mistaken.value.told


@pytest.fixture
def own_file() -> Iterator[None]:
    yield
    use_providers("", "")


# Whose server is it?


@pytest.mark.parametrize(
    ("host", "greeting", "capabilities", "name"),
    [
        ("imap.gmail.com", "", (), "gmail"),
        ("mail.corp.example", "Gimap ready for requests", (), "gmail"),
        ("mail.corp.example", "", {"X-GM-EXT-1"}, "gmail"),
        ("OUTLOOK.office365.com.", "", (), "m365"),
        ("partner.outlook.cn", "", (), "m365"),
        ("mail.corp.example", "The Microsoft Exchange IMAP4 service is ready. [QQBC]", (), "exchange"),
        ("imap.exmail.qq.com", "", (), "exmail"),
        ("imap.qq.com", "", (), "qq"),
        ("10.0.0.1", "[CAPABILITY IMAP4rev1] QQMail IMAP4Server ready", (), "exmail"),
        ("10.0.0.1", "QQMail XMIMAP4Server ready", (), "qq"),
        ("imaphz.qiye.163.com", "", (), "netease_qiye"),
        ("imap.163.com", "", (), "netease_163"),
        ("10.0.0.1", " Coremail System IMap Server Ready(163com[0a1b])", (), "netease_163"),
        ("10.0.0.1", " Coremail System IMap Server Ready(mail-server)", (), "coremail"),
        ("imap.aliyun.com", "", (), "aliyun_personal"),
        ("imap.qiye.aliyun.com", "", (), "aliyun_qiye"),
        ("imap.feishu.cn", "", (), "feishu"),
        ("notqq.com", "", (), ANYBODY),
        ("mail.corp.example", "IMAP4 ready", {"IMAP4REV1"}, ANYBODY),
    ],
)
def test_a_server_is_known_by_its_name_before_what_it_says(
    host: str, greeting: str, capabilities: set[str], name: str
) -> None:
    assert provider_at(host, greeting, capabilities).name == name


def test_a_name_counts_more_than_a_greeting_and_an_identity_serves_where_both_are_mute() -> None:
    assert provider_at("imap.exmail.qq.com", "Gimap ready").name == "exmail"
    assert provider_at("mail.corp.example", "ready", (), "Zimbra").name == "zimbra"


def test_the_records_of_a_domain_tell_who_keeps_its_mail_and_the_alias_of_imap_counts_more() -> None:
    def told(*mx: str, cname: str = "") -> str:
        found = provider_of_records(mx, cname)
        return found.name if found else ""

    assert told("mxbiz1.qq.com.", "mxbiz2.qq.com.") == "exmail"
    assert told("qiye163mx01.mxmail.netease.com.") == "netease_qiye"
    assert told("alt1.aspmx.l.google.com.") == "gmail"
    assert told("example-cn.mail.protection.outlook.com.") == "m365"
    assert told("mx1.qiye.aliyun.com", cname="imap.qiye.163.com") == "netease_qiye"
    assert told("mail.example.cn") == told() == ""


@pytest.mark.parametrize(
    ("domain", "name"), [("QQ.com", "qq"), ("126.com", "netease_163"), ("me.com", "icloud"), ("example.cn", None)]
)
def test_a_domain_of_a_service_tells_it(domain: str, name: str | None) -> None:
    found = provider_of_domain(domain)
    assert (found.name if found else None) == name


# Whom does a roster mean?


@pytest.mark.parametrize(
    ("written", "name"),
    [
        *(("网易", "netease_qiye"), ("163", "netease_163"), ("网易 企业邮箱", "netease_qiye")),
        *(("阿里", "aliyun_qiye"), ("阿里企业邮箱", "aliyun_qiye"), ("腾讯企业邮", "exmail"), ("企业微信", "exmail")),
        *(("EXMAIL", "exmail"), ("ＱＱ邮箱", "qq"), ("G-Suite", "gmail"), ("Office 365", "m365"), ("飞书", "feishu")),
        *(("qq.com", "qq"), ("Gmail / Google Workspace", "gmail"), ("263", "net263"), ("新浪", "sina")),
    ],
)
def test_admins_write_a_provider_in_many_ways(written: str, name: str) -> None:
    found = provider_meant(written)
    assert found is not None
    assert found.name == name


def test_a_misspelt_provider_means_nobody_and_its_neighbours_are_suggested() -> None:
    assert provider_meant("exmial") is None
    assert similar_words("exmial")[0] == "exmail"
    assert similar_words("腾迅企业邮")[0] == "exmail"
    assert similar_words("zzzz") == []


def test_a_row_that_is_gone_reads_as_anybodys() -> None:
    assert provider_named("gone_since_2031").name == ANYBODY


@given(text=st.text(), names=st.lists(st.text(max_size=300), max_size=4))
def test_whatever_is_written_somewhere_means_a_row_or_nobody(text: str, names: list[str]) -> None:
    assert provider_meant(text) in (None, *providers())
    assert provider_at(text, text, names, text) in providers()
    assert provider_of_domain(text) in (None, *providers())
    assert provider_of_records(names, text) in (None, *providers())
    assert {provider_named(name).name for name in similar_words(text)} == set(similar_words(text))


# The table that comes with the program


def test_every_claim_of_the_table_says_where_it_was_read() -> None:
    rows: dict[str, dict[str, object]] = {}
    for _, table in shipped():
        for name, row in table.items():
            sources = {**rows.get(name, {}).get("sources", {}), **row.get("sources", {})}  # type: ignore[dict-item]
            rows[name] = {**rows.get(name, {}), **row, "sources": sources}
    for name, row in rows.items():
        sources = row.pop("sources")
        assert isinstance(sources, dict)
        assert all(isinstance(source, str) and source.strip() for source in sources.values())
        claims = set(row) - {"title", "aliases", "like"}
        assert claims == {field.partition(".")[0] for field in sources}, name


def _texts(row: Provider) -> Iterator[Text]:
    yield row.title
    yield from row.quirks
    yield from (text for texts in row.steps.values() for text in texts)
    yield from ([row.secret_name] if row.secret_name else [])
    yield from (server.area for server in (*row.imap, *row.smtp) if server.area)


@pytest.mark.parametrize("row", providers(), ids=lambda row: row.name)
def test_a_row_speaks_both_languages(row: Provider) -> None:
    for text in _texts(row):
        # Names of menus stay as the page shows them, in brackets or not at all.
        assert not re.search("[\u3000-\u303f\uff00-\uffef]", re.sub(r"\([^()]*\)", "", text.en)), text
        assert not re.search("[\u4e00-\u9fff][,;:!?]|[,;!?][\u4e00-\u9fff]", text.zh), text
    for kind, texts in row.steps.items():
        assert kind in STEPS
        for text in texts:
            assert text.zh.endswith("。"), text
            assert text.en.endswith("."), text
            assert re.search("[\u4e00-\u9fff]{2}", text.zh), text


@pytest.mark.parametrize("row", providers(), ids=lambda row: row.name)
def test_a_row_is_known_by_its_own_servers_and_words(row: Provider) -> None:
    for server in row.imap:
        assert provider_at(server.host) == row
    for domain in row.domains:
        assert provider_of_domain(domain) == row
    for word in (row.name, row.title.zh, row.title.en, *row.aliases):
        assert provider_meant(word) == row


def test_the_services_that_demand_a_password_for_clients_say_how_to_get_it() -> None:
    wanting = [
        row.name for row in providers() if "client_password" in row.secrets and "client_password" not in row.steps
    ]
    assert wanting == ["gmx"]


def test_a_cause_names_steps_that_some_service_has() -> None:
    kinds = {cause.step for cause in causes().values()} - {""}
    assert kinds <= set(STEPS)
    assert all(any(kind in row.steps for row in providers()) for kind in kinds)


# The admin's own file


def test_an_own_row_stands_beside_ours_and_a_field_of_ours_is_changed_alone() -> None:
    rows = read(
        """
        [corp]
        title = { zh = "公司旧邮箱", en = "our old mail" }
        like = "coremail"
        hosts = ["mail.corp.example"]
        imap = [{ host = "mail.corp.example", port = 1993 }]

        [exmail]
        logins_a_minute = 3
        steps = { imap = [{ zh = "请找网管。", en = "Ask the help desk." }] }
        """
    )
    before = {row.name: row for row in providers()}
    assert rows["corp"].imap[0].port == 1993
    assert rows["corp"].steps == before["coremail"].steps
    assert rows["corp"].greeting == ""  # what tells the other one is not taken over
    changed = rows["exmail"]
    assert changed.logins_a_minute == 3
    assert changed.steps["imap"] == (Text("请找网管。", "Ask the help desk."),)
    assert changed.steps["client_password"] == before["exmail"].steps["client_password"]
    assert changed.hosts == before["exmail"].hosts
    assert rows["qq"] == before["qq"]


def test_the_own_file_is_in_force_for_the_process(own_file: None) -> None:
    use_providers('[corp]\ntitle = {zh = "旧", en = "old"}\nhosts = ["corp.example"]\n', OWN)
    assert provider_at("imap.corp.example").name == "corp"
    use_providers("", "")
    assert provider_at("imap.corp.example").name == ANYBODY


@pytest.mark.parametrize(
    ("text", "zh", "en"),
    [
        ("[corp", "不是有效的 TOML", "no valid TOML"),
        ("port = 1", "port 不属于任何一行", "port belongs to no row"),
        ("[corp]", "[corp] title：必须填写", "[corp] title: must be given"),
        ('[exmail]\nhostz = ["a"]', "hostz：没有这个字段；是否指 hosts", "hostz: there is no such field"),
        ('[exmail]\nimap = [{host = "a.b", port = 70000}]', "[exmail] imap.0.port", "[exmail] imap.0.port"),
        ('[exmail]\nimap = [{host = "imap://a.b"}]', "[exmail] imap.0.host", "[exmail] imap.0.host"),
        ('[exmail]\nmechanisms = ["CRAM"]', "[exmail] mechanisms.0：不能这样写", "[exmail] mechanisms.0: Input should"),
        ('[exmail]\ntitle = {zh = "只有中文"}', "[exmail] title：需要中文", "[exmail] title: needs zh and en"),
        ('[exmail.steps]\nimapp = []', "[exmail] steps.imapp", "[exmail] steps.imapp"),
        ('[corp]\nlike = "exmial"', "是否指 exmail", "is exmail meant"),
        ('[qq]\nlike = "exmail"', "互相参照", "like one another"),
        ('[corp]\ntitle = {zh = "阿里", en = "corp"}', "“阿里”已属于", "'阿里' is taken by [aliyun_qiye]"),
    ],
)  # fmt: skip
def test_a_mistake_names_file_row_and_field_in_both_languages(text: str, zh: str, en: str) -> None:
    told = refused(text)
    assert zh in told.zh
    assert en in told.en
    assert told.zh.startswith(OWN)
    assert told.en.startswith(OWN)


def test_every_mistake_is_told_at_once() -> None:
    told = refused('[exmail]\nhostz = 1\nconnections = "many"\n[corp]\nhosts = 3')
    assert len(told.en.split("\n")) == len(told.zh.split("\n")) >= 4


def test_the_table_is_read_once_by_mailboxes_that_begin_at_the_same_time() -> None:
    """In a process of its own, because in this one it has been read; threads take turns as often as they can."""
    program = """
import sys, threading, tomllib
from models.providers import provider_at

read, loads, together = [], tomllib.loads, threading.Barrier(8)

def counted(text):
    read.append(len(text))
    return loads(text)

def connect():
    together.wait()
    provider_at("imap.example.com")

tomllib.loads = counted
sys.setswitchinterval(1e-6)
threads = [threading.Thread(target=connect) for _ in range(8)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print(len(read), len(set(read)))
"""
    told = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert told.split() == ["2", "2"]
