"""How the commands speak: results on stdout, everything else on stderr, in the language of the terminal.

What goes wrong is said in one sentence, here and nowhere else (`in_plain_words`).
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from typing import Any

import typer
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError
from typer.exceptions import TyperException

from console.outcome import Exit
from models.bilingual import Language, Text
from models.database import NewerDatabase, database_url, trouble, words
from models.lifecycle import NoSuchWave
from models.private_files import NotPrivate
from models.providers import ProvidersMistaken
from models.rules import RulesMistaken
from models.vault import VaultClosed
from tasks.address_book import AddressBookClosed
from tasks.prefect_server import PrefectUnreachable
from tasks.settings import AnswersMistaken, SettingsMistake, SettingUnusable, file_left_out, settings, terminal_language
from tasks.store import log, log_to_file, places

WIDTH_OF_A_FILE = 160
"""Columns when the output is no terminal: wide enough that no table is cut."""

_NO_WAVE = Text("没有名为“{what}”的批次。", "There is no wave called {what!r}.")
_SETTINGS = Text("设置有误：{what}", "A setting cannot be used: {what}")
_RULES = Text("规则有误，什么也没有开始：\n{what}", "The rules cannot be followed; nothing was started:\n{what}")
_PROVIDERS = Text(
    "服务商表有误，什么也没有开始：\n{what}", "The table of providers cannot be used; nothing was started:\n{what}"
)
_ANSWERS = Text(
    "服务器答复的规则有误，什么也没有开始：\n{what}",
    "The rules for servers' answers cannot be used; nothing was started:\n{what}",
)
_ADDRESSES = Text("地址无法核对：{what}", "Addresses cannot be checked: {what}")
_VAULT = Text("密码库无法打开：{what}", "The vault of passwords stays closed: {what}")
_PREFECT = Text("Prefect 服务不可用：{what}", "Prefect is not available: {what}")
_DATABASE = Text("数据库无法使用：{what}", "The database cannot be used: {what}")
_NEWER_DATABASE = Text(
    "这个数据库已被更新版本的 banjia 使用（结构版本 {what}），本版本不能打开它；什么也没有改动。"
    "请升级程序，或用 BANJIA_HOME 指定另一个目录。",
    "A newer version of banjia has used this database (schema {what}), and this one cannot open it; nothing was "
    "changed. Update the program, or choose another directory with BANJIA_HOME.",
)
_FILE = Text("文件或目录无法使用：{what}", "A file or folder cannot be used: {what}")
INTERRUPTED = Text(
    "已中断，进度已保存。再次运行同一命令即可继续。", "Interrupted; the state is saved. Run the same command to go on."
)
_UNEXPECTED = Text(
    "程序出错（{what}）。进度已保存，可再次运行；若再次出现，请把日志发给支持人员：{log}",
    "Something unexpected went wrong ({what}). The state is saved, run it again; if it returns, send the log to "
    "support: {log}",
)


def language() -> Language:
    """The language of this terminal."""
    try:
        return settings().spoken_language
    except SettingsMistake:
        return terminal_language()


def screen(*, as_json: bool) -> Console:
    """Where people read: stdout, or stderr when stdout belongs to the JSON document."""
    stream = sys.stderr if as_json else sys.stdout
    width = None if stream.isatty() else WIDTH_OF_A_FILE
    # What stands between colons in somebody's folder or subject is no picture of ours.
    return Console(stderr=as_json, highlight=False, emoji=False, width=width, soft_wrap=not stream.isatty())


def say(document: dict[str, Any], *, as_json: bool) -> None:
    """Print a result: as JSON, or as `name: value` lines."""
    if as_json:
        typer.echo(json.dumps(document, ensure_ascii=False, indent=2))
    else:
        for name, value in document.items():
            typer.echo(f"{name}: {value}")


def fail(message: str, code: Exit) -> typer.Exit:
    """Print what went wrong on stderr and give the exception that ends the command."""
    typer.echo(message, err=True)
    return typer.Exit(code)


def say_what_does_not_count() -> None:
    """Say on stderr when the settings of the working directory are left alone."""
    if told := file_left_out():
        typer.echo(told.in_language(language()), err=True)


@contextlib.contextmanager
def in_plain_words() -> Iterator[None]:
    """Turn what goes wrong in a command into one sentence and the exit code that it means."""
    try:
        yield
    except (typer.Exit, typer.Abort, TyperException, BrokenPipeError):
        raise  # said already, or nobody listens any more
    except KeyboardInterrupt:
        raise fail(INTERRUPTED.in_language(language()), Exit.INTERRUPTED) from None
    except Exception as error:  # noqa: BLE001  (the last place that can say anything)
        text, what, code = _meaning(error)
        place = ""
        if text is _UNEXPECTED:
            # The trace without texts and values, which may be secret.
            with contextlib.suppress(OSError, SettingsMistake):
                place = str(log_to_file(settings()))
                log.error("unexpected: %s", places(error))
        raise fail(text.format(what=what, log=place or "-").in_language(language()), code) from None


def _meaning(error: Exception) -> tuple[Text, str, Exit]:
    match error:
        case NoSuchWave():
            return _NO_WAVE, str(error), Exit.USAGE
        case SettingsMistake():
            return _SETTINGS, str(error), Exit.USAGE
        case RulesMistaken():
            return _RULES, error.told.in_language(language()), Exit.USAGE
        case AnswersMistaken():
            return _ANSWERS, error.told.in_language(language()), Exit.USAGE
        case ProvidersMistaken():
            return _PROVIDERS, error.told.in_language(language()), Exit.USAGE
        case SettingUnusable():
            return _SETTINGS, error.told.in_language(language()), Exit.USAGE
        case AddressBookClosed():
            return _ADDRESSES, error.told.in_language(language()), Exit.UNREACHABLE
        case VaultClosed():
            return _VAULT, str(error), Exit.UNEXPECTED
        case NewerDatabase():
            return _NEWER_DATABASE, str(error), Exit.UNEXPECTED
        case PrefectUnreachable():
            return _PREFECT, error.told.in_language(language()), Exit.UNREACHABLE
        case NotPrivate():
            return _FILE, error.told.in_language(language()), Exit.UNEXPECTED
        case SQLAlchemyError():
            # PostgreSQL is a server that every member needs.
            away = trouble(error) and database_url(settings().database).get_backend_name() == "postgresql"
            return _DATABASE, words(error), Exit.UNREACHABLE if away else Exit.UNEXPECTED
        case OSError() if error.strerror:
            return _FILE, f"{error.filename}: {error.strerror}" if error.filename else error.strerror, Exit.UNEXPECTED
        case _:
            return _UNEXPECTED, type(error).__name__, Exit.UNEXPECTED
