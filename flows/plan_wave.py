"""Say where each folder of every member of a wave would go. Nothing is written to any mailbox, and no state changes."""

from typing import Any

from prefect import flow
from prefect.task_runners import ThreadPoolTaskRunner

from flows.window import run_each
from models.lifecycle import Due, wave_members
from tasks.governor import Turns
from tasks.plan_member import MemberPlan, plan_member
from tasks.settings import settings
from tasks.store import store


@flow(
    name="plan-wave",
    flow_run_name="plan {wave}",
    task_runner=ThreadPoolTaskRunner(max_workers=settings().members_at_once),  # type: ignore[arg-type]
    validate_parameters=False,
    persist_result=False,
)
def plan_wave(wave: str) -> list[MemberPlan]:
    """Plan the members that are still to be moved, in the order of the roster."""
    kept = store()
    members = wave_members(kept.engine, wave)
    futures: dict[int, Any] = {}

    def submit(member: Due) -> Any:
        futures[member.id] = plan_member.submit(member.id, member.email)
        return futures[member.id]

    run_each(submit, members, Turns(kept), kept.settings.members_at_once)
    return [futures[member.id].result() for member in members if member.id in futures]
