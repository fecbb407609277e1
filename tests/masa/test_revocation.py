"""Is the registrar revoked? CRL and OCSP, and what may be asked at all (RFC 8995, 5.5.3)."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID
from hypothesis import given
from hypothesis import strategies as st

from brski_common import der, issuing
from brski_common.certificates import Credential
from brski_common.errors import BrskiError, PeerFailed, Refused, Untrusted
from brski_masa.fetching import Fetcher, is_public
from brski_masa.revocation import Revocation, check_crl, check_ocsp, ocsp_request, servers_of
from tests.masa.plant import MAKER, OTHER_PLANT, PLANT, nonceless, open_desk, pvr, registrar_under, rvr
from tests.support.world import NOW, fresh, make_key

CRL_URL = "http://crl.plant.example/issuing.crl"
OCSP_URL = "http://ocsp.plant.example/"
CA = PLANT.issuing


def crl_points(*urls: str) -> x509.CRLDistributionPoints:
    return x509.CRLDistributionPoints(
        [x509.DistributionPoint([x509.UniformResourceIdentifier(url)], None, None, None) for url in urls]
    )


def ocsp_access(url: str = OCSP_URL) -> x509.AuthorityInformationAccess:
    location = x509.UniformResourceIdentifier(url)
    return x509.AuthorityInformationAccess([x509.AccessDescription(AuthorityInformationAccessOID.OCSP, location)])


WITH_CRL = registrar_under(CA, crl_points(CRL_URL))
WITH_OCSP = registrar_under(CA, ocsp_access(), crl_points(CRL_URL))


def crl(*revoked: Credential, issuer: Credential = CA, made: datetime = NOW, days: float = 1) -> bytes:
    builder = x509.CertificateRevocationListBuilder().issuer_name(issuer.certificate.subject)
    builder = builder.last_update(made).next_update(made + timedelta(days=days))
    for each in revoked:
        entry = x509.RevokedCertificateBuilder().serial_number(each.certificate.serial_number).revocation_date(made)
        builder = builder.add_revoked_certificate(entry.build())
    return builder.sign(issuer.key, issuing.signature_hash(issuer.key)).public_bytes(Encoding.DER)


def ocsp_answer(
    certificate: x509.Certificate,
    status: ocsp.OCSPCertStatus = ocsp.OCSPCertStatus.GOOD,
    responder: Credential = CA,
    *,
    made: datetime = NOW,
    lasts: timedelta | None = timedelta(hours=2),
) -> bytes:
    builder = ocsp.OCSPResponseBuilder().add_response(
        cert=certificate,
        issuer=CA.certificate,
        algorithm=hashes.SHA1(),
        cert_status=status,
        this_update=made,
        next_update=None if lasts is None else made + lasts,
        revocation_time=made if status is ocsp.OCSPCertStatus.REVOKED else None,
        revocation_reason=None,
    )
    builder = builder.responder_id(ocsp.OCSPResponderEncoding.HASH, responder.certificate)
    if responder is not CA:
        builder = builder.certificates([responder.certificate])
    return builder.sign(responder.key, issuing.signature_hash(responder.key)).public_bytes(Encoding.DER)


class Web:
    """The Internet: what each address answers, and what was asked."""

    def __init__(self, **pages: bytes | BrskiError) -> None:
        self.pages = {CRL_URL: pages.get("crl"), OCSP_URL: pages.get("ocsp")}
        self.asked: list[str] = []

    async def fetch(self, url: str, _body: bytes | None) -> bytes:
        self.asked.append(url)
        page = self.pages.get(url)
        if isinstance(page, bytes):
            return page
        raise page or PeerFailed("revocation-unreachable", url)


async def ask(web: Web, who: Credential, *, refuse: bool = True) -> datetime | None:
    return await Revocation(web.fetch, refuse_unreachable=refuse).check(who.chain, NOW)


@pytest.mark.req("MA-03", "V-CMS-08")
async def test_good_answer_says_until_when() -> None:
    assert await ask(Web(crl=crl()), WITH_CRL) == NOW + timedelta(days=1)
    web = Web(ocsp=ocsp_answer(WITH_OCSP.certificate))
    assert await ask(web, WITH_OCSP) == NOW + timedelta(hours=2)
    assert web.asked == [OCSP_URL]


@pytest.mark.req("MA-03", "AT-13")
async def test_revoked_registrar_is_refused() -> None:
    for web, who in (
        (Web(crl=crl(WITH_CRL)), WITH_CRL),
        (Web(ocsp=ocsp_answer(WITH_OCSP.certificate, ocsp.OCSPCertStatus.REVOKED)), WITH_OCSP),
    ):
        with pytest.raises(Refused, match="registrar-revoked"):
            await ask(web, who, refuse=False)


@pytest.mark.req("MA-03")
async def test_unreachable_servers_are_judged_by_the_settings() -> None:
    with pytest.raises(Refused, match="revocation-unknown"):
        await ask(Web(), WITH_CRL)
    assert await ask(Web(), WITH_CRL, refuse=False) is None
    assert await ask(Web(crl=crl()), WITH_OCSP) == NOW + timedelta(days=1)  # the CRL stands in for OCSP


@pytest.mark.req("MA-03")
@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"nonsense",
        crl(issuer=OTHER_PLANT.issuing),
        crl(made=NOW - timedelta(days=9)),
        crl(made=NOW + timedelta(days=9)),
    ],
)
async def test_answer_that_does_not_count_is_like_none(answer: bytes) -> None:
    with pytest.raises(Refused, match="revocation-unknown"):
        await ask(Web(crl=answer), WITH_CRL)


async def test_ocsp_answer_must_be_about_this_certificate_and_from_its_issuer() -> None:
    delegate = responder(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]))
    check_ocsp(ocsp_answer(WITH_OCSP.certificate, responder=delegate), WITH_OCSP.certificate, CA.certificate, NOW)
    for answer in (
        ocsp_answer(WITH_CRL.certificate),
        ocsp_answer(WITH_OCSP.certificate, responder=responder()),
        ocsp_answer(WITH_OCSP.certificate, responder=OTHER_PLANT.issuing),
        ocsp_answer(WITH_OCSP.certificate, made=NOW - timedelta(days=2)),
        ocsp_answer(WITH_OCSP.certificate, ocsp.OCSPCertStatus.UNKNOWN),
    ):
        with pytest.raises(Untrusted):
            check_ocsp(answer, WITH_OCSP.certificate, CA.certificate, NOW)


END_OF_TIME = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)


def signed_anew(data: bytes, old: bytes, new: bytes) -> bytes:
    """A list of `CA` with other bytes in it, which pyca's builder would not write."""
    found = x509.load_der_x509_crl(data)
    tbs = found.tbs_certlist_bytes.replace(old, new)
    assert len(tbs) == len(found.tbs_certlist_bytes)
    assert isinstance(CA.key, ec.EllipticCurvePrivateKey)
    algorithm = der.sequence(der.oid(found.signature_algorithm_oid.dotted_string))
    return der.sequence(tbs, algorithm, der.bit_string(CA.key.sign(tbs, ec.ECDSA(hashes.SHA256()))))


def test_a_date_beyond_the_calendar_is_a_fault_of_the_answer() -> None:
    who, last = WITH_OCSP.certificate, b"99991231235959Z"
    endless = crl(days=(END_OF_TIME - NOW) / timedelta(days=1))
    assert check_crl(endless, who, CA.certificate, NOW) == END_OF_TIME
    assert check_crl(signed_anew(endless, b"", b""), who, CA.certificate, NOW) == END_OF_TIME
    with pytest.raises(Untrusted, match="crl-malformed"):
        check_crl(signed_anew(endless, last, b"00000101000000Z"), who, CA.certificate, NOW)
    hour = timedelta(hours=1)
    assert check_ocsp(ocsp_answer(who, lasts=None), who, CA.certificate, NOW) == NOW + hour
    for late in (crl(made=END_OF_TIME, days=0), crl(made=END_OF_TIME - hour, days=hour / timedelta(days=1))):
        with pytest.raises(Untrusted, match="out-of-date"):
            check_crl(late, who, CA.certificate, NOW)
    with pytest.raises(Untrusted, match="out-of-date"):
        check_ocsp(ocsp_answer(who, made=END_OF_TIME, lasts=None), who, CA.certificate, NOW)


def responder(*extensions: x509.ExtensionType) -> Credential:
    key = make_key()
    certificate = issuing.end_entity(
        CA,
        key.public_key(),
        issuing.name("Responder"),
        not_before=NOW - timedelta(days=1),
        not_after=NOW + timedelta(days=9),
        extensions=[(each, False) for each in extensions],
    )
    return Credential(key, (certificate,))


@given(st.binary(max_size=300))
def test_any_answer_raises_only_our_errors(data: bytes) -> None:
    with pytest.raises(BrskiError):
        check_crl(data, WITH_CRL.certificate, CA.certificate, NOW)
    with pytest.raises(BrskiError):
        check_ocsp(data, WITH_CRL.certificate, CA.certificate, NOW)


async def test_crl_is_fetched_once() -> None:
    web = Web(crl=crl())
    checker = Revocation(web.fetch)
    for _ in range(3):
        await checker.check(WITH_CRL.chain, NOW)
    assert len(web.asked) == 1
    with pytest.raises(Refused):  # a newer one is fetched when it is out of date
        await checker.check(WITH_CRL.chain, NOW + timedelta(days=2))
    assert len(web.asked) == 2


@pytest.mark.req("MA-03", "AT-13", "MA-18")
async def test_masa_asks_only_for_requests_it_would_grant_and_keeps_the_voucher_within_the_answer(
    tmp_path: Path,
) -> None:
    web = Web(crl=crl(made=NOW - timedelta(hours=23, minutes=50)))
    async with open_desk(tmp_path, revocation=Revocation(web.fetch)) as desk:
        device, sold = await desk.sell(MAKER.idevid(fresh())), MAKER.idevid(fresh())
        await desk.sell(sold, owner="Other Plant")
        inside = pvr(sold, WITH_CRL.certificate)
        with pytest.raises(Refused, match="device-not-owned"):
            await desk.ask(rvr(sold, signer=WITH_CRL, prior=inside))
        assert web.asked == []
        voucher = await desk.ask(nonceless(device, signer=WITH_CRL))
        assert voucher.expires_on == NOW + timedelta(minutes=10)
        web.pages[CRL_URL] = crl(WITH_CRL)
        desk.clock.advance(3600)
        with pytest.raises(Refused, match="registrar-revoked"):
            await desk.ask(nonceless(device, signer=WITH_CRL))


# What may be asked


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "169.254.169.254", "192.168.1.1", "0.0.0.0", "::1", "fe80::1%eth0", "fd00::1",
     "::ffff:10.0.0.1", "224.0.0.1", "100.64.0.1", "2002:7f00:1::", "64:ff9b::a01:203",
     "64:ff9b:1::a01:203", "::7f00:1", "fec0::1", "not an address"],
)  # fmt: skip
def test_private_addresses_are_not_public(address: str) -> None:
    assert not is_public(address)


def test_public_addresses_are() -> None:
    assert is_public("8.8.8.8")
    assert is_public("2606:4700::1111")
    assert is_public("64:ff9b::808:808"), "what DNS64 makes of a public IPv4 address"


OPEN = Fetcher(hosts=frozenset(("intern.example:8080",)), only_hosts=False, seconds=5)


@pytest.mark.parametrize(
    "url",
    ["https://crl.example/", "ldap://crl.example/", "file:///etc/passwd", "http://crl.example:22/", "http:///x",
     "http://user@crl.example/", "http://crl.example/a b", "http://crl.example/\r\nX: y", "http://[::1", "gopher://x",
     "http://crl.example/" + "a" * 2000],
)  # fmt: skip
def test_only_plain_http_on_port_80_may_be_asked(url: str) -> None:
    with pytest.raises(PeerFailed, match="revocation-url-refused"):
        OPEN.target(url)


def test_listed_hosts_may_be_elsewhere_and_others_can_be_shut_out() -> None:
    assert OPEN.target("http://intern.example:8080/x?y=1") == ("intern.example", 8080, "/x?y=1")
    assert OPEN.target("http://crl.example") == ("crl.example", 80, "/")
    with pytest.raises(PeerFailed):
        Fetcher(hosts=frozenset(), only_hosts=True, seconds=5).target("http://crl.example")


@asynccontextmanager
async def web_server(answer: Callable[[bytes], bytes]) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        body = b""
        if b"Content-Length: " in head:
            body = await reader.readexactly(int(head.split(b"Content-Length: ")[1].split(b"\r\n")[0]))
        writer.write(answer(head + body))
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def test_download_over_a_real_socket() -> None:
    seen, page = list[bytes](), crl()

    def answer(request: bytes) -> bytes:
        seen.append(request)
        return b"HTTP/1.1 200 OK\r\nContent-Type: application/pkix-crl\r\n\r\n" + page

    async with web_server(answer) as port:
        fetcher = Fetcher(hosts=frozenset((f"127.0.0.1:{port}",)), only_hosts=False, seconds=5)
        assert await fetcher.fetch(f"http://127.0.0.1:{port}/a.crl", None) == page
        question = ocsp_request(WITH_OCSP.certificate, CA.certificate)
        await fetcher.fetch(f"http://127.0.0.1:{port}/", question)
        assert seen[0].startswith(b"GET /a.crl HTTP/1.0\r\n")
        assert seen[1].endswith(question)
        with pytest.raises(PeerFailed, match=r"not in revocation\.hosts"):
            await OPEN.fetch(f"http://127.0.0.1:{port}/a.crl", None)
        with pytest.raises(PeerFailed):
            await OPEN.fetch("http://localhost/a.crl", None)


@pytest.mark.parametrize(
    "answer",
    [b"", b"garbage\r\n\r\n", b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1/\r\n\r\n", b"HTTP/1.1 500 No\r\n\r\n",
     b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 99,
     b"HTTP/1.1 200 OK\r\n\r\n" + bytes(4 * 1024 * 1024 + 1), b"HTTP/1.1 200 OK\r\n" + b"a" * 100_000],
)  # fmt: skip
async def test_bad_downloads_fail_within_bounds(answer: bytes) -> None:
    async with web_server(lambda _: answer) as port:
        fetcher = Fetcher(hosts=frozenset((f"127.0.0.1:{port}",)), only_hosts=False, seconds=5)
        with pytest.raises(PeerFailed):
            await fetcher.fetch(f"http://127.0.0.1:{port}/", None)


def test_certificate_says_whom_to_ask() -> None:
    assert servers_of(WITH_OCSP.certificate).ocsp == (OCSP_URL,)
    assert servers_of(WITH_CRL.certificate).crls == (CRL_URL,)
    assert not servers_of(PLANT.registrar.certificate)
