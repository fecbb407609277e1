from datetime import timedelta
from ipaddress import IPv6Network

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes

from brski_common import csrattrs, der
from brski_common.certificates import (
    Credential,
    fingerprint,
    load_certificate,
    public_key_info,
    subject_key_id,
    to_der,
)
from brski_common.csrwishes import ACP_NODE_NAME, SUBJECT_ALTERNATIVE_NAME
from brski_common.errors import Misconfigured, Refused
from brski_common.issuing import name
from brski_common.paths import Anchors, build_path
from brski_registrar.acp import MAX_NODE_NUMBER, Addressing
from brski_registrar.ca import LocalAuthority
from brski_registrar.enrolling import Profile
from brski_registrar.lifecycle import State
from brski_registrar.records import Device
from tests.support.world import NOW, YEARS, Clock, Domain, key_for

PROFILE = Profile(subject=name("SN-1", serial_number="SN-1"), not_before=NOW, not_after=NOW + timedelta(days=365))
ADDRESSING = Addressing(domain="acp.example.com", registrar_id=0x0200_5E10_0001)


def csr_for(
    key: CertificateIssuerPrivateKeyTypes, subject: x509.Name = PROFILE.subject
) -> x509.CertificateSigningRequest:
    asks_everything = x509.BasicConstraints(ca=True, path_length=3)
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    return builder.add_extension(asks_everything, critical=True).sign(key, hashes.SHA256())


def device(number: int = 7) -> Device:
    return Device(
        id=number,
        manufacturer="Example Maker",
        serial_number="SN-1",
        issuer="",
        state=State.APPROVED,
        is_barred=False,
        reason="",
        fingerprint="",
        certificate=b"",
        address="",
        media_type="",
        pvr_sha256="",
        nonce=None,
        masa="",
        rvr=None,
        csr_sha256="",
        created_at=NOW,
        changed_at=NOW,
    )


def authority(**options: object) -> LocalAuthority:
    return LocalAuthority(Domain().issuing, clock=Clock(), **options)  # type: ignore[arg-type] # options of the class


async def test_a_certificate_says_what_the_profile_says_and_not_what_the_request_says() -> None:
    key = key_for("device 1")
    csr = csr_for(key, name("somebody else", serial_number="SN-2"))
    certificate = await authority().issue(csr, PROFILE)
    assert certificate.subject == PROFILE.subject
    assert public_key_info(certificate.public_key()) == public_key_info(key.public_key())
    assert not certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert subject_key_id(certificate) is not None
    assert certificate.not_valid_after_utc == PROFILE.not_after
    domain = Domain()
    assert build_path(certificate, domain.issuing.chain, domain.anchors, NOW)[-1] == domain.root.certificate


async def test_whoever_comes_with_a_new_certificate_has_it_read_already() -> None:
    certificate = await authority().issue(csr_for(key_for("device 1")), PROFILE)
    assert load_certificate(to_der(certificate)) is certificate


async def test_serial_numbers_are_random() -> None:
    csr = csr_for(key_for("device 1"))
    serials = {(await authority().issue(csr, PROFILE)).serial_number for _ in range(8)}
    assert len(serials) == 8
    assert min(serials) > 2**64


async def test_no_certificate_outlives_the_authority() -> None:
    greedy = PROFILE._replace(not_after=NOW + 20 * YEARS, not_before=NOW - 20 * YEARS)
    certificate = await authority().issue(csr_for(key_for("device 1")), greedy)
    issuer = Domain().issuing.certificate
    assert certificate.not_valid_after_utc == issuer.not_valid_after_utc
    assert certificate.not_valid_before_utc == issuer.not_valid_before_utc


async def test_an_authority_at_its_end_issues_nothing() -> None:
    clock = Clock()
    old = LocalAuthority(Domain().issuing, clock=clock)
    clock.now = Domain().issuing.certificate.not_valid_after_utc - timedelta(minutes=5)
    with pytest.raises(Misconfigured, match="ca-expired"):
        await old.issue(csr_for(key_for("device 1")), PROFILE)


async def test_a_slow_key_signs_in_a_thread() -> None:
    certificate = await authority(in_thread=True).issue(csr_for(key_for("device 1")), PROFILE)
    assert certificate.subject == PROFILE.subject


@pytest.mark.req("E-09")
async def test_cacerts_hold_the_way_from_the_issuing_ca_to_the_root() -> None:
    assert await authority().ca_certs() == Domain().issuing.chain


async def test_certificates_of_a_change_of_root_follow_each_once() -> None:
    domain, other = Domain(), Domain("Other Plant")
    held = LocalAuthority(
        domain.issuing,
        clock=Clock(),
        rollover=(other.root.certificate, domain.root.certificate, other.root.certificate),
    )
    assert await held.ca_certs() == (*domain.issuing.chain, other.root.certificate)


async def test_a_device_is_asked_for_its_serial_number() -> None:
    asked = await authority().csr_attributes(device())
    subject = asked.wishes.subject
    assert subject is not None
    assert [(wish.oid, wish.value) for rdn in subject for wish in rdn] == [("2.5.4.5", "SN-1")]
    assert asked.wishes.key is None


@pytest.mark.parametrize("kind", ["P-256", "P-384", "RSA-3072", "Ed25519"])
async def test_a_kind_of_key_can_be_asked_for(kind: str) -> None:
    asked = await authority(key_kind=kind).csr_attributes(device())
    read = csrattrs.read(csrattrs.write(asked))
    assert read.wishes.key is not None
    assert read.wishes.key.kind == kind


async def test_a_device_can_be_asked_to_take_an_acp_node_name() -> None:
    asked = await authority(addressing=ADDRESSING).csr_attributes(device(7))
    wish = csrattrs.read(csrattrs.write(asked)).wishes.extension(SUBJECT_ALTERNATIVE_NAME)
    assert wish is not None
    assert wish.value is not None
    assert ADDRESSING.node_name(7).encode() in wish.value
    assert der.oid(ACP_NODE_NAME) in wish.value


def test_acp_addresses_are_in_the_prefix_of_their_domain_and_differ() -> None:
    network = IPv6Network((ADDRESSING.prefix << 64, 64))
    addresses = {ADDRESSING.address(number) for number in (1, 2, MAX_NODE_NUMBER)}
    assert len(addresses) == 3
    assert all(address in network and address.is_private for address in addresses)
    assert ADDRESSING.prefix >> 56 == 0xFD


def test_the_acp_prefix_is_that_of_rfc_8994() -> None:
    # RFC 8994, 6.11.2: the example there is SHA-256("area51.research.acp.example.com") = 89b714f3db…
    area = Addressing(domain="acp.example.com", registrar_id=1, routing_subdomain="area51.research")
    assert f"{area.prefix:016x}" == "fd89b714f3db0000"
    assert area.node_name(2).startswith("rfc8994+fd89b714f3db0000")
    assert area.node_name(2).endswith("+area51.research@acp.example.com")


@pytest.mark.parametrize("number", [0, -1, MAX_NODE_NUMBER + 1])
def test_a_registrar_runs_out_of_acp_addresses_at_some_time(number: int) -> None:
    with pytest.raises(Refused, match="acp-addresses-exhausted"):
        ADDRESSING.address(number)


async def test_the_authority_is_known_by_its_issuing_certificate() -> None:
    assert fingerprint(authority().issuer) == fingerprint(Domain().issuing.certificate)


def test_an_anchor_of_another_domain_does_not_reach() -> None:
    leaf = Domain().ldevid("SN-1")
    with pytest.raises(Exception, match="path-not-found"):
        build_path(leaf.certificate, leaf.chain, Anchors([Domain("Other Plant").root.certificate]), NOW)
    assert isinstance(leaf, Credential)
