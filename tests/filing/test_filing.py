"""Mail that is filed while a mailbox is moved is there once, and told as what it is, on real servers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fidelity.__main__ import running
from tests.filing.drill import Found, Usage, drill
from tests.servers.courier import Courier
from tests.servers.cyrus import Cyrus
from tests.servers.dovecot import Dovecot

WITHOUT_MOVE = "IMAP4rev1 UIDPLUS LITERAL+ MULTIAPPEND LIST-EXTENDED LIST-STATUS CONDSTORE NAMESPACE"
SMALL = Usage(messages=60, folders=4, operations=120, often=0.2)
LARGE = Usage(messages=600, folders=8, operations=10_000, often=0.15)


def without_move(directory: Path) -> Dovecot:
    return Dovecot(directory, capability=WITHOUT_MOVE)


PAIRS: dict[str, list[Any]] = {
    "Dovecot": [Dovecot, Dovecot],
    "Cyrus": [Cyrus, Cyrus],
    "Courier, which cannot move": [Courier, Courier],
    "Dovecot that cannot move": [Dovecot, without_move],
}


def drilled(pair: str, usage: Usage, directory: Path) -> Found:
    with running(PAIRS[pair]) as (source, target):
        return drill(source, target, usage, directory)


# What another server adds to these is in the large run.
@pytest.mark.parametrize("pair", ["Dovecot", "Courier, which cannot move"])
def test_a_mailbox_that_is_used_while_it_is_moved_arrives_once(pair: str, tmp_path: Path) -> None:
    found = drilled(pair, SMALL, tmp_path)
    assert found.is_right, found.line()
    assert sum(found.operations.values()) >= SMALL.operations
    assert found.followed or "cannot move" in pair


@pytest.mark.thorough
@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("pair", PAIRS)
def test_ten_thousand_operations_double_nothing(pair: str, seed: int, tmp_path: Path) -> None:
    found = drilled(pair, replace(LARGE, seed=seed), tmp_path)
    print(f"{pair}: {found.line()}")
    assert found.is_right, found.line()
