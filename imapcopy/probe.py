"""Measures what a destination does with mail, in scratch folders of one mailbox, and takes everything away again.

What a probe that died has left behind is found by the folder's name and the marker in it, and removed by the next one;
nothing with mail in it is removed that is not marked as a probe's own. Messages in Sent, Drafts and so on are removed
by UID EXPUNGE alone, so without UIDPLUS none is put there.
"""

import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from imapcopy.account import Account
from imapcopy.connection import Listing
from imapcopy.endpoint import Endpoint
from imapcopy.errors import HOST_BUSY, ConnectionLost, MigrationError, Refused
from imapcopy.folders import roles_of
from imapcopy.grammar import encode_mailbox, format_date_time
from imapcopy.identity import alteration, alteration_of_repaired
from imapcopy.plan import Envelope
from imapcopy.probe_connection import ProbeConnection
from imapcopy.probe_samples import (
    ROOT,
    SIZES,
    SMALL_BYTES,
    Large,
    inner_names,
    is_ours,
    letter,
    marker,
    odd_messages,
    small,
    three_years_back,
)
from imapcopy.repair import repaired
from imapcopy.target_connection import Outgoing, Pieces
from models.columns import now
from models.probe import KEPT, LOST, NOT_TRIED, REFUSED, STORED, Probe, Rate, best_of

CONNECTIONS = (1, 2, 4, 8)
MESSAGES_EACH = 20
"""So many small messages on each connection tell how fast that many are."""
MB = 1 << 20
_NAME = re.compile(rf"{ROOT}([0-9a-f]{{16}})")
_SYSTEM = ("\\Seen", "\\Flagged", "\\Answered", "\\Draft")
_KEYWORDS = ("$Forwarded", "BanjiaProbe")
_READABLE_BYTES = 1 << 20

Told = Callable[[str], None]
"""Called with the name of each step as it begins."""
Spare = Callable[[], AbstractContextManager[bool]]
"""Holds a place at the server for one more connection, or says that there is none."""


@dataclass(frozen=True, slots=True)
class _Stored:
    """What became of an APPEND."""

    arrived: tuple[Envelope, ...] = ()
    told: tuple[int, ...] = ()
    """UIDs by APPENDUID."""
    refused: MigrationError | None = None


def probe_mailbox(
    account: Account,
    *,
    size_limit: bool = False,
    told: Told = lambda step: None,
    spare: Spare = lambda: nullcontext(True),
) -> Probe:
    """Probe the server of an account; raise what keeps anybody from signing in or making a folder at all.

    `size_limit` uploads up to 150 MB to find a limit that the server does not tell.
    """
    with Endpoint(account, ProbeConnection) as target:
        connection = target.connection
        probing = _Probing(target, Probe(account.server.host, now(), connection.greeting), told, spare)
        try:
            probing.run(size_limit)
        except MigrationError as error:
            if not probing.begun:
                raise
            probing.note(unfinished=error.cause_id)
            target.forget()
        probing.clean()
        return probing.probe


class _Probing:
    """One probe on its way."""

    def __init__(self, target: Endpoint[ProbeConnection], probe: Probe, told: Told, spare: Spare) -> None:
        self._target = target
        self._told = told
        self._spare = spare
        self.probe = probe
        self.begun = False
        """There is something to be taken away again."""
        self._token = secrets.token_hex(8)
        self._root = ""
        self._made: list[str] = []
        """Folders of ours, those above first."""
        self._elsewhere: dict[str, tuple[int, int]] = {}
        """UIDVALIDITY and UIDNEXT of the special folders before us."""
        self._perhaps_ours: list[str] = []
        """Folders with an empty message that nothing tells from somebody else's."""

    def note(self, **values: Any) -> None:
        self.probe = replace(self.probe, **values)

    def run(self, size_limit: bool) -> None:
        self._told("sign_in")
        listing = self._look_around()
        self._told("leftovers")
        self.note(removed=tuple(self._remove_leftovers(listing)))
        self._told("folders")
        self._make_folders(listing)
        for step, act in (
            ("append", self._try_append),
            ("flags", self._try_flags),
            ("messages", self._try_messages),
            ("duplicates", self._try_duplicates),
            ("extensions", self._try_extensions),
            ("special", lambda: self._try_special(listing)),
        ):
            self._told(step)
            act()
        if size_limit and self.probe.told_limit is None:
            self._told("size_limit")
            self._try_sizes()
        self._told("parallel")
        self._try_parallel()

    @property
    def _connection(self) -> ProbeConnection:
        return self._target.connection

    # What there is

    def _look_around(self) -> Listing:
        connection = self._connection
        listing = connection.listing()
        self._root = f"{listing.prefix}{ROOT}{self._token}"
        self.note(
            mechanism=connection.mechanism,
            capabilities=tuple(sorted(connection.capabilities)),
            prefix=listing.prefix,
            separator=listing.separator,
            quota=connection.quota(),
            told_limit=connection.limit_of("INBOX"),
        )
        return listing

    def _make_folders(self, listing: Listing) -> None:
        connection = self._connection
        special = roles_of(listing.own, listing.prefix)
        # A folder may show what lies in others, and keep it when those are deleted.
        views = {folder.name for folder in listing.folders if "\\all" in folder.attributes and folder.selectable}
        for name, opened in connection.select_each(sorted({*special.values(), *views})):
            if not isinstance(opened, MigrationError):
                self._elsewhere[name] = opened.uidvalidity, opened.uidnext
        connection.leave()
        if refused := connection.create([self._root], subscribe=()):
            raise refused[self._root]
        self.begun = True
        self._made.append(self._root)
        raw = marker(self._token, json.dumps(self._elsewhere))
        stored = self._append(self._root, Outgoing(raw, frozenset({"\\Seen"}), ""))
        if stored.refused:
            raise stored.refused
        separator = listing.separator
        wanted = {kind: f"{self._root}{separator or '/'}{name}" for kind, name in inner_names(separator).items()}
        if separator:
            wanted["level2"] = f"{self._root}{separator}a"
            wanted["level3"] = f"{self._root}{separator}a{separator}b"
        self.note(folders=self._created(wanted))

    def _created(self, wanted: Mapping[str, str]) -> dict[str, str]:
        """Make folders and look whether they are listed under their names; by kind, what the server said instead."""
        connection = self._connection
        said: dict[str, str] = {}
        refused = connection.create(wanted.values(), subscribe=())
        listed = {folder.raw for folder in connection.listing().folders}
        for kind, name in wanted.items():
            if name in refused:
                said[kind] = refused[name].server_text or refused[name].cause_id
            elif encode_mailbox(name) not in listed:
                said[kind] = "listed under another name"
            else:
                said[kind] = ""
        self._made += sorted((name for name in wanted.values() if name not in refused), key=len)
        return said

    # Messages

    def _append(self, name: str, message: Outgoing, *, announced: bool = True) -> _Stored:
        """Append one message and look what came; a server that asks to be left alone ends the probe."""
        connection = self._connection
        before = connection.select(name)
        told: Sequence[int] = ()
        refused: MigrationError | None = None
        try:
            _, told = connection.append(name, [message], announced=announced)
        except Refused as refusal:
            refused = connection.failure(refusal, "append", name)
            if refusal.status == "BAD":
                # The octets of the message may still be read as commands.
                self._target.reopen()
        except ConnectionLost as lost:
            refused = lost
            if lost.cause_id not in HOST_BUSY:
                self._target.reopen()
        if refused and refused.cause_id in HOST_BUSY:
            raise refused
        connection = self._connection
        if connection.selected != encode_mailbox(name):
            connection.select(name)
        connection.refresh()
        return _Stored(tuple(connection.scan(before.uidnext)), tuple(told), refused)

    def _try_append(self) -> None:
        connection = self._connection
        moment = three_years_back(self.probe.at)
        before = connection.select(self._root)
        raw = letter(self._token, "append")
        try:
            validity, told = connection.append(
                self._root, [Outgoing(raw, frozenset(), format_date_time(moment))], announced=True
            )
        except Refused as refusal:
            failure = connection.failure(refusal, "append", self._root)
            self.note(date=REFUSED, words={**self.probe.words, "date": failure.server_text})
            return
        shows, found = self._shown(before.uidnext)
        uids = [envelope.uid for envelope in found]
        right = validity == before.uidvalidity and list(told) == uids
        self.note(
            shows=shows,
            uidplus="absent" if not told else "right" if right else "wrong",
            permanent_flags="any" if before.keywords is None else "some" if before.keywords else "none",
            date=_date(moment, found[0].arrived) if found else "",
        )

    def _shown(self, first: int) -> tuple[str, list[Envelope]]:
        """When what was just stored can be seen, and what that is."""
        if found := self._connection.scan(first):
            return "at_once", found
        self._connection.refresh()
        if found := self._connection.scan(first):
            return "refreshed", found
        self._target.reopen().select(self._root)
        found = self._connection.scan(first)
        return ("reopened" if found else "never"), found

    def _try_flags(self) -> None:
        flags = self._flags_of(_SYSTEM)
        for keyword in _KEYWORDS:
            flags |= self._flags_of((keyword,))
        self.note(flags=flags)

    def _flags_of(self, flags: Sequence[str]) -> dict[str, str]:
        """What becomes of flags that are appended together, and of what is missing when it is stored afterwards."""
        raw = letter(self._token, f"flags-{len(self.probe.flags)}-{secrets.token_hex(4)}")
        stored = self._append(self._root, Outgoing(raw, frozenset(flags), ""))
        if stored.refused:
            if len(flags) > 1:
                return {flag: state for each in flags for flag, state in self._flags_of((each,)).items()}
            self.note(words={**self.probe.words, flags[0]: stored.refused.server_text})
            stored = self._append(self._root, Outgoing(raw, frozenset(), ""))
        if not stored.arrived:
            return dict.fromkeys(flags, REFUSED)
        uid = stored.arrived[0].uid
        found = _folded(stored.arrived[0].flags)
        states = {flag: KEPT for flag in flags if flag.lower() in found}
        for flag in flags:
            if flag not in states:
                states[flag] = self._stored(uid, flag)
        return states

    def _stored(self, uid: int, flag: str) -> str:
        connection = self._connection
        try:
            connection.store([uid], frozenset({flag}), add=True)
        except Refused:
            return REFUSED
        # Some show what they were told and forget it: only a folder that is opened anew shows what is kept.
        connection.leave()
        connection.select(self._root)
        return STORED if flag.lower() in _folded(f for e in connection.scan_uids([uid]) for f in e.flags) else LOST

    def _try_messages(self) -> None:
        came: dict[str, str] = {}
        words: dict[str, str] = {}
        for kind, raw in odd_messages(self._token).items():
            stored = self._append(self._root, Outgoing(raw, frozenset(), ""))
            if not stored.refused:
                came[kind] = self._difference(raw, stored, alteration)
                continue
            words[kind] = stored.refused.server_text or stored.refused.cause_id
            mended = repaired(raw, stored.refused.server_text)
            again = self._append(self._root, Outgoing(mended.raw, frozenset(), "")) if mended else None
            whole = again is not None and not again.refused and self._difference(raw, again, alteration_of_repaired)
            came[kind] = whole if whole == "repaired" else REFUSED
        self.note(messages=came, words={**self.probe.words, **words})

    def _difference(self, sent: bytes, stored: _Stored, compared: Callable[[bytes, bytes], str]) -> str:
        """What a server made of a message; `lost` when it cannot be read back."""
        bodies = self._connection.bodies([envelope.uid for envelope in stored.arrived])
        return compared(sent, next(iter(bodies.values()))) if bodies else LOST

    def _try_duplicates(self) -> None:
        raw = letter(self._token, "duplicate")
        first = self._connection.select(self._root).uidnext
        for _ in range(2):
            self._append(self._root, Outgoing(raw, frozenset(), ""))
        self._connection.refresh()
        self.note(duplicates=len(self._connection.scan(first)))

    def _try_extensions(self) -> None:
        works: dict[str, str] = {}
        connection = self._connection
        for name in ("LITERAL+", "LITERAL-"):
            if connection.has(name):
                raw = letter(self._token, "literal")
                stored = self._append(self._root, Outgoing(raw, frozenset(), ""), announced=False)
                works[name] = stored.refused.server_text if stored.refused else "works" if stored.arrived else LOST
        if self._connection.has("MULTIAPPEND"):
            works["MULTIAPPEND"] = self._multiappend()
        self.note(extensions=works)

    def _multiappend(self) -> str:
        connection = self._connection
        first = connection.select(self._root).uidnext
        two = [Outgoing(letter(self._token, f"multi{number}"), frozenset(), "") for number in range(2)]
        try:
            connection.append(self._root, two, announced=True)
        except Refused as refusal:
            failure = connection.failure(refusal, "append", self._root)
            self._target.reopen()
            return failure.server_text or failure.cause_id
        connection.refresh()
        return "works" if len(connection.scan(first)) == 2 else LOST

    def _try_special(self, listing: Listing) -> None:
        """One message into each special folder, taken out again at once."""
        special = roles_of(listing.own, listing.prefix)
        said: dict[str, str] = {}
        for role in ("sent", "drafts", "trash", "junk", "archive"):
            name = special.get(role)
            if name is None:
                said[role] = "absent"
            elif not self._connection.has("UIDPLUS") or name not in self._elsewhere:
                said[role] = NOT_TRIED
            else:
                flags = frozenset({"\\Seen", "\\Draft"} if role == "drafts" else {"\\Seen"})
                stored = self._append(name, Outgoing(letter(self._token, role), flags, ""))
                said[role] = stored.refused.server_text if stored.refused else "" if stored.arrived else LOST
                self._sweep([name])
        self.note(special=said)

    def _try_sizes(self) -> None:
        for megabytes in SIZES:
            octets = megabytes * MB
            content: Pieces = Large(self._token, octets)
            stored = self._append(self._root, Outgoing(content, frozenset(), ""))
            if stored.refused:
                self.note(words={**self.probe.words, "size_limit": stored.refused.server_text})
                if stored.refused.cause_id == "message_too_large":
                    self.note(smallest_refused=octets)
                return
            self.note(largest_taken=octets)
            if self._connection.has("UIDPLUS"):
                self._connection.expunge([envelope.uid for envelope in stored.arrived])

    def _try_parallel(self) -> None:
        rates: list[Rate] = []
        with ExitStack() as opened:
            fleet: list[ProbeConnection] = []
            for wanted in CONNECTIONS:
                errors: list[str] = []
                while len(fleet) < wanted and not errors:
                    if not opened.enter_context(self._spare()):
                        # Members use them, or the cap is lower: that says nothing of the server.
                        self.note(without_room=wanted)
                        break
                    try:
                        fleet.append(opened.enter_context(ProbeConnection(self._target.account)))
                    except MigrationError as error:
                        errors.append(error.cause_id)
                if self.probe.without_room:
                    break
                if not errors:
                    rates.append(self._rate(fleet, wanted))
                else:
                    rates.append(Rate(wanted, len(fleet), 0, 0.0, tuple(errors)))
                if rates[-1].errors:
                    break
        self.note(rates=tuple(rates), connections=best_of(rates))

    def _rate(self, fleet: Sequence[ProbeConnection], wanted: int) -> Rate:
        """Append on all connections at once, as a copy does."""
        together = threading.Barrier(len(fleet) + 1)
        counts = [0] * len(fleet)
        errors: list[str] = []

        def append(number: int) -> None:
            messages = (
                Outgoing(small(self._token, f"{wanted}.{number}.{each}"), frozenset(), "")
                for each in range(MESSAGES_EACH)
            )
            together.wait()
            try:
                for outcome in fleet[number].append_each(self._root, messages):
                    if isinstance(outcome, Refused):
                        errors.append(fleet[number].failure(outcome, "append", self._root).cause_id)
                        return
                    counts[number] += 1
            except MigrationError as error:
                errors.append(error.cause_id)

        threads = [threading.Thread(target=append, args=(n,), name="probe", daemon=True) for n in range(len(fleet))]
        for thread in threads:
            thread.start()
        together.wait()
        begun = time.perf_counter()
        for thread in threads:
            thread.join()
        return Rate(wanted, len(fleet), sum(counts), time.perf_counter() - begun, tuple(errors))

    # Taking it away again

    def clean(self) -> None:
        """Remove what this probe has made; what stays is named."""
        self._told("clean_up")
        try:
            left = self._removed(self._token, self._made, self._elsewhere)
        except MigrationError as error:
            with suppress(MigrationError):
                self._target.forget()
            left = [f"{name} ({error.cause_id})" for name in self._made]
        self.note(leftovers=(*left, *dict.fromkeys(self._perhaps_ours)))

    def _remove_leftovers(self, listing: Listing) -> Iterable[str]:
        """What earlier probes have left behind, by the names of their scratch folders."""
        roots: dict[str, str] = {}
        for folder in listing.folders:
            found = _NAME.fullmatch(folder.name.removeprefix(listing.prefix))
            if found and folder.selectable:
                roots[folder.name] = found[1]
        for root, token in roots.items():
            inside = f"{root}{listing.separator or '/'}"
            below = sorted((f.name for f in listing.folders if f.name.startswith(inside)), key=len)
            elsewhere = self._marked(root, token)
            if elsewhere is not None and not self._removed(token, [root, *below], elsewhere):
                yield root

    def _marked(self, root: str, token: str) -> dict[str, tuple[int, int]] | None:
        """Where else that probe has written, None if the folder is not a probe's own.

        A probe that died before its marker was stored has left a folder with nothing in it.
        """
        connection = self._connection
        if not connection.select(root).messages:
            return {}
        scan = [envelope for envelope in connection.scan() if envelope.size < _READABLE_BYTES]
        for raw in connection.bodies([envelope.uid for envelope in scan]).values():
            if f"<{token}.marker@".encode("ascii") in raw:
                with suppress(ValueError):
                    told = json.loads(raw.splitlines()[-1])
                    return {name: (int(place[0]), int(place[1])) for name, place in told.items()}
        return None

    def _removed(self, token: str, folders: Sequence[str], elsewhere: Mapping[str, tuple[int, int]]) -> list[str]:
        """Remove a probe's messages and folders; returns what could not be removed, the root with its marker last."""
        connection = self._connection
        left = self._sweep(elsewhere, token, elsewhere) if connection.has("UIDPLUS") else []
        strange = [name for name in folders if self._holds_strangers(name, token)]
        deepest_first = [name for name in reversed(folders) if name not in strange]
        if left or strange:
            # The marker says where the rest is; without it the next probe would not find it.
            deepest_first = [name for name in deepest_first if name != folders[0]]
            left = [*left, *(name for name in folders if name in strange or name == folders[0])]
        connection.leave()
        refused = connection.delete_each(deepest_first)
        still = {folder.name for folder in connection.listing().folders if folder.selectable}
        return [*left, *(name for name in deepest_first if name in refused and name in still)]

    def _holds_strangers(self, name: str, token: str) -> bool:
        """Whether somebody else's mail lies in a scratch folder."""
        connection = self._connection
        try:
            if not connection.select(name).messages:
                return False
        except MigrationError as error:
            if isinstance(error, ConnectionLost):
                raise
            return False
        scan = connection.scan()
        tokens = connection.tokens([envelope.uid for envelope in scan])
        unmarked = [envelope for envelope in scan if tokens.get(envelope.uid) != token]
        if any(envelope.size > _READABLE_BYTES for envelope in unmarked):
            return True
        bodies = connection.bodies([envelope.uid for envelope in unmarked])
        return not all(is_ours(raw, token) for raw in bodies.values())

    def _sweep(
        self,
        names: Iterable[str],
        token: str = "",
        places: Mapping[str, tuple[int, int]] | None = None,
    ) -> list[str]:
        """Take our messages out of folders that are not ours; returns what could not be taken out."""
        token, places = token or self._token, self._elsewhere if places is None else places
        left: list[str] = []
        for name in names:
            connection = self._connection
            try:
                opened = connection.select(name)
                validity, first = places[name]
                scan = connection.scan(first if validity == opened.uidvalidity else 1)
                tokens = connection.tokens([envelope.uid for envelope in scan])
                ours = [uid for uid, found in tokens.items() if found == token]
                # A view shows those without our field too: they are known by their text, but for the empty one.
                small = [e.uid for e in scan if e.uid not in ours and e.size < SMALL_BYTES]
                bodies = connection.bodies(small)
                ours += [uid for uid, raw in bodies.items() if token.encode("ascii") in raw]
                if any(is_ours(raw, token) for uid, raw in bodies.items() if uid not in ours):
                    self._perhaps_ours.append(f"{name} (empty)")
                if ours:
                    connection.expunge(ours)
                    connection.refresh()
                    if connection.scan_uids(ours):
                        left.append(name)
            except Refused:
                left.append(name)
            except ConnectionLost:
                raise
            except MigrationError as error:
                if error.cause_id != "folder_missing":
                    left.append(f"{name} ({error.cause_id})")
        return left


def _date(sent: datetime, stored: datetime | None) -> str:
    if stored is None or stored != sent:
        return LOST
    return KEPT if stored.utcoffset() == sent.utcoffset() else "zone"


def _folded(flags: Iterable[str]) -> frozenset[str]:
    return frozenset(flag.lower() for flag in flags)
