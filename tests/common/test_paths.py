"""Certification paths: what leads to an anchor, and everything that does not (RFC 5280, 6)."""

import ipaddress
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from brski_common import der, issuing
from brski_common.certificates import Credential, load_certificate, load_pem, to_der
from brski_common.errors import Untrusted
from brski_common.paths import MAX_POOL, Anchors, build_path, check_link, check_path, verify_host
from tests.support.vectors import vector
from tests.support.world import NOW, YEARS, Domain, Manufacturer, key_for, make_key, self_signed_registrar


@pytest.fixture(scope="module")
def maker() -> Manufacturer:
    return Manufacturer()


@pytest.fixture(scope="module")
def plant() -> Domain:
    return Domain()


def refusal(leaf: x509.Certificate, pool: list[x509.Certificate], anchors: Anchors, **options: object) -> str:
    with pytest.raises(Untrusted) as refused:
        build_path(leaf, pool, anchors, NOW, **options)  # type: ignore[arg-type]  # options are named as they are
    return refused.value.reason


def ca(
    name: str, issuer: Credential | None = None, *, path_length: int | None = None, kind: str = "P-256"
) -> Credential:
    key = key_for(name, kind)
    if issuer is None:
        return Credential(key, (issuing.root_ca(key, issuing.name(name), now=NOW, lifetime=YEARS),))
    certificate = issuing.subordinate_ca(
        issuer, key.public_key(), issuing.name(name), now=NOW, lifetime=YEARS, path_length=path_length
    )
    return Credential(key, (certificate, *issuer.chain))


def leaf_of(issuer: Credential, **options: object) -> x509.Certificate:
    arguments: dict[str, object] = {"not_before": NOW - timedelta(days=1), "not_after": NOW + timedelta(days=1)}
    return issuing.end_entity(
        issuer,
        key_for("leaf").public_key(),
        issuing.name("Leaf"),
        **(arguments | options),  # type: ignore[arg-type]  # options are named as they are
    )


@pytest.mark.req("AR-07")
@pytest.mark.parametrize("kind", ["P-256", "P-384", "RSA-2048", "Ed25519"])
def test_a_device_leads_to_its_maker_with_every_signature_suite(kind: str) -> None:
    maker = Manufacturer(name=f"Maker {kind}", kind=kind)
    device = maker.idevid("SN-1")
    path = build_path(device.certificate, device.chain[1:], maker.idevid_anchors, NOW)
    assert path == device.chain


def test_the_order_and_repetition_of_the_pool_do_not_matter(maker: Manufacturer) -> None:
    device = maker.idevid("SN-1")
    pool = [*reversed(device.chain), *device.chain]
    assert build_path(device.certificate, pool, maker.idevid_anchors, NOW) == device.chain


def test_an_intermediate_may_be_the_anchor(maker: Manufacturer) -> None:
    device = maker.idevid("SN-1")
    anchors = Anchors([maker.idevid_ca.certificate])
    assert build_path(device.certificate, (), anchors, NOW) == device.chain[:2]


@pytest.mark.req("TL-12", "AT-16")
def test_a_foreign_makers_device_leads_nowhere(maker: Manufacturer) -> None:
    counterfeit = Manufacturer(name="Counterfeiter").idevid("SN-1")
    assert refusal(counterfeit.certificate, list(counterfeit.chain), maker.idevid_anchors) == "path-not-found"


@pytest.mark.req("AT-23")
def test_a_ca_of_the_same_name_with_another_key_is_not_the_anchor(plant: Domain) -> None:
    name = plant.issuing.certificate.subject
    impostor_key = make_key()
    impostor = Credential(impostor_key, (issuing.root_ca(impostor_key, name, now=NOW, lifetime=YEARS),))
    leaf = leaf_of(impostor)
    assert (
        refusal(leaf, [impostor.certificate], Anchors([plant.issuing.certificate])) == "certificate-signature-invalid"
    )


def test_the_certificate_that_the_rfc_printed_does_not_verify_under_its_ca() -> None:
    (printed,) = load_pem(vector("rfc8995/pledge_idevid.AUTH48-xml-0x2aec41d4.crt.pem"))
    (good,) = load_pem(vector("rfc8995/pledge_idevid.crt.pem"))
    vendor = Anchors.from_pem(vector("rfc8995/vendor_ca.crt.pem"))
    assert len(build_path(good, (), vendor, None)) == 2
    with pytest.raises(Untrusted):
        build_path(printed, (), vendor, None)


@pytest.mark.req("ST-06")
def test_dates_are_checked_with_a_trusted_clock(maker: Manufacturer) -> None:
    device = maker.idevid("SN-1", not_after=NOW - timedelta(seconds=1))
    assert refusal(device.certificate, list(device.chain), maker.idevid_anchors) == "certificate-expired"
    young = leaf_of(maker.idevid_ca, not_before=NOW + timedelta(seconds=1), not_after=NOW + YEARS)
    assert refusal(young, list(device.chain), maker.idevid_anchors) == "certificate-not-yet-valid"


def test_the_dates_of_a_path_that_is_known_are_checked_again(maker: Manufacturer) -> None:
    device, anchors = maker.idevid("SN-1", not_after=NOW + timedelta(days=9)), Anchors([maker.root.certificate])
    found = build_path(device.certificate, device.chain, anchors, NOW)
    assert build_path(device.certificate, device.chain, anchors, NOW + timedelta(days=1)) == found
    for days, reason in ((10, "certificate-expired"), (-40, "certificate-not-yet-valid")):
        with pytest.raises(Untrusted, match=reason):
            build_path(device.certificate, device.chain, anchors, NOW + timedelta(days=days))
    assert build_path(device.certificate, device.chain, anchors, None) == found


def test_another_path_is_found_when_the_known_one_is_over(maker: Manufacturer) -> None:
    key, name = maker.idevid_ca.key.public_key(), maker.idevid_ca.certificate.subject
    lifetime = timedelta(days=9)
    old, new = (
        issuing.subordinate_ca(maker.root, key, name, now=NOW + delay, lifetime=lifetime)
        for delay in (timedelta(), lifetime)
    )
    leaf, anchors = maker.idevid("SN-1").certificate, maker.idevid_anchors
    found = [build_path(leaf, [old, new], anchors, NOW + timedelta(days=days))[1] for days in (1, 2, 10, 11, 2)]
    assert found == [old, old, new, new, old]


@pytest.mark.req("ST-05")
def test_dates_are_ignored_without_one(maker: Manufacturer) -> None:
    device = maker.idevid("SN-1", not_after=NOW - timedelta(days=1))
    assert build_path(device.certificate, device.chain, maker.idevid_anchors, None) == device.chain


@pytest.mark.req("ST-06")
def test_an_expired_anchor_ends_the_path(maker: Manufacturer) -> None:
    device = maker.idevid("SN-1")
    late = maker.root.certificate.not_valid_after_utc + timedelta(seconds=1)
    with pytest.raises(Untrusted, match="certificate-expired"):
        build_path(device.certificate, device.chain, maker.idevid_anchors, late)


def test_an_expired_intermediate_is_passed_by_where_another_leads_on(maker: Manufacturer) -> None:
    key = maker.idevid_ca.key
    name = maker.idevid_ca.certificate.subject
    old = issuing.subordinate_ca(maker.root, key.public_key(), name, now=NOW - YEARS / 10, lifetime=timedelta(days=1))
    device = maker.idevid("SN-1")
    path = build_path(device.certificate, [old, *device.chain[1:]], maker.idevid_anchors, NOW)
    assert path == device.chain


def test_an_end_entity_signs_nobody(maker: Manufacturer) -> None:
    device = maker.idevid("SN-1")
    victim = leaf_of(Credential(device.key, device.chain))
    assert refusal(victim, list(device.chain), maker.idevid_anchors) == "ca-not-allowed"


def test_only_cas_stand_above_others_in_a_path(maker: Manufacturer) -> None:
    device = maker.idevid("SN-1")
    check_path(device.chain, NOW)
    with pytest.raises(Untrusted, match="ca-not-allowed"):
        check_path(tuple(reversed(device.chain)), NOW)


def test_a_ca_without_key_cert_sign_signs_nobody() -> None:
    key = key_for("mute ca")
    name = issuing.name("Mute CA")
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW - YEARS).not_valid_after(NOW + YEARS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    mute = builder.add_extension(issuing.signing_key_usage(), critical=True).sign(key, hashes.SHA256())
    assert refusal(leaf_of(Credential(key, (mute,))), [], Anchors([mute])) == "ca-not-allowed"


def test_a_ca_without_key_usage_is_allowed() -> None:
    key = key_for("plain ca")
    name = issuing.name("Plain CA")
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(1).not_valid_before(NOW - YEARS).not_valid_after(NOW + YEARS)
    plain = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True).sign(
        key, hashes.SHA256()
    )
    assert len(build_path(leaf_of(Credential(key, (plain,))), (), Anchors([plain]), NOW)) == 2


def test_the_path_length_of_a_ca_is_kept() -> None:
    root = ca("Short Root")
    first = ca("First CA", root, path_length=0)
    second = ca("Second CA", first, path_length=0)
    leaf = leaf_of(second)
    assert refusal(leaf, list(second.chain), Anchors([root.certificate])) == "path-too-long"
    assert len(build_path(leaf_of(first), first.chain, Anchors([root.certificate]), NOW)) == 3


@pytest.mark.req("AT-10")
def test_an_endless_chain_is_cut() -> None:
    issuer = ca("Deep Root", path_length=None)
    root = issuer
    for level in range(10):
        issuer = ca(f"Deep CA {level}", issuer, path_length=None)
    assert refusal(leaf_of(issuer), list(issuer.chain), Anchors([root.certificate])) == "path-not-found"


@pytest.mark.req("AT-10")
def test_a_flood_of_cas_with_one_name_costs_a_bounded_number_of_signatures(maker: Manufacturer) -> None:
    name = issuing.name("Flood CA")
    flood = [issuing.root_ca(make_key(), name, now=NOW, lifetime=YEARS) for _ in range(MAX_POOL + 8)]
    key = make_key()
    leaf = leaf_of(Credential(key, (issuing.root_ca(key, name, now=NOW, lifetime=YEARS),)))
    assert refusal(leaf, flood, maker.idevid_anchors) in {"certificate-signature-invalid", "path-too-long"}


def test_an_unknown_critical_extension_ends_the_path_unless_tolerated(maker: Manufacturer) -> None:
    private = x509.ObjectIdentifier("1.3.6.1.4.1.99999.1")
    device = maker.idevid("SN-1", extensions=[(x509.UnrecognizedExtension(private, b"\x05\x00"), True)])
    pool = list(device.chain)
    assert refusal(device.certificate, pool, maker.idevid_anchors) == "critical-extension-unknown"
    path = build_path(device.certificate, pool, maker.idevid_anchors, NOW, tolerated_critical=frozenset((private,)))
    assert path == device.chain


def test_a_sha1_signature_and_a_short_rsa_key_are_refused() -> None:
    root = ca("Modern Root")
    short = rsa.generate_private_key(public_exponent=65537, key_size=1024)
    weak = issuing.end_entity(
        root, short.public_key(), issuing.name("Short"), not_before=NOW - YEARS, not_after=NOW + YEARS
    )
    assert refusal(weak, [], Anchors([root.certificate])) == "key-too-weak"


@pytest.mark.req("TL-06", "PV-10")
def test_a_pinned_end_entity_is_its_own_path_only_where_that_is_asked(plant: Domain) -> None:
    registrar = self_signed_registrar().certificate
    pinned = Anchors([registrar])
    assert build_path(registrar, (), pinned, NOW, leaf_may_be_anchor=True) == (registrar,)
    assert refusal(registrar, [], pinned) == "ca-not-allowed"
    assert refusal(plant.registrar.certificate, [], pinned, leaf_may_be_anchor=True) == "path-not-found"


@pytest.mark.req("PV-10")
def test_a_renewed_end_entity_certificate_of_the_pinned_key_matches(plant: Domain) -> None:
    renewed = plant.registrar_with(not_after=NOW + timedelta(days=3)).certificate
    pinned = Anchors([plant.registrar.certificate])
    assert renewed != plant.registrar.certificate
    assert build_path(renewed, (), pinned, NOW, leaf_may_be_anchor=True) == (renewed,)


def test_a_failed_link_is_tried_anew_and_a_good_one_remembered(maker: Manufacturer, plant: Domain) -> None:
    device = maker.idevid("SN-1").certificate
    for _ in range(2):
        check_link(device, maker.idevid_ca.certificate)
        with pytest.raises(Untrusted):
            check_link(device, plant.issuing.certificate)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_link_holds_only_for_the_bytes_that_were_signed_as_they_say(maker: Manufacturer, place: int) -> None:
    """The quick way to verify a link sees what pyca sees: also that an algorithm is named in one way."""
    members = [member.encoded for member in der.parse(to_der(maker.idevid("SN-1").certificate)).children()]
    check_link(load_certificate(der.sequence(*members)), maker.idevid_ca.certificate)
    other = [
        members[0].replace(b"SN-1", b"SN-2"),
        der.sequence(der.oid("1.2.840.10045.4.3.3")),
        members[2][:-1] + bytes((members[2][-1] ^ 1,)),
    ]
    members[place] = other[place]
    with pytest.raises(Untrusted):
        check_link(load_certificate(der.sequence(*members)), maker.idevid_ca.certificate)


def test_a_link_is_signed_by_the_issuer_and_nobody_of_its_name(maker: Manufacturer) -> None:
    twin = ca("Twin")
    impostor = Credential(make_key("P-256"), twin.chain)
    check_link(leaf_of(twin), twin.certificate)
    with pytest.raises(Untrusted, match="certificate-signature-invalid"):
        check_link(leaf_of(impostor), twin.certificate)


def test_a_key_that_only_costs_time_signs_nothing() -> None:
    costly = rsa.RSAPublicNumbers((1 << 2047) + 1, (1 << 3071) + 1).public_key()
    root = ca("Costly Root")
    issuer = issuing.subordinate_ca(root, costly, issuing.name("Costly CA"), now=NOW, lifetime=YEARS)
    leaf = leaf_of(Credential(key_for("costly"), (issuer, *root.chain)))
    assert refusal(leaf, [issuer], Anchors([root.certificate])) == "key-unsupported"


def constrained_ca(constraints: x509.NameConstraints) -> Credential:
    root = ca("Constraint Root")
    key = key_for("constrained")
    builder = x509.CertificateBuilder().subject_name(issuing.name("Constrained CA")).public_key(key.public_key())
    builder = builder.issuer_name(root.certificate.subject).serial_number(5)
    builder = builder.not_valid_before(NOW - YEARS).not_valid_after(NOW + YEARS)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    certificate = builder.add_extension(constraints, critical=True).sign(root.key, hashes.SHA256())
    return Credential(key, (certificate, *root.chain))


@pytest.mark.parametrize(
    ("name", "permitted"),
    [
        (x509.DNSName("a.plant.example"), True),
        (x509.DNSName("plant.example"), True),
        (x509.DNSName("badplant.example"), False),
        (x509.IPAddress(ipaddress.ip_address("10.1.2.3")), True),
        (x509.IPAddress(ipaddress.ip_address("10.2.0.1")), False),
        (x509.DNSName("secret.plant.example"), False),
    ],
)
def test_name_constraints_of_a_ca_bind_what_it_issues(name: x509.GeneralName, permitted: bool) -> None:
    issuer = constrained_ca(
        x509.NameConstraints(
            permitted_subtrees=[x509.DNSName("plant.example"), x509.IPAddress(ipaddress.ip_network("10.1.0.0/16"))],
            excluded_subtrees=[x509.DNSName("secret.plant.example")],
        )
    )
    leaf = leaf_of(issuer, alternative_names=(name,))
    anchors = Anchors([issuer.chain[-1]])
    if permitted:
        assert len(build_path(leaf, issuer.chain, anchors, NOW)) == 3
    else:
        assert refusal(leaf, list(issuer.chain), anchors) == "name-not-permitted"


def test_thousands_of_names_under_thousands_of_constraints_are_not_compared() -> None:
    issuer = constrained_ca(x509.NameConstraints(None, [x509.DNSName("b")] * 2000))
    leaf = leaf_of(issuer, alternative_names=[x509.DNSName("a")] * 2000)
    assert refusal(leaf, list(issuer.chain), Anchors([issuer.chain[-1]])) == "name-constraints-too-many"


@pytest.mark.req("MT-02")
@pytest.mark.parametrize(
    ("names", "host", "matches"),
    [
        ([x509.DNSName("masa.example")], "masa.example", True),
        ([x509.DNSName("MASA.example")], "masa.EXAMPLE.", True),
        ([x509.DNSName("*.example.com")], "masa.example.com", True),
        ([x509.DNSName("*.example.com")], "a.masa.example.com", False),
        ([x509.DNSName("*.com")], "example.com", False),
        ([x509.DNSName("*.example.com")], "example.com", False),
        ([x509.DNSName("masa.example")], "masa.example.evil", False),
        ([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))], "127.0.0.1", True),
        ([x509.IPAddress(ipaddress.ip_address("::1"))], "::1", True),
        ([x509.DNSName("127.0.0.1")], "127.0.0.1", False),
        ([x509.DNSName("masa.example")], "127.0.0.1", False),
        ([], "masa.example", False),
    ],
)
def test_a_certificate_is_for_a_host_by_its_alternative_names_alone(
    maker: Manufacturer, names: list[x509.GeneralName], host: str, matches: bool
) -> None:
    certificate = maker.tls_for(*names).certificate
    if matches:
        verify_host(certificate, host)
    else:
        with pytest.raises(Untrusted, match="host-name-mismatch"):
            verify_host(certificate, host)
