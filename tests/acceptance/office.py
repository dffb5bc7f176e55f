"""A few members between two servers, over a line that can be held, for what happens in the middle of a run."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.command_line import ALL_DONE, LONGEST_RUN, Banjia, Row, Run, Started, roster_row
from tests.acceptance.ledger_file import LedgerFile
from tests.servers.compare import Mail, assert_same_mail, mail_of, numbering_of
from tests.servers.dovecot import Dovecot, wait_until
from tests.servers.line import Line

MEMBERS = 3
MESSAGES = 80
A_PART = 100_000
"""Octets that the line carries before it is held: a part of the mail of each, and of all an eighth."""


@dataclass(frozen=True)
class Office:
    """A few members between two servers; the new one takes one message a command, over a line that a test holds."""

    source: Dovecot
    target: Dovecot
    line: Line
    mail: dict[str, Counter[Mail]]
    roster: Path

    def row(self, email: str, **instead: str) -> Row:
        return roster_row(email, self.source, self.target, TargetPort=str(self.line.port), **instead)

    def wait_for_mail(self, started: Started) -> None:
        """Wait until the run is in the middle of its work, where it stays until the line is told to go on."""
        wait_until(lambda: self.line.held or not started.running, "mail on its way", LONGEST_RUN)
        # What the line has carried may not have been stored yet.
        wait_until(lambda: self.target.message_count() > 0 or not started.running, "mail", LONGEST_RUN)
        assert started.running, started.wait()
        assert self.target.message_count() < MEMBERS * MESSAGES, "too late: all has arrived"

    def assert_moved(self, banjia: Banjia) -> None:
        """Everything is there, once, as the ledger says, and the source is as it was."""
        ledger = LedgerFile(banjia.home)
        for email, mail in self.mail.items():
            assert_same_mail(mail, mail_of(self.target, email), email)
            there = numbering_of(self.target, email)
            assert all(folder.uidnext - 1 == len(folder.uids) for folder in there.values()), "stored and gone again"
            assert ledger.target_uids(email) == {name: sorted(f.uids) for name, f in there.items() if f.uids}
            assert ledger.counts(email) == (mail.total(), mail.total(), 0)
            assert_same_mail(mail, mail_of(self.source, email), f"source of {email}")
        assert ledger.intended == 0


def assert_all_done(run: Run) -> None:
    assert run.code == ALL_DONE, run
    assert {member["state"] for member in run.members.values()} == {"synced"}, run
