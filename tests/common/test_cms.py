"""CMS SignedData: what signs a voucher, and what does not (RFC 8366, 5.4; RFC 5652)."""

import subprocess
from contextlib import suppress
from datetime import timedelta
from functools import cache
from pathlib import Path

import pytest
from asn1crypto import cms as oracle
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from brski_common import cms, der, issuing
from brski_common.certificates import Credential, load_certificate, load_pem, spki, to_der, to_pem
from brski_common.errors import BrskiError, Malformed, UnsupportedFormat, Untrusted
from tests.support.tokens import in_token
from tests.support.vectors import vector
from tests.support.world import NOW, YEARS, Domain, make_key

CONTENT = b'{"ietf-voucher:voucher":{"serial-number":"SN-0815"}}'
KINDS = ["P-256", "P-384", "P-521", "RSA-2048", "Ed25519"]
OPENSSL_KINDS = [kind for kind in KINDS if kind != "Ed25519"]  # in CMS only from OpenSSL 3.2; BouncyCastle has it


@cache
def signer(kind: str = "P-256") -> Credential:
    return Domain(name=f"Plant {kind}", kind=kind).registrar


def stranger() -> Credential:
    return Domain(name="Another Plant").registrar


def signed_data(data: bytes) -> list[bytes]:
    """The members of the SignedData."""
    return [member.encoded for member in der.parse(data).children()[1].children()[0].children()]


def rebuild(members: list[bytes]) -> bytes:
    return der.sequence(der.oid(cms.ID_SIGNED_DATA), der.explicit(0, der.sequence(*members)))


def signer_info(data: bytes) -> list[bytes]:
    """The members of the only SignerInfo."""
    (info,) = der.parse(signed_data(data)[-1]).children()
    return [member.encoded for member in info.children()]


def with_signer_info(data: bytes, info: list[bytes]) -> bytes:
    return rebuild([*signed_data(data)[:-1], der.set_of(der.sequence(*info))])


def attributes(data: bytes) -> list[bytes]:
    return [member.encoded for member in der.parse(signer_info(data)[3]).children()]


def with_attributes(data: bytes, credential: Credential, signed: list[bytes]) -> bytes:
    """The same message with other signed attributes, and a good signature over them."""
    info = signer_info(data)
    info[3] = der.tlv(0xA0, *signed)
    key = credential.key
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    info[5] = der.octet_string(key.sign(der.set_of(*signed)))
    return with_signer_info(data, info)


# What is signed here verifies here


@pytest.mark.req("VA-05", "V-CMS-04")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("content_type", [cms.ID_CT_ANIMA_JSON_VOUCHER, cms.ID_DATA])
def test_what_is_signed_verifies(kind: str, content_type: str) -> None:
    credential = signer(kind)
    signed = cms.parse(cms.sign(CONTENT, credential, content_type=content_type), strict=True)
    assert cms.verify(signed) == credential.certificate
    assert cms.verify(signed, credential.certificate) == credential.certificate
    assert (signed.content, signed.content_type, signed.is_der) == (CONTENT, content_type, True)
    assert signed.signers[0].signing_time is None


@pytest.mark.req("V-CMS-02", "BIS-10")
def test_the_content_type_is_the_anima_voucher_unless_told() -> None:
    signed = cms.parse(cms.sign(CONTENT, signer()))
    assert (signed.content_type, signed.version) == ("1.2.840.113549.1.9.16.1.40", 3)
    signed = cms.parse(cms.sign(CONTENT, signer(), content_type=cms.ID_DATA))
    assert (signed.content_type, signed.version) == ("1.2.840.113549.1.7.1", 1)


@pytest.mark.req("V-CMS-01")
def test_the_whole_chain_goes_along_unless_told() -> None:
    credential = signer()
    assert set(cms.parse(cms.sign(CONTENT, credential)).certificates) == set(credential.chain)
    assert len(credential.chain) == 3
    only = cms.parse(cms.sign(CONTENT, credential, certificates=[credential.certificate]))
    assert only.certificates == (credential.certificate,)


def test_a_message_without_certificates_verifies_only_with_a_known_signer() -> None:
    signed = cms.parse(cms.sign(CONTENT, signer(), certificates=()))
    assert signed.certificates == ()
    cms.verify(signed, signer().certificate)
    with pytest.raises(Untrusted, match="cms-signer-certificate-missing"):
        cms.verify(signed)


def test_the_signing_time_is_carried_when_asked_for() -> None:
    signed = cms.parse(cms.sign(CONTENT, signer(), signing_time=NOW))
    cms.verify(signed)
    assert signed.signers[0].signing_time == NOW


@pytest.mark.parametrize("kind", KINDS)
def test_asn1crypto_reads_the_same_and_finds_it_der(kind: str) -> None:
    data = cms.sign(CONTENT, signer(kind), signing_time=NOW)
    read = oracle.ContentInfo.load(data, strict=True)
    assert read["content_type"].native == "signed_data"
    signed = read["content"]
    assert signed["version"].native == "v3"
    assert signed["encap_content_info"]["content"].native == CONTENT
    assert read.dump(force=True) == data
    (info,) = signed["signer_infos"]
    names = [attribute["type"].native for attribute in info["signed_attrs"]]
    assert sorted(names) == ["content_type", "message_digest", "signing_time"]
    assert info["sid"].chosen["serial_number"].native == signer(kind).certificate.serial_number


def test_asn1crypto_and_pyca_verify_ed25519() -> None:
    """Older openssl programs have no Ed25519 in CMS, so its signature is taken apart here (RFC 8419, 3.1)."""
    (info,) = oracle.ContentInfo.load(cms.sign(CONTENT, signer("Ed25519")))["content"]["signer_infos"]
    assert info["digest_algorithm"]["algorithm"].native == "sha512"
    assert info["signature_algorithm"]["algorithm"].native == "ed25519"
    key = signer("Ed25519").certificate.public_key()
    assert isinstance(key, ed25519.Ed25519PublicKey)
    key.verify(info["signature"].native, info["signed_attrs"].untag().dump())


@pytest.mark.req("V-CMS-07")
@pytest.mark.parametrize("kind", ["P-256", "P-384", "RSA-2048"])
def test_a_key_in_a_token_signs_like_any_other(kind: str) -> None:
    credential = in_token(signer(kind))
    assert cms.verify(cms.parse(cms.sign(CONTENT, credential))) == credential.certificate


@pytest.mark.parametrize("kind", ["RSA-1024", "secp256k1"])
def test_a_weak_key_neither_signs_nor_verifies(kind: str) -> None:
    weak = weak_credential(kind)
    with pytest.raises(Untrusted, match=r"key-too-weak|key-unsupported"):
        cms.sign(CONTENT, weak)
    with pytest.raises(Untrusted, match=r"key-too-weak|key-unsupported"):
        cms.verify(cms.parse(cms.sign(CONTENT, signer())), weak.certificate)


@cache
def weak_credential(kind: str) -> Credential:
    key = make_key("RSA-1024") if kind == "RSA-1024" else ec.generate_private_key(ec.SECP256K1())
    authority = Domain().root
    certificate = issuing.end_entity(
        authority, key.public_key(), issuing.name("Weak"), not_before=NOW, not_after=NOW + timedelta(days=1)
    )
    return Credential(key, (certificate,))


# What is not a good signature is refused


@pytest.mark.req("VA-05")
def test_the_key_of_somebody_else_does_not_verify() -> None:
    signed = cms.parse(cms.sign(CONTENT, signer()))
    with pytest.raises(Untrusted, match="signature-invalid"):
        cms.verify(signed, stranger().certificate)
    with pytest.raises(Untrusted, match="signature-algorithm-mismatch"):
        cms.verify(signed, signer("RSA-2048").certificate)


@pytest.mark.parametrize("kind", KINDS)
def test_somebody_elses_certificate_under_the_signers_name_does_not_verify(kind: str) -> None:
    """Same issuer and serial number, another key."""
    credential = signer(kind)
    forged = signer("P-256" if kind != "P-256" else "P-384")
    signed = cms.parse(cms.sign(CONTENT, Credential(forged.key, (forged.certificate,))))
    entry = cms.parse(cms.sign(CONTENT, credential)).signers[0]
    with pytest.raises(Untrusted):
        cms.verify(signed._replace(signers=(signed.signers[0]._replace(issuer_and_serial=entry.issuer_and_serial),)))


@pytest.mark.req("VA-05")
def test_no_signer_and_several_signers_are_refused() -> None:
    data = cms.sign(CONTENT, signer())
    members = signed_data(data)
    (info,) = der.parse(members[-1]).children()
    with pytest.raises(Untrusted, match="cms-signer-missing"):
        cms.verify(cms.parse(rebuild([*members[:-1], der.set_of()])))
    with pytest.raises(Untrusted, match="cms-signer-ambiguous"):
        cms.verify(cms.parse(rebuild([*members[:-1], der.set_of(info.encoded, info.encoded)])))


@pytest.mark.req("AT-22", "V-CMS-04", "BIS-10", "D-1")
def test_a_signature_over_the_bare_content_is_refused() -> None:
    """RFC 5652 allows it for id-data; then the signed attributes of one message are the content of another."""
    credential = signer("Ed25519")
    key = credential.key
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    data = cms.sign(CONTENT, credential, content_type=cms.ID_DATA)
    version, sid, digest, _, algorithm, _ = signer_info(data)
    bare = [version, sid, digest, algorithm, der.octet_string(key.sign(CONTENT))]
    with pytest.raises(Untrusted, match="cms-signed-attributes-missing"):
        cms.verify(cms.parse(with_signer_info(data, bare)))


@pytest.mark.req("AT-22")
def test_signed_attributes_replayed_as_content_are_refused() -> None:
    data = cms.sign(CONTENT, signer(), content_type=cms.ID_DATA)
    version, sid, digest, signed, algorithm, signature = signer_info(data)
    members = signed_data(data)
    members[2] = der.sequence(der.oid(cms.ID_DATA), der.explicit(0, der.octet_string(b"\x31" + signed[1:])))
    replayed = with_signer_info(rebuild(members), [version, sid, digest, algorithm, signature])
    with pytest.raises(Untrusted, match="cms-signed-attributes-missing"):
        cms.verify(cms.parse(replayed))


@pytest.mark.req("AT-22", "V-CMS-04")
def test_a_content_type_that_was_not_signed_is_refused() -> None:
    members = signed_data(cms.sign(CONTENT, signer()))
    members[2] = der.sequence(der.oid(cms.ID_DATA), der.explicit(0, der.octet_string(CONTENT)))
    with pytest.raises(Untrusted, match="cms-content-type-mismatch"):
        cms.verify(cms.parse(rebuild(members)))


@pytest.mark.req("V-CMS-04")
def test_another_content_is_refused() -> None:
    signed = cms.parse(cms.sign(CONTENT, signer()))
    with pytest.raises(Untrusted, match="cms-message-digest-mismatch"):
        cms.verify(signed._replace(content=CONTENT.replace(b"0815", b"0816")))


@pytest.mark.req("V-CMS-04")
@pytest.mark.parametrize("missing", [0, 1])
def test_a_signature_without_one_of_the_two_attributes_is_refused(missing: int) -> None:
    data = cms.sign(CONTENT, signer("Ed25519"))
    signed = [attribute for place, attribute in enumerate(attributes(data)) if place != missing]
    with pytest.raises(Untrusted, match=r"cms-(content-type|message-digest)-mismatch"):
        cms.verify(cms.parse(with_attributes(data, signer("Ed25519"), signed)))


@pytest.mark.req("V-CMS-04")
@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_attribute_twice_or_with_two_values_is_malformed(place: int) -> None:
    data = cms.sign(CONTENT, signer("Ed25519"), signing_time=NOW)
    signed = attributes(data)
    with pytest.raises(Malformed, match="cms-attribute-repeated"):
        cms.parse(with_attributes(data, signer("Ed25519"), [*signed, signed[place]]))
    name, values = (member.encoded for member in der.parse(signed[place]).children())
    value = der.parse(values).children()[0].encoded
    for several in (der.tlv(der.SET, value, value), der.tlv(der.SET)):
        signed[place] = der.sequence(name, several)
        with pytest.raises(Malformed, match="cms-attribute-repeated"):
            cms.parse(with_attributes(data, signer("Ed25519"), signed))


def test_other_attributes_and_another_order_do_no_harm() -> None:
    """The signature is over the attributes in DER order, whatever order they travel in (RFC 5652, 5.4)."""
    credential = signer("Ed25519")
    data = cms.sign(CONTENT, credential, signing_time=NOW)
    extra = der.sequence(der.oid("2.999.1"), der.tlv(der.SET, der.NULL))
    cms.verify(cms.parse(with_attributes(data, credential, [extra, *reversed(attributes(data))])))


def test_unsigned_attributes_and_revocation_lists_do_no_harm() -> None:
    data = cms.sign(CONTENT, signer())
    unsigned = der.explicit(1, der.sequence(der.oid("2.999.1"), der.tlv(der.SET, der.NULL)))
    data = with_signer_info(data, [*signer_info(data), unsigned])
    members = signed_data(data)
    data = rebuild([*members[:4], der.explicit(1, der.sequence(der.NULL)), *members[4:]])
    assert cms.verify(cms.parse(data)) == signer().certificate


@pytest.mark.req("V-CMS-05")
def test_a_revocation_list_inside_is_passed_over() -> None:
    authority = Domain().root
    crl = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(NOW)
        .next_update(NOW + YEARS)
        .sign(authority.key, issuing.signature_hash(authority.key))
    )
    members = signed_data(cms.sign(CONTENT, signer()))
    listed = der.explicit(1, crl.public_bytes(Encoding.DER))
    assert cms.verify(cms.parse(rebuild([*members[:4], listed, *members[4:]]))) == signer().certificate


@pytest.mark.req("V-CMS-04")
@pytest.mark.parametrize("version", [0, 1, 2, 6])
def test_a_version_below_three_is_refused_unless_the_content_is_id_data(version: int) -> None:
    members = signed_data(cms.sign(CONTENT, signer()))
    members[0] = der.integer(version)
    with pytest.raises(Malformed, match="cms-version"):
        cms.parse(rebuild(members))


def test_detached_content_is_refused() -> None:
    members = signed_data(cms.sign(CONTENT, signer()))
    members[2] = der.sequence(der.oid(cms.ID_CT_ANIMA_JSON_VOUCHER))
    with pytest.raises(UnsupportedFormat, match="cms-detached"):
        cms.parse(rebuild(members))


@pytest.mark.req("V-CMS-02", "D-2")
def test_the_content_type_signed_data_is_taken_only_when_allowed() -> None:
    data = cms.sign(CONTENT, signer(), content_type=cms.ID_SIGNED_DATA)
    with pytest.raises(UnsupportedFormat, match="cms-content-type"):
        cms.parse(data)
    assert cms.verify(cms.parse(data, allow_signed_data_type=True)) == signer().certificate
    other = cms.sign(CONTENT, signer(), content_type="1.2.840.113549.1.9.16.1.4")
    with pytest.raises(UnsupportedFormat, match="cms-content-type"):
        cms.parse(other, allow_signed_data_type=True)


@pytest.mark.parametrize(
    ("place", "name", "reason"),
    [
        (2, "1.3.14.3.2.26", "cms-digest-unsupported"),  # SHA-1
        (2, "1.2.840.113549.2.5", "cms-digest-unsupported"),  # MD5
        (2, "2.16.840.1.101.3.4.2.2", "cms-digest-mismatch"),  # SHA-384 beside ecdsa-with-SHA256
        (4, "1.2.840.10045.4.1", "cms-signature-unsupported"),  # ecdsa-with-SHA1
        (4, "1.2.840.113549.1.1.5", "cms-signature-unsupported"),  # sha1WithRSAEncryption
        (4, "1.2.840.113549.1.1.10", "cms-signature-unsupported"),  # RSASSA-PSS by its defaults, which are SHA-1
        (4, "1.3.101.112", "cms-digest-mismatch"),  # Ed25519 goes with SHA-512 (RFC 8419, 3.1)
    ],
)
def test_a_weak_or_ill_matched_algorithm_is_refused(place: int, name: str, reason: str) -> None:
    data = cms.sign(CONTENT, signer())
    info = signer_info(data)
    info[place] = der.sequence(der.oid(name))
    with pytest.raises(UnsupportedFormat, match=reason):
        cms.parse(with_signer_info(data, info))


def test_a_signer_named_by_its_key_identifier_is_found() -> None:
    credential = signer()
    data = cms.sign(CONTENT, credential)
    key_id = x509.SubjectKeyIdentifier.from_public_key(credential.certificate.public_key()).digest
    info = signer_info(data)
    info[1] = der.implicit(0, der.octet_string(key_id))
    assert cms.verify(cms.parse(with_signer_info(data, info))) == credential.certificate
    info[1] = der.implicit(0, der.octet_string(b"nobody"))
    with pytest.raises(Untrusted, match="cms-signer-certificate-missing"):
        cms.verify(cms.parse(with_signer_info(data, info)))
    info[1] = der.set_of()
    with pytest.raises(Malformed, match="cms-signer-identifier"):
        cms.parse(with_signer_info(data, info))


def test_two_certificates_that_fit_the_identifier_are_refused() -> None:
    """Which of the two is judged would be the sender's choice."""
    credential = signer()
    twin = bytearray(to_der(credential.certificate))
    twin[-1] ^= 1
    signed = cms.parse(cms.sign(CONTENT, credential))
    doubled = signed._replace(certificates=(*signed.certificates, load_certificate(bytes(twin))))
    with pytest.raises(Untrusted, match="cms-signer-ambiguous"):
        cms.verify(doubled)
    cms.verify(signed._replace(certificates=signed.certificates * 2))


@pytest.mark.parametrize("garbage", [der.sequence(), der.sequence(der.NULL), b"\x30\x03\x02\x01\x05"])
def test_a_certificate_that_cannot_be_read_is_malformed(garbage: bytes) -> None:
    members = signed_data(cms.sign(CONTENT, signer()))
    members[3] = der.explicit(0, to_der(signer().certificate), garbage)
    with pytest.raises(Malformed, match="certificate-malformed"):
        cms.parse(rebuild(members))


@pytest.mark.req("AT-10")
def test_other_kinds_and_too_many_certificates_are_malformed() -> None:
    members = signed_data(cms.sign(CONTENT, signer()))
    members[3] = der.explicit(0, der.explicit(1, der.NULL))
    with pytest.raises(Malformed, match="cms-certificate-kind"):
        cms.parse(rebuild(members))
    members[3] = der.explicit(0, *[to_der(signer().certificate)] * (cms.MAX_CERTIFICATES + 1))
    with pytest.raises(Malformed, match="cms-too-many-certificates"):
        cms.parse(rebuild(members))


def test_other_cms_content_is_no_signed_data() -> None:
    with pytest.raises(UnsupportedFormat, match="cms-not-signed-data"):
        cms.parse(der.sequence(der.oid(cms.ID_DATA), der.explicit(0, der.octet_string(b""))))


# What the signature does and does not cover


# pyca warns of certificates it finds odd, and a flipped bit makes such: a warning is no error here.
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.req("AT-22")
@pytest.mark.parametrize("kind", ["P-256", "RSA-2048", "Ed25519"])
def test_whatever_bit_is_flipped_only_the_signed_content_verifies(kind: str) -> None:
    """The certificates, the digest list and the version are not signed: a flip there may verify.

    That is the whole promise: the expected key signed this content as this type. The certificate
    found without an expected signer may be a forged one around the signer's key, so a path must follow.
    """
    credential = signer(kind)
    data = bytearray(cms.sign(CONTENT, credential, certificates=[credential.certificate]))
    expected = (CONTENT, cms.ID_CT_ANIMA_JSON_VOUCHER)
    for place in range(8 * len(data)):
        data[place // 8] ^= 1 << place % 8
        with suppress(BrskiError):
            signed = cms.parse(bytes(data))
            with suppress(BrskiError):
                assert spki(cms.verify(signed)) == spki(credential.certificate)
            cms.verify(signed, credential.certificate)
            assert (signed.content, signed.content_type) == expected
        data[place // 8] ^= 1 << place % 8


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("content_type", [cms.ID_CT_ANIMA_JSON_VOUCHER, cms.ID_DATA])
def test_the_usual_is_read_as_anything_else_is(content_type: str) -> None:
    """Two readers for one message would be two opinions about what was signed."""
    data = bytearray(cms.sign(CONTENT, signer(), content_type=content_type))
    assert cms._parse_usual(bytes(data)) == cms._parse_any(bytes(data), allow_signed_data_type=False)
    for place in range(8 * len(data)):
        data[place // 8] ^= 1 << place % 8
        with suppress(BrskiError):
            usual = cms._parse_usual(bytes(data))
            assert usual == cms._parse_any(bytes(data), allow_signed_data_type=False)
        data[place // 8] ^= 1 << place % 8


@given(st.binary(max_size=300))
def test_any_bytes_raise_only_the_suites_errors(data: bytes) -> None:
    for read in (cms.parse, cms.parse_certs_only):
        with suppress(BrskiError):
            read(data)


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=300)
@given(st.data())
def test_a_message_cut_and_stitched_raises_only_the_suites_errors(data: st.DataObject) -> None:
    whole = cms.sign(CONTENT, signer("Ed25519"), signing_time=NOW)
    start = data.draw(st.integers(0, len(whole)))
    stop = data.draw(st.integers(start, len(whole)))
    patched = whole[:start] + data.draw(st.binary(max_size=8)) + whole[stop:]
    with suppress(BrskiError):
        cms.verify(cms.parse(patched), signer("Ed25519").certificate)


# certs-only


def test_certs_only_carries_certificates_and_nothing_else() -> None:
    chain = signer().chain
    data = cms.certs_only([*chain, *chain])
    assert set(cms.parse_certs_only(data)) == set(chain)
    assert len(cms.parse_certs_only(data)) == 3
    read = oracle.ContentInfo.load(data, strict=True)["content"]
    assert (read["version"].native, read["encap_content_info"]["content_type"].native) == ("v1", "data")
    assert (len(read["signer_infos"]), len(read["digest_algorithms"])) == (0, 0)
    assert cms.parse_certs_only(cms.certs_only([])) == ()


@pytest.mark.parametrize("name", ["cacerts.rsp.p7.der", "enroll.rsp.p7.der", "skg.rsp.cert.p7.der"])
def test_the_certs_only_messages_of_rfc_9148_are_read(name: str) -> None:
    (certificate,) = cms.parse_certs_only(vector(f"rfc9148/{name}"))
    assert cms.parse_certs_only(cms.certs_only([certificate])) == (certificate,)


def test_certs_only_is_no_signed_voucher() -> None:
    with pytest.raises(UnsupportedFormat, match="cms-detached"):
        cms.parse(cms.certs_only(signer().chain))


# The examples of RFC 8995, appendix C.2

EXAMPLES = {
    "pledge_voucher_request": "pledge_idevid",
    "registrar_voucher_request_parboiled": "registrar",
    "voucher": "masa",
}


@pytest.mark.req("V-CMS-02", "V-CMS-03", "V-CMS-04")
@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_rfc_8995_verify(name: str) -> None:
    signed = cms.parse(vector(f"rfc8995/{name}.cms.der"), strict=True)
    (embedded,) = load_pem(vector(f"rfc8995/{name}.embedded-cert0.pem"))
    assert (signed.version, signed.content_type) == (1, cms.ID_DATA)
    assert signed.content == vector(f"rfc8995/{name}.payload.json").strip()
    assert signed.signers[0].signing_time is not None
    assert cms.verify(signed) == embedded


@pytest.mark.parametrize(("name", "known"), EXAMPLES.items())
def test_an_expected_signer_is_known_by_its_key_not_its_serial_number(name: str, known: str) -> None:
    """The printed IDevID is another certificate for the key of the one inside the request."""
    (expected,) = load_pem(vector(f"rfc8995/{known}.crt.pem"))
    signed = cms.parse(vector(f"rfc8995/{name}.cms.der"))
    assert cms.verify(signed, expected) == expected
    (other,) = load_pem(vector("rfc8995/vendor_ca.crt.pem"))
    with pytest.raises(Untrusted):
        cms.verify(signed, other)


def test_the_idevid_of_the_drafts_xml_is_another_certificate_for_the_same_key() -> None:
    (printed,) = load_pem(vector("rfc8995/pledge_idevid.AUTH48-xml-0x2aec41d4.crt.pem"))
    signed = cms.parse(vector("rfc8995/pledge_voucher_request.cms.der"))
    assert cms.verify(signed, printed) == printed
    assert cms.verify(signed) != printed


# OpenSSL, both ways


def openssl(*arguments: str | Path) -> bytes:
    done = subprocess.run(["openssl", "cms", *arguments], capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


@pytest.fixture
def folder(tmp_path: Path, kind: str) -> Path:
    credential = signer(kind)
    key = credential.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "key.pem").write_bytes(key)
    (tmp_path / "leaf.pem").write_bytes(to_pem(credential.certificate))
    (tmp_path / "above.pem").write_bytes(to_pem(*credential.chain[1:]))
    (tmp_path / "root.pem").write_bytes(to_pem(credential.chain[-1]))
    (tmp_path / "content").write_bytes(CONTENT)
    return tmp_path


@pytest.mark.req("VA-05", "V-CMS-01")
@pytest.mark.parametrize("kind", OPENSSL_KINDS)
@pytest.mark.parametrize("content_type", [cms.ID_CT_ANIMA_JSON_VOUCHER, cms.ID_DATA])
def test_openssl_verifies_what_is_signed_here(folder: Path, kind: str, content_type: str) -> None:
    (folder / "ours.der").write_bytes(cms.sign(CONTENT, signer(kind), content_type=content_type, signing_time=NOW))
    verified = openssl(
        *("-verify", "-inform", "DER", "-in", folder / "ours.der", "-binary"),
        *("-CAfile", folder / "root.pem", "-purpose", "any", "-no_check_time"),
    )
    assert verified == CONTENT


@pytest.mark.req("VA-05")
@pytest.mark.parametrize("kind", OPENSSL_KINDS)
@pytest.mark.parametrize(
    ("options", "is_der"),
    [
        ((), True),
        (("-econtent_type", cms.ID_CT_ANIMA_JSON_VOUCHER), True),
        (("-stream", "-econtent_type", cms.ID_CT_ANIMA_JSON_VOUCHER), False),
        (("-keyid",), True),
        (("-md", "sha512"), True),
        (("-stream", "-keyid", "-nosmimecap"), False),
    ],
)
def test_what_openssl_signs_verifies_here(folder: Path, kind: str, options: tuple[str, ...], is_der: bool) -> None:
    data = openssl_signed(folder, *options)
    signed = cms.parse(data)
    assert (signed.content, signed.is_der) == (CONTENT, is_der)
    assert cms.verify(signed) == signer(kind).certificate
    assert cms.verify(signed, signer(kind).certificate) == signer(kind).certificate
    if not is_der:
        with pytest.raises(Malformed, match="cms-not-der"):
            cms.parse(data, strict=True)


@pytest.mark.parametrize("kind", ["RSA-2048"])
@pytest.mark.parametrize("salt", ["digest", "max", "20"])
def test_rsassa_pss_by_openssl_verifies_here(folder: Path, kind: str, salt: str) -> None:
    pss = ("-keyopt", "rsa_padding_mode:pss", "-keyopt", f"rsa_pss_saltlen:{salt}", "-md", "sha384")
    assert cms.verify(cms.parse(openssl_signed(folder, *pss))) == signer(kind).certificate


@pytest.mark.req("AT-22")
@pytest.mark.parametrize("kind", ["P-256", "RSA-2048"])
def test_openssls_signature_without_attributes_is_refused(folder: Path, kind: str) -> None:
    with pytest.raises(Untrusted, match="cms-signed-attributes-missing"):
        cms.verify(cms.parse(openssl_signed(folder, "-noattr")))


@pytest.mark.parametrize("kind", ["P-256"])
def test_openssls_sha1_and_detached_signatures_are_refused(folder: Path, kind: str) -> None:
    with pytest.raises(UnsupportedFormat, match="cms-digest-unsupported"):
        cms.parse(openssl_signed(folder, "-md", "sha1"))
    detached = openssl(
        *("-sign", "-in", folder / "content", "-binary", "-outform", "DER"),
        *("-signer", folder / "leaf.pem", "-inkey", folder / "key.pem"),
    )
    with pytest.raises(UnsupportedFormat, match="cms-detached"):
        cms.parse(detached)


@pytest.mark.parametrize("kind", ["P-256"])
def test_openssl_reads_certs_only_and_we_read_its(folder: Path, kind: str) -> None:
    (folder / "ours.p7").write_bytes(cms.certs_only(signer(kind).chain))
    for command in (["-print_certs"], ["-outform", "DER"]):
        done = subprocess.run(
            ["openssl", "pkcs7", "-inform", "DER", "-in", folder / "ours.p7", *command], capture_output=True, check=True
        )
        assert done.stdout
    made = subprocess.run(
        ["openssl", "crl2pkcs7", "-nocrl", "-certfile", folder / "above.pem", "-outform", "DER"],
        capture_output=True,
        check=True,
    )
    assert set(cms.parse_certs_only(made.stdout)) == set(signer(kind).chain[1:])


def openssl_signed(folder: Path, *options: str) -> bytes:
    files = ("-signer", folder / "leaf.pem", "-inkey", folder / "key.pem", "-certfile", folder / "above.pem")
    return openssl(*("-sign", "-in", folder / "content", "-binary", "-nodetach", "-outform", "DER"), *files, *options)
