"""A database of its own for every test, of both kinds, and a wave to put members in."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from models.vault import Vault
from tests.models.company import Company
from tests.servers.databases import Databases


@pytest.fixture(params=["sqlite", "postgresql"])
def engine(request: pytest.FixtureRequest, databases: Databases, tmp_path: Path) -> Iterator[Engine]:
    with databases.fresh(request.param, tmp_path) as engine:
        yield engine


@pytest.fixture
def vault(engine: Engine, tmp_path: Path) -> Vault:
    return Vault(engine, tmp_path / "keys" / "vault.key")


@pytest.fixture
def company(engine: Engine) -> Company:
    return Company(engine)
