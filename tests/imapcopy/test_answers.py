"""Every answer that was seen on a server has its cause."""

import re
import socket
import ssl

import pytest

from imapcopy.answers import (
    DEFAULT_CAUSES,
    Rule,
    RuleError,
    Stage,
    Verdict,
    add_own_rules,
    classify,
    classify_exception,
    codes,
    judge,
    read_own_rules,
    response_codes,
    rules,
    unwrapped,
)
from imapcopy.errors import Side
from models.causes import causes

STAGES = list(DEFAULT_CAUSES)
SAMPLES = [(rule, sample) for rule in rules() for sample in rule.samples]


WRITES = {"create", "append", "store", "move"}


def stage_of(rule: Rule) -> Stage:
    return rule.seen[0] if rule.seen else "list"  # type: ignore[return-value]


def side_of(rule: Rule) -> Side:
    return "source" if rule.side == "source" or stage_of(rule) not in WRITES else "target"


@pytest.mark.parametrize(
    ("rule", "sample"), SAMPLES, ids=[f"{rule.id} {number}" for number, (rule, _) in enumerate(SAMPLES)]
)
def test_a_sample_has_the_cause_of_its_rule(rule: Rule, sample: str) -> None:
    assert classify(sample, stage=stage_of(rule), side=side_of(rule), host=rule.sample_host) == rule.cause


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.id)
def test_a_rule_names_a_cause_and_a_stage_that_exist_and_has_a_sample(rule: Rule) -> None:
    assert rule.cause in causes()
    assert rule.samples
    assert not rule.hosts or rule.hosts.search(rule.sample_host)


def test_no_rule_has_the_name_of_another() -> None:
    names = [rule.id for rule in rules()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("rule", [rule for rule in rules() if rule.stages == {"login"}], ids=lambda rule: rule.id)
def test_words_of_a_login_mean_nothing_at_an_append(rule: Rule) -> None:
    for sample in rule.samples:
        assert classify(sample, stage="append", side="target", host=rule.sample_host) not in (
            *("bad_credentials", "ambiguous_login", "app_password_required", "id_required"),
        )


@pytest.mark.parametrize("stage", STAGES)
def test_words_that_nobody_knows_have_the_cause_of_their_stage(stage: str) -> None:
    assert classify("NO hm", stage=stage, side="target", host="") == DEFAULT_CAUSES[stage]  # type: ignore[arg-type,index]


@pytest.mark.parametrize("text", ["NO moderate operation", "NO migrate", "NO generated"])
def test_a_word_within_a_word_says_nothing(text: str) -> None:
    assert classify(text, stage="append", side="target", host="") == "unclassified"


@pytest.mark.parametrize(
    ("error", "stage", "cause"),
    [
        (socket.gaierror(-2, "Name or service not known"), "connect", "dns_error"),
        (UnicodeError("label empty or too long"), "connect", "dns_error"),
        (ssl.SSLCertVerificationError("x"), "connect", "tls_cert"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong version number"), "connect", "wrong_port"),
        (ssl.SSLError(1, "odd"), "connect", "tls_protocol"),
        (TimeoutError(), "connect", "connect_failed"),
        (TimeoutError(), "fetch", "timeout"),
        (ConnectionRefusedError(), "connect", "connect_failed"),
        (OSError(113, "No route to host"), "connect", "connect_failed"),
        (ConnectionResetError(), "append", "connection_dropped"),
        (OSError(9, "Bad file descriptor"), "list", "connection_dropped"),
    ],
)
def test_what_a_socket_raises_has_a_cause(error: Exception, stage: str, cause: str) -> None:
    assert classify_exception(error, stage=stage, side="source", host="") == cause  # type: ignore[arg-type]


# Response codes


def test_every_code_means_causes_that_exist_at_stages_that_exist() -> None:
    for rows in codes().values():
        for row in rows:
            assert {row.cause, *row.words} <= set(causes()), row
            assert row.stages <= set(STAGES), row
            assert row.cause not in row.words


NEVER_CREDENTIALS = ["UNAVAILABLE", "INUSE", "LIMIT", "THROTTLED", "SERVERBUG", "TEMPFAIL", "OVERQUOTA", "CORRUPTION"]
OF_CREDENTIALS = {"bad_credentials", "ambiguous_login", "app_password_required", "no_such_user", "password_expired"}


@pytest.mark.parametrize("code", NEVER_CREDENTIALS)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize(
    "words", ["LOGIN failed", "Invalid credentials", "password error", "wrong authorization", "密码错误", "用户不存在"]
)
def test_a_code_that_is_no_matter_of_credentials_stays_so_whatever_the_words(
    code: str, stage: Stage, side: Side, words: str
) -> None:
    assert classify(f"NO [{code}] {words}", stage=stage, side=side, host="imap.example.com") not in OF_CREDENTIALS


@pytest.mark.parametrize(
    ("text", "stage", "side", "cause"),
    [
        ("NO [LIMIT] x", "login", "source", "login_throttled"),
        ("NO [LIMIT] x", "create", "target", "folder_name_invalid"),
        ("NO [LIMIT] x", "fetch", "source", "throttled"),
        ("NO [OVERQUOTA] x", "fetch", "source", "bandwidth_exceeded"),
        ("NO [OVERQUOTA] x", "fetch", "target", "bandwidth_exceeded"),
        ("NO [OVERQUOTA] x", "append", "target", "over_quota"),
        ("NO [CANNOT] x", "create", "target", "folder_name_invalid"),
        ("NO [CANNOT] x", "append", "target", "permission_denied"),
        ("NO [CANNOT] x", "store", "target", "flags_refused"),
        ("NO [NONEXISTENT] x", "login", "source", "no_such_user"),
        ("NO [NONEXISTENT] x", "select", "source", "folder_missing"),
        ("NO [CORRUPTION] x", "fetch", "source", "source_unreadable"),
        ("NO [CORRUPTION] x", "select", "source", "mailbox_unavailable"),
        ("NO [X-ODD 5] [ALERT] [INUSE] password", "login", "source", "mailbox_unavailable"),
        ("b'[AUTHENTICATIONFAILED] hm'", "login", "source", "bad_credentials"),
        ("LOGIN command error: BAD [b'[UNAVAILABLE] hm']", "login", "source", "mailbox_unavailable"),
    ],
)
def test_a_code_means_what_it_means_at_its_stage_and_side(text: str, stage: Stage, side: Side, cause: str) -> None:
    assert classify(text, stage=stage, side=side, host="") == cause


@pytest.mark.parametrize("text", ["NO [ALERT] hm", "NO [X-OF-2031 a b] hm", "NO [HIGHESTMODSEQ 5] hm"])
def test_a_code_without_a_meaning_of_its_own_is_passed_over(text: str) -> None:
    assert judge(text, stage="login", side="source", host="") == Verdict("ambiguous_login", "")


def test_a_verdict_names_the_rule_or_the_code_that_gave_it() -> None:
    login = {"stage": "login", "side": "source", "host": ""}
    assert judge("NO LOGIN failed.", **login).rule == "rfc-authfailed"  # type: ignore[arg-type]
    assert judge("NO [UNAVAILABLE] hm", **login).rule == "[UNAVAILABLE]"  # type: ignore[arg-type]
    assert judge("NO [LIMIT] Too many connections", **login).rule == "too-many-generic"  # type: ignore[arg-type]


def test_brackets_in_the_middle_of_an_answer_are_no_code() -> None:
    assert response_codes("NO LOGIN failed. [UNAVAILABLE]") == []
    assert response_codes("a1 NO [limit] [CANNOT x] Nope") == ["LIMIT", "CANNOT"]
    assert response_codes("* BYE [OVERQUOTA] x") == ["OVERQUOTA"]
    assert response_codes("[UNAVAILABLE] x") == ["UNAVAILABLE"]
    assert response_codes("") == []


# imaplib's wrapping


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("b'[AUTHENTICATIONFAILED] No'", "[AUTHENTICATIONFAILED] No"),
        ("[AUTHENTICATIONFAILED] No", "[AUTHENTICATIONFAILED] No"),
        ("LOGIN command error: BAD [b'invalid command']", "BAD invalid command"),
        ("LOGIN command error: BAD ['invalid command']", "BAD invalid command"),
        ("command: LOGIN => Server shutting down.", "Server shutting down."),
        ("command: LOGIN => socket error: EOF", "socket error: EOF"),
        ("b'* BYE Too many connections'", "* BYE Too many connections"),
        ("unexpected response: b'220 smtp ESMTP'", "220 smtp ESMTP"),
        ("command: LOGIN => unexpected response: b'TAG OK'", "TAG OK"),
        ("None", "None"),
        (r"b'\xe5\xaf\x86\xe7\xa0\x81\xe9\x94\x99\xe8\xaf\xaf'", "密码错误"),
        ("NO plain words b'x'", "NO plain words b'x'"),
        ("", ""),
    ],
)
def test_a_servers_line_comes_out_of_the_librarys_wrapping(text: str, line: str) -> None:
    assert unwrapped(text) == line


# Rules of an admin's own

OWN = """
[[answer]]
id = "corp-parked"
regex = 'mailbox parked'
cause = "account_locked"
stages = ["login"]
samples = ["NO mailbox parked"]
"""


def test_an_admins_own_rules_come_first() -> None:
    told = {"stage": "login", "side": "source", "host": ""}
    before = classify("NO [UNAVAILABLE] mailbox parked", **told)  # type: ignore[arg-type]
    add_own_rules(read_own_rules(OWN))
    try:
        assert judge("NO [UNAVAILABLE] mailbox parked", **told) == Verdict("account_locked", "corp-parked")  # type: ignore[arg-type]
    finally:
        add_own_rules(())
    assert classify("NO [UNAVAILABLE] mailbox parked", **told) == before == "mailbox_unavailable"  # type: ignore[arg-type]


def test_a_rule_may_have_several_forms_and_words_beside_which_it_does_not_hold() -> None:
    [rule] = read_own_rules(
        "[[answer]]\nid = 'x'\ncause = 'account_locked'\nregex = ['parked', 'stored a.?way']\nunless = 'IP'"
    )
    assert rule.knows("NO Mailbox PARKED")
    assert rule.knows("NO stored away")
    assert not rule.knows("NO parked for this ip")
    assert not rule.knows("NO nothing")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[[answer]]\nid = 'x'\ncause = 'over_quota'\nregex = '('", "answer 1 (x), regex: "),
        ("[[answer]]\nid = 'x'\ncause = 'over_quota'\nregex = ['a', '(']", "answer 1 (x), regex: "),
        ("[[answer]]\nid = 'x'\ncause = 'over_quota'\nregex = ['a', 1]", "answer 1 (x), regex: not a list of texts"),
        ("[[answer]]\nid = 'x'\ncause = 'over_quota'\nregex = 'a'\nunless = '['", "answer 1 (x), unless: "),
        ("[[answer]]\nid = 'x'\ncause = 'nope'\nregex = 'a'", "answer 1 (x), cause: 'nope' is none of "),
        (
            "[[answer]]\nid = 'x'\ncause = 'over_quota'\nregex = 'a'\nstages = ['lunch']",
            "answer 1 (x), stages: 'lunch'",
        ),
        ("[[answer]]\nid = 'x'\ncause = 'over_quota'\nregex = 'a'\nside = 'left'", "answer 1 (x), side: 'left'"),
        ("[[answer]]\nid = 'x'\ncause = 'over_quota'\nregex = 'a'\nstage = 'login'", "answer 1 (x), stage: not known"),
        ("[[answer]]\nid = 'x'\ncause = 'over_quota'", "answer 1 (x), regex: missing"),
        ("[[answer]]\ncause = 'over_quota'\nregex = 'a'", "answer 1, id: missing"),
        ("[[answer]]\nid = 'x'\ncause = 'over_quota'\nregex = 'a'\nsamples = 'b'", "answer 1 (x), samples: not a list"),
        ("[[code]]\ncode = 'X'", "only [[answer]] tables"),
        ("[[answer", ""),
    ],
)
def test_a_rule_that_cannot_be_is_told_with_row_and_field(text: str, told: str) -> None:
    with pytest.raises(RuleError) as caught:
        read_own_rules(text)
    assert told in str(caught.value)
    assert re.search("[\u4e00-\u9fff]", caught.value.told.zh)
