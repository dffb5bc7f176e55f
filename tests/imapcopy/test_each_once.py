"""Each folder is moved once, whatever names it has, and none that is not the member's own."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from functools import partial
from itertools import count
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from deployments.demo.imap_server import CAPABILITIES, Behaviour
from deployments.demo.imap_server import Folder as Stored
from imapcopy.aliases import Names, Suspected, find_aliases, may_be_same_mail, place_of, suspects
from imapcopy.check_mailbox import check_mailbox
from imapcopy.folders import Folder, map_folders
from imapcopy.grammar import encode_mailbox
from imapcopy.namespaces import NO_NAMESPACES, Namespace, Namespaces
from imapcopy.plan import Envelope
from imapcopy.plan_mailbox import plan_mailbox
from imapcopy.responses import FolderStatus, Selected
from imapcopy.source_connection import Surveyed
from models.rules import FolderRules
from tests.imapcopy.world import Box, account_at, contents, mail

Change = Callable[[Behaviour], None]
PLAIN = frozenset({"IMAP4rev1", "UIDPLUS", "NAMESPACE"})
FULL = CAPABILITIES | {"OBJECTID"}


def left_out(box: Box) -> dict[str, str]:
    return {name: place.why for name, place in box.ledger.places().items() if not place.target_name}


def places(box: Box) -> dict[str, str]:
    return {row.source_name: row.target_name for row in box.ledger.folders()}


def checked(box: Box) -> dict[str, int]:
    """Counts of the check's findings about folders, and of what it has seen."""
    look = check_mailbox(account_at(box.old, box.source_user), account_at(box.new, box.target_user), box.options).look
    told = {found.name: found.values["n"] for found in look.findings if found.name.startswith("folders")}
    return {**told, "messages": look.messages, "folders": look.folders}


def planned(box: Box) -> dict[str, str]:
    """Where the plan sends folders, or why it leaves them out."""
    plan = plan_mailbox(account_at(box.old, box.source_user), account_at(box.new, box.target_user), box.options, {})
    return {folder.source_name: folder.target_name or folder.why for folder in plan}


# One folder under several names


def second_namespace(behaviour: Behaviour) -> None:
    behaviour.second_prefix = "INBOX/"


def ended_names(behaviour: Behaviour) -> None:
    behaviour.lists_ended = True


def ended_names_that_do_not_open(behaviour: Behaviour) -> None:
    behaviour.lists_ended, behaviour.opens_ended = True, False


def both(behaviour: Behaviour) -> None:
    behaviour.second_prefix, behaviour.lists_ended = "INBOX/", True


ODD = [second_namespace, ended_names, ended_names_that_do_not_open, both]
FOLDERS = {"INBOX": 3, "Sent": 2, "Kunden": 4, "Kunden/Nord": 1, "Leer": 0, "Zwei": 2}


def fill(box: Box, folders: Mapping[str, int] = FOLDERS) -> None:
    number = 0
    for name, messages in folders.items():
        box.folder(name)
        for _ in range(messages):
            number += 1
            box.deliver(number, name)


@pytest.mark.parametrize("capabilities", [FULL, PLAIN], ids=["full", "plain"])
@pytest.mark.parametrize("odd", ODD)
def test_a_folder_with_several_names_is_moved_once(mailbox: Box, odd: Change, capabilities: frozenset[str]) -> None:
    mailbox.old.behaviour.capabilities = capabilities
    odd(mailbox.old.behaviour)
    fill(mailbox)
    names = {None: 1, second_namespace: 1, ended_names: 1, ended_names_that_do_not_open: 1, both: 3}[odd]
    seconds = names * (len(FOLDERS) - 1)
    seen = checked(mailbox)
    # The check sees of names that do not open, and of folders without mail, what the servers tell of them.
    assert seen == {"folders_listed_twice": seconds, "messages": 12, "folders": len(FOLDERS)}
    assert Counter(planned(mailbox).values())["same_folder"] == seconds
    mailbox.copy()
    mailbox.assert_equal()
    assert set(places(mailbox)) == set(FOLDERS)
    assert Counter(left_out(mailbox).values()) == {"same_folder": seconds}
    sent = mailbox.sent()
    for number, name in enumerate(FOLDERS, start=100):
        mailbox.deliver(number, name)
    mailbox.copy()
    mailbox.assert_equal()
    assert mailbox.sent() - sent <= len(FOLDERS)
    appends, creates = mailbox.sent(), mailbox.sent("CREATE")
    mailbox.copy()
    assert (mailbox.sent(), mailbox.sent("CREATE")) == (appends, creates)
    assert Counter(left_out(mailbox).values()) == {"same_folder": seconds}
    mailbox.assert_untouched()


@pytest.mark.parametrize("without", [frozenset(), frozenset({"LIST-STATUS"})], ids=["with LIST", "folder by folder"])
def test_a_server_that_offers_ids_and_tells_none_tells_the_rest(mailbox: Box, without: frozenset[str]) -> None:
    """Otherwise nothing would be known of any folder before it is opened."""
    mailbox.old.behaviour.capabilities = CAPABILITIES - without
    words = " ".join(sorted(CAPABILITIES - without))
    mailbox.old.behaviour.announced_before_login = mailbox.old.behaviour.announced_after_login = f"{words} OBJECTID"
    fill(mailbox)
    mailbox.copy()
    mailbox.assert_equal()
    examined = len(mailbox.old.commands("EXAMINE"))
    mailbox.copy()
    # What has not changed, by STATUS, is not opened.
    assert len(mailbox.old.commands("EXAMINE")) == examined


def test_the_name_that_the_ledger_knows_is_kept(mailbox: Box) -> None:
    """The old server listed a folder only by its second name at first."""
    fill(mailbox, {"Kunden": 2})
    mailbox.old.behaviour.second_prefix = "INBOX/"
    mailbox.copy(exclude=("Kunden",))
    assert places(mailbox) == {"INBOX": "INBOX", "INBOX/Kunden": "INBOX/Kunden"}
    appends = mailbox.sent()
    for _ in range(2):
        mailbox.copy()
        assert places(mailbox) == {"INBOX": "INBOX", "INBOX/Kunden": "INBOX/Kunden"}
        assert left_out(mailbox) == {"Kunden": "same_folder"}
    assert mailbox.sent() == appends


def test_a_folder_that_was_moved_under_both_names_before_stays_and_gets_no_third_copy(mailbox: Box) -> None:
    fill(mailbox, {"Kunden": 2})
    mailbox.old.behaviour.second_prefix = "INBOX/"
    mailbox.copy(exclude=("Kunden",))
    mailbox.copy(exclude=("INBOX/Kunden",))
    doubled = contents(mailbox.new, mailbox.target_user)
    assert doubled.total() == 4
    for _ in range(2):
        mailbox.copy()
        assert left_out(mailbox) == {"INBOX/Kunden": "same_folder"}
        assert contents(mailbox.new, mailbox.target_user) == doubled


def test_mail_that_arrives_between_the_looks_at_two_names_makes_no_second_folder_of_one(mailbox: Box) -> None:
    fill(mailbox)
    mailbox.old.behaviour.capabilities = PLAIN
    mailbox.old.behaviour.second_prefix = "INBOX/"
    for nth in (1, 5, 9):
        # Between STATUS, and between EXAMINE and the scan of the other name.
        arrives = partial(mailbox.deliver, 500 + nth, "Kunden")
        mailbox.later(mailbox.old, "STATUS" if nth == 5 else "EXAMINE", arrives, nth)
        mailbox.copy()
        assert set(places(mailbox)) == set(FOLDERS)
    mailbox.old.behaviour.before_command = None
    mailbox.copy()
    mailbox.assert_equal()


def test_a_folder_whose_mail_is_never_at_rest_stays_one(mailbox: Box) -> None:
    """At each look at its second name there is another message more."""
    fill(mailbox, {"Kunden": 3})
    mailbox.old.behaviour.second_prefix = "INBOX/"
    mailbox.copy()
    numbers = count(600)
    mailbox.old.behaviour.before_command = lambda entry: (
        mailbox.deliver(next(numbers), "Kunden") if entry.verb in {"EXAMINE", "STATUS", "LIST"} else None
    )
    for _ in range(2):
        mailbox.copy()
        assert left_out(mailbox) == {"INBOX/Kunden": "same_folder"}
    mailbox.old.behaviour.before_command = None
    mailbox.copy()
    mailbox.assert_equal()


def test_a_second_name_that_becomes_a_folder_of_its_own_is_moved(mailbox: Box) -> None:
    fill(mailbox, {"Kunden": 2})
    mailbox.old.behaviour.second_prefix = "INBOX/"
    mailbox.copy()
    assert left_out(mailbox) == {"INBOX/Kunden": "same_folder"}
    mailbox.old.behaviour.second_prefix = ""
    mailbox.deliver(7, "INBOX/Kunden")
    mailbox.copy()
    assert left_out(mailbox) == {}
    assert mailbox.arrived("INBOX/Kunden") == [mail(7)]
    assert mailbox.arrived("Kunden") == [mail(1), mail(2)]


ALIKE = datetime(2024, 5, 1, tzinfo=UTC)


def make_alike(box: Box, names: tuple[str, ...], numbers: Mapping[str, tuple[int, ...]]) -> list[Stored]:
    """Folders of one UIDVALIDITY with equal numbers, sizes, dates and flags."""
    made = []
    for name in names:
        folder = box.folder(name)
        folder.uidvalidity = 1
        for number in numbers.get(name, ()):
            folder.deliver(mail(number), ALIKE)
        made.append(folder)
    return made


@pytest.mark.parametrize("capabilities", [FULL, CAPABILITIES, PLAIN], ids=["with ids", "full", "plain"])
@pytest.mark.parametrize("names", [("A", "B"), ("A", "INBOX/A")], ids=["other names", "names that could be one"])
def test_two_folders_that_look_alike_stay_two(
    mailbox: Box, names: tuple[str, ...], capabilities: frozenset[str]
) -> None:
    """Just imported: the same UIDVALIDITY, UIDs, sizes, dates and flags, and other mail."""
    mailbox.old.behaviour.capabilities = capabilities
    make_alike(mailbox, names, dict(zip(names, ((11, 12), (13, 14)), strict=True)))
    assert checked(mailbox) == {"messages": 4, "folders": 3}
    mailbox.copy()
    mailbox.assert_equal()
    assert left_out(mailbox) == {}


def test_a_copy_of_a_folder_is_moved_too_where_uidvalidity_says_nothing(mailbox: Box) -> None:
    """The member has the same mail in two folders, and the server has one UIDVALIDITY for all."""
    make_alike(mailbox, ("A", "B", "C"), {"A": (11, 12), "B": (11, 12), "C": (13,)})
    mailbox.source.folder("INBOX").uidvalidity = 1
    mailbox.copy()
    mailbox.assert_equal()


def test_a_copy_of_a_folder_is_moved_too_where_the_server_tells_folders_apart(mailbox: Box) -> None:
    mailbox.old.behaviour.capabilities = FULL
    make_alike(mailbox, ("A", "B"), {"A": (11, 12), "B": (11, 12)})
    mailbox.copy()
    mailbox.assert_equal()


def folder(name: str, separator: str = "/") -> Folder:
    return Folder(encode_mailbox(name), name, separator, frozenset())


TWO = Namespaces((Namespace("", "/"), Namespace("INBOX/", "/")))


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("INBOX", ("INBOX",)),
        ("Sent", ("Sent",)),
        ("INBOX/Sent", ("Sent",)),
        ("INBOX/Sent/", ("Sent",)),
        ("A/B", ("A", "B")),
        ("INBOX/A/B", ("A", "B")),
        ("INBOX/INBOX", ("INBOX",)),
        ("INBOX/", ("INBOX",)),
    ],
)
def test_names_in_two_namespaces_lead_to_one_place(name: str, place: tuple[str, ...]) -> None:
    assert place_of(folder(name), TWO) == place


def test_equal_numbers_raise_the_question_only_where_they_mean_something() -> None:
    def found(statuses: Mapping[str, FolderStatus], namespaces: Namespaces = NO_NAMESPACES) -> list[set[str]]:
        folders = [folder(name) for name in statuses]
        told = {encode_mailbox(name): status for name, status in statuses.items()}
        groups: list[Suspected] = suspects(folders, told, Names(namespaces))
        return [{each.name for each in group.folders} for group in groups]

    own = {"INBOX": FolderStatus(9, 12, 1), "A": FolderStatus(2, 3, 2), "B": FolderStatus(2, 3, 3)}
    assert found(own) == []
    assert found({**own, "C": FolderStatus(2, 3, 3)}) == [{"B", "C"}]
    assert found({**own, "C": FolderStatus(2, 4, 3)}) == []
    assert found({**own, "C": FolderStatus(0, 1, 5), "D": FolderStatus(0, 1, 5)}) == []
    # One for all: it is no sign, and names are.
    alike = {name: FolderStatus(2, 3, 1) for name in ("INBOX", "A", "B", "C", "INBOX/C", "C/")}
    assert found(alike) == [{"C", "INBOX/C", "C/"}]
    assert found({name: FolderStatus(5, 6, 1, 0, "F1") for name in ("A", "B")}) == [{"A", "B"}]
    # One sign leads to the next: names, then an id, then names.
    chain = [("A", "F1"), ("A/B", "F2"), ("INBOX/A/B", "F1"), ("B", "F3"), ("INBOX/A", "F3")]
    assert found({name: FolderStatus(1, 2, 1, 0, told) for name, told in chain}, TWO) == [{name for name, _ in chain}]


def test_what_is_kept_does_not_hang_on_the_order_of_the_list() -> None:
    names = Names(TWO, known=("INBOX/B",))
    some = [folder(name) for name in ("INBOX/A/", "A", "INBOX/A", "A/")]
    other = [folder(name) for name in ("B", "INBOX/B")]
    for seed in range(5):
        Random(seed).shuffle(some)
        Random(seed).shuffle(other)
        assert min(some, key=names.rank).name == "A"
        assert min(other, key=names.rank).name == "INBOX/B"


def surveyed(*messages: tuple[int, int], uidvalidity: int = 1) -> Surveyed:
    envelopes = [Envelope(uid, frozenset(), "", ALIKE, size) for uid, size in messages]
    return Surveyed(
        Selected(uidvalidity, 1 + max((uid for uid, _ in messages), default=0), len(messages), None), envelopes
    )


def test_what_differs_by_more_than_a_moment_is_not_looked_at_again() -> None:
    one = surveyed((1, 10), (2, 20), (3, 30))
    assert may_be_same_mail(one, surveyed((1, 10), (2, 20), (3, 30), (4, 5)))
    assert may_be_same_mail(one, surveyed((2, 20), (3, 30)))
    assert not may_be_same_mail(one, surveyed((1, 10), (2, 21), (3, 30)))
    assert not may_be_same_mail(one, surveyed((1, 10), (2, 20), (3, 30), uidvalidity=2))
    assert not may_be_same_mail(one, surveyed((7, 10)))


Held = tuple[tuple[int, int, int], ...]
"""A folder's messages: UID, a size from few, and what is in it."""


class Mailbox:
    """What a source would answer, from folders and the names that they have."""

    def __init__(self, names: Mapping[str, int], folders: list[tuple[int, Held]], ids: bool) -> None:
        self.names, self.folders, self.ids = names, folders, ids
        self._open = ""

    def statuses(self) -> dict[bytes, FolderStatus]:
        return {
            encode_mailbox(name): FolderStatus(
                len(held), 1 + max((uid for uid, _, _ in held), default=0), uidvalidity, 0, f"F{at}" if self.ids else ""
            )
            for name, at in self.names.items()
            for uidvalidity, held in [self.folders[at]]
        }

    def survey(self, folders: Iterable[Folder]) -> Iterator[tuple[Folder, Surveyed]]:
        for each in folders:
            uidvalidity, held = self.folders[self.names[each.name]]
            yield each, surveyed(*((uid, size) for uid, size, _ in held), uidvalidity=uidvalidity)

    def examine(self, one: Folder) -> None:
        self._open = one.name

    def message_ids(self, uids: Iterable[int]) -> dict[int, str]:
        _, held = self.folders[self.names[self._open]]
        return {uid: f"<{content}>" for uid, _, content in held if uid in uids}


NAMED = st.sampled_from(["INBOX", "A", "B", "INBOX/A", "INBOX/B", "A/", "INBOX/INBOX", "A/B", "INBOX/A/B"])
HELD = st.lists(st.tuples(st.integers(1, 2), st.integers(0, 2)), max_size=3).map(
    lambda some: tuple((uid, size, content) for uid, (size, content) in enumerate(some, start=1))
)


@pytest.mark.fuzz
@given(
    st.lists(st.tuples(st.integers(1, 4), HELD), min_size=1, max_size=6),
    st.dictionaries(NAMED, st.integers(0, 5), min_size=1),
    st.booleans(),
    st.sets(NAMED),
    st.sets(NAMED),
)
def test_whatever_names_and_numbers_there_are_no_mail_is_left_out(
    folders: list[tuple[int, Held]], names: dict[str, int], ids: bool, known: set[str], remembered: set[str]
) -> None:
    """What is left out holds only what a folder that is moved holds too; what is twice with an id is moved once."""
    names = {name: at % len(folders) for name, at in names.items()}
    # What is remembered has been found a second name of one that is not.
    remembered &= names.keys() - known
    first = {at for name, at in names.items() if name not in remembered}
    remembered = {name for name in remembered if names[name] in first}
    source = Mailbox(names, folders, ids)
    listed = [folder(name) for name in names]
    found = find_aliases(source, listed, source.statuses(), Names(TWO, known, remembered))  # type: ignore[arg-type]
    moved = {name: folders[at][1] for name, at in names.items() if name not in found}
    assert moved
    for name in found:
        assert any(set(folders[names[name]][1]) <= set(held) for held in moved.values())
    if ids:
        nonempty = [at for name, at in names.items() if name not in found and folders[at][1]]
        assert len(set(nonempty)) == len(nonempty)


# Folders that are not the member's own

SHARING = '(("" "/")) (("Other Users/" "/")) (("Public/" "/"))'
OTHERS = {"Other Users": 0, "Other Users/wang": 2, "Other Users/wang/Sent": 1, "Public/Rules": 3, "Public": 1}
REASONS = {name: "public_folder" if name.startswith("Public") else "others_folder" for name in OTHERS}


def shared(box: Box) -> None:
    box.old.behaviour.namespaces = SHARING
    fill(box, {"INBOX": 1, "Sent": 1, "Publications": 1})
    for number, (name, messages) in enumerate(OTHERS.items(), start=50):
        if box.source.find(name) is None:
            box.source.create(name, "\\Sent" if name.endswith("Sent") else None)
        for nth in range(messages):
            box.deliver(100 * number + nth, name)


def test_folders_of_other_users_and_of_everybody_are_left_out_with_the_reason(mailbox: Box) -> None:
    shared(mailbox)
    assert checked(mailbox) == {"folders_not_own": len(OTHERS), "messages": 3, "folders": 3}
    assert {name: why for name, why in planned(mailbox).items() if name in OTHERS} == REASONS
    for _ in range(2):
        mailbox.copy()
        assert set(places(mailbox)) == {"INBOX", "Sent", "Publications"}
        assert left_out(mailbox) == REASONS
        assert {name: mailbox.ledger.places()[name].messages for name in OTHERS} == OTHERS
        assert contents(mailbox.new, mailbox.target_user).total() == 3
    mailbox.assert_untouched()


def test_a_rule_takes_them_in_under_their_own_names(mailbox: Box) -> None:
    """A folder that somebody else sends from is not merged into the member's own."""
    shared(mailbox)
    mailbox.copy(folders=FolderRules(include=("Public/Rules", "\\Others")))
    assert left_out(mailbox) == {"Public": "public_folder"}
    assert {name: places(mailbox)[name] for name in OTHERS if name != "Public"} == {
        name: name for name in OTHERS if name != "Public"
    }
    assert len(mailbox.arrived("Sent")) == 1


def test_a_root_may_lie_among_the_folders_of_another_user(mailbox: Box) -> None:
    """Of a shared mailbox that only a delegate can open."""
    shared(mailbox)
    mailbox.copy(root="Other Users/wang")
    assert places(mailbox) == {"Other Users/wang": "INBOX", "Other Users/wang/Sent": "Sent"}


def test_a_server_without_namespaces_shows_by_its_names_what_is_nobodys_own(mailbox: Box) -> None:
    mailbox.old.behaviour.capabilities = frozenset({"IMAP4rev1", "UIDPLUS"})
    fill(mailbox, {"#shared/team": 1, "#news": 1, "#1 customers": 1, "shared": 1})
    mailbox.copy()
    assert left_out(mailbox) == {"#shared": "public_folder", "#shared/team": "public_folder", "#news": "public_folder"}
    assert set(places(mailbox)) == {"INBOX", "#1 customers", "shared"}


@pytest.mark.parametrize("there", [(), ("Public", "Public/Rules", "Other Users/wang")], ids=["empty", "full"])
def test_no_mail_goes_into_folders_that_are_not_the_members_own(mailbox: Box, there: tuple[str, ...]) -> None:
    mailbox.new.behaviour.namespaces = SHARING
    for name in there:
        mailbox.target.create(name, "\\Sent" if name == "Other Users/wang" else None)
    fill(mailbox, {"INBOX": 1, "Sent": 1, "Public": 1, "Public/Rules": 1, "Other Users": 1, "public/x": 1})
    for _ in range(2):
        mailbox.copy()
        assert places(mailbox) == {
            "INBOX": "INBOX",
            "Sent": "Sent",
            "Public": "_Public",
            "Public/Rules": "_Public/Rules",
            "Other Users": "_Other Users",
            "public": "_public (2)",
            "public/x": "_public (2)/x",
        }
    assert mailbox.ledger.places()["Public"].why == "not_own"
    assert not any(mailbox.arrived(name) for name in there)


def test_a_rule_may_send_mail_into_a_public_folder(mailbox: Box) -> None:
    mailbox.new.behaviour.namespaces = SHARING
    fill(mailbox, {"Team": 1})
    mailbox.copy(folders=FolderRules(rename={"Team": "Public/Team"}))
    assert len(mailbox.arrived("Public/Team")) == 1


@pytest.mark.parametrize(
    ("namespaces", "name", "owner"),
    [
        # Cyrus: what is below no prefix is everybody's, but INBOX.
        (((".", "INBOX.",), (".", "user."), (".", "")), "INBOX", ""),
        (((".", "INBOX.",), (".", "user."), (".", "")), "inbox", ""),
        (((".", "INBOX.",), (".", "user."), (".", "")), "INBOX.Sent", ""),
        (((".", "INBOX.",), (".", "user."), (".", "")), "user.wang", "others"),
        (((".", "INBOX.",), (".", "user."), (".", "")), "board", "public"),
        # The longest prefix counts, and a name is no prefix of another one.
        ((("/", ""), ("/", "shared/"), ("/", "Public/")), "shared/wang/INBOX", "others"),
        ((("/", ""), ("/", "shared/"), ("/", "Public/")), "shared", "others"),
        ((("/", ""), ("/", "shared/"), ("/", "Public/")), "shared notes", ""),
        ((("/", ""), ("/", "shared/"), ("/", "Public/")), "Shared/notes", ""),
        ((("/", ""), ("/", "~"), ("/", "#public")), "~wang/a", "others"),
        ((("/", ""), ("/", "~"), ("/", "#public")), "#public/a", "public"),
        ((("/", ""), ("/", "~"), ("/", "#public")), "#publications", ""),
        # Nothing is taken from the member where two kinds are called the same, or none is told to be theirs.
        ((("/", ""), None, ("/", "")), "A", ""),
        ((None, None, ("/", "")), "A", ""),
    ],
)  # fmt: skip
def test_whose_a_folder_is_follows_from_the_longest_prefix(
    namespaces: tuple[tuple[str, str] | None, ...], name: str, owner: str
) -> None:
    spaces = (((Namespace(told[1], told[0]),) if told else ()) for told in namespaces)
    assert Namespaces(*spaces).owner(name) == owner


def test_folders_of_everybody_that_have_the_path_of_an_own_one_keep_apart() -> None:
    """At Cyrus `board` is everybody's and `INBOX.board` the member's."""
    cyrus = Namespaces((Namespace("INBOX.", "."),), (Namespace("user.", "."),), (Namespace("", "."),))
    source = [folder(name, ".") for name in ("INBOX", "INBOX.board", "board", "user.wang")]
    rules = FolderRules(include=("\\Public",))
    plan = map_folders(source, [], source_prefix="INBOX.", source_namespaces=cyrus, rules=rules)
    assert {pair.source.name: pair.target_name for pair in plan.pairs} == {
        "INBOX": "INBOX",
        "INBOX.board": "board",
        "board": "board (2)",
    }
    assert {each.source.name: each.why for each in plan.left_out} == {"user.wang": "others_folder"}
