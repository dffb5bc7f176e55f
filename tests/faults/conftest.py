"""A ledger for the tests that copy in their own process."""

from tests.imapcopy.conftest import empty_database, engine

__all__ = ["empty_database", "engine"]
