"""What was read from and written to accounts whose service has a daily limit"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0011"
down_revision = "0010"

TEXT = sqlmodel.sql.sqltypes.AutoString
WIDE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "accounttraffic",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("host", TEXT(), nullable=False),
        sa.Column("login", TEXT(), nullable=False),
        sa.Column("hour", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.Column("read", WIDE, nullable=False),
        sa.Column("written", WIDE, nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_accounttraffic")),
        sa.UniqueConstraint("host", "login", "hour", name=op.f("uq_accounttraffic_host")),
    )


def downgrade() -> None:
    op.drop_table("accounttraffic")
