"""What a server sends without end, from its first octet on, ends with a cause before it fills the memory.

Takes some seconds of processor time: each case is met by a process of its own kind, whose memory alone counts, and each
sends far more than the bounds allow. They are small here; `python -m tests.imapcopy.hostile` measures the real ones.
"""

import pytest

from imapcopy.limits import Limits
from tests.imapcopy.hostile import CASES, Outcome, in_a_process

SMALL = Limits(
    connect_seconds=1.0,
    literal_octets=4 << 20,
    passed_octets=8 << 20,
    answers=20_000,
    held_octets=4 << 20,
    scanned_octets=8 << 20,
    folders=2_000,
    inflated_octets=4 << 20,
)
PEAK_MB = 180
"""With all that is imported; any case would send more, were it let."""


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    return {found.case: found for found in in_a_process(list(CASES), SMALL)}


@pytest.mark.parametrize("case", CASES)
def test_a_hostile_server_ends_with_a_cause_and_costs_little(outcomes: dict[str, Outcome], case: str) -> None:
    found = outcomes[case]
    assert found.peak < PEAK_MB
    if "drip" in case or case == "greetings without end":
        assert found.cause == "connect_failed"
    else:
        assert found.cause in {"unreadable_answer", "too_many_folders", "connection_dropped"}


def test_a_million_folders_are_refused_by_name(outcomes: dict[str, Outcome]) -> None:
    assert outcomes["a million folders"].cause == "too_many_folders"
