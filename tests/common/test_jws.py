"""JWS in JSON: what signs a voucher of the JWS and PRM drafts, and what does not (RFC 7515)."""

import base64
import json
from contextlib import suppress
from functools import cache
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519
from hypothesis import given
from hypothesis import strategies as st

from brski_common import jws, strictjson
from brski_common.certificates import Credential, load_pem, subject_key_id, to_der
from brski_common.errors import BrskiError, Malformed, UnsupportedFormat, Untrusted
from tests.support.tokens import in_token
from tests.support.vectors import vector
from tests.support.world import Domain, Manufacturer

CONTENT = b'{"ietf-voucher:voucher":{"serial-number":"SN-0815"}}'
KINDS = ["P-256", "P-384", "P-521", "RSA-2048", "Ed25519"]


@cache
def signer(kind: str = "P-256") -> Credential:
    return Domain(name=f"Plant {kind}", kind=kind).registrar


def encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def x5c(credential: Credential) -> list[str]:
    return [base64.b64encode(to_der(certificate)).decode() for certificate in credential.chain]


def signed_with(headers: object, unprotected: object = None) -> bytes:
    """A document with any headers, well signed."""
    key = signer("Ed25519").key
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    payload, protected = encode(CONTENT), encode(json.dumps(headers).encode())
    entry = {"protected": protected, "signature": encode(key.sign(f"{protected}.{payload}".encode()))}
    if unprotected is not None:
        entry["header"] = unprotected  # type: ignore[assignment]  # of any type, to be refused
    return json.dumps({"payload": payload, "signatures": [entry]}).encode()


# What is signed here verifies here


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_signed_verifies(kind: str) -> None:
    credential = signer(kind)
    signed = jws.parse(jws.sign(CONTENT, credential))
    assert signed.content == CONTENT
    assert signed.certificates == credential.chain
    assert jws.verify(signed) == credential.certificate
    assert jws.verify(signed, credential.certificate) == credential.certificate
    assert jws.verify_each(signed) == (credential.certificate,)


@pytest.mark.parametrize(
    ("kind", "algorithm", "size"),
    [("P-256", "ES256", 64), ("P-384", "ES384", 96), ("P-521", "ES512", 132), ("Ed25519", "EdDSA", 64)],
)
def test_the_document_is_as_the_drafts_print_it(kind: str, algorithm: str, size: int) -> None:
    document = json.loads(jws.sign(CONTENT, signer(kind)))
    assert document.keys() == {"payload", "signatures"}
    (entry,) = document["signatures"]
    assert entry.keys() == {"protected", "signature"}
    headers = json.loads(base64.urlsafe_b64decode(entry["protected"] + "=="))
    assert headers == {"alg": algorithm, "typ": "voucher-jws+json", "x5c": x5c(signer(kind))}
    assert len(base64.urlsafe_b64decode(entry["signature"] + "==")) == size


@pytest.mark.parametrize("kind", ["P-256", "P-384", "RSA-2048"])
def test_a_key_in_a_token_signs_like_any_other(kind: str) -> None:
    credential = in_token(signer(kind))
    assert jws.verify(jws.parse(jws.sign(CONTENT, credential))) == credential.certificate


def test_a_document_without_x5c_verifies_only_with_a_known_signer() -> None:
    signed = jws.parse(jws.sign(CONTENT, signer(), certificates=()))
    jws.verify(signed, signer().certificate)
    with pytest.raises(Untrusted, match="jws-signer-missing"):
        jws.verify(signed)


# Countersignatures


def test_a_countersigned_voucher_bears_two_good_signatures() -> None:
    masa, registrar = Manufacturer().voucher_signer, signer()
    signed = jws.parse(jws.countersign(jws.sign(CONTENT, masa), registrar))
    assert signed.content == CONTENT
    assert jws.verify_each(signed) == (masa.certificate, registrar.certificate)
    assert jws.verify(signed, registrar.certificate) == registrar.certificate
    assert jws.verify(signed, masa.certificate) == masa.certificate
    assert jws.verify_signature(signed, signed.signatures[0], masa.certificate) == masa.certificate
    with pytest.raises(Untrusted, match="signature-invalid"):
        jws.verify_signature(signed, signed.signatures[0], registrar.certificate)


def test_of_several_signers_none_is_chosen() -> None:
    signed = jws.parse(jws.countersign(jws.sign(CONTENT, signer()), signer("P-384")))
    with pytest.raises(Untrusted, match="jws-signer-ambiguous"):
        jws.verify(signed)
    with pytest.raises(Untrusted):
        jws.verify(signed, Manufacturer().voucher_signer.certificate)


def test_one_bad_signature_spoils_the_verification_of_each() -> None:
    good = json.loads(jws.countersign(jws.sign(CONTENT, signer()), signer("P-384")))
    other = json.loads(jws.sign(b"{}", signer("Ed25519")))
    good["signatures"][1] = other["signatures"][0]
    with pytest.raises(Untrusted, match="signature-invalid"):
        jws.verify_each(jws.parse(json.dumps(good).encode()))


def test_the_number_of_signatures_is_bounded() -> None:
    data = jws.sign(CONTENT, signer(), certificates=())
    for _ in range(jws.MAX_SIGNATURES - 1):
        data = jws.countersign(data, signer(), certificates=())
    with pytest.raises(Malformed, match="jws-signature-count"):
        jws.countersign(data, signer(), certificates=())
    document = json.loads(data)
    document["signatures"] *= 2
    with pytest.raises(Malformed, match="jws-signature-count"):
        jws.parse(json.dumps(document).encode())


# What is not a good signature is refused


def test_the_key_of_somebody_else_does_not_verify() -> None:
    signed = jws.parse(jws.sign(CONTENT, signer()))
    with pytest.raises(Untrusted, match="signature-invalid"):
        jws.verify(signed, Manufacturer().voucher_signer.certificate)
    for kind in ("P-384", "Ed25519", "RSA-2048"):
        with pytest.raises(Untrusted, match="signature-algorithm-mismatch"):
            jws.verify(signed, signer(kind).certificate)


@pytest.mark.parametrize("algorithm", ["none", "None", "HS256", "RS1", "ES256K", "", None, 5, ["EdDSA"], {}])
def test_an_algorithm_outside_the_table_is_refused(algorithm: object) -> None:
    signed = jws.parse(signed_with({"alg": algorithm}))
    with pytest.raises(Untrusted, match="jws-algorithm-unsupported"):
        jws.verify(signed, signer("Ed25519").certificate)


def test_the_algorithm_must_be_protected() -> None:
    signed = jws.parse(signed_with({"x5c": x5c(signer("Ed25519"))}, {"alg": "EdDSA"}))
    with pytest.raises(Untrusted, match="jws-algorithm-unsupported"):
        jws.verify(signed)


def test_certificates_outside_the_signature_are_not_looked_at() -> None:
    signed = jws.parse(signed_with({"alg": "EdDSA"}, {"x5c": x5c(signer("Ed25519"))}))
    assert signed.certificates == ()


@pytest.mark.parametrize("algorithm", ["EdDSA", "Ed25519"])
def test_ed25519_goes_by_its_old_and_its_full_name(algorithm: str) -> None:
    jws.verify(jws.parse(signed_with({"alg": algorithm})), signer("Ed25519").certificate)


def test_critical_headers_must_be_known() -> None:
    certificate = signer("Ed25519").certificate
    headers = {"alg": "EdDSA", "crit": ["created-on"], "created-on": "2026-11-21T12:00:00Z"}
    with pytest.raises(UnsupportedFormat, match="jws-critical-header"):
        jws.parse(signed_with(headers))
    jws.verify(jws.parse(signed_with(headers), understood=frozenset({"created-on"})), certificate)
    with pytest.raises(UnsupportedFormat, match="jws-critical-header"):
        jws.parse(signed_with({"alg": "EdDSA", "crit": ["created-on"]}), understood=frozenset({"created-on"}))
    jws.verify(jws.parse(signed_with({"alg": "EdDSA", "created-on": "…"})), certificate)
    wrong: list[object] = [[], "x", ["x", "x"], ["alg"], [1], ["x", []], None, {}]
    for malformed in wrong:
        with pytest.raises(Malformed, match="jws-critical-header"):
            jws.parse(signed_with({"alg": "EdDSA", "crit": malformed, "x": 1}), understood=frozenset({"x"}))
    with pytest.raises(Malformed, match="jws-critical-header"):
        jws.parse(signed_with({"alg": "EdDSA"}, {"crit": ["x"], "x": 1}))


def test_a_header_in_both_places_is_malformed() -> None:
    with pytest.raises(Malformed, match="jws-duplicate-header"):
        jws.parse(signed_with({"alg": "EdDSA"}, {"alg": "none"}))
    with pytest.raises(Malformed, match="jws-duplicate-header"):
        jws.parse(signed_with({"alg": "EdDSA"}, []))


def test_the_type_must_be_a_vouchers_where_it_is_there() -> None:
    for typ in ("voucher-jws+json", "application/voucher-jws+json", "Voucher-JWS+JSON"):
        jws.parse(signed_with({"alg": "EdDSA", "typ": typ}))
    jws.parse(signed_with({"alg": "EdDSA"}))
    jws.parse(signed_with({"alg": "EdDSA", "typ": "JWT"}), typ=None)
    for other in ("JWT", 5, None):
        with pytest.raises(UnsupportedFormat, match="jws-type"):
            jws.parse(signed_with({"alg": "EdDSA", "typ": other}))


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "jws-x5c"),
        ("x", "jws-x5c"),
        (None, "jws-x5c"),
        ([5], "jws-x5c"),
        (["ä"], "jws-x5c"),
        (["-_-_"], "jws-x5c"),
        (["MAA="], "certificate-malformed"),
        (["MAA="] * 33, "jws-x5c"),
    ],
)
def test_a_malformed_x5c_is_refused(value: object, reason: str) -> None:
    with pytest.raises(Malformed, match=reason):
        jws.parse(signed_with({"alg": "EdDSA", "x5c": value}))


def test_the_compact_and_the_flattened_form_are_refused() -> None:
    document = json.loads(jws.sign(CONTENT, signer()))
    (entry,) = document["signatures"]
    flattened = {"payload": document["payload"], **entry}
    for other in (flattened, {**flattened, "signatures": [entry]}, {"payload": document["payload"]}):
        with pytest.raises(UnsupportedFormat, match="jws-not-general"):
            jws.parse(json.dumps(other).encode())
    with pytest.raises(Malformed, match="json-malformed"):
        jws.parse(f"{entry['protected']}.{document['payload']}.{entry['signature']}".encode())


@pytest.mark.parametrize(
    ("member", "value", "reason"),
    [
        ("payload", None, "jws-malformed"),
        ("payload", "e30=", "jws-base64url"),  # padded
        ("payload", "e3+/", "jws-base64url"),  # the other alphabet
        ("payload", "e31", "jws-base64url"),  # bits left over
        ("payload", "e 30", "jws-base64url"),
        ("payload", "e", "jws-base64url"),
        ("payload", "ü", "jws-base64url"),
        ("signatures", [], "jws-signature-count"),
        ("signatures", [5], "jws-malformed"),
        ("signatures", [{}], "jws-malformed"),
        ("signatures", [{"protected": "", "signature": ""}], "json-malformed"),
        ("signatures", [{"protected": "W10", "signature": ""}], "json-not-an-object"),
        ("signatures", [{"protected": encode(b'{"alg":1,"alg":2}'), "signature": ""}], "json-duplicate-member"),
        ("signatures", [{"protected": "e30"}], "jws-malformed"),
        ("signatures", [{"protected": "e30", "signature": "=", "header": {}}], "jws-base64url"),
    ],
)
def test_another_shape_is_refused(member: str, value: object, reason: str) -> None:
    document: dict[str, Any] = json.loads(jws.sign(CONTENT, signer()))
    with pytest.raises(Malformed, match=reason):
        jws.parse(json.dumps({**document, member: value}).encode())


def test_slashes_may_be_escaped_and_unknown_members_are_passed_over() -> None:
    """Some JSON writers escape every slash, and x5c is full of them."""
    key = signer("Ed25519").key
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    headers = json.dumps({"alg": "EdDSA", "x5c": x5c(signer("Ed25519"))}).replace("/", "\\/")
    assert "\\/" in headers
    payload, protected = encode(CONTENT), encode(headers.encode())
    signature = encode(key.sign(f"{protected}.{payload}".encode()))
    entry = {"protected": protected, "signature": signature, "extra": 1}
    document = json.dumps({"payload": payload, "signatures": [entry], "more": []})
    assert jws.verify(jws.parse(document.encode())) == signer("Ed25519").certificate


# What the signature does and does not cover


# pyca warns of certificates it finds odd, and a flipped bit makes such: a warning is no error here.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("kind", ["P-256", "Ed25519"])
def test_whatever_bit_is_flipped_only_the_signed_content_verifies(kind: str) -> None:
    credential = signer(kind)
    data = bytearray(jws.sign(CONTENT, credential, certificates=[credential.certificate]))
    original = jws.parse(bytes(data))
    for place in range(8 * len(data)):
        data[place // 8] ^= 1 << place % 8
        with suppress(BrskiError):
            signed = jws.parse(bytes(data))
            jws.verify(signed, credential.certificate)
            assert (signed.content, signed.certificates) == (original.content, original.certificates)
        data[place // 8] ^= 1 << place % 8


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-9, 9)
    | st.text(max_size=8)
    | st.sampled_from(["e30", "", "eyJhbGciOiJub25lIn0"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["payload", "signatures", "protected", "signature", "header"]), inner, max_size=5
        )
    ),
    max_leaves=20,
)


@given(st.binary(max_size=200) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_raise_only_the_suites_errors(data: bytes) -> None:
    with suppress(BrskiError):
        jws.verify(jws.parse(data), signer().certificate)


@given(json_values)
def test_any_protected_header_raises_only_the_suites_errors(headers: strictjson.JsonValue) -> None:
    for name in ("alg", "x5c", "crit", "typ"):
        with suppress(BrskiError):
            jws.verify(jws.parse(signed_with({name: headers})), signer().certificate)


# The examples of the drafts


@pytest.mark.parametrize("name", ["pvr", "rvr", "voucher"])
def test_the_examples_of_the_jws_draft_verify(name: str) -> None:
    signed = jws.parse(vector(f"jws-voucher/{name}.json"))
    by = {"pvr": "pledge_idevid", "rvr": "registrar_rvr_signer", "voucher": "masa"}[name]
    (expected,) = load_pem(vector(f"jws-voucher/{by}.crt.pem"))
    assert json.loads(signed.content) == json.loads(vector(f"jws-voucher/{name}.payload.json"))
    assert jws.verify(signed) == expected
    with pytest.raises(Untrusted):
        jws.verify(signed, load_pem(vector("jws-voucher/domain_ca.crt.pem"))[0])


@pytest.mark.parametrize("name", ["pvr", "rvr", "voucher"])
def test_the_examples_of_the_prm_draft_verify(name: str) -> None:
    signed = jws.parse(vector(f"prm/{name}.json"))
    assert jws.verify(signed) == load_pem(vector(f"prm/{name}.sig0.x5c0.pem"))[0]


def test_the_countersigned_voucher_of_the_prm_draft_verifies_twice() -> None:
    signed = jws.parse(vector("prm/voucher-countersigned.json"))
    expected = tuple(load_pem(vector(f"prm/voucher-countersigned.sig{place}.x5c0.pem"))[0] for place in (0, 1))
    assert jws.verify_each(signed) == expected
    with pytest.raises(Untrusted, match="jws-signer-ambiguous"):
        jws.verify(signed)


def test_the_agent_signed_data_of_the_prm_draft_verifies_by_the_key_it_names() -> None:
    signed = jws.parse(vector("prm/pvr.agent-signed-data.json"))
    (agent,) = load_pem(vector("prm/agent-sign-cert.pem"))
    key_id = subject_key_id(agent)
    assert key_id is not None
    assert signed.signatures[0].headers["kid"] == base64.b64encode(key_id).decode()
    assert jws.verify(signed, agent) == agent
    with pytest.raises(Untrusted, match="jws-signer-missing"):
        jws.verify(signed)
