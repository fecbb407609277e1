"""The one TLS ground: OpenSSL's memory BIOs (by pyOpenSSL) behind the face of `ssl.SSLContext`.

Laws of this file:

1. Both sides take any certificate chain; OpenSSL proves only that the peer holds the key of its leaf (RFC 8995, 5.1).
   Whether the chain is trusted is for `judge`, right after the handshake, or for the service, later and with a reason.
2. The chain is kept as received, leaf first (RFC 8995, 5.1). Nothing is resumed: a resumed session has no chain.
3. `TlsContext` is taken by asyncio, uvloop and aiohttp, server and client, wherever they take an `ssl.SSLContext`. Our
   own servers and clients do without (`tls_wire`).
4. One TLS record at a time goes into OpenSSL. What the event loop still sees in its own buffer is then the truth, on
   which uvloop decides to read again and both loops decide to pause.

Floor and ceiling: TLS 1.2 and 1.3 (RFC 8995, 5.1), no renegotiation, ECDHE with AEAD only. A server ignores SNI
(draft-ietf-anima-constrained-voucher, 6.3). OpenSSL itself bounds a received certificate message at 100 KiB.

Not possible here: a TLS key inside a PKCS#11 token. pyOpenSSL hands the key's bytes to an OpenSSL of its own, which
loads neither providers nor engines. A token's key can sign vouchers and certificates, not TLS handshakes.
"""

import ipaddress
import ssl
from asyncio import BaseTransport
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self, cast

from OpenSSL import SSL

from brski_common.certificates import Credential, Peer, load_certificate
from brski_common.errors import BrskiError
from brski_common.tls_certificates import shown
from brski_common.tls_options import client_options, error_text, server_options, use

MAX_CHAIN_CERTIFICATES = 12
MAX_PLAINTEXT_BYTES = 16 * 1024  # of one record (RFC 8446, 5.1)
RECORD_HEADER_BYTES = 5
DRAIN_BYTES = 32 * 1024  # taken from OpenSSL's output at a time

_NOTHING = ssl.MemoryBIO()  # of connections that are moved from elsewhere: neither written nor read

ServerJudge = Callable[[Peer | None], None]
ClientJudge = Callable[[Peer], None]


class PeerRefusedError(ssl.SSLError):
    """`judge` refused the peer; `error` is what it raised. An SSLError, because only that ends a handshake in order."""

    def __init__(self, error: BrskiError) -> None:
        super().__init__(ssl.SSL_ERROR_SSL, str(error))
        self.error = error


class TlsSide:
    """What all connections of one side have in common; makes one for `tls_wire`.

    `credential` is put on each connection; None where `openssl` has it, or where there is none.
    """

    def __init__(
        self,
        openssl: SSL.Context,
        credential: Credential | None = None,
        *,
        judge: Callable[[Any], None] | None = None,
        server_name: bool = True,
    ) -> None:
        self.openssl, self.judge, self.server_name = openssl, judge, server_name
        self._credential = credential
        # Made before anybody asks, so that a key that cannot be used shows where it is configured.
        self._first: SSL.Connection | None = self._new() if credential is not None else None

    def connection(
        self,
        *,
        server_side: bool,
        server_hostname: str | bytes | None = None,
        incoming: ssl.MemoryBIO | None = None,
        outgoing: ssl.MemoryBIO | None = None,
    ) -> "TlsObject":
        """One connection. Without buffers of an event loop, somebody else moves what OpenSSL reads and writes."""
        connection, self._first = self._first or self._new(), None
        if server_side:
            connection.set_accept_state()
        else:
            connection.set_connect_state()
            if self.server_name and (name := _sni(server_hostname)):
                connection.set_tlsext_host_name(name)
        return TlsObject(self, connection, incoming or _NOTHING, outgoing or _NOTHING, server_side=server_side)

    def _new(self) -> SSL.Connection:
        connection = SSL.Connection(self.openssl, None)
        if self._credential is not None:
            use(connection, self._credential)
        return connection


class TlsContext(ssl.SSLContext):
    """A side as asyncio takes it for an `ssl.SSLContext`; make one with `server_context` or `client_context`."""

    side: TlsSide

    def __new__(cls, side: TlsSide, *, server_side: bool) -> Self:
        """The superclass allocates in `__new__`, with the protocol as its only argument."""
        self = super().__new__(cls, ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
        self.side = side
        return self

    def wrap_bio(
        self,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: ssl.SSLSession | None = None,  # noqa: ARG002 -- the signature of ssl.SSLContext
    ) -> ssl.SSLObject:
        """One connection between two buffers of the event loop."""
        made = self.side.connection(
            server_side=server_side, server_hostname=server_hostname, incoming=incoming, outgoing=outgoing
        )
        return cast("ssl.SSLObject", made)


class TlsObject:
    """One connection: the part of `ssl.SSLObject` that event loops use, and the peer."""

    def __init__(
        self,
        side: TlsSide,
        connection: SSL.Connection,
        incoming: ssl.MemoryBIO,
        outgoing: ssl.MemoryBIO,
        *,
        server_side: bool,
    ) -> None:
        self.side, self.server_side = side, server_side
        self._connection, self._incoming, self._outgoing = connection, incoming, outgoing
        self._header, self._owed = b"", 0  # of the record that is coming in
        self._peer: Peer | None = None
        self._peer_known = False

    def do_handshake(self) -> None:
        """Go on with the handshake; raises SSLWantReadError for more input, PeerRefusedError if `judge` refuses."""
        if self.server_side and not self._feed():
            raise ssl.SSLWantReadError
        while True:
            try:
                self._connection.do_handshake()
            except SSL.WantReadError:
                self._drain()
                if not self._feed():
                    raise ssl.SSLWantReadError from None
            except SSL.Error as error:
                raise self._failed(error) from error
            else:
                break
        self.judge()
        self._drain()

    def judge(self) -> None:
        """Before the last flight leaves: in TLS 1.3 a refused server does not even learn our certificate."""
        judge = self.side.judge
        if judge is None:
            return
        try:
            judge(self.peer())
        except BrskiError as error:
            raise PeerRefusedError(error) from error

    def read(self, size: int = MAX_PLAINTEXT_BYTES, buffer: bytearray | memoryview | None = None) -> bytes | int:
        """Up to one record of plaintext, into `buffer` if there is one; empty or 0 after the peer's close_notify."""
        while self._connection.pending() or self._feed():
            try:
                if buffer is not None:
                    return self._connection.recv_into(buffer, min(size, len(buffer)))
                return self._connection.recv(min(size, MAX_PLAINTEXT_BYTES))
            except SSL.WantReadError:
                continue  # half a record, or one that carried no data
            except SSL.ZeroReturnError:
                break
            except SSL.Error as error:
                raise self._failed(error) from error
        if self._connection.get_shutdown() & SSL.RECEIVED_SHUTDOWN:
            return b"" if buffer is None else 0
        raise ssl.SSLWantReadError

    def write(self, data: bytes | bytearray | memoryview) -> int:
        """Encrypt all of `data`: a memory BIO is never full. Returns its length."""
        if not data:
            return 0
        try:
            self._connection.sendall(data)
        except SSL.Error as error:
            raise self._failed(error) from error
        self._drain()
        return len(data)

    def unwrap(self) -> None:
        """Send close_notify, then drop what comes until the peer's; SSLWantReadError while that is missing."""
        try:
            if not self._connection.get_shutdown() & SSL.SENT_SHUTDOWN:
                self._connection.shutdown()
                self._drain()
            while not self._connection.get_shutdown() & SSL.RECEIVED_SHUTDOWN:
                if not self._feed():
                    raise ssl.SSLWantReadError
                with suppress(SSL.WantReadError, SSL.ZeroReturnError):
                    self._connection.recv(MAX_PLAINTEXT_BYTES)
        except SSL.Error as error:
            raise self._failed(error) from error

    def pending(self) -> int:
        """Decrypted bytes that `read` returns at once."""
        return self._connection.pending()

    def _feed(self) -> bool:
        """Move the next record, or what has come of it, from the event loop to OpenSSL; False if there is nothing."""
        if self._owed:
            data = self._incoming.read(self._owed)
            self._owed -= len(data)
        else:
            header = self._header + self._incoming.read(RECORD_HEADER_BYTES - len(self._header))
            if len(header) < RECORD_HEADER_BYTES:
                self._header = header
                return False
            length = int.from_bytes(header[3:])
            # read(0) would be nothing, but read(-1) is all: an empty record must not take its neighbours along.
            body = self._incoming.read(length) if length else b""
            self._header, self._owed, data = b"", length - len(body), header + body
        if data:
            self._connection.bio_write(data)
        return bool(data)

    def _drain(self) -> None:
        """Move what OpenSSL has written to the event loop."""
        with suppress(SSL.WantReadError):  # raised by an empty BIO
            while self._outgoing.write(self._connection.bio_read(DRAIN_BYTES)) == DRAIN_BYTES:
                pass

    def _failed(self, error: SSL.Error) -> ssl.SSLError:
        """The error the event loop understands; the alert for the peer is put in its buffer."""
        self._drain()
        return as_ssl_error(error)

    def peer(self, address: str | None = None) -> Peer | None:
        """Who is at the other end, None without a certificate; raises Malformed. Read once, then remembered."""
        if not self._peer_known:
            self._peer = self._read_peer(address)
            self._peer_known = True
        elif address is not None and self._peer is not None and self._peer.address is None:
            self._peer = Peer(self._peer.certificate, self._peer.chain, address)
        return self._peer

    def _read_peer(self, address: str | None) -> Peer | None:
        received = shown(self._connection, MAX_CHAIN_CERTIFICATES, server_side=self.server_side)
        chain = tuple(map(load_certificate, received))
        return Peer(chain[0], chain, address) if chain else None

    def get_channel_binding(self, cb_type: str = "tls-exporter") -> bytes | None:
        """What only the two ends know: `tls-exporter` (RFC 9266, 2) or `tls-unique` (RFC 5929, 3; TLS 1.2 only)."""
        if cb_type == "tls-exporter":
            return self._connection.export_keying_material(b"EXPORTER-Channel-Binding", 32, b"")
        if cb_type == "tls-unique" and self._connection.get_protocol_version() == ssl.TLSVersion.TLSv1_2:
            # The client's Finished comes first, since nothing is ever resumed.
            return self._connection.get_peer_finished() if self.server_side else self._connection.get_finished()
        return None

    def getpeercert(self, binary_form: bool = False) -> dict[str, Any] | bytes | None:
        """For the event loop, which only stores it: `peer` is the way to the certificate."""
        return None if binary_form else {}

    def cipher(self) -> tuple[str, str, int] | None:
        """Name, protocol version and secret bits of the cipher suite."""
        name, bits = self._connection.get_cipher_name(), self._connection.get_cipher_bits()
        return (name, self._connection.get_protocol_version_name(), bits or 0) if name else None

    def compression(self) -> None:
        """None: there is never any."""
        return

    def version(self) -> str:
        """`TLSv1.2` or `TLSv1.3`."""
        return self._connection.get_protocol_version_name()

    def selected_alpn_protocol(self) -> str | None:
        """The agreed application protocol, None if the peer offered none."""
        return self._connection.get_alpn_proto_negotiated().decode("ascii") or None


def server_context(
    credential: Credential,
    *,
    judge: ServerJudge | None = None,
    minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    maximum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> TlsContext:
    """A server that asks for a client certificate, demands none, and takes any.

    Refusing belongs to the service: in TLS 1.3 a client refused in the handshake sees only a reset. With `judge`, a
    BrskiError raised there ends the connection all the same. Raises Misconfigured for a key or chain OpenSSL rejects.
    """
    context = server_options(credential, minimum_version, maximum_version)
    return TlsContext(TlsSide(context, judge=judge), server_side=True)


def client_side(
    credential: Credential | None,
    *,
    judge: ClientJudge,
    server_name: bool = True,
    minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    maximum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> TlsSide:
    """A client whose `judge` sees the server's whole chain as soon as the handshake ends, and may raise BrskiError.

    A provisional connection (RFC 8995, 5.1) has a judge that only remembers the peer. `server_name=False` omits SNI
    (draft-ietf-anima-constrained-voucher, 6.3: a registrar found by its link-local address); for an address it is
    never sent. Raises Misconfigured for a key or chain OpenSSL rejects.
    """
    issuers = credential.chain[1:] if credential is not None else ()
    context = client_options(issuers, minimum_version, maximum_version)
    return TlsSide(context, credential, judge=judge, server_name=server_name)


def client_context(
    credential: Credential | None,
    *,
    judge: ClientJudge,
    server_name: bool = True,
    minimum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    maximum_version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> TlsContext:
    """`client_side` for those who need an `ssl.SSLContext`; that alone costs as much as a handshake."""
    side = client_side(
        credential,
        judge=judge,
        server_name=server_name,
        minimum_version=minimum_version,
        maximum_version=maximum_version,
    )
    return TlsContext(side, server_side=False)


def peer_of(transport: BaseTransport | None) -> Peer | None:
    """The peer of a connection, None without a certificate or without TLS; raises Malformed for a broken one."""
    if transport is None:
        return None
    connection = transport.get_extra_info("ssl_object")
    if not isinstance(connection, TlsObject):
        return None
    if connection._peer is not None and connection._peer.address is not None:
        return connection._peer
    name = transport.get_extra_info("peername")
    return connection.peer(name[0] if isinstance(name, tuple) else None)


def channel_binding(transport: BaseTransport) -> bytes | None:
    """What links a CSR to this connection: tls-unique in TLS 1.2 (RFC 7030, 3.5), tls-exporter in 1.3 (RFC 9266)."""
    connection = transport.get_extra_info("ssl_object")
    if not isinstance(connection, TlsObject):
        return None
    return connection.get_channel_binding("tls-unique") or connection.get_channel_binding("tls-exporter")


def as_ssl_error(error: SSL.Error) -> ssl.SSLError:
    """An error of pyOpenSSL as one that event loops understand."""
    return ssl.SSLError(ssl.SSL_ERROR_SSL, error_text(error))


def refusal_in(error: BaseException | None) -> BrskiError | None:
    """What `judge` raised, found under the wrappers of asyncio and aiohttp; None if it raised nothing."""
    while error is not None:
        if isinstance(error, PeerRefusedError):
            return error.error
        error = error.__cause__ or error.__context__
    return None


def _sni(host: str | bytes | None) -> bytes | None:
    """The host as SNI wants it; None for what is no name, or an address, which RFC 6066, 3 does not permit there."""
    if not host:
        return None
    text = host.decode("ascii") if isinstance(host, bytes) else host
    with suppress(ValueError):
        ipaddress.ip_address(text.partition("%")[0].strip("[]"))
        return None
    try:
        return text.encode("idna")
    except UnicodeError:  # no name that could be looked up either, which is what the caller will hear
        return None
