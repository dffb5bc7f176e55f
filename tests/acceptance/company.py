"""The company that the acceptance tests move: twenty members on an old server, the same on a new one."""

from collections import Counter
from dataclasses import dataclass

from tests.acceptance.command_line import Row, roster_row
from tests.servers.compare import Mail, assert_same_mail, mail_of
from tests.servers.dovecot import Dovecot

MEMBERS = 20
MESSAGES = 500


def password(side: str, number: int) -> str:
    """A password that can be told from everything else, and that is awkward in CSV, IMAP, URLs and JSON."""
    return f'Canary-{side}-{number:02d} "q"\\;,%41+&=<z>'


@dataclass(frozen=True)
class Company:
    """Two servers with the same users, and what the old one holds."""

    source: Dovecot
    target: Dovecot
    mail: dict[str, Counter[Mail]]

    @property
    def emails(self) -> list[str]:
        return list(self.mail)

    def rows(self, **instead: str) -> list[Row]:
        return [roster_row(email, self.source, self.target, **instead) for email in self.emails]

    def assert_moved(self, *emails: str) -> None:
        """Every message of the members named (default: all) is at the target, once and unchanged."""
        for email in emails or self.emails:
            assert_same_mail(self.mail[email], mail_of(self.target, email), email)

    def assert_source_unchanged(self) -> None:
        for email, mail in self.mail.items():
            assert_same_mail(mail, mail_of(self.source, email), f"source of {email}")
