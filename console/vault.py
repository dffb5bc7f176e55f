"""The vault: secrets that are no single member's (an administrator's, an application's), its key, its end.

A secret is never an argument.
"""

import shlex
import sys

import typer

from console.lines import plain
from console.outcome import Exit
from console.terminal import fail, language, say, screen
from models.bilingual import Text
from models.lifecycle import purge_credentials
from tasks.address_book import VAULT_NAME
from tasks.outbox import SMTP_SECRET
from tasks.settings import Settings
from tasks.store import store

_ASK = Text("{name} 的密码（不显示）", "Password of {name} (not shown)")
_EMPTY = Text("没有读到密码，什么也没有保存。", "No password was read; nothing is stored.")
_UNKNOWN = Text("密码库中没有名为“{name}”的密码。", "The vault has no secret called {name!r}.")
_STORED = Text("已保存 {name}：{use}。", "Stored {name}: {use}.")
_LISTED = Text("{name}：{use}", "{name}: {use}")
_FORGOTTEN = Text("已删除 {name}。", "Forgot {name}.")
_NONE = Text("密码库中没有这样的密码。", "The vault has no such secret.")
_ROTATED = Text("已用新密钥重新加密 {n} 个密码。", "Sealed with a new key: {n}.")
_PURGED = Text("已删除批次 {wave} 的 {n} 个密码。", "Passwords of wave {wave} that were deleted: {n}.")
_STILL_THERE = Text(
    "{files} 中仍有它们的密文：另一个程序（例如 banjia worker）还在读旧的内容。"
    "请等它结束后再运行一次：banjia vault purge {wave}",
    "Their ciphertext is still in {files}: another program (such as banjia worker) reads the database as it was. "
    "When it has ended, run this again: banjia vault purge {wave}",
)
_UNUSED = Text("没有设置用到它；会用到的是 {names}", "no setting uses it; these would be used: {names}")


def keep(name: str, *, as_json: bool) -> None:
    """Seal what is typed at the prompt, or comes from stdin up to the end of its first line."""
    secret = _typed(name) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if not secret:
        raise fail(_EMPTY.in_language(language()), Exit.USAGE)
    kept = store()
    kept.vault.put_standing(name, secret)
    _tell({"stored": name}, _STORED.format(name=name, use=_use(name, kept.settings)), as_json=as_json)


def forget(name: str, *, as_json: bool) -> None:
    """Delete a secret for good."""
    if not store().vault.forget_standing(name):
        raise fail(_UNKNOWN.in_language(language()).format(name=name), Exit.USAGE)
    _tell({"forgotten": name}, _FORGOTTEN.format(name=name), as_json=as_json)


def names(*, as_json: bool) -> None:
    """The names of the secrets and what they are for, never the secrets."""
    kept = store()
    found = kept.vault.standing()
    lines = [_LISTED.format(name=name, use=_use(name, kept.settings)) for name in found]
    _tell({"secrets": found}, *(lines or [_NONE]), as_json=as_json)


def rotate(*, as_json: bool) -> None:
    """Seal all passwords with a new key."""
    count = store().vault.rotate()
    _tell({"rotated": count}, _ROTATED.format(n=count), as_json=as_json)


def purge(wave: str, *, as_json: bool) -> None:
    """Delete the passwords of a wave for good."""
    kept = store()
    purged = purge_credentials(kept.engine, kept.vault, wave)
    files = [str(file) for file in purged.still_in]
    lines = [_PURGED.format(n=purged.passwords, wave=wave)]
    if files:
        lines.append(_STILL_THERE.format(files=", ".join(files), wave=shlex.quote(wave)))
    _tell({"purged": purged.passwords, "still_in": files}, *lines, as_json=as_json)


def _tell(document: dict[str, object], *lines: Text, as_json: bool) -> None:
    if as_json:
        say(document, as_json=True)
        return
    for line in lines:
        screen(as_json=False).print(plain(line.in_language(language())))


def _use(name: str, settings: Settings) -> str:
    """What a secret of that name is for."""
    spoken = language()
    uses = {
        settings.sign_in.source.secret or "source": Text(
            "旧邮箱的管理员或应用", "who signs in for all of the old side"
        ),
        settings.sign_in.target.secret or "target": Text(
            "新邮箱的管理员或应用", "who signs in for all at the new side"
        ),
        SMTP_SECRET: Text("发送通知的邮件服务器", "the mail server of notices"),
        VAULT_NAME: Text("核对新地址的飞书应用", "the Feishu app that looks up addresses"),
    }
    if name in uses:
        return uses[name].in_language(spoken)
    return _UNUSED.in_language(spoken).format(names=("、" if spoken == "zh-CN" else ", ").join(uses))


def _typed(name: str) -> str:
    asked = _ASK.in_language(language()).format(name=name)
    return str(typer.prompt(asked, hide_input=True, err=True, default="", show_default=False))
