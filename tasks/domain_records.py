"""Asks DNS whose mail a domain's is: what its `imap` stands for and its MX records. Only where the admin wants it."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from models.detection import Records, no_records
from tasks.settings import Settings

if TYPE_CHECKING:
    from dns.resolver import Answer, Resolver

ANSWER_SECONDS = 3.0
KEPT_SECONDS = 1800.0


def records_of(settings: Settings) -> Callable[[str], Records]:
    """What is to be asked of a domain: DNS, or nothing where the settings do not want it."""
    return _SHARED if settings.look_up_mx else no_records


@dataclass
class DomainRecords:
    """Looks domains up, each once in half an hour. What cannot be found out is as if it were not there.

    `address` and `port` name the server to ask, in place of this machine's own ones.
    """

    address: str = ""
    port: int = 53
    clock: Callable[[], float] = time.monotonic
    _known: dict[str, tuple[float, Records]] = field(default_factory=dict)

    def __call__(self, domain: str) -> Records:
        domain = domain.casefold().rstrip(".")
        at, found = self._known.get(domain, (-KEPT_SECONDS, Records()))
        if self.clock() - at >= KEPT_SECONDS or domain not in self._known:
            found = Records(self._mx(domain), self._cname(domain))
            self._known[domain] = (self.clock(), found)
        return found

    def _mx(self, domain: str) -> tuple[str, ...]:
        found = sorted((record.preference, str(record.exchange)) for record in self._ask(domain, "MX") or ())
        return tuple(name.rstrip(".").lower() for _, name in found)

    def _cname(self, domain: str) -> str:
        answer = self._ask(f"imap.{domain}", "CNAME")
        return str(next(iter(answer)).target).rstrip(".").lower() if answer else ""

    def _ask(self, name: str, kind: str) -> "Answer | None":
        # dnspython takes half a second to load, and most runs ask nothing.
        from dns.exception import DNSException

        try:
            return self._resolver().resolve(name, kind, lifetime=ANSWER_SECONDS)
        except (DNSException, UnicodeError, OSError):
            # Nothing there, no answer in time, or no such domain: the roster or the server must tell then.
            return None

    def _resolver(self) -> "Resolver":
        from dns.resolver import Resolver

        resolver = Resolver(configure=not self.address)
        if self.address:
            resolver.nameservers, resolver.port = [self.address], self.port
        return resolver


_SHARED = DomainRecords()
