"""The algorithm identifiers of CMS, and the schemes they stand for (RFC 5754; RFC 4056; RFC 8419).

A scheme of `signatures` has one identifier that is written and some that are read; an identifier
that stands for nothing there is UnsupportedFormat.
"""

from brski_common import der
from brski_common.errors import Malformed, UnsupportedFormat
from brski_common.signatures import Digest, Scheme

MAX_SALT = 512  # octets

_RSA = "1.2.840.113549.1.1.1"
_RSASSA_PSS = "1.2.840.113549.1.1.10"
_MGF1 = "1.2.840.113549.1.1.8"
_ED25519 = "1.3.101.112"

_DIGEST_OIDS: dict[Digest, str] = {
    "sha256": "2.16.840.1.101.3.4.2.1",
    "sha384": "2.16.840.1.101.3.4.2.2",
    "sha512": "2.16.840.1.101.3.4.2.3",
}
_DIGESTS = {oid: digest for digest, oid in _DIGEST_OIDS.items()}
_ECDSA_OIDS: dict[Digest, str] = {
    "sha256": "1.2.840.10045.4.3.2",
    "sha384": "1.2.840.10045.4.3.3",
    "sha512": "1.2.840.10045.4.3.4",
}
# signatureAlgorithm -> scheme, where the identifier names the digest (RFC 5754, 3; RFC 8419, 3).
_SCHEMES: dict[str, Scheme] = {
    **{oid: Scheme("EC", digest) for digest, oid in _ECDSA_OIDS.items()},
    "1.2.840.113549.1.1.11": Scheme("RSA", "sha256"),
    "1.2.840.113549.1.1.12": Scheme("RSA", "sha384"),
    "1.2.840.113549.1.1.13": Scheme("RSA", "sha512"),
    _ED25519: Scheme("Ed25519", "sha512"),
}


def read_digest(element: der.Element) -> Digest:
    """The digest a digestAlgorithm names; raises Malformed, UnsupportedFormat."""
    usual = _USUAL_DIGESTS.get(element.encoded)
    if usual is not None:
        return usual
    name, parameters = _algorithm(element)
    if name not in _DIGESTS:
        raise UnsupportedFormat("cms-digest-unsupported", name)
    _check_no_parameters(parameters)
    return _DIGESTS[name]


def usual_scheme(digest: bytes, scheme: bytes) -> Scheme | None:
    """The scheme of a digestAlgorithm and a signatureAlgorithm in their usual form, None for another."""
    usual = _USUAL_SCHEMES.get(scheme)
    return usual if usual is not None and usual.digest == _USUAL_DIGESTS.get(digest) else None


def read_scheme(element: der.Element, digest: Digest) -> Scheme:
    """The scheme of a signatureAlgorithm, which must fit the digestAlgorithm; raises Malformed, UnsupportedFormat."""
    usual = _USUAL_SCHEMES.get(element.encoded)
    if usual is not None and usual.digest == digest:
        return usual
    name, parameters = _algorithm(element)
    if name == _RSASSA_PSS and parameters is not None:
        return _pss(parameters, digest)
    _check_no_parameters(parameters)
    scheme = Scheme("RSA", digest) if name == _RSA else _SCHEMES.get(name)
    if scheme is None:
        raise UnsupportedFormat("cms-signature-unsupported", name)
    if scheme.digest != digest:
        raise UnsupportedFormat("cms-digest-mismatch", f"{digest} with signature algorithm {name}")
    return scheme


def write_digest(digest: Digest) -> bytes:
    """The digestAlgorithm, without parameters (RFC 5754, 2)."""
    return der.sequence(der.oid(_DIGEST_OIDS[digest]))


def write_scheme(scheme: Scheme) -> bytes:
    """The signatureAlgorithm; RSA is written as PKCS #1 v1.5 with rsaEncryption (RFC 5754, 3.2)."""
    if scheme.key == "EC":
        return der.sequence(der.oid(_ECDSA_OIDS[scheme.digest]))
    if scheme.key == "RSA":
        return der.sequence(der.oid(_RSA), der.NULL)
    return der.sequence(der.oid(_ED25519))


def _pss(parameters: der.Element, digest: Digest) -> Scheme:
    #   RSASSA-PSS-params ::= SEQUENCE { hashAlgorithm [0], maskGenAlgorithm [1], saltLength [2], trailerField [3] }
    # Their defaults are SHA-1 (RFC 4055, 3.1), so the first two must be there.
    fields = parameters.fields()
    own = _algorithm(fields.take(der.context(0)).fields(der.context(0)).take(der.SEQUENCE))[0]
    mask, inner = _algorithm(fields.take(der.context(1)).fields(der.context(1)).take(der.SEQUENCE))
    if own != _DIGEST_OIDS[digest] or mask != _MGF1 or inner is None or _algorithm(inner)[0] != own:
        raise UnsupportedFormat("cms-signature-unsupported", "RSASSA-PSS with mixed digests")
    salt = fields.optional(der.context(2))
    octets = 20 if salt is None else salt.fields(der.context(2)).take(der.INTEGER).integer()
    if not 0 <= octets <= MAX_SALT:
        raise Malformed("cms-pss-salt", f"{octets} octets")
    return Scheme("RSA", digest, pss_salt=octets)


def _algorithm(element: der.Element) -> tuple[str, der.Element | None]:
    #   AlgorithmIdentifier ::= SEQUENCE { algorithm OBJECT IDENTIFIER, parameters ANY OPTIONAL }
    members = element.children()
    if not 1 <= len(members) <= 2 or members[0].tag != der.OBJECT_IDENTIFIER:
        raise Malformed("cms-algorithm", "not an AlgorithmIdentifier")
    return members[0].oid(), members[1] if len(members) == 2 else None


def _check_no_parameters(parameters: der.Element | None) -> None:
    if parameters is not None and parameters.encoded != der.NULL:
        raise Malformed("cms-algorithm", "unexpected algorithm parameters")


# What nearly every message has, as DER: known by its bytes, without a look inside.
_USUAL_DIGESTS = {write_digest(digest): digest for digest in _DIGEST_OIDS}
_USUAL_SCHEMES = {write_scheme(scheme): scheme for scheme in _SCHEMES.values() if scheme.key != "RSA"}
