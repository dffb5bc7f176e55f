"""A wave that a worker starts by itself at the time that the admin gave."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.command_line import ALL_DONE, LONGEST_RUN, Banjia, Started, roster_row, write_roster
from tests.servers.compare import assert_same_mail, mail_of
from tests.servers.dovecot import StartDovecot, wait_until
from tests.servers.mail import mailbox_messages, seed

pytestmark = [pytest.mark.dovecot, pytest.mark.prefect]


def test_a_worker_starts_a_scheduled_wave_by_itself_and_links_its_report(
    start_dovecot: StartDovecot, banjia: Banjia, tmp_path: Path
) -> None:
    source, target = start_dovecot(), start_dovecot()
    emails = ["good@old.example", "wrong@old.example"]
    for number, email in enumerate(emails):
        source.add_user(email, f"Canary-old-{number}")
        target.add_user(email, f"Canary-new-{number}")
        seed(source, email, source.users[email].password, mailbox_messages(email, 40))
    banjia.keep_secret(source, target)
    banjia.keep_secret_too("Canary-wrong")
    rows = [roster_row(emails[0], source, target), roster_row(emails[1], source, target, Password="Canary-wrong")]
    roster = write_roster(tmp_path / "members.csv", rows)
    create = ["wave", "create", str(roster), "--wave", "night", "--report", str(banjia.reports), "--json"]
    created = banjia.start(create).wait()
    assert created.result["state"] == "draft", created

    not_deployed = banjia.start(["wave", "start", "night", "--at", _in(60), "--json"]).wait()
    assert not_deployed.code == 2, not_deployed
    assert "banjia deploy" in not_deployed.stderr

    deployed = banjia.start(["deploy"]).wait()
    assert deployed.code == ALL_DONE, deployed
    worker = banjia.start(["worker", "--name", "night shift"])
    try:
        scheduled = banjia.start(["wave", "start", "night", "--at", _in(15), "--json"]).wait()
        assert scheduled.result["state"] == "scheduled", scheduled
        run_id = scheduled.result["flow_run_id"]

        wait_until(lambda: _ended(banjia, run_id, worker), "the scheduled run to end", LONGEST_RUN)
        run = _flow_run(banjia, run_id)
        assert (run["state_type"], run["state_name"]) == ("COMPLETED", "CompletedWithFailures")
        began, expected = (datetime.fromisoformat(run[key]) for key in ("start_time", "expected_start_time"))
        # Prefect gives the last fraction of a second away.
        assert began >= expected - timedelta(seconds=1)
        assert run["name"] == "move night"
        links = banjia.prefect.ask("artifacts/filter", {})
        assert [link["type"] for link in links if (banjia.reports / "wave.html").as_uri() in str(link["data"])], links
    finally:
        worker.process.terminate()
        ended = worker.wait()
    assert ended.code == 0, ended

    status = banjia.start(["wave", "status", "night", "--json"]).wait().result
    assert status["state"] == "synced_with_failures"
    assert {m["email"]: m["state"] for m in status["members"]} == {emails[0]: "synced", emails[1]: "needs_password"}
    assert_same_mail(mail_of(source, emails[0]), mail_of(target, emails[0]), emails[0])
    banjia.assert_no_secret_was_written()


def _in(seconds: int) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat(timespec="seconds")


def _ended(banjia: Banjia, run_id: str, worker: Started) -> bool:
    assert worker.running, f"the worker ended: {worker.wait()}"
    return _flow_run(banjia, run_id)["state_type"] not in ("SCHEDULED", "PENDING", "RUNNING")


def _flow_run(banjia: Banjia, run_id: str) -> dict[str, Any]:
    runs: list[dict[str, Any]] = banjia.prefect.ask("flow_runs/filter", {"flow_runs": {"id": {"any_": [run_id]}}})
    assert len(runs) == 1
    return runs[0]
