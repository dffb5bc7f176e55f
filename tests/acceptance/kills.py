"""A hundred times `kill -9` in one wave between two real Dovecots, then one run in peace: nothing lost, nothing twice.

    python -m tests.acceptance.kills --kills 100 --profile plain

The moments are spread over the whole run: while the program starts, while mail is on its way over a slow line, and
when all has arrived. Every second time everything that the program started dies too, Prefect's server among it.
"""

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.acceptance.command_line import ALL_DONE, LONGEST_RUN, Banjia, Run, Started, roster_row, write_roster
from tests.acceptance.ledger_file import LedgerFile
from tests.servers.certificates import Authority
from tests.servers.compare import Mail, differences_between, mail_of, numbering_of
from tests.servers.dovecot import PLAIN_CAPABILITY, WRITING_VERBS, Dovecot, User, wait_until
from tests.servers.line import Line
from tests.servers.mail import mailbox_messages, seed

PROFILES: dict[str, str | None] = {"full": None, "uidplus": PLAIN_CAPABILITY, "plain": "IMAP4rev1"}
APPENDUID = rb"\[APPENDUID [^\]\r\n]*\] ?"
"""Dovecot sends it also where it does not offer UIDPLUS; a server without it does not."""
COMMANDS = 4000
"""Octets of commands that are sent to the target before the first message."""
STARTING = "starting"
BETWEEN = "nothing on its way"
SENDING = "mail on its way"
ENDING = "ending"
PLACES = (STARTING, BETWEEN, SENDING, ENDING)


@dataclass
class Findings:
    """What the kills hit, and what was wrong afterwards."""

    places: Counter[str] = field(default_factory=Counter)
    everything: int = 0
    """Kills that took Prefect's server along."""
    unnoted: int = 0
    """Messages that had arrived when a kill came, and that the ledger did not know yet."""
    lost: int = 0
    doubled: int = 0
    vanished: int = 0
    """UIDs that a target folder has given away and that are no message now."""
    wrong: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def kills(self) -> int:
        return self.places.total()

    def expect(self, right: bool, sentence: object) -> None:
        if not right:
            self.wrong.append(str(sentence))


class Wave:
    """A company on an old server, an empty new one, and the program between them."""

    def __init__(
        self, directory: Path, profile: str, *, members: int, messages: int, octets_per_second: float, dice: int
    ) -> None:
        self._dice = random.Random(dice)
        self._octets_per_second = octets_per_second
        self._leave_out = APPENDUID if profile == "plain" else b""
        sides = [directory / side for side in ("old", "new", "banjia")]
        for side in (directory, *sides):
            side.mkdir(exist_ok=True)
            side.chmod(0o711)
        self.source = Dovecot(sides[0])
        self.target = Dovecot(sides[1], capability=PROFILES[profile])
        self.banjia = Banjia(sides[2], Authority().root)
        self._emails = [f"member{number:02d}@old.example" for number in range(members)]
        self._messages = messages
        self._starting_seconds = 2.0
        self._sent = 0
        self._sending_seconds = 0.0
        self._rate = self._total / 20
        """Messages a second, while mail is sent."""

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Start the servers, fill the old one, write the roster."""
        with self.source, self.target:
            for server, side in ((self.source, "old"), (self.target, "new")):
                server.add_users([User(email, f"Canary-{side}-{email}") for email in self._emails])
            for email in self._emails:
                seed(self.source, email, self.source.users[email].password, mailbox_messages(email, self._messages))
            self._mail = {email: mail_of(self.source, email) for email in self._emails}
            self._numbers = {email: numbering_of(self.source, email) for email in self._emails}
            self.source.forget_commands()
            self.banjia.keep_secret(self.source, self.target)
            with Line(
                self.target.port, octets_per_second=self._octets_per_second, leave_out=self._leave_out
            ) as self._line:
                through = {"TargetPort": str(self._line.port)}
                rows = [roster_row(email, self.source, self.target, **through) for email in self._emails]
                self._roster = write_roster(self.banjia.directory / "members.csv", rows)
                try:
                    yield
                finally:
                    self.banjia.close()

    def suffer(self, kills: int, *, everything_too: bool = True) -> Findings:
        """Kill so many runs, let the last one end, and look at everything."""
        begun = time.monotonic()
        findings = Findings()
        early, late = kills // 10, kills // 10
        moments = [STARTING] * early + [SENDING] * (kills - early - late)
        self._dice.shuffle(moments)
        moments += [ENDING] * late
        while findings.kills < kills:
            left = moments[findings.kills :]
            if not self._kill_once(findings, left[0], left.count(SENDING), everything_too):
                # There is no more to send, or this run was quick.
                moments[findings.kills] = ENDING
        last = self.banjia.migrate(self._roster)
        findings.expect(last.code == ALL_DONE, last)
        findings.seconds = time.monotonic() - begun
        self._look(findings, last)
        return findings

    def _kill_once(self, findings: Findings, moment: str, sending_left: int, everything_too: bool) -> bool:
        before = LedgerFile(self.banjia.home)
        everything = everything_too and findings.kills % 2 == 1
        begun = time.monotonic()
        there = self.target.message_count()
        connections = len(self._line.octets)
        started = self.banjia.start_migrate(self._roster)
        if moment == SENDING:
            self._wait_for_mail_on_the_line(started, connections)
            self._starting_seconds = time.monotonic() - begun
            # Twice as long as would divide the rest evenly among the kills that are left, at the most.
            seconds = 2 * (self._total - there) / self._rate / sending_left
            waited = _wait(started, self._dice.uniform(0, seconds))
        else:
            waited = _wait(started, self._dice.uniform(0, self._starting_seconds + (2 if moment == ENDING else 0)))
        if not _killed(started, self.banjia, everything=everything):
            # Runs have become quicker since this was measured.
            self._starting_seconds *= 0.7
            return False
        after = LedgerFile(self.banjia.home)
        findings.places[_place(after, started.process.pid, before)] += 1
        findings.everything += everything
        arrived = self.target.message_count()
        findings.unnoted += max(arrived - after.noted, 0)
        if moment == SENDING:
            self._sent += arrived - there
            self._sending_seconds += waited
            self._rate = max(self._sent, 1) / self._sending_seconds
        return True

    @property
    def _total(self) -> int:
        return self._messages * len(self._emails)

    def _wait_for_mail_on_the_line(self, started: Started, connections: int) -> None:
        """Wait until a connection of this run has carried more than commands."""
        wait_until(
            lambda: max(self._line.octets[connections:], default=0) > COMMANDS or not started.running,
            "mail on its way to the target",
            deadline=LONGEST_RUN,
        )

    def _look(self, findings: Findings, last: Run) -> None:
        ledger = LedgerFile(self.banjia.home)
        for email, mail in self._mail.items():
            there = mail_of(self.target, email)
            self._compare(findings, email, mail, there)
            numbers = numbering_of(self.target, email)
            findings.vanished += sum(n.uidnext - 1 - len(n.uids) for n in numbers.values())
            claimed = ledger.target_uids(email)
            actual = {name: sorted(n.uids) for name, n in numbers.items() if n.uids}
            findings.expect(claimed == actual, f"{email}: the ledger has other UIDs than the target")
            counts = ledger.counts(email)
            expected = (mail.total(), mail.total(), 0)
            findings.expect(counts == expected, f"{email}: the ledger says {counts}, there are {expected}")
            if last.code == ALL_DONE:
                told = last.members[email]["messages"]
                findings.expect(told["copied"] == there.total(), f"{email}: the run says {told}")
            said = Counter(self.source.commands(email))
            findings.expect(not WRITING_VERBS & said.keys(), f"{email}: said to the source {said}")
            findings.expect(mail_of(self.source, email) == mail, f"{email}: the source's mail has changed")
            same = numbering_of(self.source, email) == self._numbers[email]
            findings.expect(same, f"{email}: the source's numbers have changed")
        findings.expect(ledger.unsettled == 0, f"{ledger.unsettled} batches are still intended")
        self.banjia.assert_no_secret_was_written()

    def _compare(self, findings: Findings, email: str, mail: Counter[Mail], there: Counter[Mail]) -> None:
        lost, extra = (_bodies(mail) - _bodies(there)).total(), (_bodies(there) - _bodies(mail)).total()
        findings.lost += lost
        findings.doubled += extra
        differences = list(differences_between(mail, there))
        findings.expect(not differences, f"{email}: {len(differences)} differences, {differences[:3]}")


def _bodies(mail: Counter[Mail]) -> Counter[tuple[str, str]]:
    found: Counter[tuple[str, str]] = Counter()
    for message, count in mail.items():
        found[message.folder, message.sha256] += count
    return found


def _wait(started: Started, seconds: float) -> float:
    """Let the run go on for so long, or to its end; returns how long it was."""
    begun = time.monotonic()
    while time.monotonic() < begun + seconds and started.running:
        time.sleep(0.005)
    return time.monotonic() - begun


def _killed(started: Started, banjia: Banjia, *, everything: bool) -> bool:
    """`kill -9` the program, or all that it started; whether it was still running."""
    if everything:
        banjia.kill_everything()
    else:
        with suppress(ProcessLookupError):
            os.kill(started.process.pid, signal.SIGKILL)
    return started.wait().code == -signal.SIGKILL


def _place(ledger: LedgerFile, process: int, before: LedgerFile) -> str:
    """Where the run of that process was, when `before` was the ledger at its start."""
    if ledger.attempts == before.attempts:
        return STARTING
    under_way = [member["id"] for member in ledger.members if f"/{process}/" in member["lease_owner"]]
    if not under_way:
        return BETWEEN if any(member["state"] == "queued" for member in ledger.members) else ENDING
    return SENDING if ledger.intended_of(under_way) else BETWEEN


def print_table(profile: str, findings: Findings) -> None:
    rows = [
        ("kills that hit a running program", findings.kills),
        *((f"  {place}", findings.places[place]) for place in PLACES),
        ("  of them with Prefect's server", findings.everything),
        ("messages arrived and not noted at a kill", findings.unnoted),
        ("lost", findings.lost),
        ("doubled", findings.doubled),
        ("stored and gone again", findings.vanished),
        ("other faults", len(findings.wrong)),
        ("seconds", round(findings.seconds)),
    ]
    sys.stdout.write(f"profile {profile}\n" + "".join(f"  {name:<44}{value:>8,}\n" for name, value in rows))
    sys.stdout.write("".join(f"  {sentence}\n" for sentence in findings.wrong))


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.acceptance.kills", description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--profile", choices=PROFILES, default="full")
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--messages", type=int, default=500, help="in each mailbox")
    parser.add_argument(
        "--octets-per-second", type=float, default=1e6, help="of the line to the new server; 0: no limit"
    )
    parser.add_argument("--dice", type=int, default=20261122)
    parser.add_argument("--keep", action="store_true", help="leave the files of the run")
    found = parser.parse_args()
    directory = Path(tempfile.mkdtemp(prefix="kills-"))
    wave = Wave(
        directory,
        found.profile,
        members=found.members,
        messages=found.messages,
        octets_per_second=found.octets_per_second,
        dice=found.dice,
    )
    try:
        with wave.ready():
            findings = wave.suffer(found.kills)
    finally:
        if not found.keep:
            shutil.rmtree(directory, ignore_errors=True)
    print_table(found.profile, findings)
    return 1 if findings.wrong or findings.lost or findings.doubled or findings.vanished else 0


if __name__ == "__main__":
    sys.exit(main())
