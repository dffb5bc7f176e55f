"""Which source folder goes into which target folder. Pure: two listings in, a list of pairs out."""

import re
import tomllib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder as a server lists it. `raw` is its name on the wire, `name` the same for people."""

    raw: bytes
    name: str
    separator: str
    attributes: frozenset[str]
    """Lower case, with the backslash: `\\sent`."""

    @property
    def selectable(self) -> bool:
        return not self.attributes & {"\\noselect", "\\nonexistent"}


@dataclass(frozen=True, slots=True)
class FolderPair:
    """One folder to be copied."""

    source: Folder
    target_name: str
    create: bool
    role: str
    """`sent`, `drafts`, ... or ""."""


_ROLE_ATTRIBUTES = {
    "\\sent": "sent",
    "\\drafts": "drafts",
    "\\trash": "trash",
    "\\junk": "junk",
    "\\spam": "junk",
    "\\archive": "archive",
}


def map_folders(
    source: Sequence[Folder],
    target: Sequence[Folder],
    *,
    source_prefix: str = "",
    target_prefix: str = "",
    target_separator: str = "/",
    root: str = "",
    exclude: Collection[str] = (),
) -> list[FolderPair]:
    """Pair every selectable source folder with a target name; INBOX first, then in the source's order.

    `root` copies only what lies under that source folder (Exchange's UserRoot). `exclude` are names or patterns
    (`*` and `?`) or roles (`\\Junk`). A special folder goes into the target's folder of the same role, whatever its
    name; two source folders never share a target.
    """
    source_roles = _folders_by_role(source)
    target_roles = {role: folder.name for role, folder in _folders_by_role(target).items()}
    names = {folder.name for folder in target if folder.selectable}
    existing = {_folded(name): name for name in names}
    pairs: list[FolderPair] = []
    taken: set[str] = set()
    for folder in sorted(source, key=lambda f: not is_inbox(f.name)):
        if not folder.selectable:
            continue
        path = _path(folder, source_prefix, root)
        if path is None:
            continue
        role = next((role for role, found in source_roles.items() if found is folder), "")
        if _excluded(folder, path, role, exclude):
            continue
        if [part.upper() for part in path] == ["INBOX"]:
            name = "INBOX"
        elif role in target_roles and _folded(target_roles[role]) not in taken:
            name = target_roles[role]
        else:
            name = _target_name(path, target_prefix, target_separator)
        # As the target spells it: for some servers `Trash` and `trash` are one folder, for others two.
        name = name if name in names else existing.get(_folded(name), name)
        name = _untaken(name, taken)
        name = name if name in names else existing.get(_folded(name), name)
        taken.add(_folded(name))
        pairs.append(FolderPair(folder, name, create=_folded(name) not in existing and name != "INBOX", role=role))
    return pairs


def is_inbox(name: str) -> bool:
    """INBOX is the one name whose case does not matter (RFC 9051 section 5.1)."""
    return name.upper() == "INBOX"


def _path(folder: Folder, prefix: str, root: str) -> list[str] | None:
    """The folder's path below the personal namespace and the root; None when it lies outside."""
    name = folder.name
    if is_inbox(name):
        return None if root else ["INBOX"]
    if prefix and name.startswith(prefix):
        name = name[len(prefix) :]
    parts = name.split(folder.separator) if folder.separator else [name]
    if root:
        root_parts = re.split(r"[/\\]", root.strip("/\\"))
        if parts[: len(root_parts)] != root_parts:
            return None
        parts = parts[len(root_parts) :] or ["INBOX"]
    return [part for part in parts if part] or [name]


def _excluded(folder: Folder, path: Sequence[str], role: str, patterns: Collection[str]) -> bool:
    name = "/".join(path)
    for pattern in patterns:
        if pattern.startswith("\\"):
            if pattern.lower() in folder.attributes or pattern[1:].lower() == role:
                return True
        elif fnmatchcase(name, pattern) or fnmatchcase(folder.name, pattern) or name.startswith(pattern + "/"):
            return True
    return False


def _target_name(path: Sequence[str], prefix: str, separator: str) -> str:
    # A separator inside a name would make two folders of one; a visible substitute keeps it one.
    parts = [part.replace(separator, "_") if separator else part for part in path]
    return prefix + (separator or "_").join(parts)


def _untaken(name: str, taken: Collection[str]) -> str:
    """The name, or the name with a number: `Trash` and `trash` may be one folder for the target's server."""
    candidate, count = name, 1
    while _folded(candidate) in taken:
        count += 1
        candidate = f"{name} ({count})"
    return candidate


def _folded(name: str) -> str:
    return name.casefold()


@cache
def role_names() -> dict[str, str]:
    """Role by well-known folder name, folded, from `folder_names.toml`."""
    rows = tomllib.loads((files("imapcopy") / "folder_names.toml").read_text(encoding="utf-8"))
    return {_folded(name): role for role, names in rows.items() for name in names}


def _folders_by_role(folders: Sequence[Folder]) -> dict[str, Folder]:
    """One folder a role: the one the server marks (RFC 6154), else the first with a well-known name at the top."""
    found: dict[str, Folder] = {}
    for folder in folders:
        for attribute in folder.attributes:
            role = _ROLE_ATTRIBUTES.get(attribute)
            if role and folder.selectable:
                found.setdefault(role, folder)
    marked = set(map(id, found.values()))
    for folder in folders:
        last = folder.name.rsplit(folder.separator, 1) if folder.separator else [folder.name]
        top = len(last) == 1 or is_inbox(last[0])
        role = role_names().get(_folded(last[-1])) if top else None
        if role and folder.selectable and id(folder) not in marked:
            found.setdefault(role, folder)
    return found
