"""Alembic's entry: runs the migrations over the connection that `models.database` hands it."""

from alembic import context
from sqlmodel import SQLModel

import models.check
import models.hosts
import models.ledger_rows
import models.member
import models.places
import models.probe
import models.sign_in_ways
import models.vault
import models.wave  # noqa: F401  (each registers its tables)

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=SQLModel.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
