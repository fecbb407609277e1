"""Who a TLS client is: makers' anchors, the serial number, and what an IDevID may look like."""

from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from brski_common import der, issuing
from brski_common.certificates import ID_ON_HARDWARE_MODULE_NAME, Credential, Peer
from brski_common.errors import BrskiError, Unknown, Untrusted
from brski_registrar.identity import REMEMBERED_PEERS, Maker, Pledge, Trust
from brski_registrar.policy import SerialField
from tests.support.plant import record_of
from tests.support.world import NOW, YEARS, Manufacturer, key_for

MAKER = Manufacturer()
PRIVATE = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")


def pledge_with(credential: Credential, maker: Manufacturer = MAKER, **record: object) -> Pledge:
    trust = Trust([Maker.of(record_of(maker, **record))])
    return trust.pledge(Peer(credential.certificate, credential.chain), NOW)


@pytest.mark.req("ID-02", "ID-10")
def test_the_serial_number_is_2_5_4_5_and_not_the_certificates_own() -> None:
    pledge = pledge_with(MAKER.idevid("SN-77"))
    assert pledge.serial_number == "SN-77"
    assert str(pledge.certificate.serial_number) != "SN-77"


@pytest.mark.req("ID-09")
def test_a_maker_may_have_it_elsewhere() -> None:
    name = issuing.name("CN-42", serial_number="other")
    credential = MAKER.idevid("x", subject=name)
    assert pledge_with(credential, serial_field=SerialField.COMMON_NAME).serial_number == "CN-42"
    for value, text in ((b"HW-9", "HW-9"), (b"\xff\x01", "ff01")):
        module = der.sequence(der.oid("1.3.6.1.4.1.99999.2"), der.octet_string(value))
        names = x509.SubjectAlternativeName([x509.OtherName(ID_ON_HARDWARE_MODULE_NAME, module)])
        credential = MAKER.idevid("x", extensions=[(names, False)])
        assert pledge_with(credential, serial_field=SerialField.HARDWARE_MODULE_NAME).serial_number == text


@pytest.mark.parametrize(
    ("name", "field", "reason"),
    [
        (issuing.name("no serial"), SerialField.SERIAL_NUMBER, "serial-number-missing"),
        (issuing.name("a\u202eb"), SerialField.COMMON_NAME, "serial-number-unusable"),
        (issuing.name("x", serial_number="y"), SerialField.HARDWARE_MODULE_NAME, "serial-number-missing"),
    ],
)
def test_without_a_serial_number_it_is_no_pledge(name: x509.Name, field: SerialField, reason: str) -> None:
    with pytest.raises(Untrusted) as refused:
        pledge_with(MAKER.idevid("x", subject=name), serial_field=field)
    assert refused.value.reason == reason


@pytest.mark.req("ID-08")
@pytest.mark.parametrize(
    "usages", [(), (ExtendedKeyUsageOID.CLIENT_AUTH,), (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE,)]
)
def test_usages_that_fit_or_none_are_taken(usages: tuple[x509.ObjectIdentifier, ...]) -> None:
    extensions: list[tuple[x509.ExtensionType, bool]] = [(issuing.signing_key_usage(), True)]
    extensions += [(x509.ExtendedKeyUsage(usages), False)] if usages else []
    assert pledge_with(MAKER.idevid("SN", extensions=extensions)).serial_number == "SN"


@pytest.mark.parametrize(
    "extension",
    [x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), issuing.signing_key_usage(certificates=True)],
)
def test_what_is_no_tls_client_is_no_pledge(extension: x509.ExtensionType) -> None:
    with pytest.raises(Untrusted, match="idevid-usage"):
        pledge_with(MAKER.idevid("SN", extensions=[(extension, False)]))


def test_a_makers_ca_is_no_pledge() -> None:
    with pytest.raises(Untrusted, match="idevid-is-ca"):
        pledge_with(MAKER.idevid_ca)


@pytest.mark.req("TL-12", "AT-16")
def test_only_the_makers_own_anchors_count() -> None:
    other = Manufacturer(name="Other Maker")
    trust = Trust([Maker.of(record_of(MAKER)), Maker.of(record_of(other))])
    for maker in (MAKER, other):
        credential = maker.idevid("SN-1")
        pledge = trust.pledge(Peer(credential.certificate, credential.chain), NOW)
        assert pledge.manufacturer.name == maker.name
    stranger = Manufacturer(name="Stranger").idevid("SN-1")
    with pytest.raises(Unknown, match="manufacturer-unknown"):
        trust.pledge(Peer(stranger.certificate, stranger.chain), NOW)


def test_a_ca_that_only_bears_the_anchors_name_is_unknown() -> None:
    key = key_for("counterfeit root")
    root = issuing.root_ca(key, MAKER.root.certificate.subject, now=NOW, lifetime=YEARS)
    forged = MAKER.idevid("SN-1", issuer=Credential(key, (root,)))
    with pytest.raises(Unknown):
        pledge_with(forged)


def test_a_critical_extension_is_tolerated_only_by_name() -> None:
    private = x509.UnrecognizedExtension(PRIVATE, b"\x05\x00")
    credential = MAKER.idevid("SN", extensions=[(private, True)])
    with pytest.raises(Unknown, match="critical-extension-unknown"):
        pledge_with(credential)
    assert pledge_with(credential, tolerated_critical=(PRIVATE.dotted_string,)).serial_number == "SN"


@pytest.mark.req("ID-13")
def test_dates_are_checked_each_time() -> None:
    credential = MAKER.idevid("SN", not_after=NOW + timedelta(hours=1))
    peer = Peer(credential.certificate, credential.chain)
    trust = Trust([Maker.of(record_of(MAKER))])
    assert trust.pledge(peer, NOW).serial_number == "SN"
    with pytest.raises(Untrusted, match="certificate-expired"):
        trust.pledge(peer, NOW + timedelta(hours=2))
    lenient = Trust([Maker.of(record_of(MAKER, ignore_expired_idevid=True))])
    assert lenient.pledge(peer, NOW + timedelta(hours=2)).serial_number == "SN"


def test_a_device_is_recognised_once_for_its_connection_and_for_one_state_of_the_policy() -> None:
    credential = MAKER.idevid("SN-1")
    peer = Peer(credential.certificate, credential.chain)
    trust = Trust([Maker.of(record_of(MAKER))])
    known = trust.pledge(peer, NOW)
    assert trust.pledge(peer, NOW) is known
    assert trust.pledge(Peer(credential.certificate, credential.chain), NOW) == known
    with pytest.raises(Unknown, match="manufacturer-unknown"):
        Trust().pledge(peer, NOW)


def test_as_many_connections_as_there_may_be_are_each_known_as_who_they_are() -> None:
    trust, key = Trust([Maker.of(record_of(MAKER))]), key_for("many devices")
    for number in range(REMEMBERED_PEERS + 10):
        credential = MAKER.idevid(f"SN-{number}", key=key)
        # Of those that are forgotten, others take the place in memory.
        assert trust.pledge(Peer(credential.certificate, credential.chain), NOW).serial_number == f"SN-{number}"
    assert len(trust._recognised) == REMEMBERED_PEERS


def test_who_was_refused_is_not_remembered() -> None:
    trust = Trust([Maker.of(record_of(MAKER))])
    for stranger in (Manufacturer(name="Stranger").idevid("SN-1"), MAKER.idevid_ca):
        for _ in range(2):
            with pytest.raises(BrskiError):
                trust.pledge(Peer(stranger.certificate, stranger.chain), NOW)
    assert not trust._recognised


@pytest.mark.req("TL-12")
def test_nobody_without_a_certificate() -> None:
    with pytest.raises(BrskiError) as refused:
        Trust().pledge(None, NOW)
    assert refused.value.reason == "client-certificate-missing"
