"""Caps, pace and pauses of hosts, who holds their slots; what accounts refused"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0006"
down_revision = "0005"

TIME = sqlmodel.sql.sqltypes.UTCDateTime
TEXT = sqlmodel.sql.sqltypes.AutoString


def upgrade() -> None:
    op.create_table(
        "host",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", TEXT(), nullable=False),
        sa.Column("connections", sa.Integer(), nullable=True),
        sa.Column("logins_a_minute", sa.Integer(), nullable=True),
        sa.Column("learned", sa.Integer(), nullable=True),
        sa.Column("learned_at", TIME(), nullable=True),
        sa.Column("paused_until", TIME(), nullable=True),
        sa.Column("logins_paused_until", TIME(), nullable=True),
        sa.Column("cause", TEXT(), nullable=False),
        sa.Column("words", TEXT(), nullable=False),
        sa.Column("paused_by", TEXT(), nullable=False),
        sa.Column("pauses", sa.Integer(), nullable=False),
        sa.Column("next_login_at", TIME(), nullable=True),
        sa.Column("worked_at", TIME(), nullable=True),
        sa.Column("recent", TEXT(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_host")),
        sa.UniqueConstraint("name", name=op.f("uq_host_name")),
    )
    op.create_table(
        "hostslots",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("host_id", sa.Integer(), nullable=False),
        sa.Column("runner", TEXT(), nullable=False),
        sa.Column("slots", sa.Integer(), nullable=False),
        sa.Column("wanted", sa.Integer(), nullable=False),
        sa.Column("wanted_since", TIME(), nullable=True),
        sa.Column("asked_at", TIME(), nullable=False),
        sa.Column("until", TIME(), nullable=False),
        sa.ForeignKeyConstraint(["host_id"], ["host.id"], name=op.f("fk_hostslots_host_id_host")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_hostslots")),
        sa.UniqueConstraint("host_id", "runner", name=op.f("uq_hostslots_host_id")),
    )
    op.create_index(op.f("ix_hostslots_host_id"), "hostslots", ["host_id"])
    with op.batch_alter_table("member") as member:
        member.add_column(sa.Column("worked_at", TIME(), nullable=True))
        member.add_column(sa.Column("refusals", TEXT(), nullable=False, server_default=""))
    with op.batch_alter_table("member") as member:
        member.alter_column("refusals", server_default=None)


def downgrade() -> None:
    with op.batch_alter_table("member") as member:
        member.drop_column("refusals")
        member.drop_column("worked_at")
    op.drop_table("hostslots")
    op.drop_table("host")
