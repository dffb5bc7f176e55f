"""A ledger for the tests that copy in their own process."""

from tests.imapcopy.conftest import engine

__all__ = ["engine"]
