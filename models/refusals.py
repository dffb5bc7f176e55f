"""What an account's server answered to its sign-in: when it may be tried again, and when no more. All pure.

Servers lock an account after a few wrong passwords, and an admin may start a wave as often as they like. So a refusal
is remembered with the member, by side, until a sign-in succeeds, the password changes, or somebody asks for a retry.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

OF_THE_ACCOUNT = frozenset(
    {
        *("bad_credentials", "app_password_required", "ambiguous_login", "no_such_user"),
        *("account_locked", "password_expired", "web_login_required"),
    }
)
"""Answers to a sign-in that count against the account."""
APART = timedelta(minutes=5)
"""Refusals that are nearer to each other prove no more than one."""
AMBIGUOUS_APART = timedelta(minutes=30)
CORROBORATED = 3
"""So many refusals of one kind stop a mailbox that has worked, or whose server does not say why."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """What one account was answered, how often, and when last."""

    cause: str
    times: int
    at: datetime
    parked: bool

    @property
    def not_before(self) -> datetime:
        """When the account may be tried again."""
        return self.at + (AMBIGUOUS_APART if self.cause == "ambiguous_login" else APART)


def refused(before: Refusal | None, cause: str, at: datetime, *, worked: bool) -> Refusal:
    """The refusals of an account with this one; `worked`: a sign-in has succeeded before."""
    times = 1
    if before is not None and before.cause == cause:
        times = before.times + (at - before.at >= APART)
    enough = CORROBORATED if worked or cause == "ambiguous_login" else 1
    return Refusal(cause, times, at, times >= enough)


def read_refusals(text: str) -> dict[str, Refusal]:
    """The refusals of a member by side, as they are kept in its row."""
    return {
        side: Refusal(kept["cause"], kept["times"], datetime.fromisoformat(kept["at"]), kept["parked"])
        for side, kept in (json.loads(text) if text else {}).items()
    }


def write_refusals(refusals: Mapping[str, Refusal]) -> str:
    """The same as text, "" where there is none."""
    if not refusals:
        return ""
    return json.dumps(
        {
            side: {"cause": each.cause, "times": each.times, "at": each.at.isoformat(), "parked": each.parked}
            for side, each in sorted(refusals.items())
        }
    )


def is_parked(refusals: Mapping[str, Refusal]) -> bool:
    """Whether the member is not to be tried by itself any more."""
    return any(each.parked for each in refusals.values())


def not_before(refusals: Mapping[str, Refusal]) -> datetime | None:
    """When both accounts may be tried again, None for any time."""
    return max((each.not_before for each in refusals.values()), default=None)
