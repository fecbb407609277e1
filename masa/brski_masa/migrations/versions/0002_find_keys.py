"""Devices are found by their key too: no key may be in two of them."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_index("ix_devices_spki_sha256", "devices", ["spki_sha256"])
