"""Whether a registrar was revoked, as the voucher wants it known (RFC 8366, 5.3)."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from brski_common import artifact, issuing
from brski_common.artifact import Format
from brski_common.certificates import ID_KP_CMC_RA, Credential, Peer, to_der
from brski_common.errors import Untrusted
from brski_common.voucher import Assertion, Voucher
from brski_pledge import actions
from brski_pledge.phases import Phase
from brski_pledge.revocation import MAX_LISTS, check_revocation, lists_wanted
from brski_pledge.vouchering import Imprint, Revocation, judge_registrar
from tests.support.registrar_fake import FakeRegistrar, Stage
from tests.support.world import NOW, Domain, Manufacturer, key_for

URL = "http://crl.plant.example/issuing.crl"
DOMAIN = Domain()


def points(*urls: str) -> x509.CRLDistributionPoints:
    return x509.CRLDistributionPoints(
        [x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None) for url in urls]
    )


def registrar(*urls: str) -> Credential:
    key = key_for("registrar with lists")
    certificate = issuing.end_entity(
        DOMAIN.issuing,
        key.public_key(),
        issuing.name("Registrar"),
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=100),
        extended_key_usage=(ID_KP_CMC_RA,),
        extensions=[(points(*urls), False)] if urls else [],
    )
    return Credential(key, (certificate, *DOMAIN.issuing.chain))


def imprint(asked: bool | None, *urls: str) -> Imprint:
    """Pinned is the issuing CA, so that one certificate has to be checked."""
    value = Voucher(
        serial_number="SN-1",
        assertion=Assertion.LOGGED,
        pinned_domain_cert=to_der(DOMAIN.issuing.certificate),
        domain_cert_revocation_checks=asked,
    )
    maker = Manufacturer()
    body = artifact.sign(value, Format.CMS, maker.voucher_signer)
    voucher = artifact.parse_voucher(body, Format.CMS).verify(maker.voucher_anchors, NOW)
    shown = registrar(*urls)
    return judge_registrar(voucher, Peer(shown.certificate, shown.chain), NOW)


def crl(
    revoked: Sequence[x509.Certificate] = (),
    *,
    issuer: Credential | None = None,
    age: timedelta = timedelta(0),
    extension: x509.ExtensionType | None = None,
) -> bytes:
    issuer = issuer or DOMAIN.issuing
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.certificate.subject)
    builder = builder.last_update(NOW - age - timedelta(hours=1)).next_update(NOW - age + timedelta(days=1))
    for each in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(each.serial_number).revocation_date(NOW)
        builder = builder.add_revoked_certificate(entry.build())
    if extension is not None:
        builder = builder.add_extension(extension, critical=True)
    return builder.sign(issuer.key, issuing.signature_hash(issuer.key)).public_bytes(Encoding.DER)


def refused(reason: str, judged: Imprint, lists: dict[str, bytes]) -> None:
    with pytest.raises(Untrusted) as caught:
        check_revocation(judged, lists, NOW)
    assert caught.value.reason == reason


@pytest.mark.req("PV-14")
def test_true_demands_a_valid_list_that_does_not_name_the_registrar() -> None:
    judged = imprint(True, URL)
    assert judged.revocation is Revocation.REQUIRED
    assert lists_wanted(judged) == (URL,)
    check_revocation(judged, {URL: crl()}, NOW)
    refused("certificate-revoked", judged, {URL: crl([judged.registrar])})
    refused("revocation-not-checked", judged, {})


@pytest.mark.req("PV-14")
def test_true_without_any_way_to_check_is_refused() -> None:
    with pytest.raises(Untrusted, match="revocation-not-checkable"):
        lists_wanted(imprint(True))


@pytest.mark.req("PV-14")
def test_false_forbids_the_check() -> None:
    assert lists_wanted(imprint(False, URL)) == ()


@pytest.mark.req("PV-14")
def test_absent_means_that_a_list_is_heeded_if_it_can_be_had() -> None:
    judged = imprint(None, URL)
    check_revocation(judged, {}, NOW)
    refused("certificate-revoked", judged, {URL: crl([judged.registrar])})
    assert lists_wanted(imprint(None)) == ()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"0\x80",
        b"-----BEGIN X509 CRL-----\nAAAA\n-----END X509 CRL-----\n",
        crl(issuer=Domain("Other Plant").issuing),
        crl(age=timedelta(days=30)),
        crl(age=timedelta(days=-30)),
        crl(extension=x509.IssuingDistributionPoint(None, None, True, False, None, False, False)),
    ],
    ids=["nothing", "junk", "junk PEM", "stranger's", "old", "future", "partial"],
)
def test_a_list_that_says_nothing_is_no_check(data: bytes) -> None:
    refused("revocation-not-checked", imprint(True, URL), {URL: data})


def test_without_a_clock_an_old_list_still_names_the_revoked() -> None:
    judged = imprint(True, URL)
    check_revocation(judged, {URL: crl(age=timedelta(days=30))}, None)
    with pytest.raises(Untrusted):
        check_revocation(judged, {URL: crl([judged.registrar], age=timedelta(days=30))}, None)


def test_only_a_few_plain_urls_are_fetched() -> None:
    many = [f"http://{number}.example/crl" for number in range(20)]
    judged = imprint(True, "ldap://x/y", "https://x/y", "http://" + "a" * 2000, *many)
    assert lists_wanted(judged) == tuple(many[:MAX_LISTS])


# In the conversation


def _stage(asked: bool | None, *urls: str) -> tuple[Stage, FakeRegistrar]:
    stage = Stage()
    shown = registrar(*urls)
    fake = stage.add(
        credential=shown,
        change_voucher=lambda voucher: replace(
            voucher,
            pinned_domain_cert=to_der(DOMAIN.issuing.certificate),
            domain_cert_revocation_checks=asked,
        ),
    )
    stage.find()
    return stage, fake


@pytest.mark.req("PV-14")
def test_the_pledge_fetches_the_list_before_it_believes() -> None:
    stage, fake = _stage(True, URL)
    stage.lists[URL] = crl()
    assert isinstance(stage.run(), actions.Done)
    assert Phase.CHECK in stage.phases
    assert [report.status for report in fake.reports("voucher_status")] == [True]


@pytest.mark.req("PV-14")
def test_the_pledge_refuses_a_revoked_registrar_and_sends_it_nothing_of_est() -> None:
    stage, fake = _stage(None, URL)
    stage.lists[URL] = crl([registrar(URL).certificate, fake.peer.certificate])
    stage.run(3)
    assert [report.status for report in fake.reports("voucher_status")] == [False]
    assert fake.asked("cacerts") == []


@pytest.mark.req("PV-14")
def test_a_list_that_never_comes_is_not_waited_for_forever() -> None:
    stage, fake = _stage(True, URL)
    stage.fetches = False
    stage.run(60)
    assert not fake.reports("voucher_status")[0].status
