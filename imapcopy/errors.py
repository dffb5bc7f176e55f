"""What can go wrong, by how far it reaches.

MigrationError
├ MessageError   this message stays behind, the folder goes on
├ FolderError    this folder stays behind, the member goes on
├ MemberError    this member stops
└ ServerError    nobody's fault: wait and try again

Each carries a cause (`models.causes`), the side, and the server's own words with the secrets taken out. The words of
an exception are public: Prefect stores them, logs show them.
"""

from typing import Literal, TypeVar

from imapcopy.waits import suggested_wait
from models.causes import Cause, cause
from models.hints import Hint

Side = Literal["source", "target"]


class MigrationError(Exception):
    """A failure with a named cause."""

    def __init__(
        self,
        cause_id: str,
        side: Side,
        server_text: str = "",
        *,
        where: str = "",
        hint: Hint | None = None,
        known_by: str = "",
    ) -> None:
        self.cause_id = cause_id
        self.side: Side = side
        self.server_text = server_text
        self.where = where
        self.hint = hint
        self.known_by = known_by
        """At which stage the server said it and what told its cause (`models.server_words.KnownBy`); "" for our own."""
        place = f" in {where!r}" if where else ""
        super().__init__(f"{cause_id} ({side}{place}): {server_text}")

    def __reduce__(self) -> tuple[object, ...]:
        return (
            _rebuild,
            (type(self), self.cause_id, self.side, self.server_text, self.where, self.hint, self.known_by),
        )

    def told_as(self, kind: "type[E]", *, where: str | None = None, server_text: str | None = None) -> "E":
        """The same failure as one of another reach."""
        where, text = self.where if where is None else where, self.server_text if server_text is None else server_text
        return kind(self.cause_id, self.side, text, where=where, hint=self.hint, known_by=self.known_by)

    @property
    def cause(self) -> Cause:
        return cause(self.cause_id)

    @property
    def retryable(self) -> bool:
        return self.cause.retryable

    @property
    def wait_seconds(self) -> float | None:
        """How long the server asks to be left alone; None where it names no time."""
        return suggested_wait(self.server_text)


E = TypeVar("E", bound=MigrationError)


class MessageError(MigrationError):
    """One message cannot be moved."""


class FolderError(MigrationError):
    """One folder cannot be read or written."""


class MemberError(MigrationError):
    """The member stops until somebody acts."""


class ServerError(MigrationError):
    """A server or the way to it fails; waiting may help."""


class ConnectionLost(ServerError):
    """The connection broke; what was under way has an unknown outcome."""


class UnreadableAnswer(ConnectionLost):
    """The server sent what cannot be read, and nothing behind it can be told apart any more. Asked the same, it would
    send the same: only what is asked for otherwise, or something else, may come.
    """


class LeftOff(ConnectionLost):
    """No more mail is moved for now, so that a limit is not reached; what has arrived is still verified."""


HOST_BUSY = frozenset({"throttled", "login_throttled", "bandwidth_exceeded", "too_many_connections"})
"""Causes by which a server asks to be left alone: trying again at once makes it worse, and no message is to blame."""


def is_of_the_folder(error: MigrationError) -> bool:
    """Whether other folders of the mailbox may fare better: one that cannot be opened now says nothing of them."""
    return isinstance(error, FolderError) or (
        isinstance(error, ServerError) and error.cause_id == "mailbox_unavailable"
    )


class Refused(Exception):
    """A tagged NO or BAD: the command was not carried out and the connection still serves.

    The server's words are not redacted here, so they are no part of the exception's own text.
    """

    def __init__(self, status: str, text: str) -> None:
        self.status = status
        self.text = text
        super().__init__(status)


class Stopped(Exception):
    """Asked to stop: what is done is in the ledger, the rest goes on with the next pass."""


def error_of_reach(
    cause_id: str, side: Side, server_text: str, *, where: str = "", hint: Hint | None = None, known_by: str = ""
) -> MigrationError:
    """The error whose class fits the reach of the cause."""
    found = cause(cause_id)
    kind: type[MigrationError] = ServerError if found.retryable else MemberError
    if found.reach == "message":
        kind = MessageError
    elif found.reach == "folder":
        kind = FolderError
    return kind(cause_id, side, server_text, where=where, hint=hint, known_by=known_by)


def _rebuild(
    kind: type[MigrationError], cause_id: str, side: Side, text: str, where: str, hint: Hint | None, known_by: str
) -> MigrationError:
    return kind(cause_id, side, text, where=where, hint=hint, known_by=known_by)
