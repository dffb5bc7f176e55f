"""How long and how much a server may answer: what ends a connection that says nothing, drips, chatters or floods. Pure.

Time-outs are about silence and about getting on, never about a whole answer: a large folder may take hours to list.
"""

from dataclasses import dataclass, replace

TURNS = 36
"""So many `answer_seconds` the answer to one command may take, however well it gets on: six hours, as they are set."""
LONG_TEXT = 160
"""Octets. What is longer is taken apart into many small values, which weigh several times as much: an attribute, a
label, and above all a keyword, which every message of a folder may have others of.
"""
ATTRIBUTES_WEIGH, KEYWORDS_WEIGH = 8, 24


@dataclass(frozen=True, slots=True)
class Limits:
    """The first three are settings and columns of the table of providers; a test takes small ones."""

    connect_seconds: float = 30.0
    """For each address to take the connection; and once more for TLS, the greeting and what is offered, together."""
    silence_seconds: float = 60.0
    """How long nothing at all may come while an answer is due, or nothing be taken of what is sent."""
    answer_seconds: float = 600.0
    """In each such span an answer has to bring `least_octets`, or to end."""
    octets_per_second: int = 1_000
    """The slowest that an answer may come over such a span."""
    taken_per_second: int = 10_000
    """The slowest that octets which we send may be taken."""
    opening_octets: int = 256 << 10
    """All that a server may say before the sign-in."""
    line_octets: int = 256 << 10
    literal_octets: int = 192 << 20
    """Of all literals of one response together, and of all messages that are fetched ahead; what is larger is read in
    pieces of 4 MB.
    """
    passed_octets: int = 1 << 30
    """Of those literals of one response that are passed on as they come, and not held."""
    literals: int = 1_000
    """In one response."""
    answers: int = 1_200_000
    """Responses to one command."""
    held_octets: int = 128 << 20
    """What the kept answers to one command may weigh in memory (`weight`)."""
    scanned_octets: int = 320 << 20
    """The same for the scan of a folder, of which less is kept: some 800,000 messages."""
    folders: int = 100_000
    """In one mailbox."""
    inflated_times: int = 250
    """How much larger than what came it may be when it is inflated, once it is more than `inflated_octets`."""
    inflated_octets: int = 64 << 20

    @property
    def least_octets(self) -> float:
        return self.octets_per_second * self.answer_seconds

    def at_least(
        self, connect_seconds: float | None, silence_seconds: float | None, answer_seconds: float | None
    ) -> "Limits":
        """With more time, where a server is known to need it."""
        return replace(
            self,
            connect_seconds=max(self.connect_seconds, connect_seconds or 0),
            silence_seconds=max(self.silence_seconds, silence_seconds or 0),
            answer_seconds=max(self.answer_seconds, answer_seconds or 0),
        )


def weight(text: int, literals: int = 0, count: int = 0, times: int = ATTRIBUTES_WEIGH) -> int:
    """About what a kept response weighs in memory: octets of its text, octets of its literals, how many these are."""
    return 300 + text + (times * (text - LONG_TEXT) if text > LONG_TEXT else 0) + literals + 150 * count


DEFAULT = Limits()
