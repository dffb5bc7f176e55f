"""The commands that a probe has beyond those of a copy: it takes away again what it has made, and nothing else."""

from collections.abc import Iterable

from imapcopy import grammar, responses
from imapcopy.errors import FolderError, MigrationError, Refused
from imapcopy.flight import uid_sets
from imapcopy.probe_samples import FIELD
from imapcopy.responses import Message
from imapcopy.target_connection import TargetConnection
from imapcopy.wire import Response


class ProbeConnection(TargetConnection):
    """A target in whose scratch folders anything may be done. The copier never opens one."""

    @property
    def mechanism(self) -> str:
        """By which the account was signed in to."""
        return self._dialogue.mechanism

    def leave(self) -> None:
        """Open no scratch folder any more: some servers do not delete the folder that is open."""
        self._dialogue.opened(self._dialogue.opening(b"EXAMINE", b"INBOX"), b"INBOX")

    def delete_each(self, names: Iterable[str]) -> dict[str, MigrationError]:
        """DELETE folders, in this order; returns those that were refused."""
        refused: dict[str, MigrationError] = {}

        def ask(name: str) -> tuple[bytes, bytes]:
            raw = grammar.quote(grammar.encode_mailbox(name))
            return self._dialogue.send(b"UNSUBSCRIBE " + raw), self._dialogue.send(b"DELETE " + raw)

        for name, (unsubscribing, deleting) in self._dialogue.in_flight(names, ask):
            self._dialogue.unless_refused(unsubscribing)
            try:
                self._dialogue.collect(deleting)
            except Refused as refusal:
                refused[name] = self.failure(refusal, "create", name)
        return refused

    def expunge(self, uids: Iterable[int]) -> None:
        """Remove messages of the opened folder for good, and only these (UIDPLUS). Raises Refused."""
        if not self.has("UIDPLUS"):
            raise ValueError("without UIDPLUS an EXPUNGE would take other people's mail along")
        wanted = list(uids)
        self.store(wanted, frozenset({"\\Deleted"}), add=True)
        for uid_set, _ in uid_sets(wanted):
            self._dialogue.collect(self._dialogue.send(b"UID EXPUNGE " + uid_set))

    def tokens(self, uids: Iterable[int]) -> dict[int, str]:
        """Of which probe messages are, by UID; "" for a message that is none's."""
        found: dict[int, str] = {}
        for uid_set, _ in uid_sets(uids):
            items = f" (UID BODY.PEEK[HEADER.FIELDS ({FIELD})])".encode("ascii")
            with self.of_the_folder():
                found.update(self._dialogue.answers(self._dialogue.send(b"UID FETCH " + uid_set + items), _token))
        return found

    def limit_of(self, name: str) -> int | None:
        """The largest message that a folder takes (RFC 7889), None where that is not told."""
        if not self.has("APPENDLIMIT"):
            return self.append_limit
        raw = grammar.quote(grammar.encode_mailbox(name))
        asked = self._dialogue.send(b"STATUS " + raw + b" (APPENDLIMIT)")
        return responses.append_limit(self._dialogue.unless_refused(asked))

    def bodies(self, uids: Iterable[int]) -> dict[int, bytes]:
        """Contents by UID; what the server does not deliver is absent."""
        found: list[Message] = []
        try:
            found = list(self.read_back(uids))
        except FolderError:
            return {}
        return {message.uid: message.raw for message in found if message.raw is not None}


def _token(response: Response) -> tuple[int, str] | None:
    values = responses.fetched(response)
    name = next((key for key in values if key.startswith(b"BODY[")), None) if values else None
    if values is None or name is None or b"UID" not in values:
        return None
    header = values[name]
    text = header.decode("latin-1") if isinstance(header, bytes) else ""
    fields = (line.partition(":") for line in text.splitlines())
    told = next((value.strip() for key, _, value in fields if key.strip().lower() == FIELD.lower()), "")
    return grammar.number(values[b"UID"]), told
