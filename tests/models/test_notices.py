"""Notices in the database: said once, by one runner, whoever dies."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from models.columns import now
from models.database import writing
from models.notices import (
    Channel,
    NewNotice,
    Notice,
    NoticeKind,
    NoticeState,
    claim_notice,
    drop_notices,
    file_notices,
    forget_dead_runners,
    open_notices,
    put_off,
    send_again,
    settle_notice,
    wave_notices,
)
from tests.models.company import Company

N = NoticeState


@pytest.fixture
def member(company: Company) -> int:
    return company.add("li@new.example")


def invitation(member: int, key: str = "1-1-invitation-0-abc") -> NewNotice:
    return NewNotice(NoticeKind.INVITATION, Channel.MAIL, "li@old.example", key, now(), member)


def only(engine: Engine) -> Notice:
    (notice,) = wave_notices(engine, "first")
    return notice


def filed(engine: Engine, member: int) -> int:
    file_notices(engine, "first", [invitation(member)])
    return only(engine).id or 0


def die(engine: Engine, notice: int, owner: str = "") -> None:
    """Let the runner of a notice be one that has ended, or that other."""
    with writing(engine) as session:
        row = session.get_one(Notice, notice)
        here, boot, _, started = row.owner.split("/")
        row.owner = owner or f"{here}/{boot}/999999999/{started}"
        session.add(row)


def test_the_same_is_filed_once_by_whoever_comes_first(engine: Engine, member: int) -> None:
    start = threading.Barrier(4)

    def file() -> int:
        start.wait()
        return file_notices(engine, "first", [invitation(member), invitation(member, "another")])

    with ThreadPoolExecutor(4) as pool:
        assert sum(each.result() for each in [pool.submit(file) for _ in range(4)]) == 2
    assert len(wave_notices(engine, "first")) == 2


def test_one_of_many_runners_hands_a_notice_over(engine: Engine, member: int) -> None:
    notice, start = filed(engine, member), threading.Barrier(4)

    def claim() -> bool:
        start.wait()
        return claim_notice(engine, notice) is not None

    with ThreadPoolExecutor(4) as pool:
        assert sorted(each.result() for each in [pool.submit(claim) for _ in range(4)]) == [False, False, False, True]
    assert only(engine).attempts == 1


def test_what_was_sent_stays_sent(engine: Engine, member: int) -> None:
    notice = filed(engine, member)
    claim_notice(engine, notice)
    settle_notice(engine, notice, N.SENT)
    settle_notice(engine, notice, N.REFUSED, error="too late")
    put_off(engine, [notice], "away", now())
    drop_notices(engine, [notice])
    assert file_notices(engine, "first", [invitation(member)]) == 0
    assert claim_notice(engine, notice) is None
    found = only(engine)
    assert (found.state, found.error, found.sent_at is not None) == (N.SENT, "", True)


def test_a_runner_that_died_leaves_it_unknown_and_one_that_lives_keeps_it(engine: Engine, member: int) -> None:
    notice = filed(engine, member)
    claim_notice(engine, notice)
    assert forget_dead_runners(engine, "first") == 0
    die(engine, notice)
    assert forget_dead_runners(engine, "first") == 1
    assert only(engine).state == N.UNKNOWN
    settle_notice(engine, notice, N.SENT)
    assert only(engine).state == N.UNKNOWN


def test_a_runner_of_another_machine_is_dead_after_an_hour(engine: Engine, member: int) -> None:
    notice = filed(engine, member)
    claim_notice(engine, notice)
    die(engine, notice, "elsewhere/boot/1/1")
    assert forget_dead_runners(engine, "first") == 0
    with writing(engine) as session:
        row = session.get_one(Notice, notice)
        row.next_at = now() - timedelta(minutes=61)
        session.add(row)
    assert forget_dead_runners(engine, "first") == 1


def test_only_an_admin_lets_it_go_out_again(engine: Engine, member: int) -> None:
    notice = filed(engine, member)
    claim_notice(engine, notice)
    settle_notice(engine, notice, N.UNKNOWN, error="no answer")
    assert claim_notice(engine, notice) is None
    assert send_again(engine, "first", [NoticeKind.REMINDER]) == 0
    assert send_again(engine, "first", [NoticeKind.INVITATION]) == 1
    assert claim_notice(engine, notice) is not None


def test_what_was_dropped_is_wanted_again_under_its_own_key(engine: Engine, member: int) -> None:
    notice = filed(engine, member)
    drop_notices(engine, [notice])
    assert only(engine).state == N.DROPPED
    assert file_notices(engine, "first", [invitation(member)]) == 1
    assert only(engine).state == N.WAITING


def test_a_wave_is_opened_once(engine: Engine, company: Company, member: int) -> None:
    since = open_notices(engine, "first")
    assert open_notices(engine, "first") == since
    assert company.wave_row().notices_opened_at == since
    assert company.events() == ["notices"]
