"""Where folders go whose place does not follow from their name, and which are left out"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_table(
        "folderplace",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("member_id", sa.Integer(), nullable=False),
        sa.Column("source_name", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("target_name", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("why", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("messages", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(["member_id"], ["member.id"], name=op.f("fk_folderplace_member_id_member")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_folderplace")),
        sa.UniqueConstraint("member_id", "source_name", name=op.f("uq_folderplace_member_id")),
    )
    with op.batch_alter_table("folderplace", schema=None) as batch_op:
        batch_op.create_index(batch_op.f("ix_folderplace_member_id"), ["member_id"], unique=False)


def downgrade() -> None:
    op.drop_table("folderplace")
