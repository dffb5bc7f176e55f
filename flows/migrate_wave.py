"""Copy every mailbox of a wave, then report what arrived and what did not."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.notify_wave import notify_after_run
from flows.report_wave import publish_report
from flows.window import run_each
from models.lifecycle import Due, finish_wave, start_wave
from models.states import WaveState
from tasks import policy
from tasks.governor import Turns
from tasks.migrate_member import migrate_member
from tasks.roster_decisions import pairs_held
from tasks.settings import settings
from tasks.store import store


@flow(
    name="migrate-wave",
    flow_run_name="move {wave}",
    task_runner=ThreadPoolTaskRunner(max_workers=settings().members_at_once),  # type: ignore[arg-type]
    validate_parameters=False,
    persist_result=False,
)
def migrate_wave(
    wave: str, only: list[str] | None = None, reopen_issues: bool = False, parked_too: bool = False
) -> State[Any]:
    """Move the wave's members (or only these addresses) and report; the final state says whether all are through.

    `parked_too` tries accounts once more that were refused, too.
    """
    kept = store()
    held = [each.member_id for each in pairs_held(kept, wave)]
    members = start_wave(kept.engine, wave, only or (), flow_run.id, parked_too=parked_too, held=held)

    def submit(member: Due) -> Any:
        return migrate_member.submit(member.id, member.email, reopen_issues)

    try:
        run_each(submit, members, Turns(kept), kept.settings.members_at_once)
    finally:
        state = finish_wave(kept.engine, wave, unwritten=kept.unwritten)
        report = publish_report(wave)
    notify_after_run(wave)
    if policy.STOP.is_set():
        return Cancelled(name="Stopped", message=report.sentence)
    name = "CompletedWithFailures" if state != WaveState.SYNCED else None
    return Completed(name=name, message=report.sentence)
