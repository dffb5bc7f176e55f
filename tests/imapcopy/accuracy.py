"""How often an answer is read as its cause: the table of docs/causes.md.

    python -m tests.imapcopy.accuracy [--wrong] [--update]

Prints the table; `--wrong` also what is read wrongly or not at all, `--update` writes the table into the docs.
"""

import re
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from imapcopy.answers import STAGES, Stage, codes, judge, response_codes, rules, unwrapped
from imapcopy.errors import Side

FOLDER = Path(__file__).parent / "answers"
DOCS = Path(__file__).parents[2] / "docs" / "causes.md"
BEGIN, END = "<!-- accuracy: begin -->", "<!-- accuracy: end -->"
WRITES = {"create", "append", "store", "move"}
SAYS_NOTHING = {"", "bye"}
"""Rules that answer for everything of a stage."""


@dataclass(frozen=True)
class Case:
    """An answer, and what it is to be read as."""

    text: str
    cause: str
    stage: Stage
    side: Side
    host: str = "imap.example.com"
    family: str = ""

    def told(self, *, stage_known: bool = True) -> str:
        """ "right", "not known" or "wrong"."""
        verdict = judge(self.text, stage=self.stage if stage_known else "", side=self.side, host=self.host)
        if verdict.rule in SAYS_NOTHING and self.cause != "connection_dropped":
            return "not known"
        return "right" if verdict.cause == self.cause else "wrong"


def samples() -> list[Case]:
    """The answers that were seen on servers: the samples of the rules."""
    found = []
    for rule in rules():
        stage: Stage = next((each for each in STAGES if each in rule.seen[:1]), "list")
        side: Side = "target" if stage in WRITES and rule.side != "source" else "source"
        found += [Case(text, rule.cause, stage, side, rule.sample_host) for text in rule.samples]
    return found


def sentences(name: str) -> list[Case]:
    """The invented sentences of a file."""
    found, family = [], ""
    for line in (FOLDER / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            continue
        if line.startswith("= "):
            family = line[2:]
            continue
        cause, stage, text = line.split(" ", 2)
        side: Side = "target" if stage in WRITES else "source"
        found.append(Case(text, cause, next(each for each in STAGES if each == stage), side, family=family))
    return found


def with_code(cases: Iterable[Case], words: str) -> Iterator[Case]:
    """Those with a response code, their words replaced; what the code alone can say is what it is to be read as."""
    for case in cases:
        line = unwrapped(case.text)
        known = [code for code in response_codes(line) if code in codes()]
        rows = [row for code in known[:1] for row in codes()[code] if row.fits(case.stage, case.side)]
        if rows and (case.cause == rows[0].cause):
            head = re.match(r"[^\[]*", line)
            yield replace(case, text=f"{head[0] if head else ''}[{known[0]}] {words}")


def wrapped(cases: Iterable[Case], around: Callable[[str], str]) -> list[Case]:
    """What is said after signing in begins to be an IMAP answer; a banner or what the network says is none."""
    return [replace(case, text=around(case.text)) for case in cases if case.stage not in {"connect", "greeting"}]


def _status(text: str) -> str:
    return text if re.match(r"(NO|BAD|OK|\* BYE) ", text) else f"NO {text}"


def _tagged(text: str) -> str:
    text = unwrapped(text)
    return text if text.startswith("* ") or re.match(r"[A-Za-z]\d+ ", text) else f"B17 {_status(text)}"


def _as_library(text: str) -> str:
    line = unwrapped(text)
    return line if line != text else f"command: LOGIN => {line}" if line.startswith("* ") else repr(line.encode())


def rows() -> list[tuple[str, Counter[str]]]:
    """The lines of the table: what was asked, and how often it was right, not known, wrong."""
    seen, learned, unseen = samples(), sentences("learned.txt"), sentences("unseen.txt")

    def counted(cases: Iterable[Case], *, stage_known: bool = True) -> Counter[str]:
        return Counter(case.told(stage_known=stage_known) for case in cases)

    odd = "Flumwex gribble zorn"
    found = [
        ("answers of servers, stage known", counted(seen)),
        ("the same, stage unknown", counted(seen, stage_known=False)),
        ("the same with a tag before it", counted(wrapped(seen, _tagged))),
        ("the same as Python's library words it", counted(wrapped(seen, _as_library))),
        ("those with a code, words replaced by never-seen ones", counted(with_code(seen, odd))),
        ("those with a code, words in Chinese", counted(with_code(seen, "服务器拒绝了此项操作"))),
        ("those with a code, words in Russian", counted(with_code(seen, "Сервер отклонил запрос"))),
        ("sentences that general words were written for", counted(learned)),
        ("sentences that no rule was written for", counted(unseen)),
        ("the same, stage unknown", counted(unseen, stage_known=False)),
    ]
    families = dict.fromkeys(case.family for case in unseen)
    return found + [(f"of these: {name}", counted(case for case in unseen if case.family == name)) for name in families]


def stages() -> list[tuple[str, Counter[str]]]:
    """The answers of servers and all sentences by stage."""
    every = [*samples(), *sentences("learned.txt"), *sentences("unseen.txt")]
    return [
        (stage, Counter(case.told() for case in every if case.stage == stage))
        for stage in STAGES
        if any(case.stage == stage for case in every)
    ]


def table() -> str:
    """Both tables as Markdown."""
    lines = []
    for head, some in (("what is asked", rows()), ("stage, all of them", stages())):
        lines += [f"| {head} | answers | right | not known | wrong |", "|---|---:|---:|---:|---:|"]
        for name, told in some:
            counts = [told.total(), *(told[each] for each in ("right", "not known", "wrong"))]
            lines.append(f"| {name} | {' | '.join(str(count) for count in counts)} |")
        lines.append("")
    return "\n".join(lines)


def in_docs(text: str) -> str:
    """The part of a document that holds the tables."""
    return text.partition(BEGIN)[2].partition(END)[0].strip("\n") + "\n"


def main() -> int:
    made = table()
    print(made)
    if "--wrong" in sys.argv:
        for case in [*samples(), *sentences("learned.txt"), *sentences("unseen.txt")]:
            if case.told() != "right":
                verdict = judge(case.text, stage=case.stage, side=case.side, host=case.host)
                print(f"{case.told()}: {case.stage}: {case.text!r} is {verdict}, not {case.cause}")
    if "--update" in sys.argv:
        before, _, rest = DOCS.read_text(encoding="utf-8").partition(BEGIN)
        DOCS.write_text(f"{before}{BEGIN}\n{made}{END}{rest.partition(END)[2]}", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
