"""Signed vouchers and voucher requests: one way in, one way out, whatever the envelope.

The laws of this file:

1. What comes in is `Unverified`: its value is called `claimed`, and its bytes are kept as received.
2. Only the `verify…` methods make a `Verified`, and each says who must have signed:
   `verify` somebody under the given anchors, `verify_signed_by` the holder of one certificate,
   `verify_consistent` anybody with a complete chain of his own (RFC 8995, 5.5.3: the MASA takes an
   unknown domain CA as a temporary anchor).
3. A voucher is parsed as a voucher and a request as a request; the other is UnsupportedFormat.
4. A signed artifact is passed on as the bytes that came, never written anew.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from enum import Enum
from functools import lru_cache
from typing import Generic, NamedTuple, TypeVar

from cryptography import x509

from brski_common import cms, cose, encoding, jws
from brski_common.certificates import Credential, Facts, facts_of
from brski_common.errors import Malformed, UnsupportedFormat, Untrusted
from brski_common.paths import Anchors, find_path
from brski_common.voucher import Voucher, VoucherData, VoucherRequest

MAX_ARTIFACT_BYTES = 128 * 1024
REMEMBERED_TOPS = 32  # domains that came as temporary anchors
CLOCK_SKEW = timedelta(minutes=5)  # two clocks of one plant may differ by this much


class Format(Enum):
    """The envelopes of a voucher; the value is the media type (RFC 8995, 8.4 and the family's drafts)."""

    CMS = "application/voucher-cms+json"
    JWS = "application/voucher-jws+json"
    COSE = "application/voucher+cose"

    __hash__ = object.__hash__  # each is there once; Enum's own is a call at every look into a table

    def __init__(self, media_type: str) -> None:
        self.media_type = media_type  # without parameters; `value` is two calls

    @classmethod
    def of_media_type(cls, media_type: str) -> "Format":
        """The format with that media type; raises UnsupportedFormat."""
        found = _BY_MEDIA_TYPE.get(media_type)
        if found is None:
            raise UnsupportedFormat("media-type-unknown", media_type[:128])
        return found


_BY_MEDIA_TYPE = {each.value: each for each in Format}
_NOBODY = Anchors()
Envelope = cms.SignedData | jws.SignedJson | cose.Sign1
Model = TypeVar("Model", bound=VoucherData, covariant=True)
OfModel = TypeVar("OfModel", bound=VoucherData)


class Verified(NamedTuple, Generic[Model]):
    """An artifact whose signature held, and the path by which its signer is trusted (signer first).

    `facts` are what stands in each certificate of the path.
    """

    value: Model
    signer: x509.Certificate
    path: tuple[x509.Certificate, ...]
    facts: tuple[Facts, ...]
    raw: bytes
    format: Format


class Unverified(NamedTuple, Generic[Model]):
    """An artifact as received. `claimed` is what somebody says, `certificates` are whatever came along.

    `facts` are what stands in each of these.
    """

    claimed: Model
    certificates: tuple[x509.Certificate, ...]
    facts: tuple[Facts, ...]
    raw: bytes
    format: Format
    envelope: Envelope

    def verify(self, anchors: Anchors, now: datetime | None, *, pool: Iterable[Facts] = ()) -> Verified[Model]:
        """Verify the signature and the signer's path to one of `anchors`; raises Untrusted.

        `pool` adds intermediates to those that came along. The signer itself may be an anchor, as a
        MASA's pinned key is. `now=None`: no trusted clock, dates are not checked.
        """
        signer = _verify_signature(self.envelope, None, anchors)
        _check_signing_time(self.envelope, now)
        path = find_path(facts_of(signer), (*self.facts, *pool), anchors, now, leaf_may_be_anchor=True)
        return self._verified(path)

    def verify_signed_by(self, certificate: x509.Certificate) -> Verified[Model]:
        """Verify that the key of `certificate`, which the caller trusts, made the signature; raises Untrusted."""
        signer = _verify_signature(self.envelope, certificate, _NOBODY)
        return self._verified((facts_of(signer),))

    def verify_consistent(self, now: datetime | None, *, beside: Collection[x509.Certificate] = ()) -> Verified[Model]:
        """Verify the signature, and that the signer's chain as it came along holds together; raises Untrusted.

        This shows consistency only. The last of the path says which domain the signer speaks for.
        `beside` are certificates that came along for another reason, such as a pledge's chain.
        """
        signer = _verify_signature(self.envelope, None, _NOBODY)
        _check_signing_time(self.envelope, now)
        leaf = facts_of(signer)
        own = [facts for facts in self.facts if facts.certificate not in beside] if beside else self.facts
        tops = tuple([facts for facts in own if facts.is_ca and facts.is_self_issued])
        if not tops:
            tops = (_highest(leaf, own),)
        alone = len(tops) == 1 and tops[0].der == leaf.der
        return self._verified(find_path(leaf, own, _as_anchors(tops), now, leaf_may_be_anchor=alone))

    def _verified(self, path: tuple[Facts, ...]) -> Verified[Model]:
        certificates = tuple([facts.certificate for facts in path])
        return Verified(self.claimed, certificates[0], certificates, path, self.raw, self.format)


def parse_voucher(data: bytes, artifact_format: Format) -> Unverified[Voucher]:
    """Read a signed voucher; raises Malformed, or UnsupportedFormat where it is no voucher."""
    return _parse(data, artifact_format, Voucher)


def parse_voucher_request(data: bytes, artifact_format: Format) -> Unverified[VoucherRequest]:
    """Read a signed voucher request; raises Malformed, or UnsupportedFormat where it is no voucher request."""
    return _parse(data, artifact_format, VoucherRequest)


def parse_any(data: bytes, artifact_format: Format) -> Unverified[VoucherData]:
    """Read either of the two, for inspection; raises Malformed, UnsupportedFormat."""
    return _parse(data, artifact_format, VoucherData)


def sign(
    model: VoucherData,
    artifact_format: Format,
    credential: Credential,
    *,
    signing_time: datetime | None = None,
    certificates: Sequence[x509.Certificate] | None = None,
    content_type: str = cms.ID_CT_ANIMA_JSON_VOUCHER,
) -> bytes:
    """Sign a voucher or voucher request.

    `certificates` go along, by default the credential's chain. `content_type` is the CMS eContentType
    (RFC 8366, 5.4): id-data for peers that know nothing else.
    """
    if artifact_format is Format.CMS:
        content = encoding.write_json(model)
        return cms.sign(
            content, credential, content_type=content_type, signing_time=signing_time, certificates=certificates
        )
    if artifact_format is Format.JWS:
        return jws.sign(encoding.write_json(model), credential, certificates=certificates)
    return cose.sign(encoding.write_cbor(model), credential, certificates=certificates)


def _parse(data: bytes, artifact_format: Format, kind: type[OfModel]) -> Unverified[OfModel]:
    if len(data) > MAX_ARTIFACT_BYTES:
        raise Malformed("artifact-too-large", f"{len(data)} bytes, at most {MAX_ARTIFACT_BYTES}")
    raw = bytes(data)
    envelope = _PARSERS[artifact_format](raw)
    reader = encoding.read_cbor if artifact_format is Format.COSE else encoding.read_json
    claimed = reader(envelope.content)
    if not isinstance(claimed, kind):
        raise UnsupportedFormat("voucher-kind-unexpected", f"a {type(claimed).__name__}, wanted a {kind.__name__}")
    certificates = envelope.certificates
    facts = tuple([facts_of(certificate) for certificate in certificates])
    return Unverified(claimed, certificates, facts, raw, artifact_format, envelope)


def _verify_signature(envelope: Envelope, signer: x509.Certificate | None, anchors: Anchors) -> x509.Certificate:
    """Ask the envelope's own verifier. A signer that did not come along may be one of the anchors."""
    try:
        return _verify(envelope, signer)
    except Untrusted:
        # The signer did not come along, as an anchor need not: ask each anchor's key.
        for anchor in anchors.certificates if signer is None else ():
            with suppress(Untrusted):
                return _verify(envelope, anchor)
        raise


def _verify(envelope: Envelope, signer: x509.Certificate | None) -> x509.Certificate:
    if isinstance(envelope, cms.SignedData):
        return cms.verify(envelope, signer)
    if isinstance(envelope, jws.SignedJson):
        return jws.verify(envelope, signer)
    return cose.verify(envelope, signer)


def _check_signing_time(envelope: Envelope, now: datetime | None) -> None:
    """With a trusted clock the signature was not made in the future (RFC 8995, 2.6.1); raises Untrusted."""
    signed_at = envelope.signers[0].signing_time if isinstance(envelope, cms.SignedData) else None
    if now is not None and signed_at is not None and signed_at > now + CLOCK_SKEW:
        raise Untrusted("signing-time-in-future", f"signed {signed_at}, now {now}")


@lru_cache(maxsize=REMEMBERED_TOPS)
def _as_anchors(tops: tuple[Facts, ...]) -> Anchors:
    return Anchors([facts.certificate for facts in tops])


def _highest(signer: Facts, pool: Sequence[Facts]) -> Facts:
    """The end of the chain that came along without its root: the last certificate reached by issuer names."""
    highest = signer
    for _ in pool:
        above = [facts for facts in pool if facts.subject == highest.issuer]
        if not above or above[0].der == highest.der or highest.is_self_issued:
            break
        highest = above[0]
    return highest


_PARSERS: dict[Format, Callable[[bytes], Envelope]] = {
    Format.CMS: cms.parse,
    Format.JWS: jws.parse,
    Format.COSE: cose.parse,
}
