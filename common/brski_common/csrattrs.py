"""CSR attributes: what an EST server asks a client to put into its certificate request.

RFC 7030, 4.5.2 as clarified by RFC 8951, 3 and RFC 9908. Two styles say nearly the same:

- legacy: a list of bare OIDs ("include this") and attributes ("with this value"), where
  id-ExtensionReq holds the X.509 extensions;
- template: one attribute with a partially filled CertificationRequestInfo.

`CsrAttributes` holds the items as they crossed the wire, and DER is written back to the byte;
`CsrAttributes.wishes` is what they mean (`csrwishes`). A client that understands the template uses nothing else
(RFC 9908, 4), so the meaning comes from exactly one style. `ask` goes the other way and writes both.
What nobody understands is kept, and means nothing (RFC 7030, 4.5.2: ignore unknown OIDs).

Whether a request follows the wishes is decided in `csr`.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import InitVar, dataclass, field
from enum import Enum
from functools import lru_cache

from brski_common import der
from brski_common.csrwishes import (
    CHALLENGE_PASSWORD,
    CURVE_NAMES,
    EC_PUBLIC_KEY,
    ED25519,
    RSA_ENCRYPTION,
    Attribute,
    ExtensionWish,
    KeyWish,
    NameWish,
    Wishes,
    general_names,
    rsa_bits,
)
from brski_common.errors import Malformed

MAX_CSRATTRS_BYTES = 32 * 1024
REMEMBERED_KEYS = 16  # wishes for a key: a server has one for all of its devices

EXTENSION_REQUEST = "1.2.840.113549.1.9.14"
REQUEST_INFO_TEMPLATE = "1.2.840.113549.1.9.16.2.61"
EXTENSION_REQUEST_TEMPLATE = "1.2.840.113549.1.9.16.2.62"

_KEY_ALGORITHMS = frozenset({EC_PUBLIC_KEY, RSA_ENCRYPTION, ED25519})

# (key algorithm, hash) → signature algorithm; without a key algorithm the hash itself.
_SIGNATURES = {
    (EC_PUBLIC_KEY, "sha256"): "1.2.840.10045.4.3.2",
    (EC_PUBLIC_KEY, "sha384"): "1.2.840.10045.4.3.3",
    (EC_PUBLIC_KEY, "sha512"): "1.2.840.10045.4.3.4",
    (RSA_ENCRYPTION, "sha256"): "1.2.840.113549.1.1.11",
    (RSA_ENCRYPTION, "sha384"): "1.2.840.113549.1.1.12",
    (RSA_ENCRYPTION, "sha512"): "1.2.840.113549.1.1.13",
    (None, "sha256"): "2.16.840.1.101.3.4.2.1",
    (None, "sha384"): "2.16.840.1.101.3.4.2.2",
    (None, "sha512"): "2.16.840.1.101.3.4.2.3",
}
_HASHES = {oid: name for (_, name), oid in _SIGNATURES.items()}

_TEXT_CODECS = {
    der.UTF8_STRING: "utf-8",
    der.PRINTABLE_STRING: "ascii",
    der.IA5_STRING: "ascii",
    0x12: "ascii",  # NumericString
    0x14: "latin-1",  # TeletexString
    0x1E: "utf-16-be",  # BMPString
}
_VERSION_1 = 0
_WRITTEN_VERSION = der.integer(_VERSION_1)
_NO_ATTRIBUTES = der.explicit(1)


@dataclass(frozen=True, slots=True)
class CsrAttributes:
    """The items of a CSR attributes response in their order; raises Malformed if they make no sense.

    Who has just written the items gives the wishes as well; else they are read.
    """

    items: tuple[str | Attribute, ...] = ()
    wishes: Wishes = field(init=False, compare=False, repr=False)
    written: InitVar[Wishes | None] = None

    def __post_init__(self, written: Wishes | None) -> None:
        object.__setattr__(self, "wishes", written or _wishes(self.items))


class Style(Enum):
    """How `ask` writes: RFC 7030 and 8951, RFC 9908's template, or both (understood by every client)."""

    LEGACY = "legacy"
    TEMPLATE = "template"
    BOTH = "both"


def read(data: bytes) -> CsrAttributes:
    """Read the DER of a response; an empty SEQUENCE asks for nothing. Raises Malformed."""
    top = der.parse(data, limit=MAX_CSRATTRS_BYTES)
    if top.tag != der.SEQUENCE:
        raise Malformed("csrattrs-malformed", "not a SEQUENCE")
    return CsrAttributes(tuple(read_item(element) for element in top.children()))


def write(attributes: CsrAttributes) -> bytes:
    """The response as DER."""
    return der.sequence(*(der.oid(item) if isinstance(item, str) else _attribute(item) for item in attributes.items))


def ask(wishes: Wishes, style: Style = Style.BOTH) -> CsrAttributes:
    """The response that asks for `wishes`. The legacy style says what it can; the rest is left out of it."""
    legacy = () if style is Style.TEMPLATE else _ask_legacy(wishes)
    template = () if style is Style.LEGACY else (_ask_template(wishes),)
    return CsrAttributes((*legacy, *template), wishes if template and _is_plain(wishes) else None)


def _is_plain(wishes: Wishes) -> bool:
    """Whether a template says all of this and nothing else, so that it would be read just as it was asked."""
    key, subject = wishes.key, wishes.subject or ()
    return (
        not (wishes.hash or wishes.extensions or wishes.others)
        and (key is None or (key.bits is None and (key.curve is None or key.algorithm == EC_PUBLIC_KEY)))
        and all(len(rdn) == 1 and rdn[0].value is not None for rdn in subject)
    )


def read_item(element: der.Element) -> str | Attribute:
    """A bare OID, or an attribute with its values; raises Malformed."""
    if element.tag == der.OBJECT_IDENTIFIER:
        return element.oid()
    kind, values = element.members(der.OBJECT_IDENTIFIER, der.SET)
    return Attribute(kind.oid(), tuple([value.encoded for value in values.children()]))


def read_text(element: der.Element) -> str:
    """The text of a directory string, whichever of its types it has; raises Malformed."""
    try:
        return element.content.decode(_TEXT_CODECS[element.tag])
    except (KeyError, UnicodeDecodeError) as error:
        raise Malformed("text-malformed", f"an element 0x{element.tag:02x} is no text") from error


# Reading items


def _wishes(items: Sequence[str | Attribute]) -> Wishes:
    templates = [item for item in items if isinstance(item, Attribute) and item.oid == REQUEST_INFO_TEMPLATE]
    if len(templates) > 1:
        raise Malformed("csrattrs-template-ambiguous", "several templates")
    found = _read_template(templates[0]) if templates else None
    return found or _read_legacy(items)


def read_extensions(values: Iterable[bytes]) -> tuple[tuple[ExtensionWish, ...], tuple[str, ...]]:
    """The extensions in the values of an extension request, and bare OIDs found in their place; raises Malformed.

    Never two extensions of one kind (RFC 9908, 3.2).
    """
    wishes: dict[str, ExtensionWish] = {}
    others: list[str] = []
    for element in map(der.parse, values):
        if element.tag == der.OBJECT_IDENTIFIER:
            # RFC 8951's example: a bare OID where Extensions belong. It names an attribute (macAddress).
            others.append(element.oid())
            continue
        members = element.children()
        single = bool(members) and members[0].tag == der.OBJECT_IDENTIFIER  # an Extension without its list
        for wish in map(_extension, [element] if single else members):
            if wish.oid in wishes:
                raise Malformed("csrattrs-extension-ambiguous", f"{wish.oid} occurs twice")
            wishes[wish.oid] = wish
    return tuple(wishes.values()), tuple(others)


def _extension(element: der.Element) -> ExtensionWish:
    if element.tag == der.OBJECT_IDENTIFIER:
        return ExtensionWish(element.oid())
    members = element.fields()
    oid = members.take(der.OBJECT_IDENTIFIER).oid()
    critical, value = members.optional(der.BOOLEAN), members.optional(der.OCTET_STRING)
    members.end()
    # An empty extnValue is how earlier templates (RFC 9480, RFC 9483) left a value open.
    wish = ExtensionWish(
        oid, (value.octets() or None) if value else None, critical is not None and any(critical.content)
    )
    general_names(wish)  # raises now, not where the wish is followed
    return wish


def _read_legacy(items: Sequence[str | Attribute]) -> Wishes:
    bare = [item for item in items if isinstance(item, str)]
    attributes = [item for item in items if isinstance(item, Attribute)]
    requested = [value for item in attributes if item.oid == EXTENSION_REQUEST for value in item.values]
    extensions, others = read_extensions(requested)
    hashes = [_HASHES[oid] for oid in bare if oid in _HASHES]
    keys = [_legacy_key(item) for item in attributes if item.oid in _KEY_ALGORITHMS] + list(_bare_keys(bare))
    said = _HASHES.keys() | _KEY_ALGORITHMS | CURVE_NAMES.keys()
    return Wishes(
        key=keys[0] if keys else None,
        hash=hashes[0] if hashes else None,
        extensions=extensions,
        others=(*(oid for oid in bare if oid not in said), *others),
    )


def _legacy_key(attribute: Attribute) -> KeyWish:
    """The key wish in `type` and `values` (RFC 9908, 3.2): no value, a curve, or the bits of an RSA modulus."""
    if not attribute.values:
        return KeyWish(attribute.oid)
    value = der.parse(attribute.values[0])
    if attribute.oid == EC_PUBLIC_KEY and value.tag == der.OBJECT_IDENTIFIER:
        return KeyWish(EC_PUBLIC_KEY, curve=value.oid())
    if attribute.oid == RSA_ENCRYPTION and value.tag == der.INTEGER:
        return KeyWish(RSA_ENCRYPTION, bits=rsa_bits(value.integer()))
    return KeyWish(attribute.oid)


def _bare_keys(bare: Iterable[str]) -> Iterator[KeyWish]:
    """Key wishes as bare OIDs, the way of RFC 7030, A.2: a curve, or just an algorithm."""
    for oid in bare:
        if oid in CURVE_NAMES:
            yield KeyWish(EC_PUBLIC_KEY, curve=oid)
        elif oid in _KEY_ALGORITHMS:
            yield KeyWish(oid)


def _read_template(attribute: Attribute) -> Wishes | None:
    """The wishes in a CertificationRequestInfoTemplate; None if its version is one we do not understand."""
    if len(attribute.values) != 1:
        raise Malformed("csrattrs-template-malformed", f"{len(attribute.values)} values, exactly one is a template")
    members = der.parse(attribute.values[0]).fields()
    if members.take(der.INTEGER).integer() != _VERSION_1:
        return None
    subject, key = members.optional(der.SEQUENCE), members.optional(der.context(0))
    requested = [read_item(element) for element in members.take(der.context(1)).children()]
    members.end()
    extensions, others = _template_extensions(requested)
    return Wishes(
        subject=None if subject is None else tuple(_rdn(rdn) for rdn in subject.children()),
        key=None if key is None else _template_key(key),
        extensions=extensions,
        others=others,
    )


def _template_extensions(requested: Sequence[str | Attribute]) -> tuple[tuple[ExtensionWish, ...], tuple[str, ...]]:
    attributes = [item for item in requested if isinstance(item, Attribute)]
    found = [item for item in attributes if item.oid in (EXTENSION_REQUEST, EXTENSION_REQUEST_TEMPLATE)]
    if len(found) > 1:
        raise Malformed("csrattrs-template-malformed", "several extension requests in one template (RFC 9908, 3.4)")
    extensions, bare = read_extensions(value for item in found for value in item.values)
    return extensions, (*(item.oid for item in attributes if item not in found), *bare)


def _rdn(element: der.Element) -> tuple[NameWish, ...]:
    if element.tag != der.SET:
        raise Malformed("csrattrs-template-malformed", "an RDN is not a SET")
    return tuple(_name_wish(child) for child in element.children())


def _name_wish(element: der.Element) -> NameWish:
    members = element.children() if element.tag == der.SEQUENCE else []
    if len(members) not in (1, 2) or members[0].tag != der.OBJECT_IDENTIFIER:
        raise Malformed("csrattrs-template-malformed", "no attribute type and optional value")
    if len(members) == 1:
        return NameWish(members[0].oid())
    return NameWish(members[0].oid(), read_text(members[1]), members[1].tag)


def _template_key(element: der.Element) -> KeyWish:
    members = element.fields(der.context(0))
    algorithm = members.take(der.SEQUENCE).fields()
    dummy = members.optional(der.BIT_STRING)
    members.end()
    oid = algorithm.take(der.OBJECT_IDENTIFIER).oid()
    curve = algorithm.optional(der.OBJECT_IDENTIFIER) if oid == EC_PUBLIC_KEY else None
    if dummy is None or oid != RSA_ENCRYPTION:
        return KeyWish(oid, curve=curve.oid() if curve else None)
    modulus = der.parse(dummy.content[1:]).fields().take(der.INTEGER)
    return KeyWish(oid, bits=rsa_bits(modulus.integer().bit_length()))


# Writing items


def _attribute(attribute: Attribute) -> bytes:
    return der.sequence(der.oid(attribute.oid), der.set_of(*attribute.values))


def _ask_legacy(wishes: Wishes) -> Iterator[str | Attribute]:
    # The order is that of RFC 9908's examples.
    others = list(wishes.others)
    if CHALLENGE_PASSWORD in others:
        others.remove(CHALLENGE_PASSWORD)
        yield CHALLENGE_PASSWORD
    if wishes.key is not None:
        yield _ask_key(wishes.key)
    whole = [wish for wish in wishes.extensions if not wish.is_partial]
    if whole:
        yield _extension_request(EXTENSION_REQUEST, whole)
    yield from others
    yield from (attribute.oid for rdn in wishes.subject or () for attribute in rdn)
    if wishes.hash is not None:
        yield _signature_oid(wishes.key, wishes.hash)


@lru_cache(maxsize=REMEMBERED_KEYS)
def _ask_key(wish: KeyWish) -> Attribute:
    if wish.curve is not None:
        return Attribute(wish.algorithm, (der.oid(wish.curve),))
    return Attribute(wish.algorithm, () if wish.bits is None else (der.integer(wish.bits),))


def _signature_oid(key: KeyWish | None, name: str) -> str:
    found = _SIGNATURES.get((key.algorithm if key else None, name)) or _SIGNATURES.get((None, name))
    if found is None:
        raise Malformed("csrattrs-hash-unknown", name[:64])
    return found


def _ask_template(wishes: Wishes) -> Attribute:
    attributes = _NO_ATTRIBUTES
    if wishes.extensions:
        # RFC 9908, 3.4: id-ExtensionReq, unless something is left open; never both.
        partial = any(wish.is_partial for wish in wishes.extensions)
        request = _extension_request(EXTENSION_REQUEST_TEMPLATE if partial else EXTENSION_REQUEST, wishes.extensions)
        attributes = der.explicit(1, _attribute(request))
    members = [_WRITTEN_VERSION]
    if wishes.subject is not None:
        members.append(der.sequence(*(der.set_of(*map(_write_name_wish, rdn)) for rdn in wishes.subject)))
    if wishes.key is not None:
        members.append(_write_template_key(wishes.key))
    return Attribute(REQUEST_INFO_TEMPLATE, (der.sequence(*members, attributes),))


def _extension_request(oid: str, wishes: Iterable[ExtensionWish]) -> Attribute:
    return Attribute(oid, (der.sequence(*map(_write_extension, wishes)),))


def _write_extension(wish: ExtensionWish) -> bytes:
    critical = der.boolean(True) if wish.critical else b""
    return der.sequence(der.oid(wish.oid), critical, b"" if wish.value is None else der.octet_string(wish.value))


def _write_name_wish(wish: NameWish) -> bytes:
    if wish.value is None:
        return der.sequence(der.oid(wish.oid))
    try:
        return der.sequence(der.oid(wish.oid), der.tlv(wish.tag, wish.value.encode(_TEXT_CODECS[wish.tag])))
    except (KeyError, UnicodeEncodeError) as error:
        raise Malformed("text-malformed", f"{wish.oid} cannot be written with tag 0x{wish.tag:02x}") from error


@lru_cache(maxsize=REMEMBERED_KEYS)
def _write_template_key(wish: KeyWish) -> bytes:
    if wish.algorithm != RSA_ENCRYPTION:
        return der.explicit(0, der.sequence(der.oid(wish.algorithm), der.oid(wish.curve) if wish.curve else b""))
    return der.explicit(
        0, der.sequence(der.oid(RSA_ENCRYPTION), der.NULL), _dummy_rsa_key(wish.bits) if wish.bits else b""
    )


def _dummy_rsa_key(bits: int) -> bytes:
    """The size of an RSA key is said by a public key of that size that is none (RFC 9908, 3.4)."""
    return der.bit_string(der.sequence(der.integer((1 << (bits - 1)) | 1), der.integer(65537)))
