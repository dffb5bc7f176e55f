"""Equal messages, and those that differ in a line end, keep their own dates and flags, whatever becomes of a batch."""

import random
from collections import Counter
from collections.abc import Collection
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.demo.imap_server import CAPABILITIES, Action, Fault, ImapServer
from imapcopy import group_pass, send
from imapcopy.account import Account, Server
from imapcopy.copy_mailbox import copy_mailbox
from imapcopy.copy_options import CopyOptions
from imapcopy.send import Capacity
from imapcopy.twins import AGREEMENTS, Mark, folded, pair
from models.ledger import Ledger
from models.member import release_lease
from tests.fidelity.moves import PASSWORD, inbox
from tests.imapcopy.world import NEW, Box, account_at, contents, everything, mail, moment
from tests.servers.cyrus import StartCyrus

SEEN, FLAGGED, NONE = frozenset({"\\seen"}), frozenset({"\\flagged"}), frozenset[str]()
EARLY, LATE = datetime(2008, 1, 1, tzinfo=UTC), datetime(2018, 1, 1, tzinfo=UTC)
PROFILES = {
    "stream": CAPABILITIES,
    "only UIDPLUS": frozenset({"IMAP4rev1", "UIDPLUS", "AUTH=PLAIN"}),
    "nothing": frozenset({"IMAP4rev1"}),
}


@pytest.mark.parametrize(
    ("wanted", "found", "pairs"),
    [
        # Of two, each takes its own, in whatever order they come.
        ([Mark(LATE, FLAGGED, 9), Mark(EARLY, SEEN, 9)], [Mark(EARLY, SEEN, 9), Mark(LATE, FLAGGED, 9)], {0: 1, 1: 0}),
        # Only the second's copy is there: the first does not take it.
        ([Mark(LATE, FLAGGED, 9), Mark(EARLY, SEEN, 9)], [Mark(EARLY, SEEN, 9)], {1: 0}),
        # They differ in a final line end alone.
        ([Mark(LATE, SEEN, 240), Mark(LATE, SEEN, 238)], [Mark(LATE, SEEN, 238)], {1: 0}),
        # The server has added one to both; their dates tell.
        ([Mark(LATE, NONE, 240), Mark(EARLY, NONE, 238)], [Mark(EARLY, NONE, 240)], {1: 0}),
        # The member has marked one of them; their dates tell.
        ([Mark(LATE, NONE, 9), Mark(EARLY, SEEN, 9)], [Mark(LATE, SEEN, 9)], {0: 0}),
        # The server writes its own dates; their flags tell.
        ([Mark(LATE, NONE, 9), Mark(EARLY, SEEN, 9)], [Mark(None, SEEN, 9)], {1: 0}),
        # It keeps neither: then one of them it is, the first to the first.
        ([Mark(LATE, FLAGGED, 9), Mark(EARLY, SEEN, 9)], [Mark(None, NONE, 9), Mark(None, NONE, 9)], {0: 0, 1: 1}),
        ([Mark(LATE, FLAGGED, 9)], [Mark(EARLY, SEEN, 9)], {0: 0}),
        # What it has told is surer than all else.
        ([Mark(LATE, SEEN, 9, 7), Mark(EARLY, SEEN, 9)], [Mark(EARLY, SEEN, 9, 7)], {0: 0}),
        # Nothing known is no agreement.
        ([Mark(), Mark(EARLY)], [Mark(), Mark(EARLY)], {1: 1, 0: 0}),
        ([], [Mark()], {}),
        ([Mark()], [], {}),
    ],
)
def test_twins_are_told_apart(wanted: list[Mark], found: list[Mark], pairs: dict[int, int]) -> None:
    assert dict(pair(wanted, found)) == pairs


MARKS = st.lists(
    st.builds(
        Mark, st.sampled_from([None, EARLY, LATE]), st.sampled_from([None, NONE, SEEN]), st.integers(0, 2), st.just(0)
    ),
    max_size=7,
)


@given(MARKS, MARKS)
def test_as_many_are_paired_as_there_are_and_none_takes_what_fits_another_better(
    wanted: list[Mark], found: list[Mark]
) -> None:
    pairs = dict(pair(wanted, found))
    assert len(pairs) == len(set(pairs.values())) == min(len(wanted), len(found))

    def agreement(one: Mark, other: Mark) -> int:
        """The place in the table of what they agree in."""
        return next(
            place
            for place, names in enumerate(AGREEMENTS)
            if all(getattr(one, n) == getattr(other, n) and getattr(one, n) not in (None, 0) for n in names)
        )

    for one, other in pairs.items():
        for rival in range(len(wanted)):
            mine, theirs = agreement(wanted[one], found[other]), agreement(wanted[rival], found[other])
            has = agreement(wanted[rival], found[pairs[rival]]) if rival in pairs else len(AGREEMENTS)
            assert not (theirs < mine and theirs < has), "it fits another one better, which has a worse one or none"


def test_flags_are_compared_without_case_and_without_what_no_copy_gets() -> None:
    assert folded(frozenset({"\\Seen", "$Project", "\\Recent", "\\Deleted"})) == {"\\seen", "$project"}


# Through a whole pass


def fill(box: Box, kind: str, draw: random.Random, refused: Collection[int] = (), body: bytes = b"refused") -> None:
    """Forty messages, of which there are but four texts, each with a date and flags of its own; others between."""
    for number in range(40):
        if number in refused:
            box.deliver(100 + number, raw=mail(100 + number, body), internal_date=moment(2))
        raw = mail(number % 4)
        if kind == "near" and draw.random() < 0.5:
            raw = raw.removesuffix(b"\r\n")
        flags = frozenset(draw.sample(["\\Seen", "\\Flagged", "\\Answered"], draw.randrange(3)))
        date = moment(1).replace(hour=number % 24, minute=number)
        box.deliver(number, raw=raw, internal_date=date, flags=flags)


@pytest.fixture(params=PROFILES)
def pair_of_servers(request: pytest.FixtureRequest, mailbox: Box, monkeypatch: pytest.MonkeyPatch) -> Box:
    mailbox.new.behaviour.capabilities = PROFILES[request.param]
    mailbox.options = CopyOptions(capacity=Capacity(connections=3))
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 5)
    monkeypatch.setattr(send, "FLEET_BATCH_MESSAGES", 5)
    return mailbox


@pytest.mark.parametrize("kind", ["equal", "near"])
@pytest.mark.parametrize("seed", range(2))
def test_lost_replies_change_no_twins(pair_of_servers: Box, kind: str, seed: int) -> None:
    """Six answers to APPEND are lost, before the server has stored what came, or after it; never three in a row."""
    draw = random.Random(seed)
    fill(pair_of_servers, kind, draw)
    for nth in range(1, 13, 2):
        action = draw.choice([Action.DROP_AFTER, Action.DROP_AFTER, Action.DROP_BEFORE])
        pair_of_servers.new.behaviour.faults.append(Fault("APPEND", action, nth=nth))
    for _ in range(4):
        pair_of_servers.copy()
    pair_of_servers.assert_equal()
    assert pair_of_servers.altered() == "{}"


@pytest.mark.parametrize("kind", ["equal", "near"])
@pytest.mark.parametrize("seed", range(2))
def test_a_refused_message_beside_twins_costs_only_itself(pair_of_servers: Box, kind: str, seed: int) -> None:
    draw = random.Random(seed)
    fill(pair_of_servers, kind, draw, (3, 17, 18, 31))
    refuse(pair_of_servers.new)
    for _ in range(2):
        pair_of_servers.copy()
    wanted = everything(pair_of_servers.old, pair_of_servers.source_user)
    for look in list(wanted):
        if b"refused" in look[1]:
            del wanted[look]
    assert everything(pair_of_servers.new, NEW) == wanted
    assert contents(pair_of_servers.new, NEW).total() == 40
    assert pair_of_servers.altered() == "{}"
    assert len(pair_of_servers.issues()) == 4


def refuse(server: ImapServer) -> None:
    server.behaviour.refuse_message = lambda raw: "Message contains invalid header" if b"refused" in raw else None


@pytest.mark.parametrize("kind", ["equal", "near"])
def test_a_refused_message_beside_twins_costs_only_itself_at_cyrus(
    mailbox: Box, start_cyrus: StartCyrus, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Cyrus takes no NUL, and refuses with it all that goes in the same command."""
    monkeypatch.setattr(group_pass, "BATCH_MESSAGES", 5)
    fill(mailbox, kind, random.Random(1), (3, 17, 18, 31), b"refused \0")
    cyrus = start_cyrus()
    cyrus.add_user("lin", PASSWORD)
    target = Account(Server(host=cyrus.host, port=cyrus.port, security="plain"), "lin", PASSWORD)
    for _ in range(2):
        token = mailbox.lease()
        try:
            copy_mailbox(
                account_at(mailbox.old, mailbox.source_user),
                target,
                Ledger(mailbox.engine, mailbox.member_id, token),
                CopyOptions(),
            )
        finally:
            release_lease(mailbox.engine, mailbox.member_id, token)
    here = Counter(
        (message.raw, message.internal_date.astimezone(UTC), folded(message.flags))
        for message in mailbox.folder("INBOX").messages
        if b"refused" not in message.raw
    )
    there = Counter(
        (kept.raw, kept.arrived.astimezone(UTC), folded(kept.flags)) for kept in inbox(cyrus, "lin").values()
    )
    assert there == here
    assert set(mailbox.issues().values()) == {"invalid_message"}
    assert len(mailbox.issues()) == 4
    assert mailbox.altered() == "{}"
