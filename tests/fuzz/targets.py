"""The targets: one reader each, its good inputs, and what must hold of every input, good or bad.

The laws of this file:
1. A reader gives a value or raises BrskiError. Any other exception is a finding.
2. What was read and is written again reads as the same value.
3. A signature that holds under our anchors is over what its owner signed, whatever was changed around it.
4. Law 2 and 3 are checked here (`Broken`); time and memory by `tests.fuzz.running`.
"""

import json
import math
import unicodedata
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, partial

import cbor2
from cryptography import x509

from brski_common import (
    auditlog,
    certificates,
    cms,
    csr,
    csrattrs,
    csrplan,
    der,
    encoding,
    est,
    grasp,
    strictcbor,
    strictjson,
    telemetry,
)
from brski_common.artifact import Format
from brski_common.certificates import load_certificate, load_pem
from brski_common.errors import BrskiError
from brski_common.paths import verify_host
from brski_interop.inspection import Check, inspect
from tests.fuzz import seeds, signed
from tests.fuzz.fixed import NOW, key, plant
from tests.fuzz.mutation import MAX_INPUT
from tests.fuzz.signed import Broken, holds

Reader = Callable[[bytes], object]


@dataclass(frozen=True, slots=True)
class Target:
    """A reader under test. `limit` is the length of the longest input, in bytes."""

    name: str
    read: Reader
    seeds: Callable[[], Sequence[bytes]]
    limit: int = MAX_INPUT


# ASN.1


def read_der(data: bytes) -> None:
    """The whole tree, every value in it, and the same bytes again if they were DER."""
    element = der.parse(data)
    holds(element.encoded == data, "the element is not the bytes it was read from")
    again = _walk(element)
    if element.is_der:
        holds(again == data, "DER written again differs")


def _walk(element: der.Element) -> bytes:
    if element.tag & 0x20:
        if element.tag == der.OCTET_STRING | 0x20:
            _or_refused(element.octets)
        return der.tlv(element.tag, *map(_walk, element.children()))
    value = _VALUES.get(element.tag)
    if value is not None:
        _or_refused(partial(value, element))
    return der.tlv(element.tag, element.content)


_VALUES: dict[int, Callable[[der.Element], object]] = {
    der.INTEGER: der.Element.integer,
    der.OBJECT_IDENTIFIER: der.Element.oid,
    der.UTC_TIME: der.Element.time,
    der.GENERALIZED_TIME: der.Element.time,
    der.UTF8_STRING: csrattrs.read_text,
    der.PRINTABLE_STRING: csrattrs.read_text,
    0x1E: csrattrs.read_text,
}


def _or_refused(value: Callable[[], object]) -> None:
    with suppress(BrskiError):
        value()


def read_certificate(data: bytes) -> None:
    """A certificate and everything the suite reads in one."""
    certificate = load_certificate(data)
    for value in (
        *(certificates.serial_number, certificates.masa_url, certificates.idevid_issuer_forms, certificates.domain_id),
        *(certificates.hardware_module_name, certificates.extended_key_usages, certificates.is_ca),
        *(
            certificates.authority_key_id,
            certificates.common_name,
            certificates.spki_sha256,
            certificates.is_self_issued,
        ),
        partial(verify_host, host="registrar.example"),
        partial(verify_host, host="127.0.0.1"),
    ):
        _or_refused(partial(value, certificate))
    holds(load_certificate(certificates.to_der(certificate)) == certificate, "the certificate does not read again")


def read_pem(data: bytes) -> None:
    """A PEM text."""
    found = load_pem(data)
    holds(load_pem(certificates.to_pem(*found)) == found, "the certificates do not read again")


def read_certs_only(data: bytes) -> None:
    """A certs-only message."""
    found = cms.parse_certs_only(data)
    holds(set(cms.parse_certs_only(cms.certs_only(found))) == set(found), "the certificates do not read again")


# Plain vouchers


def read_json(data: bytes) -> None:
    """Any JSON: what we take, Python's own reader takes as the same, and so do we once more."""
    value = strictjson.loads(data)
    holds(_same(json.loads(data), value), "Python reads another value")
    holds(_same(strictjson.loads(strictjson.dumps(value)), value), "written again it differs")


def read_cbor(data: bytes) -> None:
    """Any CBOR, read, written by cbor2 and read again."""
    value = strictcbor.loads(data)
    holds(_same(strictcbor.loads(cbor2.dumps(value)), value), "written again it differs")


def _same(one: object, other: object) -> bool:
    """Equality for which NaN is NaN, and 1, 1.0 and True are three."""
    return repr(one) == repr(other)


def read_json_voucher(data: bytes) -> None:
    """A voucher or a request as YANG-JSON."""
    written = encoding.write_json(encoding.read_json(data))  # with times cut to the millisecond
    holds(encoding.write_json(encoding.read_json(written)) == written, "written again it differs")


def read_cbor_voucher(data: bytes) -> None:
    """A voucher or a request as YANG-CBOR."""
    written = encoding.write_cbor(encoding.read_cbor(data))  # with times cut to the millisecond
    holds(encoding.write_cbor(encoding.read_cbor(written)) == written, "written again it differs")


# Enrollment


def read_est_body(data: bytes) -> None:
    """An EST body."""
    found = est.decode_body(data)
    if found[:1] == b"\x30":
        holds(est.decode_body(est.encode_body(found)) == found, "armoured again it differs")


def read_csr(data: bytes) -> None:
    """A request, with and without proof of possession, judged against what we ask and what it renews."""
    request = csr.read_csr(data, proof_of_possession=False)
    csr.attributes(request)
    csr.requested_extensions(request)
    _ = request.subject, request.extensions
    certificate = plant()["ldevid"].certificate
    judges: tuple[Callable[[x509.CertificateSigningRequest], object], ...] = (
        *(csr.challenge_password, csr.change_subject_name),
        *(partial(csr.check_csr, asked) for asked in _asked()),
        *(lambda it: csr.check_renewal(it, certificate), lambda _: csr.key_wish(csr.read_csr(data).public_key())),
    )
    for judge in judges:
        _or_refused(partial(judge, request))


@cache
def _asked() -> tuple[csrattrs.CsrAttributes, ...]:
    return tuple(map(csrattrs.read, seeds.csr_attributes()[:2]))


def read_csrattrs(data: bytes) -> None:
    """What a server asks for: written again, followed by a client, and asked in every style."""
    asked = csrattrs.read(data)
    written = csrattrs.write(asked)  # in DER: the values of an attribute are sorted now
    holds(csrattrs.write(csrattrs.read(written)) == written, "written again it differs")
    for style in csrattrs.Style:
        _or_refused(partial(_ask_again, asked, style))
    _or_refused(partial(_follow, asked))


def _ask_again(asked: csrattrs.CsrAttributes, style: csrattrs.Style) -> None:
    csrattrs.read(csrattrs.write(csrattrs.ask(asked.wishes, style)))


def _follow(asked: csrattrs.CsrAttributes) -> None:
    plan = csrplan.fill(asked, plant()["ldevid"].certificate.subject)
    request = csrplan.compose(plan, key("follower", "Ed25519"))
    csr.check_csr(asked, request)


def read_server_key(data: bytes) -> None:
    """An answer of server-side key generation: the Content-Type is what stands before the first line feed."""
    kind, _, body = data.partition(b"\n")
    answer = est.read_server_key(kind.decode("latin-1"), body)
    if answer.key[:1] == answer.certificates[:1] == b"\x30":
        holds(est.read_server_key(*est.write_server_key(answer)) == answer, "written again it differs")


# Reports and logs


def read_telemetry(data: bytes) -> None:
    """A JSON report. What a person will see of it is one harmless line."""
    report = telemetry.read(data)
    _check_report(report)
    holds(telemetry.read(telemetry.write(report)) == report, "written again it differs")


def read_cbor_telemetry(data: bytes) -> None:
    """A CBOR report; it can also be handed on as JSON."""
    report = telemetry.read_cbor(data)
    _check_report(report)
    holds(telemetry.read_cbor(telemetry.write_cbor(report)) == report, "written again it differs")
    telemetry.read(telemetry.write(report))


def _check_report(report: telemetry.Telemetry) -> None:
    shown = [report.reason or "", *report.unknown, *_texts(report.reason_context)]
    holds(all(map(_is_harmless, shown)), "a text controls the terminal")
    holds(len(report.reason or "") <= telemetry.MAX_REASON, "the reason is too long")


def _is_harmless(text: str) -> bool:
    return text.isprintable() or not any(unicodedata.category(it)[0] == "C" or it in "\u2028\u2029" for it in text)


def _texts(context: telemetry.Context) -> list[str]:
    if isinstance(context, str):
        return [context]
    if isinstance(context, float):
        holds(math.isfinite(context), "a number that JSON does not have")
    if isinstance(context, dict):
        return [text for pair in context.items() for part in pair for text in _texts(part)]
    return [text for item in context for text in _texts(item)] if isinstance(context, list) else []


def read_auditlog(data: bytes) -> None:
    """An audit log."""
    log = auditlog.read(data)
    if log.events:
        written = auditlog.write(log)  # with times cut to the millisecond
        holds(auditlog.write(auditlog.read(written)) == written, "written again it differs")


def read_flood(data: bytes) -> None:
    """A GRASP flood. What is not ours to read is dropped at the first reading, and nothing at the second."""
    written = grasp.write_flood(grasp.read_flood(data))
    holds(grasp.write_flood(grasp.read_flood(written)) == written, "written again it differs")


# Anything


def read_inspected(data: bytes) -> None:
    """`brski inspect`: the report is JSON, whatever the file was."""
    report = inspect(data, Check(seeds.anchors(), NOW))
    strictjson.dumps(report.as_json())


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("der", read_der, seeds.asn1),
        Target("certificate", read_certificate, seeds.certificate_seeds, certificates.MAX_CERTIFICATE_BYTES + 512),
        Target("pem", read_pem, seeds.pems),
        Target("certs-only", read_certs_only, seeds.certs_only),
        Target("cms", signed.reader(Format.CMS), partial(seeds.signed, Format.CMS)),
        Target("jws", signed.reader(Format.JWS), partial(seeds.signed, Format.JWS)),
        Target("cose", signed.reader(Format.COSE), partial(seeds.signed, Format.COSE)),
        Target("json", read_json, seeds.json_vouchers),
        Target("cbor", read_cbor, seeds.cbor_vouchers),
        Target("json-voucher", read_json_voucher, seeds.json_vouchers),
        Target("cbor-voucher", read_cbor_voucher, seeds.cbor_vouchers),
        Target("est-body", read_est_body, seeds.est_bodies),
        Target("csr", read_csr, seeds.csrs),
        Target("csrattrs", read_csrattrs, seeds.csr_attributes),
        Target("server-key", read_server_key, seeds.server_keys),
        Target("telemetry", read_telemetry, seeds.reports),
        Target("telemetry-cbor", read_cbor_telemetry, seeds.cbor_reports),
        Target("auditlog", read_auditlog, seeds.auditlogs),
        Target("grasp", read_flood, seeds.floods, grasp.MAX_FLOOD_BYTES + 64),
        Target("path", signed.read_chain, seeds.chains),
        Target("path-resigned", signed.read_resigned_chain, seeds.chains),
        Target("inspect", read_inspected, seeds.anything),
    )
}

__all__ = ["TARGETS", "Broken", "Target"]
