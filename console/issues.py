"""Lists the messages that somebody has to look at, not moved or altered, and saves their originals as files."""

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from console.lines import plain, print_indented
from console.outcome import Exit
from console.terminal import language, screen
from models.bilingual import Language, Text
from models.causes import cause as cause_of
from models.issues import AlteredFolder, AlteredMessage, AlteredMessages, Issue, issues_of, repairs_of
from models.ledger_rows import BENIGN, name_of
from models.private_files import make_folder
from reports.export import (
    alteration_document,
    altered_csv,
    altered_document,
    issues_csv,
    issues_document,
)
from reports.render import replace_file
from reports.texts import alteration, alterations, human_bytes, repair, savings, sentence
from tasks.store import store

LISTED = 100
"""So many altered messages of a folder on a screen; the JSON has all."""

_NONE = Text(
    "没有未搬的邮件，也没有被改动的邮件。", "Every message that was reached has been moved, and none was altered."
)
_MORE = Text(
    "文件夹“{folder}”共 {total} 封，此处列出 {shown} 封；加 --json 列出全部。",
    "“{folder}” has {total}, of which {shown} are shown; --json lists all.",
)
_COUNT = Text("{what}：{n}", "{what}: {n}")

Listed = Sequence[tuple[Issue, str, str]]
"""Each with its file and what came of saving it, "" for none."""


def list_issues(wave: str, directory: Path | None, *, altered_too: bool, as_json: bool) -> None:
    """List what was not moved and what was altered; save the former, or both, where a directory is named."""
    kept = store()
    subjects = kept.rules.subjects
    issues, altered = issues_of(kept.engine, wave, subjects), AlteredMessages(kept.engine, wave, subjects)
    # What changes no letter needs no original.
    grave = [each for each in altered.every() if not BENIGN.issuperset(each.alterations)] if altered_too else []
    saved: dict[Issue | AlteredMessage, tuple[str, str]] = {}
    if directory is not None:
        from tasks.export_issues import export_issues

        make_folder(directory)
        for each in export_issues(kept, [*issues, *grave], directory):
            saved[each.issue] = (str(each.file) if each.is_there else "", each.outcome)
    listed = [(issue, *saved.get(issue, ("", ""))) for issue in issues]
    originals = {each: saved[each] for each in grave if each in saved}
    if directory is not None:
        replace_file(directory / "index.csv", issues_csv(listed))
        if altered_too:
            replace_file(directory / "altered.csv", altered_csv(altered.every(), originals))
    if as_json:
        _say(wave, issues_document(listed, repairs_of(kept.engine, wave)), altered, originals)
    else:
        _print(listed, altered, originals)
    if any(outcome not in ("saved", "kept") for _, outcome in saved.values()):
        raise typer.Exit(Exit.PARTIAL)


def _say(
    wave: str, document: dict[str, Any], altered: AlteredMessages, originals: dict[AlteredMessage, tuple[str, str]]
) -> None:
    """One document, and never all of it in memory: a server may have altered most of a wave."""
    kinds = {name: alteration_document(name) for name in sorted(alterations())}
    head = json.dumps({"wave": wave, **document, "alterations": kinds}, ensure_ascii=False, indent=2)
    typer.echo(head[: head.rindex("}")].rstrip() + ',\n  "altered": [', nl=False)
    for number, each in enumerate(altered.every()):
        row = json.dumps(altered_document(each, *originals.get(each, ("", ""))), ensure_ascii=False)
        typer.echo(("," if number else "") + "\n    " + row, nl=False)
    typer.echo("]\n}")


def _print(listed: Listed, altered: AlteredMessages, originals: dict[AlteredMessage, tuple[str, str]]) -> None:
    console, spoken = screen(as_json=False), language()
    touched = altered.members()
    issues = {email: list(some) for email, some in groupby(listed, lambda each: each[0].email)}
    ids = {email: member_id for member_id, email in touched}
    told: set[str] = set()
    for email in dict.fromkeys([*issues, *ids]):
        console.print(plain(email), style="bold")
        if email in issues:
            _print_issues(issues[email], console, spoken, told)
        if email in ids:
            print_altered(altered.of_member(ids[email], LISTED), console, spoken, 2, originals, told)
    if not (issues or ids):
        console.print(_NONE.in_language(spoken))


def _print_issues(listed: Listed, console: Console, spoken: Language, told: set[str]) -> None:
    """`told` are causes whose advice has been given: once is enough, there may be hundreds of messages."""
    _print_count(sentence("issues"), len(listed), console, spoken)
    for issue, file, outcome in listed:
        why = cause_of(issue.cause)
        where = f"{issue.folder} {name_of(issue.uid)}"
        _print_message(issue.subject, issue.sender, where, issue.arrived, issue.size, console)
        print_indented(plain(why.title.in_language(spoken)), console, 6)
        if why.id not in told:
            print_indented(plain(why.advice.in_language(spoken)), console, 8)
        told.add(why.id)
        _print_saving(file, outcome, console, spoken)


def print_altered(
    folders: Iterable[AlteredFolder],
    console: Console,
    spoken: Language,
    indent: int,
    originals: dict[AlteredMessage, tuple[str, str]] | None = None,
    told: set[str] | None = None,
) -> None:
    """What a new server made of the messages of a member, with what that means; `told` as with issues."""
    folders, told = list(folders), set() if told is None else told
    if not folders:
        return
    _print_count(sentence("altered_messages"), sum(folder.total for folder in folders), console, spoken, indent)
    for name in dict.fromkeys(name for folder in folders for each in folder.messages for name in each.alterations):
        meaning = alteration(name)
        if name not in told:
            print_indented(plain(meaning.name.in_language(spoken)), console, indent + 2)
            print_indented(plain(meaning.seen.in_language(spoken)), console, indent + 4)
            print_indented(plain(meaning.helps.in_language(spoken)), console, indent + 4)
        told.add(name)
    for folder in folders:
        for each in folder.messages:
            there = "" if each.target_folder == each.folder else f"{each.target_folder} "
            where = f"{each.folder} UID {each.uid} > {there}UID {each.target_uid}"
            _print_message(each.subject, each.sender, where, each.arrived, each.size, console, indent + 2)
            names = [alteration(name).name for name in each.alterations] + [repair(name) for name in each.repairs]
            joined = ("；" if spoken == "zh-CN" else "; ").join(name.in_language(spoken) for name in names)
            print_indented(plain(joined), console, indent + 4)
            _print_saving(*(originals or {}).get(each, ("", "")), console, spoken)
        if (shown := len(folder.messages)) < folder.total:
            more = _MORE.format(folder=folder.name, total=f"{folder.total:,}", shown=f"{shown:,}")
            print_indented(plain(more.in_language(spoken)), console, indent + 2)


def print_heading(subject: str | None, sender: str | None, console: Console, indent: int) -> None:
    """By what people find a message, where that is known."""
    if subject is not None:
        line = plain(subject or sentence("no_subject").in_language(language()))
        line.stylize("bold")
        print_indented(line.append_text(plain(f" — {sender}" if sender else "")), console, indent)


def _print_message(
    subject: str | None,
    sender: str | None,
    where: str,
    arrived: datetime | None,
    size: int,
    console: Console,
    indent: int = 4,
) -> None:
    print_heading(subject, sender, console, indent)
    facts = [where, f"{arrived:%Y-%m-%d %H:%M}" if arrived else "-", human_bytes(size)]
    print_indented(plain(" · ".join(facts)), console, indent if subject is None else indent + 2)


def _print_count(what: Text, count: int, console: Console, spoken: Language, indent: int = 2) -> None:
    told = Text(_COUNT.zh.format(what=what.zh, n=f"{count:,}"), _COUNT.en.format(what=what.en, n=f"{count:,}"))
    line = plain(told.in_language(spoken))
    line.stylize("underline")
    print_indented(line, console, indent)


def _print_saving(file: str, outcome: str, console: Console, spoken: Language) -> None:
    if outcome:
        known = savings().get(outcome)
        ended = known.in_language(spoken) if known else cause_of(outcome).title.in_language(spoken)
        print_indented(plain(f"{ended} {file}".rstrip()), console, 6)
