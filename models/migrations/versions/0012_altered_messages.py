"""Messages that arrived otherwise than they were, and subjects of those that need somebody's eye"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0012"
down_revision = "0011"

TEXT = sqlmodel.sql.sqltypes.AutoString
WIDE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "messagealteration",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("folder_copy_id", sa.Integer(), nullable=False),
        sa.Column("source_uid", WIDE, nullable=False),
        sa.Column("target_uid", WIDE, nullable=False),
        sa.Column("alterations", TEXT(), nullable=False),
        sa.Column("benign", sa.Boolean(), nullable=False),
        sa.Column("size", WIDE, nullable=False),
        sa.Column("arrived", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True),
        sa.Column("subject", TEXT(), nullable=True),
        sa.Column("sender", TEXT(), nullable=True),
        sa.Column("at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["folder_copy_id"], ["foldercopy.id"], name=op.f("fk_messagealteration_folder_copy_id_foldercopy")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_messagealteration")),
        sa.UniqueConstraint("folder_copy_id", "source_uid", name=op.f("uq_messagealteration_folder_copy_id")),
    )
    op.create_index(op.f("ix_messagealteration_folder_copy_id"), "messagealteration", ["folder_copy_id"])
    for name in ("subject", "sender"):
        op.add_column("messageissue", sa.Column(name, TEXT(), nullable=True))


def downgrade() -> None:
    for name in ("subject", "sender"):
        op.drop_column("messageissue", name)
    op.drop_table("messagealteration")
