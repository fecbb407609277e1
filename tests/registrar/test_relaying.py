"""What an RA asks of devices, passes on and takes back, as a decision: any wishes, any certificates."""

from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from ipaddress import IPv6Address

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from brski_common import csrattrs, csrplan, issuing
from brski_common.csr import check_csr
from brski_common.csrwishes import (
    CHALLENGE_PASSWORD,
    SUBJECT_ALTERNATIVE_NAME,
    ExtensionWish,
    KeyWish,
    NameWish,
    Wishes,
    acp_name,
    acp_node_name,
    subject_wish,
)
from brski_common.errors import BrskiError, PeerFailed
from brski_common.paths import Anchors
from brski_registrar import relaying
from brski_registrar.ca import cross_certify
from brski_registrar.enrolling import Profile, alternative_names
from tests.support.world import NOW, YEARS, Domain, Manufacturer, key_for

SERIAL = "SN-1"
CERTIFICATE = Manufacturer().idevid(SERIAL).certificate
IDEVID = CERTIFICATE.subject
OWN = Wishes(subject=subject_wish(("2.5.4.5", SERIAL)))
DOMAIN, ELSEWHERE = Domain(), Domain(name="Elsewhere")
NODE_NAME = acp_node_name(acp_name("acp.example.com", IPv6Address("fd00::1")))

OIDS = st.sampled_from(["2.5.4.3", "2.5.4.5", "2.5.4.10", "2.5.4.11", "2.5.4.41", "1.2.3", "2.999.1"])
NAMES = st.builds(NameWish, oid=OIDS, value=st.none() | st.text("AB1 -", min_size=1, max_size=8))
WISHES = st.builds(
    Wishes,
    subject=st.none() | st.lists(st.tuples(NAMES), max_size=4).map(tuple),
    key=st.none() | st.sampled_from(["P-256", "P-384", "Ed25519"]).map(KeyWish.of),
    hash=st.none() | st.sampled_from(["sha256", "sha384"]),
    others=st.lists(st.sampled_from([CHALLENGE_PASSWORD, "2.5.4.3", "2.5.4.10", "1.3.6.1.1.1.1.22"]), max_size=3).map(
        tuple
    ),
)


def profile(asked: csrattrs.CsrAttributes | None, names: Sequence[x509.GeneralName] = ()) -> Profile:
    subject = issuing.name(SERIAL, serial_number=SERIAL)
    return Profile(
        subject=subject,
        not_before=NOW,
        not_after=NOW + timedelta(days=9),
        alternative_names=tuple(names),
        asked=asked,
        idevid=CERTIFICATE,
    )


def serials(subject: x509.Name) -> list[str]:
    return [str(each.value) for each in subject.get_attributes_for_oid(x509.NameOID.SERIAL_NUMBER)]


# What is asked


@given(wanted=WISHES)
@pytest.mark.req("E-24")
def test_whatever_a_ca_wants_a_device_that_follows_names_itself_and_may_go_up(wanted: Wishes) -> None:
    asked = relaying.merge(wanted, OWN, IDEVID)
    plan = csrplan.fill(asked, IDEVID)
    kind = (plan.key and plan.key.kind) or "P-256"
    csr = csrplan.compose(plan, key_for("device", kind), challenge="x" if plan.challenge_password else None)
    check_csr(asked, csr)
    with suppress(BrskiError):
        relaying.check_request(csr, profile(asked), wanted)
        assert serials(csr.subject) == [SERIAL]
        return
    twice = sum(wish.oid == "2.5.4.5" for rdn in wanted.subject or () for wish in rdn) > 1
    assert twice, "only a CA that wants the serial number twice gets no request"


@given(data=st.binary(max_size=80))
def test_any_bytes_as_wishes_are_followed_or_refused(data: bytes) -> None:
    with suppress(BrskiError):
        relaying.merge(csrattrs.read(data).wishes, OWN, IDEVID)


def test_our_kind_of_key_is_asked_for_where_the_ca_leaves_it_open() -> None:
    own = Wishes(subject=OWN.subject, key=KeyWish.of("P-256"))
    assert relaying.merge(Wishes(), own, IDEVID).wishes.key == KeyWish.of("P-256")
    assert relaying.merge(Wishes(key=KeyWish.of("P-384")), own, IDEVID).wishes.key == KeyWish.of("P-384")


def test_a_ca_cannot_give_the_device_another_serial_number() -> None:
    asked = relaying.merge(Wishes(subject=subject_wish(("2.5.4.10", "x"), ("2.5.4.5", "SN-X"))), OWN, IDEVID)
    assert asked.wishes.subject == subject_wish(("2.5.4.10", "x"), ("2.5.4.5", SERIAL))


def test_the_names_of_both_are_asked_for() -> None:
    own = Wishes(subject=OWN.subject, extensions=(NODE_NAME,))
    fixed = x509.SubjectAlternativeName([x509.DNSName("device.example")])
    wanted = Wishes(extensions=(ExtensionWish(SUBJECT_ALTERNATIVE_NAME, fixed.public_bytes()),))
    asked = relaying.merge(wanted, own, IDEVID)
    csr = csrplan.compose(csrplan.fill(asked, IDEVID), key_for("device"))
    names = alternative_names(csr)
    assert [type(each) for each in names] == [x509.OtherName, x509.DNSName]
    relaying.check_request(csr, profile(asked, names), wanted)


# What comes down


@pytest.mark.req("E-24")
def test_a_certificate_without_the_names_that_were_asked_for_does_not_fit() -> None:
    known = relaying.authorities(DOMAIN.issuing.chain, DOMAIN.anchors, NOW)
    names = (x509.DNSName("device.example"),)
    for given_names in ((), names):
        certificate = issuing.end_entity(
            DOMAIN.issuing,
            key_for("device").public_key(),
            issuing.name("x", serial_number=SERIAL),
            not_before=NOW,
            not_after=NOW + timedelta(days=1),
            alternative_names=given_names,
        )
        if given_names:
            assert relaying.check_issued(certificate, profile(None, names), known, NOW)[0] == certificate
        else:
            with pytest.raises(PeerFailed, match="upstream-certificate-unfit"):
                relaying.check_issued(certificate, profile(None, names), known, NOW)


@pytest.mark.req("E-24")
def test_an_anchor_may_be_an_issuing_ca_and_then_counts_as_it_is() -> None:
    anchors = Anchors([DOMAIN.issuing.certificate])
    known = relaying.authorities((DOMAIN.issuing.certificate,), anchors, NOW)
    assert known.certificates == (DOMAIN.issuing.certificate,)


def test_an_anchor_that_ended_is_none() -> None:
    with pytest.raises(PeerFailed, match="upstream-untrusted"):
        relaying.authorities(DOMAIN.issuing.chain, DOMAIN.anchors, NOW + 4 * YEARS)


@pytest.mark.req("E-24")
def test_a_next_root_is_taken_by_its_cross_certificate_only() -> None:
    now = NOW
    new_with_old, old_with_new = cross_certify(DOMAIN.root, ELSEWHERE.root, now=now)
    alone = relaying.authorities((*DOMAIN.issuing.chain, *ELSEWHERE.issuing.chain), DOMAIN.anchors, now)
    assert set(alone.certificates) == set(DOMAIN.issuing.chain)
    # The other way round says nothing: anybody can certify the old root.
    other = relaying.authorities((*DOMAIN.issuing.chain, ELSEWHERE.root.certificate, old_with_new), DOMAIN.anchors, now)
    assert ELSEWHERE.root.certificate not in other.certificates
    assert ELSEWHERE.root.certificate not in other.anchors
    crossed = (*DOMAIN.issuing.chain, *ELSEWHERE.issuing.chain, new_with_old, old_with_new)
    both = relaying.authorities(crossed, DOMAIN.anchors, now)
    assert set(both.certificates) == set(crossed)
    assert ELSEWHERE.root.certificate in both.anchors


def test_a_root_that_only_claims_the_key_and_name_of_a_next_one_is_not_taken() -> None:
    new_with_old, _ = cross_certify(DOMAIN.root, ELSEWHERE.root, now=NOW)
    forger = key_for("forger")
    twin = issuing.root_ca(forger, ELSEWHERE.root.certificate.subject, now=NOW, lifetime=YEARS)
    known = relaying.authorities((*DOMAIN.issuing.chain, new_with_old, twin), DOMAIN.anchors, NOW)
    assert twin not in known.certificates


def test_more_certificates_than_a_path_can_need_are_refused() -> None:
    many = [
        issuing.root_ca(key_for("many"), issuing.name(f"CA {number}"), now=NOW, lifetime=YEARS) for number in range(40)
    ]
    with pytest.raises(PeerFailed, match="upstream-untrusted"):
        relaying.authorities(many, DOMAIN.anchors, NOW)
