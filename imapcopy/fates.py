"""What happens to a message in every situation: one table, asked by the steps of a pass. Pure.

Each row names the facts it needs; a fact that it leaves open may be anything. Every combination of facts is met by
exactly one row (a test counts), so the order of the rows means nothing, and docs/architecture.md shows the same table.
A fate is the next thing that happens: what is not known yet is asked for before anything else is decided.
"""

from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import NamedTuple

from models.ledger_rows import BatchKind, BatchRecord, BatchState


class Source(StrEnum):
    """What the source's server shows of a message in this pass. EXISTS says what there is, not the scan."""

    UNASKED = "not asked"
    """Its folder was not looked at, or could not be opened."""
    COUNTED = "counted"
    """EXISTS counts it, and no answer tells which it is."""
    PARTLY = "partly told"
    """Its UID is told; of flags, date and size something is not. That is not the same as none."""
    HIDDEN = "hidden"
    """Counted, asked for once more and alone, and never told."""
    VAGUE = "vague"
    """Partly told, and no more when it was asked for again: it can be read, by its UID."""
    TOLD = "told"
    LEFT = "left"
    """The ledger knows it and the folder does not show it any more: moved or deleted."""


class Known(StrEnum):
    """What the ledger knows of it, in this folder."""

    NEW = "new"
    INTENDED = "intended"
    SENT = "sent"
    """Confirmed or adopted, and not read back yet."""
    VERIFIED = "verified"
    """Read back."""
    ADOPTED = "adopted"
    """Was there before us, and has been looked for since."""
    ISSUE = "issue"


class Copy(StrEnum):
    """What the target shows of it: under its UID; of what has none yet, an equal one that stands for nothing."""

    UNASKED = "not asked"
    UNTOLD = "not told"
    """Asked for, and the answer is refused or says nothing of it: that is not the same as absent."""
    ABSENT = "absent"
    EQUAL = "equal"
    ALTERED = "altered"


class Departed(StrEnum):
    """Of an equal message that was brought over from elsewhere and has left its place: how its copy fares."""

    NONE = "none"
    """There is no such message."""
    IN_PLACE = "in place"
    """It lies in the right folder already."""
    MOVABLE = "movable"
    """Untouched, and the target can move it."""
    FIXED = "fixed"
    """The member has touched it, or the target cannot move it."""
    REMOVED = "removed"
    """The member has removed it."""
    UNTOLD = "not told"
    """Its folder cannot be opened now."""


class Fate(StrEnum):
    """What happens next."""

    NOTHING = "nothing"
    ASK_AGAIN = "ask again"
    LEAVE_OUT = "leave out"
    """It is older than what is to be moved."""
    SEND = "send"
    LOOK_UP = "look up"
    """See what the target holds before anything is sent."""
    CONFIRM = "confirm"
    ADOPT = "adopt"
    READ_BACK = "read back"
    SEND_AGAIN = "send again"
    TELL = "tell"
    """Count and name what the target's server made of it."""
    REBIND = "rebind"
    """The copy stands for the message under its new UID."""
    MOVE = "move"
    """The copy follows."""
    GIVE_UP = "give up"
    """An issue: hidden at the source, too large, or moved there without its copy."""
    FORGET = "forget"
    """The ledger knows of it no more."""
    GONE = "gone"
    """Count it as departed; the copy stays."""
    WAIT = "wait"
    """Nothing may be concluded now: the folder fails, and the next pass asks again."""


class Situation(NamedTuple):
    """The facts about one message; what was not looked at yet has its default."""

    source: Source
    known: Known = Known.NEW
    wanted: bool = True
    """It is not older than what is to be moved; one without a usable date is always wanted."""
    copy: Copy = Copy.UNASKED
    fits: bool = True
    """The target may take one of that size."""
    departed: Departed = Departed.NONE


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table; None leaves a fact open."""

    fate: Fate
    why: str
    source: Collection[Source] | None = None
    known: Collection[Known] | None = None
    wanted: bool | None = None
    copy: Collection[Copy] | None = None
    fits: bool | None = None
    departed: Collection[Departed] | None = None

    def meets(self, at: Situation) -> bool:
        return (
            (self.source is None or at.source in self.source)
            and (self.known is None or at.known in self.known)
            and self.wanted in (None, at.wanted)
            and (self.copy is None or at.copy in self.copy)
            and self.fits in (None, at.fits)
            and (self.departed is None or at.departed in self.departed)
        )


_HERE = (Source.TOLD, Source.VAGUE)
_HERE_OR_LEFT = (*_HERE, Source.LEFT)
_THERE = (Copy.EQUAL, Copy.ALTERED)
_NEW = (Known.NEW,)
_INTENDED = (Known.INTENDED,)
_SENT = (Known.SENT,)
_SETTLED = (Known.VERIFIED, Known.ADOPTED)

TABLE: tuple[Row, ...] = (
    Row(Fate.NOTHING, "nothing is concluded about a folder that was not looked at", [Source.UNASKED]),
    Row(Fate.ASK_AGAIN, "what the server holds is what counts", [Source.COUNTED, Source.PARTLY]),
    Row(Fate.GIVE_UP, "`message_hidden`: no command can name it", [Source.HIDDEN]),
    # New here
    Row(Fate.LEAVE_OUT, "older than what is to be moved", _HERE, _NEW, wanted=False),
    Row(Fate.LOOK_UP, "mail that was there before is not doubled", _HERE, _NEW, True, [Copy.UNASKED]),
    Row(Fate.WAIT, "it may be there", _HERE, _NEW, True, [Copy.UNTOLD]),
    Row(Fate.ADOPT, "an equal one that stands for nothing", _HERE, _NEW, True, _THERE),
    Row(Fate.GIVE_UP, "`message_too_large`", _HERE, _NEW, True, [Copy.ABSENT], fits=False),
    Row(Fate.SEND, "", _HERE, _NEW, True, [Copy.ABSENT], True, [Departed.NONE]),
    Row(Fate.REBIND, "it left and came back", _HERE, _NEW, True, [Copy.ABSENT], True, [Departed.IN_PLACE]),
    Row(Fate.MOVE, "the copy follows", _HERE, _NEW, True, [Copy.ABSENT], True, [Departed.MOVABLE]),
    Row(
        Fate.GIVE_UP,
        "`moved_at_source`: what the member did stays",
        *(_HERE, _NEW, True, [Copy.ABSENT], True, [Departed.FIXED, Departed.REMOVED]),
    ),
    Row(
        Fate.WAIT,
        "whether the member removed the copy cannot be told",
        *(_HERE, _NEW, True, [Copy.ABSENT], True, [Departed.UNTOLD]),
    ),
    # Intended
    Row(Fate.LOOK_UP, "it may have arrived", _HERE_OR_LEFT, _INTENDED, copy=[Copy.UNASKED]),
    Row(Fate.WAIT, "it may have arrived", _HERE_OR_LEFT, _INTENDED, copy=[Copy.UNTOLD]),
    Row(Fate.CONFIRM, "it has arrived", _HERE_OR_LEFT, _INTENDED, copy=_THERE),
    Row(Fate.SEND, "it never arrived", _HERE, _INTENDED, True, [Copy.ABSENT]),
    Row(Fate.FORGET, "it never arrived, and is not wanted any more", _HERE, _INTENDED, False, [Copy.ABSENT]),
    Row(Fate.FORGET, "it never arrived, and has left", [Source.LEFT], _INTENDED, copy=[Copy.ABSENT]),
    # Sent
    Row(Fate.READ_BACK, "OK is no proof", _HERE_OR_LEFT, _SENT, copy=[Copy.UNASKED]),
    Row(Fate.WAIT, "not told is not absent", _HERE_OR_LEFT, _SENT, copy=[Copy.UNTOLD]),
    Row(Fate.NOTHING, "verified", _HERE, _SENT, copy=[Copy.EQUAL]),
    Row(Fate.TELL, "the server altered it", _HERE, _SENT, copy=[Copy.ALTERED]),
    Row(Fate.SEND_AGAIN, "OK was said, and it is not there", _HERE, _SENT, True, [Copy.ABSENT]),
    Row(Fate.FORGET, "not there, and not wanted any more", _HERE, _SENT, False, [Copy.ABSENT]),
    Row(Fate.FORGET, "not there, and has left", [Source.LEFT], _SENT, copy=[Copy.ABSENT]),
    Row(Fate.GONE, "nothing is deleted at the target", [Source.LEFT], _SENT, copy=_THERE),
    # Read back before, or there before us
    Row(Fate.NOTHING, "whatever became of its copy is the member's doing", _HERE, _SETTLED),
    Row(Fate.GONE, "nothing is deleted at the target", [Source.LEFT], _SETTLED),
    # Not there
    Row(Fate.NOTHING, "it came and went", [Source.LEFT], _NEW),
    Row(Fate.NOTHING, "it stays behind until its issue is tried again", _HERE, [Known.ISSUE]),
    Row(Fate.FORGET, "the message that stayed behind has left", [Source.LEFT], [Known.ISSUE]),
)


def known_as(batch: BatchRecord, *, read_back: bool) -> Known:
    """What the ledger knows of the messages of a batch; `read_back` if this pass has come to verify it."""
    if batch.state == BatchState.INTENDED:
        return Known.INTENDED
    if batch.state == BatchState.CONFIRMED and not read_back:
        return Known.SENT
    return Known.ADOPTED if batch.kind == BatchKind.ADOPTED else Known.VERIFIED


@cache
def fate(situation: Situation) -> Fate:
    """What happens next to a message in that situation."""
    [row] = [row for row in TABLE if row.meets(situation)]
    return row.fate
