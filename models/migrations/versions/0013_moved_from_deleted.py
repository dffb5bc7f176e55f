"""Which of the messages that have left their folders were moved and not deleted"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString()
    op.add_column("foldercopy", sa.Column("strayed", text, nullable=False, server_default=""))
    with op.batch_alter_table("foldercopy") as table:
        table.alter_column("strayed", existing_type=text, server_default=None)


def downgrade() -> None:
    with op.batch_alter_table("foldercopy") as table:
        table.drop_column("strayed")
