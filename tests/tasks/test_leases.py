"""The leases of this process are renewed together, and only those that it holds."""

from datetime import timedelta

import pytest
from sqlalchemy import Engine, text

from models.columns import now
from models.database import writing
from models.member import Member, release_lease, take_lease
from tasks.leases import renew_now, renewed
from tests.models.company import Company
from tests.models.counting import counted


@pytest.fixture
def members(company: Company) -> list[int]:
    return [company.add(f"{name}@new.example") for name in "abc"]


def expire_soon(engine: Engine, *members: int) -> None:
    with writing(engine) as session:
        for member_id in members:
            member = session.get_one(Member, member_id)
            member.lease_until = now() + timedelta(seconds=1)
            session.add(member)


def seconds_left(company: Company, member_id: int) -> float:
    until = company.member(member_id).lease_until
    return (until - now()).total_seconds() if until else 0.0


def test_all_members_under_way_are_renewed_in_one_transaction(
    engine: Engine, company: Company, members: list[int]
) -> None:
    one, two, other = members
    tokens = {member_id: take_lease(engine, member_id) for member_id in members}
    expire_soon(engine, *members)
    with renewed(engine, one, tokens[one]), renewed(engine, two, tokens[two]), counted(engine) as count:
        renew_now()
    assert count.writing == 1
    assert seconds_left(company, one) > 200
    assert seconds_left(company, two) > 200
    assert seconds_left(company, other) < 2
    expire_soon(engine, *members)
    renew_now()
    assert seconds_left(company, one) < 2, "its work has ended"


def test_what_was_given_back_or_lost_is_left_alone(engine: Engine, company: Company, members: list[int]) -> None:
    given_back, lost, _ = members
    tokens = {member_id: take_lease(engine, member_id) for member_id in members}
    release_lease(engine, given_back, tokens[given_back])
    company.expire_lease(lost)
    take_lease(engine, lost, "another-machine/boot/1/1")
    before = company.member(lost).model_dump()
    with renewed(engine, given_back, tokens[given_back]), renewed(engine, lost, tokens[lost]):
        renew_now()
    assert company.member(given_back).lease_until is None
    assert company.member(lost).model_dump() == before


def test_a_database_that_cannot_be_written_now_ends_nothing(engine: Engine, members: list[int]) -> None:
    with renewed(engine, members[0], take_lease(engine, members[0])):
        with engine.connect() as connection:
            connection.execute(text("ALTER TABLE member RENAME TO elsewhere"))
            connection.commit()
        renew_now()
