"""What becomes of a folder that the target says it has created."""

import re
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.demo.imap_server import CAPABILITIES, Action, Fault
from imapcopy.connection import Listing
from imapcopy.created import Created, made_of, squeezed
from imapcopy.errors import FolderError, MigrationError, Stopped
from imapcopy.folders import Folder, map_folders
from imapcopy.grammar import decode_mailbox, encode_mailbox
from imapcopy.responses import FolderStatus, Selected
from tests.imapcopy.world import Box, contents, mail


def places(box: Box) -> dict[str, str]:
    return {row.source_name: row.target_name for row in box.ledger.folders()}


def whys(box: Box) -> dict[str, str]:
    return {name: place.why for name, place in box.ledger.places().items()}


def trimmed(name: str) -> str:
    return "/".join(part.strip() for part in name.split("/"))


def plain(name: str) -> str:
    return name.replace("*", "").replace("é", "e")


def cut(name: str) -> str:
    return "/".join(part[:20] for part in name.split("/"))


def lost(name: str) -> str:
    """A name that is not at all the one that was asked for."""
    return "~import" if "*" in name else name


CASES: list[tuple[Callable[[str], str], dict[str, str], str]] = [
    (trimmed, {" edge ": "edge", " edge /in ": "edge/in", "Work": "Work"}, "made_as"),
    (plain, {"a*b": "ab", "Café*": "Cafe"}, "made_as"),
    (cut, {"quite a long name for a folder": "quite a long name fo", "quite": "quite"}, "made_as"),
    (lost, {"a*b": "a_b"}, "characters"),
]


@pytest.mark.parametrize("opens", [False, True], ids=["opened as made", "opened as asked too"])
@pytest.mark.parametrize(
    "capabilities", [CAPABILITIES, frozenset({"IMAP4rev1", "UIDPLUS"})], ids=["full", "only UIDPLUS"]
)
@pytest.mark.parametrize(("makes", "expected", "why"), CASES, ids=["trimmed", "plain", "cut", "lost"])
def test_mail_goes_into_the_folder_that_the_server_has_made(
    mailbox: Box,
    makes: Callable[[str], str],
    expected: dict[str, str],
    why: str,
    capabilities: frozenset[str],
    opens: bool,
) -> None:
    mailbox.new.behaviour.capabilities = capabilities
    mailbox.new.behaviour.made_as, mailbox.new.behaviour.opens_as_made = makes, opens
    for number, name in enumerate(expected):
        mailbox.deliver(number, name)
    mailbox.copy(pause=never if makes is not lost else lambda seconds: None)
    arrived = contents(mailbox.new, mailbox.target_user)
    if not opens:
        assert {name: places(mailbox)[name] for name in expected} == expected
        assert {whys(mailbox)[name] for name in expected if expected[name] != name} == {why}
        assert arrived == Counter((expected[name], mail(number)) for number, name in enumerate(expected))
    assert arrived.total() == len(expected)
    assert len({folder for folder, _ in arrived}) == len(expected)
    appends = mailbox.sent()
    for _ in range(2):
        mailbox.copy(pause=never)
    assert mailbox.sent() == appends
    assert contents(mailbox.new, mailbox.target_user) == arrived
    mailbox.assert_counted()


def never(seconds: float) -> None:
    raise AssertionError("nothing here needs to be waited for")


def test_a_name_that_the_server_makes_of_another_one_is_not_shared_with_the_folder_of_that_name(mailbox: Box) -> None:
    """`A ` and `A` are one folder there, whichever of them is opened."""
    mailbox.new.behaviour.made_as, mailbox.new.behaviour.opens_as_made = trimmed, True
    for number, name in enumerate(("A", "A ", "B ", "B")):
        mailbox.deliver(number, name)
        # What is equal would be taken for the other one's copy.
        mailbox.deliver(9, name)
    mailbox.copy(pause=never)
    arrived = contents(mailbox.new, mailbox.target_user)
    assert arrived.total() == 8
    assert len({folder for folder, _ in arrived}) == 4
    mailbox.copy(pause=never)
    assert contents(mailbox.new, mailbox.target_user) == arrived
    mailbox.assert_counted()


@pytest.mark.parametrize("lists", [1, 3])
def test_a_folder_that_is_there_only_later_is_waited_for(mailbox: Box, lists: int) -> None:
    mailbox.new.behaviour.capabilities = frozenset({"IMAP4rev1", "UIDPLUS", "NAMESPACE"})
    mailbox.new.behaviour.shown_after = lists
    for number, name in enumerate(("A", "A/B", "C d")):
        mailbox.deliver(number, name)
    waits: list[float] = []
    mailbox.copy(pause=waits.append)
    assert waits == [0.5, 1.0, 2.0][: lists - 1]
    mailbox.assert_equal()
    appends = mailbox.sent()
    mailbox.copy(pause=never)
    assert mailbox.sent() == appends


def test_a_folder_that_does_not_come_costs_no_other_one_and_says_so(mailbox: Box) -> None:
    mailbox.new.behaviour.shown_after = 100
    mailbox.deliver(1)
    mailbox.deliver(2, "Late")
    waits: list[float] = []
    with pytest.raises(FolderError) as caught:
        mailbox.copy(pause=waits.append)
    assert (caught.value.cause_id, caught.value.where, caught.value.side) == ("folder_not_created", "Late", "target")
    assert "NONEXISTENT" in caught.value.server_text
    assert caught.value.retryable
    assert sum(waits) == 7.5
    assert mailbox.arrived() == [mail(1)]
    # Hours later it is there.
    mailbox.target.folder("Late").shown_after = 0
    mailbox.copy(pause=never)
    mailbox.assert_equal()


def test_a_stop_is_obeyed_while_a_folder_is_waited_for(mailbox: Box) -> None:
    mailbox.new.behaviour.shown_after = 100
    mailbox.deliver(1, "Late")
    stop = threading.Event()
    with pytest.raises(Stopped):
        mailbox.copy(stop=stop, pause=lambda seconds: stop.set())


def test_a_folder_that_is_there_and_does_not_open_is_not_waited_for(mailbox: Box) -> None:
    mailbox.new.behaviour.faults = [Fault("SELECT", Action.NO, containing="Shut", text="[NOPERM] no", times=None)]
    mailbox.deliver(1, "Shut")
    mailbox.deliver(2, "Open")
    with pytest.raises(MigrationError) as caught:
        mailbox.copy(pause=never)
    assert caught.value.cause_id == "permission_denied"
    assert mailbox.arrived("Open") == [mail(2)]


def test_on_a_server_that_creates_what_it_is_asked_for_nothing_more_is_asked(mailbox: Box) -> None:
    for number in range(5):
        mailbox.deliver(number, f"Folder {number}")
    mailbox.copy(pause=never)
    verbs = Counter(entry.verb for entry in mailbox.new.log)
    assert (verbs["LIST"], verbs["STATUS"], verbs["CREATE"]) == (1, 0, 5)


@pytest.mark.parametrize("second", ["INBOX/", ""], ids=["told", "not told"])
def test_two_names_of_one_folder_at_the_target_are_not_filled_both(mailbox: Box, second: str) -> None:
    """At the source `Kunden` and `INBOX/Kunden` are two; at the target one is a second name of the other."""
    mailbox.new.behaviour.second_prefix = "INBOX/"
    if not second:
        mailbox.new.behaviour.namespaces = '(("" "/")) NIL NIL'
    for number, name in enumerate(("Kunden", "INBOX/Kunden")):
        mailbox.deliver(number, name)
        mailbox.deliver(9, name)
    mailbox.copy(pause=never)
    arrived = contents(mailbox.new, mailbox.target_user)
    assert sorted(Counter(folder for folder, _ in arrived.elements()).values()) == [2, 2]
    appends = mailbox.sent()
    mailbox.copy(pause=never)
    assert mailbox.sent() == appends
    mailbox.assert_counted()


@pytest.mark.parametrize(
    ("name", "new", "made"),
    [
        ("A ", ["A"], "A"),
        ("A  b/ C", ["A b/C"], "A b/C"),
        ("e\u0301t\u00e9", ["\u00e9t\u00e9"], "\u00e9t\u00e9"),
        ("A*", ["a_"], "a_"),
        # Of two nobody knows which; another folder may have come from the member.
        ("A ", ["A", "a_"], ""),
        ("A ", ["Holidays"], ""),
        ("A ", [], ""),
        ("***", ["+++"], ""),
        ("a long name for a folder", ["a long name for"], "a long name for"),
        ("a long name", ["a long"], ""),
        ("a long name for a folder", ["a long name for", "a long name for a"], ""),
    ],
)
def test_what_a_server_made_of_a_name_is_told_only_where_it_is_certain(name: str, new: list[str], made: str) -> None:
    assert made_of(name, new, {name}) == made
    assert made_of(name, new, {name, "a long name for all"}) == ("" if "long" in made else made)


def test_letters_and_figures_of_a_name_are_what_servers_leave_alone() -> None:
    assert squeezed("V 1.2_（重要）") == "v12重要"
    assert squeezed("***") == ""


class Server:
    """A target that makes of names what it likes, and shows folders when it likes; what it holds is known by number."""

    def __init__(self, makes: Callable[[str], str], opens: bool, after: int, refuses: str) -> None:
        self.makes, self.opens, self.after, self.refuses = makes, opens, after, refuses
        self.held = {"INBOX": 1}
        self.hidden: dict[str, int] = {}

    def ask(self, question: Callable[..., object], *arguments: object) -> object:
        name = question.__name__
        return question(self) if name == "<lambda>" else getattr(self, name)(*arguments)

    again = ask

    def each(self, items: Iterable[str], question: Callable[..., Iterable[object]], **_: object) -> Iterable[object]:
        found: Iterable[object] = getattr(self, question.__name__)(items)
        return found

    def listing(self) -> Listing:
        self.hidden = {name: looks - 1 for name, looks in self.hidden.items() if looks > 1}
        shown = [name for name in self.held if name not in self.hidden]
        return Listing("", "/", tuple(folder_of(name) for name in shown), None)

    def create(self, names: Iterable[str], *_: object) -> dict[str, FolderError]:
        refused = {}
        for name in names:
            if set(name) & set(self.refuses):
                refused[name] = FolderError("folder_name_invalid", "target", "NO no")
            elif (made := self.makes(name)) not in self.held:
                self.held[made] = len(self.held) + 1
                self.hidden |= {made: self.after} if self.after else {}
        return refused

    def number(self, name: str) -> int | None:
        """Which folder opens under a name."""
        name = self.makes(name) if self.opens else name
        return None if name in self.hidden else self.held.get(name)

    def select_each(self, names: Iterable[str]) -> Iterator[tuple[str, Selected | MigrationError]]:
        for name in names:
            number = self.number(name)
            missing = FolderError("folder_missing", "target", "NO [NONEXISTENT] no", where=name)
            yield name, Selected(number, 1, 0, None) if number else missing

    def statuses(self, names: Iterable[bytes]) -> dict[bytes, FolderStatus]:
        told = {raw: self.number(decode_mailbox(raw)) for raw in names}
        return {raw: FolderStatus(0, 1, number) for raw, number in told.items() if number}


def folder_of(name: str) -> Folder:
    return Folder(encode_mailbox(name), name, "/", frozenset())


def unsigned(name: str) -> str:
    return re.sub("[*.]", "", name) or "_"


def single(name: str) -> str:
    return re.sub(" +", " ", trimmed(name)) or "_"


MADE = st.sampled_from([lambda name: name, trimmed, single, unsigned, lambda name: single(unsigned(name)) or "_"])


@pytest.mark.fuzz
@given(
    st.lists(st.text("aB *./", min_size=1, max_size=6), min_size=1, max_size=6, unique=True),
    MADE,
    st.booleans(),
    st.integers(0, 9),
    st.sampled_from(["", "*", ".", " "]),
)
def test_whatever_a_server_makes_of_names_no_folder_is_filled_from_two(
    names: list[str], makes: Callable[[str], str], opens: bool, after: int, refuses: str
) -> None:
    """Each folder of the source ends with one of the target that opens and is its own, or with a failure of its own."""
    server = Server(makes, opens, 0 if opens else after, refuses)
    plan = map_folders([folder_of(name) for name in ("INBOX", *names)], [folder_of("INBOX")])
    created = Created(server, plan, {"INBOX"}, {}, lambda seconds: None)  # type: ignore[arg-type]
    created.make()
    going = [pair for pair in created.plan.pairs if pair.target_name not in created.refused]
    landed = dict(server.select_each([pair.target_name for pair in going]))
    landed |= created.found(going, landed)
    numbers = Counter[int]()
    for pair in created.now(going):
        opened = landed[pair.target_name]
        if isinstance(opened, Selected):
            numbers[opened.uidvalidity] += 1
        else:
            assert opened.cause_id in {"folder_not_created", "folder_name_invalid"}
    assert set(numbers.values()) <= {1}
    assert len(created.plan.pairs) == len(plan.pairs)
