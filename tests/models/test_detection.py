"""Whose mailbox is it, and where is it reached: the surest sign counts."""

import pytest
from sqlalchemy import Engine

from models.database import reading, writing
from models.detection import DefaultServers, Records, Settled, provider_of, settle
from models.lifecycle import member_failed, member_moved, take_member
from models.member import Member
from models.roster_problems import RosterProblem
from models.roster_row import RosterRow
from models.wave import Wave

DEFAULT = DefaultServers(target_host="imap.feishu.cn")


def row(user: str = "li@corp.example", **cells: object) -> RosterRow:
    return RosterRow.model_validate({"line": 2, "email": "li@corp.example", "user_name": user, **cells})


def settled(row: RosterRow, default: DefaultServers = DEFAULT, **records: Records) -> Settled:
    [found], problems = settle([row], default, lambda domain: records.get(domain.partition(".")[0], Records()))
    assert problems == []
    return found


def problems(row: RosterRow, default: DefaultServers = DEFAULT) -> list[RosterProblem]:
    found, told = settle([row], default)
    assert found == []
    return told


EXMAIL = Records(("mxbiz1.qq.com",))


@pytest.mark.parametrize(
    ("cells", "user", "records", "name", "server"),
    [
        ({"provider": "腾讯企业邮"}, "li@163.com", EXMAIL, "exmail", "imap.exmail.qq.com"),
        ({"provider": "阿里", "source_host": "mail.corp.example"}, "li@163.com", EXMAIL, "aliyun_qiye", ""),
        ({"source_host": "imaphz.qiye.163.com"}, "li@qq.com", EXMAIL, "netease_qiye", ""),
        ({"source_host": "mail.corp.example"}, "li@qq.com", EXMAIL, "qq", ""),
        ({"source_host": "mail.corp.example"}, "li@corp.example", EXMAIL, "exmail", ""),
        ({}, "li@qq.com", EXMAIL, "qq", "imap.qq.com"),
        ({}, "li@corp.example", EXMAIL, "exmail", "imap.exmail.qq.com"),
        ({"source_host": "mail.corp.example"}, "li", EXMAIL, "", ""),
    ],
)
def test_the_surest_sign_tells_the_provider(
    cells: dict[str, str], user: str, records: Records, name: str, server: str
) -> None:
    found = settled(row(user, **cells), corp=records)
    assert found.source_provider == name
    assert (found.server.host if found.server else "") == server


def test_dns_is_asked_only_where_nothing_else_tells() -> None:
    asked: list[str] = []

    def records(domain: str) -> Records:
        asked.append(domain)
        return Records()

    rows = [
        row("a@qq.com"),
        row(provider="gmail"),
        row(source_host="imap.163.com"),
        row(source_host="mail.corp.example"),
    ]
    settle(rows, DEFAULT, records)
    assert asked == ["corp.example"]


def test_records_that_name_the_new_provider_tell_nothing_of_the_old_one() -> None:
    switched = settled(row(source_host="mail.corp.example"), corp=Records(("mx1.feishu.cn",)))
    assert (switched.source_provider, switched.target_provider) == ("", "feishu")


@pytest.mark.parametrize(
    ("user", "records", "host"),
    [
        ("li@126.com", Records(), "imap.126.com"),
        ("li@yeah.net", Records(), "imap.yeah.net"),
        ("li@188.com", Records(), "imap.163.com"),
        ("li@corp.example", Records(cname="imaphz.qiye.163.com."), "imaphz.qiye.163.com"),
        ("li@corp.example", Records(("qiye163mx01.mxmail.netease.com",)), "imap.qiye.163.com"),
    ],
)
def test_of_several_servers_the_one_for_the_domain_or_behind_its_alias_is_taken(
    user: str, records: Records, host: str
) -> None:
    server = settled(row(user), corp=records).server
    assert server is not None
    assert (server.host, server.port, server.security) == (host, 993, "tls")


def test_the_default_server_serves_unless_it_is_known_to_be_anothers() -> None:
    def server(default: str) -> str:
        found = settled(row(provider="gmail"), DefaultServers(default, "imap.feishu.cn")).server
        return found.host if found else ""

    assert server("mail.corp.example") == ""
    assert server("imap.gmail.com") == ""
    assert server("imap.exmail.qq.com") == "imap.gmail.com"


def test_a_provider_whose_customers_have_their_own_servers_needs_one_written() -> None:
    [problem] = problems(row(provider="Exchange"))
    assert (problem.code, problem.column) == ("server-of-their-own", "SourceHost")
    assert "Exchange" in problem.fix.en
    assert settled(row(provider="exchange", source_host="mail.corp.example")).source_provider == "exchange"


@pytest.mark.parametrize("written", ["自建", "other", "其他"])
def test_servers_of_ones_own_are_a_provider_too(written: str) -> None:
    assert settled(row(provider=written, source_host="mail.corp.example")).source_provider == ""
    [problem] = problems(row(provider=written))
    assert problem.code == "server-missing"


def test_a_misspelt_provider_is_a_problem_with_what_may_have_been_meant() -> None:
    [problem] = problems(row(provider="exmial"))
    assert (problem.code, problem.column, problem.value) == ("unknown-provider", "Provider", "exmial")
    assert "exmail（腾讯企业邮箱）" in problem.fix.zh
    assert "exmail (Tencent Exmail)" in problem.fix.en
    [problem] = problems(row(provider="zzzz", source_host="mail.corp.example"))
    assert problem.code == "strange-provider"


def test_the_problem_of_a_missing_server_names_the_setting_in_both_languages() -> None:
    [problem] = problems(row("li"))
    assert problem.code == "server-missing"
    assert "BANJIA_SOURCE_HOST" in problem.fix.zh
    assert "BANJIA_SOURCE_HOST" in problem.fix.en


def test_a_member_of_an_earlier_version_is_told_by_what_its_row_says() -> None:
    old = Member(
        wave_id=1, line=2, email="li@corp.example", user_name="li", provider="阿里", target_host="imap.feishu.cn"
    )
    assert provider_of(old, "source").name == "aliyun_qiye"
    assert provider_of(old, "target").name == "feishu"
    old.source_provider = "exmail"
    assert provider_of(old, "source").name == "exmail"


def test_what_a_server_says_of_itself_is_kept_where_nothing_surer_told_it(engine: Engine) -> None:
    with writing(engine) as session:
        session.add(Wave(id=1, name="first"))
        session.flush()
        session.add(Member(id=1, wave_id=1, line=2, email="li@corp.example", user_name="li", target_provider="feishu"))
    token = take_member(engine, 1).lease_token
    member_failed(engine, 1, token, "timeout", "target", "", met={"source": "qq", "target": "lark"})
    token = take_member(engine, 1).lease_token
    member_moved(engine, 1, token, met={"source": "gmail"})
    with reading(engine) as session:
        member = session.get_one(Member, 1)
        assert (member.source_provider, member.target_provider) == ("qq", "feishu")
