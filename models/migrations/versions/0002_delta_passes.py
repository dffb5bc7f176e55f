"""What delta passes need: flags as last carried over, what was gone, moved and changed; a range that seems limited"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    counts = [sa.Column(name, sa.Integer(), nullable=False, server_default="0") for name in _COUNTS]
    flags, gone, doubt, limited = (
        sa.Column(name, sqlmodel.sql.sqltypes.AutoString(), nullable=False, server_default="")
        for name in ("flags", "gone", "doubt", "limited_range")
    )
    for table, columns in (("batch", [flags]), ("foldercopy", [gone, doubt, *counts]), ("member", [limited])):
        with op.batch_alter_table(table) as batch_op:
            for column in columns:
                batch_op.add_column(column)
        # The default is for the rows that are there: new ones come with a value.
        with op.batch_alter_table(table) as batch_op:
            for column in columns:
                batch_op.alter_column(column.name, server_default=None)
    with op.batch_alter_table("messageissue") as batch_op:
        batch_op.add_column(sa.Column("digest", sa.LargeBinary(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("messageissue") as batch_op:
        batch_op.drop_column("digest")
    for table, names in (
        ("batch", ["flags"]),
        ("foldercopy", ["gone", "doubt", *_COUNTS]),
        ("member", ["limited_range"]),
    ):
        with op.batch_alter_table(table) as batch_op:
            for name in names:
                batch_op.drop_column(name)


_COUNTS = ["moved", "flags_changed"]
