"""Whose doing it is that a copy has other flags than it was sent with: the server's, or the member's. Pure.

What is marked between our APPEND and our read-back looks like what a server makes of flags. But a server that sets a
flag sets it on every message, and a member does not.
"""

from collections.abc import Mapping
from typing import NamedTuple

from imapcopy.twins import folded
from models.flag_sets import Flags


class Marked(NamedTuple):
    """The flags with which a message was sent, and those of its copy now; None when it is not there any more."""

    sent: Flags
    now: Flags | None


def by_the_member(told: Mapping[int, Marked], others: Mapping[int, Marked]) -> set[int]:
    """Those of the messages told as altered of which the member is seen to be the cause, by source UID.

    | the copy now                                  | whose doing                                             |
    |-----------------------------------------------|---------------------------------------------------------|
    | is not there                                  | the member's, who has removed it                        |
    | has the flags it was sent with                | nobody's any more                                       |
    | lacks a flag                                  | the server's: it may have refused it                    |
    | has a flag more, as all that were sent without| the server's                                            |
    | has a flag more, and another one has not, or  | the member's                                            |
    | there is no other one                         |                                                         |
    """
    every = {**others, **told}

    def is_set_by_the_server(flag: str, uid: int) -> bool:
        without = [
            each.now
            for other, each in every.items()
            if other != uid and each.now is not None and flag not in folded(each.sent)
        ]
        return bool(without) and all(flag in folded(now) for now in without)

    found = set()
    for uid, (sent, now) in told.items():
        if now is None:
            found.add(uid)
        elif folded(sent) <= folded(now):
            more = folded(now) - folded(sent)
            if not any(is_set_by_the_server(flag, uid) for flag in more):
                found.add(uid)
    return found
