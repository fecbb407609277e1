"""The MASA's tables as the code sees them. What a database really has is made by `migrations/versions`.

`audit_log` is append-only: triggers refuse any change, and each row holds the hash of the one before it.
A row of it describes its device in full, so `device_id` is a shortcut, not a foreign key.
"""

from sqlalchemy import (
    Boolean,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    UniqueConstraint,
)

from brski_common.database import UtcTime

metadata = MetaData()

owners = Table(
    "owners",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", String, nullable=False, unique=True),
    Column("pin", String, nullable=False),
    Column("nonceless", Boolean, nullable=False),
    Column("created_on", UtcTime, nullable=False),
)

identities = Table(
    "owner_identities",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("owner_id", Integer, ForeignKey("owners.id"), nullable=False, index=True),
    Column("kind", String, nullable=False),  # policy.IdentityKind
    Column("value", String, nullable=False),  # SPKI SHA-256 in hex, or a user name
    Column("certificate", LargeBinary),
    Column("domain_id", LargeBinary),
    Column("issuer_hash", LargeBinary),  # of the subject, by which a path that stops below finds it
    Column("verifier", String),  # HTTP: SHA-256 of user:realm:password in hex (RFC 7616, 3.4.2)
    UniqueConstraint("kind", "value"),
)

devices = Table(
    "devices",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("serial_number", String, nullable=False),
    Column("idevid_issuer", LargeBinary, nullable=False),
    Column("certificate", LargeBinary, nullable=False),
    Column("spki_sha256", LargeBinary, nullable=False, index=True),
    Column("owner_id", Integer, ForeignKey("owners.id"), index=True),
    Column("policy", String),  # policy.DevicePolicy
    Column("blocked", String),  # why
    Column("formats", String),  # names of artifact.Format, separated by commas
    Column("content_type", String),  # CMS eContentType
    Column("released_after", Integer, nullable=False),  # log entries up to this one no longer claim the device
    Column("registered_on", UtcTime, nullable=False),
    UniqueConstraint("serial_number", "idevid_issuer"),
)

ownerships = Table(
    "ownerships",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("device_id", Integer, ForeignKey("devices.id"), nullable=False, index=True),
    Column("owner_id", Integer, ForeignKey("owners.id"), nullable=False),
    Column("since", UtcTime, nullable=False),
    Column("until", UtcTime),
)

audit_log = Table(
    "audit_log",
    metadata,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("device_id", Integer, nullable=False),
    Column("serial_number", String, nullable=False),
    Column("idevid_issuer", LargeBinary, nullable=False),
    Column("date", UtcTime, nullable=False),
    Column("domain_id", LargeBinary, nullable=False),
    Column("pinned_key", LargeBinary, nullable=False),
    Column("nonce", String),
    Column("assertion", String, nullable=False),
    Column("expires_on", UtcTime),
    Column("owner", String),
    Column("request", LargeBinary, nullable=False),
    Column("requester", String, nullable=False),
    Column("renewal", Boolean, nullable=False),
    Column("hash", LargeBinary, nullable=False),
    Index("ix_audit_log_device_id_number", "device_id", "number"),
)

audit_links = Table(
    "audit_links",
    metadata,
    Column("token_sha256", LargeBinary, primary_key=True),
    Column("device_id", Integer, nullable=False),
    Column("up_to", Integer, nullable=False),
    Column("expires_on", UtcTime, nullable=False, index=True),
)
