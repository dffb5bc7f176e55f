"""The report's numbers for programs: one JSON document, a table of members, and a roster of what is left to mend.

Returns bytes and writes nothing. Exports go on into spreadsheets and terminals, so no cell starts a formula.
"""

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from types import MappingProxyType
from typing import Any

from models.bilingual import Language, Text
from models.causes import OWNERS, Cause
from models.causes import cause as cause_of
from models.hints import Hint
from models.hosts import HostWait
from models.issues import AlteredMessage, Issue, Mended
from models.receive_range import LimitedRange, Sign
from models.states import ShortState
from reports.check import CheckedMember, check_document, hint_document
from reports.steps import cures_document, steps_document
from reports.summary import (
    CauseGroup,
    FolderSummary,
    Followed,
    InvalidRowSummary,
    IssueSummary,
    LeftOutSummary,
    MemberSummary,
    MessageCounts,
    WaveSummary,
)
from reports.texts import (
    INVISIBLE,
    alteration,
    alterations,
    host_wait,
    human_bytes,
    placement,
    repair,
    sentence,
    visible,
)
from reports.unknown import unknown_answers, unknown_document

# What makes a spreadsheet calculate; the full-width forms do so in East Asian locales.
FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_SEPARATED_FORMULA = re.compile("([;,|\t\r\n])([=+@\uff1d\uff0b\uff0d\uff20-])")
"""Which sign separates cells is a setting of each machine; quotation marks of ours mean nothing to another sign."""
SERVER_TEXT_SHOWN = 2000
"""Characters of a server's answer in pages and tables; the JSON has them all."""

WAVE_COLUMNS = (
    "Email",
    "DisplayName",
    "State",
    "Cause",
    "CauseTitleZh",
    "CauseTitleEn",
    "AdviceZh",
    "AdviceEn",
    "Owner",
    "Side",
    "SourceMessages",
    "Copied",
    "AlreadyThere",
    "NotMoved",
    "Bytes",
    "Grade",
    "Attempts",
    "ServerText",
    "NothingToDo",
    "Gone",
    "Moved",
    "Strayed",
    "FlagsChanged",
    "LimitedRange",
    "SourceProvider",
    "TargetProvider",
    "HintZh",
    "HintEn",
)
ISSUE_COLUMNS = (
    *("Email", "Folder", "UID", "Arrived", "Size"),
    *("Cause", "CauseTitleZh", "CauseTitleEn", "AdviceZh", "AdviceEn"),
    *("ServerText", "File", "Outcome", "Subject", "Sender"),
)
ALTERED_COLUMNS = (
    *("Email", "Folder", "UID", "TargetFolder", "TargetUID", "Arrived", "Size", "Subject", "Sender"),
    *("Altered", "AlteredZh", "AlteredEn", "SeenZh", "SeenEn", "HelpsZh", "HelpsEn", "ServerText", "File", "Outcome"),
)
SECRET_COLUMNS = frozenset({"Password", "TargetPassword"})
DEFAULT_ROSTER_COLUMNS = ("EmailAddress", "UserName", "Password", "UserRoot", "DisplayName")


def result_sentence(summary: WaveSummary) -> Text:
    """Say in one sentence how the wave stands; its groups of members do not overlap."""
    members, moved = len(summary.members), len(summary.completed)
    if not members:
        clauses = [sentence("result_empty")]
    elif moved == members:
        clauses = [sentence("result_all", all=members)]
    else:
        clauses = [sentence("result_some", all=members, moved=moved)]
    tail = (
        ("result_attention", len(summary.needs_attention)),
        ("result_unfinished", len(summary.unfinished)),
        ("result_removed", len(summary.removed)),
        ("result_rows", summary.invalid_lines),
        ("result_issues", summary.counts.issues - summary.harmless),
        ("result_harmless", summary.harmless),
        ("result_limited", len(summary.limited.members) if summary.limited else 0),
    )
    clauses += [sentence(name, n=count) for name, count in tail if count]
    return _joined(clauses)


def range_sentence(found: LimitedRange) -> Text:
    """Say by what sign a limited range is suspected."""
    match found.sign:
        case Sign.AGE:
            return sentence("range_age", n=found.number)
        case Sign.COUNT:
            return sentence("range_count", n=found.number)
        case Sign.MEDIAN:
            return sentence("range_median", n=found.number)
        case Sign.QUOTA:
            return sentence("range_quota", size=human_bytes(found.number))


def followed_sentence(followed: Followed) -> Text | None:
    """Say what happened at the source afterwards; None when nothing did."""
    if not followed:
        return None
    parts = (
        ("followed_gone", followed.gone),
        ("followed_moved", followed.moved),
        ("followed_strayed", followed.strayed),
        ("followed_flags", followed.flags_changed),
    )
    told = _joined([sentence(name, n=count) for name, count in parts if count])
    head, colon = sentence("followed"), sentence("colon")
    return Text(f"{head.zh}{colon.zh}{told.zh}", f"{head.en}{colon.en}{told.en}")


def _joined(clauses: Sequence[Text]) -> Text:
    joint, stop = sentence("clause"), sentence("stop")
    return Text(
        joint.zh.join(text.zh for text in clauses) + stop.zh,
        joint.en.join(text.en for text in clauses) + stop.en,
    )


def summary_document(summary: WaveSummary) -> dict[str, Any]:
    """Give every number of the report as plain values, ready for JSON."""
    return {
        "wave": summary.wave,
        "state": summary.state.value,
        "report_id": summary.report_id,
        "made_at": _time(summary.made_at),
        "result": result_sentence(summary).as_dict(),
        "grade": summary.grade.name.title() if summary.grade is not None else None,
        "counts": {
            "members": len(summary.members),
            **short_state_counts(summary),
            "invalid_rows": summary.invalid_lines,
            **_messages(summary.counts),
            "nothing_to_do": summary.harmless,
            "unaccounted": summary.counts.unaccounted,
        },
        "followed": _followed(summary.followed),
        "altered": [
            {"id": each.name, "messages": each.messages, "members": each.members, **alteration_document(each.name)}
            for each in summary.altered
        ],
        "waits": [wait_document(wait) for wait in summary.waits],
        "bytes": summary.bytes,
        "seconds": summary.seconds,
        "run": {"messages": summary.run_messages, "bytes": summary.run_bytes},
        "credentials_purged_at": _time(summary.credentials_purged_at),
        "previous": {
            "made_at": _time(summary.previous.made_at),
            "copied": summary.previous.copied,
            "synced": summary.previous.synced,
            "needs_attention": summary.previous.needs_attention,
        }
        if summary.previous
        else None,
        "members": [_member(member) for member in summary.members],
        "causes": [_cause_group(group) for group in summary.causes],
        "nothing_to_do": [_cause_group(group) for group in summary.harmless_causes],
        "limited": _cause_group(summary.limited) if summary.limited else None,
        "invalid_rows": [_invalid_row(row) for row in summary.invalid_rows],
        "unknown_answers": unknown_document(unknown_answers(summary)),
        "check": check_document(summary.checks) if summary.checks else None,
    }


def wait_document(wait: HostWait) -> dict[str, Any]:
    """A host that is left alone, as plain values."""
    until = wait.until.isoformat(timespec="seconds")
    return {
        "host": wait.name,
        "until": until,
        "cause": wait.cause,
        "server_text": wait.words,
        "logins_only": wait.logins_only,
        "told": host_wait(wait, until).as_dict(),
    }


def short_state_counts(summary: WaveSummary) -> dict[str, int]:
    """Count members by short state; `removed` stands apart from `done`, so the counts add up to the members."""
    removed = len(summary.removed)
    found = Counter(member.short_state for member in summary.members)
    counts = {state.value: found[state] for state in ShortState}
    counts[ShortState.DONE.value] -= removed
    return {**counts, "removed": removed}


def document_bytes(document: Mapping[str, Any]) -> bytes:
    """Write UTF-8 JSON with invisible characters as escapes: equal when read, harmless when shown."""
    text = json.dumps(document, ensure_ascii=False, indent=1)
    return ("\n".join(map(_escaped, text.split("\n"))) + "\n").encode()


def _one_line(document: Mapping[str, Any]) -> str:
    return _escaped(json.dumps(document, ensure_ascii=False))


def _escaped(line: str) -> str:
    return INVISIBLE.sub(lambda found: json.dumps(found.group())[1:-1], line)


def wave_csv(summary: WaveSummary) -> bytes:
    """Write one row a member."""
    return _csv(WAVE_COLUMNS, (_member_row(member) for member in summary.members))


def failures_csv(summary: WaveSummary, rows: Mapping[int, Mapping[str, str]]) -> bytes | None:
    """Write the members in need of attention as a roster to mend and upload again; None when there are none.

    `rows` holds the roster's own values by member id. Passwords stay blank whatever it holds.
    """
    if not summary.needs_attention:
        return None
    columns = [name for name in summary.roster_columns or DEFAULT_ROSTER_COLUMNS if name not in {"Cause", "Fix"}]
    checks = {check.id: check for check in summary.checks}
    table = (
        [*_roster_row(member, rows.get(member.id, {}), columns, checks.get(member.id))]
        for member in summary.needs_attention
    )
    return _csv([*columns, "Cause", "Fix"], table)


def issues_document(issues: Iterable[tuple[Issue, str, str]], mended: Iterable[Mended]) -> dict[str, Any]:
    """Messages that were not moved, each with its file and what came of saving it ("" for none); and those repaired."""
    return {
        "issues": [
            {
                "email": issue.email,
                "folder": issue.folder,
                "uid": issue.uid,
                "subject": issue.subject,
                "sender": issue.sender,
                "arrived": _time(issue.arrived),
                "size": issue.size,
                **_cause(cause_of(issue.cause)),
                "server_text": issue.server_text,
                "file": file,
                "outcome": outcome,
            }
            for issue, file, outcome in issues
        ],
        "repaired": [
            {"email": each.email, **_repaired(each.folder, each.uid, each.repairs, each.server_text)} for each in mended
        ],
    }


def _repaired(folder: str, uid: int, names: Iterable[str], server_text: str) -> dict[str, Any]:
    what = [{"id": name, "title": repair(name).as_dict()} for name in names]
    return {"folder": folder, "uid": uid, "repairs": what, "server_text": server_text}


def issues_csv(issues: Iterable[tuple[Issue, str, str]]) -> bytes:
    """The same as a table that lies beside the saved files."""
    table: Iterable[list[str | int]] = (
        [
            _shown(issue.email),
            _shown(issue.folder),
            issue.uid,
            _time(issue.arrived) or "",
            issue.size,
            *_cause_cells(cause_of(issue.cause)),
            _shown(clipped(issue.server_text)),
            _shown(file),
            outcome,
            _shown(issue.subject or ""),
            _shown(issue.sender or ""),
        ]
        for issue, file, outcome in issues
    )
    return _csv(ISSUE_COLUMNS, table)


Saved = Mapping[AlteredMessage, tuple[str, str]]
"""The file of a message and what came of saving it, where that was asked for."""


def altered_csv(messages: Iterable[AlteredMessage], saved: Saved = MappingProxyType({})) -> Iterator[bytes]:
    """A row a message, in pieces: there may be very many."""
    yield _csv(ALTERED_COLUMNS, ())
    for some in _together(messages):
        yield _csv_rows(_altered_cells(each, *saved.get(each, ("", ""))) for each in some).encode(
            errors="backslashreplace"
        )


def altered_json(wave: str, messages: Iterable[AlteredMessage], saved: Saved = MappingProxyType({})) -> Iterator[bytes]:
    """The same as one JSON document in pieces; what alterations mean is said once."""
    kinds = {name: alteration_document(name) for name in sorted(alterations())}
    head = document_bytes({"wave": wave, "alterations": kinds}).decode()
    yield f'{head[: head.rindex("}")].rstrip()},\n "messages": ['.encode()
    separator = ""
    for some in _together(messages):
        rows = (_one_line(altered_document(each, *saved.get(each, ("", "")))) for each in some)
        yield (separator + ",\n  ".join(rows)).encode()
        separator = ",\n  "
    yield b"]\n}\n"


def alteration_document(name: str) -> dict[str, Any]:
    """What an alteration is called, what members see of it, and what helps."""
    found = alteration(name)
    return {"title": found.name.as_dict(), "seen": found.seen.as_dict(), "helps": found.helps.as_dict()}


def altered_document(message: AlteredMessage, file: str = "", outcome: str = "") -> dict[str, Any]:
    """One message that arrived altered."""
    return {
        "email": message.email,
        "folder": message.folder,
        "uid": message.uid,
        "target_folder": message.target_folder,
        "target_uid": message.target_uid,
        "arrived": _time(message.arrived),
        "size": message.size,
        "subject": message.subject,
        "sender": message.sender,
        "altered": list(message.alterations),
        "repairs": list(message.repairs),
        "server_text": message.server_text,
        "file": file,
        "outcome": outcome,
    }


def _altered_cells(message: AlteredMessage, file: str, outcome: str) -> list[str | int]:
    told = [alteration(name) for name in message.alterations]
    mended = [repair(name) for name in message.repairs]
    names = [each.name for each in told] + mended
    return [
        _shown(message.email),
        _shown(message.folder),
        message.uid,
        _shown(message.target_folder),
        message.target_uid,
        _time(message.arrived) or "",
        message.size,
        _shown(message.subject or ""),
        _shown(message.sender or ""),
        " ".join(message.alterations),
        "；".join(text.zh for text in names),
        "; ".join(text.en for text in names),
        "".join(each.seen.zh for each in told),
        " ".join(each.seen.en for each in told),
        "".join(each.helps.zh for each in told),
        " ".join(each.helps.en for each in told),
        _shown(clipped(message.server_text)),
        _shown(file),
        outcome,
    ]


def _together(messages: Iterable[AlteredMessage]) -> Iterator[list[AlteredMessage]]:
    rest = iter(messages)
    while some := list(islice(rest, 1000)):
        yield some


def _cause_cells(found: Cause) -> list[str]:
    return [found.id, found.title.zh, found.title.en, found.advice.zh, found.advice.en]


def cell(value: str) -> str:
    """Keep a spreadsheet from reading a text as a formula, also where it takes another sign for the separator."""
    guarded = _SEPARATED_FORMULA.sub(r"\1'\2", value)
    return f"'{guarded}" if value.startswith(FORMULA_STARTS) else guarded


def clipped(text: str) -> str:
    """Cut an endless answer of a server."""
    return text if len(text) <= SERVER_TEXT_SHOWN else text[:SERVER_TEXT_SHOWN] + "…"


def _member_row(member: MemberSummary) -> list[str | int]:
    cause, counts = member.leading_cause, member.counts
    hint = member.hint.text if member.hint else None
    return [
        _shown(member.email),
        _shown(member.display_name),
        member.state.value,
        *(_cause_cells(cause) if cause else [""] * 5),
        cause.owner if cause else "",
        member.cause_side,
        counts.source,
        counts.copied,
        counts.already_there,
        counts.issues,
        member.bytes,
        _grade(member) or "",
        member.attempts,
        _shown(clipped(member.server_text)),
        member.harmless,
        *_followed(member.followed).values(),
        str(member.limited_range or ""),
        member.source_provider,
        member.target_provider,
        *((_shown(hint.zh), _shown(hint.en)) if hint else ("", "")),
    ]


def _roster_row(
    member: MemberSummary, row: Mapping[str, str], columns: Iterable[str], check: CheckedMember | None
) -> Iterable[str]:
    known = {
        "EmailAddress": member.email,
        "UserName": member.source_user,
        "DisplayName": member.display_name,
        "Department": member.department,
        "SourceHost": member.source_host,
        "TargetUserName": member.target_user,
        "TargetHost": member.target_host,
    }
    for column in columns:
        # The admin's own values go back as they came, but for what a spreadsheet would calculate.
        yield "" if column in SECRET_COLUMNS else cell(row.get(column, known.get(column, "")))
    cause = member.leading_cause
    # Both mailboxes may have a fault, and who mends the roster mends both.
    other = check.beside(cause.id, member.cause_side) if check and cause else []
    yield " | ".join(_bilingual(text) for text in ([cause.title] if cause else []) + [f.kind.title for f in other])
    hint = member.hint if cause == member.cause else None
    fix = [_fix(cause.advice, member.steps_against(cause), hint)] if cause else []
    if check:
        fix += [_fix(each.kind.advice, check.steps_against(each), each.hint) for each in other]
    yield " | ".join(_bilingual(text) for text in fix)


def _fix(advice: Text, steps: Sequence[Text], hint: Hint | None) -> Text:
    """What to do: what probably lies behind it first, then the general advice and the provider's own steps."""
    advice = with_steps(advice, steps)
    guess = hint.text if hint else None
    return Text(guess.zh + advice.zh, f"{guess.en} {advice.en}") if guess else advice


def with_steps(advice: Text, steps: Sequence[Text]) -> Text:
    """Advice followed by numbered steps, in one line."""
    zh = "".join(f" {number}. {step.zh}" for number, step in enumerate(steps, 1))
    en = "".join(f" {number}. {step.en}" for number, step in enumerate(steps, 1))
    return Text(advice.zh + zh, advice.en + en)


def _bilingual(text: Text) -> str:
    return cell(f"{text.zh} / {text.en}")


def _shown(text: str) -> str:
    # Judged before it is made visible: a TAB at the front is a formula's start, `\x09` is not.
    guarded = _SEPARATED_FORMULA.sub(r"\1'\2", visible(text))
    return f"'{guarded}" if text.startswith(FORMULA_STARTS) else guarded


def _csv(header: Sequence[str], rows: Iterable[Sequence[str | int]]) -> bytes:
    # The byte order mark tells Excel that this is UTF-8.
    return (_csv_rows([header]) + _csv_rows(rows)).encode("utf-8-sig", errors="backslashreplace")


def _csv_rows(rows: Iterable[Sequence[str | int]]) -> str:
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\r\n").writerows(rows)
    return out.getvalue()


def _member(member: MemberSummary) -> dict[str, Any]:
    cause = member.leading_cause
    return {
        "id": member.id,
        "line": member.line,
        "email": member.email,
        "display_name": member.display_name,
        "department": member.department,
        "source": {
            "user": member.source_user,
            "host": member.source_host,
            "provider": member.source_provider or None,
        },
        "target": {
            "user": member.target_user,
            "host": member.target_host,
            "provider": member.target_provider or None,
        },
        "state": member.state.value,
        "short_state": member.short_state.value,
        "cause": cause.id if cause else None,
        "title": cause.title.as_dict() if cause else None,
        "advice": cause.advice.as_dict() if cause else None,
        "steps": steps_document(member.steps_against(cause)) if cause else None,
        "owner": cause.owner if cause else None,
        "side": member.cause_side or None,
        "server_text": member.server_text,
        "hint": hint_document(member.hint),
        "known_by": str(member.known_by) if member.known_by else None,
        "resume_at": _time(member.resume_at),
        "grade": _grade(member),
        "messages": _messages(member.counts),
        "nothing_to_do": member.harmless,
        "followed": _followed(member.followed),
        "bytes": member.bytes,
        "attempts": member.attempts,
        "limited_range": _limited(member.limited_range),
        "started_at": _time(member.started_at),
        "finished_at": _time(member.finished_at),
        "folders": [_folder(folder) for folder in member.folders],
        "left_out": [_left_out(folder) for folder in member.left_out],
        "issues": [_issue(issue) for issue in member.issues],
        "repaired": [_repaired(m.folder, m.source_uid, m.repairs, m.server_text) for m in member.repaired],
    }


def _limited(found: LimitedRange | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {"sign": found.sign.value, "number": found.number, "text": range_sentence(found).as_dict()}


def _folder(folder: FolderSummary) -> dict[str, Any]:
    return {
        "source_name": folder.source_name,
        "target_name": folder.target_name,
        "messages": _messages(folder.counts),
        "bytes": folder.bytes,
        "oldest": _time(folder.oldest),
        "newest": _time(folder.newest),
        "altered": dict(folder.altered),
        "read_back": folder.read_back,
        "followed": _followed(folder.followed),
        "why": folder.why or None,
        "reason": placement(folder.why).as_dict() if folder.why else None,
        "elsewhere": folder.elsewhere,
    }


def _left_out(folder: LeftOutSummary) -> dict[str, Any]:
    return {
        "source_name": folder.source_name,
        "why": folder.why,
        "reason": placement(folder.why).as_dict(),
        "messages": folder.messages,
    }


def _issue(issue: IssueSummary) -> dict[str, Any]:
    return {
        "folder": issue.folder,
        "uid": issue.source_uid,
        "cause": issue.cause.id,
        "arrived": _time(issue.arrived),
        "size": issue.size,
        "server_text": issue.server_text,
        "subject": issue.subject,
        "sender": issue.sender,
    }


def _cause_group(group: CauseGroup) -> dict[str, Any]:
    return {
        **_cause(group.cause),
        "members": [member.email for member in group.members],
        "messages": group.messages,
        "cures": cures_document(group.cures),
    }


def _cause(cause: Cause) -> dict[str, Any]:
    return {
        "cause": cause.id,
        "title": cause.title.as_dict(),
        "owner": cause.owner,
        "whose_turn": OWNERS[cause.owner].as_dict(),
        "advice": cause.advice.as_dict(),
    }


def _invalid_row(row: InvalidRowSummary) -> dict[str, Any]:
    chinese: Language = "zh-CN"
    return {
        "line": row.line,
        "column": row.column,
        "value": row.value,
        "problem": row.problem.en,
        "fix": row.fix.en,
        chinese: {"problem": row.problem.zh, "fix": row.fix.zh},
    }


def _messages(counts: MessageCounts) -> dict[str, int]:
    return {
        "source": counts.source,
        "copied": counts.copied,
        "already_there": counts.already_there,
        "issues": counts.issues,
    }


def _followed(followed: Followed) -> dict[str, int]:
    return {
        "gone": followed.gone,
        "moved": followed.moved,
        "strayed": followed.strayed,
        "flags_changed": followed.flags_changed,
    }


def _grade(member: MemberSummary) -> str | None:
    return member.grade.name.title() if member.grade is not None else None


def _time(at: datetime | None) -> str | None:
    if at is None:
        return None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).isoformat()
