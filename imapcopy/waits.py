"""How long a server asks to be left alone, read from its words. Pure."""

import re

LONGEST_WAIT = 24 * 3600.0
"""Seconds; what asks for more is answered by a day: nobody counts on a number that no server means."""

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_UNITS = (
    ("ms", r"milli-?sec(?:ond)?s?|msecs?|ms|毫秒"),
    ("m", r"minutes?|mins?|m|分钟|分鐘|分"),
    ("s", r"seconds?|secs?|s|秒钟|秒鐘|秒"),
    ("h", r"hours?|hrs?|h|个?小时|個?小時|个?钟头"),
    ("d", r"days?|d|天|日"),
)
_UNIT = "|".join(rf"(?:{words})" for _, words in _UNITS)
# A digit at a time: a run of them is cut before it is a number of a thousand digits.
_NUMBER = r"(?:\d{1,12}(?:\.\d{1,3})?|an?(?=\s)|one(?=\s)|half\s+an?(?=\s)|半|[一二两兩三四五六七八九十]{1,3})"
_SPAN = rf"(?:{_NUMBER})\s*-?(?:{_UNIT})(?![a-z])(?:(?:\s|,|and)*(?:{_NUMBER})\s*-?(?:{_UNIT})(?![a-z]))?"
_ABOUT = r"(?:about\s+|at least\s+|approximately\s+)?"
_ASKS = re.compile(
    "|".join(
        (
            rf"back-?\s?off(?:\s+time)?\W{{0,3}}(?P<a>{_SPAN}|\d{{1,12}}(?!\d))",
            rf"retry[- ]?after\W{{0,3}}(?P<b>{_SPAN}|\d{{1,12}}(?!\d))",
            rf"(?:(?:try|retry|sign in|log ?in|connect)(?:ing)?(?:\s+\w+)?(?:\s+again)?|again|available|lifted|"
            rf"unlocked|unblocked|reset|expires)\s+(?:in|after|within)\s+{_ABOUT}(?P<c>{_SPAN})",
            rf"(?:wait|paused?|locked|blocked|suspended|banned|delay(?:ed)?)(?:\s+\w+)?"
            rf"(?:\s+(?:for|by))?\s+{_ABOUT}(?P<d>{_SPAN})",
            rf"(?:等待|等候|等|锁定|鎖定|冻结|凍結|暂停|暫停|禁止登录)(?:至少|约|大约|登录)?\s*(?P<e>{_SPAN})",
            rf"(?P<f>{_SPAN})\s*(?:之|以)?(?:后|後)\s*"
            r"(?:再|重|方可|才能|可以|自动|自動|解|恢复|恢復|请|請|尝试|嘗試|登录|登入|连接)",
            rf"(?P<g>{_SPAN})\s*(?:之)?(?:内|內)\s*(?:请勿|請勿|不要|不能|不可|禁止|无法|無法|勿)",
        )
    ),
    re.IGNORECASE,
)
_PART = re.compile(
    rf"(?P<number>{_NUMBER})\s*-?(?:" + "|".join(f"(?P<{name}>{words})" for name, words in _UNITS) + r")(?![a-z])",
    re.IGNORECASE,
)
_HAN = {"一": 1, "二": 2, "两": 2, "兩": 2, "三": 3, "四": 4, "五": 5, "六": 6, "七": 7, "八": 8, "九": 9}


def suggested_wait(text: str) -> float | None:
    """The seconds that a server's words ask for, `LONGEST_WAIT` at most; None where they name no time.

    Exchange: `Suggested Backoff Time: 92415 milliseconds`. The longest of several counts.
    """
    found = [_seconds(next(filter(None, match.groups()))) for match in _ASKS.finditer(text[:2000])]
    longest = max(found, default=0.0)
    return min(longest, LONGEST_WAIT) if longest > 0 else None


def _seconds(span: str) -> float:
    parts = list(_PART.finditer(span))
    if not parts:
        # A number alone, as in HTTP's Retry-After.
        return float(span)
    return sum(_number(part["number"]) * next(_SECONDS[u] for u in _SECONDS if part[u]) for part in parts)


def _number(word: str) -> float:
    if word[0].isdigit():
        return float(word)
    if word[0] == "半" or word.lower().startswith("half"):
        return 0.5
    if word[0] not in _HAN and word[0] != "十":
        return 1.0
    tens, found, ones = word.rpartition("十")
    if not found:
        return float(_HAN[word[-1]])
    return 10.0 * (_HAN.get(tens[-1], 1) if tens else 1) + (_HAN.get(ones[-1], 0) if ones else 0)
