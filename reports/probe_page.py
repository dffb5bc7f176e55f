"""What was measured of a destination, for people and programs: a page in both languages, and a document."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from models.bilingual import LANGUAGES, Language, Text
from models.private_files import make_folder
from models.probe import LASTS, Probe, is_stale
from models.probe_card import Verdict, card, worst
from reports.render import rendered, replace_file
from reports.texts import Wording, sentence


@dataclass(frozen=True, slots=True)
class ProbeFiles:
    """Where a probe's pages were written."""

    html: Path
    html_zh: Path
    html_en: Path


def probe_sentence(probe: Probe, at: datetime) -> Text:
    """How the whole stands."""
    if is_stale(probe, at):
        return sentence("probe_stale", days=LASTS.days)
    match worst(card(probe)):
        case "green":
            return sentence("probe_result_green")
        case "amber":
            return sentence("probe_result_amber")
        case _:
            return sentence("probe_result_red")


def probe_document(probe: Probe, at: datetime) -> dict[str, Any]:
    """The facts and what they mean, ready for JSON."""
    lines = card(probe)
    return {
        **probe.values(),
        "stale": is_stale(probe, at),
        "light": worst(lines),
        "result": probe_sentence(probe, at).as_dict(),
        "card": [_line(line) for line in lines],
    }


def _line(line: Verdict) -> dict[str, Any]:
    return {
        "capability": line.capability,
        "state": line.state,
        "light": line.light,
        "title": line.title.as_dict(),
        "found": line.said.as_dict(),
        "banjia_does": line.does.as_dict(),
    }


def render_probe(
    probe: Probe, directory: Path, language: Language, at: datetime, *, zone: ZoneInfo | None = None
) -> ProbeFiles:
    """Write a probe's pages; the one without a language in its name is in `language`."""
    make_folder(directory)
    safe = "".join(c if c.isalnum() or c in "-." else "_" for c in probe.host).strip(".") or "host"
    wordings = {each: Wording(each, zone or ZoneInfo("UTC")) for each in LANGUAGES}
    pages = {
        each: rendered(
            "probe.html.j2", wording, probe=probe, lines=card(probe), result=probe_sentence(probe, at), name=safe
        )
        for each, wording in wordings.items()
    }
    files = ProbeFiles(*(directory / f"{safe}{part}.html" for part in ("", ".zh-CN", ".en")))
    replace_file(files.html_zh, pages["zh-CN"].encode())
    replace_file(files.html_en, pages["en"].encode())
    replace_file(files.html, pages[language].encode())
    return files
