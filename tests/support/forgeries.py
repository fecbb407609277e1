"""Artefacts as attackers make them, and bytes that no HTTP client would send."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Self
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from brski_common import artifact, issuing, tls
from brski_common.artifact import Format
from brski_common.certificates import Credential, to_der
from brski_common.http_client import HttpResponse
from brski_common.voucher import Assertion, Voucher, VoucherRequest
from tests.support.world import NOW, key_for

ANSWER_SECONDS = 20.0  # for a raw exchange; a test that needs so long has failed
NONCE = "bm9uY2Utb2YtMTYtYnl0ZXM="


def ca_with_key_id(name: str, key_id: bytes, above: Credential | None = None) -> Credential:
    """A CA whose SubjectKeyIdentifier somebody chose, self-signed or under another CA."""
    key = key_for(f"{name} with a chosen identifier")
    subject = issuing.name(name, organization_name="Example Plant")
    issuer = above or Credential(key, ())
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(above.certificate.subject if above else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOW - timedelta(days=1))
        .not_valid_after(NOW + timedelta(days=365))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(issuing.signing_key_usage(certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier(key_id), critical=False)
    )
    return Credential(key, (builder.sign(issuer.key, issuing.signature_hash(issuer.key)), *issuer.chain))


def serial_of(device: Credential) -> str:
    """The serial number in an IDevID."""
    return str(device.certificate.subject.get_attributes_for_oid(x509.NameOID.SERIAL_NUMBER)[0].value)


def pvr_of(device: Credential, registrar: Credential, nonce: str | None = NONCE, **leaves: object) -> bytes:
    """The request a device makes when it sees that registrar, but for `leaves`."""
    request = VoucherRequest(
        serial_number=serial_of(device),
        assertion=Assertion.PROXIMITY,
        nonce=nonce,
        proximity_registrar_cert=to_der(registrar.certificate),
    )
    return artifact.sign(replace(request, **leaves), Format.CMS, device)  # type: ignore[arg-type] # names of leaves


def rvr_of(
    registrar: Credential,
    serial: str,
    *,
    pvr: bytes | None,
    nonce: str | None = NONCE,
    signer: Credential | None = None,
    certificates: Sequence[x509.Certificate] | None = None,
    **leaves: object,
) -> bytes:
    """A registrar's request, but for `leaves`."""
    request = VoucherRequest(
        serial_number=serial, assertion=Assertion.PROXIMITY, nonce=nonce, prior_signed_voucher_request=pvr
    )
    request = replace(request, **leaves)  # type: ignore[arg-type] # the caller names leaves
    return artifact.sign(request, Format.CMS, signer or registrar, certificates=certificates)


def honest_request(device: Credential, registrar: Credential, nonce: str = NONCE) -> bytes:
    """A registrar's request with everything in order."""
    return rvr_of(registrar, serial_of(device), pvr=pvr_of(device, registrar, nonce), nonce=nonce)


def voucher_for(
    device: Credential, nonce: str | None, pinned: x509.Certificate, signer: Credential, **leaves: object
) -> bytes:
    """A voucher as somebody would like to have it."""
    voucher = Voucher(
        serial_number=serial_of(device),
        nonce=nonce,
        assertion=Assertion.PROXIMITY,
        pinned_domain_cert=to_der(pinned),
    )
    return artifact.sign(replace(voucher, **leaves), Format.CMS, signer)  # type: ignore[arg-type] # names of leaves


def voucher_in(body: bytes) -> Voucher:
    """What a voucher says."""
    return artifact.parse_voucher(body, Format.CMS).claimed


def request_in(body: bytes) -> VoucherRequest:
    """What a voucher request says."""
    return artifact.parse_voucher_request(body, Format.CMS).claimed


def slug(response: HttpResponse) -> str:
    """The reason in an answer, whichever service it is from."""
    return response.body.decode().partition(":")[0].strip()


def crl_of(issuer: Credential, *revoked: x509.RevokedCertificate) -> bytes:
    """A revocation list of a CA."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(issuer.certificate.subject)
        .last_update(NOW - timedelta(hours=2))
        .next_update(NOW + timedelta(days=1))
    )
    for each in revoked:
        builder = builder.add_revoked_certificate(each)
    return builder.sign(issuer.key, issuing.signature_hash(issuer.key)).public_bytes(Encoding.DER)


# Bytes that no HTTP client would send


@asynccontextmanager
async def raw_line(
    url: str, credential: Credential | None = None
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A TLS connection to write to as one likes."""
    parts = urlsplit(url)
    context = tls.client_context(credential, judge=lambda _: None)
    reader, writer = await asyncio.open_connection(
        parts.hostname, parts.port, ssl=context, server_hostname=parts.hostname or ""
    )
    try:
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def raw(url: str, data: bytes, credential: Credential | None = None) -> bytes:
    """Everything a server says to these bytes until it hangs up or has answered a last request with `close`."""
    async with raw_line(url, credential) as (reader, writer):
        writer.write(data)
        async with asyncio.timeout(ANSWER_SECONDS):
            return await to_end(reader)


async def to_end(reader: asyncio.StreamReader) -> bytes:
    """All that comes until the other side hangs up."""
    said = b""
    with suppress(OSError):
        while chunk := await reader.read(16 * 1024):
            said += chunk
    return said


def statuses(said: bytes) -> list[int]:
    """The status codes in what a server said."""
    return [int(line.split(b" ")[1]) for line in said.split(b"\r\n") if line.startswith(b"HTTP/1.")]


class Canary:
    """A listener that nobody should ever reach."""

    def __init__(self) -> None:
        self.touched, self.port = 0, 0
        self._server: asyncio.Server

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._touch, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    def _touch(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.touched += 1
        writer.close()
