"""Looks at an installation and says what would stop a migration, with what to do about it."""

import importlib.metadata
import os
import ssl
from collections.abc import Callable

from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from console.outcome import Exit
from console.prefect_way import open_server_told
from console.terminal import language, say, screen
from models.bilingual import Text
from models.database import public_name, sqlite_file, words
from models.private_files import is_open, make_private
from tasks.address_book import address_book
from tasks.chats import chats
from tasks.outbox import mail_server, outbox
from tasks.prefect_server import dangers, open_server, running_server, use_prefect
from tasks.settings import file_left_out, settings, settings_files
from tasks.store import store

_OPEN = Text(
    "本机的其他用户可以读取 {file}；请运行：chmod 600 {file}",
    "Others on this machine can read {file}; run: chmod 600 {file}",
)


def examine(*, as_json: bool) -> int:
    """Run every examination; 0 when all are well."""
    findings = {name: _outcome(look) for name, look in EXAMINATIONS.items()}
    if as_json:
        say({name: {"ok": ok, "detail": detail} for name, (ok, detail) in findings.items()}, as_json=True)
    else:
        console = screen(as_json=False)
        for name, (ok, detail) in findings.items():
            console.print(f"{'ok ' if ok else 'BAD'} {name}: {detail}", style="" if ok else "bold red")
    return Exit.DONE if all(ok for ok, _ in findings.values()) else Exit.PARTIAL


def _outcome(look: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, look()
    except SQLAlchemyError as error:
        return False, words(error)
    except Exception as error:  # noqa: BLE001  (whatever it is, it is the finding)
        return False, f"{type(error).__name__}: {error}"


def _versions() -> str:
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("banjia", "prefect", "imapclient"))


def _home() -> str:
    home = settings().home
    make_private(home)
    return str(home)


def _database() -> str:
    kept = store()
    with kept.engine.connect() as connection:
        waves = connection.execute(text("SELECT count(*) FROM wave")).scalar()
    if (file := sqlite_file(kept.engine)) and is_open(file):
        raise PermissionError(_OPEN.format(file=file).in_language(language()))
    return f"{public_name(kept.engine)}, {waves} waves"


def _keys() -> str:
    kept = store()
    kept.vault.check()
    return str(kept.settings.key_file) if kept.settings.key_file.exists() else "no password stored yet"


def _authorities() -> str:
    context = ssl.create_default_context()
    if settings().ca_file:
        context.load_verify_locations(settings().ca_file)
    found = context.cert_store_stats()["x509_ca"]
    if not found and not context.get_ca_certs() and not ssl.get_default_verify_paths().capath:
        raise FileNotFoundError("no certificate authority is trusted here; install ca-certificates")
    return f"{found} trusted" + (f", with {settings().ca_file}" if settings().ca_file else "")


def _settings() -> str:
    files = [str(file.absolute()) for file in settings_files() if file.is_file()]
    settings()
    counted = ", ".join(files) or "no banjia.toml; the environment and the defaults count"
    if left_out := file_left_out():
        raise PermissionError(f"{left_out.in_language(language())} ({counted})")
    return counted


def _prefect() -> str:
    home = settings().home
    if url := os.environ.get("PREFECT_API_URL"):
        use_prefect(home)
        warnings = [told.in_language(language()) for told in dangers()]
        return " ".join([f"the server of PREFECT_API_URL, {url}.", *warnings])
    if old := open_server(home):
        raise RuntimeError(open_server_told(old).in_language(language()))
    server = running_server(home)
    return f"own server at {server.ui}" if server else "own server not running; it starts by itself"


def _notices() -> str:
    kept = store()
    server, groups = mail_server(kept.settings, kept.vault.get_standing), chats(kept.settings)
    found = [f"chat {chat.name}" for chat in groups]
    if server is not None:
        with outbox(server):
            found.insert(0, f"{server.server.host} takes mail from {server.sender}")
    return ", ".join(found) or "neither a mail server nor a chat is set; nobody is told anything"


def _addresses() -> str:
    book = address_book(store().settings, store().vault.get_standing)
    if book is None:
        return "no Feishu app is set; new addresses are not looked up"
    book.unknown_addresses([NOBODY])
    return f"the app {store().settings.feishu_app_id} may look up addresses"


NOBODY = "nobody@banjia.invalid"
"""An address to ask about that nobody has (RFC 2606)."""

EXAMINATIONS: dict[str, Callable[[], str]] = {
    "versions": _versions,
    "settings": _settings,
    "home": _home,
    "database": _database,
    "keys": _keys,
    "authorities": _authorities,
    "notices": _notices,
    "addresses": _addresses,
    "prefect": _prefect,
}
