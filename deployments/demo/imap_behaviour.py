"""How a demo server behaves: what it offers, what it limits, and where it fails on purpose.

Everything may be changed while the server runs; the sessions look at it anew with every command.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Literal, NamedTuple

from deployments.demo.imap_tokens import TokenBook

CAPABILITIES = frozenset(
    {
        *("IMAP4rev1", "LITERAL+", "SASL-IR", "AUTH=PLAIN", "ENABLE", "ID", "NAMESPACE", "UIDPLUS", "MULTIAPPEND"),
        *("UNSELECT", "MOVE", "CHILDREN", "SPECIAL-USE", "LIST-EXTENDED", "LIST-STATUS", "QUOTA", "CONDSTORE", "IDLE"),
    }
)


class Received(NamedTuple):
    """One command as it came: without passwords, literals as {size} only; the verb of a UID command is "UID FETCH"."""

    account: str
    verb: str
    rest: str


class ScanLine(NamedTuple):
    """One answer to FETCH: the message number, and the items with their values as they are written."""

    number: int
    items: tuple[tuple[str, str], ...]


class Action(Enum):
    """What a fault does to the command that it meets."""

    NO = "NO"  # tagged NO with the text, nothing carried out
    BAD = "BAD"  # tagged BAD with the text, nothing carried out
    BYE = "BYE"  # untagged BYE with the text, then the connection is closed
    DROP_BEFORE = "drop before"  # the connection is lost and nothing was carried out
    DROP_AFTER = "drop after"  # it was carried out, and the connection is lost before the tagged answer
    HANG = "hang"  # no answer until the client gives up
    CUT = "cut"  # FETCH only: the connection is lost within the octets of a message
    STORE_LATE = "store late"  # the connection is lost; what came over it is carried out after `looks` of others


@dataclass
class Fault:
    """A failure on purpose: it meets the nth command that fits, and as many after it as `times` says (None: all).

    The command is a verb without UID ("FETCH" fits UID FETCH too), or "CONNECT" for the greeting. LOGIN and
    AUTHENTICATE are met when the account is known, so that `account` fits them too.
    """

    command: str
    action: Action
    nth: int = 1
    account: str | None = None
    containing: str = ""  # only commands whose arguments contain this, as in Received.rest
    text: str = "Failed on purpose"
    cut_at: int = 0  # CUT: so many octets of the message still arrive
    cut_message: int = 1  # CUT: the nth message that this FETCH answers with
    looks: int | None = None  # STORE_LATE: so many NOOPs of other sessions; None waits for ImapServer.store_late()
    times: int | None = 1
    met: int = field(default=0, init=False)  # commands that fitted so far

    def meets(self, account: str, verb: str, rest: str) -> bool:
        """Count the command if it fits, and say whether it is to fail."""
        if verb.removeprefix("UID ") != self.command or self.containing not in rest:
            return False
        if self.account not in (None, account):
            return False
        self.met += 1
        return self.met >= self.nth and (self.times is None or self.met < self.nth + self.times)


@dataclass
class Behaviour:
    """The switches of a server; the defaults are a full and friendly one."""

    # Names as in the CAPABILITY answer. APPENDLIMIT is announced with max_message_bytes; XLIST is known too.
    capabilities: frozenset[str] = CAPABILITIES
    separator: str = "/"  # read when an account is added
    personal_prefix: str = ""  # such as "INBOX."; no folder can be created outside it
    noselect_parents: bool = False  # CREATE a/b makes "a" \Noselect
    namespaces: str = ""  # the lists of the NAMESPACE answer word for word: '(("" "/")) (("shared/" "/")) NIL'
    second_prefix: str = ""  # a further personal namespace, such as "INBOX/", below which each folder is listed again
    lists_ended: bool = False  # each folder but INBOX is listed once more, with a separator at its end
    opens_ended: bool = True  # and is opened under that name
    made_as: Callable[[str], str] | None = None  # the name that CREATE gives to a folder in place of the one asked for
    opens_as_made: bool = False  # the other commands take a name for the one that CREATE would make of it
    shown_after: int = 0  # a created folder is there only after so many LISTs

    max_message_bytes: int | None = None
    quota_bytes: int | None = None  # for every account that has no quota of its own
    quotas: Mapping[str, int] = field(default_factory=dict)
    max_connections: int | None = None  # for each account
    throttle_next: int = 0  # so many commands after login are answered NO [THROTTLED]
    latency: float = 0.0  # seconds before a command is carried out

    login_refusals: Mapping[str, str] = field(default_factory=dict)  # account -> text of the NO to every login
    masters: Mapping[str, str] = field(default_factory=dict)  # who may log in for others -> password
    master_login: str = r"(?P<user>[^*]+)\*(?P<admin>[^*]+)"  # how a login names both; local and domain make a user
    masters_of: Mapping[str, frozenset[str]] = field(default_factory=dict)  # master -> the only accounts it may open
    tokens: TokenBook = field(default_factory=TokenBook)  # with AUTH=XOAUTH2 or AUTH=OAUTHBEARER
    token_ended: str = "Session invalidated - AccessTokenExpired"  # the BYE to a session whose token ends
    id_before_select: bool = False  # as NetEase: no folder opens before the client sent ID

    hidden_before: datetime | None = None  # the receive range: older mail is there, but IMAP does not show it

    keywords_allowed: bool = True
    rewrite: Callable[[bytes], bytes] | None = None  # what becomes of a message at APPEND
    refuse_message: Callable[[bytes], str | None] | None = None  # text of the NO to this message at APPEND
    unreadable: Callable[[bytes], bool] | None = None  # messages that are listed, and fetched as NIL
    poison: Callable[[bytes], bool] | None = None  # messages at which the connection ends, in APPEND and in FETCH
    told_size: Callable[[bytes], int] | None = None  # what RFC822.SIZE says of a message
    ignore_append_date: bool = False
    ignore_append_flags: bool = False
    appenduid: Literal["right", "absent", "lying"] = "right"
    # "ignored": every criterion fits every message; "empty": nothing is ever found; "refused": BAD.
    search: Literal["right", "ignored", "empty", "refused"] = "right"

    # How a service speaks, where that differs from the above; personalities.toml has whole services.
    greeting: str = ""  # after "* OK", with the blank if there is one; may hold a CAPABILITY code
    announced_before_login: str = ""  # the CAPABILITY answer word for word
    announced_after_login: str = ""
    login_tells_capabilities: bool = True
    identity: str = '("name" "Banjia demo server")'
    unknown_commands: frozenset[str] = frozenset()  # verbs that are answered with BAD
    unknown_text: str = "Unknown command"
    not_connected: frozenset[str] = frozenset()  # accounts that log in, and can do nothing then (Exchange)
    longest_command: int | None = None  # octets of a command without its literals; BAD above
    ascending_sets_only: bool = False
    errors_before_bye: int | None = None  # so many NO and BAD end the session
    byes: int = 1  # how often the goodbye is said
    says_with: Mapping[str, str] = field(default_factory=dict)  # verb -> untagged line before its tagged answer
    trailing_blanks: bool = False  # at the end of untagged answers
    bare_continuation: bool = False  # "+" and nothing behind it

    status_omits: frozenset[str] = frozenset()
    select_omits: frozenset[str] = frozenset()
    unknown_modseq: bool = False  # MODSEQ is -1 throughout
    exponents: bool = False  # UIDVALIDITY is written as 1.700000000e+09
    lists_twice: bool = False
    marks_special_use: bool = False  # LIST shows special use though it is not announced
    folds_case: bool = False  # folder names that differ in case only are one folder; read when an account is added
    reserved_names: frozenset[str] = frozenset()  # cannot be created
    refused_in_names: str = ""  # characters that no created folder may have
    uid_place: Literal["first", "last", "either"] = "first"  # of UID in an answer to FETCH
    # How FETCH answers for what is `unreadable`; "set refused": nothing else of what it was asked for comes either.
    bodies: Literal["right", "refused", "set refused", "omitted"] = "right"
    # A FETCH of a part: the whole message under the part's name (Tencent Exmail) or under its own, or its first octets.
    partial: Literal["right", "ignored", "unlabelled", "from the start"] = "right"
    part_octets: int | None = None  # so many at most, whatever was asked for
    parts_end_at: int | None = None  # nothing from that octet on
    delivers: Callable[[bytes], bytes] | None = None  # what FETCH makes of a message's octets, in any form
    bodies_a_session: int | None = None  # so many are fetched, then the session ends
    commands_a_session: int | None = None  # after the login
    session_ended: str = "Session expired"  # the BYE then
    unlisted: Callable[[bytes], bool] | None = None  # messages that EXISTS counts, and FETCH leaves out with OK
    # A scan: FETCH without the content of messages.
    refuses_scan: Callable[[bytes], bool] | None = None  # messages for whose sake a whole scan is NO
    scan_of_nothing: Literal["OK", "NO", "BAD"] = "OK"  # the answer to FETCH in an empty folder
    uid_of: Callable[[int], int] | None = None  # the UID that a message is told and asked by, in place of its own
    retold: Callable[[list[ScanLine]], list[ScanLine]] | None = None  # the answers to a scan, as they are given
    restless_uidvalidity: bool = False  # another one with every SELECT and EXAMINE; the UIDs stay
    peek_marks_seen: bool = False  # FETCH of a body does so in every form, in a folder that is open for writing
    demands_line_end: bool = False  # APPEND of a message without a final CRLF is BAD
    stores_once: bool = False  # the same octets in the same folder are stored once, and no word is said of it
    flags_lost_at_append: frozenset[str] = frozenset()
    bare_copyuid: bool = False  # COPYUID in an untagged line of its own, without OK

    # What becomes of a piece of an answer to a command as it leaves: a line, a message's octets, what is around them.
    slip: Callable[[str, bytes], bytes] | None = None

    faults: list[Fault] = field(default_factory=list)
    # Called with every command before it is carried out: the place to change a folder in mid-run.
    before_command: Callable[[Received], None] | None = None

    def quota_of(self, account: str) -> int | None:
        return self.quotas.get(account, self.quota_bytes)

    def offers(self, capability: str) -> bool:
        return capability in self.capabilities

    def announced(self, *, logged_in: bool) -> str:
        """Return what the CAPABILITY answer lists."""
        if words := self.announced_after_login if logged_in else self.announced_before_login:
            return words
        names = sorted(self.capabilities, key=lambda name: (name != "IMAP4rev1", name))
        if self.max_message_bytes is not None:
            names = [f"APPENDLIMIT={self.max_message_bytes}" if name == "APPENDLIMIT" else name for name in names]
        return " ".join(names)
