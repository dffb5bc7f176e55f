"""How servers were signed in to, passwords that are no member's own, and what probably lies behind a refused login"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString()
    op.create_table(
        "signinway",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("server", text, nullable=False),
        sa.Column("credential", text, nullable=False),
        sa.Column("mechanism", text, nullable=False),
        sa.Column("at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_signinway")),
        sa.UniqueConstraint("server", "credential", name=op.f("uq_signinway_server")),
    )
    op.create_table(
        "standingsecret",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", text, nullable=False),
        sa.Column("sealed", sa.LargeBinary(), nullable=False),
        sa.Column("changed_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_standingsecret")),
        sa.UniqueConstraint("name", name=op.f("uq_standingsecret_name")),
    )
    with op.batch_alter_table("member") as batch_op:
        batch_op.add_column(sa.Column("hint", text, nullable=False, server_default=""))
        batch_op.add_column(sa.Column("source_admin", text, nullable=True))
        batch_op.add_column(sa.Column("target_admin", text, nullable=True))
    # The default is for the rows that are there: new ones come with a value.
    with op.batch_alter_table("member") as batch_op:
        batch_op.alter_column("hint", server_default=None)


def downgrade() -> None:
    with op.batch_alter_table("member") as batch_op:
        for name in ("target_admin", "source_admin", "hint"):
            batch_op.drop_column(name)
    op.drop_table("standingsecret")
    op.drop_table("signinway")
