"""The commands about messages: storing, reading, finding, changing, removing (RFC 9051 sections 6.3.12 to 6.4)."""

import threading
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from datetime import datetime
from typing import NoReturn

from deployments.demo.imap_behaviour import Action
from deployments.demo.imap_fetch import Body, Item, fetch_answer, fetch_items, scan_line
from deployments.demo.imap_grammar import (
    Arguments,
    Literal,
    Malformed,
    Refused,
    chosen_indexes,
    is_ascending,
    known_flag,
    set_text,
)
from deployments.demo.imap_search import Criteria
from deployments.demo.imap_session import FOLDER_OPEN, LOGGED_IN, Hangup, Session, Usage
from deployments.demo.imap_store import Folder, Message


def append(session: Session, args: Arguments) -> str:
    """Store one message, or with MULTIAPPEND all or none of several (RFC 3502)."""
    folder = session.append_target(args)
    drafts: list[tuple[bytes, datetime | None, frozenset[str]]] = []
    while not args.at_end():
        args.space()
        if drafts and not session.offers("MULTIAPPEND"):
            raise Malformed("One message at a time without MULTIAPPEND")
        flags = frozenset[str]()
        date = None
        if args.next_is(b"("):
            flags = _storable(session, args.flags())
            args.space()
        if args.next_is(b'"'):
            date = args.date_time()
            args.space()
        drafts.append((_accepted(session, args.literal()), date, flags))
    if not drafts:
        raise Malformed("Message expected")
    with folder.account.lock:
        session.check_room(sum(len(raw) for raw, _, _ in drafts))
        stored = [_stored(session, folder, *draft) for draft in drafts]
    if not session.offers("UIDPLUS") or session.behaviour.appenduid == "absent":
        return "Stored"
    shift = 1 if session.behaviour.appenduid == "lying" else 0
    return f"[APPENDUID {session.uidvalidity_of(folder)} {set_text(message.uid + shift for message in stored)}] Stored"


def _stored(session: Session, folder: Folder, raw: bytes, date: datetime | None, flags: frozenset[str]) -> Message:
    how = session.behaviour
    there = (message for message in folder.messages if how.stores_once and message.raw == raw)
    if (found := next(there, None)) is not None:
        return found
    kept = frozenset() if how.ignore_append_flags else flags - how.flags_lost_at_append
    return folder.deliver(raw, None if how.ignore_append_date else date, kept)


def _accepted(session: Session, raw: bytes) -> bytes:
    if not raw:
        raise Refused("Can't save a zero byte message")
    if session.behaviour.demands_line_end and not raw.endswith(b"\r\n"):
        raise Malformed("[CLIENTBUG] APPEND Additional arguments found after last expected argument")
    if session.behaviour.poison and session.behaviour.poison(raw):
        raise Hangup
    refusal = session.behaviour.refuse_message and session.behaviour.refuse_message(raw)
    if refusal:
        raise Refused(refusal)
    return session.behaviour.rewrite(raw) if session.behaviour.rewrite else raw


def _storable(session: Session, flags: frozenset[str]) -> frozenset[str]:
    if not session.behaviour.keywords_allowed and any(not flag.startswith("\\") for flag in flags):
        raise Refused("[CANNOT] Keywords are not supported")
    return flags


def idle(session: Session, args: Arguments) -> str:
    args.end()
    session.idling = True
    session.ask("Waiting")
    watcher = threading.Thread(target=_watch, args=(session,), name="imap idle", daemon=True)
    watcher.start()
    try:
        line = session.read_line()
    finally:
        with session.mail.changed:
            session.idling = False
            session.mail.changed.notify_all()
        watcher.join()
    if line.upper() != b"DONE":
        raise Malformed("DONE expected")
    return "Woken"


def _watch(session: Session) -> None:
    """Report changes while the client is idle; this thread alone writes then."""
    with suppress(OSError), session.mail.changed:
        while session.idling:
            session.report_changes()
            session.out.flush()
            session.mail.changed.wait()


def _need_write(session: Session) -> None:
    if session.opened.read_only:
        raise Refused("[READ-ONLY] Mailbox is open for reading only")


def _chosen(session: Session, args: Arguments) -> list[tuple[int, Message]]:
    """Read a sequence set and return the messages that it means and that are still there, with their numbers."""
    selected = session.opened
    numbers = selected.uids if args.by_uid else range(1, len(selected.uids) + 1)
    if args.by_uid and session.behaviour.uid_of:
        numbers = [session.behaviour.uid_of(uid) for uid in selected.uids]
    ranges = args.sequence_set()
    if session.behaviour.ascending_sets_only and not is_ascending(ranges):
        raise Malformed("UID parameters!")
    indexes = chosen_indexes(ranges, numbers)
    with selected.folder.account.lock:
        found = ((index + 1, selected.folder.get(selected.uids[index])) for index in indexes)
        return [(number, message) for number, message in found if message]


def check(session: Session, args: Arguments) -> str:
    args.end()
    return "Checked"


def unselect(session: Session, args: Arguments) -> str:
    args.end()
    session.selected = None
    return "Closed"


def close_folder(session: Session, args: Arguments) -> str:
    args.end()
    if not session.opened.read_only:
        _remove_deleted(session, session.opened.uids)
    session.selected = None
    return "Closed"


def expunge(session: Session, args: Arguments) -> str:
    _need_write(session)
    uids = session.opened.uids
    if args.by_uid:
        args.space()
        uids = [uids[index] for index in chosen_indexes(args.sequence_set(), uids)]
    args.end()
    _remove_deleted(session, uids)
    return "Expunged"


def _remove_deleted(session: Session, uids: Iterable[int]) -> None:
    folder = session.opened.folder
    with folder.account.lock:
        messages = (folder.get(uid) for uid in uids)
        folder.expunge([message.uid for message in messages if message and "\\Deleted" in message.flags])


def search(session: Session, args: Arguments) -> str:
    selected = session.opened
    args.space()
    if args.take(b"CHARSET "):
        if args.astring().upper() not in (b"US-ASCII", b"UTF-8"):
            raise Refused("[BADCHARSET (US-ASCII UTF-8)] Unknown charset")
        args.space()
    if session.behaviour.search == "refused":
        raise Malformed("invalid command or parameters")
    criteria = Criteria(args, selected.uids)
    passes = criteria.read()
    args.end()
    if session.behaviour.search == "empty":
        found = []
    else:
        with selected.folder.account.lock:
            numbered = [(number, selected.folder.get(uid)) for number, uid in enumerate(selected.uids, start=1)]
        everything = session.behaviour.search == "ignored"
        found = [(number, hit) for number, hit in numbered if hit and (everything or passes(hit, number))]
    answer = ["SEARCH", *(str(hit.uid if args.by_uid else number) for number, hit in found)]
    if criteria.by_modseq and found:
        answer.append(f"(MODSEQ {max(hit.modseq for _, hit in found)})")
    session.untagged(" ".join(answer))
    return "That is all"


def fetch(session: Session, args: Arguments) -> str:
    args.space()
    how = session.behaviour
    if not session.opened.uids and how.scan_of_nothing != "OK":
        raise (Refused if how.scan_of_nothing == "NO" else Malformed)("The specified message set is invalid.")
    chosen = _chosen(session, args)
    args.space()
    items = fetch_items(args)
    if args.by_uid and "UID" not in items:
        items.insert(0, "UID")
    if args.take(b" "):
        since = _modifier(session, args, b"CHANGEDSINCE")
        chosen = [(number, message) for number, message in chosen if message.modseq > since]
        items += ["MODSEQ"] if "MODSEQ" not in items else []
    args.end()
    if not session.offers("X-GM-EXT-1") and any(isinstance(item, str) and item.startswith("X-GM-") for item in items):
        raise Malformed("Unknown FETCH item")
    if "MODSEQ" in items:
        if not session.offers("CONDSTORE"):
            raise Malformed("Unknown FETCH item MODSEQ")
        session.condstore = True
    if how.unlisted:
        chosen = [(number, message) for number, message in chosen if not how.unlisted(message.raw)]
    if how.uid_of:
        chosen = [(number, replace(message, uid=how.uid_of(message.uid))) for number, message in chosen]
    names = [item for item in items if isinstance(item, str)]
    if len(names) == len(items) and (how.refuses_scan or how.retold):
        return _scan(session, chosen, names)
    marks_seen = not session.opened.read_only and any(
        isinstance(item, Body) and not (item.peek and not session.behaviour.peek_marks_seen) for item in items
    )
    told = _changed_flags(session, chosen, lambda flags: flags | {"\\Seen"}) if marks_seen else chosen
    how = session.behaviour
    bodies = any(isinstance(item, Body) for item in items)
    if bodies and how.unreadable and how.bodies == "set refused" and any(how.unreadable(m.raw) for _, m in chosen):
        raise Refused("[UNAVAILABLE] UID FETCH Server error while fetching messages")
    cut = session.striking if session.striking and session.striking.action is Action.CUT else None
    for count, ((number, before), (_, message)) in enumerate(zip(chosen, told, strict=True), start=1):
        if cut and count == cut.cut_message:
            _cut(session, fetch_answer(number, message, items, how), cut.cut_at)
        if message.flags != before.flags:
            session.write_message(number, message, items if "FLAGS" in items else [*items, "FLAGS"])
        else:
            if how.poison and how.poison(message.raw) and bodies:
                raise Hangup
            if bodies:
                session.count_body()
            unreadable = bool(how.unreadable and how.unreadable(message.raw))
            if unreadable and how.bodies == "refused" and bodies:
                raise Refused("[UNAVAILABLE] UID FETCH Server error while fetching messages")
            size = how.told_size(message.raw) if how.told_size else None
            lost = ("" if how.bodies == "omitted" else "NIL") if unreadable else None
            labels = session.labels_of(message) if "X-GM-LABELS" in items else ()
            told_items = _in_order(items, how.uid_place, number)
            session.out.writelines(fetch_answer(number, message, told_items, how, lost=lost, size=size, labels=labels))
    return "That is all"


def _scan(session: Session, chosen: list[tuple[int, Message]], items: list[str]) -> str:
    """Answer a FETCH without bodies the way that the switches say."""
    how = session.behaviour
    if how.refuses_scan and any(how.refuses_scan(message.raw) for _, message in chosen):
        raise Refused("[SERVERBUG] Internal error occurred. Refer to server log for more information.")
    lines = [
        scan_line(
            number,
            message,
            items,
            size=how.told_size(message.raw) if how.told_size else None,
            labels=session.labels_of(message) if "X-GM-LABELS" in items else (),
        )
        for number, message in chosen
    ]
    for line in how.retold(lines) if how.retold else lines:
        session.line(f"* {line.number} FETCH ({' '.join(f'{name} {value}' for name, value in line.items)})")
    return "That is all"


def _in_order(items: list[Item], place: str, number: int) -> list[Item]:
    """The items of an answer, with UID where the service puts it."""
    last = place == "last" or (place == "either" and number % 2 == 0)
    return [*(item for item in items if item != "UID"), "UID"] if last and "UID" in items else items


def _modifier(session: Session, args: Arguments, name: bytes) -> int:
    if not session.offers("CONDSTORE"):
        raise Malformed("Unknown modifier")
    args.expect(b"(" + name + b" ")
    value = args.number()
    args.expect(b")")
    session.condstore = True
    return value


def _cut(session: Session, pieces: list[bytes], at: int) -> NoReturn:
    for piece in pieces:
        if isinstance(piece, Literal):
            session.out.write(piece[:at])
            break
        session.out.write(piece)
    raise Hangup


def _changed_flags(
    session: Session, chosen: Iterable[tuple[int, Message]], change: Callable[[frozenset[str]], frozenset[str]]
) -> list[tuple[int, Message]]:
    """Change the flags of all messages at once; one that another session just removed stays as it was."""
    selected = session.opened
    changed: list[tuple[int, Message]] = []
    with selected.folder.account.lock:
        for number, message in chosen:
            current = selected.folder.get(message.uid)
            after = selected.folder.set_flags(current.uid, change(current.flags)) if current else message
            selected.told[after.uid] = after.modseq
            changed.append((number, after))
    return changed


def store(session: Session, args: Arguments) -> str:
    args.space()
    _need_write(session)
    chosen = _chosen(session, args)
    args.space()
    unchanged_since = None
    if args.next_is(b"("):
        unchanged_since = _modifier(session, args, b"UNCHANGEDSINCE")
        args.space()
    sign = "+" if args.take(b"+") else "-" if args.take(b"-") else ""
    item = args.item_name()
    if item not in ("FLAGS", "FLAGS.SILENT"):
        raise Malformed(f"Unknown STORE item {item}")
    args.space()
    given = _storable(session, _bare_flags(args))
    args.end()
    changes: dict[str, Callable[[frozenset[str]], frozenset[str]]] = {
        "+": lambda flags: flags | given,
        "-": lambda flags: flags - given,
        "": lambda flags: given,
    }
    with session.opened.folder.account.lock:
        conflicts = []
        if unchanged_since is not None:
            newer = [pair for pair in chosen if pair[1].modseq > unchanged_since]
            conflicts = [message.uid if args.by_uid else number for number, message in newer]
            chosen = [pair for pair in chosen if pair not in newer]
        changed = _changed_flags(session, chosen, changes[sign])
    shown: list[Item] = ["UID"] if args.by_uid else []
    for number, message in changed:
        if item == "FLAGS":
            session.write_message(number, message, [*shown, "FLAGS"])
        elif session.condstore:
            session.write_message(number, message, shown)
    return f"[MODIFIED {set_text(conflicts)}] Some changed before" if conflicts else "Stored"


def _bare_flags(args: Arguments) -> frozenset[str]:
    """Read flags as STORE may have them: also without their parentheses."""
    if args.next_is(b"("):
        return args.flags()
    found = {known_flag(args.flag())}
    while args.take(b" "):
        found.add(known_flag(args.flag()))
    return frozenset(found)


def copy_messages(session: Session, args: Arguments) -> str:
    args.space()
    code, _ = _copied(session, args)
    return f"{code}Copied"


def move(session: Session, args: Arguments) -> str:
    args.space()
    _need_write(session)
    code, moved = _copied(session, args)
    if code:
        session.untagged(code if session.behaviour.bare_copyuid else f"OK {code}Moved")
    session.opened.folder.expunge([message.uid for _, message in moved])
    return "Moved"


def _copied(session: Session, args: Arguments) -> tuple[str, list[tuple[int, Message]]]:
    """Copy messages; return the COPYUID response code with a blank, and the messages."""
    chosen = _chosen(session, args)
    target = session.append_target(args)
    args.end()
    with target.account.lock:
        session.check_room(sum(len(message.raw) for _, message in chosen))
        copies = [target.deliver(message.raw, message.internal_date, message.flags) for _, message in chosen]
    if not copies or not session.offers("UIDPLUS"):
        return "", chosen
    sources = set_text(message.uid for _, message in chosen)
    return f"[COPYUID {session.uidvalidity_of(target)} {sources} {set_text(copy.uid for copy in copies)}] ", chosen


MESSAGE_COMMANDS = {
    "APPEND": Usage(append, LOGGED_IN),
    "IDLE": Usage(idle, LOGGED_IN, "IDLE"),
    "CHECK": Usage(check, FOLDER_OPEN),
    "CLOSE": Usage(close_folder, FOLDER_OPEN),
    "UNSELECT": Usage(unselect, FOLDER_OPEN, "UNSELECT"),
    "EXPUNGE": Usage(expunge, FOLDER_OPEN),
    "UID EXPUNGE": Usage(expunge, FOLDER_OPEN, "UIDPLUS"),
    "SEARCH": Usage(search, FOLDER_OPEN),
    "UID SEARCH": Usage(search, FOLDER_OPEN),
    "FETCH": Usage(fetch, FOLDER_OPEN),
    "UID FETCH": Usage(fetch, FOLDER_OPEN),
    "STORE": Usage(store, FOLDER_OPEN),
    "UID STORE": Usage(store, FOLDER_OPEN),
    "COPY": Usage(copy_messages, FOLDER_OPEN),
    "UID COPY": Usage(copy_messages, FOLDER_OPEN),
    "MOVE": Usage(move, FOLDER_OPEN, "MOVE"),
    "UID MOVE": Usage(move, FOLDER_OPEN, "MOVE"),
}
