"""A database of its own for every test, and a wave to put members in."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from models.database import open_database
from models.vault import Vault
from tests.models.company import Company


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its schema, made once: the migrations cost more than most tests."""
    file = tmp_path_factory.mktemp("database") / "empty.sqlite"
    open_database(f"sqlite:///{file}").dispose()
    return file


@pytest.fixture
def engine(tmp_path: Path, empty_database: Path) -> Iterator[Engine]:
    file = tmp_path / "banjia.sqlite"
    shutil.copyfile(empty_database, file)
    engine = open_database(f"sqlite:///{file}")
    yield engine
    engine.dispose()


@pytest.fixture
def vault(engine: Engine, tmp_path: Path) -> Vault:
    return Vault(engine, tmp_path / "keys" / "vault.key")


@pytest.fixture
def company(engine: Engine) -> Company:
    return Company(engine)
