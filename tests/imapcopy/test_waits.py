"""How long a server asks to be left alone."""

import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imapcopy.answers import suggested_wait
from imapcopy.errors import ServerError
from imapcopy.waits import LONGEST_WAIT


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("BAD Request is throttled. Suggested Backoff Time: 92415 milliseconds", 92.415),
        ("NO Request is throttled. Suggested Backoff Time: 299961 milliseconds", 299.961),
        ("NO [LIMIT] Too many logins, try again in 15 minutes", 900),
        ("NO Please try again after 30 seconds.", 30),
        ("NO [THROTTLED] retry after 120", 120),
        ("Retry-After: 7", 7),
        ("NO retry-after=45s", 45),
        ("* BYE wait 5 min before reconnecting", 300),
        ("NO You have to wait for at least 2 hours", 7200),
        ("NO account is locked for 30 minutes", 1800),
        ("NO try again in an hour", 3600),
        ("NO try again in half an hour", 1800),
        ("NO try again in 1 hour 30 minutes", 5400),
        ("NO 5 attempts in 10 minutes; try again in 1 hour", 3600),
        ("登录过于频繁，请15分钟后再试", 900),
        ("请在 30 秒后重试", 30),
        ("登录失败次数过多，账号锁定1小时", 3600),
        ("请等待２分钟", 120),
        ("请半小时后再登录", 1800),
        ("请十五分钟后再试", 900),
        ("請三十分鐘後再試", 1800),
        ("请两小时后重试", 7200),
        ("30分钟内请勿重复登录", 1800),
        ("NO try again in 400 days", LONGEST_WAIT),
        ("NO retry after " + "9" * 12, LONGEST_WAIT),
    ],
)
def test_a_time_that_is_asked_for_is_read(text: str, seconds: float) -> None:
    assert suggested_wait(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NO try again later",
        "NO try again in a few minutes",
        "* BYE Disconnected for inactivity after 30 minutes",
        "NO timed out after 60 seconds",
        "BAD Command Error. 10",
        "NO [OVERQUOTA] Quota exceeded, 10 MB of 10 MB",
        "NO message 15 minutes old",
        "每分钟最多登录10次",
        "NO Suggested Backoff Time: 0 milliseconds",
        "NO mail of the last 30 days only",
    ],
)
def test_what_names_no_time_to_wait_asks_for_none(text: str) -> None:
    assert suggested_wait(text) is None


@given(st.text(max_size=300))
def test_whatever_a_server_says_the_wait_is_bounded(text: str) -> None:
    for words in (text, f"retry after {text}", f"try again in {text} minutes", f"请{text}分钟后再试"):
        seconds = suggested_wait(words)
        assert seconds is None or 0 < seconds <= LONGEST_WAIT


@given(
    st.integers(1, 100_000),
    st.sampled_from([("milliseconds", 0.001), ("seconds", 1), ("minutes", 60), ("hours", 3600)]),
)
def test_every_number_and_unit_is_read(number: int, unit: tuple[str, float]) -> None:
    expected = pytest.approx(min(number * unit[1], LONGEST_WAIT))
    assert suggested_wait(f"NO slow down; try again in {number} {unit[0]}.") == expected
    assert suggested_wait(f"BAD Suggested Backoff Time: {number} {unit[0]}") == expected


def test_an_error_says_how_long_its_server_asks_to_wait_also_after_pickling() -> None:
    error = ServerError("throttled", "source", "BAD Request is throttled. Suggested Backoff Time: 92415 milliseconds")
    assert error.wait_seconds == pickle.loads(pickle.dumps(error)).wait_seconds == pytest.approx(92.415)  # noqa: S301
    assert ServerError("throttled", "source", "NO slow down").wait_seconds is None
