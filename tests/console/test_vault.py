"""Secrets are typed or piped, never shown, never an argument."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from console.cli import app
from tasks.store import store
from tests.console.conftest import CommandLine
from tests.servers.secrets_scan import find_secrets

SECRET = "canary-admin, of all 7"


def test_a_secret_is_read_from_stdin_kept_listed_and_forgotten(banjia: CommandLine, home: Path) -> None:
    piped = CliRunner().invoke(app, ["vault", "set", "source", "--json"], input=f"{SECRET}\nnext line\n")
    assert (piped.exit_code, json.loads(piped.stdout)) == (0, {"stored": "source"})
    assert store().vault.get_standing("source") == SECRET
    assert banjia("vault", "list", "--json").document == {"secrets": ["source"]}
    assert banjia("vault", "rotate", "--json").document == {"rotated": 1}
    assert store().vault.get_standing("source") == SECRET
    assert find_secrets([SECRET], [home]) == []
    assert banjia("vault", "forget", "source").code == 0
    assert banjia("vault", "list", "--json").document == {"secrets": []}
    assert store().vault.get_standing("source") is None


def test_nothing_read_is_nothing_stored(banjia: CommandLine) -> None:
    empty = CliRunner().invoke(app, ["vault", "set", "source"], input="\n")
    assert empty.exit_code == 2
    assert "nothing is stored" in empty.output
    assert store().vault.standing() == []


def test_a_secret_that_is_not_there_is_named(banjia: CommandLine) -> None:
    ended = banjia("vault", "forget", "no-such")
    assert ended.code == 2
    assert "no-such" in ended.stderr


def test_each_secret_is_told_with_its_use_and_a_name_that_nothing_uses_is_noticed(
    banjia: CommandLine, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BANJIA_LANGUAGE", "zh-CN")
    monkeypatch.setenv("BANJIA_SIGN_IN__SOURCE__SECRET", "old-master")
    assert "没有这样的密码" in banjia("vault", "list").stdout
    for name in ("smtp", "old-master", "fieshu"):
        CliRunner().invoke(app, ["vault", "set", name], input=f"{SECRET}\n")
    lines = banjia("vault", "list").stdout.splitlines()
    assert lines == [
        "fieshu：没有设置用到它；会用到的是 old-master、target、smtp、feishu",
        "old-master：旧邮箱的管理员或应用",
        "smtp：发送通知的邮件服务器",
    ]
    assert banjia("vault", "rotate").stdout == "已用新密钥重新加密 3 个密码。\n"
    assert banjia("vault", "forget", "fieshu").stdout == "已删除 fieshu。\n"
