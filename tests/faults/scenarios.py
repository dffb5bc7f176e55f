"""What may be there and what may happen while a mailbox is moved: a row each, with how it has to end.

The end is the same wherever a run died: the source's mail once, what was at the target before, and where a message
legitimately stays behind, an issue that names why. To add a row whose later pass follows a change at the source, give
`changes` and set `chapter` to the pass in which the deaths are to be.
"""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial

from deployments.demo.imap_server import CAPABILITIES, Account, Action, Fault, Folder
from imapcopy.repair import repaired
from models import steps as steps_module
from models.rules import Repair
from tests.faults.stage import Event, Look, Stage

PROFILES = {
    "full": CAPABILITIES,
    "only UIDPLUS": frozenset({"IMAP4rev1", "UIDPLUS", "AUTH=PLAIN"}),
    "nothing": frozenset({"IMAP4rev1"}),
}
CHANGING = {steps_module.COMMITTING, steps_module.COMMITTED, steps_module.WRITTEN["target"]}


def mail(number: int, body: bytes = b"body") -> bytes:
    """A plain message that differs from every other one."""
    head = b"Message-ID: <%d@old.example>\r\nSubject: number %d\r\nFrom: a@old.example\r\n\r\n"
    return head % (number, number) + body + b"\r\n"


def moment(number: int) -> datetime:
    return datetime(2024, 5, 1 + number % 28, 12, 30, 15, tzinfo=UTC)


def deliver(folder: Folder, *numbers: int) -> None:
    for number in numbers:
        folder.deliver(mail(number), moment(number), ["\\Seen"] if number % 2 else ["$Project"])


def look(folder: str, number: int) -> Look:
    """A message of `deliver` as a reader sees it."""
    return Look(folder, mail(number), moment(number), frozenset(["\\Seen"] if number % 2 else ["$Project"]))


@dataclass(frozen=True)
class Scenario:
    """One row."""

    name: str
    begin: Callable[[Stage], object]
    """Fills both accounts, and sets how the servers behave."""
    changes: Sequence[Callable[[Stage], object]] = ()
    """What happens between passes; each is followed by a pass."""
    chapter: int = 0
    """The pass in which runs die: the one before the first change is 0."""
    halfway: int = 0
    """Another run has already died at this step."""
    passes: int = 1
    """So many passes that end well it takes: what comes in mid-run is for the next one."""
    causes: Collection[str] = ()
    """What may end a pass that is then tried again."""
    issues: Mapping[str, int] = field(default_factory=dict)
    """How many messages may stay behind at most, by the cause that the ledger names."""
    stored: Callable[[Look], Look] = lambda look: look
    """What the target makes of a message."""
    kept: Sequence[Look] = ()
    """What is at the target besides."""
    optional: Counter[Look] = field(default_factory=Counter)
    """What may be there besides: it was at the source for a while."""
    sends_again: bool = False
    """Whether what the ledger had confirmed may go out once more."""
    twice_if_said: bool = False
    """Whether a message may be there twice where the ledger says of how many that is so."""
    repair: Repair = "never"

    every_step: bool = False
    """Whether runs die at all steps, not only at those after which another process finds something changed."""

    def expected(self, stage: Stage, left: Collection[tuple[str, int]]) -> tuple[Counter[Look], Counter[Look]]:
        """What has to be at the target when these stay behind (source folder, UID), and what may be."""
        there = [self.stored(look) for look, uid in stage.at_source() if (look.folder, uid) not in left]
        return Counter([*there, *self.kept]), self.optional


def whole(scenario: Scenario, steps: Sequence[str]) -> Sequence[int]:
    """Every step."""
    return range(1, len(steps) + 1)


def usual(scenario: Scenario, steps: Sequence[str]) -> Sequence[int]:
    """Every step of the plain scenarios; of the others a fourth of those that change something, few of the rest."""
    if scenario.every_step:
        return whole(scenario, steps)
    changing = [number for number, step in enumerate(steps, 1) if step in CHANGING]
    reading = [number for number, step in enumerate(steps, 1) if step not in CHANGING]
    turn = len(scenario.name)
    return sorted([*changing[turn % 4 :: 4], *reading[turn % 16 :: 16]])


def few(scenario: Scenario, steps: Sequence[str]) -> Sequence[int]:
    """Two: within what is sent, and one that is another for each scenario."""
    sent = [number for number, step in enumerate(steps, 1) if step == steps_module.WRITTEN["target"]]
    return sorted({sent[len(sent) * 2 // 3], 1 + sum(scenario.name.encode()) % len(steps)})


def small(stage: Stage) -> None:
    """Some folders with some mail each."""
    deliver(stage.source.folder("INBOX"), 0, 1, 2, 3, 4, 5)
    deliver(stage.source.create("Work"), 6, 7, 8)
    deliver(stage.source.create("计划"), 9)


def equal_messages(stage: Stage) -> None:
    deliver(stage.source.folder("INBOX"), 0, 1, 1, 1, 2, 1)
    deliver(stage.source.create("Work"), 1, 0, 1)


def twins(stage: Stage) -> None:
    """Equal messages, and some that lack the final line end, each with a date and flags of its own."""
    for folder in (stage.source.folder("INBOX"), stage.source.create("Work")):
        for number in range(9):
            raw = mail(number % 2) if number % 3 else mail(number % 2).removesuffix(b"\r\n")
            folder.deliver(raw, moment(number), [["\\Seen"], ["\\Flagged", "\\Answered"], []][number % 4 % 3])


ODD = {
    "no Message-ID": b"Subject: none\r\n\r\nbody\r\n",
    "bare LF": b"Message-ID: <lf@old.example>\nSubject: lf\n\nbody\n",
    "NUL": b"Message-ID: <nul@old.example>\r\nSubject: nul\r\n\r\na\0b\r\n",
    "8-bit header": b"Message-ID: <8bit@old.example>\r\nSubject: " + "标题".encode("gbk") + b"\r\n\r\nbody\r\n",
    "no final line end": b"Message-ID: <end@old.example>\r\nSubject: end\r\n\r\nbody",
    "no header": b"\r\nbody\r\n",
    "looks like IMAP": b"Subject: x\r\n\r\nB1 OK done {5}\r\n* BYE\r\n",
}


def refusal(raw: bytes) -> str | None:
    """What a strict server says to a message."""
    if b"\0" in raw:
        return "Message contains NUL characters"
    if raw.count(b"\n") != raw.count(b"\r\n"):
        return "Message contains bare newlines"
    if not raw.partition(b"\r\n\r\n")[0].isascii():
        return "Message contains non-ASCII characters in headers"
    return (
        None if raw.endswith(b"\r\n") else "[CLIENTBUG] APPEND Additional arguments found after last expected argument"
    )


def mended(each: Look) -> Look:
    """A message as it arrives where those that are refused are repaired."""
    words = refusal(each.raw) if each.raw else "Can't save a zero byte message"
    found = repaired(each.raw, words) if words else None
    return each._replace(raw=found.raw) if found else each


def odd_messages(stage: Stage, *, empty: bool = False, refuse: Callable[[bytes], str | None] | None = None) -> None:
    stage.new.behaviour.refuse_message = refuse
    inbox = stage.source.folder("INBOX")
    for number, raw in enumerate(ODD.values()):
        inbox.deliver(raw, moment(number))
        inbox.deliver(raw, moment(number))
    if empty:
        inbox.deliver(b"", moment(20))
    deliver(stage.source.create("Work"), 6)


def mail_at_the_target(stage: Stage) -> None:
    small(stage)
    deliver(stage.target.folder("INBOX"), 3, 50)
    deliver(stage.target.create("Work"), 51)


def many_folders(stage: Stage) -> None:
    for number in range(8):
        deliver(stage.source.create(f"Folder {number:02}/下级"), number, number + 1)


def during(*events: Event) -> Callable[[Stage], None]:
    def begin(stage: Stage) -> None:
        small(stage)
        stage.events = list(events)

    return begin


def behaving(side: str, **switches: object) -> Callable[[Stage], None]:
    def begin(stage: Stage) -> None:
        small(stage)
        for name, value in switches.items():
            setattr((stage.old if side == "source" else stage.new).behaviour, name, value)

    return begin


def failing(side: str, fault: Fault) -> Callable[[Stage], None]:
    """A fault keeps count: every case gets one of its own."""

    def begin(stage: Stage) -> None:
        small(stage)
        (stage.old if side == "source" else stage.new).behaviour.faults.append(replace(fault))

    return begin


def both_break(stage: Stage) -> None:
    """What the target has got is stored when the next connection looks; the source's end ends the transfer."""
    small(stage)
    stage.old.behaviour.faults.append(Fault("FETCH", Action.DROP_BEFORE, nth=5))
    stage.new.behaviour.faults.append(Fault("APPEND", Action.STORE_LATE, nth=2, looks=2))


def of(stage: Stage, side: str) -> Account:
    return stage.source if side == "source" else stage.target


def renumber(stage: Stage, *, side: str) -> None:
    of(stage, side).folder("INBOX").change_uidvalidity()


def renumber_by_new_folder(stage: Stage, *, side: str) -> None:
    """Delete a folder and make it anew: other UIDs, and at the target no mail."""
    account = of(stage, side)
    account.delete(account.folder("Work"))
    account.create("Work")


def rename(stage: Stage) -> None:
    stage.source.rename(stage.source.folder("Work"), "Work 2023")


def moved_marked_and_deleted(stage: Stage) -> None:
    """Two messages are moved, one of them into a new folder, one gets another flag, and one goes away."""
    inbox = stage.source.folder("INBOX")
    for uid, into in ((2, stage.source.folder("Work")), (3, stage.source.create("Later"))):
        message = inbox.get(uid)
        assert message
        into.deliver(message.raw, message.internal_date, message.flags)
    inbox.expunge([2, 3, 5])
    inbox.set_flags(1, ["\\Flagged"])


def new_mail(stage: Stage) -> None:
    deliver(stage.source.folder("INBOX"), 20, 21)
    deliver(stage.source.folder("Work"), 20)


def expunge(stage: Stage) -> None:
    stage.source.folder("INBOX").expunge([2, 4])


def raise_quota(stage: Stage) -> None:
    stage.new.behaviour.quota_bytes = None


def rewritten(raw: bytes) -> bytes:
    return b"X-Filtered: yes\r\n" + raw


def is_poison(raw: bytes) -> bool:
    return b"number 3\r\n" in raw


WORK = Counter([look("Work", 6), look("Work", 7), look("Work", 8)])

_ROWS = [
    Scenario("first copy", small, every_step=True),
    Scenario("over what an earlier run half did", small, halfway=120),
    Scenario("equal messages", equal_messages),
    Scenario("equal messages of different dates and flags", twins),
    Scenario("odd messages", odd_messages),
    Scenario(
        "a message without octets",
        partial(odd_messages, empty=True),
        issues={"invalid_message": 1},
    ),
    Scenario(
        "odd messages refused",
        partial(odd_messages, empty=True, refuse=refusal),
        issues={"invalid_message": 9},
    ),
    Scenario(
        "odd messages refused, then repaired",
        partial(odd_messages, empty=True, refuse=refusal),
        repair="refused",
        stored=lambda each: mended(each),
    ),
    Scenario(
        "mail at the target before",
        mail_at_the_target,
        kept=[look("INBOX", 50), look("Work", 51)],
    ),
    Scenario("many folders", many_folders),
    # Something happens at the source
    Scenario("new mail in mid-run", during(Event("source", "FETCH", new_mail, 3)), passes=2),
    Scenario("new mail between runs", small, [new_mail], chapter=1, every_step=True),
    Scenario(
        "expunged in mid-run",
        during(Event("source", "FETCH", expunge, 4)),
        optional=Counter([look("INBOX", 1), look("INBOX", 3)]),
        passes=2,
    ),
    Scenario(
        "folder deleted in mid-run",
        during(Event("source", "FETCH", lambda stage: stage.source.delete(stage.source.folder("Work")), 4)),
        optional=WORK,
        passes=2,
        causes={"connection_dropped", "folder_missing", "mailbox_unavailable"},
    ),
    Scenario(
        "folder renamed in mid-run",
        during(Event("source", "FETCH", rename, 4)),
        optional=WORK,
        passes=2,
        causes={"connection_dropped", "folder_missing", "mailbox_unavailable"},
    ),
    # Where the target cannot move, copies stay where they are, and the ledger says so.
    Scenario("folder renamed between runs", small, [rename], chapter=1, optional=WORK, issues={"moved_at_source": 3}),
    Scenario(
        "moved, marked and deleted between runs",
        small,
        [moved_marked_and_deleted],
        chapter=1,
        kept=[look("INBOX", 4)],
        optional=Counter([look("INBOX", 1), look("INBOX", 2)]),
        issues={"moved_at_source": 2},
    ),
    # UIDVALIDITY
    Scenario("source numbered anew between runs", small, [partial(renumber, side="source")], chapter=1),
    Scenario("target numbered anew between runs", small, [partial(renumber, side="target")], chapter=1),
    Scenario(
        "source numbered anew in mid-run",
        during(Event("source", "FETCH", partial(renumber, side="source"), 4)),
        passes=2,
        causes={"connection_dropped", "folder_missing", "mailbox_unavailable"},
    ),
    Scenario(
        "target numbered anew in mid-run",
        during(Event("target", "APPEND", partial(renumber, side="target"), 2)),
        passes=2,
        causes={"connection_dropped", "folder_missing", "mailbox_unavailable"},
    ),
    Scenario(
        "target folder made anew between runs",
        small,
        [partial(renumber_by_new_folder, side="target")],
        chapter=1,
        sends_again=True,
    ),
    # The source lies
    Scenario("RFC822.SIZE too small", behaving("source", told_size=lambda raw: len(raw) - 7)),
    Scenario("RFC822.SIZE too large", behaving("source", told_size=lambda raw: len(raw) + 7)),
    Scenario("RFC822.SIZE wrong at the target", behaving("target", told_size=lambda raw: len(raw) + 7)),
    # The target does as it likes
    Scenario("APPENDUID absent", behaving("target", appenduid="absent")),
    Scenario("APPENDUID lying", behaving("target", appenduid="lying")),
    Scenario(
        "headers rewritten",
        behaving("target", rewrite=rewritten),
        stored=lambda each: each._replace(raw=rewritten(each.raw)),
    ),
    Scenario("keywords refused", behaving("target", keywords_allowed=False), stored=lambda each: plain(each)),
    Scenario(
        "flags ignored",
        behaving("target", ignore_append_flags=True),
        # They are set afterwards, but for a message that is alone in its folder: it may be the member's doing.
        stored=lambda each: each._replace(flags=frozenset()) if each.folder == "计划" else each,
    ),
    # Room
    Scenario(
        "quota reached, then raised",
        behaving("target", quota_bytes=600),
        [raise_quota],
    ),
    Scenario("quota raised", behaving("target", quota_bytes=600), [raise_quota], chapter=1),
    Scenario(
        "disk full for a while",
        failing("target", Fault("APPEND", Action.NO, nth=2, times=2, text="[SERVERBUG] Internal error occurred")),
        causes={"mailbox_unavailable"},
    ),
    # A lost session goes on storing
    Scenario(
        "stored while the next one looks",
        failing("target", Fault("APPEND", Action.STORE_LATE, nth=2, looks=2)),
    ),
    Scenario("source lost while the target is storing", both_break),
    Scenario(
        "stored after the pass",
        failing("target", Fault("APPEND", Action.STORE_LATE, nth=2)),
        [lambda stage: stage.new.store_late()],
        twice_if_said=True,
    ),
    # A message that no connection survives
    Scenario(
        "poison at the target",
        behaving("target", poison=is_poison),
        issues={"connection_dropped": 1},
    ),
    Scenario(
        "poison at the source",
        behaving("source", poison=is_poison),
        issues={"source_unreadable": 1},
    ),
]


def plain(each: Look) -> Look:
    return each._replace(flags=frozenset(flag for flag in each.flags if flag.startswith("\\")))


def _answers() -> Iterator[Scenario]:
    """A command fails once."""
    for side, verb in [
        ("target", "APPEND"),
        ("source", "FETCH"),
        ("target", "FETCH"),
        ("source", "EXAMINE"),
        ("target", "SELECT"),
    ]:
        for action in (Action.NO, Action.BAD, Action.BYE):
            yield Scenario(
                f"{action.value} to {verb} at the {side}",
                failing(side, Fault(verb, action, nth=2)),
                causes={
                    *("unclassified", "client_bug", "connection_dropped", "mailbox_unavailable", "server_fault"),
                    *("folder_missing", "protocol_unsupported", "source_unreadable"),
                },
                # Where each message has a command of its own, a refusal without a reason is that message's.
                issues={"unclassified": 1} if verb == "APPEND" and action is not Action.BYE else {},
            )


SCENARIOS = {row.name: row for row in (*_ROWS, *_answers())}
