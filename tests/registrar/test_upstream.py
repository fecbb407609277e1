"""The registrar as RA: a whole plant in front of a CA elsewhere, over real TLS on both sides."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, NameOID

from brski_common import csrattrs, est, issuing
from brski_common.certificates import (
    ID_KP_CLIENT_AUTH,
    ID_KP_CMC_RA,
    ID_KP_SERVER_AUTH,
    Credential,
    PrivateKey,
    extended_key_usages,
    public_key_info,
)
from brski_common.csrwishes import CHALLENGE_PASSWORD, ExtensionWish, KeyWish, Wishes, subject_wish
from brski_common.errors import Refused
from brski_common.http_client import HttpResponse
from brski_registrar import upstream
from brski_registrar.ca import cross_certify
from brski_registrar.lifecycle import Event, State
from brski_registrar.records import Change
from brski_registrar.upstream import UpstreamAuthority
from tests.registrar.conftest import Logged
from tests.support import ca_fake
from tests.support.ca_fake import CaFake, server_of
from tests.support.plant import EST, Line, Plant, reason_of
from tests.support.world import Clock, Domain, key_for

DOMAIN = Domain()
ELSEWHERE = Domain(name="Elsewhere")
PLAIN_CLIENT = DOMAIN.registrar_with(usages=(ID_KP_SERVER_AUTH, ID_KP_CLIENT_AUTH))  # no RA


@dataclass
class Site:
    """A plant and its CA."""

    plant: Plant
    ca: CaFake
    authority: UpstreamAuthority


@asynccontextmanager
async def site(
    folder: Path,
    *,
    server: Credential | None = None,
    ra: Credential | None = None,
    label: str = "",
    request_seconds: float = 15.0,
    host: str = "127.0.0.1",
) -> AsyncIterator[Site]:
    clock = Clock()
    async with CaFake.open(clock, credential=server, label=label) as ca:
        authority = UpstreamAuthority(
            ca.server.url.replace("127.0.0.1", host),
            DOMAIN.anchors,
            ra or DOMAIN.registrar,
            clock=clock,
            label=label or None,
            request_seconds=request_seconds,
        )
        try:
            async with Plant.open(folder, authority=authority, clock=clock) as plant:
                yield Site(plant, ca, authority)
        finally:
            await authority.close()


def csr_of(
    line: Line,
    *names: tuple[x509.ObjectIdentifier, str],
    extensions: tuple[x509.ExtensionType, ...] = (),
    challenge: str | None = None,
    key: PrivateKey | None = None,
    attribute: tuple[x509.ObjectIdentifier, bytes] | None = None,
) -> bytes:
    key = key or key_for(f"{line.serial} ldevid")
    pairs = names or ((NameOID.SERIAL_NUMBER, line.serial),)
    builder = x509.CertificateSigningRequestBuilder()
    builder = builder.subject_name(x509.Name([x509.NameAttribute(oid, value) for oid, value in pairs]))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    if challenge is not None:
        builder = builder.add_attribute(AttributeOID.CHALLENGE_PASSWORD, challenge.encode())
    if attribute is not None:
        builder = builder.add_attribute(*attribute)
    return builder.sign(key, issuing.signature_hash(key)).public_bytes(Encoding.DER)


def certificate_in(response: HttpResponse) -> x509.Certificate:
    assert response.status == 200, response.body
    (certificate,) = est.parse_certs_only(est.decode_body(response.body))
    return certificate


async def refused(line: Line, csr: bytes | None = None) -> tuple[int, str]:
    response = await line.enroll(csr)
    return response.status, reason_of(response)


# Up


@pytest.mark.req("E-24", "E-11", "E-13")
async def test_a_devices_request_reaches_the_ca_byte_for_byte_over_the_certificate_of_an_ra(tmp_path: Path) -> None:
    async with site(tmp_path) as at, at.plant.vouched() as line:
        csr = await line.csr()
        certificate = certificate_in(await line.enroll(csr))
        assert at.ca.requests == [("/.well-known/est/simpleenroll", csr)]
        (issued,) = at.ca.issued
        assert certificate == issued
        assert (await at.plant.device(line.serial)).state is State.ENROLLED
        assert {peer.certificate for peer in at.ca.peers if peer} == {DOMAIN.registrar.certificate}
        assert all(peer is not None and ID_KP_CMC_RA in extended_key_usages(peer.certificate) for peer in at.ca.peers)


@pytest.mark.parametrize("kind", ["P-256", "P-384", "RSA-2048", "Ed25519"])
@pytest.mark.req("E-24")
async def test_no_kind_of_request_is_written_anew(tmp_path: Path, kind: str) -> None:
    async with site(tmp_path) as at, at.plant.vouched() as line:
        usage = x509.ExtendedKeyUsage([ID_KP_CLIENT_AUTH])
        csr = csr_of(line, extensions=(usage,), key=key_for("of that kind", kind))
        certificate_in(await line.enroll(csr))
        assert [raw for _, raw in at.ca.requests] == [csr]


async def binding(plant: Plant, line: Line) -> str:
    """What links a request to the device's session: its connection is kept, so that the request goes over it too."""
    connected = await line.client.connect(plant.server.url)
    return base64.b64encode(connected.channel_binding or b"").decode()


@pytest.mark.req("E-24")
async def test_the_link_to_the_devices_session_is_verified_here_and_waived_there(tmp_path: Path) -> None:
    async with site(tmp_path) as at, at.plant.vouched() as line:
        csr = csr_of(line, challenge=await binding(at.plant, line))
        certificate_in(await line.enroll(csr))
        assert at.ca.requests[0][1] == csr, "with its challengePassword"


@pytest.mark.req("E-24")
async def test_a_false_link_does_not_reach_the_ca(tmp_path: Path) -> None:
    async with site(tmp_path) as at, at.plant.vouched() as line:
        csr = csr_of(line, challenge=base64.b64encode(b"of another session").decode())
        assert await refused(line, csr) == (403, "csr-not-linked")
        assert at.ca.requests == []


@pytest.mark.req("E-24")
async def test_a_ca_waives_nothing_for_who_is_no_ra(tmp_path: Path) -> None:
    async with site(tmp_path, ra=PLAIN_CLIENT) as at, at.plant.vouched() as line:
        csr = csr_of(line, challenge=await binding(at.plant, line))
        assert await refused(line, csr) == (403, "upstream-refused")
        assert at.ca.issued == []
        assert (await at.plant.told(line.serial))[-1] == ("enroll-refused", "upstream-refused")
        detail = (await at.plant.store.journal())[-1].detail
        assert "you are no RA" in detail, "the operator reads what the CA said"


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        ([(NameOID.COMMON_NAME, "own serial")], "csr-serial-number-missing"),
        ([(NameOID.SERIAL_NUMBER, "own serial"), (NameOID.COMMON_NAME, "registrar.example")], "csr-subject-mismatch"),
        ([(NameOID.SERIAL_NUMBER, "own serial"), (NameOID.ORGANIZATION_NAME, "Elsewhere")], "csr-subject-mismatch"),
        ([(NameOID.SERIAL_NUMBER, "own serial"), (NameOID.SERIAL_NUMBER, "own serial")], "csr-serial-number-missing"),
    ],
)
@pytest.mark.req("E-24", "AT-24")
async def test_names_that_the_local_ca_would_not_copy_do_not_go_up(
    tmp_path: Path, names: list[tuple[x509.ObjectIdentifier, str]], reason: str
) -> None:
    async with site(tmp_path) as at, at.plant.vouched() as line:
        pairs = [(oid, line.serial if value == "own serial" else value) for oid, value in names]
        assert await refused(line, csr_of(line, *pairs)) == (403, reason)
        assert at.ca.requests == []
        assert (await at.plant.told(line.serial))[-1] == ("enroll-refused", reason)


@pytest.mark.req("E-24", "AT-24")
async def test_what_chooses_a_profile_at_some_cas_does_not_go_up(tmp_path: Path) -> None:
    template = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.311.20.2"), b"\x1e\x02\x00S")
    enrollment = x509.ObjectIdentifier("1.3.6.1.4.1.311.13.2.1"), b"CertificateTemplate"
    async with site(tmp_path) as at, at.plant.vouched() as line:
        assert await refused(line, csr_of(line, extensions=(template,))) == (403, "csr-extension-not-asked")
        assert await refused(line, csr_of(line, attribute=enrollment)) == (403, "csr-attribute-not-asked")
        assert at.ca.requests == []
        certificate_in(await line.enroll())


@pytest.mark.req("E-24")
async def test_names_that_the_idevid_has_may_go_up(tmp_path: Path) -> None:
    async with site(tmp_path) as at, at.plant.vouched() as line:
        assert line.credential is not None
        names = [(each.oid, str(each.value)) for each in line.credential.certificate.subject]
        certificate = certificate_in(await line.enroll(csr_of(line, *names)))
        assert certificate.subject == line.credential.certificate.subject


async def test_nobody_reaches_the_ca_without_a_voucher(tmp_path: Path) -> None:
    async with site(tmp_path) as at, at.plant.connect(await at.plant.admitted()) as line:
        assert await refused(line, csr_of(line)) == (403, "voucher-not-requested")
        assert (await line.get(f"{EST}/cacerts")).status == 403
        assert (at.ca.requests, at.ca.questions) == ([], [])


# Waiting


@pytest.mark.req("E-24", "E-14")
async def test_a_ca_that_lets_one_wait_gets_the_same_request_again_and_no_sooner_than_it_said(tmp_path: Path) -> None:
    async with site(tmp_path) as at, at.plant.vouched() as line:
        at.ca.answers.append(ca_fake.status(202, "an officer \x1b[2J looks at it", "120"))
        csr = await line.csr()
        response = await line.enroll(csr)
        assert (response.status, response.headers["Retry-After"], reason_of(response)) == (
            202,
            "120",
            "upstream-pending",
        )
        at.plant.clock.advance(100)
        early = await line.enroll(csr)
        assert (early.status, early.headers["Retry-After"]) == (202, "20")
        assert len(at.ca.requests) == 1, "RFC 7030, 4.2.3: not before it said"
        assert (await at.plant.told(line.serial)).count(("enroll-held", "upstream-pending")) == 1
        assert "\x1b" not in (await at.plant.store.journal())[-1].detail
        assert (await at.plant.device(line.serial)).state is State.APPROVED
        at.plant.clock.advance(20)
        async with at.plant.connect(line.credential) as again:
            certificate_in(await again.enroll(csr))
        assert [raw for _, raw in at.ca.requests] == [csr, csr]


@pytest.mark.parametrize(("said", "seconds"), [(None, "60"), ("soon", "60"), ("99999999", "3600"), ("0", "1")])
async def test_what_a_ca_says_about_the_time_is_bounded(tmp_path: Path, said: str | None, seconds: str) -> None:
    async with site(tmp_path) as at, at.plant.vouched() as line:
        at.ca.answers.append(ca_fake.status(202, "later", said))
        response = await line.enroll()
        assert (response.status, response.headers["Retry-After"]) == (202, seconds)


async def test_a_busy_ca_is_asked_later(tmp_path: Path) -> None:
    async with site(tmp_path) as at, at.plant.vouched() as line:
        at.ca.answers.append(ca_fake.status(429, "too many", "7"))
        response = await line.enroll()
        assert (response.status, response.headers["Retry-After"]) == (202, "7")


async def test_waiting_requests_are_remembered_within_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "MAX_WAITING", 2)
    async with site(tmp_path) as at, at.plant.vouched() as line:
        at.ca.answers.extend([ca_fake.status(202, "later", "600")] * 3)
        for name in ("one", "two", "three"):
            await line.enroll(await line.csr(key_for(name)))
        assert len(at.authority._waiting) == 2


# Down


@pytest.mark.parametrize("code", [400, 401, 403, 404, 415, 499])
@pytest.mark.req("E-24")
async def test_a_ca_that_refuses_has_the_device_refused(tmp_path: Path, code: int) -> None:
    async with site(tmp_path) as at, at.plant.vouched() as line:
        at.ca.answers.append(ca_fake.status(code, "because\x1b[2J of \u202e reasons " + "x" * 5000))
        assert await refused(line) == (403, "upstream-refused")
        entry = (await at.plant.store.journal())[-1]
        assert (entry.event, entry.reason) == ("enroll-refused", "upstream-refused")
        assert f"simpleenroll: {code} because" in entry.detail
        assert entry.detail.isprintable()
        assert len(entry.detail) < 600
        certificate_in(await line.enroll())


@pytest.mark.parametrize(
    "answer",
    [
        ca_fake.status(500, "oh"),
        ca_fake.status(302, "elsewhere"),
        ca_fake.status(204, ""),
        ca_fake.body(b"garbage"),
        ca_fake.body(b""),
        ca_fake.body(base64.b64encode(b"\x30\x03\x02\x01\x01")),
        ca_fake.body(est.encode_body(est.certs_only(()))),
        ca_fake.body(b"<html>", "text/html"),
        ca_fake.body(b"A" * (est.MAX_RESPONSE_BYTES + 4)),
    ],
    ids=["500", "redirect", "nothing", "garbage", "empty", "no-cms", "no-certificate", "web-page", "too-large"],
)
@pytest.mark.req("E-24")
async def test_an_answer_that_is_none_is_the_cas_fault(tmp_path: Path, answer: ca_fake.Answer) -> None:
    async with site(tmp_path) as at, at.plant.vouched() as line:
        at.ca.answers.append(answer)
        assert await refused(line) == (502, "ca-failed")
        assert await at.plant.store.issued_to((await at.plant.device(line.serial)).id) == ()
        event, reason = (await at.plant.told(line.serial))[-1]
        assert (event, reason.startswith("upstream-")) == ("enroll-refused", True)
        certificate_in(await line.enroll())


RA_USAGE = x509.ExtendedKeyUsage([ID_KP_CLIENT_AUTH, ID_KP_CMC_RA])


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (ca_fake.certificate(public_key=key_for("of another").public_key()), "upstream-certificate-unfit"),
        (ca_fake.subordinate(), "upstream-certificate-unfit"),
        (ca_fake.certificate(key_usage=issuing.signing_key_usage(certificates=True)), "upstream-certificate-unfit"),
        (ca_fake.certificate(subject=issuing.name("x", serial_number="SN-X")), "upstream-certificate-unfit"),
        (ca_fake.certificate(subject=issuing.name("SN-1")), "upstream-certificate-unfit"),
        (ca_fake.certificate(extensions=[(RA_USAGE, False)]), "upstream-certificate-unfit"),
        (ca_fake.certificate(issuer=ELSEWHERE.issuing), "upstream-certificate-untrusted"),
        (ca_fake.certificate(not_after=Clock().now - timedelta(seconds=1)), "upstream-certificate-untrusted"),
        (
            ca_fake.certificate(
                not_before=Clock().now + timedelta(hours=1), not_after=Clock().now + timedelta(hours=2)
            ),
            "upstream-certificate-untrusted",
        ),
    ],
    ids=["another-key", "ca", "cert-sign", "another-device", "no-device", "ra", "unknown-root", "expired", "not-yet"],
)
@pytest.mark.req("E-24")
async def test_a_certificate_that_does_not_fit_reaches_nobody(
    tmp_path: Path, answer: ca_fake.Answer, reason: str
) -> None:
    async with site(tmp_path) as at, at.plant.vouched() as line:
        at.ca.answers.append(answer)
        assert await refused(line) == (502, "ca-failed")
        device = await at.plant.device(line.serial)
        assert (device.state, await at.plant.store.issued_to(device.id)) == (State.APPROVED, ())
        assert (await at.plant.told(line.serial))[-1] == ("enroll-refused", reason)
        certificate_in(await line.enroll())


async def test_the_chain_that_many_servers_send_along_does_no_harm(tmp_path: Path) -> None:
    async def with_chain(ca: CaFake, csr: x509.CertificateSigningRequest | None) -> web.StreamResponse:
        assert csr is not None
        return ca.hand_out(*DOMAIN.issuing.chain, ca.certificate(csr))

    async with site(tmp_path) as at, at.plant.vouched() as line:
        at.ca.answers.append(with_chain)
        certificate = certificate_in(await line.enroll())
        assert public_key_info(certificate.public_key()) == public_key_info(
            key_for(f"{line.serial} ldevid").public_key()
        )


@pytest.mark.parametrize(
    ("server", "host"),
    [
        (server_of(ELSEWHERE), "127.0.0.1"),
        (server_of(DOMAIN, x509.DNSName("other.example")), "127.0.0.1"),
        (server_of(DOMAIN, x509.DNSName("localhost")), "127.0.0.1"),
        (DOMAIN.ldevid("SN-X"), "localhost"),
        (DOMAIN.registrar_with(usages=(ID_KP_CLIENT_AUTH,)), "127.0.0.1"),
    ],
    ids=["root", "name", "no-address", "device", "usage"],
)
@pytest.mark.req("E-24")
async def test_a_server_that_is_not_the_ca_gets_nothing(tmp_path: Path, server: Credential, host: str) -> None:
    async with site(tmp_path, server=server, host=host) as at, at.plant.vouched() as line:
        assert await refused(line, csr_of(line)) == (502, "ca-failed")
        assert (await line.get(f"{EST}/cacerts")).status == 502
        assert (at.ca.requests, at.ca.questions) == ([], [])


async def test_a_ca_is_known_by_its_dns_name_too(tmp_path: Path) -> None:
    server = server_of(DOMAIN, x509.DNSName("localhost"))
    async with site(tmp_path, server=server, host="localhost") as at, at.plant.vouched() as line:
        certificate_in(await line.enroll())


async def test_a_silent_ca_holds_nobody_up_for_longer_than_its_time(tmp_path: Path) -> None:
    async with site(tmp_path, request_seconds=0.3) as at, at.plant.vouched() as line:
        csr = await line.csr()
        at.ca.answers.append(ca_fake.silence())
        assert await refused(line, csr) == (502, "ca-failed")


async def test_a_ca_that_is_not_there(tmp_path: Path) -> None:
    async with site(tmp_path) as at, at.plant.vouched() as line:
        csr = await line.csr()
        await at.ca.server.close(0)
        assert await refused(line, csr) == (502, "ca-failed")
        assert (await at.plant.told(line.serial))[-1] == ("enroll-refused", "upstream-failed")


async def test_a_label_leads_to_one_of_several_cas(tmp_path: Path) -> None:
    async with site(tmp_path, label="line-4") as at, at.plant.vouched() as line:
        certificate_in(await line.enroll())
        assert [path for path, _ in at.ca.requests] == ["/.well-known/est/line-4/simpleenroll"]


# The CA's certificates


async def handed_out(line: Line) -> set[x509.Certificate]:
    response = await line.get(f"{EST}/cacerts")
    assert response.status == 200, response.body
    return set(est.parse_certs_only(est.decode_body(response.body)))


@pytest.mark.req("E-24", "E-08")
async def test_the_cas_certificates_are_handed_on_and_asked_for_once_in_an_hour(tmp_path: Path) -> None:
    async with site(tmp_path) as at, at.plant.connect(None) as line:
        for _ in range(3):
            assert await handed_out(line) == set(DOMAIN.issuing.chain)
        assert at.ca.questions == ["/.well-known/est/cacerts"]
        at.plant.clock.advance(upstream.FRESH_SECONDS)
        at.ca.asked.append(ca_fake.status(500))
        assert (await line.get(f"{EST}/cacerts")).status == 502
        assert await handed_out(line) == set(DOMAIN.issuing.chain), "asked anew after a failure"


async def test_ten_devices_at_once_ask_the_ca_once(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        found = await asyncio.gather(*(at.authority.ca_certs() for _ in range(10)))
        assert (len(set(found)), at.ca.questions) == (1, ["/.well-known/est/cacerts"])


@pytest.mark.req("E-24")
async def test_certificates_that_lead_to_no_anchor_are_not_handed_out(tmp_path: Path, logged: Logged) -> None:
    async with site(tmp_path) as at, at.plant.connect(None) as line:
        at.ca.authorities = (*DOMAIN.issuing.chain, *ELSEWHERE.issuing.chain, DOMAIN.ldevid("SN-X").certificate)
        assert await handed_out(line) == set(DOMAIN.issuing.chain)
        (told,) = [each for each in logged() if each["level"] == "warning"]
        assert told["event"] == "certificates not handed out"
        assert "Elsewhere Root CA" in str(told["subjects"])
        at.plant.clock.advance(upstream.FRESH_SECONDS)
        at.ca.authorities = ELSEWHERE.issuing.chain
        assert (await line.get(f"{EST}/cacerts")).status == 502


async def test_a_ca_whose_own_certificates_lead_nowhere_is_not_asked_for_any(tmp_path: Path) -> None:
    async with site(tmp_path) as at, at.plant.vouched() as line:
        at.ca.authorities = ELSEWHERE.issuing.chain
        assert await refused(line) == (502, "ca-failed")
        assert (at.ca.requests, at.ca.issued) == ([], [])


async def test_an_anchor_that_the_ca_did_not_send_is_added(tmp_path: Path) -> None:
    async with site(tmp_path) as at, at.plant.connect(None) as line:
        at.ca.authorities = (DOMAIN.issuing.certificate,)
        assert await handed_out(line) == set(DOMAIN.issuing.chain)


@pytest.mark.req("E-24")
async def test_a_change_of_root_reaches_the_devices_at_once(tmp_path: Path) -> None:
    next_root = Domain(name="Example Plant Next").root
    new_issuing = Domain(name="Example Plant Next").issuing
    crossed = cross_certify(DOMAIN.root, next_root, now=Clock().now)
    async with site(tmp_path) as at, at.plant.vouched() as line:
        assert await handed_out(line) == set(DOMAIN.issuing.chain)
        at.ca.issuer = new_issuing
        at.ca.authorities = (*DOMAIN.issuing.chain, *new_issuing.chain, *crossed)
        certificate_in(await line.enroll())
        assert await handed_out(line) == {*DOMAIN.issuing.chain, *new_issuing.chain, *crossed}
        assert at.ca.questions.count("/.well-known/est/cacerts") == 2, "because a certificate did not fit"


async def test_a_new_root_without_a_cross_certificate_is_not_believed(tmp_path: Path) -> None:
    next_root = Domain(name="Example Plant Next")
    async with site(tmp_path) as at, at.plant.vouched() as line:
        assert await handed_out(line) == set(DOMAIN.issuing.chain)
        at.ca.issuer, at.ca.authorities = next_root.issuing, (*DOMAIN.issuing.chain, *next_root.issuing.chain)
        assert await refused(line) == (502, "ca-failed")
        assert await handed_out(line) == set(DOMAIN.issuing.chain)


# What the CA wants


@pytest.mark.req("E-24", "E-19", "E-22")
async def test_what_the_ca_wants_is_asked_of_the_device(tmp_path: Path) -> None:
    wanted = Wishes(
        subject=subject_wish(("2.5.4.10", "Example Plant"), ("2.5.4.3", None), ("2.5.4.11", None)),
        key=KeyWish.of("P-384"),
    )
    async with site(tmp_path) as at, at.plant.vouched() as line:
        at.ca.attributes = csrattrs.ask(wanted)
        asked = (await line.asked()).wishes
        assert asked.key == KeyWish.of("P-384")
        assert asked.subject == subject_wish(
            ("2.5.4.5", line.serial), ("2.5.4.10", "Example Plant"), ("2.5.4.3", f"Device {line.serial}")
        )
        certificate = certificate_in(await line.enroll(await line.csr(key_for("strong", "P-384"))))
        assert [str(each.value) for each in certificate.subject] == [
            line.serial,
            "Example Plant",
            f"Device {line.serial}",
        ]
        assert await refused(line, await line.csr(key_for("weak"))) == (403, "csr-key-kind-mismatch")


@pytest.mark.req("E-24")
async def test_a_ca_that_wants_the_link_has_it_asked_of_the_device(tmp_path: Path) -> None:
    async with site(tmp_path) as at, at.plant.vouched() as line:
        at.ca.attributes = csrattrs.ask(Wishes(others=(CHALLENGE_PASSWORD, "2.5.4.3")), csrattrs.Style.LEGACY)
        assert CHALLENGE_PASSWORD in (await line.asked()).items
        assert await refused(line, csr_of(line)) == (403, "csr-challenge-password-missing")
        certificate_in(await line.enroll(csr_of(line, challenge=await binding(at.plant, line))))


async def test_what_nobody_here_could_check_is_not_asked(tmp_path: Path) -> None:
    open_names = ExtensionWish("2.5.29.17")
    fixed = ExtensionWish("1.3.6.1.4.1.311.20.2", b"\x0c\x06device")
    async with site(tmp_path) as at, at.plant.vouched() as line:
        at.ca.attributes = csrattrs.ask(Wishes(extensions=(open_names, fixed), others=("1.3.6.1.1.1.1.22",)))
        assert (await line.asked()).wishes.extensions == (fixed,)
        certificate_in(await line.enroll())
        name = x509.SubjectAlternativeName([x509.DNSName("registrar.example")])
        assert (await refused(line, csr_of(line, extensions=(name,))))[0] == 403
        assert len(at.ca.requests) == 1


@pytest.mark.parametrize("answer", [ca_fake.status(404), ca_fake.status(204), ca_fake.body(b"", est.CSRATTRS)])
async def test_a_ca_that_wants_nothing(tmp_path: Path, answer: ca_fake.Answer) -> None:
    async with site(tmp_path) as at, at.plant.vouched() as line:
        at.ca.asked.append(answer)
        assert (await line.asked()).wishes.subject == subject_wish(("2.5.4.5", line.serial))


@pytest.mark.parametrize("answer", [ca_fake.status(500), ca_fake.body(b"AAAA", est.CSRATTRS)])
async def test_wishes_that_cannot_be_read_are_the_cas_fault(tmp_path: Path, answer: ca_fake.Answer) -> None:
    async with site(tmp_path) as at, at.plant.vouched() as line:
        at.ca.asked.append(answer)
        assert (await line.get(f"{EST}/csrattrs")).status == 502


# Renewal, again and again, keys made here


@pytest.mark.parametrize("rekey", [False, True])
@pytest.mark.req("E-24", "E-16")
async def test_a_renewal_goes_up_by_simpleenroll(tmp_path: Path, rekey: bool) -> None:
    async with site(tmp_path) as at:
        async with at.plant.vouched() as line:
            ldevid = await line.enrolled()
        at.plant.clock.advance(86400 * 60)
        key = key_for("next key") if rekey else ldevid.key
        async with at.plant.connect(ldevid) as line:
            names = [(each.oid, str(each.value)) for each in ldevid.certificate.subject]
            csr = csr_of(line, *names, key=key)
            renewed = certificate_in(await line.enroll(csr, "simplereenroll"))
            assert renewed.subject == ldevid.certificate.subject
            assert renewed.not_valid_after_utc > ldevid.certificate.not_valid_after_utc
            assert at.ca.requests[-1] == ("/.well-known/est/simpleenroll", csr)
            at.ca.answers.append(ca_fake.certificate(subject=issuing.name("x", serial_number="SN-X")))
            assert (await line.enroll(csr, "simplereenroll")).status == 502
            assert (await at.plant.told(line.serial))[-1] == ("renew-refused", "upstream-certificate-unfit")
            other = csr_of(line, (NameOID.SERIAL_NUMBER, "SN-OF-ANOTHER"), key=key)
            assert (await line.enroll(other, "simplereenroll")).status == 403
        assert len(at.ca.requests) == 3


@pytest.mark.req("E-24", "E-16")
async def test_a_renewal_says_again_what_the_ca_wants_and_nothing_else(tmp_path: Path) -> None:
    fixed = ExtensionWish("1.3.6.1.4.1.311.20.2", b"\x0c\x06device")
    async with site(tmp_path) as at:
        at.ca.attributes = csrattrs.ask(Wishes(extensions=(fixed,)))
        async with at.plant.vouched() as line:
            ldevid = await line.enrolled()
        names = [(each.oid, str(each.value)) for each in ldevid.certificate.subject]
        async with at.plant.connect(ldevid) as line:
            for value, status in ((b"\x0c\x06device", 200), (b"\x0c\x05admin", 403)):
                again = x509.UnrecognizedExtension(x509.ObjectIdentifier(fixed.oid), value)
                csr = csr_of(line, *names, extensions=(again,), key=ldevid.key)
                assert (await line.enroll(csr, "simplereenroll")).status == status
        assert len(at.ca.issued) == 2


async def test_a_ca_may_give_the_same_certificate_to_the_same_request(tmp_path: Path) -> None:
    async def once_more(ca: CaFake, _: x509.CertificateSigningRequest | None) -> web.StreamResponse:
        return ca.hand_out(ca.issued[-1])

    async with site(tmp_path) as at:
        async with at.plant.vouched() as line:
            ldevid = await line.enrolled()
        async with at.plant.connect(ldevid) as line:
            csr = csr_of(line, *[(each.oid, str(each.value)) for each in ldevid.certificate.subject], key=ldevid.key)
            first = certificate_in(await line.enroll(csr, "simplereenroll"))
            at.ca.answers.append(once_more)
            assert certificate_in(await line.enroll(csr, "simplereenroll")) == first
            device = await at.plant.device(line.serial)
            assert len(await at.plant.store.issued_to(device.id)) == 2
            (issued, _) = await at.plant.store.issued(first) or (None, None)
            assert issued is not None
            await at.plant.store.revoke(issued.fingerprint, at.plant.clock())
            at.ca.answers.append(once_more)
            response = await line.enroll(csr, "simplereenroll")
            assert (response.status, reason_of(response)) == (403, "certificate-revoked")


async def test_a_certificate_of_another_device_is_nobody_elses(tmp_path: Path) -> None:
    async with site(tmp_path) as at, at.plant.vouched() as line, at.plant.vouched() as other:
        certificate = certificate_in(await line.enroll())
        device = await at.plant.device(other.serial)
        change = Change(events=(Event.ENROLL,), notes=(), now=at.plant.clock())
        with pytest.raises(Refused, match="certificate-of-another"):
            await at.plant.store.certificate(device, certificate, change)


@pytest.mark.req("E-24", "E-18")
async def test_keys_are_made_here_and_certified_there(tmp_path: Path) -> None:
    async with site(tmp_path) as at:
        await at.plant.change_domain(serverkeygen=True, unsafe_plain_server_keys=True)
        async with at.plant.vouched() as line:
            response = await line.enroll(csr_of(line), "serverkeygen")
            assert response.status == 200, response.body
            answer = est.read_server_key(response.headers["Content-Type"], response.body)
            (certificate,) = est.parse_certs_only(answer.certificates)
            assert at.ca.issued == [certificate]
            assert public_key_info(certificate.public_key()) != public_key_info(
                key_for(f"{line.serial} ldevid").public_key()
            )
            at.ca.answers.append(ca_fake.status(202, "later", "60"))
            response = await line.enroll(csr_of(line), "serverkeygen")
            assert (response.status, reason_of(response)) == (403, "serverkeygen-cannot-wait")
