"""Secrets that are no single member's: an administrator's password, an application's secret. Never an argument."""

import sys

import typer

from console.outcome import Exit
from console.terminal import fail, language, say
from models.bilingual import Text
from tasks.store import store

_ASK = Text("{name} 的密码（不显示）", "Password of {name} (not shown)")
_EMPTY = Text("没有读到密码，什么也没有保存。", "No password was read; nothing is stored.")
_UNKNOWN = Text("密码库中没有名为“{name}”的密码。", "The vault has no secret called {name!r}.")


def keep(name: str, *, as_json: bool) -> None:
    """Seal what is typed at the prompt, or comes from stdin up to the end of its first line."""
    secret = _typed(name) if sys.stdin.isatty() else sys.stdin.readline().rstrip("\r\n")
    if not secret:
        raise fail(_EMPTY.in_language(language()), Exit.USAGE)
    store().vault.put_standing(name, secret)
    say({"stored": name}, as_json=as_json)


def forget(name: str, *, as_json: bool) -> None:
    """Delete a secret for good."""
    if not store().vault.forget_standing(name):
        raise fail(_UNKNOWN.in_language(language()).format(name=name), Exit.USAGE)
    say({"forgotten": name}, as_json=as_json)


def names(*, as_json: bool) -> None:
    """The names of the secrets, never the secrets."""
    say({"secrets": store().vault.standing()}, as_json=as_json)


def _typed(name: str) -> str:
    asked = _ASK.in_language(language()).format(name=name)
    return str(typer.prompt(asked, hide_input=True, err=True, default="", show_default=False))
