"""What a probe has found out spares a copy commands that would be refused, and saves what it would lose.

Each test makes the same copy with and without the probe of that very server.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from deployments.demo.imap_server import Action, Behaviour, Fault, ImapServer
from imapcopy import probe as probing
from imapcopy.copy_options import CopyOptions
from imapcopy.plan_mailbox import plan_mailbox
from imapcopy.probe import probe_mailbox
from imapcopy.send import Capacity
from models.probe import Known, Probe, Rate, best_of, known, signature
from tests.imapcopy.world import LIN, NEW, PASSWORD, Box, account_at, mail, new_member

FEISHU = frozenset({"IMAP4rev1", "UIDPLUS", "MOVE", "AUTH=PLAIN"})
"""One message a command, over several connections."""


@dataclass
class Run:
    """A copy into a server of its own, and what it cost there."""

    box: Box
    probe: Probe | None

    @property
    def appends(self) -> int:
        return self.box.sent("APPEND") - self.before["APPEND"]

    before: dict[str, int]

    def count(self, verb: str) -> int:
        return self.box.sent(verb) - self.before[verb]


Both = Callable[..., tuple[Run, Run]]


@pytest.fixture
def both(engine: Engine, request: pytest.FixtureRequest) -> Both:
    """Runs the same copy twice, into servers of one behaviour: without a probe, and with it."""

    def run(fill: Callable[[Box], None], behaviour: Callable[[], Behaviour], **options: Any) -> tuple[Run, Run]:
        runs = []
        for number, probed in enumerate((False, True)):
            old = ImapServer("old", {LIN: PASSWORD})
            new = ImapServer("new", {NEW: PASSWORD}, behaviour())
            for server in (old, new):
                server.start()
                request.addfinalizer(server.stop)
            box = Box(engine, old, new, new_member(engine, f"{number}.{LIN}"))
            fill(box)
            probe = probe_mailbox(account_at(new, NEW), size_limit="limited" in options) if probed else None
            before = {verb: box.sent(verb) for verb in ("APPEND", "CREATE", "AUTHENTICATE", "UID STORE")}
            given = {name: value for name, value in options.items() if name != "limited"}
            box.copy(**given, known=known(probe, probe.at) if probe else Known())
            runs.append(Run(box, probe, before))
        return runs[0], runs[1]

    return run


def one_by_one(**changes: Any) -> Callable[[], Behaviour]:
    return lambda: Behaviour(**{"capabilities": FEISHU, **changes})


def test_keywords_that_are_not_kept_are_not_sent(both: Both) -> None:
    def fill(box: Box) -> None:
        for number in range(4):
            box.deliver(number, flags=frozenset({"\\Seen", "Work"}))

    def behaviour() -> Behaviour:
        """Promises to keep any keyword, and refuses them all."""
        refused = ((verb, word) for verb in ("APPEND", "STORE") for word in ("Work", "$Forwarded", "BanjiaProbe"))
        said = "[CANNOT] Keywords are not supported"
        faults = [Fault(verb, Action.NO, containing=word, text=said, times=None) for verb, word in refused]
        return Behaviour(capabilities=FEISHU, faults=faults)

    without, with_probe = both(fill, behaviour)
    assert (without.appends > 4, with_probe.appends) == (True, 4)
    for run in (without, with_probe):
        assert sorted(run.box.arrived()) == sorted(mail(number) for number in range(4))
        assert "keyword_dropped" in run.box.altered()
        run.box.assert_counted()


def test_what_would_be_refused_is_repaired_before_it_is_sent(both: Both) -> None:
    def refuses(raw: bytes) -> str | None:
        return "Message contains NUL characters" if b"\0" in raw else None

    def fill(box: Box) -> None:
        for number in range(6):
            box.deliver(number, raw=mail(number, b"a \0 b" if number % 2 else b"plain"))

    without, with_probe = both(fill, one_by_one(refuse_message=refuses), repair="refused")
    assert (without.appends > 6, with_probe.appends) == (True, 6)
    for run in (without, with_probe):
        assert sorted(run.box.arrived()) == sorted(
            mail(number, b"a  b" if number % 2 else b"plain") for number in range(6)
        )
        assert run.box.altered() == '{"repaired": 3}'
        run.box.assert_counted()


def test_nothing_is_repaired_without_leave(both: Both) -> None:
    def fill(box: Box) -> None:
        box.deliver(1, raw=mail(1, b"a \0 b"))

    runs = both(fill, one_by_one(refuse_message=lambda raw: "NUL" if b"\0" in raw else None))
    assert [run.box.arrived() for run in runs] == [[], []]


def test_messages_beyond_a_limit_that_nobody_tells_are_not_even_read(both: Both, monkeypatch: Any) -> None:
    monkeypatch.setattr(probing, "MB", 10_000)

    def fill(box: Box) -> None:
        for number in range(3):
            box.deliver(number, raw=mail(number, b"x" * 900_000 if number else b"small"))

    without, with_probe = both(fill, one_by_one(max_message_bytes=400_000), limited=True)
    assert (without.appends > 1, with_probe.appends) == (True, 1)
    assert with_probe.probe is not None
    assert with_probe.probe.smallest_refused == 500_000
    for run in (without, with_probe):
        assert set(run.box.issues().values()) == {"message_too_large"}
        run.box.assert_counted()
    read = [
        sum("BODY.PEEK[]" in entry.rest for entry in run.box.old.commands("UID FETCH")) for run in (without, with_probe)
    ]
    assert read[1] <= read[0]


def test_names_that_are_refused_are_not_tried(both: Both) -> None:
    def fill(box: Box) -> None:
        for name in ("2024: Q1", "a|b", "plain", "plain/what?"):
            box.deliver(len(name), name)

    without, with_probe = both(fill, one_by_one(refused_in_names=":|?"))
    assert (without.count("CREATE") > 4, with_probe.count("CREATE")) == (True, 4)
    names = [{folder.name for folder in run.box.target.folders} for run in (without, with_probe)]
    assert names[0] == names[1] == {"INBOX", "2024_ Q1", "a_b", "plain", "plain/what_"}


def test_the_plan_shows_the_names_that_will_be_given(both: Both) -> None:
    def fill(box: Box) -> None:
        box.deliver(1, "a|b")

    _, with_probe = both(fill, one_by_one(refused_in_names="|"))
    box, probe = with_probe.box, with_probe.probe
    assert probe is not None
    box.deliver(2, "c|d")
    sides = account_at(box.old, LIN), account_at(box.new, NEW)
    for options, name in ((CopyOptions(known=known(probe, probe.at)), "c_d"), (CopyOptions(), "c|d")):
        planned = {folder.source_name: folder.target_name for folder in plan_mailbox(*sides, options, {})}
        assert planned["c|d"] == name


def test_flags_that_append_loses_are_set_also_on_a_single_message(both: Both) -> None:
    def fill(box: Box) -> None:
        box.deliver(1, flags=frozenset({"\\Seen", "\\Flagged"}))
        box.deliver(2, flags=frozenset({"\\Seen"}))

    without, with_probe = both(fill, one_by_one(flags_lost_at_append=frozenset({"\\Flagged"})))
    flagged = [
        sum("\\Flagged" in m.flags for m in run.box.target.folder("INBOX").messages) for run in (without, with_probe)
    ]
    assert flagged == [0, 1]
    assert (without.box.altered(), with_probe.box.altered()) == ('{"flags": 1}', "{}")


def test_equal_messages_are_not_sent_where_one_is_kept_and_not_taken_for_lost(both: Both) -> None:
    def fill(box: Box) -> None:
        for number in (1, 2, 1, 1, 3):
            box.deliver(number)

    without, with_probe = both(fill, one_by_one(stores_once=True))
    assert (without.appends > 3, with_probe.appends) == (True, 3)
    assert sorted(with_probe.box.arrived()) == [mail(1), mail(2), mail(3)]
    assert list(with_probe.box.issues().values()) == ["equal_kept", "equal_kept"]
    with_probe.box.assert_counted()
    sent = with_probe.box.sent()
    with_probe.box.copy(known=known(with_probe.probe, datetime.now(UTC)))
    assert with_probe.box.sent() == sent
    assert with_probe.box.row().issues == 2


def test_the_equal_of_a_message_that_does_not_arrive_is_sent(both: Both) -> None:
    """Otherwise it would be told that its equal is there, and neither would be."""

    def fill(box: Box) -> None:
        for number in (1, 2, 1):
            box.deliver(number)

    def behaviour() -> Behaviour:
        met: list[bytes] = []

        def refuse_first(raw: bytes) -> str | None:
            met.append(raw)
            return "[CANNOT] a virus was found" if raw == mail(1) and met.count(raw) <= 2 else None

        return Behaviour(capabilities=FEISHU, stores_once=True, refuse_message=refuse_first)

    _, with_probe = both(fill, behaviour)
    assert sorted(with_probe.box.arrived()) == [mail(1), mail(2)]
    assert list(with_probe.box.issues().values()) == ["virus_rejected"]
    with_probe.box.assert_counted()


def test_as_many_connections_as_paid_are_opened_and_no_more_than_were_allowed(both: Both) -> None:
    def fill(box: Box) -> None:
        for number in range(200):
            box.deliver(number)

    without, with_probe = both(fill, one_by_one(max_connections=3, latency=0.002), capacity=Capacity(connections=8))
    assert with_probe.probe is not None
    assert with_probe.probe.most_connections == 2
    assert with_probe.count("AUTHENTICATE") <= 2
    for run in (without, with_probe):
        assert len(run.box.arrived()) == 200


def test_a_probe_of_another_server_is_not_gone_by(both: Both) -> None:
    def fill(box: Box) -> None:
        for number in (1, 1):
            box.deliver(number)

    _, with_probe = both(fill, one_by_one(stores_once=True))
    box, probe = with_probe.box, with_probe.probe
    assert probe is not None
    box.new.behaviour.stores_once = False
    box.new.behaviour.greeting = " Another server altogether"
    other = replace(box, member_id=new_member(box.engine, "third"), options=CopyOptions())
    box.new.add_account(NEW, PASSWORD)
    other.copy(known=known(probe, probe.at))
    assert other.arrived() == [mail(1), mail(1)]


AT = datetime(2026, 11, 1, tzinfo=UTC)
PROBE = Probe("new.example", AT, "* OK ready", duplicates=1)


@pytest.mark.parametrize(
    ("probe", "at", "used"),
    [
        (PROBE, AT + timedelta(days=29), True),
        (PROBE, AT + timedelta(days=31), False),
        (replace(PROBE, unfinished="throttled"), AT, False),
    ],
)
def test_what_is_old_or_unfinished_is_not_gone_by_and_said_to_be_so(probe: Probe, at: datetime, used: bool) -> None:
    found = known(probe, at)
    assert (found.one_of_equals, found.outdated) == (used, not used)


def test_without_a_probe_nothing_is_known_and_nothing_outdated() -> None:
    assert known(None, AT) == Known()


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (
            "* OK Gimap ready for requests from 192.0.2.7 a1b2c3",
            "* OK Gimap ready for requests from 198.51.100.1 9f",
            True,
        ),
        ("* OK [CAPABILITY IMAP4rev1 ID] Dovecot ready.", "* OK [CAPABILITY IMAP4rev1] Dovecot ready.", True),
        ("* OK AliYun IMAP Server Ready(10.147.40.164)", "* OK AliYun IMAP Server Ready(10.147.40.9)", True),
        ("* OK IMAP4 ready", "* OK The Microsoft Exchange IMAP4 service is ready.", False),
        ("* OK [CAPABILITY IMAP4rev1] Dovecot ready.", "* OK [CAPABILITY IMAP4rev1] Courier-IMAP ready.", False),
    ],
)
def test_greetings_of_one_server_differ_in_numbers_alone(one: str, other: str, same: bool) -> None:
    assert (signature(one) == signature(other)) is same


@pytest.mark.parametrize(
    ("seconds", "errors", "best"),
    [
        ([20, 20, 20, 20], 0, 8),
        ([20, 20, 39, 100], 0, 2),
        ([20, 40, 80, 160], 0, 1),
        ([20, 20, 20, 20], 1, 4),
        ([20], 0, 1),
    ],
)
def test_the_number_to_begin_with_is_the_last_that_was_worth_it(seconds: list[int], errors: int, best: int) -> None:
    counts = (1, 2, 4, 8)
    rates = [
        Rate(n, n, 20 * n, float(taken), ("too_many_connections",) if errors and n == 8 else ())
        for n, taken in zip(counts, seconds, strict=False)
    ]
    assert best_of(rates) == best
