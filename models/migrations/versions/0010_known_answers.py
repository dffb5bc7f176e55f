"""What told the cause of a failure, so that answers that nothing knows can be listed"""

import sqlalchemy as sa
import sqlmodel
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    text = sqlmodel.sql.sqltypes.AutoString()
    for table in ("member", "messageissue"):
        with op.batch_alter_table(table) as batch_op:
            batch_op.add_column(sa.Column("known_by", text, nullable=False, server_default=""))
        # The default is for the rows that are there: new ones come with a value.
        with op.batch_alter_table(table) as batch_op:
            batch_op.alter_column("known_by", server_default=None)


def downgrade() -> None:
    for table in ("messageissue", "member"):
        with op.batch_alter_table(table) as batch_op:
            batch_op.drop_column("known_by")
