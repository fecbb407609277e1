"""Is a certificate of the registrar's chain revoked? (RFC 8995, 5.5.3; RFC 5280, 6.3; RFC 6960)

The laws of this file:

1. Only certificates that name a CRL or an OCSP server are asked about; OCSP first, then each CRL. The last of the
   path, which nobody above could revoke, is not asked about.
2. An answer counts if it is signed by the certificate's issuer (or, OCSP, by a responder that the issuer made one)
   and is in its time. What is revoked is refused; where no answer can be had, the settings decide.
3. Who asks for a voucher chooses these addresses; what may be asked at all is in `fetching`.
4. A CRL is kept until its nextUpdate, so that a registrar's hundred requests cost one download.
"""

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID

from brski_common.certificates import (
    PYCA_ERRORS,
    Facts,
    common_name,
    extended_key_usages,
    facts_of,
    load_certificate,
    to_der,
)
from brski_common.errors import BrskiError, PeerFailed, Refused, Untrusted
from brski_common.logs import logger
from brski_common.paths import check_dates, check_link

MAX_SERVERS: Final = 4  # of one certificate
MAX_REMEMBERED: Final = 32  # CRLs
SERVERS_REMEMBERED: Final = (
    32  # certificates whose addresses are known: those of a registrar come with its every request
)
SKEW: Final = timedelta(minutes=5)
WITHOUT_NEXT_UPDATE: Final = timedelta(hours=1)  # how long an answer counts that names no end

Fetch = Callable[[str, bytes | None], Awaitable[bytes]]

log = logger("masa.revocation")


@dataclass(frozen=True, slots=True)
class Servers:
    """Where to ask about one certificate."""

    ocsp: tuple[str, ...]
    crls: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.ocsp or self.crls)


# Decisions


def servers_of(certificate: x509.Certificate) -> Servers:
    """The http addresses in the certificate (RFC 5280, 4.2.1.13 and 4.2.2.1)."""
    return _servers_in(facts_of(certificate))


@lru_cache(maxsize=SERVERS_REMEMBERED)
def _servers_in(facts: Facts) -> Servers:
    return Servers(tuple(_ocsp_urls(facts))[:MAX_SERVERS], tuple(_crl_urls(facts))[:MAX_SERVERS])


def _ocsp_urls(facts: Facts) -> list[str]:
    access = facts.value(x509.AuthorityInformationAccess)
    if access is None:
        return []
    found = [each for each in access if each.access_method == AuthorityInformationAccessOID.OCSP]
    return _http(each.access_location for each in found)


def _crl_urls(facts: Facts) -> list[str]:
    points = facts.value(x509.CRLDistributionPoints)
    if points is None:
        return []
    return _http(name for point in points for name in point.full_name or ())


def _http(names: object) -> list[str]:
    assert hasattr(names, "__iter__")
    urls = [name.value for name in names if isinstance(name, x509.UniformResourceIdentifier)]
    return [url for url in urls if url.lower().startswith(("http://", "https://", "ldap://"))]


def check_crl(data: bytes, certificate: x509.Certificate, issuer: x509.Certificate, now: datetime) -> datetime:
    """Until when this CRL says that the certificate is good; raises Refused `registrar-revoked`, Untrusted."""
    crl = _read_crl(data)
    if crl.issuer != issuer.subject or not _crl_is_signed_by(crl, issuer):
        raise Untrusted("crl-not-of-issuer", common_name(issuer))
    if any(extension.critical for extension in crl.extensions):
        # An issuingDistributionPoint or a delta CRL says less than it seems to (RFC 5280, 5.2).
        raise Untrusted("crl-unsupported", "a critical extension")
    until = _check_times(crl.last_update_utc, crl.next_update_utc, now)
    if crl.get_revoked_certificate_by_serial_number(certificate.serial_number) is not None:
        raise Refused("registrar-revoked", common_name(certificate))
    return until


def _read_crl(data: bytes) -> x509.CertificateRevocationList:
    try:
        pem = data.lstrip().startswith(b"-----BEGIN")
        crl = x509.load_pem_x509_crl(data) if pem else x509.load_der_x509_crl(data)
        _ = crl.extensions, crl.issuer, crl.last_update_utc, crl.next_update_utc
    except PYCA_ERRORS as error:
        raise Untrusted("crl-malformed", str(error)) from error
    return crl


def _crl_is_signed_by(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    key = issuer.public_key()
    if not isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey):
        return False
    try:
        return crl.is_signature_valid(key)
    except PYCA_ERRORS:
        return False


def ocsp_request(certificate: x509.Certificate, issuer: x509.Certificate) -> bytes:
    """The question about one certificate, in DER. SHA-1 only names the certificate; it is what all servers know."""
    builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, hashes.SHA1())  # noqa: S303 -- a name, no signature
    return builder.build().public_bytes(Encoding.DER)


def check_ocsp(data: bytes, certificate: x509.Certificate, issuer: x509.Certificate, now: datetime) -> datetime:
    """Until when this answer says that the certificate is good; raises Refused `registrar-revoked`, Untrusted."""
    try:
        response = ocsp.load_der_ocsp_response(data)
        if response.response_status is not ocsp.OCSPResponseStatus.SUCCESSFUL:
            raise Untrusted("ocsp-no-answer", response.response_status.name)
        _check_about(response, certificate, issuer)
        _check_ocsp_signature(response, issuer, now)
        until = _check_times(response.this_update_utc, response.next_update_utc, now)
        status = response.certificate_status
    except PYCA_ERRORS as error:
        raise Untrusted("ocsp-malformed", str(error)) from error
    if status is ocsp.OCSPCertStatus.REVOKED:
        raise Refused("registrar-revoked", common_name(certificate))
    if status is not ocsp.OCSPCertStatus.GOOD:
        raise Untrusted("ocsp-no-answer", status.name)
    return until


def _check_about(response: ocsp.OCSPResponse, certificate: x509.Certificate, issuer: x509.Certificate) -> None:
    """RFC 6960, 3.2: the answer is about the certificate that was asked about."""
    algorithm = response.hash_algorithm
    asked = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer, algorithm).build()
    told = (response.serial_number, response.issuer_name_hash, response.issuer_key_hash)
    if told != (asked.serial_number, asked.issuer_name_hash, asked.issuer_key_hash):
        raise Untrusted("ocsp-about-another", common_name(certificate))


def _check_ocsp_signature(response: ocsp.OCSPResponse, issuer: x509.Certificate, now: datetime) -> None:
    """RFC 6960, 4.2.2.2: signed by the issuer, or by a responder with a certificate from it for just this."""
    signer = issuer
    for candidate in response.certificates:
        responder = load_certificate(to_der(candidate))
        if responder != issuer and ExtendedKeyUsageOID.OCSP_SIGNING in extended_key_usages(responder):
            check_link(responder, issuer)
            check_dates(responder, now)
            signer = responder
            break
    _verify(signer, response.signature, response.tbs_response_bytes, response.signature_hash_algorithm)


def _verify(signer: x509.Certificate, signature: bytes, data: bytes, algorithm: hashes.HashAlgorithm | None) -> None:
    key = signer.public_key()
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, data)
        elif isinstance(key, ec.EllipticCurvePublicKey) and algorithm is not None:
            key.verify(signature, data, ec.ECDSA(algorithm))
        elif isinstance(key, rsa.RSAPublicKey) and algorithm is not None:
            key.verify(signature, data, padding.PKCS1v15(), algorithm)
        else:
            raise Untrusted("ocsp-signature-invalid", "a key of another kind")
    except (InvalidSignature, UnsupportedAlgorithm) as error:
        raise Untrusted("ocsp-signature-invalid", common_name(signer)) from error


def _check_times(made: datetime, next_update: datetime | None, now: datetime) -> datetime:
    if made > now + SKEW:  # first of all: what is made at the end of time has no hour after it
        raise Untrusted("revocation-answer-out-of-date", f"from {made}")
    until = next_update if next_update is not None else made + WITHOUT_NEXT_UPDATE
    if now > until:
        raise Untrusted("revocation-answer-out-of-date", f"from {made} until {until}")
    return until


# Asking


class Revocation:
    """Asks for every certificate of a path; `fetch` gets a URL and, for OCSP, a body."""

    def __init__(self, fetch: Fetch, *, refuse_unreachable: bool = True) -> None:
        self._refuse_unreachable = refuse_unreachable
        self._fetch = fetch
        self._crls: OrderedDict[str, bytes] = OrderedDict()

    def names_servers(self, path: Sequence[x509.Certificate]) -> bool:
        """Whether any certificate of the path, but the last, names a server."""
        return any(map(servers_of, path[:-1]))

    async def check(self, path: Sequence[x509.Certificate], now: datetime) -> datetime | None:
        """The earliest end of the answers; raises Refused `registrar-revoked`, `revocation-unknown`."""
        ends: list[datetime] = []
        for certificate, issuer in pairwise(path):
            if servers_of(certificate):
                try:
                    ends.append(await self._ask(certificate, issuer, now))
                except (Untrusted, PeerFailed) as error:
                    if self._refuse_unreachable:
                        raise Refused("revocation-unknown", f"{common_name(certificate)}: {error}") from error
                    log.warning("revocation unknown", certificate=common_name(certificate), error=error)
        return min(ends, default=None)

    async def _ask(self, certificate: x509.Certificate, issuer: x509.Certificate, now: datetime) -> datetime:
        """The first usable answer of any server; raises what the last one failed with."""
        servers = servers_of(certificate)
        failure: BrskiError = PeerFailed("revocation-unreachable", "")
        for url in servers.ocsp:
            try:
                answer = await self._fetch(url, ocsp_request(certificate, issuer))
                return check_ocsp(answer, certificate, issuer, now)
            except (Untrusted, PeerFailed) as error:
                failure = error
        for url in servers.crls:
            try:
                return await self._ask_crl(url, certificate, issuer, now)
            except (Untrusted, PeerFailed) as error:
                failure = error
        raise failure

    async def _ask_crl(
        self, url: str, certificate: x509.Certificate, issuer: x509.Certificate, now: datetime
    ) -> datetime:
        if url in self._crls:
            try:
                return check_crl(self._crls[url], certificate, issuer, now)
            except Untrusted:
                del self._crls[url]
        data = await self._fetch(url, None)
        until = check_crl(data, certificate, issuer, now)
        self._crls[url] = data
        if len(self._crls) > MAX_REMEMBERED:
            self._crls.popitem(last=False)
        return until
