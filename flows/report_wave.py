"""Write the report of a wave from the ledger, at any time, and link it to the run."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow
from prefect.artifacts import create_link_artifact
from prefect.client.schemas.objects import State
from prefect.context import FlowRunContext
from prefect.states import Completed

from models.database import reading
from models.issues import AlteredMessages
from models.lifecycle import find_wave
from reports.export import result_sentence
from reports.read import read_wave, remember_report, roster_values
from reports.render import ReportFiles, render_report
from reports.summary import WaveSummary
from tasks.store import store


@dataclass(frozen=True, slots=True)
class PublishedReport:
    """A report on disk, and what it says in one sentence (in English, for Prefect)."""

    summary: WaveSummary
    files: ReportFiles
    sentence: str


_published: dict[str, PublishedReport] = {}
"""What this process published last, by wave."""


@flow(name="report-wave", flow_run_name="report {wave}", validate_parameters=False, persist_result=False)
def report_wave(wave: str) -> State[Any]:
    """Write the wave's report."""
    return Completed(message=publish_report(wave).sentence)


def publish_report(wave: str) -> PublishedReport:
    """Render the report, remember its numbers for the next one, and link it to the flow run that asked."""
    kept = store()
    subjects = kept.rules.subjects
    summary = read_wave(kept.engine, wave, subjects)
    files = render_report(
        summary,
        report_directory(wave),
        kept.settings.spoken_language,
        zone=kept.settings.zone,
        rows=roster_values(kept.engine, wave),
        altered=AlteredMessages(kept.engine, wave, subjects),
    )
    remember_report(kept.engine, summary)
    sentence = result_sentence(summary).en
    if FlowRunContext.get() is not None:
        create_link_artifact(link=files.html.as_uri(), link_text=f"Report of {wave}", description=sentence)
    _published[wave] = PublishedReport(summary, files, sentence)
    return _published[wave]


def last_report(wave: str) -> PublishedReport:
    """The report that a flow in this process has just published.

    Published a second time it would take as long again, and say that nothing has changed since the first.
    """
    return _published.get(wave) or publish_report(wave)


def report_directory(wave: str) -> Path:
    """Where a wave's report goes: where the admin said, else a folder whose name is of our own making."""
    with reading(store().engine) as session:
        chosen = find_wave(session, wave).report_directory
    if chosen:
        return Path(chosen)
    safe = "".join(c if c.isalnum() or c in "-_." else "_" for c in wave).strip(".") or "wave"
    return store().settings.home / "reports" / safe
