"""Whose a folder is: the member's own, another user's, or everybody's (NAMESPACE, RFC 2342). Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

Owner = Literal["", "others", "public"]
"""What a rule calls it by a backslash; "" for the member."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """One prefix of names, and what separates folders below it."""

    prefix: str
    separator: str = ""

    def holds(self, name: str) -> bool:
        """Whether a folder lies in here; the prefix without its last separator names the root."""
        prefix = self.prefix
        if not prefix:
            return True
        if self.separator and prefix.endswith(self.separator):
            return name.startswith(prefix) or name == prefix[: -len(self.separator)]
        # `~` and `#news.` end where the name goes on; `Public` is no part of `Publications`.
        return name.startswith(prefix) and (
            len(name) == len(prefix)
            or not prefix[-1].isalnum()
            or name[len(prefix) :].startswith(self.separator or "/")
        )

    def below(self, name: str) -> str:
        """The name without the prefix, "" for the root."""
        return name[len(self.prefix) :]


@dataclass(frozen=True, slots=True)
class Namespaces:
    """The three lists of NAMESPACE, each in the server's order; the first personal one is where folders are made."""

    personal: tuple[Namespace, ...] = ()
    others: tuple[Namespace, ...] = ()
    public: tuple[Namespace, ...] = ()

    def owner(self, name: str) -> Owner:
        """Whose a folder is, by the longest prefix; the member's where two kinds have the same one."""
        if not (self.others or self.public) or name.upper() == "INBOX":
            return ""
        kinds: tuple[tuple[Owner, tuple[Namespace, ...]], ...] = (
            # Without a personal one all that is not told to be somebody else's is the member's.
            ("", self.personal or (Namespace(""),)),
            ("others", self.others),
            ("public", self.public),
        )
        longest, owner = -1, kinds[0][0]
        for kind, spaces in kinds:
            length = _longest(spaces, name)
            if length > longest:
                longest, owner = length, kind
        return owner

    def folded(self) -> "Namespaces":
        """The same for names without regard to case, which are folded."""
        return Namespaces(*(tuple(map(_folded, spaces)) for spaces in (self.personal, self.others, self.public)))

    def own(self, name: str) -> Namespace:
        """The personal namespace that a folder lies in, the one with the longest prefix."""
        holding = [space for space in self.personal if space.holds(name)]
        return max(holding, key=lambda space: len(space.prefix), default=Namespace(""))


NO_NAMESPACES = Namespaces()
"""Of a server that tells none."""


def _folded(space: Namespace) -> Namespace:
    return replace(space, prefix=space.prefix.casefold())


def _longest(spaces: Iterable[Namespace], name: str) -> int:
    return max((len(space.prefix) for space in spaces if space.holds(name)), default=-1)
