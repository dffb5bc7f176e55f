"""Every answer that was seen on a server has its cause."""

import socket
import ssl

import pytest

from imapcopy.answers import DEFAULT_CAUSES, Rule, classify, classify_exception, rules
from models.causes import causes

STAGES = list(DEFAULT_CAUSES)
SAMPLES = [(rule, sample) for rule in rules() for sample in rule.samples]


def stage_of(rule: Rule) -> str:
    # Words without a stage may come at any; most samples of a login say so themselves.
    return rule.stage or "list"


@pytest.mark.parametrize(
    ("rule", "sample"), SAMPLES, ids=[f"{rule.id} {number}" for number, (rule, _) in enumerate(SAMPLES)]
)
def test_a_sample_has_the_cause_of_its_rule(rule: Rule, sample: str) -> None:
    side = rule.side or "source"
    assert classify(sample, stage=stage_of(rule), side=side, host=rule.sample_host) == rule.cause  # type: ignore[arg-type]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule.id)
def test_a_rule_names_a_cause_and_a_stage_that_exist_and_has_a_sample(rule: Rule) -> None:
    assert rule.cause in causes()
    assert rule.stage in ("", *STAGES)
    assert rule.samples
    assert not rule.hosts or rule.hosts.search(rule.sample_host)


def test_no_rule_has_the_name_of_another() -> None:
    names = [rule.id for rule in rules()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("rule", [rule for rule in rules() if rule.stage == "login"], ids=lambda rule: rule.id)
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
