"""Server's words as others may see them, and what told their cause. Pure.

An answer that no rule knows is worth showing to those who write rules: without names, addresses and numbers, so that
answers that differ only in these are one, and nobody's mail is in it.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

SAY_NOTHING = frozenset({"", "bye"})
"""What told a cause where only the stage, or the end of the connection, did."""
LONGEST_LINE = 300
_ANYTHING = ".{1,80}?"


@dataclass(frozen=True, slots=True)
class KnownBy:
    """At which stage an answer was given ("" where it could be any), and the rule or code that told its cause."""

    stage: str
    rule: str

    def __str__(self) -> str:
        return f"{self.stage}:{self.rule}"

    @classmethod
    def read(cls, text: str) -> "KnownBy | None":
        """What `str` gave; None for "", where no server said anything."""
        stage, colon, rule = text.partition(":")
        return cls(stage, rule) if colon else None

    @property
    def is_known(self) -> bool:
        return self.rule not in SAY_NOTHING


# In this order: what holds a part of another comes first.
_ADDRESS = r"[\w.!#$%&'*+/=?^`{|}~-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63})*"
_PLACES = (
    ("url", re.compile(r"\b(?:https?|imaps?)://[^\s\"'<>）)]+", re.IGNORECASE)),
    ("message-id", re.compile(rf"<{_ADDRESS}>")),
    ("address", re.compile(_ADDRESS)),
    ("quoted", re.compile(r"(?<!\w)\"[^\"]{1,200}\"|(?<!\w)'[^']{1,200}'(?!\w)|“[^”]{1,200}”|「[^」]{1,200}」")),
    (
        "time",
        re.compile(r"\d{4}[-/]\d{1,2}[-/]\d{1,2}(?:[T ]\d{1,2}:\d{2}(?::\d{2})?(?:\.\d+)?)?|\b\d{1,2}:\d{2}:\d{2}\b"),
    ),
    ("ip", re.compile(r"\b(?:\d{1,3}\.){3}\d{1,3}\b|\b(?:[0-9a-f]{0,4}:){3,7}[0-9a-f]{0,4}\b", re.IGNORECASE)),
    ("host", re.compile(r"\b(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.){1,6}[a-z]{2,24}\b(?!\.\w)", re.IGNORECASE)),
    ("hex", re.compile(r"\b(?=[0-9a-f-]*\d)(?=[0-9a-f-]*[a-f])[0-9a-f-]{8,}\b", re.IGNORECASE)),
    ("word", re.compile(r"\b(?=\w*\d)(?=\w*[a-z])\w{8,}\b", re.IGNORECASE)),
    ("number", re.compile(r"\d+")),
)

_PLACE = re.compile(r"<(?:name|" + "|".join(name for name, _ in _PLACES) + ")>")


def normalised(text: str, names: Iterable[str] = ()) -> str:
    """A server's line with placeholders for what belongs to one mailbox, one server, or one moment.

    `names` are what else must not be seen: names of people and of folders.
    """
    line = " ".join(text.split())
    code, rest = "", line
    if match := re.match(r"(?:\* )?(?:[A-Za-z]+ )?(?:\[[A-Za-z-]+[^\]]*\] ?)?", line):
        # The status and the name of a code stay as they are; what stands in a code beside its name does not.
        code, rest = match[0], line[match.end() :]
        code = re.sub(r"(\[[A-Za-z-]+) [^\]]*\]", r"\1]", code)
    for name in sorted({each for each in names if len(each) > 1}, key=len, reverse=True):
        place = "<address>" if "@" in name else "<name>"
        rest = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", place, rest, flags=re.IGNORECASE)
    return (code + _placed(rest))[:LONGEST_LINE]


def _placed(text: str) -> str:
    """Put placeholders into what stands between those that are there already."""
    for name, pattern in _PLACES:
        parts = _PLACE.split(text)
        between = _PLACE.findall(text)
        parts = [pattern.sub(f"<{name}>", part) for part in parts]
        text = parts[0] + "".join(place + part for place, part in zip(between, parts[1:], strict=True))
    return text


def pattern_of(line: str) -> str:
    """A regular expression for the answers that are this normalised line."""
    words = re.sub(r"^(?:\* )?(?:OK|NO|BAD|BYE)\b ?", "", line)
    places = list(_PLACE.finditer(words))
    ends = [*(match.start() for match in places), len(words)]
    found, group = re.escape(words[: ends[0]]), ""
    # What lies between two groups is found once and not given up again: a hostile line must not be tried in all ways.
    for match, end in zip(places, ends[1:], strict=True):
        literal = words[match.end() : end]
        if match[0] == "<number>":
            group += r"\d{1,80}"
        elif not group.endswith(_ANYTHING):
            found, group = (f"{found}(?>{group})" if group else found), _ANYTHING
        group += re.escape(literal)
    found = (found + group).replace(r"\ ", " ")
    # What stands in a code beside its name is left out of the line.
    return re.sub(r"^\\\[([A-Za-z\\-]+)\\\]", r"\\[\1[^\\]]*\\]", found)
