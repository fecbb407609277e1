"""What must hold of signatures and paths, whatever a fuzzer did to the bytes around them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache

from cryptography import x509

from brski_common import artifact, cms, cose, der, jws, signatures
from brski_common.artifact import Format
from brski_common.certificates import PrivateKey, load_certificate, to_der
from brski_common.errors import BrskiError, Malformed, Untrusted
from brski_common.paths import Anchors, build_path
from brski_common.voucher import VoucherData
from tests.fuzz import seeds
from tests.fuzz.fixed import NOW, maker, plant


class Broken(Exception):
    """A property that must hold of every input does not."""


def holds(condition: bool, otherwise: str) -> None:
    """Raise Broken unless the property holds."""
    if not condition:
        raise Broken(otherwise)


# Envelopes


def reader(artifact_format: Format) -> Callable[[bytes], object]:
    """The reader of one envelope: parse it, verify it in each way, and compare with what was signed."""

    def read(data: bytes) -> None:
        parsed = artifact.parse_any(data, artifact_format)
        _check_envelope(data, parsed.envelope)
        with suppress(Untrusted):
            parsed.verify_consistent(NOW)
        verified = parsed.verify(seeds.anchors(), None)
        holds(verified.raw == data, "the bytes were not kept")
        holds((verified.value, verified.signer) in _originals(artifact_format), "nobody signed this")

    return read


@cache
def _originals(artifact_format: Format) -> tuple[tuple[VoucherData, x509.Certificate], ...]:
    """What was signed, and by whom."""
    found = []
    for seed in seeds.signed(artifact_format):
        with suppress(BrskiError):
            parsed = artifact.parse_any(seed, artifact_format)
            found += [(parsed.claimed, signer) for signer in _signers_of(parsed)]
    return tuple(found)


def _signers_of(parsed: artifact.Unverified[VoucherData]) -> Iterator[x509.Certificate]:
    """Whoever signed: also below a countersignature, which may go, and without certificates, which may come."""
    if isinstance(parsed.envelope, jws.SignedJson) and len(parsed.envelope.signatures) > 1:
        yield from jws.verify_each(parsed.envelope)
        return
    for certificate in map(load_certificate, seeds.certificate_seeds()):
        with suppress(BrskiError):
            yield parsed.verify_signed_by(certificate).signer


def _check_envelope(data: bytes, envelope: artifact.Envelope) -> None:
    """What only one kind of envelope has."""
    if isinstance(envelope, cms.SignedData):
        _check_strict(data, envelope)
    elif isinstance(envelope, cose.Sign1):
        _check_stripped(data, envelope)
    elif len(envelope.signatures) > 1:
        with suppress(Untrusted, Malformed):
            holds(len(jws.verify_each(envelope)) == len(envelope.signatures), "a signature was not verified")


def _check_strict(data: bytes, envelope: cms.SignedData) -> None:
    """What is DER is taken by the strict reader too, and nothing else."""
    try:
        strict = cms.parse(data, strict=True)
    except Malformed:
        holds(not envelope.is_der, "DER was refused as BER")
    else:
        holds(strict == envelope and envelope.is_der, "the strict reader read something else")


def _check_stripped(data: bytes, envelope: cose.Sign1) -> None:
    """What a registrar hands on without certificates is the same message otherwise."""
    after = cose.parse(cose.strip_unprotected_certificates(data))
    signed = [(each.protected, each.content, each.signature) for each in (envelope, after)]
    holds(signed[0] == signed[1], "stripping changed more than the certificates")


# Paths


def _certificates(data: bytes) -> Sequence[x509.Certificate]:
    found = der.parse(data).fields()
    elements = []
    with suppress(Malformed):
        while True:
            elements.append(found.take(der.SEQUENCE).encoded)
    chain = [load_certificate(element) for element in elements]
    if not chain:
        raise Malformed("fuzz-chain-empty")
    return chain


def read_chain(data: bytes) -> None:
    """A leaf and what came along: a path holds only genuine certificates."""
    leaf, *pool = _certificates(data)
    path = build_path(leaf, pool, seeds.anchors(), NOW)
    holds(all(to_der(certificate) in _genuine() for certificate in path), "a forged certificate is in the path")


@cache
def _genuine() -> frozenset[bytes]:
    own = {to_der(certificate) for seed in seeds.chains() for certificate in _certificates(seed)}
    return frozenset(own | {to_der(certificate) for certificate in seeds.anchors().certificates})


def read_resigned_chain(data: bytes) -> None:
    """A chain whose CAs sign whatever the fuzzer put in, so that it gets to constraints, lengths and dates."""
    elements = der.parse(data).children()[:8]
    chain = [load_certificate(_resigned(element)) for element in elements]
    if not chain:
        raise Malformed("fuzz-chain-empty")
    path = build_path(chain[0], chain[1:], Anchors(chain[-1:]), NOW)
    holds(path[0] == chain[0] and path[-1] == chain[-1], "the path leads elsewhere")


def _resigned(element: der.Element) -> bytes:
    fields = element.fields()
    tbs, algorithm = fields.take(der.SEQUENCE), fields.take(der.SEQUENCE)
    found = _issuer_key(tbs)
    if found is None:
        return element.encoded
    signature = signatures.sign(found, tbs.encoded, signatures.Scheme("EC", _digest(found)))
    return der.sequence(tbs.encoded, algorithm.encoded, der.bit_string(signature))


def _digest(signer: PrivateKey) -> signatures.Digest:
    return "sha384" if getattr(getattr(signer, "curve", None), "name", "") == "secp384r1" else "sha256"


def _issuer_key(tbs: der.Element) -> PrivateKey | None:
    """The key of the CA that the certificate names as its issuer."""
    members = [member for member in tbs.children() if member.tag == der.SEQUENCE]
    return _signers().get(members[1].encoded) if len(members) > 1 else None


@cache
def _signers() -> dict[bytes, PrivateKey]:
    credentials = [
        party[role]
        for kind in seeds.KINDS
        for party in (maker(kind), plant(kind))
        for role in ("root", "ca", "voucher_root")
        if role in party
    ]
    return {found.certificate.subject.public_bytes(): found.key for found in credentials}
