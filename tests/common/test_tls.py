"""The TLS ground: everybody may connect, possession is proven, and the whole chain is kept to be judged."""

import asyncio
import shutil
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
import uvloop
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from OpenSSL import SSL, crypto

from brski_common import tls
from brski_common.certificates import Credential, Peer, PrivateKey, to_pem
from brski_common.errors import BrskiError, Malformed, Misconfigured, Untrusted
from tests.support.world import Domain, Manufacturer, make_key, self_signed_registrar

VERSIONS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
OPENSSL = shutil.which("openssl")
needs_openssl = pytest.mark.skipif(OPENSSL is None, reason="install the package openssl: a foreign peer is wanted")

PLANT, MAKER = Domain(), Manufacturer()
DEVICE = MAKER.idevid("J-0001")

Run = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Run:
    """Run a story on both event loops."""

    def run_story(story: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=request.param) as runner:
            runner.run(story)

    return run_story


def anybody(_: Peer | None) -> None:
    """A judge that lets everybody pass."""


def client(
    credential: Credential | None = None,
    judge: Callable[[Peer], None] = anybody,
    *,
    server_name: bool = True,
    maximum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> tls.TlsContext:
    return tls.client_context(credential, judge=judge, server_name=server_name, maximum_version=maximum_version)


def unwrapped(connection: object) -> tls.TlsObject:
    """What `wrap_bio` says is an ssl.SSLObject."""
    assert isinstance(connection, tls.TlsObject)
    return connection


class Pair:
    """A client and a server over buffers; `cut` is how many bytes arrive at a time."""

    def __init__(self, client: tls.TlsContext, server: tls.TlsContext, name: str = "", cut: int = 1 << 20) -> None:
        self.to_client, self.to_server, self.from_client, self.from_server = (ssl.MemoryBIO() for _ in range(4))
        self.client = unwrapped(client.wrap_bio(self.to_client, self.from_client, server_hostname=name))
        self.server = unwrapped(server.wrap_bio(self.to_server, self.from_server, server_side=True))
        self.cut = cut

    def shake_hands(self) -> "Pair":
        waiting = {self.client, self.server}
        while waiting:
            for end in tuple(waiting):
                with suppress(ssl.SSLWantReadError):
                    end.do_handshake()
                    waiting.discard(end)
                self.carry()
        return self

    def carry(self) -> None:
        self.to_server.write(self.from_client.read(self.cut))
        self.to_client.write(self.from_server.read(self.cut))


@asynccontextmanager
async def echo(context: tls.TlsContext, seen: list[Peer | None] | None = None) -> AsyncIterator[int]:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if seen is not None:
            seen.append(tls.peer_of(writer.transport))
        with suppress(ConnectionError):
            while data := await reader.read(1 << 16):
                writer.write(data)
                await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def connected(port: int, context: tls.TlsContext) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="registrar.example")


@pytest.mark.req("TL-02", "TL-03", "TL-05", "MT-01")
@pytest.mark.parametrize("version", VERSIONS)
def test_both_ends_keep_the_whole_chain_of_the_other(run: Run, version: ssl.TLSVersion) -> None:
    async def story() -> None:
        judged: list[Peer] = []
        seen: list[Peer | None] = []
        async with echo(tls.server_context(PLANT.registrar), seen) as port:
            reader, writer = await connected(port, client(DEVICE, judge=judged.append, maximum_version=version))
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            assert writer.get_extra_info("cipher")[1] == f"TLSv1.{version - ssl.TLSVersion.TLSv1_2 + 2}"
            peer = tls.peer_of(writer.transport)
            assert peer is not None
            assert peer.chain == PLANT.registrar.chain == judged[0].chain
            assert peer.address == "127.0.0.1"
            assert tls.peer_of(writer.transport) is peer
            writer.close()
            await writer.wait_closed()
        assert seen[0] is not None
        assert seen[0].certificate == DEVICE.certificate
        assert seen[0].chain == DEVICE.chain
        assert seen[0].address == "127.0.0.1"

    run(story())


@pytest.mark.req("TL-10")
def test_megabytes_pass_both_ways_unharmed(run: Run) -> None:
    async def story() -> None:
        sent = bytes(range(256)) * 12_000
        async with echo(tls.server_context(PLANT.registrar)) as port:
            reader, writer = await connected(port, client())

            async def send() -> None:
                writer.write(sent)
                await writer.drain()

            received, _ = await asyncio.gather(reader.readexactly(len(sent)), send())
            assert received == sent
            writer.close()
            await writer.wait_closed()

    run(story())


@pytest.mark.req("TL-04", "TL-06")
def test_a_provisional_client_takes_a_self_signed_registrar() -> None:
    lonely = self_signed_registrar()
    pair = Pair(client(), tls.server_context(lonely)).shake_hands()
    peer = pair.client.peer()
    assert peer is not None
    assert peer.chain == lonely.chain


def test_a_client_without_a_certificate_is_let_in_and_known_to_have_none() -> None:
    pair = Pair(client(), tls.server_context(PLANT.registrar)).shake_hands()
    assert pair.server.peer() is None


@pytest.mark.req("TL-12")
def test_a_device_of_an_unknown_maker_gets_in_so_that_it_can_be_told_why_not() -> None:
    stranger = Manufacturer("Nobody Knows").idevid("X-1")
    peer = Pair(client(stranger), tls.server_context(PLANT.registrar)).shake_hands().server.peer()
    assert peer is not None
    assert peer.chain == stranger.chain


@pytest.mark.parametrize("kind", ["P-256", "P-384", "RSA-2048", "Ed25519"])
@pytest.mark.parametrize("version", VERSIONS)
def test_every_kind_of_key_serves_at_both_ends(kind: str, version: ssl.TLSVersion) -> None:
    device, registrar = Manufacturer(kind=kind).idevid("J-2"), Domain(kind=kind).registrar
    pair = Pair(client(device, maximum_version=version), tls.server_context(registrar)).shake_hands()
    peer = pair.server.peer()
    assert peer is not None
    assert peer.certificate == device.certificate


def liar(tmp_path: Path, credential: Credential) -> Path:
    """A key file that claims the public key of `credential` and holds another private one."""
    claimed = credential.certificate.public_key()
    other = make_key("P-256")
    assert isinstance(claimed, ec.EllipticCurvePublicKey)
    points = [
        key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        for key in (other.public_key(), claimed)
        if isinstance(key, ec.EllipticCurvePublicKey)
    ]
    der = other.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    assert der.count(points[0]) == 1
    path = tmp_path / "liar.der"
    path.write_bytes(der.replace(points[0], points[1]))
    return path


@pytest.mark.req("TL-04")
@pytest.mark.parametrize("version", VERSIONS)
def test_a_server_that_does_not_hold_its_key_is_found_out(tmp_path: Path, version: ssl.TLSVersion) -> None:
    judged: list[Peer] = []
    server = tls.server_context(PLANT.registrar)
    server.side.openssl.use_privatekey_file(str(liar(tmp_path, PLANT.registrar)), crypto.FILETYPE_ASN1)
    with pytest.raises(ssl.SSLError, match="bad signature"):
        Pair(client(judge=judged.append, maximum_version=version), server).shake_hands()
    assert not judged


@pytest.mark.req("TL-12")
@pytest.mark.parametrize("version", VERSIONS)
def test_a_client_that_does_not_hold_its_key_is_found_out(tmp_path: Path, version: ssl.TLSVersion) -> None:
    thief = client(DEVICE, maximum_version=version)
    assert thief.side._first is not None
    key = crypto.load_privatekey(crypto.FILETYPE_ASN1, liar(tmp_path, DEVICE).read_bytes())
    with pytest.warns(DeprecationWarning, match="cryptography private key"):  # which would not hold two halves
        thief.side._first.use_privatekey(key)
    with pytest.raises(ssl.SSLError, match="bad signature"):
        Pair(thief, tls.server_context(PLANT.registrar)).shake_hands()


@pytest.mark.parametrize("version", VERSIONS)
def test_what_the_judge_raises_is_what_the_caller_can_have(run: Run, version: ssl.TLSVersion) -> None:
    error = Untrusted("path-not-found", "a registrar of somebody else")

    def strict(_: Peer) -> None:
        raise error

    async def story() -> None:
        async with echo(tls.server_context(PLANT.registrar)) as port:
            with pytest.raises(ssl.SSLError) as refused:
                await connected(port, client(DEVICE, judge=strict, maximum_version=version))
        assert tls.refusal_in(refused.value) is error

    run(story())


def test_a_refused_server_does_not_learn_who_asked() -> None:
    def strict(_: Peer) -> None:
        raise Untrusted("path-not-found")

    pair = Pair(client(DEVICE, judge=strict), tls.server_context(PLANT.registrar))
    with pytest.raises(tls.PeerRefusedError):
        pair.shake_hands()
    pair.carry()
    with pytest.raises(ssl.SSLWantReadError):
        pair.server.do_handshake()
    assert pair.server.peer() is None


def test_a_server_with_a_judge_can_end_the_connection_too() -> None:
    def strict(peer: Peer | None) -> None:
        if peer is None:
            raise Untrusted("client-certificate-missing")

    pair = Pair(client(), tls.server_context(PLANT.registrar, judge=strict))
    with pytest.raises(tls.PeerRefusedError, match="client-certificate-missing"):
        pair.shake_hands()
    Pair(client(DEVICE), tls.server_context(PLANT.registrar, judge=strict)).shake_hands()


def test_an_error_without_a_refusal_in_it_is_told_apart() -> None:
    assert tls.refusal_in(None) is None
    assert tls.refusal_in(ConnectionResetError()) is None


@pytest.mark.req("TL-07", "AT-10")
def test_a_chain_without_end_is_refused() -> None:
    endless = Credential(DEVICE.key, DEVICE.chain[:1] + DEVICE.chain[1:] * tls.MAX_CHAIN_CERTIFICATES)
    pair = Pair(client(endless), tls.server_context(PLANT.registrar)).shake_hands()
    with pytest.raises(Malformed) as refused:
        pair.server.peer()
    assert refused.value.reason == "chain-too-long"


@pytest.mark.req("TL-15")
@pytest.mark.parametrize(
    ("name", "wanted", "sent"),
    [
        ("registrar.example", True, True),
        ("registrar.example", False, False),
        ("192.0.2.7", True, False),
        ("fe80::1%eth0", True, False),
    ],
)
def test_the_server_name_is_sent_when_it_is_one_and_wanted(name: str, wanted: bool, sent: bool) -> None:
    pair = Pair(client(server_name=wanted), tls.server_context(PLANT.registrar), name)
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.do_handshake()
    assert (name.encode() in pair.from_client.read()) is sent


@pytest.mark.req("TL-16")
def test_the_server_name_a_client_asks_for_changes_nothing() -> None:
    pair = Pair(client(DEVICE), tls.server_context(PLANT.registrar), "somebody.else.example").shake_hands()
    peer = pair.client.peer()
    assert peer is not None
    assert peer.chain == PLANT.registrar.chain


@pytest.mark.parametrize("version", VERSIONS)
def test_both_ends_derive_the_same_channel_binding(run: Run, version: ssl.TLSVersion) -> None:
    bindings: list[bytes | None] = []

    async def note(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        bindings.append(tls.channel_binding(writer.transport))
        writer.write(b".")
        await reader.read()
        writer.close()

    async def story() -> None:
        server = await asyncio.start_server(note, "127.0.0.1", 0, ssl=tls.server_context(PLANT.registrar))
        async with server:
            port = server.sockets[0].getsockname()[1]
            for _ in range(2):
                reader, writer = await connected(port, client(maximum_version=version))
                await reader.readexactly(1)
                bindings.append(tls.channel_binding(writer.transport))
                writer.close()
                await writer.wait_closed()
        assert bindings[0] is not None
        assert bindings[0] == bindings[1] != bindings[2] == bindings[3]
        assert len(bindings[0]) == (12 if version == ssl.TLSVersion.TLSv1_2 else 32)

    run(story())


def test_a_connection_without_tls_has_no_peer_and_no_binding(run: Run) -> None:
    async def story() -> None:
        async with echo(tls.server_context(PLANT.registrar)) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            assert tls.peer_of(writer.transport) is None
            assert tls.channel_binding(writer.transport) is None
            writer.close()
            await writer.wait_closed()

    run(story())


@pytest.mark.req("TL-18")
@pytest.mark.parametrize("version", VERSIONS)
def test_a_session_is_never_resumed(version: ssl.TLSVersion) -> None:
    server = tls.server_context(PLANT.registrar)
    context = client(DEVICE, maximum_version=version)
    first = Pair(context, server).shake_hands()
    for end in (first.server, first.client):
        with suppress(ssl.SSLWantReadError):
            end.read()
        first.carry()
    session = first.client._connection.get_session()
    assert session is not None
    again = Pair(context, server)
    again.client._connection.set_session(session)
    again.shake_hands()
    peer = again.server.peer()  # a resumed session would know the leaf at most
    assert peer is not None
    assert peer.chain == DEVICE.chain


def test_a_client_cannot_renegotiate() -> None:
    pair = Pair(
        client(DEVICE, maximum_version=ssl.TLSVersion.TLSv1_2), tls.server_context(PLANT.registrar)
    ).shake_hands()
    with pytest.raises(SSL.Error, match="no renegotiation"):
        pair.client._connection.renegotiate()
    assert pair.client._connection.total_renegotiations() == 0


@settings(max_examples=40, deadline=None)
@given(cut=st.integers(1, 40), sizes=st.lists(st.integers(0, 40_000), max_size=4))
def test_records_may_arrive_in_any_pieces(cut: int, sizes: list[int]) -> None:
    pair = Pair(CLIENT, SERVER).shake_hands()
    sent = b"".join(bytes([number]) * size for number, size in enumerate(sizes))
    for number, size in enumerate(sizes):
        assert pair.client.write(bytes([number]) * size) == size
    pair.client.write(b"!")
    wire, received = pair.from_client.read(), b""
    for start in range(0, len(wire), cut * 97):
        pair.to_server.write(wire[start : start + cut * 97])
        with suppress(ssl.SSLWantReadError):
            while True:
                data = pair.server.read()
                assert isinstance(data, bytes)
                received += data
    assert received == sent + b"!"
    assert pair.to_server.pending == 0


CLIENT, SERVER = client(DEVICE), tls.server_context(PLANT.registrar)


@pytest.mark.parametrize("version", VERSIONS)
def test_a_handshake_survives_being_cut_into_single_bytes(version: ssl.TLSVersion) -> None:
    pair = Pair(client(DEVICE, maximum_version=version), SERVER, cut=1).shake_hands()
    assert pair.server.peer() is not None


def test_reading_into_a_buffer_and_the_end_of_the_data() -> None:
    pair = Pair(CLIENT, SERVER).shake_hands()
    pair.client.write(b"hello")
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.unwrap()
    pair.carry()
    buffer = bytearray(10)
    assert pair.server.read(10, buffer) == 5
    assert buffer[:5] == b"hello"
    assert pair.server.read(10, buffer) == 0
    assert pair.server.read() == b""
    pair.server.unwrap()
    pair.carry()
    pair.client.unwrap()


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=1, max_size=600))
def test_garbage_instead_of_tls_is_an_ssl_error_and_nothing_else(garbage: bytes) -> None:
    pair = Pair(CLIENT, SERVER)
    pair.to_server.write(garbage)
    with pytest.raises(ssl.SSLError):
        pair.server.do_handshake()


@settings(max_examples=60, deadline=None)
@given(where=st.integers(0, 1 << 16), flip=st.integers(1, 255))
def test_a_flipped_byte_in_the_servers_flight_never_ends_in_a_handshake(where: int, flip: int) -> None:
    pair = Pair(CLIENT, SERVER)
    with suppress(ssl.SSLWantReadError):
        pair.client.do_handshake()
    pair.carry()
    with suppress(ssl.SSLWantReadError):
        pair.server.do_handshake()
    flight = bytearray(pair.from_server.read())
    where %= len(flight)
    after_hello = 5 + int.from_bytes(flight[3:5])
    # The version of a record that is not encrypted is ignored (RFC 8446, 5.1).
    assume(where not in {1, 2, after_hello + 1, after_hello + 2})
    flight[where] ^= flip
    pair.to_client.write(flight)
    with pytest.raises(ssl.SSLError):
        pair.client.do_handshake()


class TokenKey(ec.EllipticCurvePrivateKey):
    """A key that lives in a token: it signs, and shows nothing."""

    def __init__(self, key: PrivateKey) -> None:
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        self._key = key

    def sign(
        self, data: bytes | bytearray | memoryview, signature_algorithm: ec.EllipticCurveSignatureAlgorithm
    ) -> bytes:
        return self._key.sign(data, signature_algorithm)

    def public_key(self) -> ec.EllipticCurvePublicKey:
        return self._key.public_key()

    @property
    def curve(self) -> ec.EllipticCurve:
        return self._key.curve

    @property
    def key_size(self) -> int:
        return self._key.key_size

    def exchange(self, algorithm: ec.ECDH, peer_public_key: ec.EllipticCurvePublicKey) -> bytes:
        raise UnsupportedAlgorithm("the token does not exchange")

    def private_numbers(self) -> ec.EllipticCurvePrivateNumbers:
        raise UnsupportedAlgorithm("the token does not show its key")

    def private_bytes(self, *_: object) -> bytes:
        raise UnsupportedAlgorithm("the token does not show its key")

    def __copy__(self) -> "TokenKey":
        return self

    def __deepcopy__(self, memo: dict[Any, Any]) -> "TokenKey":
        return self


def test_a_key_inside_a_token_is_refused_with_advice() -> None:
    with pytest.raises(Misconfigured, match="file: key") as refused:
        tls.server_context(Credential(TokenKey(PLANT.registrar.key), PLANT.registrar.chain))
    assert refused.value.reason == "tls-key-not-usable"
    with pytest.raises(Misconfigured, match="file: key") as refused:
        tls.client_side(Credential(TokenKey(DEVICE.key), DEVICE.chain), judge=lambda _: None)
    assert refused.value.reason == "tls-key-not-usable"


def test_a_key_of_another_certificate_is_refused() -> None:
    with pytest.raises(Misconfigured) as refused:
        tls.server_context(Credential(make_key(), PLANT.registrar.chain))
    assert refused.value.reason == "tls-credential-rejected"
    with pytest.raises(Misconfigured, match="key values mismatch") as refused:
        tls.client_side(Credential(make_key(), DEVICE.chain), judge=lambda _: None)
    assert refused.value.reason == "tls-credential-rejected"


def test_the_pledge_can_use_tls_without_loading_an_http_library() -> None:
    code = "import sys, brski_common.tls; sys.exit('aiohttp' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def s_client(port: int, *options: str, talk: bytes = b"") -> Awaitable[tuple[int, str]]:
    async def foreign() -> tuple[int, str]:
        command = [str(OPENSSL), "s_client", "-connect", f"127.0.0.1:{port}", *options]
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *command, stdin=pipe, stdout=pipe, stderr=asyncio.subprocess.STDOUT
        )
        output, _ = await process.communicate(talk)
        assert process.returncode is not None
        return process.returncode, output.decode(errors="replace")

    return foreign()


@needs_openssl
@pytest.mark.req("TL-02", "TL-03")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_openssl_connects_with_a_certificate_and_its_chain(tmp_path: Path, version: str) -> None:
    (tmp_path / "cert.pem").write_bytes(to_pem(DEVICE.certificate))
    (tmp_path / "chain.pem").write_bytes(to_pem(*DEVICE.chain[1:]))
    (tmp_path / "key.pem").write_bytes(DEVICE.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    files = ["-cert", f"{tmp_path}/cert.pem", "-key", f"{tmp_path}/key.pem", "-cert_chain", f"{tmp_path}/chain.pem"]
    seen: list[Peer | None] = []
    async with echo(tls.server_context(PLANT.registrar), seen) as port:
        status, output = await s_client(port, version, *files)
    assert status == 0, output
    assert seen[0] is not None
    assert seen[0].chain == DEVICE.chain


@needs_openssl
@pytest.mark.req("TL-01", "TL-02", "TL-03", "MT-01")
async def test_tls_1_1_is_refused_by_the_server() -> None:
    async with echo(tls.server_context(PLANT.registrar)) as port:
        status, output = await s_client(port, "-tls1_1", "-cipher", "DEFAULT@SECLEVEL=0")
    assert status != 0
    assert "Cipher is (NONE)" in output


@pytest.mark.req("TL-01", "MT-01", "OP-01")
def test_the_client_offers_nothing_below_tls_1_2() -> None:
    pair = Pair(CLIENT, SERVER)
    with pytest.raises(ssl.SSLWantReadError):
        pair.client.do_handshake()
    hello = pair.from_client.read()
    supported_versions = b"\x00\x2b\x00\x05\x04\x03\x04\x03\x03"  # RFC 8446, 4.2.1: TLS 1.3, then 1.2, and no more
    assert supported_versions in hello


@needs_openssl
@pytest.mark.req("TL-18")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
async def test_openssl_finds_nothing_to_resume(tmp_path: Path, version: str) -> None:
    saved = tmp_path / "session.pem"
    async with echo(tls.server_context(PLANT.registrar)) as port:
        await s_client(port, version, "-sess_out", str(saved))
        options = ["-sess_in", str(saved)] if saved.exists() else []
        status, output = await s_client(port, version, *options)
    assert status == 0, output
    assert "New, " in output
    assert "Reused, " not in output


def test_errors_carry_a_reason_and_no_openssl_numbers() -> None:
    pair = Pair(CLIENT, SERVER)
    pair.to_server.write(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(ssl.SSLError, match="http request") as failed:
        pair.server.do_handshake()
    assert not isinstance(failed.value, BrskiError)
