"""What a check says before anything is moved: both sides, one sign-in each, and nothing written."""

from dataclasses import replace

import pytest

from deployments.demo.imap_server import Action, Fault, ImapServer
from imapcopy.account import Account
from imapcopy.check_mailbox import MailboxCheck, check_mailbox
from imapcopy.copy_options import CopyOptions
from models.check import Severity
from models.hints import Hint
from models.probe import Known
from models.providers import use_providers
from models.rules import FolderRules
from models.server_words import KnownBy
from tests.imapcopy.world import LIN, NEW, PASSWORD, WRITING, Box, account_at, mail, moment

B, W, T = Severity.BLOCKS, Severity.WARNS, Severity.TELLS


@pytest.fixture
def three(mailbox: Box) -> Box:
    """Three messages in INBOX."""
    for number in (1, 2, 3):
        mailbox.deliver(number)
    return mailbox


def look(box: Box, options: CopyOptions | None = None) -> MailboxCheck:
    return check_mailbox(account_at(box.old, LIN), account_at(box.new, NEW), options or CopyOptions())


def found(check: MailboxCheck) -> list[tuple[str, Severity, str]]:
    return [(each.name, each.severity, each.side) for each in check.look.findings]


def logins(server: ImapServer) -> int:
    return len(server.commands("AUTHENTICATE")) + len(server.commands("LOGIN"))


def test_a_mailbox_is_counted_and_nothing_is_written_to_either_side(three: Box) -> None:
    three.deliver(4, "项目", mail(4, b"x" * 5000), internal_date=moment(20))
    check = look(three)
    sizes = [len(message.raw) for folder in three.source.folders for message in folder.messages]
    seen = check.look
    assert (seen.folders, seen.messages, seen.bytes, seen.largest) == (2, 4, sum(sizes), max(sizes))
    assert (seen.oldest, seen.newest) == (moment(2), moment(20))
    assert (found(check), check.failures) == ([], ())
    assert (logins(three.old), logins(three.new)) == (1, 1)
    for server in (three.old, three.new):
        assert not {entry.verb.removeprefix("UID ") for entry in server.log} & WRITING
        assert not {entry.verb for entry in server.log} & {"FETCH"}
    assert all("BODY" not in entry.rest for entry in three.old.commands("UID FETCH"))


def test_faults_on_both_sides_are_told_at_once_with_one_sign_in_each(three: Box) -> None:
    wrong = [Account(account_at(s, u).server, u, "wrong") for s, u in ((three.old, LIN), (three.new, NEW))]
    check = check_mailbox(wrong[0], wrong[1], CopyOptions())
    assert [(error.cause_id, error.side) for error in check.failures] == [
        ("bad_credentials", "source"),
        ("bad_credentials", "target"),
    ]
    assert found(check) == [("bad_credentials", B, "source"), ("bad_credentials", B, "target")]
    assert (logins(three.old), logins(three.new)) == (1, 1)


def test_each_side_has_its_own_hint_and_its_own_answer(three: Box) -> None:
    three.new.behaviour.login_refusals = {NEW: "[AUTHENTICATIONFAILED] no"}
    three.old.behaviour.login_refusals = {LIN: "The seat has been parked"}
    blank, wide = (
        Account(account_at(server, user).server, user, password)
        for server, user, password in ((three.old, LIN, " wrong"), (three.new, NEW, "ｗrong"))
    )
    old, new = check_mailbox(blank, wide, CopyOptions()).look.findings
    assert (old.hint, new.hint) == (Hint("password_blanks_at_ends"), Hint("password_full_width"))
    assert KnownBy.read(old.known_by) == KnownBy("login", "")
    told = KnownBy.read(new.known_by)
    assert told is not None
    assert told.is_known


def test_the_old_mailbox_is_counted_although_the_new_one_refuses(three: Box) -> None:
    target = Account(account_at(three.new, NEW).server, NEW, "wrong")
    check = check_mailbox(account_at(three.old, LIN), target, CopyOptions())
    assert (check.look.messages, [error.side for error in check.failures]) == (3, ["target"])


def test_a_refused_password_is_acted_upon_before_a_server_that_is_away(three: Box) -> None:
    """Trying again would sign in with the refused one too, and lock the account."""
    three.old.behaviour.faults.append(Fault("EXAMINE", Action.NO, text="[UNAVAILABLE] later", times=None))
    target = Account(account_at(three.new, NEW).server, NEW, "wrong")
    check = check_mailbox(account_at(three.old, LIN), target, CopyOptions())
    assert len(check.failures) == 2
    assert check.failure is not None
    assert (check.failure.side, check.failure.retryable) == ("target", False)


def test_inbox_is_opened_also_where_it_is_not_to_be_moved(three: Box) -> None:
    three.deliver(4, "项目")
    three.old.behaviour.faults.append(Fault("EXAMINE", Action.NO, containing="INBOX", text="Unsafe Login", times=None))
    options = CopyOptions(exclude=("INBOX",))
    assert [error.side for error in look(three, options).failures] == ["source"]


def test_a_new_mailbox_that_cannot_be_opened_is_found(three: Box) -> None:
    three.new.behaviour.faults.append(Fault("EXAMINE", Action.NO, text="[UNAVAILABLE] later", times=None))
    assert [(error.cause_id, error.side) for error in look(three).failures] == [("mailbox_unavailable", "target")]


def test_a_target_that_knows_no_examine_is_no_fault(three: Box) -> None:
    three.new.behaviour.unknown_commands = frozenset({"EXAMINE"})
    assert look(three).failures == ()


def test_a_folder_that_does_not_open_is_said_and_the_others_are_counted(three: Box) -> None:
    three.deliver(4, "Locked")
    three.old.behaviour.faults.append(Fault("EXAMINE", Action.NO, containing="Locked", text="[NOPERM] no", times=None))
    check = look(three)
    assert ("folders_unreadable", W, "source") in found(check)
    assert (check.look.messages, check.failures) == (3, ())


def test_of_folders_that_do_not_open_the_one_with_an_answer_that_nobody_knows_is_named(three: Box) -> None:
    for number, (name, text) in enumerate({"Locked": "[NOPERM] no", "Odd": "Odd is quibbled", "Shut": "no"}.items(), 4):
        three.deliver(number, name)
        three.old.behaviour.faults.append(Fault("EXAMINE", Action.NO, containing=name, text=text, times=None))
    [told] = look(three).look.findings
    assert (told.name, told.values, told.where) == ("folders_unreadable", {"n": 3}, "Odd")
    assert told.server_text == "NO Odd is quibbled"
    assert KnownBy.read(told.known_by) == KnownBy("select", "")


@pytest.mark.parametrize(
    ("used", "allowed", "expected"),
    [
        (0, 100_000, []),
        (0, 20_000, ["over_quota"]),
        (25_000, 45_000, ["quota_tight", "target_not_empty"]),
        (5_000, 25_000, ["over_quota", "target_not_empty"]),
    ],
)
def test_the_need_is_held_against_the_room(three: Box, used: int, allowed: int, expected: list[str]) -> None:
    """What is there may be a part of what is to come, so that a half-moved mailbox is not refused."""
    for number in range(10, 13):
        three.deliver(number, raw=mail(number, b"x" * 9_000))
    if used:
        three.target.folder("INBOX").deliver(mail(1, b"x" * used))
    three.new.behaviour.quotas = {NEW: allowed}
    check = look(three)
    assert [name for name, _, _ in found(check)] == expected
    assert [error.cause_id for error in check.failures] == [name for name in expected if name == "over_quota"]
    assert check.look.target_quota is not None


def test_messages_beyond_the_targets_limit_are_counted_whoever_knows_the_limit(three: Box) -> None:
    three.deliver(4, raw=mail(4, b"x" * 300_000))
    three.deliver(5, raw=mail(5, b"x" * 300_000))
    assert look(three).look.limit is None
    told = look(three, CopyOptions(known=Known(size_limit=100_000))).look
    assert (told.too_large, told.limit, told.limit_of) == (2, 100_000, "probe")
    three.new.behaviour.capabilities |= {"APPENDLIMIT"}
    three.new.behaviour.max_message_bytes = 200_000
    check = look(three, CopyOptions(known=Known(size_limit=100_000)))
    assert (check.look.too_large, check.look.limit, check.look.limit_of) == (2, 200_000, "server")
    assert ("too_large", W, "target") in found(check)


def test_a_mailbox_that_takes_days_by_its_services_limit_is_told_beforehand(three: Box) -> None:
    old, new = account_at(three.old, LIN), account_at(three.new, NEW)
    table = """[corp]
title = { zh = "公司", en = "corp" }
download_a_day = 100
"""
    use_providers(table, "providers.toml")
    try:
        check = check_mailbox(replace(old, server=replace(old.server, provider="corp")), new, CopyOptions())
    finally:
        use_providers("", "")
    [finding] = [each for each in check.look.findings if each.name == "daily_limit"]
    assert (finding.side, finding.severity) == ("source", Severity.TELLS)
    assert finding.values == {"days": -(-check.look.bytes // 95), "need": check.look.bytes, "limit": 100}


def test_what_will_look_different_is_told_and_stops_nobody(three: Box) -> None:
    three.deliver(4, "Sent")
    three.deliver(5, "a.b")
    three.deliver(6, "Old")
    three.new.add_account("other@new.example", PASSWORD)
    three.new.behaviour.separator = "."
    three.new.behaviour.capabilities -= {"SPECIAL-USE"}
    box = Box(three.engine, three.old, three.new, three.member_id)
    box.new.add_account(NEW, PASSWORD)
    box.target.folder("INBOX").deliver(mail(9))
    options = CopyOptions(folders=FolderRules(exclude=("Old",)), known=Known(keywords="dropped"))
    assert found(look(box, options)) == [
        ("folders_renamed", T, "target"),
        ("folders_left_out", T, "source"),
        ("target_not_empty", T, "target"),
        ("no_special_use", T, "target"),
        ("keywords_not_kept", T, "target"),
    ]


def test_an_empty_old_mailbox_is_suspicious(three: Box) -> None:
    three.old.add_account(LIN, PASSWORD)
    assert found(look(three)) == [("no_mail", W, "source")]
