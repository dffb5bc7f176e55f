"""Real servers with several namespaces: nothing is moved twice, nothing that is not the member's own, or to there."""

import imaplib
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime

import pytest
from sqlalchemy import Engine

from imapcopy.account import Account, Server
from imapcopy.check_mailbox import check_mailbox
from imapcopy.copy_mailbox import copy_mailbox
from imapcopy.copy_options import CopyOptions
from imapcopy.plan_mailbox import plan_mailbox
from models.ledger import Ledger
from models.member import release_lease, take_lease
from models.rules import FolderRules
from tests.imapcopy.world import new_member
from tests.servers.compare import mail_of
from tests.servers.cyrus import ADMIN, Cyrus, StartCyrus
from tests.servers.dovecot import Dovecot, StartDovecot, User
from tests.servers.loopback import DEADLINE
from tests.servers.mail import Message, seed

LIN, WANG = User("lin", "invented-51"), User("wang", "invented-52")
TWICE = """
namespace twice {
  prefix = INBOX/
  separator = /
  alias_for =
  list = yes
  hidden = no
}
"""
SHARING = """
mail_plugins = $mail_plugins acl
namespace others {
  type = shared
  prefix = shared/%%u/
  separator = /
  location = maildir:%%h/Maildir:LAYOUT=fs
  subscriptions = no
  list = yes
}
namespace everybody {
  type = public
  prefix = Public/
  separator = /
  location = maildir:HERE/mail/public:LAYOUT=fs
  subscriptions = no
  list = yes
}
plugin {
  acl = vfile:HERE/acls
  acl_shared_dict = file:HERE/mail/shared-mailboxes
}
"""
RIGHTS = {"acls": "Public anyone lrwstipekxa\nPublic/* anyone lrwstipekxa\n"}
FOLDERS = {"INBOX": 2, "Sent": 2, "Kunden": 3, "Kunden/Nord": 1}
REASONS = {
    "shared/wang/Sent": "others_folder",
    "shared/wang/Work": "others_folder",
    "shared/wang/INBOX": "others_folder",
    "Public/Rules": "public_folder",
}
OWN = {"Sent": 2, "Kunden": 3, "Kunden.Nord": 1, "board": 1}
"""Lin's folders at Cyrus, below INBOX or beside it."""
AT = datetime(2024, 3, 1, 8, tzinfo=UTC)


def letters(owner: str, folders: dict[str, int]) -> Iterator[Message]:
    for folder, messages in folders.items():
        for nth in range(messages):
            head = f"Message-ID: <{owner}.{folder.replace('/', '.')}.{nth}@old.example>\r\nSubject: {owner}"
            yield Message(folder, f"{head}\r\n\r\n{nth}\r\n".encode(), (), AT)


@contextmanager
def session(server: Dovecot | Cyrus, user: User) -> Iterator[imaplib.IMAP4]:
    with imaplib.IMAP4(server.host, server.port, timeout=DEADLINE) as connection:
        connection.authenticate("PLAIN", lambda _: f"\0{user.name}\0{user.password}".encode())
        yield connection


def must(answer: tuple[str, Sequence[object]]) -> None:
    assert answer[0] == "OK", answer


def start_sharing(start_dovecot: StartDovecot, *, twice: bool) -> Dovecot:
    """A Dovecot where Lin sees folders of Wang's and public ones."""
    server: Dovecot = start_dovecot(settings=SHARING + (TWICE if twice else ""), files=RIGHTS)
    server.add_users([LIN, WANG])
    seed(server, WANG.name, WANG.password, letters("wang", {"INBOX": 1, "Sent": 1, "Work": 1}))
    for folder in ("INBOX", "Sent", "Work"):
        server.share(WANG.name, folder, LIN.name, "lookup", "read", "insert", "create")
    seed(server, WANG.name, WANG.password, letters("all", {"Public/Rules": 2}))
    return server


def account(server: Dovecot | Cyrus) -> Account:
    return Account(Server("127.0.0.1", server.port, "plain"), LIN.name, LIN.password)


def move(source: Dovecot | Cyrus, target: Dovecot | Cyrus, engine: Engine, member: int, **rules: object) -> Ledger:
    token = take_lease(engine, member)
    ledger = Ledger(engine, member, token)
    options = CopyOptions(folders=FolderRules(**rules))  # type: ignore[arg-type]
    copy_mailbox(account(source), account(target), ledger, options)
    release_lease(engine, member, token)
    return Ledger(engine, member, 0)


def held(server: Dovecot | Cyrus, user: User = LIN) -> Counter[str]:
    """Messages by folder."""
    found: Counter[str] = Counter()
    for each, count in mail_of(server, user.name).items():
        found[each.folder] += count
    return found


def left_out(ledger: Ledger) -> dict[str, str]:
    return {name: place.why for name, place in ledger.places().items() if not place.target_name}


@pytest.mark.dovecot
def test_dovecot_with_a_second_namespace_and_shared_and_public_folders_is_moved_once_and_alone(
    start_dovecot: StartDovecot, engine: Engine
) -> None:
    source, target = start_sharing(start_dovecot, twice=True), start_dovecot()
    target.add_users([LIN])
    seed(source, LIN.name, LIN.password, letters("lin", FOLDERS))
    member = new_member(engine, LIN.name)
    second = {f"INBOX/{name}": "same_folder" for name in FOLDERS if name != "INBOX"}
    # Dovecot does not list another user's INBOX.
    expected = second | {name: why for name, why in REASONS.items() if name != "shared/wang/INBOX"}
    look = check_mailbox(account(source), account(target), CopyOptions()).look
    told = {found.name: found.values.get("n", 0) for found in look.findings}
    assert (look.messages, told["folders_listed_twice"]) == (8, len(second))
    assert told["folders_not_own"] >= 3
    plan = plan_mailbox(account(source), account(target), CopyOptions(), {})
    assert {folder.source_name: folder.why for folder in plan if not folder.target_name}.items() >= expected.items()
    ledger = move(source, target, engine, member)
    assert left_out(ledger).items() >= expected.items()
    assert set(left_out(ledger).values()) == {"same_folder", "others_folder", "public_folder"}
    assert held(target) == FOLDERS
    seed(source, LIN.name, LIN.password, letters("late", {"Sent": 1, "Kunden": 1}))
    target.forget_commands()
    ledger = move(source, target, engine, member)
    assert held(target) == {**FOLDERS, "Sent": 3, "Kunden": 4}
    assert left_out(ledger).items() >= expected.items()
    target.forget_commands()
    move(source, target, engine, member)
    assert "APPEND" not in target.commands(LIN.name)


@pytest.mark.dovecot
def test_dovecot_with_them_is_a_target_like_any_other(start_dovecot: StartDovecot, engine: Engine) -> None:
    """Lin may write to Wang's folders and to public ones: nothing comes into them, and no folder is filled from two."""
    source, target = start_dovecot(), start_sharing(start_dovecot, twice=True)
    source.add_users([LIN])
    odd = {**FOLDERS, "INBOX/Kunden": 2, "Public/Rules": 1, "shared/wang/Work": 1}
    seed(source, LIN.name, LIN.password, letters("lin", odd))
    # The same in both: it would be taken for what the other brought.
    seed(source, LIN.name, LIN.password, [m for name in ("Kunden", "INBOX/Kunden") for m in _in(name)])
    member = new_member(engine, LIN.name)
    before = held(target, WANG)
    ledger = move(source, target, engine, member)
    assert held(target, WANG) == before
    places = {row.source_name: row.target_name for row in ledger.folders()}
    assert (places["Public/Rules"], places["shared/wang/Work"]) == ("_Public/Rules", "_shared/wang/Work")
    own = Counter({name: count for name, count in held(target).items() if not name.startswith(("shared", "Public"))})
    plain = Counter({name: count for name, count in own.items() if not name.startswith("INBOX/")})
    assert sorted(plain.values()) == sorted([2, 2, 4, 1, 3, 1, 1])
    target.forget_commands()
    move(source, target, engine, member)
    assert "APPEND" not in target.commands(LIN.name)


def _in(folder: str) -> list[Message]:
    [one] = letters("same", {"Both": 1})
    return [Message(folder, one.raw, (), AT)]


@pytest.mark.parametrize("to", ["yes", "no"], ids=["to altnamespace", "to its old one"])
@pytest.mark.parametrize("alternative", ["yes", "no"], ids=["altnamespace", "its old one"])
def test_cyrus_in_either_namespace_is_a_source_and_a_target(
    start_cyrus: StartCyrus, engine: Engine, alternative: str, to: str
) -> None:
    """What is Wang's and what is everybody's lies beside Lin's own folders, and Lin may write to all of it."""
    servers = [start_cyrus(settings={"altnamespace": setting}) for setting in (alternative, to)]
    for server, setting in zip(servers, (alternative, to), strict=True):
        server.add_users([LIN, WANG])
        inside = "" if setting == "yes" else "INBOX."
        seed(server, WANG.name, WANG.password, letters("wang", {"INBOX": 1, f"{inside}Work": 1}))
        with session(server, ADMIN) as admin:
            must(admin.create("board"))
            for folder, who in (("user.wang", LIN.name), ("user.wang.Work", LIN.name), ("board", "anyone")):
                must(admin.setacl(folder, who, "lrswipkxte"))
        if server is servers[0]:
            shared = "Shared Folders.board" if setting == "yes" else "board"
            with session(server, LIN) as own:
                must(own.append(f'"{shared}"', "", "", next(letters("all", {"board": 1})).raw))
            folders = {f"{inside}{name}": messages for name, messages in OWN.items()}
            seed(server, LIN.name, LIN.password, letters("lin", {"INBOX": 2} | folders))
    source, target = servers
    member = new_member(engine, LIN.name)
    ledger = move(source, target, engine, member)
    others = "Other Users.wang" if alternative == "yes" else "user.wang"
    public = "Shared Folders.board" if alternative == "yes" else "board"
    assert left_out(ledger).items() >= {
        others: "others_folder", f"{others}.Work": "others_folder", public: "public_folder"
    }.items()  # fmt: skip
    inside = "" if to == "yes" else "INBOX."
    arrived = {name: count for name, count in held(target).items() if "wang" not in name}
    assert arrived == {"INBOX": 2, **{f"{inside}{name}": messages for name, messages in OWN.items()}}
    assert held(target, WANG).total() == 2
    move(source, target, engine, member, include=["\\Public"])
    # Among the public folders of the new server it would be no more than a wish of ours.
    there = "_Shared Folders.board" if to == "yes" else "INBOX.Shared Folders.board"
    assert held(target)[there if alternative == "yes" else f"{inside}board (2)"] == 1
    before = held(target)
    move(source, target, engine, member, include=["\\Public"])
    assert held(target) == before
