"""By which mechanism servers were signed in to: known in this process, and to those after it through the database."""

import logging
import threading

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from imapcopy.account import Credential, Server
from models.database import words
from models.sign_in_ways import note_sign_in_way, sign_in_ways

log = logging.getLogger("banjia")


class RememberedWays:
    """The servers that do not take what would be tried first. Read once; written when such a one is met.

    It only saves a refused command: when the database does not answer, nothing else depends on it.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
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


def _name(server: Server) -> str:
    return f"{server.host.casefold()}:{server.port}"
