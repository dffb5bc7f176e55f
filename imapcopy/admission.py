"""What stands between an account and its server: leave to connect, leave to speak, and what is learned of the server.

This one lets everybody in and learns nothing. The tasks put one in its place that knows what all runners do at a host.
"""

from collections.abc import Callable, Sequence

from imapcopy.errors import MigrationError


class Admission:
    """Asked around every connection of an account; several threads may ask."""

    def enter(self) -> None:
        """A connection is about to be opened: wait for leave to sign in, or raise the error that says why not."""

    def signed_in(self) -> None:
        """A connection has been signed in to."""

    def check(self) -> None:
        """A command is about to be sent: raise ConnectionLost when the server is to be left alone."""

    def may_read(self, sizes: Sequence[int]) -> int:
        """Messages of so many octets are about to be asked for: how many of them, from the first on, may be.

        LeftOff when none of them may.
        """
        return len(sizes)

    def may_write(self, octets: int) -> None:
        """Mail of so many octets is about to be sent: LeftOff when it may not be."""

    def read(self, octets: int) -> None:
        """So much has come from the server."""

    def written(self, octets: int) -> None:
        """So much goes to the server."""

    def failed(self, error: MigrationError) -> None:
        """The server has answered so."""

    def leaving(self, see_it_gone: Callable[[], None]) -> bool:
        """A connection ends; whether `see_it_gone` will be called, which closes it when the server has, or soon."""
        return False


OPEN = Admission()
