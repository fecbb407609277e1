"""EST on the wire: bodies in every dress they come in, names, and the key a server made."""

import base64
import textwrap
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_der_private_key
from hypothesis import given
from hypothesis import strategies as st

from brski_common import est, issuing
from brski_common.certificates import Credential
from brski_common.errors import BrskiError, Malformed, Misconfigured, PeerFailed
from brski_common.est import Operation, ServerKey, decode_body, encode_body
from tests.support.vectors import vector
from tests.support.world import NOW, key_for

DER = b"\x30\x82\x01\x00" + bytes(range(256))
TEXT = base64.b64encode(DER)
WRAPPED = "\r\n".join(textwrap.wrap(TEXT.decode(), 64)).encode()


# Bodies


@pytest.mark.req("E51-01", "EI-13")
def test_a_body_is_written_as_one_line_and_one_line_feed() -> None:
    assert encode_body(DER) == TEXT + b"\n"


@pytest.mark.req("E51-01", "E51-02", "EI-14")
@pytest.mark.parametrize(
    "body",
    [
        TEXT,
        TEXT + b"\n",
        TEXT + b"\r\n",
        WRAPPED,
        WRAPPED.replace(b"\r", b"") + b"\n\n",
        b" \t" + WRAPPED.replace(b"\r\n", b" \t "),
        b"-----BEGIN PKCS7-----\n" + WRAPPED + b"\n-----END PKCS7-----\n",
        b"\r\n-----BEGIN CERTIFICATE REQUEST-----" + TEXT + b"-----END CERTIFICATE REQUEST-----",
        DER,
    ],
    ids=["bare", "lf", "crlf", "wrapped", "wrapped-lf", "blanks", "pem", "pem-one-line", "der"],
)
def test_a_body_is_read_however_it_was_wrapped(body: bytes) -> None:
    assert decode_body(body) == DER


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "body-empty"),
        (b" \r\n", "body-empty"),
        (b"MIIB*", "body-not-base64"),
        (b"MII", "body-not-base64"),
        (b"MIIB=", "body-not-base64"),
        (b"MIIB====", "body-not-base64"),
        (b"====", "body-not-base64"),
        (b"MA==MA==", "body-not-base64"),
        (b"TUlJ_-==", "body-not-base64"),
        (b"-----BEGIN A-----\nMIIB\n-----END B-----", "body-not-base64"),
        (b"-----BEGIN A-----\n-----END A-----", "body-empty"),
        (b"-----BEGIN A-----\nMIIB\n-----END A-----\n" * 2, "body-not-base64"),
        (b"A" * (est.MAX_RESPONSE_BYTES + 1), "body-too-large"),
    ],
)
def test_what_is_no_body_is_refused(body: bytes, reason: str) -> None:
    with pytest.raises(Malformed) as caught:
        decode_body(body)

    assert caught.value.reason == reason


def test_the_limit_of_a_body_counts_what_is_read() -> None:
    assert decode_body(b"MIIB", limit=4) == b"\x30\x82\x01"
    with pytest.raises(Malformed, match="body-too-large"):
        decode_body(b"MIIB\n", limit=4)


@given(st.binary(max_size=200))
def test_a_body_comes_back_as_it_was(data: bytes) -> None:
    assert decode_body(encode_body(b"\x30" + data)) == b"\x30" + data


@given(st.binary(max_size=200))
def test_any_bytes_raise_only_our_error(data: bytes) -> None:
    try:
        found = decode_body(data)
    except BrskiError:
        return
    assert len(found) <= len(data)


# Names


@pytest.mark.req("E-01", "E-02")
def test_paths_are_the_well_known_ones_with_or_without_a_label() -> None:
    assert est.path(Operation.CACERTS) == "/.well-known/est/cacerts"
    assert est.path(Operation.SIMPLEREENROLL, "plant-2") == "/.well-known/est/plant-2/simplereenroll"


@pytest.mark.req("E-02")
@pytest.mark.parametrize(
    "label", [*Operation, "CACerts", "requestvoucher", "", ".", "..", ".x", "a/b", "a b", "ä", "x" * 65, "a%", "a\n"]
)
def test_a_label_is_never_the_name_of_an_operation_nor_a_path(label: str) -> None:
    with pytest.raises(Misconfigured, match="est-label-invalid"):
        est.path(Operation.CACERTS, label)


# Certificates


def _certificates() -> tuple[Credential, x509.Certificate, x509.Certificate]:
    ca = key_for("ca")
    root = issuing.root_ca(ca, issuing.name("Example CA"), now=NOW, lifetime=timedelta(days=90))
    credential = Credential(ca, (root,))
    old, new = (
        issuing.end_entity(
            credential,
            key_for("device").public_key(),
            issuing.name("Pump 7"),
            not_before=NOW + timedelta(days=days),
            not_after=NOW + timedelta(days=days + 1),
        )
        for days in (0, 1)
    )
    return credential, old, new


@pytest.mark.req("E-13")
def test_the_issued_certificate_is_found_by_its_key_whatever_comes_along() -> None:
    ca, old, new = _certificates()
    answer = est.parse_certs_only(est.certs_only([ca.certificate, new, old]))

    assert est.find_certificate(answer, key_for("device").public_key()) == new
    assert est.find_certificate([old], key_for("device").public_key()) == old
    with pytest.raises(PeerFailed, match="certificate-not-issued"):
        est.find_certificate(answer, key_for("other").public_key())
    with pytest.raises(PeerFailed, match="certificate-not-issued"):
        est.find_certificate([], key_for("device").public_key())


@pytest.mark.req("E-09", "E-13")
@pytest.mark.parametrize("name", ["cacerts.rsp", "enroll.rsp", "skg.rsp.cert"])
def test_the_published_answers_are_read(name: str) -> None:
    (certificate,) = est.parse_certs_only(vector(f"rfc9148/{name}.p7.der"))

    assert est.find_certificate([certificate], certificate.public_key()) == certificate


# Keys that a server made


def test_the_published_server_key_is_carried_in_a_multipart() -> None:
    key, certificates = vector("rfc9148/skg.rsp.key.pkcs8.der"), vector("rfc9148/skg.rsp.cert.p7.der")

    found = est.read_server_key(*est.write_server_key(ServerKey(key, certificates)))

    (certificate,) = est.parse_certs_only(found.certificates)
    assert load_der_private_key(found.key, None).public_key() == certificate.public_key()


@pytest.mark.req("E-18")
@pytest.mark.parametrize("is_encrypted", [False, True])
def test_a_server_key_comes_back_as_it_was(is_encrypted: bool) -> None:
    answer = ServerKey(b"\x30\x01key", b"\x30\x01certs", is_encrypted)

    content_type, body = est.write_server_key(answer)

    assert content_type.startswith("multipart/mixed; boundary=")
    assert est.read_server_key(content_type, body) == answer


def test_a_server_key_shows_no_key() -> None:
    assert "secret" not in repr(ServerKey(b"secret", b""))


# RFC 7030, A.4: a preamble, a quoted-printable free boundary, LF line ends, header fields in any case.
FOREIGN = b"""This is the preamble.  It is to be ignored.
--estServerExampleBoundary
Content-Type: application/pkcs8
Content-Transfer-Encoding: base64

MAFr
--estServerExampleBoundary
content-transfer-encoding:base64
content-type: application/pkcs7-mime; smime-type=certs-only

MAFj
MA==

--estServerExampleBoundary--
This is the epilogue.
"""
FOREIGN_TYPE = 'Multipart/Mixed ; Boundary="estServerExampleBoundary"'


@pytest.mark.req("E-18")
@pytest.mark.parametrize("line_end", [b"\n", b"\r\n"])
def test_a_server_key_of_another_hand_is_read(line_end: bytes) -> None:
    body = FOREIGN.replace(b"MAFj\nMA==", b"MAFjMA==").replace(b"\n", line_end)

    assert est.read_server_key(FOREIGN_TYPE, body) == ServerKey(b"0\x01k", b"0\x01c0")


def test_the_parts_may_come_in_either_order_and_certs_only_may_be_understood() -> None:
    key, certificates = FOREIGN.split(b"--estServerExampleBoundary\n")[1:]
    body = (
        (b"--b\n" + certificates.replace(b"MAFj\nMA==", b"MAFj").replace(b"; smime-type=certs-only", b"")).replace(
            b"--estServerExampleBoundary--\nThis is the epilogue.\n", b"--b\n"
        )
        + key
        + b"--b--"
    )

    assert est.read_server_key("multipart/mixed;boundary=b", body) == ServerKey(b"0\x01k", b"0\x01c")


GOOD = FOREIGN.replace(b"MAFj\nMA==", b"MAFj")
END = b"--estServerExampleBoundary--"


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("", GOOD),
        ("multipart/mixed", GOOD),
        ("multipart/mixed; boundary=", GOOD),
        ("multipart/mixed; boundary=other", GOOD),
        ("multipart/mixed; boundary=" + "x" * 71, GOOD),
        ("multipart/form-data; boundary=estServerExampleBoundary", GOOD),
        (FOREIGN_TYPE + "; é", GOOD),
        (FOREIGN_TYPE, b""),
        (FOREIGN_TYPE, GOOD.replace(b"Boundary--", b"Boundary")),
        (FOREIGN_TYPE, GOOD.replace(b"pkcs7-mime; smime-type=certs-only", b"pkcs8")),
        (FOREIGN_TYPE, GOOD.replace(b"application/pkcs8", b"text/plain")),
        (FOREIGN_TYPE, GOOD.replace(b"application/pkcs8", b"application/pkcs7-mime; smime-type=certs-only")),
        (FOREIGN_TYPE, GOOD.replace(b"certs-only", b"CMC-response")),
        (FOREIGN_TYPE, GOOD.replace(b"Content-Type", b"X-Type")),
        (FOREIGN_TYPE, GOOD.replace(b"Content-Type", b"Content-Type: a/b\nContent-Type")),
        (FOREIGN_TYPE, GOOD.replace(b"Content-Type", b"X-Y: z\n" * 20 + b"Content-Type")),
        (FOREIGN_TYPE, GOOD.replace(b"base64\n\nMAFr", b"base64\nMAFr")),
        (FOREIGN_TYPE, GOOD.replace(b"MAFr", b"*")),
        (FOREIGN_TYPE, GOOD.replace(END, b"--estServerExampleBoundary\nContent-Type: a/b\n\nMA==\n" + END)),
        (FOREIGN_TYPE, bytes(est.MAX_RESPONSE_BYTES + 1)),
    ],
)
def test_what_is_no_server_key_is_refused(content_type: str, body: bytes) -> None:
    assert est.read_server_key(FOREIGN_TYPE, GOOD) == ServerKey(b"0\x01k", b"0\x01c")
    with pytest.raises(Malformed):
        est.read_server_key(content_type, body)


@given(st.text(max_size=60) | st.just(FOREIGN_TYPE), st.binary(max_size=200))
def test_any_multipart_raises_only_our_error(content_type: str, body: bytes) -> None:
    with pytest.raises(BrskiError):
        est.read_server_key(content_type, body)


@given(st.integers(0, len(GOOD) - 1), st.integers(0, 255))
def test_a_damaged_multipart_raises_only_our_error(at: int, value: int) -> None:
    try:
        found = est.read_server_key(FOREIGN_TYPE, GOOD[:at] + bytes([value]) + GOOD[at + 1 :])
    except BrskiError:
        return
    assert isinstance(found, ServerKey)
