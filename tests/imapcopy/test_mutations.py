"""What happens to the target behind our back, and who finds it.

Each kind of mutation is tried at two moments: between the last APPEND and the re-reading of a pass, and after the pass.
The risk-directed default promises existence, size and arrival date of every message, right after the copy its flags,
and the content of those that some server is known to alter. Another content at equal size is found by `deep` alone, or
by the sample, which is switched off here.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import product
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from deployments.demo import imap_fetch
from deployments.demo.imap_server import Action, Fault, Folder, ImapServer
from imapcopy.errors import MigrationError, ServerError
from imapcopy.identity import digest
from imapcopy.plan import GROUPING, Grouping
from imapcopy.verify import verify_mailbox
from models.ledger import Ledger
from models.ledger_rows import BatchState
from tests.imapcopy.world import PASSWORD, Box, account_at, mail, moment, new_member

GBK = "Subject: 标题\r\nFrom: a@b\r\n\r\nbody\r\n".encode("gbk")
WITH_NUL = b"Subject: nul\r\n\r\na\0b\r\n"
BARE_LF = b"Subject: lf\n\nbare\n"
NO_END = b"Subject: end\r\n\r\nno end"
LONG = mail(4, b"a long body, line by line\r\n" * 20)
INBOX = [mail(1), mail(2), mail(3), LONG, mail(5), mail(5), GBK, WITH_NUL, BARE_LF, NO_END]
"""In the order of their UIDs, which are the same on both sides."""
FLAGS = ["\\Seen", "\\Flagged", "$Forwarded"]

Found = Mapping[str, int]
"""Messages by what is said of them, `lost` among it."""


def inbox(box: Box) -> Folder:
    return box.target.folder("INBOX")


def put(box: Box, uid: int, **changes: Any) -> None:
    """Change a message in its place, as a broken disk or a meddling program would."""
    folder = inbox(box)
    folder._by_uid[uid] = replace(folder._by_uid[uid], **changes)


def changed(uid: int, change: Callable[[bytes], bytes]) -> Callable[[Box], object]:
    def act(box: Box) -> None:
        before = inbox(box)._by_uid[uid].raw
        after = change(before)
        assert after != before
        put(box, uid, raw=after)

    return act


def removed(*uids: int) -> Callable[[Box], object]:
    return lambda box: inbox(box).expunge(uids)


def replaced(box: Box) -> None:
    """Another message of equal size under a new UID."""
    inbox(box).expunge([3])
    inbox(box).deliver(mail(8), moment(4))


def exchange(box: Box) -> None:
    by_uid = inbox(box)._by_uid
    by_uid[1], by_uid[3] = replace(by_uid[3], uid=1), replace(by_uid[1], uid=3)


def moved(box: Box) -> None:
    message = inbox(box)._by_uid[3]
    box.target.folder("Work").deliver(message.raw, message.internal_date, message.flags)
    inbox(box).expunge([3])


def renumber(by: int) -> Callable[[Box], object]:
    """Other UIDs under the same UIDVALIDITY, which no server may do."""

    def act(box: Box) -> None:
        folder = inbox(box)
        folder._by_uid = {m.uid + by: replace(m, uid=m.uid + by) for m in folder.messages}
        folder.uidnext += by

    return act


def hidden_by_more(box: Box) -> None:
    inbox(box).expunge([3])
    for number in range(50, 53):
        inbox(box).deliver(mail(number), moment(4))


def doubled(box: Box, times: int = 1) -> None:
    for _ in range(times):
        inbox(box).deliver(mail(3), moment(4))


def lost_and_doubled(box: Box) -> None:
    inbox(box).expunge([3])
    doubled(box, 2)


def folder_gone(box: Box) -> None:
    box.target.delete(box.target.folder("Work"))


def folder_replaced(box: Box) -> None:
    before = box.target.folder("Work").messages
    folder_gone(box)
    for message in before:
        (box.target.find("Work") or box.target.create("Work")).deliver(message.raw, message.internal_date)


LYING_SIZES: dict[bytes, int] = {}
"""What the target says is the size of a message, where that is not so."""


def truncated_with_agreeing_size(box: Box) -> None:
    LYING_SIZES[LONG[:200]] = len(LONG)
    put(box, 4, raw=LONG[:200])


@dataclass(frozen=True)
class Kind:
    """A mutation, and what is found of it: after the pass by default and `deep`, and by the pass itself.

    A pass that finds messages lost sends them again; None where it cannot go on with the folder.
    """

    act: Callable[[Box], object]
    default: Found
    deep: Found
    in_pass: Found | None


def unseen_at_equal_size(act: Callable[[Box], object], **deep: int) -> Kind:
    return Kind(act, {}, deep, {})


def hazard(act: Callable[[Box], object], name: str) -> Kind:
    """Of a kind that some server is known for: the pass reads such messages back."""
    return Kind(act, {}, {name: 1}, {name: 1})


def always(act: Callable[[Box], object], **found: int) -> Kind:
    return Kind(act, found, found, {} if "lost" in found else found)


def members_own(act: Callable[[Box], object]) -> Kind:
    """Flags are compared right after the copy; later they are the member's own."""
    return Kind(act, {}, {}, {"flags": 1})


KINDS = {
    "a message removed": always(removed(3), lost=1),
    "the first and the last removed": always(removed(1, 10), lost=2),
    "one of two equal ones removed": always(removed(5), lost=1),
    "replaced by another of equal size under a new UID": always(replaced, lost=1),
    "replaced by another of equal size under its UID": unseen_at_equal_size(changed(3, lambda _: mail(8)), content=1),
    "one byte of the body changed": unseen_at_equal_size(changed(3, lambda raw: raw[:-3] + b"!\r\n"), content=1),
    "one byte of the header changed": unseen_at_equal_size(
        changed(3, lambda raw: raw.replace(b"number", b"Number")), content=1
    ),
    "one bit changed": unseen_at_equal_size(
        changed(4, lambda raw: raw[:300] + bytes([raw[300] ^ 1]) + raw[301:]), content=1
    ),
    "body truncated": always(changed(4, lambda raw: raw[:200]), content=1),
    "body truncated and padded": unseen_at_equal_size(changed(4, lambda raw: raw[:200].ljust(len(raw))), content=1),
    "body truncated with a size that agrees": unseen_at_equal_size(truncated_with_agreeing_size, content=1),
    "emptied": always(changed(3, lambda _: b""), content=1),
    "something appended": always(changed(3, lambda raw: raw + b"--\r\nscanned\r\n"), content=1),
    "header field added": always(changed(3, lambda raw: b"X-Spam: no\r\n" + raw), content=1),
    "header octets overwritten": hazard(
        changed(7, lambda raw: bytes(octet if octet < 128 else ord("X") for octet in raw)), "header_8bit"
    ),
    "NUL replaced": hazard(changed(8, lambda raw: raw.replace(b"\0", b"\x80")), "nul"),
    "NUL removed": always(changed(8, lambda raw: raw.replace(b"\0", b"")), content=1),
    "line ends to LF": always(changed(3, lambda raw: raw.replace(b"\r\n", b"\n")), line_ends=1),
    "line ends to CRLF": always(changed(9, lambda raw: raw.replace(b"\n", b"\r\n")), line_ends=1),
    "final line end removed": always(changed(3, lambda raw: raw[:-2]), final_line_end=1),
    "final line end added": always(changed(10, lambda raw: raw + b"\r\n"), final_line_end=1),
    "two messages exchanged": Kind(exchange, {"date": 2}, {"date": 2, "content": 2}, {"date": 2}),
    "moved to another folder": always(moved, lost=1),
    "date changed": always(lambda box: put(box, 3, internal_date=moment(28)), date=1),
    "date changed by a second": always(lambda box: put(box, 3, internal_date=moment(4).replace(second=16)), date=1),
    "flag added": members_own(lambda box: inbox(box).set_flags(3, ["\\Deleted"])),
    "flag removed": members_own(lambda box: inbox(box).set_flags(2, FLAGS[1:])),
    "keyword removed": members_own(lambda box: inbox(box).set_flags(2, FLAGS[:2])),
    "keyword added": members_own(lambda box: inbox(box).set_flags(3, ["$Junk"])),
    "all of a folder gone": always(removed(*range(1, 11)), lost=10),
    "folder gone": Kind(folder_gone, {"lost": 2}, {"lost": 2}, None),
    # The server ends the connection that had it open, and the pass finds the same mail in the new one.
    "folder replaced by another of its name": always(folder_replaced, lost=2),
    "folder numbered anew": Kind(lambda box: inbox(box).change_uidvalidity(), {"lost": 10}, {"lost": 10}, None),
    "UIDs far away": always(renumber(100), lost=10),
    "UIDs one further": Kind(
        renumber(1),
        {"lost": 1, "date": 9, "content": 6},
        {"lost": 1, "date": 9, "content": 8},
        {"date": 9, "content": 6, "flags": 2},
    ),
    "more mail than before, and one missing": always(hidden_by_more, lost=1),
    "a message there twice": Kind(doubled, {}, {"doubled": 1}, {}),
    "a message there three times": Kind(lambda box: doubled(box, 2), {}, {"doubled": 2}, {}),
    "missing under its UID and there twice": Kind(lost_and_doubled, {"lost": 1}, {"lost": 1, "doubled": 1}, {}),
}


@pytest.fixture(autouse=True)
def no_sample_and_lying_sizes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr("imapcopy.verify.SAMPLE_SHARE", 0)
    monkeypatch.setattr("imapcopy.verify.SAMPLE_LEAST", 0)
    honest = imap_fetch._value
    monkeypatch.setattr(
        imap_fetch,
        "_value",
        lambda message, item: (
            str(LYING_SIZES[message.raw])
            if item == "RFC822.SIZE" and message.raw in LYING_SIZES
            else honest(message, item)
        ),
    )
    yield
    LYING_SIZES.clear()


def fill(box: Box) -> Box:
    for number, raw in enumerate(INBOX, start=1):
        box.deliver(number, raw=raw, flags=FLAGS if number == 2 else [], internal_date=moment(number + 1))
    for number in (21, 22):
        box.deliver(number, "Work")
    return box


def found_after(box: Box, *, deep: bool, grouping: Grouping = GROUPING) -> Found:
    """What `banjia verify` says, all folders together."""
    found: Counter[str] = Counter()
    old, new = account_at(box.old, box.source_user), account_at(box.new, box.target_user)
    for verdict in verify_mailbox(old, new, box.ledger, deep=deep, grouping=grouping):
        found.update(verdict.altered)
        found["lost"] += len(verdict.lost)
    return +found


def noted(box: Box) -> Found:
    """What the passes wrote down, all folders together."""
    total: Counter[str] = Counter()
    for row in box.ledger.folders():
        total.update(json.loads(row.altered))
    return total


@pytest.mark.parametrize("kind", KINDS)
def test_a_mutation_after_the_pass_is_found(mailbox: Box, kind: str) -> None:
    fill(mailbox).copy()
    assert found_after(mailbox, deep=True) == {}
    KINDS[kind].act(mailbox)
    assert found_after(mailbox, deep=False) == KINDS[kind].default
    assert found_after(mailbox, deep=True) == KINDS[kind].deep
    mailbox.assert_untouched()


@pytest.mark.parametrize("deep", [False, True], ids=["default", "deep"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_mutation_before_the_pass_looks_is_found_and_what_is_lost_is_sent_again(
    mailbox: Box, kind: str, deep: bool
) -> None:
    fill(mailbox)
    acted = False

    def hook(entry: Any) -> None:
        nonlocal acted
        if entry.verb == "SELECT" and mailbox.new.commands("APPEND") and not acted:
            acted = True
            KINDS[kind].act(mailbox)

    mailbox.new.behaviour.before_command = hook
    in_pass = KINDS[kind].in_pass
    if in_pass is None:
        with pytest.raises(MigrationError):
            mailbox.copy(deep=deep)
        mailbox.copy(deep=deep)
        mailbox.assert_counted()
        in_pass, deep = {}, False
    else:
        mailbox.copy(deep=deep)
    assert acted
    also_flags = {name: n for name, n in in_pass.items() if name == "flags"}
    due = {**KINDS[kind].deep, **also_flags} if deep else in_pass
    assert noted(mailbox) == {name: n for name, n in due.items() if name != "lost"}
    if not set(KINDS[kind].deep) - {"lost", "doubled", "date"}:
        source = Counter((f.name, m.raw) for f in mailbox.source.folders for m in f.messages)
        assert source <= Counter((f.name, m.raw) for f in mailbox.target.folders for m in f.messages)


@pytest.mark.parametrize("kind", [name for name, kind in KINDS.items() if kind.default != kind.deep])
def test_what_only_deep_finds_is_in_the_sample_or_not(mailbox: Box, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A sample of everything is as good as `deep` for the content; doubles are looked for by `deep` alone."""
    fill(mailbox).copy()
    monkeypatch.setattr("imapcopy.verify.SAMPLE_SHARE", 1)
    KINDS[kind].act(mailbox)
    expected = {name: n for name, n in KINDS[kind].deep.items() if name != "doubled"}
    assert found_after(mailbox, deep=False) == expected


def test_every_kind_is_found_by_somebody() -> None:
    assert len(KINDS) >= 20
    assert all(kind.deep or kind.in_pass for kind in KINDS.values())


# No false alarm


def member_at_work(box: Box) -> None:
    """What may happen in a mailbox that is in use: new mail, also of the same size, and other flags."""
    inbox(box).deliver(mail(8), moment(4))
    inbox(box).deliver(mail(9, b"x" * 300))
    inbox(box).set_flags(1, ["\\Seen", "\\Answered", "mine"])
    box.target.create("Mine").deliver(mail(3), moment(4))


@pytest.mark.parametrize("deep", [False, True], ids=["default", "deep"])
def test_nothing_is_found_in_a_mailbox_in_use(mailbox: Box, deep: bool) -> None:
    fill(mailbox).copy()
    member_at_work(mailbox)
    assert found_after(mailbox, deep=deep) == {}
    mailbox.copy(deep=deep)
    assert noted(mailbox) == {}


def test_what_was_seen_of_the_flags_right_after_the_copy_stays_noted(mailbox: Box) -> None:
    """A later pass cannot tell the server's doing from the member's: it neither adds to it nor takes it back."""
    mailbox.new.behaviour.ignore_append_flags = True
    mailbox.new.behaviour.keywords_allowed = False
    fill(mailbox).copy()
    assert noted(mailbox) == {"flags": 1, "keyword_dropped": 1}
    inbox(mailbox).set_flags(1, ["\\Answered"])
    mailbox.copy(deep=True)
    assert noted(mailbox) == {"flags": 1, "keyword_dropped": 1}


@pytest.mark.parametrize("server", ["ends", "line ends", "NUL", "header", "adds fields"])
def test_what_a_server_alters_is_named_as_the_pass_named_it_and_is_nothing_else(mailbox: Box, server: str) -> None:
    rewrite: dict[str, Callable[[bytes], bytes]] = {
        "ends": lambda raw: raw if raw.endswith(b"\n") else raw + b"\r\n",
        "line ends": lambda raw: raw.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"),
        "NUL": lambda raw: raw.replace(b"\0", b"\x80"),
        "header": lambda raw: bytes(octet if octet < 128 else ord("X") for octet in raw),
        "adds fields": lambda raw: b"X-Spam: no\r\n" + raw,
    }
    mailbox.new.behaviour.rewrite = rewrite[server]
    fill(mailbox).copy()
    named = {"ends": "final_line_end", "line ends": "line_ends", "NUL": "nul", "header": "header_8bit"}
    expected = {named.get(server, "content"): 12 if server == "adds fields" else 1}
    assert noted(mailbox) == expected
    assert found_after(mailbox, deep=True) == expected
    # A copy of what it made is a double all the same.
    for uid in (3, 7, 8, 9, 10):
        inbox(mailbox).deliver(inbox(mailbox)._by_uid[uid].raw)
    assert found_after(mailbox, deep=True) == {**expected, "doubled": 5}


def test_a_source_that_only_estimates_sizes_raises_no_alarm(mailbox: Box) -> None:
    fill(mailbox).copy()
    LYING_SIZES.update({raw: len(raw) + 7 for raw in INBOX})
    mailbox.new.behaviour.before_command = lambda entry: LYING_SIZES.clear() if entry.verb == "SELECT" else None
    assert found_after(mailbox, deep=False) == {}
    changed(3, lambda raw: raw[:-2])(mailbox)
    LYING_SIZES.update({raw: len(raw) + 7 for raw in INBOX})
    assert found_after(mailbox, deep=False) == {"final_line_end": 1}


def test_two_folders_of_one_target_vouch_for_each_other(mailbox: Box) -> None:
    """What was sent from another source folder into the same one is no double of ours."""
    fill(mailbox).copy()
    mailbox.source.rename(mailbox.source.folder("Work"), "Work2")
    mailbox.copy()
    assert found_after(mailbox, deep=True) == {}


def test_line_ends_that_changed_places_at_equal_size_are_not_seen() -> None:
    """The limit of the digest, which line ends do not touch: no server is known to do that."""
    assert digest(b"a: b\r\n\r\nxy\r\nz\r\n") == digest(b"a: b\r\n\r\nx\r\nyz\r\n")


# What was adopted


@pytest.fixture
def adopted(mailbox: Box) -> Box:
    """Of the mail in INBOX all but the last two was at the target before."""
    fill(mailbox)
    for message in mailbox.folder("INBOX").messages[:-2]:
        inbox(mailbox).deliver(message.raw, message.internal_date, message.flags)
    mailbox.copy()
    assert mailbox.row().already_there == 8
    return mailbox


def test_deep_reads_what_was_adopted_too(adopted: Box) -> None:
    sent = adopted.sent()
    assert found_after(adopted, deep=True) == {}
    changed(3, lambda raw: raw.replace(b"number", b"Number"))(adopted)
    changed(2, lambda raw: raw[:-2])(adopted)
    inbox(adopted).expunge([1])
    assert found_after(adopted, deep=False) == {"lost": 1}, "by default it is only looked for"
    assert found_after(adopted, deep=True) == {"content": 1, "final_line_end": 1, "lost": 1}
    adopted.copy(deep=True)
    assert noted(adopted) == {"content": 1, "final_line_end": 1}
    assert adopted.sent() == sent


def test_what_was_there_twice_before_us_is_not_our_double(mailbox: Box) -> None:
    fill(mailbox)
    for _ in range(2):
        inbox(mailbox).deliver(mail(3), moment(4))
    mailbox.copy()
    assert found_after(mailbox, deep=True) == {}


# What is not known any more


def test_after_a_crash_everything_is_read_back_whose_kind_nobody_knows(mailbox: Box) -> None:
    """Header octets that are overwritten at equal size are found, though another process had read the message."""
    fill(mailbox)
    mailbox.new.behaviour.faults.append(Fault("SELECT", Action.DROP_BEFORE, nth=3, times=None))
    with pytest.raises(ServerError):
        mailbox.copy()
    assert len(mailbox.arrived()) == 10, "sent, and never looked at"
    mailbox.new.behaviour.faults.clear()
    changed(7, lambda raw: bytes(octet if octet < 128 else ord("X") for octet in raw))(mailbox)
    changed(3, lambda raw: raw[:-3] + b"!\r\n")(mailbox)
    mailbox.copy()
    assert noted(mailbox) == {"header_8bit": 1, "content": 1}


def test_after_a_lost_answer_what_was_looked_up_is_read_back_too(mailbox: Box) -> None:
    """The batch was only intended: the next process recognises it, and does not take it for unaltered."""
    mailbox.new.behaviour.rewrite = lambda raw: bytes(octet if octet < 128 else ord("X") for octet in raw)
    fill(mailbox)
    mailbox.new.behaviour.faults += [
        Fault("APPEND", Action.DROP_AFTER, nth=2),
        Fault("AUTHENTICATE", Action.NO, nth=2, text="[UNAVAILABLE] Try again later", times=None),
    ]
    with pytest.raises(MigrationError):
        mailbox.copy()
    states = {b.state for row in mailbox.ledger.folders() for b in mailbox.ledger.batches(row.id or 0)}
    assert BatchState.INTENDED in states
    mailbox.new.behaviour.faults.clear()
    mailbox.copy()
    assert noted(mailbox) == {"header_8bit": 1}
    assert mailbox.row().read_back >= 10, "every message"
    assert sum(len(folder.messages) for folder in mailbox.target.folders) == 12


def test_after_a_broken_connection_only_what_is_risky_is_read_back(mailbox: Box) -> None:
    """What this run has read it knows, whatever happened to the connections since."""
    fill(mailbox)
    mailbox.new.behaviour.faults.append(Fault("SELECT", Action.DROP_BEFORE, nth=3))
    mailbox.copy()
    mailbox.assert_equal()
    assert mailbox.row().read_back == 4


def test_where_the_source_has_no_size_any_more_the_message_is_read(mailbox: Box) -> None:
    fill(mailbox).copy()
    mailbox.folder("INBOX").expunge([3, 4])
    changed(3, lambda raw: raw[:-3] + b"!\r\n")(mailbox)
    changed(1, lambda raw: raw[:-3] + b"!\r\n")(mailbox)
    assert found_after(mailbox, deep=False) == {"content": 1}


# The whole of a mailbox


def test_folders_are_verified_some_at_a_time_and_surveyed_in_flight(
    mailbox: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many folders as a group may have are in memory together, however many there are."""
    for folder, number in product(range(6), range(3)):
        mailbox.deliver(10 * folder + number, f"F{folder}")
    mailbox.copy()
    at_once: list[int] = []
    batches_of = Ledger.batches_of
    monkeypatch.setattr(Ledger, "batches_of", lambda self, ids: (at_once.append(len(ids)), batches_of(self, ids))[1])
    mailbox.old.log.clear()
    assert found_after(mailbox, deep=True, grouping=Grouping(messages=6)) == {}
    assert at_once == [3, 2, 2], "INBOX is empty"
    verbs = [entry.verb for entry in mailbox.old.log if entry.verb in ("EXAMINE", "UID FETCH")]
    assert verbs == ["EXAMINE", "UID FETCH"] * 7, "each scan is asked for with its EXAMINE"


def test_a_folder_that_cannot_be_opened_does_not_hide_the_others(mailbox: Box) -> None:
    fill(mailbox).copy()
    inbox(mailbox).expunge([3])
    words = "[INUSE] Mailbox is locked"
    mailbox.new.behaviour.faults.append(Fault("SELECT", Action.NO, containing="Work", text=words, times=None))
    old, new = account_at(mailbox.old, mailbox.source_user), account_at(mailbox.new, mailbox.target_user)
    first, second = verify_mailbox(old, new, mailbox.ledger, deep=True)
    assert (first.lost, first.failure) == ({3}, None)
    assert second.failure
    assert (second.checked, second.lost) == (0, set())


def test_a_source_folder_that_cannot_be_opened_leaves_the_content_to_be_compared(mailbox: Box) -> None:
    fill(mailbox).copy()
    changed(3, lambda raw: raw[:-3] + b"!\r\n")(mailbox)
    mailbox.old.behaviour.faults.append(
        Fault("EXAMINE", Action.NO, containing="INBOX", text="[INUSE] Mailbox is locked", times=None)
    )
    assert found_after(mailbox, deep=True) == {"content": 1}


# Any mailbox, any mutation


def every_message(box: Box) -> list[tuple[Folder, int]]:
    return [(folder, uid) for folder in box.target.folders for uid in folder.uids]


def remove_one(box: Box, folder: Folder, uid: int, n: int) -> None:
    folder.expunge([uid])


def flip_bit(box: Box, folder: Folder, uid: int, n: int) -> None:
    raw = bytearray(folder._by_uid[uid].raw)
    # A line end stays one, and nothing becomes one: of these the digest does not tell.
    places = [at for at, octet in enumerate(raw) if octet not in b"\r\n" and octet ^ 1 not in b"\r\n"]
    raw[places[n % len(places)]] ^= 1
    folder._by_uid[uid] = replace(folder._by_uid[uid], raw=bytes(raw))


def cut_off(box: Box, folder: Folder, uid: int, n: int) -> None:
    raw = folder._by_uid[uid].raw
    folder._by_uid[uid] = replace(folder._by_uid[uid], raw=raw[: n % len(raw)])


def insert(box: Box, folder: Folder, uid: int, n: int) -> None:
    raw = folder._by_uid[uid].raw
    at = n % len(raw)
    folder._by_uid[uid] = replace(folder._by_uid[uid], raw=raw[:at] + bytes([n % 256]) + raw[at:])


def shift_date(box: Box, folder: Folder, uid: int, n: int) -> None:
    message = folder._by_uid[uid]
    folder._by_uid[uid] = replace(message, internal_date=message.internal_date + timedelta(seconds=1 + n))


def double(box: Box, folder: Folder, uid: int, n: int) -> None:
    folder.deliver(folder._by_uid[uid].raw)


def lose_folder(box: Box, folder: Folder, uid: int, n: int) -> None:
    folder.change_uidvalidity()


MAILBOX = st.lists(
    st.tuples(
        st.sampled_from(["INBOX", "Work", "计划"]),
        st.one_of(st.integers(1, 4).map(mail), st.sampled_from(INBOX), st.binary(min_size=1, max_size=60)),
        st.integers(1, 28),
    ),
    min_size=1,
    max_size=12,
)
MEDDLING = st.lists(
    st.tuples(
        st.sampled_from([remove_one, flip_bit, cut_off, insert, shift_date, double, lose_folder]),
        st.integers(0, 1000),
        st.integers(0, 1000),
    ),
    max_size=1,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(mailbox_content=MAILBOX, meddling=MEDDLING)
def test_any_mutation_of_any_mailbox_is_found_and_no_other(
    engine: Engine,
    both: tuple[ImapServer, ImapServer],
    mailbox_content: list[tuple[str, bytes, int]],
    meddling: list[tuple[Callable[..., None], int, int]],
) -> None:
    old, new = both
    user = f"user{len(old.addresses)}@example"
    old.add_account(user, PASSWORD)
    new.add_account(user, PASSWORD)
    box = Box(engine, old, new, new_member(engine, user), user, user)
    for folder, raw, day in mailbox_content:
        box.deliver(1, folder, raw=raw, internal_date=moment(day))
    box.copy()
    for act, which, n in meddling:
        messages = every_message(box)
        folder_of, uid = messages[which % len(messages)]
        before = [(m.uid, m.raw, m.internal_date) for m in folder_of.messages], folder_of.uidvalidity
        act(box, folder_of, uid, n)
        if before == ([(m.uid, m.raw, m.internal_date) for m in folder_of.messages], folder_of.uidvalidity):
            meddling = []
    found = found_after(box, deep=True)
    assert bool(found) == bool(meddling), (found, meddling)
    box.assert_untouched()


@pytest.fixture
def both(old: ImapServer, new: ImapServer) -> tuple[ImapServer, ImapServer]:
    return old, new
