"""CMS SignedData: the envelope of vouchers (RFC 8366, 5.4; RFC 5652, 5) and of certs-only messages (RFC 7030, 4.1.3).

The laws of this file:
1. BER comes in, DER goes out. Every member is read as it stands in the ASN.1 above its function.
2. A signature without signed attributes is refused: it could be replayed as another content
   (RFC 8366bis, 7.1). So are detached content, several signers, SHA-1 and what else `signatures` lacks.
3. A signature covers content and content type. It does NOT cover the certificates: whoever
   calls `verify` must go on to a path or to a certificate already known.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime
from functools import lru_cache
from typing import NamedTuple

from cryptography import x509

from brski_common import algorithms, der, signatures
from brski_common.certificates import Credential, Facts, facts_of, load_certificate, to_der, without_duplicates
from brski_common.der_spans import Place, members, spans
from brski_common.errors import Malformed, UnsupportedFormat, Untrusted
from brski_common.signatures import Scheme

ID_DATA = "1.2.840.113549.1.7.1"
ID_SIGNED_DATA = "1.2.840.113549.1.7.2"
ID_CT_ANIMA_JSON_VOUCHER = "1.2.840.113549.1.9.16.1.40"

MAX_CERTIFICATES = 64
REMEMBERED_TEMPLATES = 64

_TAG_0, _TAG_1 = der.context(0), der.context(1)
_PRIMITIVE_0 = der.context(0, constructed=False)
_SIGNED_DATA_OID = der.oid(ID_SIGNED_DATA)
_CONTENT_TYPE = "1.2.840.113549.1.9.3"
_MESSAGE_DIGEST = "1.2.840.113549.1.9.4"
_SIGNING_TIME = "1.2.840.113549.1.9.5"
_ONCE = (_CONTENT_TYPE, _MESSAGE_DIGEST, _SIGNING_TIME)


class Signer(NamedTuple):
    """One SignerInfo, its signature not yet verified.

    Either `issuer_and_serial` (the content octets of IssuerAndSerialNumber) or `key_id` names the
    certificate. `signed_attributes` is the DER the signature is over, None where there is none.
    """

    issuer_and_serial: bytes | None
    key_id: bytes | None
    scheme: Scheme
    signed_attributes: bytes | None
    content_type: str | None
    message_digest: bytes | None
    signing_time: datetime | None
    signature: bytes


class SignedData(NamedTuple):
    """A SignedData as received, nothing verified. `content_type` is dotted; `is_der` is False where BER was needed."""

    version: int
    content_type: str
    content: bytes
    certificates: tuple[x509.Certificate, ...]
    signers: tuple[Signer, ...]
    is_der: bool


# Reading


def parse(data: bytes, *, strict: bool = False, allow_signed_data_type: bool = False) -> SignedData:
    """Read a voucher's SignedData, DER or (unless `strict`) BER; raises Malformed, UnsupportedFormat.

    eContentType: id-ct-animaJSONVoucher; id-data, as every published example has it (RFC 8366, 5.4);
    with `allow_signed_data_type` also pkcs7-signedData, which some old servers put there.
    """
    try:
        found = _parse_usual(data)
    except Malformed:
        found = _parse_any(data, allow_signed_data_type)
    if strict and not found.is_der:
        raise Malformed("cms-not-der", "BER where only DER is taken")
    return found


def _parse_any(data: bytes, allow_signed_data_type: bool) -> SignedData:
    #   SignedData ::= SEQUENCE { version, digestAlgorithms SET, encapContentInfo,
    #       certificates [0] IMPLICIT OPTIONAL, crls [1] IMPLICIT OPTIONAL, signerInfos SET }
    info, fields = _open(data)
    version = fields.take(der.INTEGER).integer()
    fields.take(der.SET)  # every signer names its own digest
    content_type, content = _content(fields.take(der.SEQUENCE))
    _check_content_type(content_type, version, allow_signed_data_type)
    if content is None:
        raise UnsupportedFormat("cms-detached", "the SignedData has no eContent")
    certificates = _certificates(fields.optional(_TAG_0))
    fields.optional(_TAG_1)  # CRLs may be included (RFC 8366, 5.4); revocation is judged elsewhere
    signers = tuple([_signer(element) for element in fields.take(der.SET).children()])
    fields.end()
    return SignedData(version, content_type, content, certificates, signers, info.is_der)


def _parse_usual(data: bytes) -> SignedData:
    """Read what nearly every message is: DER, with certificates, and one signer by name with two signed attributes.

    Raises Malformed for any other, and for what is wrong, which `parse` then has the word for.
    """
    if len(data) > der.MAX_BYTES:
        raise Malformed("cms-not-usual", f"{len(data)} bytes")
    (info,) = members(data, (0, 0, len(data)), _SEQUENCE)
    kind, wrapped = members(data, info, _INFO)
    (signed,) = members(data, wrapped, _SEQUENCE)
    version, _, encapsulated, along, signers = members(data, signed, _SIGNED_DATA)
    content_kind, wrapped = members(data, encapsulated, _INFO)
    (content,) = members(data, wrapped, _OCTETS)
    (signer,) = members(data, signers, _SEQUENCE)
    number = _VERSIONS.get(data[version[0] : version[2]])
    content_type = _CONTENT_TYPES.get(data[content_kind[0] : content_kind[2]])
    found = spans(data, along)
    if data[kind[0] : kind[2]] != _SIGNED_DATA_OID or number is None or content_type is None:
        raise Malformed("cms-not-usual", "version or content type")
    _check_content_type(content_type, number, allow_signed_data_type=False)
    read = _usual_signer(data, signer)  # before the certificates, which are what costs
    certificates = _load([(tag, data[at:after]) for tag, (at, _, after) in found])
    return SignedData(number, content_type, data[content[1] : content[2]], certificates, (read,), is_der=True)


def parse_certs_only(data: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates of a certs-only message in the order they came, each once; raises Malformed.

    Content and signers, which such a message should not have, mean nothing here.
    """
    _, fields = _open(data)
    fields.take(der.INTEGER)
    fields.take(der.SET)
    _content(fields.take(der.SEQUENCE))
    return without_duplicates(_certificates(fields.optional(_TAG_0)))


def _open(data: bytes) -> tuple[der.Element, der.Fields]:
    #   ContentInfo ::= SEQUENCE { contentType OBJECT IDENTIFIER, content [0] EXPLICIT ANY }
    info = der.parse(data)
    fields = info.fields()
    content_type = fields.take(der.OBJECT_IDENTIFIER).oid()
    if content_type != ID_SIGNED_DATA:
        raise UnsupportedFormat("cms-not-signed-data", content_type)
    wrapped = fields.take(_TAG_0)
    fields.end()
    return info, wrapped.inner(der.SEQUENCE).fields()


def _content(element: der.Element) -> tuple[str, bytes | None]:
    #   EncapsulatedContentInfo ::= SEQUENCE { eContentType, eContent [0] EXPLICIT OCTET STRING OPTIONAL }
    fields = element.fields()
    content_type = fields.take(der.OBJECT_IDENTIFIER).oid()
    wrapped = fields.optional(_TAG_0)
    fields.end()
    return content_type, None if wrapped is None else wrapped.inner(der.OCTET_STRING).octets()


def _check_content_type(content_type: str, version: int, allow_signed_data_type: bool) -> None:
    if content_type == ID_SIGNED_DATA and allow_signed_data_type:
        return  # who writes this writes PKCS #7, where the version is always 1
    if content_type not in (ID_DATA, ID_CT_ANIMA_JSON_VOUCHER):
        raise UnsupportedFormat("cms-content-type", content_type)
    # RFC 5652, 5.1: "IF ... encapContentInfo eContentType is other than id-data THEN version MUST be 3"
    if version not in ((1, 3, 4, 5) if content_type == ID_DATA else (3, 4, 5)):
        raise Malformed("cms-version", f"version {version} with content type {content_type}")


def _certificates(element: der.Element | None) -> tuple[x509.Certificate, ...]:
    if element is None:
        return ()
    return _load([(choice.tag, choice.encoded) for choice in element.children()])


def _load(choices: list[tuple[int, bytes]]) -> tuple[x509.Certificate, ...]:
    if len(choices) > MAX_CERTIFICATES:
        raise Malformed("cms-too-many-certificates", f"{len(choices)}, at most {MAX_CERTIFICATES}")
    if {tag for tag, _ in choices} - {der.SEQUENCE}:
        raise Malformed("cms-certificate-kind", "something other than an X.509 certificate in the set")
    return tuple([load_certificate(encoded) for _, encoded in choices])


def _signer(element: der.Element) -> Signer:
    #   SignerInfo ::= SEQUENCE { version, sid, digestAlgorithm, signedAttrs [0] IMPLICIT SET OF Attribute OPTIONAL,
    #       signatureAlgorithm, signature OCTET STRING, unsignedAttrs [1] IMPLICIT OPTIONAL }
    fields = element.fields()
    fields.take(der.INTEGER)
    issuer_and_serial, key_id = _signer_identifier(fields.take_any())
    digest = algorithms.read_digest(fields.take(der.SEQUENCE))
    attributes = fields.optional(_TAG_0)
    scheme = algorithms.read_scheme(fields.take(der.SEQUENCE), digest)
    signature = fields.take(der.OCTET_STRING).octets()
    fields.optional(_TAG_1)
    fields.end()
    if attributes is None:
        return Signer(issuer_and_serial, key_id, scheme, None, None, None, None, signature)
    found = attributes.children()
    # RFC 5652, 5.4: the digest is over the SET OF in DER, not over the [0] that is transmitted
    signed = der.set_of(*[attribute.encoded for attribute in found])
    return Signer(issuer_and_serial, key_id, scheme, signed, *_attributes(found), signature)


def _usual_signer(data: bytes, element: Place) -> Signer:
    _, sid, digest, attributes, algorithm, signature = members(data, element, _SIGNER)
    first, second = members(data, attributes, _SEQUENCE * 2)
    scheme = algorithms.usual_scheme(data[digest[0] : digest[2]], data[algorithm[0] : algorithm[2]])
    content_type = _CONTENT_TYPE_ATTRIBUTES.get(data[first[0] : first[2]])
    head = data[second[0] : second[2] - _SHA256_BYTES]
    if scheme is None or content_type is None or head != _SHA256_HEAD:
        raise Malformed("cms-not-usual", "algorithms or attributes")
    # These two are in the order of a SET OF in DER: it is what is transmitted, but for the tag.
    signed = _SET + data[attributes[0] + 1 : attributes[2]]
    message_digest, value = data[second[2] - _SHA256_BYTES : second[2]], data[signature[1] : signature[2]]
    return Signer(data[sid[1] : sid[2]], None, scheme, signed, content_type, message_digest, None, value)


def _signer_identifier(element: der.Element) -> tuple[bytes | None, bytes | None]:
    #   SignerIdentifier ::= CHOICE { issuerAndSerialNumber, subjectKeyIdentifier [0] IMPLICIT OCTET STRING }
    if element.tag == der.SEQUENCE:
        return element.content, None
    if element.tag in (_PRIMITIVE_0, _TAG_0):
        return None, element.octets()
    raise Malformed("cms-signer-identifier", f"tag 0x{element.tag:02x}")


def _attributes(found: list[der.Element]) -> tuple[str | None, bytes | None, datetime | None]:
    values = _attribute_values(found)
    return (
        values[_CONTENT_TYPE].oid() if _CONTENT_TYPE in values else None,
        values[_MESSAGE_DIGEST].octets() if _MESSAGE_DIGEST in values else None,
        values[_SIGNING_TIME].time() if _SIGNING_TIME in values else None,
    )


def _attribute_values(attributes: list[der.Element]) -> dict[str, der.Element]:
    """The one value of each attribute that must be there only once, by its dotted type (RFC 5652, 11)."""
    #   Attribute ::= SEQUENCE { attrType OBJECT IDENTIFIER, attrValues SET OF ANY }
    found: dict[str, der.Element] = {}
    for attribute in attributes:
        kind, values = attribute.members(der.OBJECT_IDENTIFIER, der.SET)
        name = kind.oid()
        if name not in _ONCE:
            continue
        inside = values.children()
        if name in found or len(inside) != 1:
            raise Malformed("cms-attribute-repeated", f"attribute {name} is there more than once or without a value")
        found[name] = inside[0]
    if _CONTENT_TYPE in found and found[_CONTENT_TYPE].tag != der.OBJECT_IDENTIFIER:
        raise Malformed("cms-attribute-malformed", "contentType is no OBJECT IDENTIFIER")
    return found


# Verifying


def verify(signed: SignedData, signer: x509.Certificate | None = None) -> x509.Certificate:
    """Verify the one signature and return its signer's certificate; raises Untrusted.

    1. There is exactly one signer.
    2. It has signed attributes; their contentType is the eContentType (RFC 5652, 11.1).
    3. Their messageDigest is the digest of the content (RFC 5652, 11.2).
    4. The key of `signer`, or of the certificate in the message that the signer's identifier
       names, made the signature over these attributes (RFC 5652, 5.6).

    Nothing is said about the trust in that certificate. With `signer` given the identifier is not
    looked at: renewed certificates of one key are one signer.
    """
    if len(signed.signers) != 1:  # 1
        raise Untrusted("cms-signer-ambiguous" if signed.signers else "cms-signer-missing", f"{len(signed.signers)}")
    entry = signed.signers[0]
    if entry.signed_attributes is None:  # 2
        raise Untrusted("cms-signed-attributes-missing", "the signature is over the bare content")
    if entry.content_type != signed.content_type:
        raise Untrusted("cms-content-type-mismatch", f"{entry.content_type} signed, {signed.content_type} there")
    if entry.message_digest != signatures.digests[entry.scheme.digest](signed.content).digest():  # 3
        raise Untrusted("cms-message-digest-mismatch", "the content is not what was signed")
    certificate = signer if signer is not None else _named(entry, signed.certificates)
    signatures.verify(certificate, entry.signature, entry.signed_attributes, entry.scheme)  # 4
    return certificate


def _named(entry: Signer, certificates: Iterable[x509.Certificate]) -> x509.Certificate:
    """The certificate the signer's identifier names."""
    name = entry.issuer_and_serial
    if name is None:
        found = [each for each in certificates if facts_of(each).key_id == entry.key_id]
    else:
        found = [each for each in certificates if facts_of(each).issuer_and_serial == name]
    if len(found) != 1:
        found = [*without_duplicates(found)]
    if len(found) != 1:
        reason = "cms-signer-ambiguous" if found else "cms-signer-certificate-missing"
        raise Untrusted(reason, f"{len(found)} certificates fit the signer identifier")
    return found[0]


# Writing


def sign(
    content: bytes,
    credential: Credential,
    *,
    content_type: str = ID_CT_ANIMA_JSON_VOUCHER,
    signing_time: datetime | None = None,
    certificates: Sequence[x509.Certificate] | None = None,
) -> bytes:
    """A SignedData around `content`, in DER.

    `certificates` go along, by default the whole chain (RFC 8366, 5.4). `signing_time` is only a
    remark of the signer, left out by default. Raises Untrusted for a key that may not sign here.
    """
    along = credential.chain if certificates is None else tuple(certificates)
    template = _template(facts_of(credential.certificate), tuple([facts_of(each) for each in along]), content_type)
    digest = signatures.digests[template.scheme.digest](content).digest()
    signed = template.attributes_head + digest
    if signing_time is not None:
        attributes = [each.encoded for each in der.parse(signed).children()]
        signed = der.set_of(*attributes, _attribute(_SIGNING_TIME, der.time(signing_time)))
    signature = signatures.sign(credential.key, signed, template.scheme)
    signer = der.tlv(
        der.SEQUENCE,
        template.signer_head,
        der.implicit(0, signed),
        template.signature_algorithm,
        der.tlv(der.OCTET_STRING, signature),
    )
    encapsulated = der.tlv(der.SEQUENCE, template.content_type, der.tlv(_TAG_0, der.tlv(der.OCTET_STRING, content)))
    return _content_info(template.head, encapsulated, template.certificates, der.tlv(der.SET, signer))


def certs_only(certificates: Iterable[x509.Certificate]) -> bytes:
    """A degenerate SignedData that only carries these certificates (RFC 5652, 5.1; RFC 7030, 4.1.3)."""
    no_content = der.sequence(der.oid(ID_DATA))
    return _content_info(der.integer(1) + der.set_of(), no_content, _certificate_set(certificates), der.set_of())


class _Template(NamedTuple):
    """What stays the same in all messages of one signer."""

    scheme: Scheme
    head: bytes  # version, digestAlgorithms
    content_type: bytes
    certificates: bytes
    signer_head: bytes  # version, sid, digestAlgorithm
    attributes_head: bytes  # contentType and messageDigest, all but the digest
    signature_algorithm: bytes


@lru_cache(maxsize=REMEMBERED_TEMPLATES)
def _template(signer: Facts, along: tuple[Facts, ...], content_type: str) -> _Template:
    scheme = signatures.scheme_for(signer.certificate)
    no_digest = bytes(signatures.digests[scheme.digest]().digest_size)
    digest_algorithm = algorithms.write_digest(scheme.digest)
    version = 1 if content_type == ID_DATA else 3
    # In DER the longer messageDigest comes behind the contentType, whatever the digest.
    attributes = der.set_of(
        _attribute(_CONTENT_TYPE, der.oid(content_type)), _attribute(_MESSAGE_DIGEST, der.octet_string(no_digest))
    )
    assert attributes.endswith(no_digest)
    return _Template(
        scheme,
        der.integer(version) + der.set_of(digest_algorithm),
        der.oid(content_type),
        _certificate_set(each.certificate for each in along),
        der.integer(1) + der.sequence(signer.issuer_and_serial) + digest_algorithm,
        attributes[: -len(no_digest)],
        algorithms.write_scheme(scheme),
    )


def _attribute(name: str, value: bytes) -> bytes:
    return der.sequence(der.oid(name), der.tlv(der.SET, value))


def _certificate_set(certificates: Iterable[x509.Certificate]) -> bytes:
    encoded = {to_der(certificate) for certificate in certificates}
    return der.implicit(0, der.set_of(*encoded)) if encoded else b""


def _content_info(*signed_data: bytes) -> bytes:
    return der.tlv(der.SEQUENCE, _SIGNED_DATA_OID, der.tlv(_TAG_0, der.tlv(der.SEQUENCE, *signed_data)))


# What nearly every message has, known by its tags or bytes.
_SEQUENCE, _SET, _OCTETS = bytes((der.SEQUENCE,)), bytes((der.SET,)), bytes((der.OCTET_STRING,))
_INFO = bytes((der.OBJECT_IDENTIFIER, _TAG_0))
_SIGNED_DATA = bytes((der.INTEGER, der.SET, der.SEQUENCE, _TAG_0, der.SET))
_SIGNER = bytes((der.INTEGER, der.SEQUENCE, der.SEQUENCE, _TAG_0, der.SEQUENCE, der.OCTET_STRING))
_VERSIONS = {der.integer(version): version for version in (1, 3)}
_CONTENT_TYPES = {der.oid(each): each for each in (ID_CT_ANIMA_JSON_VOUCHER, ID_DATA)}
_CONTENT_TYPE_ATTRIBUTES = {_attribute(_CONTENT_TYPE, oid): each for oid, each in _CONTENT_TYPES.items()}
_SHA256_BYTES = 32
_SHA256_HEAD = _attribute(_MESSAGE_DIGEST, der.octet_string(bytes(_SHA256_BYTES)))[:-_SHA256_BYTES]
