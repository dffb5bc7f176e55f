"""A wave that names services and no servers: taken in, and prepared with the services' own steps."""

import json
from pathlib import Path

from sqlmodel import select

from models.database import reading
from models.member import Member
from models.providers import provider_named
from tasks.store import store
from tests.console.conftest import CommandLine

ROSTER = """EmailAddress,UserName,Provider,TargetHost
li@corp.example,li@corp.example,腾讯企业邮,imap.feishu.cn
wang@corp.example,wang@126.com,,imap.feishu.cn
wu@corp.example,wu@corp.example,exmial,imap.feishu.cn
"""


def create(banjia: CommandLine, directory: Path) -> None:
    roster = directory / "first.csv"
    roster.write_text(ROSTER, encoding="utf-8")
    created = banjia("wave", "create", str(roster), "--json")
    assert created.code == 3, created.stderr
    assert [row["line"] for row in created.document["invalid_rows"]] == [4]


def test_a_roster_that_names_services_needs_no_servers(banjia: CommandLine, home: Path, tmp_path: Path) -> None:
    create(banjia, tmp_path)
    with reading(store().engine) as session:
        found = [(m.email, m.source_host, m.source_provider, m.target_provider) for m in session.exec(select(Member))]
    assert found == [
        ("li@corp.example", "imap.exmail.qq.com", "exmail", "feishu"),
        ("wang@corp.example", "imap.126.com", "netease_163", "feishu"),
    ]
    shown = banjia("member", "show", "li@corp.example")
    assert "imap.exmail.qq.com · Tencent Exmail" in shown.stdout
    checked = banjia("roster", "check", str(tmp_path / "first.csv"))
    assert "exmail (Tencent Exmail)" in checked.stdout


def test_the_sheets_of_a_wave_lie_with_its_report_or_where_they_are_wanted(
    banjia: CommandLine, home: Path, tmp_path: Path
) -> None:
    create(banjia, tmp_path)
    document = json.loads(banjia("wave", "sheet", "first", "--json").stdout)
    files = [Path(file) for file in document["files"]]
    assert {file.parent for file in files} == {home / "reports" / "first" / "sheets"}
    assert {file.name.partition(".")[0] for file in files} == {"admin", "members-exmail", "members-netease_163"}
    sheet = (files[0].parent / "members-exmail.zh-CN.txt").read_text(encoding="utf-8")
    assert provider_named("exmail").steps["receive_range"][1].zh in sheet
    told = banjia("wave", "sheet", "first", "--out", str(tmp_path / "out"))
    assert str(tmp_path / "out" / "admin.en.html") in told.stdout
    assert banjia("wave", "sheet", "nobodys").code == 2


def test_an_invitation_has_the_steps_of_the_service_that_the_roster_means(
    banjia: CommandLine, home: Path, tmp_path: Path
) -> None:
    create(banjia, tmp_path)
    out = tmp_path / "notices"
    shown = banjia("notices", "preview", "first", "--kind", "invitation", "--language", "en", "--out", str(out))
    assert shown.code == 0, shown.stderr
    text = "".join(file.read_text(encoding="utf-8") for file in out.glob("*.txt"))
    assert provider_named("exmail").steps["receive_range"][1].en in text
    assert provider_named("feishu").steps["client_password"][1].en in text
