"""What looks at all members of a wave asks the database as often for many as for a few."""

from collections.abc import Callable

import pytest
from sqlalchemy import Engine

from models.ledger import Ledger
from models.ledger_rows import Entry
from models.lifecycle import finish_wave, needing_retry, start_check, start_wave
from models.member import take_lease
from models.progress import wave_progress
from models.vault import Vault
from tests.models.company import Company
from tests.models.counting import counted
from tests.models.test_enrol import row, upload

Look = Callable[[Engine, str], object]


def fill(engine: Engine, company: Company, wave: str, members: int) -> None:
    for number in range(members):
        member_id = company.add(f"{number}@new.example", wave=wave)
        ledger = Ledger(engine, member_id, take_lease(engine, member_id))
        ledger.adopt(ledger.open_folder("INBOX", 1, "INBOX", 1).id or 0, [Entry(1, 1, b"x" * 16)])


def asked(engine: Engine, look: Look, wave: str) -> tuple[int, int, int]:
    with counted(engine) as count:
        look(engine, wave)
    return count.writing, count.reading, count.statements


@pytest.mark.parametrize("look", [wave_progress, start_wave, start_check, finish_wave, needing_retry])
def test_a_look_at_a_wave_takes_as_many_statements_for_many_members_as_for_two(
    engine: Engine, company: Company, look: Look
) -> None:
    fill(engine, company, "small", 2)
    fill(engine, company, "large", 20)
    assert asked(engine, look, "large") == asked(engine, look, "small")


def test_a_roster_is_taken_in_with_one_statement_a_new_row_and_none_for_a_known_one(
    engine: Engine, vault: Vault
) -> None:
    def uploaded(*names: str) -> int:
        with counted(engine) as count:
            upload(engine, vault, *(row(name) for name in names))
        return count.statements

    many = [f"member{number}" for number in range(40)]
    uploaded("a", "b")
    known = uploaded("a", "b")
    assert uploaded(*many) <= known + len(many)
    assert uploaded(*many) == known
