"""What a roster may decide, as tables."""

import csv
import io

import pytest
from pydantic import ValidationError

from models.detection import DefaultServers, settle
from models.host_addresses import address_of, is_no_servers, is_private
from models.roster import read_roster
from models.roster_policy import AliasesMistaken, KnownServers, PairRule, RosterPolicy, RowJudge, by_host, read_aliases

ADDRESSES = {
    "169.254.169.254": (True, True),
    "::ffff:169.254.169.254": (True, True),
    "::ffff:a9fe:1": (True, True),
    "2002:a9fe:a9fe::1": (True, True),
    "64:ff9b::169.254.169.254": (True, True),
    "fe80::1": (True, True),
    "fe80::1%eth0": (True, True),
    "[fe80::1]": (True, True),
    "100.100.100.200": (True, True),
    "fd00:ec2::254": (True, True),
    "127.0.0.1": (False, True),
    "::1": (False, True),
    "::ffff:10.0.0.1": (False, True),
    "192.168.1.4": (False, True),
    "fd00::25": (False, True),
    "100.64.0.1": (False, True),
    "8.8.8.8": (False, False),
    "2606:4700::1": (False, False),
    "::ffff:8.8.8.8": (False, False),
}


def test_addresses_are_known_for_what_they_are_however_they_are_written() -> None:
    found = {}
    for text in ADDRESSES:
        address = address_of(text)
        assert address is not None
        found[text] = is_no_servers(address), is_private(address)
    assert found == ADDRESSES
    assert address_of("imap.example.com") is None


SERVERS = {
    # host, port, security of the source: the codes with and without a policy, with the columns
    ("imap.exmail.qq.com", "", ""): ([], []),
    ("IMAP.exmail.qq.com.", "993", ""): ([], []),
    ("imap.exmail.qq.com", "2525", ""): ([], [("port-not-allowed", "SourcePort")]),
    ("imap.exmail.qq.com", "143", "plain"): ([], [("plain-not-allowed", "SourceSecurity")]),
    ("imap.old.example", "", ""): ([], []),
    ("imap.old.example", "1143", ""): ([], [("port-not-allowed", "SourcePort")]),
    ("named.example", "1143", ""): ([], []),
    ("named.example", "993", ""): ([], [("port-not-allowed", "SourcePort")]),
    ("named.example", "", ""): ([], [("port-not-allowed", "SourcePort")]),
    ("plain.example", "", "plain"): ([], []),
    ("in-use.example", "", ""): ([], []),
    ("in-use.example", "143", "starttls"): ([], [("port-not-allowed", "SourcePort")]),
    ("imap.other.example", "", "starttls"): ([], [("host-not-allowed", "SourceHost")]),
    ("exmail.qq.com.evil.example", "", ""): ([], [("host-not-allowed", "SourceHost")]),
    ("10.0.0.5", "", ""): ([], []),
    ("10.0.0.6", "", ""): ([], [("host-not-allowed", "SourceHost")]),
    ("10.0.0.7", "", ""): ([], [("private-host-not-named", "SourceHost")]),
    ("2130706433", "", ""): ([], [("host-not-allowed", "SourceHost")]),
    ("127.0.0.1", "1143", "plain"): ([], []),
    ("localhost", "", ""): ([], [("host-not-allowed", "SourceHost")]),
    ("169.254.169.254", "", ""): ([("no-servers-address", "SourceHost")],) * 2,
    ("::ffff:169.254.1.1", "80", "plain"): ([("no-servers-address", "SourceHost")],) * 2,
}


def judged(policy: RosterPolicy, host: str, port: str, security: str) -> list[tuple[str, str]]:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["EmailAddress", "UserName", "SourceHost", "SourcePort", "SourceSecurity", "TargetHost"])
    writer.writerow(["li@new.example", "li@old.example", host, port, security, "imap.new.example"])
    writer.writerow(["wang@new.example", "wang@old.example", "imap.old.example", "", "", "imap.new.example"])
    default = DefaultServers("imap.old.example", "imap.new.example")
    settings = [("imap.old.example", None), ("10.0.0.5", None), ("plain.example", None), ("127.0.0.1", 1143)]
    judge = RowJudge(
        policy,
        {
            "source": KnownServers(
                by_host([*settings, ("named.example", 1143)]), by_host([("10.0.0.7", 993), ("in-use.example", 993)])
            ),
            "target": KnownServers(by_host([("imap.new.example", None)])),
        },
        default,
        plain_hosts=("Plain.example",),
    )
    roster = read_roster(text.getvalue().encode())
    assert not roster.problems
    good, problems = settle(roster.rows, default, judge=judge)
    assert [each.row.email for each in good] == ["wang@new.example"] if problems else len(good) == 2
    assert all(problem.line == 2 for problem in problems)
    for problem in problems:
        assert problem.problem.zh
        assert problem.fix.en
        assert "{" not in problem.fix.zh + problem.problem.en
    return [(problem.code, problem.column) for problem in problems]


@pytest.mark.parametrize("hosts", ["any", "known"])
def test_a_policy_names_each_row_that_decides_too_much_and_good_rows_go_on(hosts: str) -> None:
    policy = RosterPolicy.model_validate({"hosts": hosts})
    found = {server: judged(policy, *server) for server in SERVERS}
    assert found == {server: codes[hosts == "known"] for server, codes in SERVERS.items()}


def test_a_row_that_names_no_server_is_judged_by_the_settings_port() -> None:
    policy = RosterPolicy(hosts="known")
    assert judged(policy, "", "", "") == []
    assert judged(policy, "", "25", "") == [("port-not-allowed", "SourcePort")]


PAIRS = [
    ("li@old.example", "li@new.example", ("{local}",), True),
    ("Li@old.example", "LI@new.example", ("{local}",), True),
    ("li", "li@new.example", ("{local}",), True),
    ("CORP\\li", "li@new.example", ("{local}",), True),
    ("li@old.example", "wang@new.example", ("{local}",), False),
    ("li@old.example", "li.lei@new.example", ("{local}",), False),
    ("li@old.example", "li@other.example", ("{local}@new.example",), False),
    ("li@old.example", "li@new.example", ("{local}@new.example",), True),
    ("li@old.example", "u-li@new.example", ("{local}", "u-{local}"), True),
    ("li@old.example", "li.old.example@new.example", ("{local}.{domain}",), True),
    ("li", "li.@new.example", ("{local}.{domain}",), False),
    ("{domain}@old.example", "old.example@new.example", ("{local}",), False),
    ("boss@old.example", "ceo@new.example", (), True),
    ("ceo@new.example", "boss@old.example", (), False),
]


def test_addresses_agree_by_the_rule_or_by_the_file() -> None:
    aliases = read_aliases("\ufeff# old,new\n\nBoss@OLD.example , ceo@new.example\n", "pairs.csv")
    found = [PairRule(agree, aliases).allows(old, new) for old, new, agree, _ in PAIRS]
    assert found == [expected for *_, expected in PAIRS]


@pytest.mark.parametrize("line", ["only-one", "a,b,c", "a,", ",b"])
def test_a_line_that_is_no_pair_is_named(line: str) -> None:
    with pytest.raises(AliasesMistaken, match=r"pairs\.csv, line 2"):
        read_aliases(f"a,b\n{line}\n", "pairs.csv")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hosts", "some"),
        ("source_hosts", ["imap.example:99999"]),
        ("target_hosts", ["imap.example:imap"]),
        ("target_hosts", [""]),
        ("agree", ["everybody"]),
        ("agree", ["{user}"]),
        ("agree", ["{local"]),
        ("aliases", "/nowhere/pairs.csv"),
        ("surprise", True),
    ],
)
def test_a_policy_that_cannot_be_followed_is_refused(key: str, value: object) -> None:
    with pytest.raises(ValidationError):
        RosterPolicy.model_validate({key: value})
