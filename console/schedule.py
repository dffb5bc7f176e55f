"""Waves that start later, on any machine: deployments, workers, and scheduled runs of Prefect."""

import os
import signal
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path
from typing import Any

import typer

from console.outcome import Exit
from console.prefect_way import use_prefect
from console.run import tell_pairs
from console.terminal import fail, language, say
from models.bilingual import Text
from models.lifecycle import schedule_wave
from tasks.prefect_server import has_children, is_up
from tasks.settings import settings
from tasks.store import store

ROOT = Path(__file__).resolve().parents[1]
WORK_POOL = "banjia"
GRACE_SECONDS = 10
LOOK_SECONDS = 0.2
DEPLOYMENT = "migrate-wave/banjia"
# No variables: a run brings neither command nor environment, working directory or image of its own, and neither does
# a deployment. No `env` among the fixed values either: Prefect would add a run's to it.
JOB_TEMPLATE: dict[str, Any] = {
    "job_configuration": {"stream_output": True},
    "variables": {"type": "object", "properties": {}, "additionalProperties": False},
}

_DEPLOYED = Text("已部署到 {url}；启动执行进程：banjia worker", "Deployed to {url}; start a worker with: banjia worker")
_NOT_DEPLOYED = Text(
    "这个 Prefect 服务上还没有部署流程，请先运行 banjia deploy。",
    "The flows are not deployed to this Prefect server yet; run banjia deploy.",
)
_OTHER_KIND = Text(
    "Prefect 上的工作池“{pool}”是 {kind} 类型，banjia 需要 process 类型；请先删除它：prefect work-pool delete {pool}",
    "The work pool {pool!r} in Prefect is of the type {kind}, and banjia needs process; delete it first: "
    "prefect work-pool delete {pool}",
)
_SERVER_GONE = Text(
    "本机的 Prefect 服务已停止，执行进程随之结束。需要时重新运行 banjia worker，它会再次启动服务。",
    "The local Prefect server has ended, and so does this worker. Run banjia worker again when it is wanted; that "
    "starts the server, too.",
)
_COMMAND_FAILED = Text("命令 prefect {words} 失败：\n{said}", "prefect {words} failed:\n{said}")


def deploy() -> None:
    """Create the work pool and register the flows of deployments/prefect.yaml."""
    url = use_prefect()
    _keep_pool()
    # From the root of the checkout: that is where Prefect resolves the file's paths.
    _prefect_command("deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    typer.echo(_DEPLOYED.format(url=url).in_language(language()))


def _keep_pool() -> None:
    """The work pool as it should be, whoever made it: an older version let a run bring a command along."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            pool = client.read_work_pool(WORK_POOL)
        except ObjectNotFound:
            client.create_work_pool(
                WorkPoolCreate(name=WORK_POOL, type="process", base_job_template=JOB_TEMPLATE), overwrite=True
            )
            return
        if pool.type != "process":
            told = _OTHER_KIND.format(pool=WORK_POOL, kind=pool.type)
            raise fail(told.in_language(language()), Exit.USAGE)
        if pool.base_job_template != JOB_TEMPLATE:
            client.update_work_pool(WORK_POOL, WorkPoolUpdate(base_job_template=JOB_TEMPLATE))


def work(name: str | None, limit: int | None) -> None:
    """Become a worker of the pool, until Ctrl-C, SIGTERM, or the end of the server when that is our own."""
    home = settings().home
    own = not os.environ.get("PREFECT_API_URL")
    use_prefect()
    _keep_pool()
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", WORK_POOL]
    options = [*(["--name", name] if name else []), *(["--limit", str(limit)] if limit else [])]
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    worker = subprocess.Popen([*command, *options], cwd=home)
    gone = False
    try:
        # In short turns: what a handler does while this thread waits in Popen can learn nothing of the worker's end.
        while not asked.is_set() and not _ended(worker, LOOK_SECONDS):
            # A run that is under way needs no server, and may see it return; no new one can begin without it.
            if own and not is_up(home) and not has_children(worker.pid):
                gone = True
                typer.echo(_SERVER_GONE.in_language(language()), err=True)
                break
    except KeyboardInterrupt:
        asked.set()
    if asked.is_set() or gone:
        worker.terminate()
        if not _ended(worker, GRACE_SECONDS):
            # Prefect's worker may go on after one SIGTERM; it kills itself after a second.
            worker.terminate()
    code = worker.wait()
    if gone:
        raise typer.Exit(Exit.UNREACHABLE)
    ended = code in (0, -signal.SIGTERM, -signal.SIGINT) or (asked.is_set() and code == -signal.SIGKILL)
    raise typer.Exit(Exit.DONE if ended else Exit.UNEXPECTED)


def _ended(worker: "subprocess.Popen[bytes]", seconds: float) -> bool:
    try:
        worker.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def start_at(wave: str, at: datetime, *, as_json: bool, confirm_pairs: bool = False) -> None:
    """Have a worker start the wave at that time; the run is visible in Prefect's pages at once."""
    kept = store()
    tell_pairs(wave, confirm_pairs=confirm_pairs)
    use_prefect()
    from prefect.deployments import run_deployment
    from prefect.exceptions import ObjectNotFound

    try:
        run: Any = run_deployment(
            DEPLOYMENT,
            parameters={"wave": wave},
            scheduled_time=at,
            flow_run_name=f"move {wave}",
            timeout=0,
            as_subflow=False,
            tags=[f"wave:{wave}"],
            idempotency_key=f"{wave}@{at.isoformat()}",
        )
    except ObjectNotFound:
        raise fail(_NOT_DEPLOYED.in_language(language()), Exit.USAGE) from None
    schedule_wave(kept.engine, wave, at, str(run.id))
    say({"wave": wave, "state": "scheduled", "start_at": at.isoformat(), "flow_run_id": str(run.id)}, as_json=as_json)


def _prefect_command(*words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", *words],
        cwd=ROOT,
        env=dict(os.environ),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        told = _COMMAND_FAILED.format(words=" ".join(words), said=done.stdout + done.stderr)
        raise fail(told.in_language(language()), Exit.UNEXPECTED)
