"""Say what an artefact of the family is, show it in the field's terms, and check it.

`inspect` is pure: bytes, anchors and a time go in, a `Report` comes out. The bytes may be DER or BER,
PEM, base64 or hex text, JSON or CBOR; nothing about the file's name is used. What departs from the
standards without being invalid is listed by `departures`, one line each with its requirement id.

Trust is judged where there are anchors, at the given time: that of certificates and that of a voucher.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from brski_common import artifact, auditlog, cms, csr, csrattrs, der, encoding, jws, strictcbor, strictjson
from brski_common.artifact import Format
from brski_common.certificates import PYCA_ERRORS, is_self_issued, load_certificate
from brski_common.errors import BrskiError, Malformed, UnsupportedFormat, Untrusted
from brski_common.paths import Anchors, build_path
from brski_common.strictjson import JsonValue
from brski_common.telemetry import printable
from brski_common.voucher import Voucher, VoucherData, VoucherRequest
from brski_interop import departures, terms
from brski_interop.armour import unwrap

MAX_FILE_BYTES = 1024 * 1024
MAX_PRIOR_DEPTH = 4  # a request in a request in a request

MAX_NAMED = 8  # of the certificates that follow in a file

_ENVELOPE_NAMES = {Format.CMS: "cms", Format.JWS: "jws", Format.COSE: "cose"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What one artefact is. `as_json` is the shape that scripts rely on."""

    kind: str
    format: str
    content: dict[str, JsonValue]
    signature: str = "absent"
    signer: str | None = None
    trust: str = "unchecked"
    prior: "Report | None" = None
    findings: tuple[str, ...] = ()
    certificates: tuple[x509.Certificate, ...] = field(default=(), repr=False)
    failures: tuple[str, ...] = ()
    armour: str | None = None  # the text around the bytes
    notes: tuple[str, ...] = ()  # what else there is in the file

    @property
    def acceptable(self) -> bool:
        """Whether no signature is invalid, the prior one's included, and no path is bad."""
        prior = self.prior is None or self.prior.signature != "invalid"
        return self.signature != "invalid" and self.trust != "untrusted" and prior

    def as_json(self) -> dict[str, JsonValue]:
        """The report as one JSON object."""
        members: dict[str, JsonValue] = {
            "kind": self.kind,
            "format": self.format,
            "content": self.content,
            "signature": self.signature,
            "signer": self.signer,
            "trust": self.trust,
            "findings": list(self.findings),
        }
        members |= {"notes": list(self.notes)} if self.notes else {}
        return members | ({} if self.prior is None else {"prior": self.prior.as_json()})


@dataclass(frozen=True, slots=True)
class Check:
    """What the reader knows: the anchors to check against (none: nothing is trusted or distrusted) and the time.

    `pool` holds certificates that are not trusted, but may stand between the artefact's own and an anchor.
    """

    anchors: Anchors
    now: datetime
    pool: tuple[x509.Certificate, ...] = ()


def inspect(data: bytes, check: Check) -> Report:
    """Read any artefact; raises Malformed if it is none."""
    if len(data) > MAX_FILE_BYTES:
        raise Malformed("file-too-large", f"{len(data)} bytes, at most {MAX_FILE_BYTES}")
    found = unwrap(data)
    report = _inspect_binary(found.data, replace(check, pool=found.company), depth=0)
    report = replace(report, armour=found.armour, notes=(*found.notes, *_more(found.company)))
    if found.armour == "base64" and report.kind in {"voucher", "voucher-request"} and report.format != "jws":
        note = "VR-01 the body is base64 text; on the wire a voucher is binary"
        report = replace(report, findings=(*report.findings, note))
    return report


def _more(certificates: Sequence[x509.Certificate]) -> Iterator[str]:
    if not certificates:
        return
    count = "1 more certificate follows" if len(certificates) == 1 else f"{len(certificates)} more certificates follow"
    names = [terms.name(certificate.subject) for certificate in certificates[:MAX_NAMED]]
    rest = ["…"] if len(certificates) > MAX_NAMED else []
    yield f"{count} in this file, and may serve to reach an anchor: {'; '.join(names + rest)}"


def _inspect_binary(data: bytes, check: Check, depth: int) -> Report:
    if data[:1] == b"{":
        return _inspect_json(data, check, depth)
    if _is_signed_data(data):
        return _cms(data, check, depth)
    if data[:1] == b"\x30":
        return _first_that_reads(data, check, depth, _DER_READERS)
    if data[:1] in (b"\xd2", b"\x84", b"\x82", b"\xa1"):
        return _first_that_reads(data, check, depth, _CBOR_READERS)
    raise Malformed("artefact-unknown", "neither DER, JSON nor CBOR of the voucher family")


Reader = Callable[[bytes, Check, int], Report]


def _first_that_reads(data: bytes, check: Check, depth: int, readers: Sequence[tuple[str, Reader]]) -> Report:
    """Try each kind; if none reads, say what each one missed."""
    missed = []
    for name, reader in readers:
        try:
            return reader(data, check, depth)
        except BrskiError as error:
            missed.append(f"{name}: {error}")
    raise Malformed("artefact-unknown", "; ".join(missed))


def _inspect_json(data: bytes, check: Check, depth: int) -> Report:
    document = strictjson.load_object(data, limit=MAX_FILE_BYTES)
    if "payload" in document and "signatures" in document:
        return _signed(data, Format.JWS, check, depth)
    if "events" in document:
        return _auditlog(data)
    try:
        claimed = encoding.read_json(data)
    except BrskiError as error:
        if len(document) != 1 or error.reason == "voucher-kind-unknown":
            raise Malformed("artefact-unknown", _foreign(document)) from error
        raise
    return _unsigned(claimed, "json", _members(data), check)


def _foreign(document: Mapping[str, JsonValue]) -> str:
    """Words for JSON that is none of ours."""
    if document.keys() >= {"serial-number", "idevid-issuer", "certificate", "chain"}:
        return "this is the manifest that `brski-masa idevid` writes, no artefact; inspect the chain.pem beside it"
    named = ", ".join(printable(member, 40) for member in list(document)[:MAX_NAMED])
    return f"this JSON ({named or 'empty'}) is no voucher, no request for one, no JWS and no audit log"


def _signed(data: bytes, artifact_format: Format, check: Check, depth: int) -> Report:
    parsed = artifact.parse_any(data, artifact_format)
    claimed = parsed.claimed
    members = encoding.json_members(claimed) if artifact_format is Format.COSE else _members(parsed.envelope.content)
    prior = _prior(claimed, check, depth)
    report = Report(
        kind=_kind(claimed),
        format=_ENVELOPE_NAMES[artifact_format],
        content=members,
        prior=prior,
        certificates=parsed.certificates,
        findings=(*departures.of_envelope(parsed), *departures.of_voucher(claimed, _prior_value(claimed))),
    )
    return _with_dates(_with_trust(_with_signature(report, parsed, check), parsed, check), claimed, check)


def _with_signature(report: Report, parsed: artifact.Unverified[VoucherData], check: Check) -> Report:
    """Verify by whoever came along, or by an anchor's key where nobody did."""
    if isinstance(parsed.envelope, jws.SignedJson) and len(parsed.envelope.signatures) > 1:
        return _with_countersignatures(report, parsed.envelope)
    candidates = () if parsed.certificates else check.anchors.certificates
    try:
        verified = parsed.verify_consistent(None) if parsed.certificates else None
        for candidate in candidates:
            with suppress(Untrusted):
                verified = parsed.verify_signed_by(candidate)
    except Untrusted as failure:
        if failure.reason in _PATH_REASONS:
            return _with_signer(report, parsed)
        return replace(report, signature="invalid", failures=(str(failure),))
    if verified is None:
        return replace(report, signature="unchecked")
    return replace(report, signature="valid", signer=terms.name(verified.signer.subject))


def _with_countersignatures(report: Report, envelope: jws.SignedJson) -> Report:
    """A voucher that the registrar signed below the MASA (draft-ietf-anima-brski-prm): every signature counts."""
    try:
        signers = jws.verify_each(envelope)
    except Untrusted as failure:
        return replace(report, signature="invalid", failures=(str(failure),))
    return replace(report, signature="valid", signer="; ".join(terms.name(signer.subject) for signer in signers))


# The signature held, but the chain that came along does not hold together: that is trust, not signature.
_PATH_REASONS = frozenset(
    ("path-not-found", "ca-not-allowed", "certificate-signature-invalid", "path-too-long", "critical-extension-unknown")
)


def _with_signer(report: Report, parsed: artifact.Unverified[VoucherData]) -> Report:
    for certificate in parsed.certificates:
        with suppress(Untrusted):
            signer = parsed.verify_signed_by(certificate).signer
            return replace(report, signature="valid", signer=terms.name(signer.subject))
    return replace(report, signature="invalid", failures=("no certificate that came along made the signature",))


def _with_trust(report: Report, parsed: artifact.Unverified[VoucherData], check: Check) -> Report:
    if not check.anchors or report.signature == "invalid":
        return report
    try:
        _verify_path(parsed, check)
    except Untrusted as failure:
        return replace(report, trust="untrusted", failures=(*report.failures, str(failure)))
    return replace(report, trust="trusted", signature="valid")


def _verify_path(parsed: artifact.Unverified[VoucherData], check: Check) -> None:
    if isinstance(parsed.envelope, jws.SignedJson) and len(parsed.envelope.signatures) > 1:
        first = jws.verify_each(parsed.envelope)[0]
        build_path(first, parsed.certificates, check.anchors, check.now, leaf_may_be_anchor=True)
    else:
        parsed.verify(check.anchors, check.now)


def _with_dates(report: Report, claimed: VoucherData, check: Check) -> Report:
    """A voucher's own dates: a finding, and where trust is asked for the end of it, as for a certificate's dates."""
    bad = tuple(departures.of_dates(claimed, check.now))
    report = replace(report, findings=(*report.findings, *bad))
    if not bad or report.trust != "trusted":
        return report
    failure = f"voucher-out-of-date: its signer is trusted, but it does not count at {encoding.encode_time(check.now)}"
    return replace(report, trust="untrusted", failures=(*report.failures, failure))


def _unsigned(claimed: VoucherData, form: str, members: dict[str, JsonValue], check: Check) -> Report:
    findings = departures.of_voucher(claimed, _prior_value(claimed))
    report = Report(kind=_kind(claimed), format=form, content=members, findings=tuple(findings))
    return _with_dates(report, claimed, check)


def _prior(claimed: VoucherData, check: Check, depth: int) -> Report | None:
    raw = claimed.prior_signed_voucher_request if isinstance(claimed, VoucherRequest) else None
    if raw is None or depth >= MAX_PRIOR_DEPTH:
        return None
    return _inspect_binary(raw, check, depth + 1)


def _prior_value(claimed: VoucherData) -> VoucherData | None:
    raw = claimed.prior_signed_voucher_request if isinstance(claimed, VoucherRequest) else None
    if raw is None:
        return None
    for artifact_format in Format:
        with suppress(BrskiError):
            return artifact.parse_any(raw, artifact_format).claimed
    return None


def _members(payload: bytes) -> dict[str, JsonValue]:
    """The voucher's members exactly as they stand in the JSON text."""
    (members,) = strictjson.load_object(payload).values()
    return dict(members) if isinstance(members, dict) else {}


def _kind(claimed: VoucherData) -> str:
    return "voucher" if isinstance(claimed, Voucher) else "voucher-request"


def _is_signed_data(data: bytes) -> bool:
    if data[:1] != b"\x30":
        return False
    members = der.parse(data, limit=MAX_FILE_BYTES).children()
    return bool(members) and members[0].tag == der.OBJECT_IDENTIFIER and members[0].oid() == cms.ID_SIGNED_DATA


def _cms(data: bytes, check: Check, depth: int) -> Report:
    try:
        return _signed(data, Format.CMS, check, depth)
    except UnsupportedFormat as failure:
        # Without content there is nothing signed: then it is a bag of certificates.
        if failure.reason != "cms-detached":
            raise
    return _certs_only(data, check)


def _cose(data: bytes, check: Check, depth: int) -> Report:
    return _signed(data, Format.COSE, check, depth)


def _certs_only(data: bytes, check: Check) -> Report:
    found = cms.parse_certs_only(data)
    shown: list[JsonValue] = [terms.of_certificate(certificate) for certificate in found]
    report = Report(kind="certs-only", format="cms", content={"certificates": shown}, certificates=found)
    if not found:
        return replace(report, findings=("E-09 no certificate is in the message",))
    return _judge_path(report, found[0], found[1:], check)


def _certificate(data: bytes, check: Check, depth: int) -> Report:
    del depth
    certificate = load_certificate(data)
    report = Report(
        kind="certificate",
        format="der",
        content=terms.of_certificate(certificate),
        signature="unchecked",
        signer=terms.name(certificate.issuer),
        certificates=(certificate, *check.pool),
        findings=tuple(departures.of_certificate(certificate)),
    )
    if is_self_issued(certificate):
        report = _judge_self_signature(report, certificate)
    return _judge_path(report, certificate, check.pool, check)


def _judge_self_signature(report: Report, certificate: x509.Certificate) -> Report:
    try:
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, *PYCA_ERRORS) as failure:
        return replace(report, signature="invalid", failures=(f"not signed by its own key: {type(failure).__name__}",))
    return replace(report, signature="valid")


def _judge_path(report: Report, leaf: x509.Certificate, pool: Sequence[x509.Certificate], check: Check) -> Report:
    if not check.anchors or report.signature == "invalid":
        return report
    try:
        build_path(leaf, pool, check.anchors, check.now, leaf_may_be_anchor=True)
    except Untrusted as failure:
        bad = failure.reason == "certificate-signature-invalid"
        signature = "invalid" if bad and report.kind == "certificate" else report.signature
        return replace(report, trust="untrusted", signature=signature, failures=(*report.failures, str(failure)))
    signature = "valid" if report.kind == "certificate" else report.signature
    return replace(report, trust="trusted", signature=signature)


def _csr(data: bytes, check: Check, depth: int) -> Report:
    del check, depth
    request = csr.read_csr(data, proof_of_possession=False)
    report = Report(kind="csr", format="der", content=terms.of_csr(request), signer=terms.name(request.subject))
    try:
        csr.read_csr(data)
    except BrskiError as failure:
        return replace(report, signature="invalid", failures=(str(failure),))
    return replace(report, signature="valid")


def _csrattrs(data: bytes, check: Check, depth: int) -> Report:
    del check, depth
    return Report(kind="csrattrs", format="der", content=terms.of_csrattrs(csrattrs.read(data)))


def _auditlog(data: bytes) -> Report:
    log = auditlog.read(data)
    return Report(
        kind="auditlog", format="json", content=terms.of_auditlog(log), findings=tuple(departures.of_auditlog(log))
    )


def _jpy(data: bytes, check: Check, depth: int) -> Report:
    del check, depth
    message = strictcbor.loads(data, limit=MAX_FILE_BYTES)
    if not isinstance(message, list) or len(message) < 2:
        raise Malformed("jpy-malformed", "not an array of header and content")
    header, content = message[:2]
    if not isinstance(header, bytes) or not isinstance(content, bytes):
        raise Malformed("jpy-malformed", "header and content are byte strings")
    findings = ("CB-24 the header is longer than 32 bytes",) if len(header) > 32 else ()
    return Report(kind="jpy", format="cbor", content=terms.of_jpy(header, content), findings=findings)


def _plain_cbor(data: bytes, check: Check, depth: int) -> Report:
    del depth
    claimed = encoding.read_cbor(data)
    return _unsigned(claimed, "cbor", encoding.json_members(claimed), check)


_DER_READERS: tuple[tuple[str, Reader], ...] = (
    ("certificate", _certificate),
    ("csr", _csr),
    ("csrattrs", _csrattrs),
)
_CBOR_READERS: tuple[tuple[str, Reader], ...] = (("cose", _cose), ("voucher data", _plain_cbor), ("jpy", _jpy))
