"""Messages that the target took only after they had been changed"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0004"
down_revision = "0003"

WIDE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "messagerepair",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("folder_copy_id", sa.Integer(), nullable=False),
        sa.Column("source_uid", WIDE, nullable=False),
        sa.Column("repairs", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("server_text", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["folder_copy_id"], ["foldercopy.id"], name=op.f("fk_messagerepair_folder_copy_id_foldercopy")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_messagerepair")),
        sa.UniqueConstraint("folder_copy_id", "source_uid", name=op.f("uq_messagerepair_folder_copy_id")),
    )
    op.create_index(op.f("ix_messagerepair_folder_copy_id"), "messagerepair", ["folder_copy_id"])


def downgrade() -> None:
    op.drop_table("messagerepair")
