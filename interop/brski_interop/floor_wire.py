"""The floor's connections: mutual TLS 1.3 on TCP, straight in OpenSSL, one end in each of two processes.

A part of the price of a connection is that another process is woken. So the client is one of its own, as a device is:

    python -m brski_interop.floor_wire < PLAN.json

It makes as many connections as the plan says, and tells what each part cost it as JSON. Between two connections it does
other parts of an onboarding, so that its code and tables do not stay in the processor's nearest cache. As many are
under way at once as in the bench, a thread each: who has other work is not asleep, and is woken for less.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from OpenSSL import SSL
from OpenSSL._util import lib as openssl

from brski_interop.processes import environment, python_command

MESSAGE_BYTES: Final = 2500  # a signed voucher request, about; also the size of a stored row
ANSWER_BYTES: Final = 1500
MAX_RECORD_BYTES: Final = 16 * 1024
NO_AUTO_CHAIN: Final = 0x8  # SSL_MODE_NO_AUTO_CHAIN
PATIENCE_SECONDS: Final = 30.0

Works = dict[str, Callable[[], object]]


@dataclass(frozen=True, slots=True)
class Identity:
    """A key and its chain, leaf first, as pyca objects."""

    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]

    @classmethod
    def read(cls, key: Path, chain: Path) -> Self:
        """Read two PEM files."""
        return cls.from_pem((key.read_bytes() + b"\n" + chain.read_bytes()).decode("ascii"))

    @classmethod
    def from_pem(cls, text: str) -> Self:
        """Read a key and its chain from one text."""
        pem = text.encode("ascii")
        return cls.of(load_pem_private_key(pem, None), x509.load_pem_x509_certificates(pem))

    @classmethod
    def of(cls, key: object, chain: Iterable[x509.Certificate]) -> Self:
        """A key, which has to be one on an elliptic curve, and its chain."""
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(key, tuple(chain))

    def to_pem(self) -> str:
        """The same as a text, the key not encrypted."""
        key = self.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        return (key + b"".join(each.public_bytes(Encoding.PEM) for each in self.chain)).decode("ascii")


def signatures(identity: Identity) -> Works:
    """What both ends do with a key."""
    leaf, algorithm = identity.chain[0], ec.ECDSA(hashes.SHA256())
    encoded, message = leaf.public_bytes(Encoding.DER), os.urandom(200)  # signedAttrs are about so long
    signature, public = identity.key.sign(message, algorithm), identity.key.public_key()
    return {
        "parse": lambda: x509.load_der_x509_certificate(encoded).public_key(),
        "sign": lambda: identity.key.sign(message, algorithm),
        "verify": lambda: public.verify(signature, message, algorithm),
        "make-key": lambda: ec.generate_private_key(ec.SECP256R1()),
    }


def context(method: int, identity: Identity) -> SSL.Context:
    """TLS 1.3 that asks the other side for a certificate and takes any; nothing is resumed."""
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.use_privatekey(identity.key)
    context.use_certificate(identity.chain[0])
    for certificate in identity.chain[1:]:
        context.add_extra_chain_cert(certificate)
    if method == SSL.TLS_SERVER_METHOD:
        context.set_verify(SSL.VERIFY_PEER, lambda *_: True)
    context.set_verify_depth(-2)  # no path is built: its links are counted by themselves
    context.set_mode(NO_AUTO_CHAIN)
    openssl.SSL_CTX_set1_curves_list(context._context, b"X25519")
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(SSL.OP_NO_TICKET)
    return context


class Side:
    """One end of a connection and the processor time it took, that of the system's calls included.

    OpenSSL has the socket, so that a handshake, however many flights it takes, is one call.
    """

    def __init__(self, tls: SSL.Context, connect: Callable[[], socket.socket], *, server_side: bool) -> None:
        self._began = time.thread_time_ns()
        self._socket = connect()
        self._socket.setblocking(True)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = SSL.Connection(tls, self._socket)
        (self._connection.set_accept_state if server_side else self._connection.set_connect_state)()
        self._connection.do_handshake()

    def say(self, size: int) -> None:
        """Send a message of so many bytes."""
        self._connection.sendall(bytes(size))

    def hear(self) -> None:
        """Take a message, or the other's goodbye."""
        with suppress(SSL.ZeroReturnError):
            self._connection.recv(MAX_RECORD_BYTES)

    def close(self) -> None:
        """Say goodbye, and wait for the end of what the other says."""
        self._connection.shutdown()
        self._socket.shutdown(socket.SHUT_WR)
        while self._socket.recv(MAX_RECORD_BYTES):
            pass
        self._socket.close()

    def lap(self) -> int:
        """The processor's nanoseconds since the beginning, or since the last lap."""
        began, self._began = self._began, time.thread_time_ns()
        return self._began - began


class Line:
    """A server's end of the floor's connections; the client is a process of its own."""

    def __init__(self, server: Identity, client: Identity, rounds: int, at_once: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.settimeout(PATIENCE_SECONDS)
        self._context = context(SSL.TLS_SERVER_METHOD, server)
        self._process = subprocess.Popen(  # noqa: S603 -- our own module
            python_command("brski_interop.floor_wire"),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment(),
            text=True,
        )
        assert self._process.stdin is not None
        port = self._listener.getsockname()[1]
        plan = {"port": port, "rounds": rounds, "at-once": at_once, "pem": client.to_pem()}
        json.dump(plan, self._process.stdin)
        self._process.stdin.close()

    def session(self) -> dict[str, int]:
        """One connection: handshake, a request and its answer, the end; nanoseconds of the server."""
        side = Side(self._context, lambda: self._listener.accept()[0], server_side=True)
        handshake = side.lap()
        side.hear()
        side.say(ANSWER_BYTES)
        exchange = side.lap()
        side.hear()
        side.close()
        return {"handshake-server": handshake + side.lap(), "exchange-server": exchange}

    def of_client(self) -> dict[str, list[int]]:
        """What the same cost the client, once all connections are made."""
        assert self._process.stdout is not None
        told: dict[str, list[int]] = json.load(self._process.stdout)
        return told

    def close(self) -> None:
        """Let go of it."""
        self._listener.close()
        self._process.kill()
        with self._process:
            pass


def _connect(port: int, tls: SSL.Context) -> tuple[int, int]:
    """The client's end of a session: its handshake with the end, and the exchange; nanoseconds."""
    side = Side(tls, lambda: socket.create_connection(("127.0.0.1", port)), server_side=False)
    handshake = side.lap()
    side.say(MESSAGE_BYTES)
    side.hear()
    exchange = side.lap()
    side.close()
    return handshake + side.lap(), exchange


def main() -> None:
    """Be the client."""
    plan = json.load(sys.stdin)
    identity = Identity.from_pem(plan["pem"])
    tls, works = context(SSL.TLS_CLIENT_METHOD, identity), signatures(identity)

    def onboard(_: int) -> tuple[int, int]:
        found = _connect(plan["port"], tls)
        for work in works.values():
            work()
        return found

    with ThreadPoolExecutor(plan["at-once"]) as pool:
        handshakes, exchanges = zip(*pool.map(onboard, range(plan["rounds"])), strict=True)
    json.dump({"handshake-client": handshakes, "exchange-client": exchanges}, sys.stdout)


if __name__ == "__main__":
    main()
