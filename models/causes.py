"""The causes of failure, with whose turn it is and what to do, from `causes.toml`.

A cause is the class of a failure, never a server's own words; those are kept beside it as the technical detail.
"""

import tomllib
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Literal, get_args

from models.bilingual import Text

Owner = Literal["member", "admin", "provider", "support", "nobody"]
Reach = Literal["message", "folder", "member", "host"]
Side = Literal["source", "target"]
SIDES: tuple[Side, ...] = get_args(Side)

OWNERS: dict[Owner, Text] = {
    "member": Text("成员处理", "member's turn"),
    "admin": Text("管理员处理", "admin's turn"),
    "provider": Text("等待服务商", "provider's turn"),
    "support": Text("联系支持人员", "ask support"),
    "nobody": Text("无需处理", "nothing to do"),
}


@dataclass(frozen=True, slots=True)
class Retry:
    """When something is tried again that failed for a cause: after `first` seconds, then twice as long each time."""

    first: float
    most: float
    """Seconds; no pause is longer."""
    tries: int
    """How often it is tried in one run, the first time included."""


@dataclass(frozen=True, slots=True)
class Cause:
    """One class of failure."""

    id: str
    title: Text
    owner: Owner
    reach: Reach
    retry: Retry | None
    """None: trying again without somebody's action cannot succeed."""
    advice: Text
    step: str = ""
    """Which of a provider's own steps (`Provider.steps`) cures it."""
    at_side: tuple[tuple[Side, Owner, Text], ...] = ()
    """Whose turn it is and what to do on a side where that differs."""
    harmless: bool = False
    """The message has its copy, or the member did away with it: nothing is missing and nobody has to look."""

    @property
    def retryable(self) -> bool:
        """Trying again without anybody's action may succeed."""
        return self.retry is not None

    def at(self, side: str) -> "Cause":
        """The same cause as it is on a side; "" where the side is not known."""
        for own, owner, advice in self.at_side:
            if own == side:
                return replace(self, owner=owner, advice=advice)
        return self


@cache
def causes() -> dict[str, Cause]:
    """Every cause by its id."""
    rows = tomllib.loads((files("models") / "causes.toml").read_text(encoding="utf-8"))
    return {
        name: Cause(
            id=name,
            title=Text(**row["title"]),
            owner=row["owner"],
            reach=row["reach"],
            retry=Retry(**row["retry"]) if "retry" in row else None,
            advice=Text(row["advice_zh"], row["advice_en"]),
            step=row.get("step", ""),
            at_side=tuple(
                (side, row[side].get("owner", row["owner"]), Text(row[side]["advice_zh"], row[side]["advice_en"]))
                for side in SIDES
                if side in row
            ),
            harmless=row.get("harmless", False),
        )
        for name, row in rows.items()
    }


@cache
def harmless_causes() -> frozenset[str]:
    """Ids of the causes for which a member does not need attention."""
    return frozenset(name for name, each in causes().items() if each.harmless)


def cause(name: str) -> Cause:
    """The cause of that id; an id of a later version reads as unclassified."""
    return causes().get(name) or causes()["unclassified"]
