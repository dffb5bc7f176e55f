"""What was learned of sign-ins: by which mechanism, for this process and, through the database, for those after it;
and, for this process alone, which administrator's password is not to be tried again.
"""

import logging
import threading
from collections import Counter

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from imapcopy.account import Credential, Server
from models.database import words
from models.sign_in_ways import note_sign_in_way, sign_in_ways

MOST_REFUSALS = 3
"""So often an administrator's password is tried that no member was let in by."""
MOST_REFUSALS_OF_A_GOOD_ONE = 10
"""So often in a row one that was good before: members may be missing, and servers do not say so."""

log = logging.getLogger("banjia")


class RememberedWays:
    """The servers that do not take what would be tried first. Read once; written when such a one is met.

    It only saves a refused command: when the database does not answer, nothing else depends on it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._good: set[tuple[str, str]] = set()
        self._refused: Counter[tuple[str, str]] = Counter()
        try:
            self._ways = sign_in_ways(engine)
        except SQLAlchemyError as error:
            log.warning("how servers are signed in to cannot be read: %s", words(error))
            self._ways = {}

    def known(self, server: Server, credential: Credential) -> str:
        return self._ways.get((_name(server), credential), "")

    def worked(self, server: Server, credential: Credential, mechanism: str) -> None:
        key = _name(server), credential
        with self._lock:
            if self._ways.get(key) == mechanism:
                return
            self._ways[key] = mechanism
            try:
                note_sign_in_way(self._engine, *key, mechanism)
            except SQLAlchemyError as error:
                log.warning("how %s is signed in to was not written down: %s", key[0], words(error))

    def is_given_up(self, server: Server, password: str) -> bool:
        key = _name(server), password
        with self._lock:
            return self._refused[key] >= (MOST_REFUSALS_OF_A_GOOD_ONE if key in self._good else MOST_REFUSALS)

    def answered(self, server: Server, password: str, *, let_in: bool) -> None:
        key = _name(server), password
        with self._lock:
            if let_in:
                self._good.add(key)
                self._refused[key] = 0
            else:
                self._refused[key] += 1


def _name(server: Server) -> str:
    return f"{server.host.casefold()}:{server.port}"
