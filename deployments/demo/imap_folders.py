"""The commands about folders as a whole: opening, listing, making, counting (RFC 9051 section 6.3)."""

import re
from collections.abc import Iterable

from deployments.demo.imap_grammar import (
    SYSTEM_FLAGS,
    Arguments,
    Malformed,
    Refused,
    decode_name,
    encode_name,
    quoted,
)
from deployments.demo.imap_session import LOGGED_IN, Selected, Session, Usage
from deployments.demo.imap_store import Folder


def _folder(session: Session, args: Arguments) -> Folder:
    return _named(session, session.folder_name(args))


def _named(session: Session, name: str) -> Folder:
    folder = session.find(name)
    if folder is None:
        raise Refused("[NONEXISTENT] Mailbox does not exist")
    return folder


def _readable_folder(session: Session, args: Arguments) -> Folder:
    return _readable(_folder(session, args))


def _readable(folder: Folder) -> Folder:
    if not folder.selectable:
        raise Refused("[CANNOT] Mailbox is not selectable")
    return folder


def enable(session: Session, args: Arguments) -> str:
    enabled = []
    while not args.at_end():
        args.space()
        if args.word() == "CONDSTORE" and session.offers("CONDSTORE"):
            session.condstore = True
            enabled.append("CONDSTORE")
    session.untagged(" ".join(["ENABLED", *enabled]))
    return "Enabled"


def select_folder(session: Session, args: Arguments) -> str:
    return _open_folder(session, args, read_only=False)


def examine_folder(session: Session, args: Arguments) -> str:
    return _open_folder(session, args, read_only=True)


def _open_folder(session: Session, args: Arguments, *, read_only: bool) -> str:
    session.selected = None
    args.space()
    if session.behaviour.id_before_select and not session.identified:
        verb = "EXAMINE" if read_only else "SELECT"
        raise Refused(f"{verb} Unsafe Login. Please contact kefu@188.com for help")
    folder = _readable_folder(session, args)
    if args.take(b" "):
        if args.words() != ["CONDSTORE"] or not session.offers("CONDSTORE"):
            raise Malformed("Unknown parameter")
        session.condstore = True
    args.end()
    with folder.account.lock:
        messages = session.shown(folder)
        uids = [message.uid for message in messages]
        folder.openings += 1
        session.selected = Selected(folder, read_only, folder.uidvalidity, uids, folder.uidnext, folder.highest_modseq)
    system = " ".join(SYSTEM_FLAGS.values())
    keywords = sorted({flag for message in messages for flag in message.flags if not flag.startswith("\\")})
    permanent = "" if read_only else system + (r" \*" if session.behaviour.keywords_allowed else "")
    session.untagged(f"FLAGS ({' '.join([system, *keywords])})")
    session.untagged(f"OK [PERMANENTFLAGS ({permanent})] Permanent flags")
    session.untagged(f"{len(uids)} EXISTS")
    session.untagged("0 RECENT")
    omitted = session.behaviour.select_omits
    unseen = next((number for number, message in enumerate(messages, 1) if "\\Seen" not in message.flags), None)
    if unseen and "UNSEEN" not in omitted:
        session.untagged(f"OK [UNSEEN {unseen}] First unseen")
    session.untagged(f"OK [UIDVALIDITY {_uidvalidity(session, folder)}] UIDs valid")
    if "UIDNEXT" not in omitted:
        session.untagged(f"OK [UIDNEXT {session.selected.uidnext}] Next UID")
    if session.offers("CONDSTORE"):
        session.untagged(f"OK [HIGHESTMODSEQ {_modseq(session, folder)}] Highest")
    return "[READ-ONLY] Opened" if read_only else "[READ-WRITE] Opened"


def _uidvalidity(session: Session, folder: Folder) -> str:
    told = session.uidvalidity_of(folder)
    return f"{told:.9e}" if session.behaviour.exponents else str(told)


def _modseq(session: Session, folder: Folder) -> int:
    return -1 if session.behaviour.unknown_modseq else folder.highest_modseq


def _new_name(session: Session, args: Arguments) -> str:
    name = session.folder_name(args).removesuffix(session.mail.separator)
    if not name.startswith(session.behaviour.personal_prefix):
        raise Refused(f"[CANNOT] Mailboxes are created below {session.behaviour.personal_prefix}")
    if not name or "" in name.split(session.mail.separator):
        raise Refused("[CANNOT] A part of the name is empty")
    return name


def create(session: Session, args: Arguments) -> str:
    args.space()
    name = _new_name(session, args)
    args.end()
    if set(name) & set(session.behaviour.refused_in_names):
        raise Refused("[CANNOT] Invalid mailbox name")
    if name in session.behaviour.reserved_names:
        raise Refused("Folder name is reserved.")
    if session.behaviour.second_prefix:
        name = name.removeprefix(session.behaviour.second_prefix)
    if session.behaviour.made_as:
        name = session.behaviour.made_as(name)
    try:
        made = session.mail.create(name, noselect_parents=session.behaviour.noselect_parents)
    except ValueError:
        raise Refused("[ALREADYEXISTS] Mailbox exists") from None
    made.shown_after = session.behaviour.shown_after
    return "Created"


def delete(session: Session, args: Arguments) -> str:
    args.space()
    folder = _folder(session, args)
    args.end()
    if folder.name == "INBOX" or (not folder.selectable and session.mail.children(folder)):
        raise Refused("[CANNOT] Mailbox cannot be deleted")
    if session.selected and session.selected.folder is folder:
        session.selected = None
    session.mail.delete(folder)
    return "Deleted"


def rename(session: Session, args: Arguments) -> str:
    args.space()
    folder = _folder(session, args)
    args.space()
    name = _new_name(session, args)
    args.end()
    if session.mail.find(name):
        raise Refused("[ALREADYEXISTS] Mailbox exists")
    session.mail.rename(folder, name)
    return "Renamed"


def subscribe(session: Session, args: Arguments) -> str:
    args.space()
    session.mail.subscriptions.add(_folder(session, args).name)
    args.end()
    return "Subscribed"


def unsubscribe(session: Session, args: Arguments) -> str:
    args.space()
    session.mail.subscriptions.discard(session.mail.canonical(session.folder_name(args)))
    args.end()
    return "Unsubscribed"


def namespace(session: Session, args: Arguments) -> str:
    args.end()
    prefix = quoted(encode_name(session.behaviour.personal_prefix)).decode("ascii")
    separator = session.mail.separator
    second = session.behaviour.second_prefix
    more = f'("{second}" "{separator}")' if second else ""
    lists = session.behaviour.namespaces or f'(({prefix} "{separator}"){more}) NIL NIL'
    session.untagged(f"NAMESPACE {lists}")
    return "That is all"


def list_folders(session: Session, args: Arguments) -> str:
    args.space()
    asked: list[str] = []
    if args.next_is(b"("):
        asked = args.words()
        args.space()
        _need_list_options(session, asked, {"SUBSCRIBED", "SPECIAL-USE", "REMOTE", "RECURSIVEMATCH"})
    reference = args.astring()
    args.space()
    patterns = [reference + pattern for pattern in _patterns(args)]
    returned: list[str] = []
    status: list[str] = []
    if args.take(b" "):
        if args.word() != "RETURN":
            raise Malformed("RETURN expected")
        args.space()
        returned, status = _list_returns(session, args)
    args.end()
    if patterns == [b""]:
        session.untagged(f'LIST (\\Noselect) "{session.mail.separator}"', b"")
        return "That is all"
    for folder in session.mail.folders:
        folder.shown_after = max(0, folder.shown_after - 1)
    for folder in _matching(session, patterns):
        subscribed = folder.name in session.mail.subscriptions
        if ("SUBSCRIBED" in asked and not subscribed) or ("SPECIAL-USE" in asked and not folder.special_use):
            continue
        shows_subscribed = subscribed and "SUBSCRIBED" in (*asked, *returned)
        for name in _names(session, folder):
            _write_folder(session, "LIST", folder, ["\\Subscribed"] if shows_subscribed else [], name=name)
            if status and folder.selectable and (name == wire_name(folder) or session.find(decode_name(name))):
                _write_status(session, folder, status, name)
    return "That is all"


def _need_list_options(session: Session, options: Iterable[str], known: set[str]) -> None:
    if not session.offers("LIST-EXTENDED") and not session.offers("LIST-STATUS"):
        raise Malformed("LIST takes no options")
    for option in options:
        if option not in known or (option == "SPECIAL-USE" and not session.offers(option)):
            raise Malformed(f"Unknown LIST option {option}")


def _list_returns(session: Session, args: Arguments) -> tuple[list[str], list[str]]:
    options: list[str] = []
    status: list[str] = []
    args.expect(b"(")
    while not args.take(b")"):
        if options:
            args.space()
        options.append(args.word())
        if options[-1] == "STATUS":
            if not session.offers("LIST-STATUS"):
                raise Malformed("Unknown LIST option STATUS")
            args.space()
            status = args.words()
    _need_list_options(session, options, {"SUBSCRIBED", "CHILDREN", "SPECIAL-USE", "STATUS"})
    return options, status


def _patterns(args: Arguments) -> list[bytes]:
    if not args.take(b"("):
        return [args.list_mailbox()]
    patterns = [args.list_mailbox()]
    while not args.take(b")"):
        args.space()
        patterns.append(args.list_mailbox())
    return patterns


def _matching(session: Session, patterns: Iterable[bytes]) -> list[Folder]:
    not_separator = f"[^{re.escape(session.mail.separator)}]*"
    spelled = []
    for pattern in patterns:
        name = session.mail.canonical(decode_name(pattern))
        spelled.append(re.escape(name).replace(r"\*", ".*").replace("%", not_separator))
    wanted = re.compile("|".join(spelled), re.DOTALL)
    shown = (folder for folder in session.mail.folders if not folder.shown_after)
    return [folder for folder in shown if wanted.fullmatch(folder.name)]


def _names(session: Session, folder: Folder) -> list[bytes]:
    """Every name under which a folder is listed, as on the wire."""
    names = [wire_name(folder)]
    if folder.name == "INBOX":
        return names
    if session.behaviour.second_prefix:
        names.append(encode_name(session.behaviour.second_prefix) + names[0])
    if session.behaviour.lists_ended:
        names += [name + session.mail.separator.encode("ascii") for name in names]
    return names


def _write_folder(
    session: Session, answer: str, folder: Folder, more: Iterable[str] = (), *, name: bytes | None = None
) -> None:
    name = wire_name(folder) if name is None else name
    attributes = [] if folder.selectable else ["\\Noselect"]
    if session.offers("CHILDREN"):
        attributes.append("\\HasChildren" if session.mail.children(folder) else "\\HasNoChildren")
    marked = session.offers("SPECIAL-USE") or session.behaviour.marks_special_use or answer == "XLIST"
    if folder.special_use and marked:
        attributes.append(folder.special_use)
    if answer == "XLIST" and folder.name == "INBOX":
        attributes.append("\\Inbox")
    for _ in range(2 if session.behaviour.lists_twice else 1):
        session.untagged(f'{answer} ({" ".join([*attributes, *more])}) "{session.mail.separator}"', name)


def lsub(session: Session, args: Arguments) -> str:
    for folder in _matching(session, [_plain_pattern(args)]):
        if folder.name in session.mail.subscriptions:
            _write_folder(session, "LSUB", folder)
    return "That is all"


def xlist(session: Session, args: Arguments) -> str:
    for folder in _matching(session, [_plain_pattern(args)]):
        _write_folder(session, "XLIST", folder)
    return "That is all"


def _plain_pattern(args: Arguments) -> bytes:
    args.space()
    reference = args.astring()
    args.space()
    pattern = args.list_mailbox()
    args.end()
    return reference + pattern


def status(session: Session, args: Arguments) -> str:
    args.space()
    asked = session.folder_name(args)
    folder = _readable(_named(session, asked))
    args.space()
    items = args.words()
    args.end()
    _write_status(session, folder, items, wire_name(folder) if folder.name == asked else encode_name(asked))
    return "That is all"


def _write_status(session: Session, folder: Folder, items: Iterable[str], name: bytes) -> None:
    with folder.account.lock:
        messages = session.shown(folder)
        known: dict[str, int | str] = {
            "MESSAGES": len(messages),
            "RECENT": 0,
            "UIDNEXT": folder.uidnext,
            "UIDVALIDITY": _uidvalidity(session, folder),
            "UNSEEN": sum("\\Seen" not in message.flags for message in messages),
            "DELETED": sum("\\Deleted" in message.flags for message in messages),
        }
        if session.offers("CONDSTORE"):
            known["HIGHESTMODSEQ"] = _modseq(session, folder)
        if session.offers("STATUS=SIZE"):
            known["SIZE"] = sum(len(message.raw) for message in messages)
        if session.offers("OBJECTID"):
            known["MAILBOXID"] = f"({folder.mailbox_id})"
        if session.offers("APPENDLIMIT"):
            known["APPENDLIMIT"] = session.behaviour.max_message_bytes or "NIL"
    values = []
    for item in items:
        if item not in known:
            raise Malformed(f"Unknown STATUS item {item}")
        if item not in session.behaviour.status_omits:
            values.append(f"{item} {known[item]}")
    session.line(
        f"* STATUS {quoted(name).decode('latin-1')} ({' '.join(values)})"
        + (" " if session.behaviour.trailing_blanks else "")
    )


def getquotaroot(session: Session, args: Arguments) -> str:
    args.space()
    folder = _folder(session, args)
    args.end()
    limited = session.behaviour.quota_of(session.mail.name) is not None
    session.untagged("QUOTAROOT", wire_name(folder), *([b"User quota"] if limited else []))
    if limited:
        _write_quota(session)
    return "That is all"


def getquota(session: Session, args: Arguments) -> str:
    args.space()
    root = args.astring()
    args.end()
    if root != b"User quota" or session.behaviour.quota_of(session.mail.name) is None:
        raise Refused("[NONEXISTENT] No such quota root")
    _write_quota(session)
    return "That is all"


def _write_quota(session: Session) -> None:
    limit = session.behaviour.quota_of(session.mail.name) or 0
    # In units of 1,024 octets (RFC 9208 section 5.1).
    session.untagged(f'QUOTA "User quota" (STORAGE {-(-session.mail.used_bytes // 1024)} {limit // 1024})')


def wire_name(folder: Folder) -> bytes:
    return encode_name(folder.name) if folder.raw_name is None else folder.raw_name


FOLDER_COMMANDS = {
    "ENABLE": Usage(enable, LOGGED_IN, "ENABLE"),
    "SELECT": Usage(select_folder, LOGGED_IN),
    "EXAMINE": Usage(examine_folder, LOGGED_IN),
    "CREATE": Usage(create, LOGGED_IN),
    "DELETE": Usage(delete, LOGGED_IN),
    "RENAME": Usage(rename, LOGGED_IN),
    "SUBSCRIBE": Usage(subscribe, LOGGED_IN),
    "UNSUBSCRIBE": Usage(unsubscribe, LOGGED_IN),
    "LIST": Usage(list_folders, LOGGED_IN),
    "LSUB": Usage(lsub, LOGGED_IN),
    "XLIST": Usage(xlist, LOGGED_IN, "XLIST"),
    "NAMESPACE": Usage(namespace, LOGGED_IN, "NAMESPACE"),
    "STATUS": Usage(status, LOGGED_IN),
    "GETQUOTAROOT": Usage(getquotaroot, LOGGED_IN, "QUOTA"),
    "GETQUOTA": Usage(getquota, LOGGED_IN, "QUOTA"),
}
