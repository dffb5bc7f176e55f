"""What a process has under way is bounded, and whoever waits for room is served in turn."""

import threading

from imapcopy.budget import Allowance, ByteBudget
from tests.servers.dovecot import DEADLINE


def never() -> bool:
    return False


def taking(budget: ByteBudget, size: int, done: list[int]) -> threading.Thread:
    """A thread that waits for room and notes when it has it."""

    def take() -> None:
        assert budget.take(size, never)
        done.append(size)

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    return thread


def test_no_more_is_taken_than_there_is() -> None:
    budget = ByteBudget(100)
    assert budget.try_take(60)
    assert not budget.try_take(50)
    assert budget.try_take(40)
    budget.give(60)
    assert budget.try_take(60)


def test_what_is_larger_than_all_goes_alone() -> None:
    budget = ByteBudget(100)
    assert budget.try_take(1)
    assert not budget.try_take(500)
    budget.give(1)
    assert budget.try_take(500)
    assert not budget.try_take(1)
    budget.give(500)
    assert budget.try_take(100)


def test_who_waits_is_served_in_turn_and_nobody_passes() -> None:
    budget = ByteBudget(100)
    assert budget.try_take(90)
    done: list[int] = []
    first = taking(budget, 80, done)
    # The first one is in the queue when what would fit is refused.
    while budget.try_take(10):
        budget.give(10)
    second = taking(budget, 20, done)
    budget.give(90)
    for thread in (first, second):
        thread.join(DEADLINE)
        assert not thread.is_alive()
    assert sorted(done) == [20, 80]
    assert not budget.try_take(1)


def test_waiting_ends_when_it_is_given_up() -> None:
    budget = ByteBudget(10)
    assert budget.try_take(10)
    assert not budget.take(1, lambda: True)
    budget.give(10)
    assert budget.try_take(10), "who gave up is no longer waited for"


def test_an_allowance_gives_back_what_is_left_however_it_ends() -> None:
    budget = ByteBudget(100)
    try:
        with Allowance(budget) as allowance:
            assert allowance.try_take(30)
            assert allowance.take(40, never)
            allowance.give(30)
            raise KeyError
    except KeyError:
        pass
    assert budget.try_take(100)
