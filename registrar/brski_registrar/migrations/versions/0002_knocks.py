from alembic import op
from sqlalchemy import Boolean, Column, Integer, String, Text

from brski_common.database import UtcTime

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_table(
        "knocks",
        Column("fingerprint", String(64), primary_key=True),
        Column("is_known", Boolean, nullable=False),
        Column("manufacturer", String(200), nullable=False),
        Column("serial_number", String(255), nullable=False),
        Column("reason", String(100), nullable=False),
        Column("detail", Text, nullable=False),
        Column("address", String(100), nullable=False),
        Column("first_at", UtcTime, nullable=False),
        Column("last_at", UtcTime, nullable=False),
        Column("count", Integer, nullable=False),
    )
