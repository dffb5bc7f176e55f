"""Check every member of a wave: sign in on both sides and count. Nothing is written to any mailbox."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed
from prefect.task_runners import ThreadPoolTaskRunner

from flows.report_wave import publish_report
from flows.window import run_each
from models.lifecycle import Due, finish_wave, start_check
from tasks import policy
from tasks.addresses import note_addresses
from tasks.governor import Turns
from tasks.migrate_member import check_member
from tasks.roster_decisions import pairs_held
from tasks.settings import settings
from tasks.store import store


@flow(
    name="check-wave",
    flow_run_name="check {wave}",
    task_runner=ThreadPoolTaskRunner(max_workers=settings().members_at_once),  # type: ignore[arg-type]
    validate_parameters=False,
    persist_result=False,
)
def check_wave(wave: str) -> State[Any]:
    """Check the members that have not been moved yet; the final state says whether all are ready."""
    kept = store()
    # Noted now, for the report to tell them.
    pairs_held(kept, wave)
    members = start_check(kept.engine, wave, flow_run.id)
    note_addresses(kept, [member.email for member in members])

    def submit(member: Due) -> Any:
        return check_member.submit(member.id, member.email)

    try:
        run_each(submit, members, Turns(kept), kept.settings.members_at_once)
    finally:
        finish_wave(kept.engine, wave, checked_only=True, unwritten=kept.unwritten)
    report = publish_report(wave)
    if policy.STOP.is_set():
        return Cancelled(name="Stopped", message=report.sentence)
    name = "CompletedWithFailures" if report.summary.needs_attention else None
    return Completed(name=name, message=report.sentence)
