"""Around the protocol: TLS, HTTP, paths, media types, slowness and size, at registrar, MASA and join proxy."""

import asyncio
import base64
import socket
import ssl
import struct
from pathlib import Path

import pytest
from OpenSSL import SSL

from brski_common import est, tls
from brski_common.certificates import Credential
from brski_common.errors import PeerFailed
from brski_common.http_client import HttpClient
from brski_common.http_connection import Limits
from brski_registrar.discovery import Endpoint
from brski_registrar.limits import Limits as ProxyLimits
from brski_registrar.proxy import JoinProxy, listen
from tests.support.forgeries import honest_request, pvr_of, raw, raw_line, serial_of, statuses, to_end
from tests.support.plant import BRSKI, CMS, EST
from tests.support.rogues import Scene

BRIEF = Limits(connections=8, handshake_seconds=2.0, request_seconds=0.8, idle_seconds=1.5)

REGISTRAR = {
    f"{BRSKI}/requestvoucher": CMS,
    f"{BRSKI}/voucher_status": "application/json",
    f"{BRSKI}/enrollstatus": "application/json",
    f"{EST}/simpleenroll": "application/pkcs10",
    f"{EST}/simplereenroll": "application/pkcs10",
    f"{EST}/serverkeygen": "application/pkcs10",
    f"{EST}/fullcmc": "application/pkcs7-mime",
}
MASA = {f"{prefix}/{name}": CMS for prefix in (BRSKI, EST) for name in ("requestvoucher", "requestauditlog")}

GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "zero": b"\x00",
    "every byte": bytes(range(256)) * 4,
    "endless BER": b"\x30\x80" * 30_000,
    "deep DER": b"".join(b"\x30\x82" + (4 * n).to_bytes(2, "big") for n in range(15_000, 0, -1)),
    "huge length": b"\x30\x84\xff\xff\xff\xff" + b"\x02" * 10,
    "indefinite primitive": b"\x04\x80\x00\x00",
    "deep JSON": b'{"a":' * 20_000,
    "deep list": b"[" * 100_000,
    "duplicate member": b'{"version": 1, "status": true, "status": false}',
    "long integer": b'{"version": ' + b"9" * 10_000 + b', "status": true}',
    "NaN": b'{"version": NaN, "status": true}',
    "half a surrogate": b'{"version": 1, "status": true, "reason": "\\ud800"}',
    "not UTF-8": b'{"version": 1, "status": true, "reason": "\xff\xfe"}',
    "UTF-16": '{"version": 1, "status": true}'.encode("utf-16"),
    "base64 of nothing much": base64.b64encode(b"\x30\x03\x02\x01\x00" * 100),
    "line of A": b"A" * 60_000,
    "PEM": b"-----BEGIN CERTIFICATE REQUEST-----\n" + b"A" * 64 + b"\n-----END CERTIFICATE REQUEST-----\n",
    "CBOR bomb": b"\x9f" * 50_000,
    "JWS": b'{"payload":"","signatures":[]}',
}
TYPES = (None, "application/voucher-jws+json", "application/voucher+cose", "text/plain", "multipart/mixed", ";")


# Nonsense at every door


@pytest.mark.req("AT-10", "HT-10", "TL-07")
async def test_no_bytes_at_any_endpoint_of_the_registrar_are_its_fault(scene: Scene) -> None:
    async with scene.vouched() as line:
        member = await line.enrolled()
    device = await scene.device()
    for credential in (device, member, None):
        async with scene.plant.connect(credential) as line:
            for path, media_type in REGISTRAR.items():
                for name, body in GARBAGE.items():
                    response = await line.post(path, body, media_type)
                    # Telemetry that can be read is heard; nothing else is a success.
                    assert 400 <= response.status < 500 or path.endswith("status"), (path, name, response.status)
                    assert response.status < 500, (path, name)
                for other in TYPES:
                    response = await line.post(path, b"\x30\x00", other)
                    assert response.status < 500, (path, other)
    await scene.untouched(device)
    await scene.still_works(device)


@pytest.mark.req("AT-10", "AT-15", "HT-10")
async def test_no_bytes_at_any_endpoint_of_the_masa_are_its_fault(scene: Scene) -> None:
    for credential in (scene.plant.domain.registrar, None):
        async with scene.factory.client(credential) as line:
            for path, media_type in MASA.items():
                for name, body in GARBAGE.items():
                    response = await line.post(path, body, media_type)
                    assert 400 <= response.status < 500, (path, name, response.status)
                    assert response.body.count(b"\n") == 1, "one line, in plain text"
                for other in TYPES[1:]:
                    assert 400 <= (await line.post(path, b"\x30\x00", other or "")).status < 500
    assert await scene.factory.store.list_entries() == []
    await scene.still_works()


@pytest.mark.req("AT-10")
async def test_a_body_has_an_end(scene: Scene) -> None:
    device = await scene.device()
    for url, credential in ((scene.plant.server.url, device), (scene.factory.server.url, None)):
        head = f"POST {BRSKI}/requestvoucher HTTP/1.1\r\nHost: x\r\nContent-Type: {CMS}\r\n".encode()
        said = await raw(url, head + b"Content-Length: 99999999999\r\n\r\n", credential)
        assert statuses(said) == [413]
        chunk = b"8000\r\n" + bytes(0x8000) + b"\r\n"
        said = await raw(url, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 20, credential)
        assert statuses(said)[:1] == [413]
        said = await raw(
            url, head + b"Content-Encoding: gzip\r\nContent-Length: 2\r\nConnection: close\r\n\r\nxx", credential
        )
        assert statuses(said) == [415], "no compressed bombs"
    await scene.still_works(device)


@pytest.mark.req("EI-13", "VR-01")
async def test_base64_where_binary_belongs(scene: Scene) -> None:
    async with scene.vouched() as line:
        for body in (base64.b64encode(line.pvr()), base64.encodebytes(line.pvr())):
            response = await line.post(f"{BRSKI}/requestvoucher", body, CMS)
            assert response.status == 400
        csr = await line.csr()
        odd = base64.b64encode(base64.b64encode(csr))
        assert (await line.post(f"{EST}/simpleenroll", odd, "application/pkcs10")).status == 400
        assert (await line.post(f"{EST}/simpleenroll", est.encode_body(csr), "application/pkcs10")).status == 200


@pytest.mark.req("MA-24", "EI-13")
async def test_old_paths_of_the_drafts(scene: Scene) -> None:
    """The registrar says where the operation is now; the MASA still serves old registrars, as strictly as all."""
    device = await scene.device()
    async with scene.plant.connect(device) as line:
        for name in ("requestvoucher", "voucher_status", "enrollstatus"):
            response = await line.post(f"{EST}/{name}", line.pvr(), CMS)
            assert response.status == 404
            assert b"path-obsolete" in response.body
    async with scene.factory.client(None) as masa:
        forged = honest_request(device, scene.plant.domain.ldevid("SN-1"))
        assert (await masa.post(f"{EST}/requestvoucher", forged)).status == 403
    await scene.untouched(device)


# Paths and media types

PATHS = (
    "//.well-known/est/cacerts",
    "/.well-known//est/simpleenroll",
    "/.well-known/est//simpleenroll",
    "/.well-known/est/simpleenroll/",
    "/.well-known/est/../est/simpleenroll",
    "/.well-known/est/%2e%2e/est/simpleenroll",
    "/.well-known/est/..%2fsimpleenroll",
    "/.well-known/est/simpleenroll%00",
    "/.well-known/est/simpleenroll;x=y",
    "/.well-known/est/%73impleenroll/x",
    "/.WELL-KNOWN/EST/simpleenroll",
    "/.well-known/est/nolabel/simpleenroll",
    "/.well-known/est/simpleenroll/simpleenroll",
    "/.well-known/est/%2f/simpleenroll",
    "/.well-known/est/" + "a" * 3000 + "/simpleenroll",
    "/.well-known/brski/requestvoucher/../../est/simpleenroll",
    "/../../etc/passwd",
    "\\.well-known\\est\\simpleenroll",
    "*",
    "https://127.0.0.1/.well-known/est/nolabel/simpleenroll",
)


@pytest.mark.req("E-02", "EI-12")
async def test_no_spelling_of_a_path_opens_another_door(scene: Scene) -> None:
    """With a device that may enroll: only the one spelling of the operation leads to it."""
    async with scene.vouched() as line:
        assert line.credential is not None
        body = est.encode_body(await line.csr())
        head = (
            f"Host: x\r\nContent-Type: application/pkcs10\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        for path in PATHS:
            said = await raw(scene.plant.server.url, f"POST {path} HTTP/1.1\r\n{head}".encode() + body, line.credential)
            assert statuses(said) in ([404], [400], [405]), path
        (device,) = await scene.plant.store.find(line.serial)
        assert await scene.certificates(device.id) == 0
        assert (await line.enroll()).status == 200


@pytest.mark.req("VR-13", "EI-14")
@pytest.mark.parametrize(
    ("media_type", "status"),
    [
        (CMS, 200),
        (CMS.upper(), 200),
        (f"{CMS}; charset=utf-8", 200),
        (f"{CMS};q=1;boundary=x", 200),
        (f"{CMS}, text/html", 415),
        (f"text/html, {CMS}", 415),
        (f"{CMS}+xml", 415),
        (f"x{CMS}", 415),
        ("application/voucher-cms+json\t;", 200),
        ("application/*", 415),
        ("*/*", 415),
        (f'"{CMS}"', 415),
        ("application/json", 415),
    ],
)
async def test_a_media_type_is_what_stands_before_the_semicolon(scene: Scene, media_type: str, status: int) -> None:
    device = await scene.device()
    async with scene.plant.connect(device) as line:
        assert (await line.post(f"{BRSKI}/requestvoucher", line.pvr(), media_type)).status == status


@pytest.mark.req("VR-13")
async def test_two_content_types_are_one_too_many(scene: Scene) -> None:
    device = await scene.device()
    body = pvr_of(device, scene.plant.domain.registrar)
    for pair in ((CMS, "text/html"), ("text/html", CMS)):
        head = (
            f"POST {BRSKI}/requestvoucher HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\nConnection: close\r\n"
        )
        fields = "".join(f"Content-Type: {each}\r\n" for each in pair)
        said = await raw(scene.plant.server.url, f"{head}{fields}\r\n".encode() + body, device)
        assert statuses(said)[0] in {200, 400, 415}, "whatever counts, it is read once"
        assert len(statuses(said)) == 1


# Splitting and smuggling: the proxy carries bytes, so there is nobody to disagree with; but still nothing is guessed

SMUGGLED = f"GET {EST}/cacerts HTTP/1.1\r\nHost: x\r\n\r\n"
SPLITS = {
    "both lengths": f"Content-Length: {len(SMUGGLED) + 5}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{SMUGGLED}",
    "two lengths": f"Content-Length: 0\r\nContent-Length: {len(SMUGGLED)}\r\n\r\n{SMUGGLED}",
    "length list": f"Content-Length: 0, {len(SMUGGLED)}\r\n\r\n{SMUGGLED}",
    "signed length": f"Content-Length: +0\r\n\r\n{SMUGGLED}",
    "odd coding": f"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n{SMUGGLED}",
    "coding twice": f"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n{SMUGGLED}",
    "blank before colon": f"Content-Length : {len(SMUGGLED)}\r\n\r\n{SMUGGLED}",
    "folded": f"X: y\r\n Content-Length: {len(SMUGGLED)}\r\n\r\n{SMUGGLED}",
    "NUL": "X: a\x00b\r\nContent-Length: 0\r\n\r\n",
    "bad chunk": f"Transfer-Encoding: chunked\r\n\r\n-1\r\n{SMUGGLED}",
    "many fields": "".join(f"X-{number}: y\r\n" for number in range(500)) + "\r\n",
    "long field": "X: " + "y" * 20_000 + "\r\n\r\n",
}


@pytest.mark.req("AT-10", "TL-07")
@pytest.mark.parametrize("rest", SPLITS.values(), ids=SPLITS.keys())
async def test_http_that_can_be_read_in_two_ways_is_not_read(scene: Scene, rest: str) -> None:
    device = await scene.device()
    head = f"POST {BRSKI}/voucher_status HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    for url in (scene.plant.server.url, scene.factory.server.url):
        said = await raw(url, (head + rest).encode("latin-1"), device)
        assert statuses(said) == [400]
        assert b"Python" not in said
        assert b"aiohttp" not in said


@pytest.mark.req("AT-10")
@pytest.mark.parametrize(
    "line",
    [
        "GET / HTTP/0.9",
        "GET / HTTP/2.0",
        "PRI * HTTP/2.0",
        "CONNECT x:1 HTTP/1.1",
        "TRACE / HTTP/1.1",
        "\x16\x03",
        "GET",
    ],
)
async def test_other_verbs_and_versions(scene: Scene, line: str) -> None:
    said = await raw(scene.plant.server.url, f"{line}\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
    assert all(400 <= status < 500 or status == 505 for status in statuses(said)), said
    await scene.still_works()


# TLS


@pytest.mark.req("TL-18", "TL-11")
@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
async def test_nothing_is_resumed_or_renegotiated(scene: Scene, version: int) -> None:
    for server in (scene.plant.server, scene.factory.server):
        report = await asyncio.to_thread(handshakes, server.host, server.port, version)
        assert report == {"resumed": False, "renegotiated": False}


def handshakes(host: str, port: int, version: int) -> dict[str, bool]:
    """Two handshakes with one session, and a try to negotiate anew in the second."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    session, resumed, renegotiated = None, False, False
    for repeated in (False, True):
        with socket.create_connection((host, port), timeout=10) as plain:
            plain.settimeout(None)
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 300_000))
            connection = SSL.Connection(context, plain)
            connection.set_connect_state()
            if session is not None:
                connection.set_session(session)
            connection.do_handshake()
            connection.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.recv(4096)
            resumed = resumed or bool(SSL._lib.SSL_session_reused(connection._ssl))  # type: ignore[attr-defined] # cffi
            session = connection.get_session()
            if version == SSL.TLS1_2_VERSION and repeated:
                before = connection.total_renegotiations()
                try:
                    connection.renegotiate()
                    connection.do_handshake()
                    connection.sendall(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
                    renegotiated = bool(connection.recv(4096)) and connection.total_renegotiations() > before
                except SSL.Error:
                    pass
    return {"resumed": resumed, "renegotiated": renegotiated}


@pytest.mark.req("TL-01", "E-03")
async def test_old_and_empty_ciphers_are_not_spoken(scene: Scene) -> None:
    for version, ciphers in (
        (ssl.TLSVersion.TLSv1_1, "ALL:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_2, "aNULL:eNULL:@SECLEVEL=0"),
        (ssl.TLSVersion.TLSv1_2, "AES128-SHA:@SECLEVEL=0"),
    ):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        try:
            context.set_ciphers(ciphers)
        except ssl.SSLError:
            continue
        import warnings

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = version
        for server in (scene.plant.server, scene.factory.server):
            with pytest.raises((ssl.SSLError, OSError)):
                await asyncio.open_connection(server.host, server.port, ssl=context)


@pytest.mark.req("AT-10", "TL-12")
async def test_a_chain_without_end_is_cut(scene: Scene) -> None:
    device = await scene.device()
    long = Credential(device.key, device.chain + scene.plant.domain.registrar.chain * 8)
    async with scene.plant.connect(long) as line:
        body = pvr_of(device, scene.plant.domain.registrar)
        try:
            status = (await line.post(f"{BRSKI}/requestvoucher", body, CMS)).status
        except PeerFailed:
            status = 0  # the server hung up
    assert status in {0, 200, 400, 403, 404}
    await scene.still_works(device)


# Slowness (AT-07) and crowds


@pytest.mark.req("AT-07", "PX-04")
@pytest.mark.parametrize("service", ["registrar", "masa"])
async def test_slow_clients_are_put_out_and_others_served_meanwhile(tmp_path: Path, service: str) -> None:
    async with Scene.open(tmp_path, limits=BRIEF) as scene:
        server = scene.plant.server if service == "registrar" else scene.factory.server
        head = f"POST {BRSKI}/requestvoucher HTTP/1.1\r\nHost: x\r\nContent-Type: {CMS}\r\n".encode()
        starts = (
            b"",
            b"P",
            head,
            head + b"Content-Length: 1000\r\n\r\n",
            head + b"Transfer-Encoding: chunked\r\n\r\n5\r\n",
        )
        async with asyncio.timeout(30):
            device = await scene.device()
            lines = [raw_line(server.url) for _ in starts]
            opened = [await line.__aenter__() for line in lines]
            for (_, writer), start in zip(opened, starts, strict=True):
                writer.write(start)
            await scene.still_works(device)
            said = await asyncio.gather(*(to_end(reader) for reader, _ in opened))
            for line in lines:
                await line.__aexit__(None, None, None)
        assert {status for each in said for status in statuses(each)} <= {408}
        await scene.still_works()


@pytest.mark.req("AT-07", "PX-04")
async def test_silent_tcp_connections_do_not_shut_the_door(tmp_path: Path) -> None:
    """More connections than there is room for, none of which even begins TLS."""
    async with Scene.open(tmp_path, limits=BRIEF) as scene:
        server = scene.plant.server
        silent = [await asyncio.open_connection(server.host, server.port) for _ in range(12)]
        device = await scene.device()
        async with asyncio.timeout(30):
            await scene.still_works(device)
        for _, writer in silent:
            writer.close()


# The join proxy


@pytest.mark.req("AT-07", "PX-04")
async def test_the_join_proxy_outlives_silent_devices(scene: Scene) -> None:
    seconds = [0.0]
    listener = await listen(Endpoint("127.0.0.1", 0), any_address=True)
    registrar = Endpoint("127.0.0.1", scene.plant.server.port)

    async def upstream() -> list[Endpoint]:
        return [registrar]

    limits = ProxyLimits(total=4, per_source=4, opening_seconds=5.0)
    proxy = JoinProxy(listener, upstream, limits=limits, clock=lambda: seconds[0])
    try:
        silent = [await asyncio.open_connection("127.0.0.1", proxy.endpoint.port) for _ in range(4)]
        full, writer = await asyncio.open_connection("127.0.0.1", proxy.endpoint.port)
        assert await to_end(full) == b"", "there is no room for a fifth"
        writer.close()
        seconds[0] += 6
        proxy.sweep()
        assert [await to_end(reader) for reader, _ in silent] == [b""] * 4
        await scene.still_works_through(proxy.endpoint.port)
    finally:
        await proxy.close()


@pytest.mark.req("PX-01", "AT-04", "AT-10")
async def test_what_a_device_sends_through_the_proxy_is_nobody_elses(scene: Scene) -> None:
    """Bytes of a request that is split over chunks and connections arrive as they are, or not at all."""
    listener = await listen(Endpoint("127.0.0.1", 0), any_address=True)

    async def upstream() -> list[Endpoint]:
        return [Endpoint("127.0.0.1", scene.plant.server.port)]

    proxy = JoinProxy(listener, upstream)
    try:
        url = f"https://127.0.0.1:{proxy.endpoint.port}"
        device = await scene.device()
        head = f"POST {BRSKI}/voucher_status HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.1\r\n"
        said = await raw(url, (head + SPLITS["both lengths"]).encode(), device)
        assert statuses(said) == [400]
        assert (await raw(url, b"\x15\x03\x01\x00\x02\x02\x28" * 10, device)) is not None
        async with HttpClient(tls.client_context(device, judge=lambda _: None)) as client:
            first = await client.request("GET", f"{url}{EST}/csrattrs")
        assert first.status == 403
        entries = [
            entry.address for entry in await scene.plant.store.journal() if entry.serial_number == serial_of(device)
        ]
        assert "192.0.2.1" not in entries, "who a client is comes from the connection alone"
        await scene.still_works_through(proxy.endpoint.port)
    finally:
        await proxy.close()
