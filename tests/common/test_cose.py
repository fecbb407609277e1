"""COSE_Sign1: what signs a constrained voucher, and what does not (RFC 9052; draft-ietf-anima-constrained-voucher)."""

from contextlib import suppress
from functools import cache
from typing import Any

import cbor2
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from brski_common import cose
from brski_common.certificates import Credential, load_certificate, to_der
from brski_common.errors import BrskiError, Malformed, UnsupportedFormat, Untrusted
from tests.support.tokens import in_token
from tests.support.vectors import vector
from tests.support.world import Domain

CONTENT = cbor2.dumps({2501: {1: 2, 13: "JADA123456789"}})
KINDS = ["P-256", "P-384", "P-521", "Ed25519"]


@cache
def signer(kind: str = "P-256") -> Credential:
    return Domain(name=f"Plant {kind}", kind=kind).registrar


def stranger() -> Credential:
    return Domain(name="Another Plant").registrar


def members(data: bytes) -> list[Any]:
    """Protected header, unprotected header, content, signature."""
    return list(cbor2.loads(data).value)


def rebuild(changed: object, tag: int = 18) -> bytes:
    return cbor2.dumps(cbor2.CBORTag(tag, changed))


def signed_with(
    headers: object, unprotected: dict[object, object] | None = None, credential: Credential | None = None
) -> bytes:
    """A message with any headers, well signed."""
    credential = credential or signer("Ed25519")
    assert isinstance(credential.key, ed25519.Ed25519PrivateKey)
    protected = headers if isinstance(headers, bytes) else cbor2.dumps(headers)
    signature = credential.key.sign(cbor2.dumps(["Signature1", protected, b"", CONTENT]))
    return rebuild([protected, unprotected or {}, CONTENT, signature])


# What is signed here verifies here


@pytest.mark.req("CB-01")
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_signed_verifies(kind: str) -> None:
    credential = signer(kind)
    signed = cose.parse(cose.sign(CONTENT, credential))
    assert signed.content == CONTENT
    assert signed.certificates == credential.chain
    assert cose.verify(signed) == credential.certificate
    assert cose.verify(signed, credential.certificate) == credential.certificate


@pytest.mark.req("CB-01")
def test_a_pledge_sends_tag_18_and_an_empty_unprotected_header() -> None:
    data = cose.sign(CONTENT, signer(), certificates=())
    assert data.startswith(bytes.fromhex("d284 43a10126 a0"))
    cose.verify(cose.parse(data), signer().certificate)
    with pytest.raises(Untrusted, match="cose-signer-missing"):
        cose.verify(cose.parse(data))


def test_one_certificate_stands_bare_and_several_in_an_array() -> None:
    """RFC 9360, 2."""
    chain = signer().chain
    one, two = (cose.parse(cose.sign(CONTENT, signer(), certificates=chain[:count])) for count in (1, 2))
    assert one.unprotected == {32: to_der(chain[0])}
    assert two.unprotected == {32: [to_der(certificate) for certificate in chain[:2]]}


@pytest.mark.parametrize("kind", ["P-256", "P-384"])
def test_a_key_in_a_token_signs_like_any_other(kind: str) -> None:
    credential = in_token(signer(kind))
    assert cose.verify(cose.parse(cose.sign(CONTENT, credential))) == credential.certificate


def test_rsa_has_no_algorithm_here() -> None:
    with pytest.raises(Untrusted, match="key-unsupported"):
        cose.sign(CONTENT, signer("RSA-2048"))


# pycose as an independent oracle


@pytest.mark.req("CB-01")
@pytest.mark.parametrize("kind", KINDS)
def test_pycose_verifies_what_is_signed_here(kind: str) -> None:
    messages = pytest.importorskip("pycose.messages", reason="pycose is not installed")
    message = messages.Sign1Message.decode(cose.sign(CONTENT, signer(kind)))
    message.key = pycose_key(signer(kind))
    assert message.payload == CONTENT
    assert message.verify_signature()


@pytest.mark.req("CB-01")
@pytest.mark.parametrize("kind", KINDS)
def test_what_pycose_signs_verifies_here(kind: str) -> None:
    messages = pytest.importorskip("pycose.messages", reason="pycose is not installed")
    from pycose import algorithms, headers

    named = {"P-256": "Es256", "P-384": "Es384", "P-521": "Es512", "Ed25519": "EdDSA"}[kind]
    message = messages.Sign1Message({headers.Algorithm: getattr(algorithms, named)}, {headers.KID: b"1"}, CONTENT)
    message.key = pycose_key(signer(kind))
    signed = cose.parse(message.encode())
    assert cose.verify(signed, signer(kind).certificate) == signer(kind).certificate
    with pytest.raises(Untrusted):
        cose.verify(signed, stranger().certificate)


def pycose_key(credential: Credential) -> object:
    from pycose.keys.ec2 import EC2Key
    from pycose.keys.okp import OKPKey

    if isinstance(credential.key, ec.EllipticCurvePrivateKey):
        numbers = credential.key.private_numbers()
        size = (credential.key.key_size + 7) // 8
        x, y, d = (
            number.to_bytes(size)
            for number in (numbers.public_numbers.x, numbers.public_numbers.y, numbers.private_value)
        )
        return EC2Key(crv=f"P_{credential.key.key_size}", x=x, y=y, d=d)
    assert isinstance(credential.key, ed25519.Ed25519PrivateKey)
    secret = credential.key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    public = credential.key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return OKPKey(crv="ED25519", x=public, d=secret)


# What is not a good signature is refused


def test_the_key_of_somebody_else_does_not_verify() -> None:
    signed = cose.parse(cose.sign(CONTENT, signer()))
    with pytest.raises(Untrusted, match="signature-invalid"):
        cose.verify(signed, stranger().certificate)
    for kind in ("P-384", "Ed25519", "RSA-2048"):
        with pytest.raises(Untrusted, match="signature-algorithm-mismatch"):
            cose.verify(signed, signer(kind).certificate)


@pytest.mark.req("CB-25")
def test_the_algorithm_must_be_in_the_protected_header() -> None:
    for headers in ({}, b"", {4: b"1"}):
        with pytest.raises(Untrusted, match="cose-algorithm-missing"):
            cose.verify(cose.parse(signed_with(headers, {1: -8})), signer("Ed25519").certificate)


@pytest.mark.req("CB-25")
@pytest.mark.parametrize("algorithm", [-7.0, "EdDSA", 0, -65535, [], None, True, -47, 5])
def test_an_algorithm_outside_the_table_is_refused(algorithm: object) -> None:
    with pytest.raises(Untrusted, match="cose-algorithm-unsupported"):
        cose.verify(cose.parse(signed_with({1: algorithm})), signer("Ed25519").certificate)


@pytest.mark.parametrize("algorithm", [-8, -19])
def test_ed25519_goes_by_its_old_and_its_full_name(algorithm: int) -> None:
    cose.verify(cose.parse(signed_with({1: algorithm})), signer("Ed25519").certificate)


def test_a_header_in_both_places_is_malformed() -> None:
    with pytest.raises(Malformed, match="cose-duplicate-header"):
        cose.parse(signed_with({1: -8}, {1: -8}))


def test_critical_headers_must_be_known() -> None:
    certificate = signer("Ed25519").certificate
    cose.verify(cose.parse(signed_with({1: -8, 15: {6: 0}})), certificate)  # CWT claims, not critical: passed over
    cose.verify(cose.parse(signed_with({1: -8, 2: [1]})), certificate)
    for critical in ([15], [1, "x"], [33]):
        with pytest.raises(UnsupportedFormat, match="cose-critical-header"):
            cose.parse(signed_with({1: -8, 2: critical, 15: {}}))
    wrong: list[object] = [[], 1, [[]], [True], [b"x"]]
    for malformed in wrong:
        with pytest.raises(Malformed, match="cose-critical-header"):
            cose.parse(signed_with({1: -8, 2: malformed}))
    with pytest.raises(Malformed, match="cose-critical-header"):
        cose.parse(signed_with({1: -8}, {2: [15]}))


def test_the_first_of_x5chain_is_the_signer_and_any_of_x5bag_may_be() -> None:
    chain = [to_der(certificate) for certificate in signer("Ed25519").chain]
    assert cose.verify(cose.parse(signed_with({1: -8}, {33: chain}))) == signer("Ed25519").certificate
    assert cose.verify(cose.parse(signed_with({1: -8, 33: chain}))) == signer("Ed25519").certificate
    assert cose.verify(cose.parse(signed_with({1: -8}, {32: chain[::-1]}))) == signer("Ed25519").certificate
    with pytest.raises(Untrusted):
        cose.verify(cose.parse(signed_with({1: -8}, {33: chain[::-1]})))


@pytest.mark.parametrize(
    ("changed", "error", "reason"),
    [
        (b"x", Malformed, "cose-malformed"),
        ([b"", {}, b""], Malformed, "cose-malformed"),
        ([b"", {}, b"", b"", b""], Malformed, "cose-malformed"),
        (["", {}, b"", b""], Malformed, "cose-malformed"),
        ([b"", [], b"", b""], Malformed, "cose-malformed"),
        ([b"", {}, "", b""], Malformed, "cose-malformed"),
        ([b"", {}, b"", None], Malformed, "cose-malformed"),
        ([b"\x80", {}, b"", b""], Malformed, "cose-malformed"),
        ([b"\xa1\x01", {}, b"", b""], Malformed, "cbor-truncated"),
        ([b"\xa2\x01\x26\x01\x27", {}, b"", b""], Malformed, "cbor-duplicate-key"),
        ([b"", {}, None, b""], UnsupportedFormat, "cose-detached"),
        ([b"", {32: "x"}, b"", b""], Malformed, "cose-certificate-kind"),
        ([b"", {32: [b"x", 1]}, b"", b""], Malformed, "cose-certificate-kind"),
        ([b"", {33: b"x"}, b"", b""], Malformed, "certificate-malformed"),
        ([b"", {32: [b"x"] * 33}, b"", b""], Malformed, "cose-too-many-certificates"),
    ],
)
def test_another_shape_is_refused(changed: object, error: type[BrskiError], reason: str) -> None:
    with pytest.raises(error, match=reason):
        cose.parse(rebuild(changed))


@pytest.mark.req("CB-01")
def test_without_tag_18_it_is_no_voucher() -> None:
    data = cose.sign(CONTENT, signer())
    for other in (data[1:], rebuild(members(data), tag=98), rebuild(cbor2.CBORTag(18, members(data)), tag=61)):
        with pytest.raises(UnsupportedFormat, match="cose-not-sign1"):
            cose.parse(other)


@pytest.mark.parametrize("cut", [b"", b"x" * 63, b"x" * 65])
def test_a_signature_of_another_length_is_malformed(cut: bytes) -> None:
    changed = [*members(cose.sign(CONTENT, signer()))[:3], cut]
    with pytest.raises(Malformed, match="signature-length"):
        cose.verify(cose.parse(rebuild(changed)))
    with pytest.raises(Untrusted, match="signature-invalid"):
        cose.verify(cose.parse(rebuild([*changed[:3], bytes(64)])))


# What the signature does and does not cover


@pytest.mark.parametrize("kind", ["P-256", "Ed25519"])
def test_whatever_bit_is_flipped_only_the_signed_content_verifies(kind: str) -> None:
    """Only the unprotected header is not signed; here it is a `kid` that means nothing to us."""
    credential = signer(kind)
    changed = members(cose.sign(CONTENT, credential, certificates=()))
    data = bytearray(rebuild([changed[0], {4: b"kid"}, *changed[2:]]))
    original = cose.parse(bytes(data))
    for place in range(8 * len(data)):
        data[place // 8] ^= 1 << place % 8
        with suppress(BrskiError):
            signed = cose.parse(bytes(data))
            cose.verify(signed, credential.certificate)
            assert (signed.content, signed.protected) == (original.content, original.protected)
            assert signed.unprotected != original.unprotected
        data[place // 8] ^= 1 << place % 8


@given(st.binary(max_size=200))
def test_any_bytes_raise_only_the_suites_errors(data: bytes) -> None:
    for attempt in (data, b"\xd2\x84" + data, b"\xd2\x84\x43\xa1\x01\x26\xa0" + data):
        with suppress(BrskiError):
            cose.verify(cose.parse(attempt), signer().certificate)
        with suppress(BrskiError):
            cose.strip_unprotected_certificates(attempt)


# Handing a voucher on


@pytest.mark.req("CB-07", "HT-07")
def test_stripping_takes_the_certificates_and_leaves_the_signature_good() -> None:
    chain = [to_der(certificate) for certificate in signer("Ed25519").chain]
    data = signed_with({1: -8}, {4: b"kid", 32: chain[:2], 33: chain})
    stripped = cose.strip_unprotected_certificates(data)
    before, after = cose.parse(data), cose.parse(stripped)
    assert (after.certificates, after.unprotected) == ((), {4: b"kid"})
    assert (after.protected, after.content, after.signature) == (before.protected, before.content, before.signature)
    cose.verify(after, signer("Ed25519").certificate)


@pytest.mark.req("CB-07", "HT-07")
def test_stripping_leaves_protected_certificates_and_messages_without_any() -> None:
    protected = signed_with({1: -8, 33: to_der(signer("Ed25519").certificate)})
    assert cose.strip_unprotected_certificates(protected) == protected
    foreign = bytes.fromhex("d2 9f") + protected[2:] + b"\xff"  # an array of indefinite length stays one
    assert cose.strip_unprotected_certificates(foreign) == foreign
    with pytest.raises(UnsupportedFormat):
        cose.strip_unprotected_certificates(b"\x00")


# The examples of the draft


@pytest.mark.req("CB-01")
@pytest.mark.parametrize(("name", "by"), [("pvr", "pledge"), ("rvr", "registrar"), ("voucher", "masa_ca")])
def test_the_examples_of_the_draft_verify(name: str, by: str) -> None:
    certificate = load_certificate(vector(f"cbrski/{by}.der"))
    signed = cose.parse(vector(f"cbrski/{name}.cbor"))
    assert cose.verify(signed, certificate) == certificate
    assert signed.content == bytes.fromhex(vector(f"cbrski/{name}-nonsigned.hex").decode())
    with pytest.raises(Untrusted):
        cose.verify(signed, load_certificate(vector("cbrski/masa.der")))


def test_the_request_of_the_draft_holds_older_certificates_of_the_same_keys() -> None:
    signed = cose.parse(vector("cbrski/rvr.cbor"))
    assert signed.certificates == tuple(load_certificate(vector(f"cbrski/rvr.x5bag{place}.der")) for place in (0, 1))
    assert cose.verify(signed) == signed.certificates[0]
    stripped = cose.parse(cose.strip_unprotected_certificates(vector("cbrski/rvr.cbor")))
    assert stripped.certificates == ()
    cose.verify(stripped, load_certificate(vector("cbrski/registrar.der")))
