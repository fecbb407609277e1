"""What a client puts into its certificate request, given what the server asked for.

`fill` derives the plan from the CSR attributes and from what the client knows of itself (RFC 7030,
4.5.2; RFC 9908, 3); `compose` signs the request. Given values are used as they are, open ones are
filled in, unknown ones ignored. Nothing is added that was not asked for.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.oid import AttributeOID, NameOID

from brski_common import der
from brski_common.certificates import PYCA_ERRORS, PrivateKey
from brski_common.csrattrs import CsrAttributes
from brski_common.csrwishes import (
    CHALLENGE_PASSWORD,
    SUBJECT_ALTERNATIVE_NAME,
    SUBJECT_ATTRIBUTES,
    ExtensionWish,
    KeyWish,
    NameWish,
    Wishes,
    general_names,
    is_hole,
)
from brski_common.errors import Malformed
from brski_common.issuing import name_attribute, signature_hash

_HASHES: dict[str | None, hashes.SHA256 | hashes.SHA384 | hashes.SHA512] = {
    "sha256": hashes.SHA256(),
    "sha384": hashes.SHA384(),
    "sha512": hashes.SHA512(),
}
_DIRECTORY_NAME, _IP_ADDRESS = 4, 7  # the tags of GeneralName


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a client is to put into its request. `unfilled` names what was asked and cannot be provided."""

    subject: x509.Name
    key: KeyWish | None = None
    hash: str | None = None
    extensions: tuple[ExtensionWish, ...] = ()
    challenge_password: bool = False
    unfilled: tuple[str, ...] = ()


def fill(
    asked: CsrAttributes,
    subject: x509.Name,
    *,
    own: Iterable[x509.ExtensionType] = (),
    addresses: Iterable[IPv4Address | IPv6Address] = (),
) -> Plan:
    """Derive a request from what was asked and what the client knows of itself.

    `subject` is the client's own name, for example its IDevID's: it is the subject where the server
    asks for none, and the source of values the server left open. `own` are extensions to use
    where one is asked for without a value; `addresses` fill open iPAddress names. Raises Malformed.
    """
    wishes = asked.wishes
    filling = _Filling(subject, {value.oid.dotted_string: value.public_bytes() for value in own}, iter(addresses))
    return Plan(
        subject=filling.subject(wishes),
        key=wishes.key,
        hash=wishes.hash,
        extensions=tuple(filling.extensions(wishes.extensions)),
        challenge_password=CHALLENGE_PASSWORD in wishes.others,
        unfilled=tuple(dict.fromkeys(filling.unfilled)),
    )


def compose(plan: Plan, key: PrivateKey, *, challenge: str | None = None) -> x509.CertificateSigningRequest:
    """Sign the request with the key to be certified; `challenge` is its challengePassword. Raises Malformed."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(plan.subject)
    algorithm = _HASHES.get(plan.hash) or signature_hash(key)
    try:
        for wish in plan.extensions:
            value = x509.UnrecognizedExtension(x509.ObjectIdentifier(wish.oid), wish.value or b"")
            builder = builder.add_extension(value, critical=wish.critical)
        if challenge is not None:
            builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, challenge.encode())
        return builder.sign(key, None if isinstance(key, ed25519.Ed25519PrivateKey) else algorithm)
    except PYCA_ERRORS as error:
        raise Malformed("csr-not-composable", f"{type(error).__name__}: {error}") from error


class _Filling:
    """The client's own values, and note of those it does not have."""

    def __init__(
        self, name: x509.Name, own: Mapping[str, bytes], addresses: Iterator[IPv4Address | IPv6Address]
    ) -> None:
        self.name = name
        self.own = own
        self.addresses = addresses
        self.unfilled: list[str] = []

    def subject(self, wishes: Wishes) -> x509.Name:
        if wishes.subject is None:
            have = {attribute.oid.dotted_string for attribute in self.name}
            self.unfilled += [oid for oid in wishes.others if oid.startswith(SUBJECT_ATTRIBUTES) and oid not in have]
            return self.name
        try:
            rdns = [[attribute for wish in rdn for attribute in self._name_attribute(wish)] for rdn in wishes.subject]
            return x509.Name([x509.RelativeDistinguishedName(rdn) for rdn in rdns if rdn])
        except PYCA_ERRORS as error:
            raise Malformed("csrattrs-subject-malformed", f"{type(error).__name__}: {error}") from error

    def extensions(self, wishes: Iterable[ExtensionWish]) -> Iterator[ExtensionWish]:
        for wish in wishes:
            value = self._value(wish)
            if value is None:
                self.unfilled.append(wish.oid)
            else:
                yield ExtensionWish(wish.oid, value, wish.critical)

    def _name_attribute(self, wish: NameWish) -> list[x509.NameAttribute[str]]:
        oid = x509.ObjectIdentifier(wish.oid)
        value = wish.value or self._own_value(oid)
        if value is None:
            self.unfilled.append(wish.oid)
            return []
        return [name_attribute(oid, value)]

    def _own_value(self, oid: x509.ObjectIdentifier) -> str | None:
        found = self.name.get_attributes_for_oid(oid)
        if not found and oid == NameOID.COMMON_NAME:
            # A device always has a serial number, and it is what people call the device by.
            found = self.name.get_attributes_for_oid(NameOID.SERIAL_NUMBER)
        return str(found[0].value) if found else None

    def _value(self, wish: ExtensionWish) -> bytes | None:
        if wish.value is None:
            return self.own.get(wish.oid)
        if not wish.is_partial:
            return wish.value
        names = [filled for name in general_names(wish) if (filled := self._general_name(name))]
        return der.sequence(*names) if names else None

    def _general_name(self, name: bytes) -> bytes | None:
        if not is_hole(name):
            return name
        if name[0] == der.context(_DIRECTORY_NAME):
            return der.explicit(_DIRECTORY_NAME, self.name.public_bytes())
        address = next(self.addresses, None)
        if address is None:
            self.unfilled.append(SUBJECT_ALTERNATIVE_NAME)
            return None
        return der.tlv(der.context(_IP_ADDRESS, constructed=False), address.packed)
