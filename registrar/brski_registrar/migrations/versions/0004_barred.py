from alembic import op
from sqlalchemy import Boolean, Column, column, false, table, true

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    # A verdict against a device outlives its state; that of the other states nobody has written down.
    op.add_column("devices", Column("is_barred", Boolean, nullable=False, server_default=false()))
    devices = table("devices", column("state"), column("is_barred"))
    op.execute(devices.update().where(devices.c.state == "denied").values(is_barred=true()))
