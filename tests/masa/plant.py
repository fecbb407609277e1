"""Requests as a registrar and its pledge would make them, and a MASA to send them to."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from cryptography import x509

from brski_common import artifact, issuing
from brski_common.artifact import Format
from brski_common.certificates import (
    ID_KP_CMC_RA,
    Credential,
    Peer,
    PrivateKey,
    idevid_issuer,
    serial_number,
    to_der,
)
from brski_common.paths import Anchors
from brski_common.voucher import Assertion, Voucher, VoucherRequest
from brski_masa.audit import Entry
from brski_masa.keyring import Signers
from brski_masa.parties import IdentityKind, Requester
from brski_masa.policy import Terms
from brski_masa.service import AuditTerms, Masa, RevocationChecker
from brski_masa.store import Store
from brski_masa.vouchering import Trust
from tests.support.world import NOW, Clock, Domain, Manufacturer, make_key

MAKER = Manufacturer()
PLANT = Domain()
OTHER_PLANT = Domain("Other Plant")
NONCE = "bm9uY2Utbm9uY2Utbm9uYw=="


def pvr(idevid: Credential, saw: x509.Certificate | None, form: Format = Format.CMS, **leaves: object) -> bytes:
    """A pledge's request; `saw` is the certificate of the TLS server it talks to."""
    values: dict[str, Any] = {
        "serial_number": serial_number(idevid.certificate),
        "assertion": Assertion.PROXIMITY,
        "nonce": NONCE,
        "created_on": NOW,
        "proximity_registrar_cert": None if saw is None else to_der(saw),
    }
    return artifact.sign(VoucherRequest(**values | leaves), form, idevid)


def rvr(
    idevid: Credential,
    domain: Domain = PLANT,
    *,
    signer: Credential | None = None,
    prior: bytes | str | None = "made",
    form: Format = Format.CMS,
    certificates: tuple[x509.Certificate, ...] | None = None,
    pledge: dict[str, Any] | None = None,
    **leaves: object,
) -> bytes:
    """A registrar's request with the pledge's inside, good unless the story changes it."""
    signer = signer or domain.registrar
    inside = pvr(idevid, domain.registrar.certificate, form, **(pledge or {})) if prior == "made" else prior
    assert not isinstance(inside, str)
    values: dict[str, Any] = {
        "serial_number": serial_number(idevid.certificate),
        "idevid_issuer": idevid_issuer(idevid.certificate),
        "assertion": Assertion.PROXIMITY,
        "nonce": NONCE,
        "created_on": NOW,
        "prior_signed_voucher_request": inside,
    }
    return artifact.sign(VoucherRequest(**values | leaves), form, signer, certificates=certificates)


def nonceless(idevid: Credential, domain: Domain = PLANT, **leaves: object) -> bytes:
    """A registrar's request without a nonce and without the pledge's."""
    values: dict[str, Any] = {"nonce": None, **leaves}
    return rvr(idevid, domain, prior=None, **values)


def trust(**changes: object) -> Trust:
    """What the MASA of MAKER goes by."""
    made = Trust(
        idevid_anchors=MAKER.idevid_anchors,
        voucher_anchors=MAKER.voucher_anchors,
        idevid_pool=(MAKER.idevid_ca.certificate,),
    )
    return replace(made, **changes)  # type: ignore[arg-type] # passed on


def tls_client(credential: Credential) -> Requester:
    """Somebody who showed this TLS client certificate."""
    return Requester(peer=Peer(credential.certificate, credential.chain), address="192.0.2.1")


@dataclass
class Desk:
    """A MASA with its store, and the plant as its customer."""

    store: Store
    masa: Masa
    clock: Clock
    requester: Requester = field(default_factory=lambda: tls_client(PLANT.registrar))

    async def sell(self, idevid: Credential, owner: str | None = "Example Plant") -> Credential:
        """Register a device and its owner."""
        await self.store.register(idevid.certificate, self.clock(), owner=owner)
        return idevid

    async def ask(
        self,
        request: bytes,
        form: Format = Format.CMS,
        *,
        requester: Requester | None = None,
        wanted: Sequence[Format] = (),
    ) -> Voucher:
        """The voucher for a request, as a pledge would see it after checking the signature."""
        requester = requester or self.requester
        answer, data = await self.masa.request_voucher(request, form, wanted or [form], requester)
        return artifact.parse_voucher(data, answer).verify(MAKER.voucher_anchors, self.clock()).value

    async def entries(self) -> list[Entry]:
        """The whole log, oldest first."""
        return [link.entry for link in await self.store.chain()]


@asynccontextmanager
async def open_desk(
    folder: Path,
    *,
    terms: Terms | None = None,
    audit_terms: AuditTerms | None = None,
    revocation: RevocationChecker | None = None,
    customers: bool = True,
    database: str | None = None,
    **changes: object,
) -> AsyncIterator[Desk]:
    """A MASA on an empty database, with both plants as customers by their root CA."""
    store = Store.open(database or f"sqlite:///{folder}/masa.db")
    clock = Clock()
    masa = Masa(
        store,
        Signers(MAKER.voucher_signer, MAKER.voucher_signer, frozenset(Format)),
        trust(**changes),
        terms or Terms(),
        clock=clock,
        audit_terms=audit_terms,
        revocation=revocation,
    )
    try:
        if customers:
            for domain in (PLANT, OTHER_PLANT):
                await store.put_owner(domain.name, clock())
                await store.add_certificate(domain.name, IdentityKind.ANCHOR, domain.root.certificate)
        yield Desk(store, masa, clock)
    finally:
        await store.close()


def years(count: int) -> timedelta:
    """About so many years."""
    return timedelta(days=365 * count)


def anchors(*credentials: Credential) -> Anchors:
    """The certificates of these as anchors."""
    return Anchors(credential.certificate for credential in credentials)


def registrar_with_key_id(key_id: bytes | None, key: PrivateKey | None = None) -> Credential:
    """A registrar under a CA whose SubjectKeyIdentifier somebody chose, or which has none."""
    key = key or make_key()
    subject = issuing.name("Numbering CA")
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - years(1))
        .not_valid_after(NOW + years(9))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    if key_id is not None:
        builder = builder.add_extension(x509.SubjectKeyIdentifier(key_id), critical=False)
    ca = Credential(key, (builder.sign(key, issuing.signature_hash(key)),))
    return registrar_under(ca)


def registrar_under(ca: Credential, *extensions: x509.ExtensionType, usages: bool = True) -> Credential:
    """A registrar's credential under any CA."""
    key = make_key()
    certificate = issuing.end_entity(
        ca,
        key.public_key(),
        issuing.name("Registrar"),
        not_before=NOW - years(1),
        not_after=NOW + years(5),
        extended_key_usage=(ID_KP_CMC_RA,) if usages else (),
        extensions=[(extension, False) for extension in extensions],
    )
    return Credential(key, (certificate, *ca.chain))
