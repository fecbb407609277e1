"""The corpora: artefacts of our own, made anew and equal each time, and the specifications' where they are there.

Each function gives the good inputs of one kind. `tests.fuzz.targets` says which reader gets which.
"""

import base64
import json
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from functools import cache
from ipaddress import IPv6Address
from typing import Any

import cbor2
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from brski_common import (
    algorithms,
    artifact,
    auditlog,
    certificates,
    cms,
    cose,
    csrattrs,
    csrplan,
    csrwishes,
    der,
    encoding,
    est,
    grasp,
    jws,
    signatures,
    telemetry,
)
from brski_common.artifact import Format
from brski_common.certificates import Credential, to_der, to_pem
from brski_common.csr import CHANGE_SUBJECT_NAME
from brski_common.csrwishes import CHALLENGE_PASSWORD, ExtensionWish, KeyWish, Wishes
from brski_common.encoding import decode_base64
from brski_common.errors import Malformed
from brski_common.paths import Anchors
from brski_common.signatures import Scheme
from brski_common.voucher import Assertion, Voucher, VoucherRequest
from tests.fuzz.fixed import NOW, Profile, credential, key, maker, oddities, plant
from tests.fuzz.layouts import DER, indexed
from tests.support.vectors import vector_path

KINDS = ("P-256", "Ed25519")
NONCE = base64.b64encode(bytes(range(16))).decode()


def vectors(pattern: str) -> list[bytes]:
    """The specifications' files of that pattern; none where the folder is not there."""
    return [path.read_bytes() for path in sorted(vector_path().glob(pattern))]


@cache
def rsa_signer() -> Credential:
    """A voucher signer with an RSA key."""
    return credential("RSA Voucher Signer", maker()["voucher_root"], kind="RSA-2048", profile=Profile())


@cache
def anchors() -> Anchors:
    """Whoever may be trusted for anything here: every root of our own, and those of the vectors."""
    own = [
        party[role]
        for kind in KINDS
        for party in (maker(kind), plant(kind))
        for role in ("root", "voucher_root")
        if role in party
    ]
    texts = [text for pattern in _ROOTS for text in vectors(pattern) if b"BEGIN CERTIFICATE" in text]
    return Anchors(
        [*(found.certificate for found in own), *(found for text in texts for found in certificates.load_pem(text))]
    )


_ROOTS = ("rfc8995/*_ca.crt.pem", "jws-voucher/*_ca.crt.pem", "cbrski/*_ca.pem", "prm/*.x5c0.pem")


# Vouchers


def full_voucher() -> Voucher:
    """A voucher with every leaf."""
    signer = maker()["masa"].certificate
    return Voucher(
        serial_number="SN-00001",
        created_on=NOW,
        expires_on=NOW + timedelta(days=7, milliseconds=5),
        assertion=Assertion.LOGGED,
        idevid_issuer=certificates.idevid_issuer(maker()["idevid"].certificate),
        pinned_domain_cert=to_der(plant()["root"].certificate),
        pinned_domain_pubk=certificates.spki(signer),
        pinned_domain_pubk_sha256=certificates.spki_sha256(signer),
        domain_cert_revocation_checks=False,
        nonce=NONCE,
        last_renewal_date=NOW,
        est_domain="est.example",
        additional_configuration_url="https://example/config",
        manufacturer_proprietary=b"\x00\xff own",
        extensions=("example:one", 60000),
    )


def requests(kind: str = "P-256") -> tuple[VoucherRequest, VoucherRequest]:
    """A pledge's request, and one with every leaf."""
    registrar = plant(kind)["registrar"].certificate
    small = VoucherRequest(
        serial_number="SN-00001",
        assertion=Assertion.PROXIMITY,
        nonce=NONCE,
        created_on=NOW,
        proximity_registrar_cert=to_der(registrar),
    )
    full = VoucherRequest(
        serial_number="SN-00001",
        assertion=Assertion.AGENT_PROXIMITY,
        nonce=NONCE,
        idevid_issuer=certificates.idevid_issuer(maker(kind)["idevid"].certificate),
        prior_signed_voucher_request=b"prior",
        proximity_registrar_pubk=certificates.spki(registrar),
        proximity_registrar_pubk_sha256=certificates.spki_sha256(registrar),
        agent_signed_data=b"{}",
        agent_provided_proximity_registrar_cert=to_der(registrar),
        agent_sign_cert=(to_der(registrar), to_der(maker(kind)["ca"].certificate)),
    )
    return small, full


def plain_vouchers() -> tuple[Voucher | VoucherRequest, ...]:
    """Vouchers and requests as values, small and full."""
    return (full_voucher(), Voucher(serial_number="1", created_on=NOW, pinned_domain_cert=b"\x30\x00"), *requests())


def json_vouchers() -> Sequence[bytes]:
    """Vouchers as YANG-JSON."""
    return [*(encoding.write_json(value) for value in plain_vouchers()), *vectors("*/*.payload.json")]


def cbor_vouchers() -> Sequence[bytes]:
    """Vouchers as YANG-CBOR: with SID deltas, and with names as keys."""
    named = cbor2.dumps({"ietf-voucher:voucher": {"serial-number": "1", "assertion": "logged", "nonce": bytes(16)}})
    tagged = cbor2.dumps({cbor2.CBORTag(47, 2501): {cbor2.CBORTag(47, 2514): "1", 1: 2}})
    return [*(encoding.write_cbor(value) for value in plain_vouchers()), named, tagged, *_hex("cbrski/*-nonsigned.hex")]


@cache
def signed(artifact_format: Format) -> tuple[bytes, ...]:
    """Requests, registrar's requests and vouchers by every kind of key."""
    found: list[bytes] = []
    for kind in KINDS:
        pvr = artifact.sign(requests(kind)[0], artifact_format, maker(kind)["idevid"])
        rvr = VoucherRequest(
            serial_number="SN-00001", created_on=NOW, nonce=NONCE, prior_signed_voucher_request=pvr,
            idevid_issuer=certificates.idevid_issuer(maker(kind)["idevid"].certificate),
        )  # fmt: skip
        found += [pvr, artifact.sign(rvr, artifact_format, plant(kind)["registrar"])]
        found.append(artifact.sign(full_voucher(), artifact_format, maker(kind)["masa"]))
    found.append(artifact.sign(full_voucher(), artifact_format, maker("P-384")["masa"]))
    bare = artifact.sign(requests()[1], artifact_format, maker()["idevid"], certificates=[])
    return (*found, bare, *_special(artifact_format), *_published(artifact_format))


def _special(artifact_format: Format) -> list[bytes]:
    voucher = Voucher(serial_number="SN-00001", assertion=Assertion.LOGGED, pinned_domain_pubk=b"\x30\x00")
    if artifact_format is Format.CMS:
        by_rsa = artifact.sign(voucher, artifact_format, rsa_signer(), content_type=cms.ID_DATA, signing_time=NOW)
        return [by_rsa, _with_pss(by_rsa), cms.certs_only(plant()["registrar"].chain)]
    if artifact_format is Format.JWS:
        once = artifact.sign(voucher, artifact_format, rsa_signer())
        return [once, jws.countersign(once, plant()["registrar"])]
    content = encoding.write_cbor(voucher)
    chain = [to_der(certificate) for certificate in maker()["masa"].chain]
    whole = cbor2.loads(cose.sign(content, maker()["masa"]))
    whole.value[1] = {33: chain}
    return [cbor2.dumps(whole)]


def _with_pss(message: bytes) -> bytes:
    """The same message signed with RSASSA-PSS (RFC 4056), without salt so that it comes out the same each time."""
    (signer,) = cms.parse(message).signers
    digest = algorithms.write_digest("sha256")
    mask = der.sequence(der.oid("1.2.840.113549.1.1.8"), digest)
    parameters = der.sequence(der.explicit(0, digest), der.explicit(1, mask), der.explicit(2, der.integer(0)))
    algorithm = der.sequence(der.oid("1.2.840.113549.1.1.10"), parameters)
    own = rsa_signer().key
    assert isinstance(own, rsa.RSAPrivateKey)
    scheme = padding.PSS(padding.MGF1(hashes.SHA256()), 0)
    signature = own.sign(signer.signed_attributes or b"", scheme, hashes.SHA256())
    _, nodes = indexed(message)
    at = next(number for number, node in enumerate(nodes) if message[node.body : node.stop] == signer.signature)
    end = nodes[at].start
    former = max((node for node in nodes if node.end == end), key=lambda node: node.end - node.start)
    message = DER.with_content(message, nodes[at], signature)
    return DER.with_unit(message, former, algorithm)


def _published(artifact_format: Format) -> list[bytes]:
    if artifact_format is Format.CMS:
        return vectors("rfc8995/*.cms.der")
    if artifact_format is Format.JWS:
        return [*vectors("jws-voucher/[prv]*[rv]*.json"), *vectors("prm/*.json")]
    return vectors("cbrski/*.cbor")


# Certificates, enrollment


def chains() -> Sequence[bytes]:
    """Whole chains, as a SEQUENCE OF Certificate, leaf first."""
    own = [maker(kind)["idevid"] for kind in KINDS] + [
        plant(kind)[role] for kind in KINDS for role in ("registrar", "ldevid")
    ]
    return [der.sequence(*map(to_der, found.chain)) for found in (*own, rsa_signer(), *oddities())]


def certificate_seeds() -> Sequence[bytes]:
    """Single certificates."""
    parties = [party for kind in KINDS for party in (maker(kind), plant(kind))]
    own = [to_der(found.certificate) for party in parties for found in party.values()]
    texts = [
        text
        for folder in ("rfc8995", "jws-voucher", "prm")
        for text in vectors(f"{folder}/*.pem")
        if b"BEGIN CERT" in text
    ]
    return [*own, to_der(rsa_signer().certificate), *(_der(text) for text in texts), *vectors("cbrski/*.der")]


def pems() -> Sequence[bytes]:
    """Certificates as PEM."""
    return [
        to_pem(*maker()["idevid"].chain),
        to_pem(*plant("Ed25519")["registrar"].chain),
        *vectors("rfc8995/*.crt.pem"),
    ]


def certs_only() -> Sequence[bytes]:
    """Certs-only messages."""
    own = [cms.certs_only(chain) for chain in (maker()["idevid"].chain, plant("Ed25519")["ldevid"].chain, ())]
    return [*own, *vectors("rfc9148/*.p7.der")]


@cache
def csrs() -> tuple[bytes, ...]:
    """Certificate requests with every kind of key, asked for in every style."""
    asked = csrattrs.ask(_wishes())
    found = []
    for kind in KINDS:
        plan = csrplan.fill(asked, maker(kind)["idevid"].certificate.subject)
        request = csrplan.compose(plan, key(f"csr {kind}", kind), challenge="bm90IGEgc2VjcmV0")
        found.append(request.public_bytes(Encoding.DER))
    return (*found, _renamed(), *vectors("rfc9148/*.csr.der"), *vectors("rfc9908-csrattrs/CSR-template.der"))


def _renamed() -> bytes:
    """A request that renews under another name (RFC 6402, 2.8)."""
    names = x509.SubjectAlternativeName([x509.DNSName("new.example")]).public_bytes()
    own = key("renewed", "Ed25519")
    change = der.sequence(maker()["root"].certificate.subject.public_bytes(), names)
    attribute = der.sequence(der.oid(CHANGE_SUBJECT_NAME), der.set_of(change))
    subject = plant()["ldevid"].certificate.subject.public_bytes()
    information = der.sequence(
        der.integer(0), subject, certificates.public_key_info(own.public_key()), der.explicit(0, attribute)
    )
    signature = signatures.sign(own, information, Scheme("Ed25519", "sha512"))
    return der.sequence(information, der.sequence(der.oid(csrwishes.ED25519)), der.bit_string(signature))


def _wishes() -> Wishes:
    return Wishes(
        subject=csrwishes.subject_wish(("2.5.4.3", "Device"), ("2.5.4.5", None)),
        key=KeyWish.of("P-256"),
        hash="sha256",
        extensions=(
            csrwishes.acp_node_name("rfc8994+fd739fc23c3440112233445500000000+@acp.example.com", critical=True),
            ExtensionWish("2.5.29.15", bytes.fromhex("03020780"), True),
        ),
        others=(CHALLENGE_PASSWORD, csrwishes.MAC_ADDRESS, "2.5.4.5"),
    )


def csr_attributes() -> Sequence[bytes]:
    """CSR attributes in every style, and those of RFC 7030 to RFC 9908."""
    open_names = ExtensionWish(csrwishes.SUBJECT_ALTERNATIVE_NAME, bytes.fromhex("30068700a4023000"))
    partial = Wishes(key=KeyWish.of("RSA-3072"), extensions=(open_names,))
    own = [csrattrs.write(csrattrs.ask(wishes, style)) for wishes in (_wishes(), partial) for style in csrattrs.Style]
    return [*own, b"\x30\x00", *vectors("rfc9908-csrattrs/*.csrattr.der"), *vectors("rfc9148/csrattrs.der")]


def est_bodies() -> Sequence[bytes]:
    """EST bodies: one line, wrapped, PEM, DER."""
    body = cms.certs_only(plant("Ed25519")["ldevid"].chain)
    return [
        *(
            est.encode_body(body),
            base64.encodebytes(body),
            body,
            est.encode_body(b"\x30\x00"),
            est.encode_body(csrs()[2]),
        ),
        b"-----BEGIN PKCS7-----\r\n" + base64.encodebytes(body) + b"-----END PKCS7-----\r\n",
    ]


def server_keys() -> Sequence[bytes]:
    """Answers of server-side key generation: Content-Type, a line feed, the body."""
    chain = cms.certs_only(plant("Ed25519")["ldevid"].chain)
    answers = [
        est.write_server_key(est.ServerKey(b"\x30\x03\x02\x01\x05", chain, is_encrypted=it)) for it in (False, True)
    ]
    wild = (
        b'Multipart/Mixed ; charset=x; boundary="a b"\npreamble\r\n--a b\r\n'
        b"Content-Type: application/pkcs7-mime\r\n\r\n"
        + base64.encodebytes(b"\x30\x00")
        + b"\r\n--a b  \r\nX: y\r\ncontent-type:application/pkcs8; x=y\r\n\r\n"
        + base64.encodebytes(b"\x30\x01\x00")
        + b"\n--a b--\nepilogue"
    )
    return [*(kind.encode() + b"\n" + body for kind, body in answers), wild]


# Telemetry, audit log, and what they are made of


def reports() -> Sequence[bytes]:
    """Status reports as JSON."""
    context: telemetry.Context = {"a": ["b", 1, None, True, 1.5, {"c": "d\u202e"}], "é": "\n"}
    return [
        *(telemetry.write(report) for report in (telemetry.success(), telemetry.failure("no-voucher", context))),
        b'{"Version":"1","Status":true,"REASON":"\\u0007","reason-context":null,"more":[1,2]}',
    ]


def cbor_reports() -> Sequence[bytes]:
    """Status reports as CBOR."""
    context: Any = {0: "information", "b": [b"\x00\x01", cbor2.CBORTag(99, 1.5)]}
    own = [cbor2.dumps({"version": 1, "status": False, "reason": "r", "reason-context": context})]
    return [telemetry.write_cbor(telemetry.success()), *own, *_hex("cbrski/*status*.hex")]


def auditlogs() -> Sequence[bytes]:
    """Audit logs, ours and in the form of the RFC's example."""
    domain_id = certificates.domain_id(plant()["root"].certificate)
    events = tuple(
        auditlog.AuditEvent(
            date=NOW - timedelta(days=day), domain_id=domain_id, nonce=nonce, assertion="logged", truncated=day
        )
        for day, nonce in enumerate((NONCE, None, "abc"))
    )
    own = auditlog.AuditLog(events=events, truncation=auditlog.Truncation(arbitrary=2))
    event = {
        "date": "2019-05-15T17:25:55.644-04:00",
        "domainID": "BduJhdHPpfhQLyponf48JzXSGZ8=",
        "nonce": "VOUFT-WwrEv0NuAQEHoV7Q",
        "assertion": "proximity",
        "truncated": "0",
    }
    counters = {"nonced duplicates": "0", "nonceless duplicates": "1", "arbitrary": "2"}
    rfc = {"version": "1", "events": [event], "truncation": counters}
    return [auditlog.write(own), auditlog.write(auditlog.AuditLog(events=events[:1])), json.dumps(rfc).encode()]


def jpy() -> Sequence[bytes]:
    """Join proxy messages."""
    return [cbor2.dumps([bytes(16), b"\x16\xfe\xfd" + bytes(60)]), *vectors("join-proxy/*.cbor")]


def asn1() -> Sequence[bytes]:
    """Everything that is ASN.1."""
    return [seed for seed in (*anything(), *chains()) if seed[:1] == b"\x30" and _is_whole(seed)]


def _is_whole(seed: bytes) -> bool:
    with suppress(Malformed):
        return bool(der.parse(seed))
    return False


def floods() -> Sequence[bytes]:
    """GRASP floods of proxies and registrars, with locators that are not ours to read too."""
    address = IPv6Address("fe80::1")
    own = [grasp.write_flood(flood(0x5EED, address, 443)) for flood in (grasp.proxy_flood, grasp.registrar_flood)]
    other = [["other", 4, 1, {"any": [1.5]}], [104, "host.example", 6, None]]
    mixed = [9, 1, address.packed, 0, [["AN_Proxy", 4, 1], [103, address.packed, 17, 5684]], other, [["x", 0, 0], []]]
    rfc = (
        "85091a00bc4e4f50fe8000000000000000000000000000011a0002bf20828468414e5f50726f787904016084186750fe800000000000000000"
        "00000000010619115b"
    )
    return [*own, cbor2.dumps(mixed), bytes.fromhex(rfc)]


def anything() -> Sequence[bytes]:
    """Every artefact, bare and in the armours that `brski inspect` takes off."""
    plain = [
        *(seed for artifact_format in Format for seed in signed(artifact_format)),
        *(*csr_attributes(), *csrs(), *certs_only(), *auditlogs(), *jpy(), *certificate_seeds()[:12], *json_vouchers()),
        *cbor_vouchers(),
    ]
    armoured = [plain[0].hex().encode(), base64.encodebytes(plain[0]), plain[1].hex().upper().encode(), *pems()]
    return [*plain, *armoured, base64.b64encode(cbor_vouchers()[0])]


def _hex(pattern: str) -> list[bytes]:
    return [bytes.fromhex(text.decode()) for text in vectors(pattern)]


def _der(text: bytes) -> bytes:
    return decode_base64("".join(text.decode().split("-----")[2].split()))
