"""Whose server each side of a member is"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0005"
down_revision = "0004"

_NAMES = ("source_provider", "target_provider")


def upgrade() -> None:
    with op.batch_alter_table("member") as batch_op:
        for name in _NAMES:
            column = sa.Column(name, sqlmodel.sql.sqltypes.AutoString(), nullable=False, server_default="")
            batch_op.add_column(column)
    # The default is for the rows that are there: new ones come with a value.
    with op.batch_alter_table("member") as batch_op:
        for name in _NAMES:
            batch_op.alter_column(name, server_default=None)


def downgrade() -> None:
    with op.batch_alter_table("member") as batch_op:
        for name in _NAMES:
            batch_op.drop_column(name)
