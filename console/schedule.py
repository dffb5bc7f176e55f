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
from console.run import require
from console.terminal import fail, language, say
from models.bilingual import Text
from models.lifecycle import schedule_wave
from tasks.prefect_server import use_prefect
from tasks.settings import settings
from tasks.store import store

ROOT = Path(__file__).resolve().parents[1]
WORK_POOL = "banjia"
GRACE_SECONDS = 10
LOOK_SECONDS = 0.2
DEPLOYMENT = "migrate-wave/banjia"

_DEPLOYED = Text("已部署到 {url}；启动执行进程：banjia worker", "Deployed to {url}; start a worker with: banjia worker")
_NOT_DEPLOYED = Text(
    "这个 Prefect 服务上还没有部署流程，请先运行 banjia deploy。",
    "The flows are not deployed to this Prefect server yet; run banjia deploy.",
)
_COMMAND_FAILED = Text("命令 prefect {words} 失败：\n{said}", "prefect {words} failed:\n{said}")


def deploy() -> None:
    """Create the work pool and register the flows of deployments/prefect.yaml."""
    url = use_prefect(settings().home)
    _prefect_command("work-pool", "create", WORK_POOL, "--type", "process", "--overwrite")
    # From the root of the checkout: that is where Prefect resolves the file's paths.
    _prefect_command("deploy", "--all", "--prefect-file", "deployments/prefect.yaml")
    typer.echo(_DEPLOYED.format(url=url).in_language(language()))


def work(name: str | None, limit: int | None) -> None:
    """Become a worker of the pool; Ctrl-C or SIGTERM ends it."""
    use_prefect(settings().home)
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", WORK_POOL]
    options = [*(["--name", name] if name else []), *(["--limit", str(limit)] if limit else [])]
    asked = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: asked.set())
    worker = subprocess.Popen([*command, *options], cwd=settings().home)
    try:
        # In short turns: what a handler does while this thread waits in Popen can learn nothing of the worker's end.
        while not asked.is_set() and not _ended(worker, LOOK_SECONDS):
            pass
    except KeyboardInterrupt:
        asked.set()
    if asked.is_set():
        worker.terminate()
        if not _ended(worker, GRACE_SECONDS):
            # Prefect's worker may go on after one SIGTERM; it kills itself after a second.
            worker.terminate()
    code = worker.wait()
    ended = code in (0, -signal.SIGTERM, -signal.SIGINT) or (asked.is_set() and code == -signal.SIGKILL)
    raise typer.Exit(Exit.DONE if ended else Exit.UNEXPECTED)


def _ended(worker: "subprocess.Popen[bytes]", seconds: float) -> bool:
    try:
        worker.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


def start_at(wave: str, at: datetime, *, as_json: bool) -> None:
    """Have a worker start the wave at that time; the run is visible in Prefect's pages at once."""
    kept = store()
    require(kept, wave)
    use_prefect(kept.settings.home)
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
