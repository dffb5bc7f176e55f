"""Folders find their places at the target: special ones together, refused names under another, views only once."""

import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from sqlalchemy import Engine

from deployments.demo.imap_server import CAPABILITIES, Action, Fault, ImapServer
from imapcopy.account import Account
from imapcopy.copy_mailbox import copy_mailbox
from imapcopy.copy_options import CopyOptions
from imapcopy.errors import FolderError, ServerError
from imapcopy.folders import Folder, Place, map_folders
from imapcopy.grammar import decode_mailbox, encode_mailbox
from imapcopy.plan_mailbox import plan_mailbox
from models.ledger import Ledger
from models.member import release_lease, take_lease
from models.rules import FolderRules
from tests.imapcopy.scripted import Answers, Scripted
from tests.imapcopy.test_faults import Clock, Death, World, clock
from tests.imapcopy.world import NEW, PASSWORD, WRITING, Box, account_at, contents, mail, moment, new_member

__all__ = ["clock"]


def whys(box: Box) -> dict[str, tuple[str, str]]:
    return {name: (place.target_name, place.why) for name, place in box.ledger.places().items()}


def assert_each_claimed_once(box: Box) -> None:
    """No message of the target stands for two of the source, whichever folders they are in."""
    claims: Counter[tuple[str, int, int]] = Counter()
    for row in box.ledger.folders():
        assert row.copied + row.already_there + row.issues == row.source_messages, row
        for batch in box.ledger.batches(row.id or 0):
            claims.update((row.target_name, row.target_uidvalidity, entry.target_uid) for entry in batch.entries)
    assert set(claims.values()) <= {1}


# Special folders


def three_sent(box: Box) -> None:
    """Some messages are in two of the folders, one twice in the same."""
    box.source.create("Sent", "\\Sent")
    for folder, numbers in (("Sent", (1, 2, 3)), ("Sent Items", (3, 4, 4)), ("已发送", (1, 5)), ("Sent/2019", (6,))):
        for number in numbers:
            box.deliver(number, folder)


def in_sent(box: Box) -> Counter[bytes]:
    return Counter(box.arrived("Sent"))


@pytest.mark.parametrize(
    "capabilities",
    [CAPABILITIES, frozenset({"IMAP4rev1", "UIDPLUS"}), frozenset({"IMAP4rev1"})],
    ids=["full", "only UIDPLUS", "nothing"],
)
def test_sent_folders_of_several_names_become_one_and_each_message_arrives_once(
    mailbox: Box, capabilities: frozenset[str]
) -> None:
    mailbox.new.behaviour.capabilities = capabilities
    three_sent(mailbox)
    mailbox.copy()
    assert in_sent(mailbox) == Counter(map(mail, (1, 2, 3, 3, 4, 4, 1, 5)))
    assert mailbox.arrived("Sent/2019") == [mail(6)]
    assert {folder.name for folder in mailbox.target.folders} == {"INBOX", "Sent", "Sent/2019"}
    assert_each_claimed_once(mailbox)
    appends = mailbox.sent()
    mailbox.copy()
    mailbox.copy(deep=True)
    assert mailbox.sent() == appends
    assert all(row.altered == "{}" for row in mailbox.ledger.folders())


def test_a_message_that_is_moved_between_two_folders_of_one_target_stays_where_it_is(mailbox: Box) -> None:
    three_sent(mailbox)
    mailbox.copy()
    there = in_sent(mailbox)
    items, sent = mailbox.folder("Sent Items"), mailbox.folder("Sent")
    [moved] = [message for message in sent.messages if message.raw == mail(2)]
    items.deliver(moved.raw, moved.internal_date, moved.flags)
    sent.expunge([moved.uid])
    mailbox.copy()
    assert in_sent(mailbox) == there
    assert_each_claimed_once(mailbox)
    assert not mailbox.issues("Sent Items")


def test_a_message_that_is_removed_from_a_shared_folder_is_not_taken_from_its_neighbour(mailbox: Box) -> None:
    """The member deletes one of two equal copies: it stays deleted, and the other is no stranger."""
    three_sent(mailbox)
    mailbox.copy()
    target = mailbox.target.folder("Sent")
    target.expunge([next(message.uid for message in target.messages if message.raw == mail(3))])
    mailbox.copy()
    assert in_sent(mailbox)[mail(3)] == 1
    assert_each_claimed_once(mailbox)


def test_a_new_special_folder_is_marked_where_that_is_offered(mailbox: Box) -> None:
    answers: Answers = {
        "CAPABILITY": b"* CAPABILITY IMAP4rev1 CREATE-SPECIAL-USE\r\n",
        "LIST": b'* LIST () "/" INBOX\r\n',
    }
    mailbox.deliver(1, "Postausgang")
    mailbox.source.create("已发送", "\\Sent")
    with Scripted(answers) as server, suppress(ServerError, FolderError):
        run(mailbox, account_at(mailbox.old, mailbox.source_user), server.account)
    assert b'CREATE "Sent" (USE (\\Sent))\r\n' in {line.partition(b" ")[2] for line in server.received}
    assert b'CREATE "Postausgang"\r\n' in {line.partition(b" ")[2] for line in server.received}


def test_a_mark_that_is_refused_does_not_cost_the_folder(mailbox: Box) -> None:
    answers: Answers = {
        "CAPABILITY": b"* CAPABILITY IMAP4rev1 CREATE-SPECIAL-USE\r\n",
        "LIST": b'* LIST () "/" INBOX\r\n',
        "CREATE": lambda rest: b"TAG NO [USEATTR] not for you\r\n" if b"USE" in rest else b"TAG OK made\r\n",
    }
    mailbox.source.create("Sent", "\\Sent")
    with Scripted(answers) as server, suppress(ServerError, FolderError):
        run(mailbox, account_at(mailbox.old, mailbox.source_user), server.account)
    made = [line.partition(b" ")[2] for line in server.received if b"CREATE" in line]
    assert made == [b'CREATE "Sent" (USE (\\Sent))\r\n', b'CREATE "Sent"\r\n']


def run(box: Box, source: Account, target: Account, **options: Any) -> None:
    token = take_lease(box.engine, box.member_id)
    try:
        copy_mailbox(source, target, Ledger(box.engine, box.member_id, token), CopyOptions(**options))
    finally:
        release_lease(box.engine, box.member_id, token)


# Names that the target refuses


def refusing(server: ImapServer, refuses: Callable[[str], object]) -> None:
    """CREATE of such names is answered NO."""

    def look(entry: Any) -> None:
        name = decode_mailbox(re.sub(r"\\(.)", r"\1", entry.rest.strip('"')).encode())
        if entry.verb == "CREATE" and refuses(name):
            server.behaviour.faults.append(Fault("CREATE", Action.NO, text="[CANNOT] Invalid mailbox name"))

    server.behaviour.before_command = look


def many_rules(name: str) -> bool:
    """As a server with Maildir, full of rules: no dots, quotes, percents, controls, blanks at the ends or in pairs."""
    return bool(re.search(r'[."%\x00-\x1f]|  |(^|/) | (/|$)', name))


def hundred_octets(name: str) -> bool:
    return max(len(encode_mailbox(part)) for part in name.split("/")) > 100


ODD = ["v1.2", "v1.2/notes 3.0", '50% "off"', "a_b", "a.b", " edge ", "Ende.", "多余  空格", "tab\there", "长" * 80]
CHANGED = {
    "v1.2": ("v1_2", "characters"),
    "v1.2/notes 3.0": ("v1_2/notes 3_0", "characters"),
    '50% "off"': ("50_ _off_", "characters"),
    "a_b": ("a_b", ""),
    "a.b": ("a_b (2)", "characters"),
    " edge ": ("edge", "characters"),
    "Ende.": ("Ende_", "characters"),
    "多余  空格": ("多余 空格", "characters"),
    "tab\there": ("tab_here", "characters"),
}


@pytest.mark.parametrize(
    ("refuses", "expected"),
    [
        (many_rules, CHANGED),
        (lambda name: "/" in name, {"v1.2": ("v1.2", ""), "v1.2/notes 3.0": ("v1.2 - notes 3.0", "depth")}),
        (hundred_octets, {"长" * 80: ("长" * 19, "length"), "v1.2": ("v1.2", "")}),
    ],
    ids=["characters", "depth", "length"],
)
def test_a_refused_name_gets_a_substitute_that_stays(
    mailbox: Box, refuses: Callable[[str], object], expected: dict[str, tuple[str, str]]
) -> None:
    refusing(mailbox.new, refuses)
    for number, name in enumerate(ODD):
        mailbox.deliver(number, name)
    mailbox.copy()
    found = {row.source_name: row.target_name for row in mailbox.ledger.folders()}
    assert {name: (found[name], whys(mailbox).get(name, ("", ""))[1]) for name in expected} == expected
    for number, name in enumerate(ODD):
        assert mailbox.arrived(found[name]) == [mail(number)]
        mailbox.deliver(100 + number, name)
    # The next pass has other neighbours, and the same places.
    mailbox.deliver(51, "V1_2")
    creates = mailbox.sent("CREATE")
    mailbox.copy()
    assert mailbox.sent("CREATE") == creates + 1
    for number, name in enumerate(ODD):
        assert mailbox.arrived(found[name]) == [mail(number), mail(100 + number)]
    assert mailbox.arrived(mailbox.row("V1_2").target_name) == [mail(51)]
    assert_each_claimed_once(mailbox)


def test_children_of_inbox_stand_beside_it_where_it_may_have_none(mailbox: Box) -> None:
    refusing(mailbox.new, lambda name: name.startswith("INBOX"))
    for number, name in enumerate(["INBOX/Kunden", "INBOX/Kunden/Nord", "Kunden"]):
        mailbox.deliver(number, name)
    mailbox.copy()
    assert whys(mailbox)["INBOX/Kunden"] == ("Kunden (2)", "beside_inbox")
    assert mailbox.arrived("Kunden (2)/Nord") == [mail(1)]
    assert mailbox.arrived("Kunden") == [mail(2)]


def test_a_name_that_is_refused_in_every_form_is_a_failure_with_the_first_answer(mailbox: Box) -> None:
    refusing(mailbox.new, lambda name: "Bad" in name)
    mailbox.deliver(1, 'Bad "one".')
    mailbox.deliver(2, "Good")
    with pytest.raises(FolderError) as caught:
        mailbox.copy()
    assert (caught.value.where, caught.value.cause_id) == ('Bad "one".', "folder_name_invalid")
    assert mailbox.arrived("Good") == [mail(2)]


LEVELS = 1200


def deep() -> list[str]:
    """Names of so many levels, each below the one before."""
    parts = ["Top", *(str(level % 7) for level in range(1, LEVELS))]
    return ["/".join(parts[:depth]) for depth in range(1, LEVELS + 1)]


@pytest.mark.parametrize(
    ("refuses", "octets"),
    [
        (lambda name: name.count("/") > 20, 0),
        (lambda name: len(name) > 200 or name.count("/") > 3, 200),
    ],
    ids=["to a depth", "to a depth and length"],
)
def test_folders_1200_levels_deep_have_a_place_each(refuses: Callable[[str], bool], octets: int) -> None:
    """As many as the target takes below each other, and the others beside them, whatever its limits are."""
    source = [folder_of(name) for name in deep()]
    plan = map_folders(source, [])
    for _ in range(12):
        refused = {pair.target_name for pair in plan.pairs if refuses(pair.target_name)}
        if not refused:
            break
        plan = plan.renamed(refused)
    names = [pair.target_name for pair in plan.pairs]
    assert len({name.casefold() for name in names}) == LEVELS
    assert not any(refuses(name) for name in names)
    assert max(map(len, names)) <= (octets or len(deep()[-1]) + 2 * LEVELS)
    # The next pass finds them, and goes on from there.
    made = [folder_of(name) for name in names]
    known = {pair.source.name: Place(pair.target_name) for pair in plan.pairs}
    assert [pair.target_name for pair in map_folders(source, made, known=known).pairs] == names


def folder_of(name: str) -> Folder:
    return Folder(encode_mailbox(name), name, "/", frozenset())


def test_a_list_of_1010_levels_is_planned(mailbox: Box) -> None:
    mailbox.source.create(deep()[1009])
    plan = plan_mailbox(
        account_at(mailbox.old, mailbox.source_user), account_at(mailbox.new, mailbox.target_user), mailbox.options, {}
    )
    assert [folder.target_name for folder in plan] == ["INBOX", *deep()[:1010]]


@pytest.mark.thorough
def test_a_mailbox_of_1010_levels_is_moved_whole_below_and_beside(mailbox: Box) -> None:
    """Through the whole program, to a server that takes 40 levels and names of 255 octets."""
    names = deep()[:1010]
    mailbox.source.create(names[-1])
    for number, name in enumerate(names[::100]):
        mailbox.deliver(number, name)
    refusing(mailbox.new, lambda name: name.count("/") >= 40 or len(name) > 255)
    mailbox.copy()
    found = contents(mailbox.new, mailbox.target_user)
    assert sorted(raw for _, raw in found) == sorted(mail(number) for number in range(len(names[::100])))
    assert set(found.values()) == {1}
    assert_each_claimed_once(mailbox)
    assert len({row.target_name for row in mailbox.ledger.folders()}) == len(names) + 1
    creates, appends = mailbox.sent("CREATE"), mailbox.sent()
    mailbox.copy()
    assert (mailbox.sent("CREATE"), mailbox.sent()) == (creates, appends)


def full_of_trouble(world: World) -> Box:
    """Several folders for one target, and names that are refused: with what was there before, and equal messages."""
    world.boxes += 1
    user = f"user{world.boxes}@example"
    source, target = world.old.add_account(user, PASSWORD), world.new.add_account(user, PASSWORD)
    target.create("Sent").deliver(mail(1), moment(2), [])
    for name, numbers in (
        ("Sent", (1, 2)),
        ("Sent Items", (2, 3, 3)),
        ("已发送/v1.2", (4,)),
        ("a.b", (5,)),
        ("a_b", (6,)),
    ):
        for number in numbers:
            (source.find(name) or source.create(name)).deliver(mail(number), moment(number + 1))
    return Box(world.engine, world.old, world.new, new_member(world.engine, user), user, user)


@pytest.mark.parametrize(
    "capabilities", [CAPABILITIES, frozenset({"IMAP4rev1", "UIDPLUS"})], ids=["full", "only UIDPLUS"]
)
def test_a_run_that_died_at_any_step_leaves_no_folder_and_no_message_twice(
    old: ImapServer,
    new: ImapServer,
    engine: Engine,
    clock: Callable[[Clock], None],
    monkeypatch: pytest.MonkeyPatch,
    capabilities: frozenset[str],
) -> None:
    """Between CREATE and the ledger, between two folders of one target, everywhere that something is changed."""
    monkeypatch.setattr("imapcopy.group_pass.BATCH_MESSAGES", 2)
    old.behaviour.capabilities = new.behaviour.capabilities = capabilities
    world = World(old, new, engine, clock)
    hook = world._hook

    def refuse_dots(place: str, server: ImapServer, now: Clock) -> Callable[[Any], None]:
        count = hook(place, server, now)

        def look(entry: Any) -> None:
            count(entry)
            if place == "new" and entry.verb == "CREATE" and "." in entry.rest:
                # What is refused is not carried out, also when the answer is lost.
                server.behaviour.faults.clear()
                action = Action.DROP_BEFORE if now.dead else Action.NO
                server.behaviour.faults.append(Fault("CREATE", action, text="[CANNOT] no dots"))

        return look

    monkeypatch.setattr(world, "_hook", refuse_dots)
    box, first = full_of_trouble(world), Clock()
    world.run(box, first)
    arrived = contents(new, box.target_user)
    assert set(arrived) == {
        *(("Sent", mail(number)) for number in (1, 2, 3)),
        ("Sent/v1_2", mail(4)),
        ("a_b (2)", mail(5)),
        ("a_b", mail(6)),
    }
    assert arrived["Sent", mail(2)] == arrived["Sent", mail(3)] == 2
    for place in ("new", "ledger"):
        for number, step in enumerate(first.steps[place], start=1):
            if place == "new" and step not in WRITING:
                continue
            box = full_of_trouble(world)
            died = Clock((place, number), Action.DROP_AFTER, deadly=True)
            with suppress(Death, ServerError):
                world.run(box, died)
            world.run(box, Clock())
            assert contents(new, box.target_user) == arrived, (place, number, step)
            assert_each_claimed_once(box)


# Subscriptions


def test_what_was_subscribed_at_the_source_is_subscribed_at_the_target_and_nothing_else(mailbox: Box) -> None:
    for number, name in enumerate(["Work", "Hidden", "Work/Old", "Sent"]):
        mailbox.deliver(number, name)
    mailbox.source.subscriptions.clear()
    mailbox.source.subscriptions.update({"INBOX", "Work/Old"})
    mailbox.copy()
    assert mailbox.target.subscriptions - {"INBOX"} == {"Work/Old", "Sent"}
    # Later on it is the member's own choice.
    mailbox.target.subscriptions.clear()
    mailbox.deliver(9, "Work/Old")
    mailbox.copy()
    assert not mailbox.target.subscriptions


@pytest.mark.parametrize("capabilities", [CAPABILITIES, frozenset({"IMAP4rev1"})], ids=["full", "nothing"])
def test_where_nobody_has_subscribed_to_anything_all_is_subscribed(mailbox: Box, capabilities: frozenset[str]) -> None:
    mailbox.old.behaviour.capabilities = capabilities
    for number, name in enumerate(["Work", "Work/Old"]):
        mailbox.deliver(number, name)
    mailbox.source.subscriptions.clear()
    mailbox.copy()
    assert mailbox.target.subscriptions >= {"Work", "Work/Old"}


def test_subscriptions_cost_no_round_trip(mailbox: Box) -> None:
    mailbox.old.behaviour.capabilities = CAPABILITIES - {"LIST-EXTENDED", "LIST-STATUS"}
    mailbox.deliver(1, "Work")
    mailbox.source.subscriptions.clear()
    mailbox.source.subscriptions.add("Work")
    mailbox.copy()
    asked = [entry.verb for entry in mailbox.old.log]
    assert asked.count("LSUB") == 1
    assert "Work" in mailbox.target.subscriptions


# Rules


def test_rules_decide_before_the_first_pass(mailbox: Box) -> None:
    rules = FolderRules(
        exclude=("\\Junk", "Temp"),
        rename={"Projects/Old": "Archive/Projects", "Team": "Shared"},
        roles={"Ausgang": "sent"},
    )
    for number, name in enumerate(["Projects/Old", "Projects/Old/A", "Team", "Shared", "Ausgang", "Spam", "Temp/x"]):
        mailbox.deliver(number, name)
    mailbox.copy(folders=rules)
    assert mailbox.arrived("Archive/Projects") == [mail(0)]
    assert mailbox.arrived("Archive/Projects/A") == [mail(1)]
    assert Counter(mailbox.arrived("Shared")) == Counter([mail(2), mail(3)])
    assert mailbox.arrived("Sent") == [mail(4)]
    assert whys(mailbox)["Spam"] == ("", "excluded")
    assert mailbox.ledger.places()["Temp/x"].messages == 1
    assert {name for name, _ in contents(mailbox.new, NEW)} == {
        "Archive/Projects",
        "Archive/Projects/A",
        "Shared",
        "Sent",
    }
    # Afterwards a folder keeps its place, whatever the rules say.
    mailbox.deliver(7, "Team")
    mailbox.copy()
    assert mail(7) in mailbox.arrived("Shared")


# Views


class Labelled:
    """A server with labels: `messages` are content and labels by folder, ALL has every one of them."""

    ALL = "[Gmail]/All Mail"

    def __init__(self, listed: list[tuple[str, str]], messages: dict[str, list[tuple[int, str]]]) -> None:
        self.listed = listed
        self.messages = messages
        self.opened = ""

    def answers(self) -> Answers:
        lines = "".join(f'* LIST ({attributes}) "/" "{name}"\r\n' for name, attributes in self.listed)
        return {
            "CAPABILITY": b"* CAPABILITY IMAP4rev1 X-GM-EXT-1\r\n",
            "LIST": lambda rest: (
                (lines.encode() if b"*" in rest else b'* LIST (\\Noselect) "/" ""\r\n') + b"TAG OK done\r\n"
            ),
            "EXAMINE": self.examine,
            "STATUS": lambda rest: (
                b"* STATUS " + rest.partition(b" (")[0] + b" (MESSAGES 9 UIDNEXT 99 UIDVALIDITY 7)\r\nTAG OK done\r\n"
            ),
            "FETCH": self.fetch,
        }

    def examine(self, rest: bytes) -> bytes:
        self.opened = rest.decode().strip('"')
        count = len(self.messages.get(self.opened, ()))
        return b"* %d EXISTS\r\n* OK [UIDVALIDITY 7] x\r\n* OK [UIDNEXT 99] x\r\nTAG OK done\r\n" % count

    def fetch(self, rest: bytes) -> bytes:
        out = b""
        wanted = {int(uid) for uid in re.findall(rb"\d+", rest.partition(b" ")[0])}
        for uid, (number, labels) in enumerate(self.messages.get(self.opened, ()), start=1):
            raw = mail(number)
            if b"BODY.PEEK[]" in rest and uid in wanted:
                out += b"* %d FETCH (UID %d BODY[] {%d}\r\n" % (uid, uid, len(raw)) + raw + b")\r\n"
            elif b"RFC822.SIZE" in rest:
                more = f" X-GM-LABELS ({labels})".encode() if b"X-GM-LABELS" in rest else b""
                line = b'* %d FETCH (UID %d%b FLAGS () INTERNALDATE "01-May-2024 10:00:00 +0000" RFC822.SIZE %d)\r\n'
                out += line % (uid, uid, more, len(raw))
        return out + b"TAG OK done\r\n"


LISTED = [
    ("INBOX", ""),
    ("Work", ""),
    ("[Gmail]", "\\Noselect"),
    (Labelled.ALL, "\\All"),
    ("[Gmail]/Chats", ""),
    ("[Gmail]/Important", "\\Important"),
    ("[Gmail]/Sent Mail", "\\Sent"),
    ("[Gmail]/Starred", "\\Flagged"),
]
IN_FOLDERS = {
    "INBOX": [(1, ""), (2, "")],
    "Work": [(2, ""), (3, "")],
    "[Gmail]/Sent Mail": [(4, "")],
    "[Gmail]/Chats": [(8, "")],
    "[Gmail]/Important": [(1, ""), (5, "")],
    "[Gmail]/Starred": [(3, ""), (5, "")],
    Labelled.ALL: [
        (1, r'"\\Inbox" "\\Important"'),
        (2, r'"\\Inbox" Work'),
        (3, r'Work "\\Starred"'),
        (4, r'"\\Sent"'),
        (5, r'"\\Important" "\\Starred"'),
        (6, ""),
        (7, "Hidden"),
    ],
}


def test_of_a_view_only_what_no_other_folder_has_is_moved(mailbox: Box) -> None:
    """5 and 6 have no label of a folder, 7 has that of one that is not shown over IMAP."""
    with Scripted(Labelled(LISTED, IN_FOLDERS).answers()) as server:
        run(mailbox, server.account, account_at(mailbox.new, mailbox.target_user))
        assert contents(mailbox.new, NEW) == Counter(
            {
                **{("INBOX", mail(number)): 1 for number in (1, 2)},
                **{("Work", mail(number)): 1 for number in (2, 3)},
                ("Sent", mail(4)): 1,
                **{("Archive", mail(number)): 1 for number in (5, 6, 7)},
            }
        )
        assert whys(mailbox)["[Gmail]/Starred"] == ("", "shows_other_folders")
        assert whys(mailbox)["[Gmail]/Chats"] == ("", "not_mail")
        everything = mailbox.ledger.places()[Labelled.ALL]
        assert (everything.target_name, everything.why, everything.messages) == ("Archive", "view", 4)
        assert_each_claimed_once(mailbox)
        run(mailbox, server.account, account_at(mailbox.new, mailbox.target_user))
    assert sum(contents(mailbox.new, NEW).values()) == 8


def test_an_archived_message_that_gets_a_label_follows_into_its_folder(mailbox: Box) -> None:
    labelled = Labelled(LISTED, {name: list(some) for name, some in IN_FOLDERS.items()})
    with Scripted(labelled.answers()) as server:
        run(mailbox, server.account, account_at(mailbox.new, mailbox.target_user))
        labelled.messages[Labelled.ALL][5] = 6, "Work"
        labelled.messages["Work"].append((6, ""))
        run(mailbox, server.account, account_at(mailbox.new, mailbox.target_user))
    assert mail(6) in mailbox.arrived("Work")
    assert mail(6) not in mailbox.arrived("Archive")
    assert_each_claimed_once(mailbox)


def test_without_the_widest_view_the_next_one_contributes(mailbox: Box) -> None:
    """All Mail can be hidden from IMAP: then archived mail with a star is in Starred alone."""
    listed = [each for each in LISTED if each[0] not in (Labelled.ALL, "[Gmail]/Important")]
    messages = {**IN_FOLDERS, "[Gmail]/Starred": [(3, "Work"), (5, r'"\\Starred"')]}
    with Scripted(Labelled(listed, messages).answers()) as server:
        run(mailbox, server.account, account_at(mailbox.new, mailbox.target_user))
    assert mailbox.arrived("Archive") == [mail(5)]
