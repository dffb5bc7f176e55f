"""How the commands speak: results on stdout, everything else on stderr, in the language of the terminal."""

import json
import sys
from typing import Any

import typer
from rich.console import Console

from console.outcome import Exit
from models.bilingual import Language
from tasks.settings import settings

WIDTH_OF_A_FILE = 160
"""Columns when the output is no terminal: wide enough that no table is cut."""


def language() -> Language:
    """The language of this terminal."""
    return settings().spoken_language


def screen(*, as_json: bool) -> Console:
    """Where people read: stdout, or stderr when stdout belongs to the JSON document."""
    stream = sys.stderr if as_json else sys.stdout
    width = None if stream.isatty() else WIDTH_OF_A_FILE
    return Console(stderr=as_json, highlight=False, width=width, soft_wrap=not stream.isatty())


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
