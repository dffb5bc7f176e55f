"""What the facts of a probe mean for an admin: for each capability a light, a sentence, and what Banjia does. Pure."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal

from models.bilingual import Text
from models.causes import cause
from models.probe import KEPT, LOST, NOT_TRIED, REFUSED, STORED, Probe, Rate

Light = Literal["green", "amber", "red"]
LIGHTS: tuple[Light, ...] = ("green", "amber", "red")

_LINE_ENDS = {"", "final_line_end", "line_ends"}


@dataclass(frozen=True, slots=True)
class Verdict:
    """One line of a card."""

    capability: str
    state: str
    light: Light
    title: Text
    said: Text
    does: Text


def card(probe: Probe) -> list[Verdict]:
    """The lines of a probe's card, in their order."""
    lines = [_verdict("unfinished", "because", what=cause(probe.unfinished).title)] if probe.unfinished else []
    lines.append(_verdict("sign_in", "works", how=_mechanism(probe.mechanism)))
    if probe.folders:
        lines += [_depth(probe), _names(probe)]
    if probe.shows:
        lines += [_verdict("uidplus", probe.uidplus), _verdict("shows", probe.shows)]
    lines.append(_verdict("date", probe.date or "unknown", what=_plain(probe.words.get("date", ""))))
    if probe.flags:
        lines += [_flags(probe), _keywords(probe)]
    if probe.messages:
        lines += [_bodies(probe), _odd(probe)]
    lines.append(_verdict("duplicates", {0: "unknown", 1: "one"}.get(probe.duplicates, "kept")))
    lines.append(_extensions(probe))
    if probe.special:
        lines.append(_special(probe))
    lines += [_size(probe), _quota(probe)]
    if probe.rates or probe.without_room:
        lines.append(_speed(probe))
    state = "some" if probe.leftovers else "none"
    lines.append(_verdict("leftovers", state, what=_plain(", ".join(probe.leftovers))))
    return lines


def worst(lines: Iterable[Verdict]) -> Light:
    """The light of a whole card."""
    return max((line.light for line in lines), key=LIGHTS.index, default="green")


def _mechanism(name: str) -> Text:
    return _word("by").format(what=name) if name else Text("", "")


def _depth(probe: Probe) -> Verdict:
    said = probe.folders
    state = "deep" if said.get("level3") == "" else "two" if said.get("level2") == "" else "flat"
    return _verdict("folders", state, separator=_plain(probe.separator))


def _names(probe: Probe) -> Verdict:
    refused = [kind for kind, said in probe.folders.items() if said and not kind.startswith("level")]
    what = _listed(
        _plain(k.removeprefix("char:")) if k.startswith("char:") else _word(k) for k in refused if k != "chinese"
    )
    if "chinese" in refused:
        return _verdict("names", "no_chinese", what=what)
    return _verdict("names", "some" if refused else "any", what=what)


def _flags(probe: Probe) -> Verdict:
    states = {flag: state for flag, state in probe.flags.items() if flag.startswith("\\")}
    for state, kinds in (("lost", {LOST, REFUSED}), ("stored", {STORED})):
        if flags := [flag for flag, found in states.items() if found in kinds]:
            return _verdict("flags", state, what=_plain(" ".join(flags)))
    return _verdict("flags", "kept")


def _keywords(probe: Probe) -> Verdict:
    states = {state for flag, state in probe.flags.items() if not flag.startswith("\\")}
    return _verdict("keywords", "kept" if states <= {KEPT} else "stored" if STORED in states else "dropped")


def _bodies(probe: Probe) -> Verdict:
    how = probe.messages.get("plain", LOST)
    if how in {"repaired", REFUSED}:
        return _verdict("bodies", "refused", what=_plain(probe.words.get("plain", "")))
    if not how:
        return _verdict("bodies", "same")
    return _verdict("bodies", "line_ends" if how in _LINE_ENDS else "altered", what=_word(how))


def _odd(probe: Probe) -> Verdict:
    odd = {kind: how for kind, how in probe.messages.items() if kind != "plain"}
    refused = [kind for kind, how in odd.items() if how in {"repaired", REFUSED}]
    altered = [kind for kind, how in odd.items() if how and kind not in refused]
    state = "refused" if refused else "altered" if altered else "taken"
    named = {"refused": _listed(map(_word, refused)), "altered": _listed(map(_word, altered))}
    return _verdict("odd", state, **named)


def _extensions(probe: Probe) -> Verdict:
    if broken := [name for name, how in probe.extensions.items() if how != "works"]:
        return _verdict("extensions", "broken", what=_plain(", ".join(broken)))
    return _verdict("extensions", "work" if probe.extensions else "none", what=_plain(", ".join(probe.extensions)))


def _special(probe: Probe) -> Verdict:
    present = {role: said for role, said in probe.special.items() if said != "absent"}
    if not present:
        return _verdict("special", "absent")
    if NOT_TRIED in present.values():
        return _verdict("special", "not_tried")
    refused = [role for role, said in present.items() if said]
    return _verdict("special", "some" if refused else "open", what=_listed(map(_word, refused or present)))


def _size(probe: Probe) -> Verdict:
    if probe.told_limit is not None:
        return _verdict("size", "told", limit=_bytes(probe.told_limit))
    if probe.smallest_refused is not None:
        return _verdict(
            "size", "measured", taken=_bytes(probe.largest_taken or 0), limit=_bytes(probe.smallest_refused)
        )
    if probe.largest_taken is not None:
        return _verdict("size", "large", taken=_bytes(probe.largest_taken))
    return _verdict("size", "unknown")


def _quota(probe: Probe) -> Verdict:
    if probe.quota is None:
        return _verdict("quota", "unknown")
    return _verdict("quota", "told", used=_bytes(probe.quota[0]), limit=_bytes(probe.quota[1]))


def _speed(probe: Probe) -> Verdict:
    rates = _listed(map(_rate, (rate for rate in probe.rates if not rate.errors)))
    n = _Count(probe.connections)
    if probe.without_room:
        return _verdict("speed", "without_room", rates=rates, n=n, tried=_Count(probe.without_room))
    last = probe.rates[-1]
    if not last.errors:
        return _verdict("speed", "measured", rates=rates, n=n)
    what = _listed(cause(name).title for name in sorted(set(last.errors)))
    return _verdict(
        "speed", "refused", rates=rates, n=n, tried=last.connections, most=probe.most_connections, what=what
    )


def _rate(rate: Rate) -> Text:
    return _word("rate").format(n=rate.connections, rate=f"{rate.a_second:,.0f}")


class _Count(int):
    """`{n:one|many}` gives the word that fits."""

    def __format__(self, spec: str) -> str:
        one, bar, many = spec.partition("|")
        return (one if self == 1 else many) if bar else super().__format__(spec)


def _verdict(capability: str, state: str, **values: object) -> Verdict:
    row = _table()[capability]
    found = row[state]
    return Verdict(
        capability,
        state,
        found["light"],
        Text(**row["title"]),
        _filled(Text(**found["said"]), values),
        _filled(Text(**found["does"]), values),
    )


def _filled(text: Text, values: dict[str, object]) -> Text:
    zh = {name: value.zh if isinstance(value, Text) else value for name, value in values.items()}
    en = {name: value.en if isinstance(value, Text) else value for name, value in values.items()}
    return Text(text.zh.format(**zh), text.en.format(**en))


def _word(name: str) -> Text:
    found = _table()["kinds"]["words"].get(name)
    return Text(**found) if found else _plain(name)


def _plain(text: str) -> Text:
    return Text(text, text)


def _listed(texts: Iterable[Text]) -> Text:
    some = list(texts) or [_word("nothing")]
    joint = _word("joint")
    return Text(joint.zh.join(text.zh for text in some), joint.en.join(text.en for text in some))


def _bytes(octets: int) -> str:
    return f"{octets / (1 << 20):,.0f} MB" if octets >= 10 << 20 else f"{octets / (1 << 20):,.1f} MB"


@cache
def _table() -> dict[str, Any]:
    return tomllib.loads((files("models") / "probe_card.toml").read_text(encoding="utf-8"))
