"""The pledge against artefacts that others made: vouchers of openssl, EST bodies in every style of the field."""

import base64
import textwrap
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from brski_common import der, encoding, est, issuing
from brski_common.certificates import Credential, to_pem
from brski_common.voucher import Voucher
from brski_pledge import actions, events
from tests.support.foreign import ID_CT_ANIMA_JSON_VOUCHER, openssl
from tests.support.registrar_fake import Answer, FakeRegistrar, Reply, Stage
from tests.support.vectors import vector
from tests.support.world import NOW, YEARS, Domain, Manufacturer

MAKER = Manufacturer()


def sign(folder: Path, content: bytes, signer: Credential, *options: str) -> bytes:
    """`openssl cms -sign` with the maker's voucher signer."""
    (folder / "chain.pem").write_bytes(to_pem(*signer.chain))
    pem = signer.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "key.pem").write_bytes(pem)
    named = ["-signer", str(folder / "chain.pem"), "-inkey", str(folder / "key.pem"), "-md", "sha256"]
    return openssl("cms", "-sign", "-binary", "-nodetach", "-outform", "DER", *named, *options, data=content)


def masa_of_openssl(folder: Path, *options: str) -> Callable[[FakeRegistrar, actions.Send], Reply]:
    """A registrar whose MASA signs with openssl; `options` say how."""

    def voucher(registrar: FakeRegistrar, send: actions.Send) -> Reply:
        from brski_common import artifact
        from brski_common.artifact import Format

        request = artifact.parse_voucher_request(send.body, Format.CMS).claimed
        wanted: Voucher = registrar.voucher_for(request)
        body = sign(folder, encoding.write_json(wanted), MAKER.voucher_signer, *options)
        return Answer(200, body, {"Content-Type": "application/voucher-cms+json; charset=binary"})

    return voucher


@pytest.mark.req("VA-05", "V-CMS-02", "V-CMS-03")
@pytest.mark.parametrize(
    "options",
    [(), ("-econtent_type", ID_CT_ANIMA_JSON_VOUCHER), ("-stream",), ("-keyid",), ("-nosmimecap",)],
    ids=["id-data", "animaJSONVoucher", "BER", "key id", "no capabilities"],
)
def test_a_voucher_of_openssl_is_believed(options: tuple[str, ...], tmp_path: Path) -> None:
    stage = Stage(trusted_clock=False)  # openssl signs now, whatever the clock of the tests says
    registrar = stage.add()
    registrar.always["requestvoucher"] = masa_of_openssl(tmp_path, *options)
    stage.find()
    assert isinstance(stage.run(), actions.Done), stage.told(events.VoucherRefused)


@pytest.mark.req("AT-22", "V-CMS-04", "BIS-10")
def test_a_voucher_of_openssl_without_signed_attributes_is_refused(tmp_path: Path) -> None:
    stage = Stage(trusted_clock=False)
    registrar = stage.add()
    registrar.always["requestvoucher"] = masa_of_openssl(tmp_path, "-noattr")
    stage.find()
    stage.run(3)
    assert [report.status for report in registrar.reports("voucher_status")] == [False]


@pytest.mark.req("PV-01", "AT-22")
def test_a_voucher_that_a_stranger_signed_along_is_refused(tmp_path: Path) -> None:
    """Two signers, one of them right: exactly one is wanted."""
    stranger = Manufacturer("Evil Maker").voucher_signer
    folder = tmp_path / "stranger"
    folder.mkdir()
    sign(folder, b"", stranger)
    extra = ("-signer", str(folder / "chain.pem"), "-inkey", str(folder / "key.pem"))
    stage = Stage(trusted_clock=False)
    registrar = stage.add()
    registrar.always["requestvoucher"] = masa_of_openssl(tmp_path, *extra)
    stage.find()
    stage.run(3)
    assert [report.status for report in registrar.reports("voucher_status")] == [False]


# EST bodies


def _lines(data: bytes, end: str) -> bytes:
    return end.join(textwrap.wrap(base64.b64encode(data).decode(), 64)).encode() + end.encode()


STYLES: dict[str, Callable[[bytes], bytes]] = {
    "one line": lambda data: base64.b64encode(data) + b"\n",
    "no end": base64.b64encode,
    "wrapped with LF": lambda data: _lines(data, "\n"),
    "wrapped with CRLF": lambda data: _lines(data, "\r\n"),
    "with blanks and tabs": lambda data: b" \t" + _lines(data, " \t\n"),
    "plain DER": lambda data: data,
    "PEM": lambda data: b"-----BEGIN PKCS7-----\n" + _lines(data, "\n") + b"-----END PKCS7-----\n",
}


def _restyled(style: Callable[[bytes], bytes]) -> Callable[[FakeRegistrar, actions.Send], Reply]:
    def answer(registrar: FakeRegistrar, send: actions.Send) -> Reply:
        reply = registrar.behave(send.path.rpartition("/")[2], send)
        assert isinstance(reply, Answer)
        headers = {"Content-Type": "application/pkcs7-mime", "Content-Transfer-Encoding": "8bit"}
        return replace(reply, body=style(est.decode_body(reply.body)), headers=headers)

    return answer


@pytest.mark.req("E51-01", "E51-02")
@pytest.mark.parametrize("style", STYLES)
def test_est_bodies_are_read_in_every_style(style: str) -> None:
    stage = Stage()
    registrar = stage.add()
    for operation in ("cacerts", "simpleenroll"):
        registrar.always[operation] = _restyled(STYLES[style])
    stage.find()
    assert isinstance(stage.run(), actions.Done)
    (enroll,) = registrar.asked("simpleenroll")
    assert base64.b64encode(base64.b64decode(enroll.body)) + b"\n" == enroll.body


OLD_ATTRIBUTES = {
    "challengePassword": der.sequence(der.oid("1.2.840.113549.1.9.7")),
    "nothing": der.sequence(),
    "what nobody knows": der.sequence(der.oid("2.999.1"), der.oid("1.3.6.1.4.1.32473.7")),
    "a curve": der.sequence(der.sequence(der.oid("1.2.840.10045.2.1"), der.set_of(der.oid("1.3.132.0.34")))),
    "an unknown attribute": der.sequence(der.sequence(der.oid("2.999.2"), der.set_of(der.integer(5)))),
}


@pytest.mark.req("CA-07", "E-21")
@pytest.mark.parametrize("story", OLD_ATTRIBUTES)
def test_csr_attributes_of_the_old_kind_are_followed_or_skipped(story: str) -> None:
    stage = Stage()
    registrar = stage.add()
    registrar.always["csrattrs"] = Answer(200, est.encode_body(OLD_ATTRIBUTES[story]))
    stage.find()
    assert isinstance(stage.run(), actions.Done), stage.steps()
    assert stage.did(actions.MakeKey)[0].kind == ("P-384" if story == "a curve" else "P-256")


@pytest.mark.req("CA-07", "EI-04")
@pytest.mark.parametrize(
    "name", ["rfc7030-example01", "harkins01", "harkins02", "harkins03", "realistic-acp", "potato-example"]
)
def test_the_published_csr_attributes_are_followed(name: str) -> None:
    stage = Stage()
    registrar = stage.add()
    registrar.always["csrattrs"] = Answer(200, vector(f"rfc9908-csrattrs/{name}.csrattr.b64"))
    stage.find()
    assert isinstance(stage.run(), actions.Done), stage.told(events.AttemptFailed)
    if name == "realistic-acp":
        csr = est.read_csr(est.decode_body(registrar.asked("simpleenroll")[0].body))
        names = csr.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (acp,) = names.get_values_for_type(x509.OtherName)
        assert acp.value.endswith(b"9rfc8994+fd739fc23c3440112233445500000000+@acp.example.com"[1:])


@pytest.mark.req("E-10", "EI-02")
def test_roll_over_certificates_help_and_only_roots_are_anchors() -> None:
    """Old root, new root, and each signed by the other (RFC 7030, 4.1.3)."""
    old, new = Domain(), Domain("Example Plant, next")
    cross = [
        issuing.subordinate_ca(by.root, of.root.key.public_key(), of.root.certificate.subject, now=NOW, lifetime=YEARS)
        for by, of in ((old, new), (new, old))
    ]
    stage = Stage()
    registrar = stage.add()
    certificates = [old.root.certificate, new.root.certificate, *cross, old.issuing.certificate]
    registrar.always["cacerts"] = Answer(200, est.encode_body(est.certs_only(certificates)))
    stage.find()
    done = stage.run()
    assert isinstance(done, actions.Done)
    assert set(done.enrollment.anchors) == {old.root.certificate, new.root.certificate}
    assert NOW + timedelta(days=1) < done.enrollment.credential.certificate.not_valid_after_utc
