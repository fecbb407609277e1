from alembic import op
from sqlalchemy import Column, ForeignKey, Integer, LargeBinary, text

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    # What a device came with is written once, and no longer anew with each change of its state.
    op.create_table(
        "requests",
        Column("device_id", Integer, ForeignKey("devices.id"), primary_key=True, autoincrement=False),
        Column("certificate", LargeBinary, nullable=False),
        Column("rvr", LargeBinary),
    )
    op.execute("INSERT INTO requests (device_id, certificate, rvr) SELECT id, certificate, rvr FROM devices")
    op.drop_column("devices", "certificate")
    op.drop_column("devices", "rvr")
    # Nobody looks for devices in another state than this one, which nearly all leave at once.
    vouchered = text("state = 'vouchered'")
    op.drop_index("devices_by_state", "devices")
    op.create_index("devices_vouchered", "devices", ["changed_at"], sqlite_where=vouchered, postgresql_where=vouchered)
