"""Certificates, requests, attributes and logs in the field's terms, as JSON values."""

import base64
from collections.abc import Iterable
from contextlib import suppress

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding

from brski_common import certificates, csr, der, strictjson
from brski_common.auditlog import AuditLog
from brski_common.auditlog import write as write_auditlog
from brski_common.certificates import (
    ID_KP_CLIENT_AUTH,
    ID_KP_CMC_RA,
    ID_KP_SERVER_AUTH,
    ID_ON_HARDWARE_MODULE_NAME,
    read_hardware_module_name,
)
from brski_common.csrattrs import CsrAttributes
from brski_common.csrwishes import ACP_NODE_NAME, Attribute
from brski_common.encoding import encode_time
from brski_common.errors import BrskiError
from brski_common.strictjson import JsonValue

Content = dict[str, JsonValue]

_USAGES = {ID_KP_CMC_RA: "id-kp-cmcRA", ID_KP_SERVER_AUTH: "serverAuth", ID_KP_CLIENT_AUTH: "clientAuth"}
# pyca's names and those of RFC 5280, 4.2.1.3. The last two of the standard mean something with keyAgreement only.
_KEY_USAGES = {
    "digital_signature": "digitalSignature",
    "content_commitment": "nonRepudiation",
    "key_encipherment": "keyEncipherment",
    "data_encipherment": "dataEncipherment",
    "key_agreement": "keyAgreement",
    "key_cert_sign": "keyCertSign",
    "crl_sign": "cRLSign",
}
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_ATTRIBUTES = {
    "1.2.840.113549.1.9.7": "challengePassword",
    "1.2.840.113549.1.9.14": "extensionRequest",
    "1.2.840.113549.1.9.16.2.61": "id-aa-certificationRequestInfoTemplate",
    "1.2.840.113549.1.9.16.2.62": "id-aa-extensionReqTemplate",
    "1.2.840.10045.2.1": "ecPublicKey",
    "1.2.840.113549.1.1.1": "rsaEncryption",
    "1.2.840.10045.3.1.7": "P-256",
    "1.3.132.0.34": "P-384",
    "1.2.840.10045.4.3.2": "ecdsa-with-SHA256",
    "1.2.840.10045.4.3.3": "ecdsa-with-SHA384",
    "1.2.840.113549.1.1.11": "sha256WithRSAEncryption",
    "1.3.6.1.1.1.1.22": "macAddress",
    "2.5.29.17": "subjectAltName",
    "2.5.29.15": "keyUsage",
    "2.5.29.37": "extKeyUsage",
    "2.5.4.5": "serialNumber",
    "2.5.4.3": "commonName",
}


def name(subject: x509.Name) -> str:
    """A distinguished name as people write it (RFC 4514)."""
    return subject.rfc4514_string({x509.NameOID.SERIAL_NUMBER: "serialNumber"}) or "(empty)"


def of_certificate(certificate: x509.Certificate) -> Content:
    """What a person wants to know of a certificate. `serial-number` is the device's (2.5.4.5)."""
    content: Content = {"subject": name(certificate.subject), "issuer": name(certificate.issuer)}
    with suppress(BrskiError):
        content["serial-number"] = certificates.serial_number(certificate)
    with suppress(BrskiError):
        content |= _present("masa-url", certificates.masa_url(certificate))
    content |= {
        "certificate-serial": f"{certificate.serial_number:x}",
        "not-before": encode_time(certificate.not_valid_before_utc),
        "not-after": encode_time(certificate.not_valid_after_utc),
        "key": key_kind(certificate),
        "ca": certificates.is_ca(certificate),
    }
    content |= _extensions(certificate.extensions)
    with suppress(BrskiError):
        content |= _present("idevid-issuer", _idevid_issuer(certificate))
    content["domain-id"] = b64(certificates.domain_id(certificate))
    content["fingerprint-sha256"] = certificates.fingerprint(certificate).hex()
    return content


def of_csr(request: x509.CertificateSigningRequest) -> Content:
    """What a certificate request asks for. A challengePassword is mentioned, never shown."""
    content: Content = {"subject": name(request.subject), "key": key_kind(request)}
    for attribute in request.subject.get_attributes_for_oid(x509.NameOID.SERIAL_NUMBER):
        content["serial-number"] = str(attribute.value)
    with suppress(ValueError):
        content |= _extensions(request.extensions)
    content["attributes"] = [oid_name(attribute.oid) for attribute in csr.attributes(request)]
    return content


def of_csrattrs(attributes: CsrAttributes) -> Content:
    """The items as they stand, and what they come to."""
    wishes = attributes.wishes
    items: list[JsonValue] = [_item(item) for item in attributes.items]
    content: Content = {"attributes": items}
    if wishes.subject is not None:
        content["subject"] = [[_wish(oid_name(wish.oid), wish.value) for wish in rdn] for rdn in wishes.subject]
    if wishes.key is not None:
        content["key"] = wishes.key.kind or oid_name(wishes.key.algorithm)
    extensions: list[JsonValue] = [
        {
            "extension": oid_name(wish.oid),
            "critical": wish.critical,
            "value": None if wish.value is None else b64(wish.value),
            **({} if wish.value is None or wish.oid != "2.5.29.17" else {"names": _alternative_names(wish.value)}),
        }
        for wish in wishes.extensions
    ]
    return content | ({"hash": wishes.hash} if wishes.hash else {}) | ({"extensions": extensions} if extensions else {})


def of_auditlog(log: AuditLog) -> Content:
    """The log as it would be written today."""
    return dict(strictjson.load_object(write_auditlog(log))) if log.events else {"version": log.version, "events": []}


def of_jpy(header: bytes, content: bytes) -> Content:
    """A join proxy message (draft-ietf-anima-constrained-join-proxy): an opaque header and what it carries."""
    return {"header": b64(header), "content": b64(content), "content-length": len(content)}


def key_kind(holder: x509.Certificate | x509.CertificateSigningRequest) -> str:
    """The kind of public key: `P-256`, `RSA-2048`, `Ed25519` …"""
    try:
        key = holder.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return "unknown"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return _CURVES.get(key.curve.name, key.curve.name)
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA-{key.key_size}"
    return type(key).__name__.removesuffix("PublicKey").lstrip("_")


def oid_name(dotted: str) -> str:
    """The usual name of an OID, or its number."""
    return _ATTRIBUTES.get(dotted, dotted)


def b64(value: bytes) -> str:
    """Binary as it stands in YANG-JSON."""
    return base64.b64encode(value).decode()


def _idevid_issuer(certificate: x509.Certificate) -> str | None:
    has_key_id = certificates.authority_key_id(certificate) is not None
    return b64(certificates.idevid_issuer(certificate)) if has_key_id else None


def _present(key: str, value: str | None) -> Content:
    return {} if value is None else {key: value}


def _extensions(extensions: x509.Extensions) -> Content:
    content: Content = {}
    for extension in extensions:
        value = extension.value
        if isinstance(value, x509.KeyUsage):
            content["key-usage"] = [written for usage, written in _KEY_USAGES.items() if getattr(value, usage)]
        elif isinstance(value, x509.ExtendedKeyUsage):
            content["extended-key-usage"] = [_USAGES.get(oid, oid.dotted_string) for oid in value]
        elif isinstance(value, x509.SubjectAlternativeName):
            content["alternative-names"] = _names(value)
        elif isinstance(value, x509.SubjectKeyIdentifier):
            content["subject-key-identifier"] = value.digest.hex()
        elif isinstance(value, x509.AuthorityKeyIdentifier) and value.key_identifier:
            content["authority-key-identifier"] = value.key_identifier.hex()
    return content


def _names(names: Iterable[x509.GeneralName]) -> list[JsonValue]:
    return [_general_name(general) for general in names]


def _general_name(general: x509.GeneralName) -> JsonValue:
    if isinstance(general, x509.OtherName):
        return _other_name(general)
    if isinstance(general, x509.DirectoryName):
        return name(general.value)
    return str(general.value)


def _other_name(other: x509.OtherName) -> JsonValue:
    if other.type_id == ID_ON_HARDWARE_MODULE_NAME:
        with suppress(BrskiError):
            module = read_hardware_module_name(other.value)
            return {
                "hardware-module-name": {"hw-type": module.hw_type, "hw-serial-number": b64(module.hw_serial_number)}
            }
    if other.type_id.dotted_string == ACP_NODE_NAME:
        return {"acp-node-name": other.value[2:].decode("ascii", "replace")}
    return {other.type_id.dotted_string: b64(other.value)}


def _alternative_names(value: bytes) -> list[JsonValue]:
    """The names of a subjectAltName wish; empty where pyca cannot read one, as for a name that is to be filled in."""
    with suppress(ValueError):
        unparsed = x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.17"), value)
        return _names(_reread(unparsed))
    return []


def _reread(extension: x509.UnrecognizedExtension) -> x509.SubjectAlternativeName:
    """pyca reads an extension's value only inside a request or certificate, so it is put into one for a moment."""
    key = ec.generate_private_key(ec.SECP256R1())
    builder = (
        x509.CertificateSigningRequestBuilder().subject_name(x509.Name([])).add_extension(extension, critical=False)
    )
    request = x509.load_der_x509_csr(builder.sign(key, SHA256()).public_bytes(Encoding.DER))
    return request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value


def _item(item: str | Attribute) -> JsonValue:
    if isinstance(item, str):
        return oid_name(item)
    return {oid_name(item.oid): [_value(value) for value in item.values]}


def _value(value: bytes) -> JsonValue:
    element = der.parse(value)
    if element.tag == der.OBJECT_IDENTIFIER:
        return oid_name(element.oid())
    if element.tag == der.INTEGER:
        return element.integer()
    return b64(value)


def _wish(oid: str, value: str | None) -> JsonValue:
    return {oid: value}
