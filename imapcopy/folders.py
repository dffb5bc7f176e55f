"""Which source folder goes into which target folder, and under which name. Pure: two listings in, a plan out."""

import re
import tomllib
import unicodedata
from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from functools import cache, cached_property
from importlib.resources import files
from itertools import count

from imapcopy.grammar import encode_mailbox
from imapcopy.namespaces import NO_NAMESPACES, Namespaces, Owner
from models.providers import Traits
from models.rules import OWNERS, ROLES, FolderRules, fits

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder as a server lists it. `raw` is its name on the wire, `name` the same for people."""

    raw: bytes
    name: str
    separator: str
    attributes: frozenset[str]
    """Lower case, with the backslash: `\\sent`."""
    elsewhere: frozenset[bytes] = frozenset()
    """Labels: a message here that has one of them is in the folder of that label, and is moved from there."""

    @property
    def selectable(self) -> bool:
        return not self.attributes & {"\\noselect", "\\nonexistent"}


@dataclass(frozen=True, slots=True)
class FolderPair:
    """One folder to be copied; several may share a target."""

    source: Folder
    target_name: str
    create: bool
    role: str = ""
    """`sent`, `drafts`, ... or ""."""
    why: str = ""
    """What decided about the target, or why its name is another one: see `reports/texts.toml`."""
    subscribe: bool = True
    above: str = ""
    """The source's name of the folder above that is moved too."""
    parts: Path = ()
    """What it would be called below that one, or at the top."""
    step: int = 0
    """How far its name had to be changed: an index of `_STEPS`."""

    @property
    def special_use(self) -> str:
        """What the folder is to be marked as when it is created (RFC 6154)."""
        return f"\\{self.role.title()}" if self.role and self.parts == (self.role.title(),) else ""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A folder that is not moved, and why."""

    source: Folder
    why: str


@dataclass(frozen=True, slots=True)
class FolderPlan:
    """Where the folders of a mailbox go. `naming` is what names at the target are made with."""

    pairs: tuple[FolderPair, ...]
    left_out: tuple[LeftOut, ...]
    naming: "Naming"

    @property
    def sources(self) -> list[Folder]:
        """The source's folders, moved or left out."""
        return [pair.source for pair in self.pairs] + [each.source for each in self.left_out]

    def renamed(self, refused: Collection[str]) -> "FolderPlan":
        """Other names for the folders whose names the target refused; a folder that has none left keeps its name."""
        return replace(self, pairs=self.naming.renamed(self.pairs, refused))

    def numbered(self, names: Collection[str]) -> "FolderPlan":
        """The same names with a number behind them, where they are those of other folders."""
        return replace(self, pairs=self.naming.numbered(self.pairs, names))


@dataclass(frozen=True, slots=True)
class Place:
    """Where a folder went before, and why."""

    target_name: str
    why: str = ""


_ROLE_ATTRIBUTES = {
    "\\sent": "sent",
    "\\drafts": "drafts",
    "\\trash": "trash",
    "\\junk": "junk",
    "\\spam": "junk",
    "\\archive": "archive",
}
_INBOX: Path = ("INBOX",)
WHY_NOT_OWN = {"others": "others_folder", "public": "public_folder"}
"""Why a folder is left out that is not the member's, by whose it is."""


def map_folders(
    source: Sequence[Folder],
    target: Sequence[Folder],
    *,
    source_prefix: str = "",
    target_prefix: str = "",
    target_separator: str = "/",
    source_namespaces: Namespaces = NO_NAMESPACES,
    target_namespaces: Namespaces = NO_NAMESPACES,
    root: str = "",
    exclude: Collection[str] = (),
    rules: FolderRules | None = None,
    traits: Traits | None = None,
    known: Mapping[str, Place] | None = None,
    aliases: Collection[str] = (),
) -> FolderPlan:
    """Give every selectable source folder a target name, or a reason why it stays; INBOX first, then by the listing.

    `root` copies only what lies under that source folder (Exchange's UserRoot). `exclude` are names or patterns
    (`*` and `?`) or roles (`\\Junk`). Special folders of one role go together into the target's folder of that role,
    whatever its name. Other folders share a target only where a rule says so. `known` is where folders went in an
    earlier pass, by source name: they stay there as long as that folder exists. What is not the member's own, by the
    namespaces, is neither moved unless a rule includes it, nor written to. `aliases` are further names of folders.
    """
    rules, traits, known = rules or FolderRules(), traits or Traits(), known or {}
    # What is spelled in another way on the wire than we would spell it cannot be opened by its name.
    addressable = [folder for folder in target if encode_mailbox(folder.name) == folder.raw]
    naming = Naming(
        target_prefix,
        target_separator,
        frozenset(folder.name for folder in addressable if folder.selectable),
        roles_of([folder for folder in addressable if not target_namespaces.owner(folder.name)], target_prefix),
        target_namespaces.folded(),
    )
    moved: list[_Known] = []
    left_out: list[LeftOut] = []
    all_seen = _kinds(source, source_prefix, source_namespaces, root, rules, traits)
    widest = _widest_view(all_seen, traits)
    for each in all_seen:
        why, included = _why_left_out(each, exclude, rules, traits, widest)
        if why:
            left_out.append(LeftOut(each.folder, why))
        elif each.folder.name in aliases:
            left_out.append(LeftOut(each.folder, "same_folder"))
        elif not each.view:
            moved.append(each)
        elif included:
            moved.append(replace(each, kind="", why="rule"))
        else:
            moved.append(replace(each, folder=replace(each.folder, elsewhere=_labels(all_seen, traits))))
    subscribed = any("\\subscribed" in each.folder.attributes and each.path != _INBOX for each in all_seen)
    listed = {folder.name: folder for folder in target}
    pairs = naming.named(moved, rules, known)
    return FolderPlan(
        tuple(replace(pair, subscribe=_is_subscribed(pair, subscribed, listed, known)) for pair in pairs),
        tuple(left_out),
        naming,
    )


def is_inbox(name: str) -> bool:
    """INBOX is the one name whose case does not matter (RFC 9051 section 5.1)."""
    return name.upper() == "INBOX"


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of a source folder before it is placed."""

    folder: Folder
    path: Path
    kind: str = ""
    why: str = ""
    view: str = ""
    """The attribute by which it shows mail of other folders."""


def _kinds(
    source: Sequence[Folder], prefix: str, namespaces: Namespaces, root: str, rules: FolderRules, traits: Traits
) -> list[_Known]:
    """The folders below the root, with their kinds: a rule counts more than a mark, a mark more than a name."""
    found = []
    told = namespaces != NO_NAMESPACES
    for folder in sorted(source, key=lambda f: not is_inbox(f.name)):
        path = _path(folder, prefix, root) if folder.selectable else None
        if path is None:
            continue
        contained = len(path) > 1 and path[0].casefold() in traits.containers
        path = path[1:] if contained else path
        marked = next((_ROLE_ATTRIBUTES[a] for a in sorted(folder.attributes) if a in _ROLE_ATTRIBUTES), "")
        view = next((attribute for attribute in traits.views if attribute in folder.attributes), "")
        if chosen := rules.roles.get("/".join(path)) or rules.roles.get(folder.name):
            found.append(_Known(folder, path, chosen, "rule"))
        # A root is asked for by its name, whosever it is.
        elif not root and (owner := namespaces.owner(folder.name) if told else _owner_by_name(path, traits)):
            found.append(_Known(folder, path, owner))
        elif path == _INBOX:
            found.append(_Known(folder, path, "inbox"))
        elif view and not marked:
            found.append(_Known(folder, path, traits.view_role, "view", view))
        elif marked:
            found.append(_Known(folder, path, marked, "special_use"))
        elif (name := _known_name(path)) and (not contained or name not in ROLES):
            found.append(_Known(folder, path, name, "known_name"))
        else:
            found.append(_Known(folder, path, "", "container" if contained else ""))
    return found


def _path(folder: Folder, prefix: str, root: str) -> Path | None:
    """The folder's path below the personal namespace and the root; None when it lies outside."""
    name = folder.name
    if is_inbox(name):
        return None if root else _INBOX
    if prefix and name.startswith(prefix):
        name = name[len(prefix) :]
    parts = name.split(folder.separator) if folder.separator else [name]
    if root:
        within = [part for part in re.split(f"[/\\\\{re.escape(folder.separator)}]", root) if part]
        parts = [part for part in parts if part]
        if parts[: len(within)] != within:
            return None
        parts = parts[len(within) :] or ["INBOX"]
    path = tuple(part for part in parts if part) or (name,)
    return ("INBOX", *path[1:]) if is_inbox(path[0]) else path


def _owner_by_name(path: Path, traits: Traits) -> Owner:
    """Whose a folder is where the server tells no namespaces."""
    top = _folded(path[0])
    return "others" if top in traits.others else "public" if top in traits.public else ""


def _known_name(path: Path) -> str:
    """The kind of a folder with a well-known name at the top, or right below INBOX."""
    below = path[1:] if path[0] == "INBOX" and len(path) > 1 else path
    return role_names().get(_folded(below[0]), "") if len(below) == 1 else ""


def _widest_view(folders: Sequence[_Known], traits: Traits) -> str:
    """The view that contributes what has no other folder: with labels, the one that shows the most."""
    views = {each.view for each in folders}
    return next((view for view in traits.views if view in views), "") if traits.labels else ""


def _labels(folders: Sequence[_Known], traits: Traits) -> frozenset[bytes]:
    """The labels of folders that are no views: a message with one of them is in that folder, moved or left out."""
    ordinary = [each for each in folders if not each.view]
    named = {label.encode() for each in ordinary for label in traits.labels.get(each.kind, ())}
    return frozenset(named.union(each.folder.raw for each in ordinary))


def _why_left_out(
    each: _Known, exclude: Collection[str], rules: FolderRules, traits: Traits, widest: str
) -> tuple[str, bool]:
    """Why a folder stays, "" if it is moved; and whether a rule asks for it by name."""
    kinds = {each.kind, *(a[1:] for a in each.folder.attributes)} - {""}

    def is_named(patterns: Collection[str]) -> bool:
        return any(fits(p, each.path, kinds) or fnmatchcase(each.folder.name, p) for p in patterns)

    included = is_named(rules.include)
    if is_named(exclude) or is_named(rules.exclude):
        return "excluded", included
    if rules.only and not is_named(rules.only):
        return "not_wanted", included
    name = _folded("/".join(each.path))
    if included:
        return "", True
    if each.kind in OWNERS:
        return WHY_NOT_OWN[each.kind], False
    if _folded(each.path[0]) in traits.not_mail or name in traits.not_mail:
        return "not_mail", False
    if each.view and each.view != widest:
        return "shows_other_folders", False
    return ("virus" if each.kind == "virus" else ""), False


def _is_subscribed(pair: FolderPair, told: bool, listed: Mapping[str, Folder], known: Mapping[str, Place]) -> bool:
    """Whether to subscribe to the target: as it is at the source, where anybody there has chosen at all."""
    there = listed.get(pair.target_name)
    if not pair.create and (pair.source.name in known or there is None or "\\subscribed" in there.attributes):
        return False
    if not pair.create and not any("\\subscribed" in folder.attributes for folder in listed.values()):
        return False
    return not told or bool(pair.role) or "\\subscribed" in pair.source.attributes


def roles_of(target: Sequence[Folder], prefix: str) -> dict[str, str]:
    """One folder a role: the one the server marks (RFC 6154), else the first with a well-known name at the top."""
    found: dict[str, str] = {}
    for folder in target:
        for attribute in sorted(folder.attributes):
            role = _ROLE_ATTRIBUTES.get(attribute)
            if role and folder.selectable:
                found.setdefault(role, folder.name)
    marked = set(found.values())
    for folder in target:
        path = _path(folder, prefix, "")
        role = _known_name(path) if path else ""
        if role and folder.selectable and folder.name not in marked:
            found.setdefault(role, folder.name)
    return found


# Names at the target


@dataclass(frozen=True, slots=True)
class _Step:
    """One way to make a name, tried when the ways before it were refused."""

    why: str = ""
    tidy: bool = False
    """Blanks at the ends and double ones go, and so does what cannot be printed."""
    plain: bool = False
    """Nothing is left that some server gives a meaning of its own, or cannot store."""
    flat: bool = False
    """Beside the folder above it in place of within: `A - B`."""
    octets: int = 0
    """How long a name within its folder may be on the wire; 0 for as long as it is."""


_STEPS = (
    _Step(),
    _Step("characters", tidy=True),
    _Step("characters", tidy=True, plain=True),
    _Step("depth", tidy=True, flat=True),
    _Step("depth", tidy=True, plain=True, flat=True),
    _Step("length", tidy=True, plain=True, octets=240),
    _Step("length", tidy=True, plain=True, flat=True, octets=240),
    _Step("length", tidy=True, plain=True, flat=True, octets=120),
    _Step("length", tidy=True, plain=True, flat=True, octets=60),
)
_SPECIAL = re.compile("[][\"%*\\\\&^~<>|.:;?#'`$!/=@{}\U00010000-\U0010ffff]")
"""What some server refuses in a name: Dovecot's Maildir dots, Cyrus quotes and percent signs, Courier emoji."""
_UNPRINTED = re.compile("[\x00-\x1f\x7f-\x9f\xad\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


@dataclass(frozen=True)
class Naming:
    """How names are made at the target; `existing` are the names that are there, `roles` its special folders."""

    prefix: str
    separator: str
    existing: frozenset[str]
    roles: Mapping[str, str] = field(default_factory=dict)
    namespaces: Namespaces = NO_NAMESPACES
    """Folded: no name is made that is anybody else's there."""

    def named(self, folders: Sequence[_Known], rules: FolderRules, known: Mapping[str, Place]) -> Iterator[FolderPair]:
        """The pairs in the order of the folders, views last."""
        placed: dict[str, FolderPair] = {}
        for each in folders:
            if pair := self._chosen(each, rules, known.get(each.folder.name)):
                placed[each.folder.name] = pair
        taken = {"inbox", *(_folded(pair.target_name) for pair in placed.values())}
        # A rule may send a folder into one that is moved under its own name.
        open_to_others = {pair.target_name for pair in placed.values() if pair.why == "rule"}
        tree = _Tree((each.path, each) for each in reversed(folders))
        # The folders above first, and whoever has a name to itself before those that share one but for its case.
        first = {_folded("/".join(each.path)): each for each in reversed(folders)}
        order = sorted(folders, key=lambda each: (len(each.path), first[_folded("/".join(each.path))] is not each))
        for each in order:
            if each.folder.name not in placed:
                above = tree.above(each.path)
                parts = each.path[len(above.path) :] if above else each.path
                over = placed[above.folder.name] if above else None
                name, why = self._name(parts, over, _STEPS[0])
                if why == "parent" and name == self.prefix + self._joint.join(each.path):
                    why = ""
                if _folded(name) in taken and name not in open_to_others:
                    name, why = _untaken(name, taken), "collision"
                taken.add(_folded(name))
                placed[each.folder.name] = self._pair(each, name, why or each.why, over, parts)
        return (placed[each.folder.name] for each in sorted(folders, key=lambda each: bool(each.view)))

    def _chosen(self, each: _Known, rules: FolderRules, before: Place | None) -> FolderPair | None:
        """A target that does not follow from the folder's own name; others may have the same."""
        if before and (before.target_name in self.existing or before.target_name == "INBOX"):
            # As long as the folder is there, whatever the rules say now: a second place would be a second copy.
            return self._pair(each, before.target_name, before.why)
        if renamed := rules.rename.get("/".join(each.path)) or rules.rename.get(each.folder.name):
            parts = tuple(part for part in renamed.split("/") if part)
            return self._pair(each, self._name(parts, None, _STEPS[0], by_rule=True)[0], "rule", parts=parts)
        if each.kind == "inbox":
            return self._pair(each, "INBOX", "")
        if each.kind in ROLES:
            canonical = each.kind.title()
            return self._pair(each, self.roles.get(each.kind, self.prefix + canonical), each.why, parts=(canonical,))
        return None

    def _pair(self, each: _Known, name: str, why: str, above: FolderPair | None = None, parts: Path = ()) -> FolderPair:
        # As the target spells it: for some servers `Trash` and `trash` are one folder, for others two.
        name = self._spelled(name)
        create = name not in self.existing and name != "INBOX"
        role = each.kind if each.kind in ROLES else ""
        over = above.source.name if above else ""
        return FolderPair(each.folder, name, create, role, why, above=over, parts=parts)

    def renamed(self, pairs: Sequence[FolderPair], refused: Collection[str]) -> tuple[FolderPair, ...]:
        """Another name for each refused one, the folders above first; one that has none left keeps its name."""
        found = {pair.source.name: pair for pair in pairs}
        gone = {_folded(name) for name in refused}
        # Folders that share a target go on sharing it.
        shared: dict[str, FolderPair] = {}
        depths = _depths(found)
        taken = Counter(["inbox", *(_folded(pair.target_name) for pair in pairs)])
        for pair in sorted(pairs, key=lambda pair: depths[pair.source.name]):
            folded = _folded(pair.target_name)
            if not pair.create or folded not in gone:
                continue
            others = taken.pop(folded, 0) - 1
            other = shared.get(pair.target_name) or self._other(pair, found.get(pair.above), gone, taken)
            if other:
                taken[_folded(other.target_name)] += 1
            if others > 0 or not other:
                taken[folded] = max(others, 1)
            if other:
                shared[pair.target_name] = other
                found[pair.source.name] = replace(
                    pair, target_name=other.target_name, why=other.why, step=other.step, create=other.create
                )
        return tuple(found[pair.source.name] for pair in pairs)

    def numbered(self, pairs: Sequence[FolderPair], names: Collection[str]) -> tuple[FolderPair, ...]:
        """The pairs, with a number behind these names."""
        taken = {_folded(pair.target_name) for pair in pairs}
        other: dict[str, str] = {}
        for name in names:
            other[name] = self._spelled(_untaken(name, taken))
            taken.add(_folded(other[name]))
        return tuple(
            replace(pair, target_name=found, why="taken_there", create=found not in self.existing)
            if (found := other.get(pair.target_name))
            else pair
            for pair in pairs
        )

    def _other(
        self, pair: FolderPair, above: FolderPair | None, gone: Collection[str], taken: Collection[str]
    ) -> FolderPair | None:
        """The pair with the next name that has not been refused."""
        # Below a folder that had to go beside its own there is no more room than there was for that one; where only
        # INBOX takes none below it, there is.
        is_full = above is not None and _STEPS[above.step].flat and above.why != "beside_inbox"
        first = max(pair.step, above.step) if above and is_full else pair.step
        for number in range(first, len(_STEPS)):
            name, why = self._name(pair.parts, above, _STEPS[number])
            # A name that is refused would be refused with every number behind it: the next step has its turn.
            name = self._spelled(_untaken(name, taken))
            if name and _folded(name) not in gone:
                return replace(pair, target_name=name, why=why, step=number, create=name not in self.existing)
        return None

    def _name(self, parts: Path, above: FolderPair | None, step: _Step, *, by_rule: bool = False) -> tuple[str, str]:
        """A name at the top or below the target of the folder above, and why it is not the source's.

        Only a rule gives one that lies among other users' or public folders.
        """
        changed = [_changed(part, step) for part in parts]
        why = step.why
        if self.separator:
            # A separator inside a name would make two folders of one; a visible substitute keeps it one.
            clean = [part.replace(self.separator, "_") for part in changed]
            changed, why = clean, why or ("separator" if clean != changed else "")
        elif above or len(parts) > 1:
            why = why or "separator"
        if above and above.target_name == "INBOX":
            inside = self.prefix if is_inbox(self.prefix.rstrip(self.separator)) else f"INBOX{self._joint}"
            base, beside = inside, self.prefix
            why = "beside_inbox" if step.flat and not step.octets else why
        elif above:
            base, beside = f"{above.target_name}{self._joint}", f"{above.target_name} - "
            why = why or ("parent" if above.why not in {"", "container"} else "")
        else:
            base = beside = self.prefix

        name = self._joined(changed, base, beside, step)
        if not by_rule and self.namespaces.owner(_folded(name)):
            changed[0], why = f"_{changed[0]}", "not_own"
            name = self._joined(changed, base, beside, step)
        return name, why

    def _joined(self, parts: Sequence[str], base: str, beside: str, step: _Step) -> str:
        if step.flat:
            return _cut(beside + " - ".join(parts), step.octets)
        return base + self._joint.join(_cut(part, step.octets) for part in parts)

    @property
    def _joint(self) -> str:
        return self.separator or "_"

    def _spelled(self, name: str) -> str:
        return name if name in self.existing else self._by_folded.get(_folded(name), name)

    @cached_property
    def _by_folded(self) -> dict[str, str]:
        return {_folded(name): name for name in sorted(self.existing)}


class _Tree:
    """The folders by their paths; of several with one path the last."""

    def __init__(self, folders: Iterable[tuple[Path, _Known]]) -> None:
        self._top = _Node()
        for path, each in folders:
            node = self._top
            for part in path:
                below = node.below.get(part)
                if below is None:
                    below = node.below[part] = _Node()
                node = below
            node.folder = each

    def above(self, path: Path) -> _Known | None:
        """The nearest folder above that is moved too."""
        node, found = self._top, None
        for part in path[:-1]:
            node = node.below[part]
            found = node.folder or found
        return found


class _Node:
    __slots__ = ("below", "folder")

    def __init__(self) -> None:
        self.below: dict[str, _Node] = {}
        self.folder: _Known | None = None


def _depths(pairs: Mapping[str, FolderPair]) -> dict[str, int]:
    """How many folders that are moved are above each, by source name; a server lists as many levels as it likes."""
    found: dict[str, int] = {"": -1}
    for name in pairs:
        way: list[str] = []
        while name not in found:
            way.append(name)
            name = pairs[name].above
        found.update((one, depth) for depth, one in enumerate(reversed(way), found[name] + 1))
    return found


def _changed(part: str, step: _Step) -> str:
    if step.tidy:
        part = " ".join(_UNPRINTED.sub("_", part).split())
    if step.plain:
        part = _SPECIAL.sub("_", part)
    return part or "_"


def _cut(name: str, octets: int) -> str:
    """The name with at most so many octets on the wire, and no character cut apart from its accents."""
    if not octets or len(encode_mailbox(name)) <= octets:
        return name
    # Room is left for a number behind it.
    length = bisect_right(range(2, len(name)), octets - 6, key=lambda n: len(encode_mailbox(name[:n]))) + 1
    while length > 1 and unicodedata.combining(name[length]):
        length -= 1
    return name[:length].rstrip()


def _untaken(name: str, taken: Collection[str]) -> str:
    """The name, or the name with a number: `Trash` and `trash` may be one folder for the target's server."""
    return next(each for n in count(1) if _folded(each := name if n == 1 else f"{name} ({n})") not in taken)


def _folded(name: str) -> str:
    return name.casefold()


@cache
def role_names() -> dict[str, str]:
    """Kind by well-known folder name, folded, from `folder_names.toml`."""
    rows = tomllib.loads((files("imapcopy") / "folder_names.toml").read_text(encoding="utf-8"))
    return {_folded(name): kind for kind, names in rows.items() for name in names}
