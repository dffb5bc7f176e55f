"""Tell members and admins what is due. Run every hour by a deployment; with nothing due it does nothing."""

from typing import Any

from prefect import flow
from prefect.client.schemas.objects import State
from prefect.states import Completed
from sqlmodel import col, select

from models.database import reading
from models.wave import Wave
from tasks import policy
from tasks.notices import Told, configured, tell_wave
from tasks.settings import SettingUnusable
from tasks.store import Store, log, places, store


@flow(name="notify-wave", flow_run_name="notices", validate_parameters=False, persist_result=False)
def notify_wave(wave: str | None = None) -> State[Any]:
    """Send the notices of a wave, or of all, that are due; the final state says whether any did not go out."""
    kept = store()
    if not configured(kept.settings):
        return Completed(message="neither a mail server nor a chat is set")
    told = [Told()]
    for name in [wave] if wave else _waves(kept):
        if policy.STOP.is_set():
            break
        told.append(tell_wave(kept, name))
    failed = any(each.trouble or each.refused or each.unknown for each in told)
    return Completed(name="CompletedWithFailures" if failed else None, message=_sentence(told))


def notify_after_run(wave: str) -> None:
    """Send what a run has made due; what goes wrong is in the log and in `banjia notices status`, and fails no run."""
    kept = store()
    if not configured(kept.settings) or policy.STOP.is_set():
        return
    try:
        tell_wave(kept, wave)
    except SettingUnusable as unusable:
        log.error("notices: %s", unusable)
    except Exception as error:  # noqa: BLE001  (every mailbox has been moved, or has its cause; the hourly flow goes on)
        log.error("notices: %s", places(error))


def _waves(kept: Store) -> list[str]:
    with reading(kept.engine) as session:
        return list(session.exec(select(Wave.name).order_by(col(Wave.id))))


def _sentence(told: list[Told]) -> str:
    sent, later = sum(each.sent for each in told), sum(each.later for each in told)
    lost = sum(each.refused + each.unknown for each in told)
    return f"{sent} sent, {later} to be tried again, {lost} refused or perhaps sent"
