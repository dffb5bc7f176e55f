"""Which members of a wave are suspected of showing only a part of their mail."""

from datetime import date

from models.member import Member
from models.receive_range import COMPARED, LimitedRange, Sign
from models.states import MemberState
from reports.read_check import limited_ranges


def member(number: int, messages: int = 8000, **more: object) -> Member:
    return Member(
        id=number, wave_id=1, line=number, email=f"{number}@new.example", user_name="", messages_found=messages, **more
    )


def test_a_members_own_sign_counts_and_else_the_comparison_with_the_wave() -> None:
    others = [member(number) for number in range(COMPARED)]
    small, aged = member(50, 90), member(51, 90, limited_range="age 30")
    assert limited_ranges([*others, small, aged]) == {
        50: LimitedRange(Sign.MEDIAN, 8000),
        51: LimitedRange(Sign.AGE, 30),
    }
    assert limited_ranges([*others[:-2], small]) == {}


def test_shared_mailboxes_parts_of_mailboxes_and_who_was_never_looked_at_are_not_compared() -> None:
    others = [member(number) for number in range(COMPARED)]
    left_out = [
        member(50, 90, shared=True),
        member(51, 90, since=date(2026, 1, 1)),
        member(52, 90, state=MemberState.REMOVED),
        member(53, 0),
    ]
    assert limited_ranges([*others, *left_out]) == {}
