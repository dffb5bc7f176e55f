"""Who is told what, and when: decided from values, so a week takes no time."""

import itertools
import zlib
from datetime import UTC, date, datetime, time, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.notices import Channel, NewNotice, Notice, NoticeKind, NoticeState
from models.states import FINAL, MOVED, MemberState, WaveState
from tasks.notice_policy import (
    Hours,
    Person,
    Plan,
    WaveFacts,
    due_alarms,
    due_summaries,
    due_to_members,
    host_troubles,
    last_told,
    next_try,
    no_longer_wanted,
    outdated,
)

K, N, M = NoticeKind, NoticeState, MemberState
SHANGHAI = ZoneInfo("Asia/Shanghai")
START = datetime(2026, 12, 7, 2, tzinfo=UTC)  # a Monday, 10:00 in Shanghai
PLAN = Plan(Hours(SHANGHAI), admins=((Channel.MAIL, "admin@corp.example"),))
OPEN = WaveFacts(1, WaveState.RUNNING, START, started_at=START)
DAY = timedelta(days=1)


def person(state: M = M.QUEUED, cause: str | None = None, **instead: object) -> Person:
    given_ = {"id": 7, "new_address": "li@new.example", "old_login": "li@old.example", "notify_address": ""}
    return Person(**{**given_, "host": "imap.old.example", "state": state, "cause": cause, **instead})  # type: ignore[arg-type]


NEEDY = person(M.NEEDS_PASSWORD, "bad_credentials")


def kept(new: NewNotice, state: N = N.SENT, at: datetime = START, **values: object) -> Notice:
    """The notice as the database has it after it was handed over."""
    sent_at = at if state == N.SENT else None
    return Notice(
        wave_id=1,
        id=zlib.crc32(new.key.encode()),
        member_id=new.member_id,
        kind=new.kind,
        channel=new.channel,
        recipient=new.recipient,
        key=new.key,
        about=new.about,
        snapshot=new.snapshot,
        state=state,
        due_at=new.due_at,
        next_at=at,
        sent_at=sent_at,
        **values,
    )


def over_weeks(who: Person, wave: WaveFacts = OPEN, plan: Plan = PLAN, days: int = 60) -> list[tuple[int, K, str]]:
    """Look every hour for so long, each notice going out at once; returns day, kind and what it is about."""
    sent: list[Notice] = []
    told = []
    for hour in range(24 * days):
        at = START + timedelta(hours=hour)
        for new in due_to_members(wave, [who], sent, plan, at):
            sent.append(kept(new, at=at))
            told.append((hour // 24, new.kind, new.about))
    assert len({notice.key for notice in sent}) == len(sent)
    return told


# Members


def test_nobody_is_written_to_before_an_admin_says_so() -> None:
    closed = WaveFacts(1, WaveState.RUNNING, None, started_at=START)
    for state in M:
        assert due_to_members(closed, [person(state)], [], PLAN, START) == []


def test_a_member_who_does_nothing_gets_an_invitation_and_three_reminders_with_growing_gaps_and_no_more() -> None:
    assert over_weeks(NEEDY) == [
        (0, K.INVITATION, ""),
        (2, K.REMINDER, "bad_credentials"),
        (6, K.REMINDER, "bad_credentials"),
        (14, K.REMINDER, "bad_credentials"),
    ]


@pytest.mark.parametrize(
    ("who", "told"),
    [
        (person(M.QUEUED), [(0, K.INVITATION, "")]),
        (person(M.SYNCING), [(0, K.INVITATION, "")]),
        (person(M.THROTTLED), [(0, K.INVITATION, "")]),
        (person(M.FAILED, "connect_failed"), [(0, K.INVITATION, "")]),
        (person(M.FAILED, "over_quota"), [(0, K.INVITATION, "")]),
        (person(M.SYNCED), [(0, K.COMPLETION, "")]),
        (person(M.SYNCED_WITH_ISSUES), [(0, K.COMPLETION, "")]),
        (person(M.COMPLETED), [(0, K.COMPLETION, "")]),
        (person(M.REMOVED), []),
    ],
)
def test_members_are_reminded_only_of_what_they_alone_can_do(who: Person, told: list[object]) -> None:
    assert over_weeks(who) == told


def test_a_password_that_nobody_gave_is_reminded_of_before_any_run_has_noticed() -> None:
    told = over_weeks(person(M.QUEUED, passwords_missing=True))
    assert [about for _, _, about in told] == ["", *["password_missing"] * 3]


def test_another_cause_has_reminders_of_its_own_and_they_keep_their_distance() -> None:
    invited = kept(due_to_members(OPEN, [NEEDY], [], PLAN, START)[0])
    at = START + 2 * DAY
    reminded = kept(due_to_members(OPEN, [NEEDY], [invited], PLAN, at)[0], at=at)
    other = person(M.NEEDS_PASSWORD, "password_expired")
    assert due_to_members(OPEN, [other], [invited, reminded], PLAN, at + DAY) == []
    (new,) = due_to_members(OPEN, [other], [invited, reminded], PLAN, at + 2 * DAY)
    assert (new.kind, new.about) == (K.REMINDER, "password_expired")


@pytest.mark.parametrize("state", sorted(set(WaveState)))
def test_an_ended_wave_reminds_nobody_and_a_cancelled_one_tells_nobody(state: WaveState) -> None:
    wave = WaveFacts(1, state, START, started_at=START)
    kinds = {kind for _, kind, _ in over_weeks(NEEDY, wave)} | {
        kind for _, kind, _ in over_weeks(person(M.SYNCED), wave)
    }
    ended = {WaveState.COMPLETED, WaveState.COMPLETED_WITH_FAILURES}
    assert kinds == (
        set()
        if state == WaveState.CANCELLED
        else {K.COMPLETION}
        if state in ended
        else {K.INVITATION, K.REMINDER, K.COMPLETION}
    )


@pytest.mark.parametrize("state", [N.WAITING, N.SENDING, N.REFUSED])
def test_no_reminder_while_the_invitation_has_not_gone_out(state: N) -> None:
    invited = kept(due_to_members(OPEN, [NEEDY], [], PLAN, START)[0], state)
    assert due_to_members(OPEN, [NEEDY], [invited], PLAN, START + 30 * DAY) == []


def test_an_invitation_that_perhaps_arrived_is_not_sent_again_and_reminders_follow() -> None:
    invited = kept(due_to_members(OPEN, [NEEDY], [], PLAN, START)[0], N.UNKNOWN)
    (new,) = due_to_members(OPEN, [NEEDY], [invited], PLAN, START + 2 * DAY)
    assert new.kind == K.REMINDER


def test_an_address_that_bounced_gets_nothing_more_and_a_corrected_one_is_invited_anew() -> None:
    bounced = kept(due_to_members(OPEN, [NEEDY], [], PLAN, START)[0], N.REFUSED, bounced=True)
    assert due_to_members(OPEN, [NEEDY], [bounced], PLAN, START + 30 * DAY) == []
    through = person(M.SYNCED)
    assert due_to_members(OPEN, [through], [bounced], PLAN, START + 30 * DAY) == []
    mended = person(M.NEEDS_PASSWORD, "bad_credentials", notify_address="li.private@mail.example")
    (new,) = due_to_members(OPEN, [mended], [bounced], PLAN, START + DAY)
    assert (new.kind, new.recipient) == (K.INVITATION, "li.private@mail.example")
    assert new.key != bounced.key


def test_without_a_mail_server_members_are_told_nothing() -> None:
    assert due_to_members(OPEN, [NEEDY], [], Plan(Hours(SHANGHAI), mail=False), START) == []


@pytest.mark.parametrize(
    ("notify", "old", "state", "address"),
    [
        ("", "li@old.example", M.QUEUED, "li@old.example"),
        ("li@mail.example", "li@old.example", M.QUEUED, "li@mail.example"),
        ("", "li", M.QUEUED, ""),
        ("LI@new.example", "li@old.example", M.QUEUED, "li@old.example"),
        ("li@new.example", "li", M.QUEUED, ""),
        ("li@new.example", "li", M.SYNCED, "li@new.example"),
        ("", "Li@new.example", M.QUEUED, "Li@new.example"),
    ],
)
def test_members_are_written_to_where_they_read_mail_now(notify: str, old: str, state: M, address: str) -> None:
    """Never to the new mailbox before there is anything in it, unless the address stays what it was."""
    assert person(state, notify_address=notify, old_login=old).address == address


@pytest.mark.parametrize(
    ("now", "dropped"),
    [
        (NEEDY, False),
        (person(M.NEEDS_PASSWORD, "password_expired"), True),
        (person(M.QUEUED), True),
        (person(M.SYNCED), True),
        (person(M.REMOVED), True),
        (person(M.NEEDS_PASSWORD, "bad_credentials", notify_address="other@mail.example"), True),
    ],
)
def test_a_reminder_that_waits_is_dropped_when_its_reason_goes(now: Person, dropped: bool) -> None:
    invited = kept(due_to_members(OPEN, [NEEDY], [], PLAN, START)[0])
    reminder = kept(due_to_members(OPEN, [NEEDY], [invited], PLAN, START + 2 * DAY)[0], N.WAITING)
    assert no_longer_wanted(OPEN, [now], [invited, reminder]) == ([reminder.id] if dropped else [])


def test_a_dropped_notice_counts_as_never_said() -> None:
    first = due_to_members(OPEN, [NEEDY], [], PLAN, START)[0]
    again = due_to_members(OPEN, [NEEDY], [kept(first, N.DROPPED)], PLAN, START + DAY)
    assert [each.key for each in again] == [first.key]


@given(st.sampled_from(sorted(M)), st.sampled_from([None, "bad_credentials", "over_quota"]), st.booleans())
def test_whatever_a_member_is_like_it_ends(state: M, cause: str | None, missing: bool) -> None:
    told = over_weeks(person(state, cause, passwords_missing=missing), days=40)
    assert len(told) <= 4
    assert not told or told[-1][0] <= 14
    if state in MOVED | FINAL:
        assert len(told) <= 1


# Hours


@pytest.mark.parametrize(
    ("at", "opens"),
    [
        ("2026-12-07 10:00", "2026-12-07 10:00"),
        ("2026-12-07 21:59", "2026-12-07 21:59"),
        ("2026-12-07 22:00", "2026-12-08 08:00"),
        ("2026-12-08 03:00", "2026-12-08 08:00"),
        ("2026-12-08 08:00", "2026-12-08 08:00"),
        ("2026-12-11 22:30", "2026-12-14 08:00"),  # a Friday night
        ("2026-12-12 12:00", "2026-12-14 08:00"),
        ("2026-12-13 23:59", "2026-12-14 08:00"),
    ],
)
def test_quiet_hours_and_weekends_are_those_of_the_zone(at: str, opens: str) -> None:
    hours = Hours(SHANGHAI, (time(22), time(8)), weekends_quiet=True)
    asked = datetime.fromisoformat(at).replace(tzinfo=SHANGHAI)
    assert hours.next_open(asked).astimezone(SHANGHAI) == datetime.fromisoformat(opens).replace(tzinfo=SHANGHAI)


def test_quiet_hours_within_a_day() -> None:
    hours = Hours(SHANGHAI, (time(12), time(14)))
    assert hours.next_open(datetime(2026, 12, 7, 13, tzinfo=SHANGHAI)) == datetime(2026, 12, 7, 14, tzinfo=SHANGHAI)
    assert hours.next_open(datetime(2026, 12, 7, 14, tzinfo=SHANGHAI)) == datetime(2026, 12, 7, 14, tzinfo=SHANGHAI)


def test_quiet_hours_that_end_in_the_hour_that_clocks_skip_end_right_after_it() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    hours = Hours(berlin, (time(22), time(2, 30)))
    # 2027-03-28: clocks go from 02:00 to 03:00.
    opens = hours.next_open(datetime(2027, 3, 28, 1, tzinfo=berlin)).astimezone(berlin)
    assert opens.date() == date(2027, 3, 28)
    assert time(3) <= opens.time() <= time(4)


def test_quiet_hours_that_end_in_the_hour_that_comes_twice_end_at_its_second_time_for_who_asks_then() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    hours = Hours(berlin, (time(22), time(2, 30)))
    # 2026-10-25: clocks go from 03:00 back to 02:00.
    first, second = (datetime(2026, 10, 25, 2, 15, tzinfo=berlin, fold=fold) for fold in (0, 1))
    assert hours.next_open(first) == datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert hours.next_open(second) == datetime(2026, 10, 25, 1, 30, tzinfo=UTC)


def test_quiet_hours_follow_a_zone_that_is_set_anew() -> None:
    at = datetime(2026, 12, 7, 23, 0, tzinfo=SHANGHAI)
    assert Hours(SHANGHAI, (time(22), time(8))).next_open(at) == datetime(2026, 12, 8, 8, tzinfo=SHANGHAI)
    assert Hours(ZoneInfo("Europe/Berlin"), (time(22), time(8))).next_open(at) == at


moments = st.datetimes(datetime(2026, 1, 1), datetime(2028, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
clocks = st.tuples(st.times(), st.times()).filter(lambda pair: pair[0] != pair[1])
zones = st.sampled_from(["Asia/Shanghai", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "UTC"])


@given(moments, clocks, zones, st.booleans())
def test_what_opens_is_open_and_comes_within_three_days(
    at: datetime, quiet: tuple[time, time], zone: str, weekends: bool
) -> None:
    begin, end = (clock.replace(microsecond=0, second=0) for clock in quiet)
    hours = Hours(ZoneInfo(zone), (begin, end) if begin != end else None, weekends)
    opens = hours.next_open(at)
    assert at <= opens <= at + timedelta(days=4)
    assert hours.next_open(opens) == opens


# Admins


def test_a_summary_comes_once_a_day_after_its_hour_and_not_when_nothing_changed() -> None:
    sent: list[Notice] = []
    told = []
    for hour in range(24 * 5):
        at = datetime(2026, 12, 7, 0, tzinfo=SHANGHAI) + timedelta(hours=hour)
        moved = min(hour // 24, 2)
        for new in due_summaries(OPEN, {"at": at.isoformat(), "moved": moved}, sent, PLAN, at):
            sent.append(kept(new, at=at))
            told.append((at.day, at.hour, moved))
    assert told == [(7, 9, 0), (8, 9, 1), (9, 9, 2)]


def test_each_admin_is_told_what_changed_since_their_own_last_summary() -> None:
    plan = Plan(Hours(SHANGHAI), admins=((Channel.MAIL, "a@corp.example"), (Channel.CHAT, "feishu 1a2b3c")))
    first = due_summaries(OPEN, {"moved": 1}, [], plan, START)
    before = [kept(first[0]), kept(first[1], N.UNKNOWN)]
    assert last_told(before, "a@corp.example") == {"moved": 1}
    assert last_told(before, "feishu 1a2b3c") is None
    later = due_summaries(OPEN, {"moved": 1}, before, plan, START + DAY)
    assert [each.recipient for each in later] == ["feishu 1a2b3c"]


def test_a_wave_that_never_ran_has_no_summary() -> None:
    assert due_summaries(WaveFacts(1, WaveState.DRAFT, START, started_at=None), {"moved": 0}, [], PLAN, START) == []


def test_an_alarm_comes_at_once_and_then_once_in_so_many_hours() -> None:
    stuck = person(M.FAILED, "connect_failed")
    troubles = host_troubles([stuck], {})
    assert troubles == {"connect_failed imap.old.example": [7]}
    sent: list[Notice] = []
    hours = []
    for quarter in range(4 * 24):
        at = START + timedelta(minutes=15 * quarter)
        for new in due_alarms(OPEN, troubles, sent, PLAN, at):
            sent.append(kept(new, at=at))
            hours.append(quarter / 4)
    assert hours[0] == 0
    assert len(hours) <= 7
    assert all(later - earlier >= PLAN.alarm_hours for earlier, later in itertools.pairwise(hours))


@pytest.mark.parametrize(
    ("state", "alarms"),
    [
        (WaveState.RUNNING, 6),
        (WaveState.SYNCED_WITH_FAILURES, 1),
        (WaveState.DRAFT, 1),
        (WaveState.COMPLETED_WITH_FAILURES, 0),
        (WaveState.CANCELLED, 0),
    ],
)
def test_an_alarm_is_repeated_while_a_run_goes_on_and_ends_with_the_wave(state: WaveState, alarms: int) -> None:
    wave = WaveFacts(1, state, START, started_at=None if state == WaveState.DRAFT else START - DAY)
    sent: list[Notice] = []
    for hour in range(24):
        at = START + timedelta(hours=hour)
        sent += [kept(new, at=at) for new in due_alarms(wave, {"connect_failed h": [7]}, sent, PLAN, at)]
    assert len(sent) == alarms


def test_a_trouble_that_comes_back_in_a_later_run_is_told_again() -> None:
    ended = WaveFacts(1, WaveState.SYNCED_WITH_FAILURES, START, started_at=START - DAY)
    said = [kept(new) for new in due_alarms(ended, {"connect_failed h": [7]}, [], PLAN, START)]
    again = WaveFacts(1, WaveState.SYNCED_WITH_FAILURES, START, started_at=START + DAY)
    assert len(due_alarms(again, {"connect_failed h": [7]}, said, PLAN, START + 2 * DAY)) == 1


def test_a_server_that_is_left_alone_counts_for_all_who_wait_for_it() -> None:
    waiting = [person(M.QUEUED, id=n, new_host="imap.new.example") for n in range(3)]
    through = person(M.SYNCED, id=9)
    assert host_troubles([*waiting, through], {"imap.new.example": "login_throttled"}) == {
        "login_throttled imap.new.example": [0, 1, 2]
    }
    assert host_troubles([person(M.FAILED, "database_unavailable")], {}) == {"database_unavailable": [7]}


@pytest.mark.parametrize(("side", "host"), [("source", "imap.old.example"), ("target", "imap.new.example")])
def test_an_alarm_names_the_server_of_the_side_that_failed(side: str, host: str) -> None:
    stuck = person(M.FAILED, "connect_failed", new_host="imap.new.example", cause_side=side)
    assert host_troubles([stuck], {}) == {f"connect_failed {host}": [7]}


def test_yesterdays_summary_and_the_alarm_of_a_trouble_that_is_over_are_dropped() -> None:
    summary = kept(due_summaries(OPEN, {"moved": 0}, [], PLAN, START)[0], N.WAITING)
    alarm = kept(due_alarms(OPEN, {"connect_failed h": [1]}, [], PLAN, START)[0], N.WAITING)
    assert outdated([summary, alarm], {"connect_failed h": [1]}, START, PLAN) == []
    assert outdated([summary, alarm], {}, START + DAY, PLAN) == [summary.id, alarm.id]


def test_a_server_that_puts_mail_off_is_asked_ever_less_often_and_not_for_ever() -> None:
    at, times = START, []
    for attempt in range(1, 100):
        later = next_try(attempt, at)
        if later is None:
            break
        times.append((later - at).total_seconds() / 60)
        at = later
    assert times[:6] == [15, 30, 60, 120, 240, 240]
    assert timedelta(days=2) <= at - START < timedelta(days=2, hours=4)
    assert len(times) < 20
