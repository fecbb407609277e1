"""What is granted: who may have a device, which certificate is pinned, until when."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from brski_common import artifact
from brski_common.artifact import Format
from brski_common.certificates import Credential, idevid_issuer, public_key_info, spki_sha256, to_der
from brski_common.errors import BrskiError, Refused, Unknown, Untrusted
from brski_common.voucher import Assertion
from brski_masa.parties import Device, DevicePolicy, Identity, IdentityKind, Owner, Pin, Requester
from brski_masa.policy import (
    Decision,
    Terms,
    choose_expiry,
    choose_format,
    choose_pin,
    decide,
    domain_id_is_derived,
    needs_customers,
    pick_device,
)
from brski_masa.vouchering import Examined, examine
from tests.masa.plant import MAKER, OTHER_PLANT, PLANT, nonceless, pvr, registrar_with_key_id, rvr, tls_client, trust
from tests.support.world import NOW, make_key, self_signed_registrar

IDEVID = MAKER.idevid("SN-POLICY")


def identity(certificate: x509.Certificate, kind: IdentityKind = IdentityKind.ANCHOR, owner: int = 1) -> Identity:
    return Identity(owner, kind, spki_sha256(certificate).hex(), to_der(certificate))


OWNER = Owner(id=1, name="Plant", identities=(identity(PLANT.root.certificate),))


def device(**changes: object) -> Device:
    made = Device(
        id=1,
        serial_number="SN-POLICY",
        idevid_issuer=idevid_issuer(IDEVID.certificate),
        spki_sha256=spki_sha256(IDEVID.certificate),
        owner=OWNER,
    )
    return made._replace(**changes)  # type: ignore[arg-type] # passed on


def seen(request: bytes | None = None) -> Examined:
    return examine(artifact.parse_voucher_request(request or rvr(IDEVID), Format.CMS), trust(), NOW)


def judge(
    examined: Examined | None = None,
    dev: Device | None = None,
    terms: Terms | None = None,
    requester: Requester | None = None,
    customers: Sequence[Identity] = (),
) -> Decision:
    return decide(
        examined or seen(), dev or device(), requester or Requester(), terms or Terms(), NOW, customers=customers
    )


def refuses(
    reason: str,
    examined: Examined | None = None,
    dev: Device | None = None,
    terms: Terms | None = None,
    requester: Requester | None = None,
    kind: type[BrskiError] = Refused,
) -> None:
    with pytest.raises(kind) as caught:
        judge(examined, dev, terms, requester)
    assert caught.value.reason == reason


# Who


@pytest.mark.req("MT-07", "MA-11", "RS-12", "OP-03")
@pytest.mark.parametrize(
    ("policy", "owner", "claimed", "outcome"),
    [
        (None, OWNER, None, "granted"),
        (None, None, None, "device-without-owner"),
        (None, None, "ours", "granted"),  # a renewal
        (None, None, "theirs", "device-without-owner"),
        (DevicePolicy.OWNER_ONLY, None, None, "device-not-owned"),
        (DevicePolicy.FIRST_COME, None, None, "granted"),
        (DevicePolicy.FIRST_COME, None, "ours", "granted"),
        (DevicePolicy.FIRST_COME, None, "theirs", "device-claimed"),
        (DevicePolicy.AUDIT_ONLY, None, "theirs", "granted"),
        (DevicePolicy.REFUSE, OWNER, "theirs", "granted"),  # the owner always may
        (DevicePolicy.REFUSE, None, None, "device-without-owner"),
    ],
)
def test_policies(policy: DevicePolicy | None, owner: Owner | None, claimed: str | None, outcome: str) -> None:
    pins = {"ours": spki_sha256(PLANT.issuing.certificate), "theirs": bytes(32)}
    dev = device(policy=policy, owner=owner, last_pinned_key=pins[claimed] if claimed else None)
    if outcome == "granted":
        assert judge(dev=dev).assertion is Assertion.PROXIMITY
    else:
        refuses(outcome, dev=dev)


@pytest.mark.req("MA-13")
def test_renewals_can_be_switched_off() -> None:
    dev = device(owner=None, last_pinned_key=spki_sha256(PLANT.issuing.certificate))
    assert judge(dev=dev).renewal
    refuses("device-without-owner", dev=dev, terms=Terms(renewals=False))


def test_domain_of_another_owner_is_refused() -> None:
    other = Owner(id=2, name="Other", identities=(identity(OTHER_PLANT.root.certificate, owner=2),))
    refuses("device-not-owned", dev=device(owner=other))


@pytest.mark.req("MA-10")
@pytest.mark.parametrize("length", [1, 2, 3])
def test_owner_is_recognised_though_the_chain_stops_below_its_anchor(length: int) -> None:
    short = seen(rvr(IDEVID, certificates=PLANT.registrar.chain[:length]))
    anchor = PLANT.registrar.chain[min(length, 2)]
    owner = OWNER._replace(identities=(identity(anchor),))
    assert judge(short, device(owner=owner)).owner == owner


@pytest.mark.req("AT-23")
def test_same_name_with_another_key_is_not_the_owner() -> None:
    from tests.support.world import make_key

    key = make_key()
    from brski_common import issuing

    twin = issuing.root_ca(key, PLANT.root.certificate.subject, now=NOW, lifetime=timedelta(days=99))
    owner = OWNER._replace(identities=(identity(twin),))
    refuses("device-not-owned", dev=device(owner=owner))


@pytest.mark.req("MT-04")
def test_ways_that_are_not_accepted_show_nothing() -> None:
    refuses("device-not-owned", terms=Terms(accepted=frozenset((IdentityKind.TLS_CLIENT,))))
    by_tls = OWNER._replace(identities=(identity(PLANT.registrar.certificate, IdentityKind.TLS_CLIENT),))
    assert judge(dev=device(owner=by_tls), requester=tls_client(PLANT.registrar)).owner == by_tls
    refuses("device-not-owned", dev=device(owner=by_tls), requester=tls_client(OTHER_PLANT.registrar))
    refuses("device-not-owned", dev=device(owner=by_tls))
    user = OWNER._replace(identities=(Identity(1, IdentityKind.HTTP_USER, "plant"),))
    http = Terms(accepted=frozenset((IdentityKind.HTTP_USER,)))
    assert judge(dev=device(owner=user), terms=http, requester=Requester(user="plant")).owner == user
    refuses("device-not-owned", dev=device(owner=user), terms=http, requester=Requester(user="other"))


def test_expired_tls_client_certificate_shows_nothing() -> None:
    old = PLANT.registrar_with(not_after=NOW - timedelta(days=1))
    by_tls = OWNER._replace(identities=(identity(old.certificate, IdentityKind.TLS_CLIENT),))
    refuses("device-not-owned", dev=device(owner=by_tls), requester=tls_client(old))


@pytest.mark.req("MA-10", "RS-11")
def test_nonceless_needs_the_owner_and_its_consent() -> None:
    asked = seen(nonceless(IDEVID))
    assert judge(asked).assertion is Assertion.VERIFIED
    refuses("nonceless-not-allowed", asked, device(owner=OWNER._replace(nonceless=False)))
    refuses("nonceless-not-authenticated", asked, device(owner=None, policy=DevicePolicy.AUDIT_ONLY))


@pytest.mark.req("MT-04")
def test_always_authenticated_takes_any_customer() -> None:
    terms = Terms(authentication_always=True, unowned=DevicePolicy.AUDIT_ONLY)
    assert needs_customers(device(owner=None), seen(), terms)
    refuses("registrar-not-authenticated", dev=device(owner=None), terms=terms)
    judge(dev=device(owner=None), terms=terms, customers=OWNER.identities)


# What


@pytest.mark.req("MA-08", "MA-09")
def test_assertion_follows_what_was_shown() -> None:
    elsewhere = seen(rvr(IDEVID, prior=pvr(IDEVID, OTHER_PLANT.registrar.certificate)))
    refuses("proximity-mismatch", elsewhere, kind=Untrusted)
    lenient = Terms(proximity_mismatch_refused=False)
    assert judge(elsewhere, terms=lenient).assertion is Assertion.VERIFIED
    stranger = device(owner=None, policy=DevicePolicy.AUDIT_ONLY)
    refuses("proximity-mismatch", elsewhere, stranger, terms=lenient)
    open_door = replace(lenient, strangers_need_proximity=False)
    assert judge(elsewhere, stranger, open_door).assertion is Assertion.LOGGED
    assert judge(seen(rvr(IDEVID, prior=None)), stranger, open_door).assertion is Assertion.LOGGED
    refuses("prior-signed-voucher-request-missing", seen(rvr(IDEVID, prior=None)), stranger)
    assert judge(seen(rvr(IDEVID, prior=None))).assertion is Assertion.VERIFIED


ROOT, ISSUING, LEAF = PLANT.root.certificate, PLANT.issuing.certificate, PLANT.registrar.certificate


@pytest.mark.req("MA-12", "D-6", "CB-18")
@pytest.mark.parametrize(
    ("length", "nonced", "nonceless_pin"),
    [(3, ISSUING, ROOT), (2, ISSUING, ISSUING), (1, LEAF, LEAF)],
)
def test_pin_is_the_lowest_ca_with_a_nonce_and_the_highest_without(
    length: int, nonced: x509.Certificate, nonceless_pin: x509.Certificate
) -> None:
    chain = PLANT.registrar.chain[:length]
    assert choose_pin(seen(rvr(IDEVID, certificates=chain)), OWNER, Terms()) == nonced
    request = rvr(IDEVID, certificates=chain, prior=None, nonce=None)
    assert choose_pin(seen(request), OWNER, Terms()) == nonceless_pin


@pytest.mark.req("MA-12", "D-6")
def test_pin_can_be_chosen_for_a_customer_and_by_the_maker() -> None:
    for mode, wanted in ((Pin.END_ENTITY, LEAF), (Pin.LOWEST_CA, ISSUING), (Pin.HIGHEST_CA, ROOT)):
        assert choose_pin(seen(), OWNER._replace(pin=mode), Terms()) == wanted
        assert choose_pin(seen(), OWNER, Terms(pin=mode)) == wanted


@pytest.mark.req("MA-12")
def test_pin_is_never_above_what_the_customer_has_on_record() -> None:
    below = OWNER._replace(identities=(identity(ISSUING),))
    assert choose_pin(seen(nonceless(IDEVID)), below, Terms()) == ISSUING


def test_lonely_registrar_is_pinned_itself() -> None:
    lonely = self_signed_registrar()
    examined = seen(rvr(IDEVID, signer=lonely, prior=pvr(IDEVID, lonely.certificate)))
    assert choose_pin(examined, None, Terms()) == lonely.certificate


@pytest.mark.req("MA-18", "VA-03", "VA-04")
def test_end_of_validity() -> None:
    nonced, without = seen(), seen(nonceless(IDEVID))
    assert choose_expiry(nonced, ROOT, Terms(), NOW) is None
    lasting = Terms(nonced_lifetime=timedelta(hours=1), nonceless_lifetime=timedelta(days=36500))
    assert choose_expiry(nonced, ROOT, lasting, NOW) == NOW + timedelta(hours=1)
    assert choose_expiry(without, ROOT, lasting, NOW) == LEAF.not_valid_after_utc
    short = PLANT.ldevid("short-lived pin").certificate
    assert choose_expiry(without, short, lasting, NOW) == short.not_valid_after_utc
    soon = NOW + timedelta(minutes=1)
    assert choose_expiry(without, ROOT, lasting, NOW, revocation_known_until=soon) == soon


# Which device


@pytest.mark.req("MA-16", "AT-19", "MA-24")
def test_device_is_picked_by_issuer() -> None:
    twin = device(id=2, idevid_issuer=b"another issuer")
    assert pick_device([twin, device()], seen()).id == 1
    plain = seen(nonceless(IDEVID, idevid_issuer=None))
    assert pick_device([device()], plain).id == 1
    with pytest.raises(Untrusted, match="serial-number-ambiguous"):
        pick_device([device(), twin], plain)
    for found in ([], [twin]):
        with pytest.raises(Unknown, match="device-unknown"):
            pick_device(found, seen())
    for form in (2, 4, 6):
        other = seen(nonceless(IDEVID, idevid_issuer=idevid_issuer(IDEVID.certificate)[form:]))
        assert pick_device([device()], other).id == 1


def test_registered_key_and_block_come_first() -> None:
    refuses("device-blocked", dev=device(blocked="stolen"))
    refuses("idevid-not-registered", dev=device(spki_sha256=bytes(32)), kind=Untrusted)


@pytest.mark.req("MA-24")
def test_format_is_one_that_all_three_know() -> None:
    every = frozenset(Format)
    assert choose_format(device(), [Format.JWS, Format.CMS], every) is Format.JWS
    assert choose_format(device(formats=(Format.CMS,)), [Format.JWS, Format.CMS], every) is Format.CMS
    for dev, offered in ((device(formats=(Format.COSE,)), every), (device(), frozenset((Format.COSE,)))):
        with pytest.raises(Refused, match="voucher-format-not-acceptable"):
            choose_format(dev, [Format.JWS, Format.CMS], offered)


@pytest.mark.req("AT-18")
def test_domain_id_follows_from_the_key_or_not() -> None:
    assert domain_id_is_derived(ROOT)
    assert domain_id_is_derived(registrar_with_key_id(None).chain[1])
    assert not domain_id_is_derived(registrar_with_key_id(b"chosen").chain[1])


@pytest.mark.parametrize("digest", [hashlib.sha256, hashlib.sha384, hashlib.sha512])
@pytest.mark.parametrize("length", [20, None])
def test_domain_id_may_be_a_longer_hash_of_the_key(digest: Callable[[bytes], Any], length: int | None) -> None:
    """RFC 7093, 2: of the key alone or of its whole information, cut or not."""
    key = make_key()
    info = public_key_info(key.public_key())
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    for data in (info, point):
        made = digest(data).digest()[:length]
        assert domain_id_is_derived(registrar_with_key_id(made, key).chain[1])
        assert not domain_id_is_derived(registrar_with_key_id(made).chain[1])


def test_requesters_are_told_apart() -> None:
    labels = {tls_client(PLANT.registrar).label, tls_client(OTHER_PLANT.registrar).label}
    labels |= {Requester(user="plant").label, Requester().label}
    assert len(labels) == 4
    assert isinstance(PLANT.registrar, Credential)
