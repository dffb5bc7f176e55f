"""Looks for secrets where none may be: in files of any kind, in databases, and in the arguments of processes.

A secret is looked for in every form in which a program is likely to write it down without meaning to.
"""

import base64
import bz2
import contextlib
import gzip
import html
import json
import lzma
import os
import re
import sqlite3
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import quote, quote_plus

from tests.servers.sqlite_copy import copy_database

SHORTEST = 8
_PART = 10
_PREFIX = 8
# Secrets of one test tend to begin alike, so most data is cleared by looking for a few beginnings.
Patterns = dict[bytes, dict[bytes, tuple[str, str]]]


@dataclass(frozen=True)
class Hit:
    """One secret found: the file (with the table or member inside it), and the form that it had there."""

    where: str
    form: str
    needle: str


def find_secrets(needles: Iterable[str], paths: Iterable[Path]) -> list[Hit]:
    """Search files, and folders with all that is in them; a path that does not exist is an error, not clean."""
    patterns = _patterns(needles)
    hits: dict[Hit, None] = {}
    for path in paths:
        if not path.exists():
            raise FileNotFoundError(path)
        files = sorted(path.rglob("*")) if path.is_dir() else [path]
        for file in files:
            if not file.is_file() or file.is_symlink():
                continue
            hits |= dict.fromkeys(_search(str(file.name), patterns, str(file)))
            with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                hits |= dict.fromkeys(_search_file(file, patterns))
    return list(hits)


def find_in_process_arguments(needles: Iterable[str]) -> list[Hit]:
    """Search the command lines and environments of all processes that can be read, but our own."""
    patterns = _patterns(needles)
    return list(dict.fromkeys(_search_processes(patterns, set())))


class ArgumentWatch:
    """Searches the processes again and again while a block runs: `with ArgumentWatch(needles) as watch: ...`."""

    def __init__(self, needles: Iterable[str], every: float = 0.1) -> None:
        self._patterns = _patterns(needles)
        self._every = every
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.hits: list[Hit] = []

    def __enter__(self) -> "ArgumentWatch":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _run(self) -> None:
        over = False
        known: set[bytes] = set()
        while not over:
            over = self._over.is_set()  # one last look after the end
            self.hits += [hit for hit in _search_processes(self._patterns, known) if hit not in self.hits]
            self._over.wait(self._every)


def _patterns(needles: Iterable[str]) -> Patterns:
    """Every octet string to look for, with the name of its form and the secret behind it, by its first octets."""
    patterns: Patterns = {}
    for needle in needles:
        if len(needle) < SHORTEST:
            raise ValueError(f"{needle!r} is too short to be told from chance: use {SHORTEST} characters or more")
        for form, pattern in _forms(needle):
            patterns.setdefault(pattern[:_PREFIX], {}).setdefault(pattern, (form, needle))
    return patterns


# How text is written inside other text; one inside the other happens too (an exception's repr in a JSON log).
_ESCAPES: dict[str, Callable[[str], str]] = {
    "plain": lambda text: text,
    "JSON": lambda text: json.dumps(text)[1:-1],
    "JSON, UTF-8": lambda text: json.dumps(text, ensure_ascii=False)[1:-1],
    "Python repr": lambda text: repr(text)[1:-1],
    "Python repr of bytes": lambda text: repr(text.encode())[2:-1],
    "HTML": html.escape,
    "HTML, numbers": lambda text: html.escape(text).replace("&#x27;", "&#39;").replace("&quot;", "&#34;"),
    "doubled quotes": lambda text: text.replace('"', '""'),
    "IMAP quoted": lambda text: text.replace("\\", "\\\\").replace('"', '\\"'),
    "URL": lambda text: quote(text, safe=""),
    "URL path": quote,
    "URL query": quote_plus,
    "URL, small hex": lambda text: re.sub("%..", lambda octet: octet[0].lower(), quote(text, safe="")),
    "URL, all": lambda text: "".join(f"%{octet:02X}" for octet in text.encode()),
}


def _forms(needle: str) -> Iterator[tuple[str, bytes]]:
    once = {escape(needle): name for name, escape in reversed(_ESCAPES.items())}
    for text, name in once.items():
        yield name, text.encode()
        yield from _encoded(text, name)
    for text, inner in once.items():
        for outer, escape in _ESCAPES.items():
            yield f"{inner} in {outer}", escape(text).encode()
    # The longest stretch that no escaping changes gives the secret away as well.
    part = max(re.findall(r"[A-Za-z0-9-]+", needle), key=len, default="")
    if len(part) >= _PART:
        yield "a part", part.encode()
        yield from _encoded(part, "a part")


def _encoded(text: str, name: str) -> Iterator[tuple[str, bytes]]:
    yield f"{name}, UTF-16 LE", text.encode("utf-16-le")
    yield f"{name}, UTF-16 BE", text.encode("utf-16-be")
    yield f"{name}, hex", text.encode().hex().encode()
    yield f"{name}, hex in capitals", text.encode().hex().upper().encode()
    with contextlib.suppress(UnicodeEncodeError):
        yield f"{name}, GB18030", text.encode("gb18030")
    for raw in (text.encode(), text.encode("utf-16-le")):
        for offset in range(3):
            inner = _inside_base64(raw, offset)
            yield f"base64 of {name}", inner
            yield f"base64 of {name}, for URLs", inner.replace(b"+", b"-").replace(b"/", b"_")


def _inside_base64(raw: bytes, offset: int) -> bytes:
    """The letters that do not depend on what stands before and after `raw`, when it begins at `offset` modulo 3."""
    letters = base64.b64encode(b"\0" * offset + raw)
    first = (0, 2, 3)[offset]
    last = (offset + len(raw)) * 8 // 6
    return letters[first:last]


def _search(data: str | bytes, patterns: Patterns, where: str) -> Iterator[Hit]:
    octets = data.encode(errors="surrogateescape") if isinstance(data, str) else data
    for form, needle in _found(octets, patterns):
        yield Hit(where, form, needle)
    # Base64 is often broken into lines.
    if b"\n" in octets:
        joined = octets.replace(b"\r", b"").replace(b"\\n", b"").replace(b"\n", b"")
        for form, needle in _found(joined, patterns):
            if form.startswith("base64"):
                yield Hit(where, form, needle)


def _found(octets: bytes, patterns: Patterns) -> Iterator[tuple[str, str]]:
    for prefix, rest in patterns.items():
        if prefix in octets:
            yield from (what for pattern, what in rest.items() if pattern in octets)


def _search_file(file: Path, patterns: Patterns) -> Iterator[Hit]:
    data = file.read_bytes()
    yield from _search_data(data, patterns, str(file))
    if data.startswith(b"SQLite format 3\0"):
        yield from _search_database(file, patterns)


def _search_data(data: bytes, patterns: Patterns, where: str, depth: int = 3) -> Iterator[Hit]:
    yield from _search(data, patterns, where)
    for name, inner in _unpacked(data) if depth else ():
        yield from _search_data(inner, patterns, f"{where}!{name}", depth - 1)


def _unpacked(data: bytes) -> Iterator[tuple[str, bytes]]:
    """What is inside compressed data; nothing when it only looks so."""
    broken = (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError)
    with contextlib.suppress(*broken):
        if data.startswith(b"\x1f\x8b"):
            yield "gz", gzip.decompress(data)
        elif data.startswith(b"BZh"):
            yield "bz2", bz2.decompress(data)
        elif data.startswith(b"\xfd7zXZ"):
            yield "xz", lzma.decompress(data)
        elif data.startswith((b"\x78\x01", b"\x78\x9c", b"\x78\xda")):
            yield "zlib", zlib.decompress(data)
    if data.startswith(b"PK\x03\x04"):
        with contextlib.suppress(zipfile.BadZipFile), tempfile.TemporaryFile() as copy:
            copy.write(data)
            with zipfile.ZipFile(copy) as archive:
                for name in archive.namelist():
                    yield name, archive.read(name)


def _search_database(file: Path, patterns: Patterns) -> Iterator[Hit]:
    """Read all columns of all tables, from a copy: long values lie scattered over pages in the file itself."""
    with (
        tempfile.TemporaryDirectory() as directory,
        contextlib.closing(sqlite3.connect(copy_database(file, Path(directory)))) as database,
    ):
        database.text_factory = bytes
        # Virtual tables of extensions that are not loaded cannot be read; the tables behind them can.
        tables = database.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND rootpage > 0").fetchall()
        for (name,) in tables:
            table = name.decode()
            rows = database.execute('SELECT * FROM "{}"'.format(table.replace('"', '""')))
            columns = [column[0] for column in rows.description]
            for row in rows:
                for column, value in zip(columns, row, strict=True):
                    if isinstance(value, bytes):
                        yield from _search_data(value, patterns, f"{file}!{table}.{column}")


def _search_processes(patterns: Patterns, known: set[bytes]) -> Iterator[Hit]:
    """Search what is not in `known` yet, and add it there."""
    for process in Path("/proc").iterdir():
        if not process.name.isdigit() or int(process.name) == os.getpid():
            continue
        for kind in ("cmdline", "environ"):
            # Ended, or another user's.
            with contextlib.suppress(FileNotFoundError, PermissionError, ProcessLookupError):
                content = (process / kind).read_bytes()
                if content not in known:
                    known.add(content)
                    yield from _search(content, patterns, f"{process}/{kind}")
