"""Counts what an opened folder holds: EXISTS says how many messages there are, and the scan has to bring as many.

A scan that brings everything costs nothing more. Else what was told in part is asked for again; what is counted and was
not told is scanned by message number, and then in halves, so that one message that a server cannot list does not hide
the others. What still does not show is named by its number.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from imapcopy import grammar
from imapcopy.dialogue import Dialogue
from imapcopy.errors import HOST_BUSY, FolderError, MessageError, MigrationError, Refused
from imapcopy.flight import SCAN_ITEMS, uid_sets
from imapcopy.limits import ATTRIBUTES_WEIGH, KEYWORDS_WEIGH
from imapcopy.responses import Selected
from imapcopy.scan_answers import Answers

LABELLED_SCAN_ITEMS = SCAN_ITEMS[:-1] + b" X-GM-LABELS)"
FRUITLESS = 100
"""So many commands that bring nothing are made for one folder, and one more for each message that did come."""
COUNTS = 3
"""So often a folder is counted that changes while it is."""

_MAY_BE_ONE_MESSAGE = {"mailbox_unavailable", "client_bug", "protocol_unsupported", "unclassified"}
"""Besides what is said of a message: how servers refuse a whole scan for the sake of one."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """A message that EXISTS counts and no answer tells of."""

    number: int
    """Its message number: the place in the folder, from 1."""
    words: str = ""
    """What the server says when it is asked for."""
    twin_of: int = 0
    """The UID that it shares with another message."""
    known_by: str = ""
    cause: str = "message_hidden"

    @property
    def told(self) -> str:
        """What is known of it."""
        twin = f"UID {self.twin_of} is also that of another message" if self.twin_of else ""
        return ": ".join(part for part in (f"message {self.number}", twin, self.words) if part)


@dataclass(frozen=True, slots=True)
class Counted:
    """A folder as it was counted."""

    answers: Answers
    hidden: tuple[Hidden, ...] = ()


def failure_of_folder(dialogue: Dialogue, refused: Refused) -> MigrationError:
    """What a refused FETCH over a whole folder means: elsewhere the same words may mean one message."""
    failure = dialogue.failure(refused, "fetch", grammar.decode_mailbox(dialogue.selected))
    return failure.told_as(FolderError) if isinstance(failure, MessageError) else failure


def may_be_one_message(failure: MigrationError) -> bool:
    """Whether a scan may have been refused for the sake of a single message."""
    return isinstance(failure, FolderError) or failure.cause_id in _MAY_BE_ONE_MESSAGE


def scan(dialogue: Dialogue, which: bytes, answers: Answers, items: bytes = SCAN_ITEMS) -> None:
    """Ask about messages (`UID FETCH 1:*`, `FETCH 3`) and note the answers; raises Refused."""
    read_scan(dialogue, dialogue.send(which + b" " + items), answers)


def read_scan(dialogue: Dialogue, tag: bytes, answers: Answers) -> None:
    """Note the answers to a scan that has been sent; raises Refused, and keeps what came before."""
    try:
        times = ATTRIBUTES_WEIGH if answers.asks_for_labels else KEYWORDS_WEIGH
        for _ in dialogue.answers(tag, answers.take, of_mail=False, times=times):
            pass
    finally:
        answers.settle()


def fill(dialogue: Dialogue, answers: Answers, items: bytes = SCAN_ITEMS) -> None:
    """Ask again for what was told in part, then for each item alone; what is refused or not told then stays so."""
    if not answers.partly:
        return
    _ask_again(dialogue, answers, answers.partly, items)
    for item, uids in answers.lacking().items():
        _ask_again(dialogue, answers, uids, b"(UID %b)" % item.encode())


def _ask_again(dialogue: Dialogue, answers: Answers, uids: Iterable[int], items: bytes) -> None:
    for uid_set, _ in uid_sets(uids):
        try:
            scan(dialogue, b"UID FETCH " + uid_set, answers, items)
        except Refused as refused:
            if (failure := failure_of_folder(dialogue, refused)).cause_id in HOST_BUSY:
                raise failure from None


class _Changed(Exception):
    """Messages have left while they were counted: the numbers mean others now."""


def count(dialogue: Dialogue, opened: Selected, before: Answers | None = None, *, labels: bool = False) -> Counted:
    """Count the folder that is open, by message number; `before` is what a scan by UID has told since it was opened."""
    exists = before.exists if before else opened.messages
    for _ in range(COUNTS):
        fresh = Answers(exists, labels=labels, numbered=True)
        try:
            return _counted(dialogue, fresh, before)
        except _Changed:
            exists = fresh.exists
    raise FolderError("mailbox_unavailable", dialogue.side, "", where=grammar.decode_mailbox(dialogue.selected))


def _counted(dialogue: Dialogue, answers: Answers, before: Answers | None) -> Counted:
    # Until then some servers show a folder as it was.
    for response in dialogue.collected(dialogue.send(b"NOOP"), "list", grammar.decode_mailbox(dialogue.selected)):
        answers.take(response)
    answers.expunged = False
    items = LABELLED_SCAN_ITEMS if answers.asks_for_labels else SCAN_ITEMS
    exists = answers.exists
    failures = _halve(dialogue, answers, exists, items)
    if before and (others := before.uids - answers.uids):
        # Told before, and by number not: what is still there is told again by its UID.
        _ask_again(dialogue, answers, others, items)
    fill(dialogue, answers, items)
    if answers.expunged:
        raise _Changed
    short = max(0, exists - len(answers))
    if short == exists > 1 and failures:
        # Not one of them could be listed: that is the folder, not its messages.
        raise next(iter(failures.values()))
    missing = [number for number in range(1, exists + 1) if number not in answers.numbers]
    numbers = sorted([*answers.twins, *missing])[:short]
    return Counted(answers, tuple(_hidden(dialogue, answers, number, failures.get(number)) for number in numbers))


def _halve(dialogue: Dialogue, answers: Answers, exists: int, items: bytes) -> dict[int, MigrationError]:
    """Ask for messages by number, and for those that do not come in halves; returns why, by the first number of each
    part that was refused and not cut any more.
    """
    failures: dict[int, MigrationError] = {}
    asked: deque[Sequence[int]] = deque([range(1, exists + 1)] if exists else [])
    fruitless = 0
    while asked:
        some = asked.popleft()
        told = len(answers)
        failure = _ask_numbers(dialogue, answers, some, items)
        if answers.expunged:
            raise _Changed
        brought = len(answers) - told
        fruitless += -brought if brought else 1
        left = [number for number in some if number not in answers.numbers]
        if not left or len(answers) >= exists:
            continue
        if len(some) == 1 or fruitless >= FRUITLESS:
            if failure:
                failures[some[0]] = failure
        elif failure is None and len(left) < len(some):
            # What an answer with OK has left out is asked for once more before it is cut.
            asked.append(left)
        else:
            asked += _halves(left)
    return failures


def _halves(numbers: Sequence[int]) -> list[Sequence[int]]:
    middle = len(numbers) // 2
    return [part for part in (numbers[:middle], numbers[middle:]) if part]


def _ask_numbers(dialogue: Dialogue, answers: Answers, numbers: Iterable[int], items: bytes) -> MigrationError | None:
    """Why some of them were not listed, if that may be for the sake of one; any other failure is raised."""
    failure = None
    for number_set, _ in uid_sets(numbers):
        try:
            scan(dialogue, b"FETCH " + number_set, answers, items)
        except Refused as refused:
            failure = failure_of_folder(dialogue, refused)
            if not may_be_one_message(failure):
                raise failure from None
    return failure


def _hidden(dialogue: Dialogue, answers: Answers, number: int, failure: MigrationError | None) -> Hidden:
    if line := answers.unreadable.get(number):
        return Hidden(number, dialogue.account.redacted(line), cause="unreadable_answer")
    if twin := answers.twins.get(number):
        return Hidden(number, twin_of=twin)
    return Hidden(number, failure.server_text, known_by=failure.known_by) if failure else Hidden(number)
