"""Makes the folders that the target lacks, and finds out what became of them.

A server may refuse a name; it may answer OK and make another one, or show the folder only seconds later; and two names
may be one folder there. Nothing is asked for that beyond CREATE and SUBSCRIBE unless a folder that was made cannot be
opened, or two names look like one.
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TypeGuard

from imapcopy.endpoint import Endpoint
from imapcopy.errors import HOST_BUSY, ConnectionLost, FolderError, MigrationError, is_of_the_folder
from imapcopy.folders import FolderPair, FolderPlan, Place, is_inbox
from imapcopy.grammar import encode_mailbox
from imapcopy.responses import FolderStatus, Selected
from imapcopy.target_connection import TargetConnection

Landed = Mapping[str, Selected | MigrationError]
"""What SELECT told of a target folder, by name."""

_LOOKS = (0.0, 0.5, 1.0, 2.0, 4.0)
"""Seconds before each look for a folder that was made and cannot be opened."""
_LOOKS_AT_OTHERS = (0.0, 0.5)
"""The same for the next names."""
_ROUNDS = 40
"""So often other names are tried; each way to make one has had its turn long before."""
_SIGNS = re.compile(r"[\W_]+")
_SHORTEST_CUT = 12
"""Letters and figures that a name must share with a longer one to be taken for what a server has cut it to."""


class Created:
    """The plan of a mailbox as the target carries it out; `refused` are the answers to names that it has for nobody."""

    def __init__(
        self,
        target: Endpoint[TargetConnection],
        plan: FolderPlan,
        before: Collection[str],
        known: Mapping[str, Place],
        rest: Callable[[float], object],
    ) -> None:
        self.plan = plan
        self.refused: dict[str, FolderError] = {}
        self._target = target
        self._before = before
        """The names that were listed before anything was made."""
        self._known = known
        self._rest = rest
        self._asked: set[str] = set()
        self._twice: set[str] = set()
        """Names that are those of other folders."""
        self._answers: dict[str, FolderError] = {}
        """Of names that were refused."""
        self._first: dict[str, FolderError] = {}
        """By source folder: the answer to the name that it should have had."""

    def make(self) -> None:
        """Create what the target lacks, under other names where it refuses the first."""
        self._create()
        for _ in _LOOKS:
            twice = self._one_by_two_names()
            if not twice:
                break
            self._twice.update(twice)
            self.plan = self.plan.numbered(twice)
            self._create()

    def now(self, pairs: Iterable[FolderPair]) -> list[FolderPair]:
        """The pairs as they are by now."""
        current = {pair.source.name: pair for pair in self.plan.pairs}
        return [current[pair.source.name] for pair in pairs]

    def found(self, pairs: Sequence[FolderPair], landed: Landed) -> Landed:
        """What SELECT tells of those folders among the pairs that were made and did not open; `now` has their names.

        Looks for them in the list, waits for them some seconds, and goes on to the next names.
        """
        lacking = [pair for pair in pairs if pair.create and _is_missing(landed[pair.target_name])]
        found = {pair.target_name: landed[pair.target_name] for pair in lacking}
        looks: Sequence[float] = _LOOKS
        while lacking:
            for seconds in looks:
                self._rest(seconds)
                lacking = self._looked_for(lacking, found)
                if not lacking:
                    return found
            if not self._rename({pair.target_name for pair in lacking}):
                break
            lacking = self.now(lacking)
            looks = _LOOKS_AT_OTHERS
        for pair in lacking:
            error = found.get(pair.target_name)
            said = error.server_text if isinstance(error, MigrationError) else ""
            not_there = FolderError(
                "folder_not_created", "target", f"CREATE: OK; SELECT: {said}", where=pair.target_name
            )
            found[pair.target_name] = self.refused.get(pair.target_name, not_there)
        return found

    def _looked_for(
        self, lacking: Sequence[FolderPair], found: dict[str, Selected | MigrationError]
    ) -> list[FolderPair]:
        """Take over the names that the server has made; the pairs that still cannot be opened."""
        folders = self._target.again(TargetConnection.listing).folders
        shown = {folder.name for folder in folders if folder.selectable and encode_mailbox(folder.name) == folder.raw}
        taken = {pair.target_name for pair in self.plan.pairs}
        new = shown - taken - set(self._before)
        made = {name: made_of(name, new, taken) for name in {pair.target_name for pair in lacking} - shown}
        claims = Counter(made.values())
        for name, its in made.items():
            if its and claims[its] == 1:
                self._take_over(name, its)
        lacking = self.now(lacking)
        names = list(dict.fromkeys(pair.target_name for pair in lacking))
        found |= dict(self._target.each(names, TargetConnection.select_each))
        return [
            pair
            for pair in lacking
            if _is_missing(error := found[pair.target_name])
            # What is listed and refused in other words is there.
            and not (pair.target_name in shown and error.cause_id != "folder_missing")
        ]

    def _take_over(self, name: str, made: str) -> None:
        subscribes = any(pair.subscribe for pair in self.plan.pairs if pair.target_name == name)
        self.plan = replace(
            self.plan,
            pairs=tuple(
                replace(pair, target_name=made, why="made_as") if pair.target_name == name else pair
                for pair in self.plan.pairs
            ),
        )
        self._asked.add(made)
        if subscribes:
            self._target.ask(TargetConnection.create, [], None, [made])

    def _rename(self, names: Collection[str]) -> bool:
        """Go on to the next names, and make them; False where none of these has another."""
        plan = self.plan.renamed({*names, *self._answers, *self._twice})
        if all(now.target_name == before.target_name for now, before in zip(plan.pairs, self.plan.pairs, strict=True)):
            return False
        self.plan = plan
        self._create()
        return True

    def _create(self) -> None:
        for _ in range(_ROUNDS):
            pairs = self.plan.pairs
            names = dict.fromkeys(p.target_name for p in pairs if p.create and p.target_name not in self._asked)
            uses = {pair.target_name: pair.special_use for pair in pairs if pair.special_use}
            subscribe = {pair.target_name for pair in pairs if pair.subscribe} - self._asked
            self._asked.update(names, subscribe)
            if names or subscribe:
                self._answers.update(self._asked_for(list(names), uses, sorted(subscribe)))
            for pair in pairs:
                if pair.target_name in self._answers:
                    self._first.setdefault(pair.source.name, self._answers[pair.target_name])
            again = self.plan.renamed({*self._answers, *self._twice}) if self._answers else self.plan
            if again == self.plan:
                break
            self.plan = again
        refused = (pair for pair in self.plan.pairs if pair.target_name in self._answers)
        self.refused = {pair.target_name: self._first[pair.source.name] for pair in refused}

    def _asked_for(
        self, names: Sequence[str], uses: Mapping[str, str], subscribe: Sequence[str]
    ) -> Mapping[str, FolderError]:
        """Have folders made; where a session ends with that, one by one over as many as it takes."""
        try:
            return self._target.ask(TargetConnection.create, names, uses, subscribe)
        except ConnectionLost as lost:
            if lost.cause_id in HOST_BUSY:
                raise
            self._target.forget()
        refused: dict[str, FolderError] = {}
        # What was created before the session ended exists now, which is no failure.
        for name in dict.fromkeys([*names, *subscribe]):
            new, listed = ([name] if name in some else [] for some in (names, subscribe))
            refused.update(self._target.again(TargetConnection.create, new, uses, listed))
        return refused

    def _one_by_two_names(self) -> list[str]:
        """Names of folders that are to be filled for the first time, and are others that are to be filled too."""
        if all(pair.source.name in self._known for pair in self.plan.pairs):
            return []
        names = dict.fromkeys(pair.target_name for pair in self.plan.pairs)
        alike = [some for some in _alike(names) if not all(self._is_known(name) for name in some)]
        if not alike:
            return []
        asked = [encode_mailbox(name) for some in alike for name in some]
        told = self._target.again(TargetConnection.statuses, asked)
        shown = {folder.name for folder in self._target.again(TargetConnection.listing).folders}
        found: list[str] = []
        for some in alike:
            kept: list[str] = []
            for name in sorted(some, key=lambda name: not self._is_known(name)):
                status = told.get(encode_mailbox(name))
                others = [(other, told.get(encode_mailbox(other))) for other in kept]
                if not any(_is_one(name, other, status, there, shown) for other, there in others):
                    kept.append(name)
                elif not self._is_known(name):
                    found.append(name)
        return found

    def _is_known(self, name: str) -> bool:
        """Whether the ledger has mail there: it stays, and the others go elsewhere."""
        known = (self._known.get(pair.source.name) for pair in self.plan.pairs if pair.target_name == name)
        return is_inbox(name) or any(place and place.target_name == name for place in known)


def made_of(name: str, new: Collection[str], taken: Collection[str]) -> str:
    """Which of the new folders is what a server has made of a name, "" where that is not certain.

    Blanks, signs, accents and case may differ, and the end may be cut off. Pure.
    """
    asked = squeezed(name)
    equal = [each for each in new if asked and squeezed(each) == asked]
    if equal:
        return equal[0] if len(equal) == 1 else ""
    cut = [each for each in new if len(squeezed(each)) >= _SHORTEST_CUT and asked.startswith(squeezed(each))]
    others = [each for each in taken if each != name and cut and squeezed(each).startswith(squeezed(cut[0]))]
    return cut[0] if len(cut) == 1 and not others else ""


def squeezed(name: str) -> str:
    """The letters and figures of a name, without case, accents and all the rest."""
    folded = (name if name.isascii() else unicodedata.normalize("NFKD", name)).casefold()
    return _SIGNS.sub("", folded)


def _alike(names: Iterable[str]) -> list[list[str]]:
    """Names that may be one folder, in the order given: by their letters and figures, below INBOX or beside it."""
    found: dict[str, list[str]] = defaultdict(list)
    for name in names:
        below = name[len("INBOX") :]
        found[squeezed(below if below and is_inbox(name[: len("INBOX")]) and not below[0].isalnum() else name)].append(
            name
        )
    return [some for some in found.values() if len(some) > 1]


def _is_one(name: str, other: str, one: FolderStatus | None, two: FolderStatus | None, shown: Collection[str]) -> bool:
    """Whether two names of the target may be one folder: where that is in doubt one gets another name, which costs no
    mail.
    """
    if one is None or two is None:
        return False
    if one.mailbox_id and two.mailbox_id:
        return one.mailbox_id == two.mailbox_id
    if name in shown and other in shown and not (is_inbox(name[:5]) ^ is_inbox(other[:5])):
        # Two names of one namespace that are both listed.
        return False
    return (one.uidvalidity, one.uidnext, one.messages) == (two.uidvalidity, two.uidnext, two.messages)


def _is_missing(landed: Selected | MigrationError) -> TypeGuard[MigrationError]:
    return isinstance(landed, MigrationError) and is_of_the_folder(landed) and landed.cause_id in _MISSING


_MISSING = {"folder_missing", "mailbox_unavailable", "folder_name_invalid"}
"""How SELECT reads of a folder that is not there; the second is what is not understood."""
