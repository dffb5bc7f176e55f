"""A probe takes from the server no more than members leave it."""

from pathlib import Path

import pytest

from tasks.governor import governor
from tasks.probe import run_probe, typed_account
from tasks.store import store
from tests.tasks.office import Office, new_password


@pytest.mark.parametrize(
    ("cap", "members", "measured", "missing"), [(6, 0, [1, 2, 4], 8), (6, 3, [1, 2], 4), (1, 0, [], 1)]
)
def test_a_probe_has_the_connections_that_members_leave_free_and_says_what_it_could_not_measure(
    office: Office,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    cap: int,
    members: int,
    measured: list[int],
    missing: int,
) -> None:
    monkeypatch.setenv("BANJIA_TARGET_CONNECTIONS", str(cap))
    office.add("li")
    kept = store()
    account = typed_account(kept, "127.0.0.1", office.new.port, "plain", "li@new.example", new_password("li"))
    slots = governor(kept).slots
    old = typed_account(kept, "127.0.0.1", office.old.port, "plain", "li@old.example", "")
    for number in range(members):
        assert slots.reserve(number, old.server, account.server)
    probe = run_probe(kept, account, size_limit=False, told=lambda step: None)
    for number in range(members):
        slots.give_up(number)
    assert [rate.connections for rate in probe.rates] == measured
    assert (probe.without_room, probe.unfinished, probe.leftovers) == (missing, "", ())
    assert office.new.most_connections <= cap - members
