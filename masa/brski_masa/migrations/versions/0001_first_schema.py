"""The first schema: owners, devices, the audit log and links to it."""

import sqlalchemy as sa
from alembic import op

from brski_common.database import UtcTime

revision = "0001"
down_revision = None

REFUSE_SQLITE = """
CREATE TRIGGER audit_log_no_{what} BEFORE {what} ON audit_log
BEGIN SELECT RAISE(ABORT, 'the audit log is append-only'); END
"""
REFUSE_POSTGRESQL = """
CREATE FUNCTION audit_log_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'the audit log is append-only'; END $$
"""


def upgrade() -> None:
    _make_owners()
    _make_devices()
    _make_log()


def _make_owners() -> None:
    op.create_table(
        "owners",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("name", sa.String, nullable=False, unique=True),
        sa.Column("pin", sa.String, nullable=False),
        sa.Column("nonceless", sa.Boolean, nullable=False),
        sa.Column("created_on", UtcTime, nullable=False),
    )
    op.create_table(
        "owner_identities",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("owner_id", sa.Integer, sa.ForeignKey("owners.id"), nullable=False, index=True),
        sa.Column("kind", sa.String, nullable=False),
        sa.Column("value", sa.String, nullable=False),
        sa.Column("certificate", sa.LargeBinary),
        sa.Column("domain_id", sa.LargeBinary),
        sa.Column("issuer_hash", sa.LargeBinary),
        sa.Column("verifier", sa.String),
        sa.UniqueConstraint("kind", "value"),
    )


def _make_devices() -> None:
    op.create_table(
        "devices",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("serial_number", sa.String, nullable=False),
        sa.Column("idevid_issuer", sa.LargeBinary, nullable=False),
        sa.Column("certificate", sa.LargeBinary, nullable=False),
        sa.Column("spki_sha256", sa.LargeBinary, nullable=False),
        sa.Column("owner_id", sa.Integer, sa.ForeignKey("owners.id"), index=True),
        sa.Column("policy", sa.String),
        sa.Column("blocked", sa.String),
        sa.Column("formats", sa.String),
        sa.Column("content_type", sa.String),
        sa.Column("released_after", sa.Integer, nullable=False),
        sa.Column("registered_on", UtcTime, nullable=False),
        sa.UniqueConstraint("serial_number", "idevid_issuer"),
    )
    op.create_table(
        "ownerships",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("device_id", sa.Integer, sa.ForeignKey("devices.id"), nullable=False, index=True),
        sa.Column("owner_id", sa.Integer, sa.ForeignKey("owners.id"), nullable=False),
        sa.Column("since", UtcTime, nullable=False),
        sa.Column("until", UtcTime),
    )


def _make_log() -> None:
    op.create_table(
        "audit_log",
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("device_id", sa.Integer, nullable=False),
        sa.Column("serial_number", sa.String, nullable=False),
        sa.Column("idevid_issuer", sa.LargeBinary, nullable=False),
        sa.Column("date", UtcTime, nullable=False),
        sa.Column("domain_id", sa.LargeBinary, nullable=False),
        sa.Column("pinned_key", sa.LargeBinary, nullable=False),
        sa.Column("nonce", sa.String),
        sa.Column("assertion", sa.String, nullable=False),
        sa.Column("expires_on", UtcTime),
        sa.Column("owner", sa.String),
        sa.Column("request", sa.LargeBinary, nullable=False),
        sa.Column("requester", sa.String, nullable=False),
        sa.Column("renewal", sa.Boolean, nullable=False),
        sa.Column("hash", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_audit_log_device_id_number", "audit_log", ["device_id", "number"])
    op.create_table(
        "audit_links",
        sa.Column("token_sha256", sa.LargeBinary, primary_key=True),
        sa.Column("device_id", sa.Integer, nullable=False),
        sa.Column("up_to", sa.Integer, nullable=False),
        sa.Column("expires_on", UtcTime, nullable=False, index=True),
    )
    _make_append_only()


def _make_append_only() -> None:
    if op.get_bind().dialect.name == "sqlite":
        for what in ("UPDATE", "DELETE"):
            op.execute(REFUSE_SQLITE.format(what=what))
        return
    op.execute(REFUSE_POSTGRESQL)
    op.execute(
        "CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_log_is_append_only()"
    )
