from alembic import op
from sqlalchemy import CheckConstraint, Column, ForeignKey, Integer, LargeBinary, String, Text, UniqueConstraint

from brski_common.database import UtcTime

revision = "0001"
down_revision = None

# On both databases: what was written down is neither changed nor removed.
JOURNAL_IS_APPEND_ONLY = {
    "sqlite": [
        """CREATE TRIGGER journal_no_update BEFORE UPDATE ON journal
           BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END""",
        """CREATE TRIGGER journal_no_delete BEFORE DELETE ON journal
           BEGIN SELECT RAISE(ABORT, 'the journal is append-only'); END""",
    ],
    "postgresql": [
        """CREATE FUNCTION journal_append_only() RETURNS trigger LANGUAGE plpgsql AS
           $$BEGIN RAISE EXCEPTION 'the journal is append-only'; END$$""",
        """CREATE TRIGGER journal_append_only BEFORE UPDATE OR DELETE ON journal
           FOR EACH ROW EXECUTE FUNCTION journal_append_only()""",
    ],
}


def upgrade() -> None:
    create_policy()
    create_devices()
    create_journal()


def create_policy() -> None:
    op.create_table(
        "policies",
        Column("kind", String(20), primary_key=True),
        Column("name", String(200), primary_key=True),
        Column("document", Text, nullable=False),
        Column("changed_at", UtcTime, nullable=False),
    )
    op.create_table(
        "policy_revision",
        Column("id", Integer, primary_key=True),
        Column("revision", Integer, nullable=False),
        CheckConstraint("id = 1"),
    )
    op.execute("INSERT INTO policy_revision (id, revision) VALUES (1, 1)")
    op.create_table(
        "admissions",
        Column("manufacturer", String(200), primary_key=True),
        Column("serial_number", String(255), primary_key=True),
        Column("purchased_on", UtcTime),
        Column("note", Text, nullable=False),
        Column("added_at", UtcTime, nullable=False),
        Column("voucher", LargeBinary),
        Column("voucher_type", String(100), nullable=False),
    )


def create_devices() -> None:
    op.create_table(
        "devices",
        Column("id", Integer, primary_key=True),
        Column("manufacturer", String(200), nullable=False),
        Column("serial_number", String(255), nullable=False),
        Column("issuer", String(200), nullable=False),
        Column("state", String(20), nullable=False),
        Column("reason", Text, nullable=False),
        Column("fingerprint", String(64), nullable=False),
        Column("certificate", LargeBinary, nullable=False),
        Column("address", String(100), nullable=False),
        Column("media_type", String(100), nullable=False),
        Column("pvr_sha256", String(64), nullable=False),
        Column("nonce", String(100)),
        Column("masa", String(1024), nullable=False),
        Column("rvr", LargeBinary),
        Column("csr_sha256", String(64), nullable=False),
        Column("created_at", UtcTime, nullable=False),
        Column("changed_at", UtcTime, nullable=False),
        UniqueConstraint("manufacturer", "serial_number", "issuer"),
    )
    op.create_index("devices_by_state", "devices", ["state", "changed_at"])
    op.create_table(
        "vouchers",
        Column("id", Integer, primary_key=True),
        Column("device_id", Integer, ForeignKey("devices.id"), nullable=False, index=True),
        Column("pvr_sha256", String(64), nullable=False),
        Column("media_type", String(100), nullable=False),
        Column("raw", LargeBinary, nullable=False),
        Column("nonce", String(100)),
        Column("assertion", String(40), nullable=False),
        Column("received_at", UtcTime, nullable=False),
    )
    op.create_table(
        "certificates",
        Column("fingerprint", String(64), primary_key=True),
        Column("device_id", Integer, ForeignKey("devices.id"), nullable=False, index=True),
        Column("serial", String(42), nullable=False),
        Column("der", LargeBinary, nullable=False),
        Column("csr_sha256", String(64), nullable=False),
        Column("issued_at", UtcTime, nullable=False),
        Column("not_after", UtcTime, nullable=False),
        Column("revoked_at", UtcTime),
    )


def create_journal() -> None:
    op.create_table(
        "journal",
        Column("id", Integer, primary_key=True),
        Column("at", UtcTime, nullable=False),
        Column("device_id", Integer, index=True),
        Column("manufacturer", String(200), nullable=False),
        Column("serial_number", String(255), nullable=False),
        Column("event", String(40), nullable=False),
        Column("reason", String(100), nullable=False),
        Column("detail", Text, nullable=False),
        Column("address", String(100), nullable=False),
    )
    for statement in JOURNAL_IS_APPEND_ONLY[op.get_bind().dialect.name]:
        op.execute(statement)
