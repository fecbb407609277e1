"""The floor: what one onboarding costs each role in cryptography, handshakes and durable commits alone.

Laws of this file:

1. Nothing of the suite runs here, and no HTTP: OpenSSL by pyca and pyOpenSSL, TCP on loopback by the system's calls,
   and sqlite3, with thin calls between.
2. Keys and certificates are those of the measured run, so curves, chain lengths and sizes are the same.
3. `COMPOSITION` says what is counted. A part is what the protocol cannot do without, once per onboarding; the
   kept-alive connection to the MASA is not in it.
4. The parts of all roles are done one after the other, round for round, as in onboardings, and the median of each is
   taken. In a loop of its own a part would find its code and tables in the processor's nearest cache every time, which
   happens to nobody who onboards a device: there a signature is made, and a certificate parsed, several times as fast.
5. Figures are processor microseconds of one side (`time.thread_time_ns`), not elapsed time.
"""

import os
import socket
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from OpenSSL import SSL
from OpenSSL._util import lib as openssl

Role = Literal["registrar", "masa", "pledge"]
ROLES: tuple[Role, ...] = ("registrar", "masa", "pledge")

ROUNDS = 200  # the median of so many is taken: somebody else may use the machine
WARM_UP_ROUNDS = 5
MESSAGE_BYTES = 2500  # a signed voucher request, about; also the size of a stored row
ANSWER_BYTES = 1500
MAX_FLIGHT_BYTES = 64 * 1024
NO_AUTO_CHAIN = 0x8  # SSL_MODE_NO_AUTO_CHAIN

# What one onboarding needs, by role. RFC 8995 and RFC 7030 ask for every line.
COMPOSITION: Mapping[Role, Mapping[str, float]] = {
    "registrar": {
        "handshake-server": 2,  # the provisional session (5.1), and the one with the LDevID (5.9.4); mutual
        "exchange-server": 6,  # requestvoucher, voucher_status, cacerts, csrattrs, simpleenroll, enrollstatus
        "exchange-client": 2,  # to the MASA: requestvoucher, requestauditlog
        "parse": 2,  # the IDevID and the LDevID are new to it
        "verify": 3,  # the IDevID by its CA, the PVR's signature, the voucher's signature
        "sign": 1,  # the RVR
        "verify-csr": 1,  # proof of possession
        "issue": 1,  # the LDevID
        "commit": 4,  # requested and vouchered, voucher status and audit verdict, enrolled, enroll status
    },
    "masa": {
        "exchange-server": 2,
        "parse": 1,  # the IDevID
        # Both signatures, and both chains link by link: any domain may ask, so none is known beforehand (5.5.2, 5.5.3).
        "verify": 6,
        "sign": 1,  # the voucher
        "commit": 1,  # the audit entry, before the voucher leaves (5.6)
    },
    "pledge": {
        "handshake-client": 2,
        "exchange-client": 6,
        "parse": 3,  # the registrar's chain, the voucher's signer, the LDevID
        # The bench's pledges share a process, which remembers the second and the third link: a device does not.
        "verify": 4,  # the voucher, its signer by the anchor, the registrar by the pin, the LDevID
        "sign": 1,  # the PVR
        "make-key": 1,
        "make-csr": 1,
        "commit-file": 2,  # the imprint and the enrollment, safe against power loss
    },
}


@dataclass(frozen=True, slots=True)
class Identity:
    """A key and its chain, leaf first, as pyca objects."""

    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]

    @classmethod
    def read(cls, key: Path, chain: Path) -> "Identity":
        """Read two PEM files."""
        private = load_pem_private_key(key.read_bytes(), None)
        return cls.of(private, x509.load_pem_x509_certificates(chain.read_bytes()))

    @classmethod
    def of(cls, key: object, chain: Iterable[x509.Certificate]) -> "Identity":
        """A key, which has to be one on an elliptic curve, and its chain."""
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(key, tuple(chain))


@dataclass(frozen=True, slots=True)
class Floor:
    """The cost of each part in microseconds, and what they come to."""

    parts: Mapping[str, float]

    def of(self, role: Role) -> float:
        """Microseconds of one onboarding for a role."""
        return sum(count * self.parts[part] for part, count in COMPOSITION[role].items())


def measure(pledge: Identity, registrar: Identity, folder: Path, *, group: int = 1) -> Floor:
    """Measure every part; `group` units share a commit, as the services do at that concurrency."""
    with closing(_Table(folder / "floor.db", group)) as table, socket.create_server(("127.0.0.1", 0)) as listener:
        works = _signatures(pledge) | _requests(pledge, registrar)
        works["commit"] = table.commit
        works["commit-file"] = lambda: _commit_file(folder / "floor.state", os.urandom(MESSAGE_BYTES))
        contexts = _context(SSL.TLS_SERVER_METHOD, registrar), _context(SSL.TLS_CLIENT_METHOD, pledge)
        rounds = [_round(listener, contexts, works) for _ in range(WARM_UP_ROUNDS + ROUNDS)][WARM_UP_ROUNDS:]
    parts = {name: median(each[name] for each in rounds) / 1000 for name in rounds[0]}
    return Floor(parts | {"commit": parts["commit"] / group})


def _round(
    listener: socket.socket, contexts: tuple[SSL.Context, SSL.Context], works: Mapping[str, Callable[[], object]]
) -> dict[str, int]:
    """Every part once; nanoseconds."""
    return _session(listener, *contexts) | {name: _spent(work) for name, work in works.items()}


def _spent(work: Callable[[], object]) -> int:
    before = time.thread_time_ns()
    work()
    return time.thread_time_ns() - before


def _context(method: int, identity: Identity) -> SSL.Context:
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


class _Side:
    """One end of a connection and the processor time it took, that of the system's calls included."""

    def __init__(self, context: SSL.Context, *, server_side: bool, connect: Callable[[], socket.socket]) -> None:
        before = time.thread_time_ns()
        self._socket = connect()
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._connection = SSL.Connection(context, None)
        (self._connection.set_accept_state if server_side else self._connection.set_connect_state)()
        self.spent = time.thread_time_ns() - before

    def shake(self, *, hears: bool = True) -> None:
        """Take what the other end sent, go on with the handshake, send what is to be sent."""
        before = time.thread_time_ns()
        if hears:
            self._connection.bio_write(self._socket.recv(MAX_FLIGHT_BYTES))
        with suppress(SSL.WantReadError):
            self._connection.do_handshake()
        self._send()
        self.spent += time.thread_time_ns() - before

    def say(self, size: int) -> None:
        """Send a message of so many bytes."""
        before = time.thread_time_ns()
        self._connection.sendall(bytes(size))
        self._send()
        self.spent += time.thread_time_ns() - before

    def hear(self) -> None:
        """Take a message."""
        before = time.thread_time_ns()
        self._connection.bio_write(self._socket.recv(MAX_FLIGHT_BYTES))
        with suppress(SSL.WantReadError):  # session tickets are no message
            self._connection.recv(MAX_FLIGHT_BYTES)
        self.spent += time.thread_time_ns() - before

    def close(self) -> None:
        """Say goodbye."""
        before = time.thread_time_ns()
        self._connection.shutdown()
        self._send()
        self._socket.close()
        self.spent += time.thread_time_ns() - before

    def lap(self) -> int:
        """The nanoseconds since the last lap."""
        spent, self.spent = self.spent, 0
        return spent

    def _send(self) -> None:
        with suppress(SSL.WantReadError):
            self._socket.sendall(self._connection.bio_read(MAX_FLIGHT_BYTES))


def _session(listener: socket.socket, server_context: SSL.Context, client_context: SSL.Context) -> dict[str, int]:
    """A connection with mutual TLS 1.3, one request and its answer, and the end; each side by itself."""
    address = listener.getsockname()
    client = _Side(client_context, server_side=False, connect=lambda: socket.create_connection(address))
    server = _Side(server_context, server_side=True, connect=lambda: listener.accept()[0])
    client.shake(hears=False)
    for side in (server, client, server):
        side.shake()
    spent = {"handshake-server": server.lap(), "handshake-client": client.lap()}
    client.say(MESSAGE_BYTES)
    server.hear()
    server.say(ANSWER_BYTES)
    client.hear()
    spent |= {"exchange-server": server.lap(), "exchange-client": client.lap()}
    client.close()
    server.close()
    spent["handshake-server"] += server.lap()
    spent["handshake-client"] += client.lap()
    return spent


def _signatures(identity: Identity) -> dict[str, Callable[[], object]]:
    leaf, algorithm = identity.chain[0], ec.ECDSA(hashes.SHA256())
    encoded, message = leaf.public_bytes(Encoding.DER), os.urandom(200)  # signedAttrs are about so long
    signature, public = identity.key.sign(message, algorithm), identity.key.public_key()
    return {
        "parse": lambda: x509.load_der_x509_certificate(encoded).public_key(),
        "sign": lambda: identity.key.sign(message, algorithm),
        "verify": lambda: public.verify(signature, message, algorithm),
        "make-key": lambda: ec.generate_private_key(ec.SECP256R1()),
    }


def _requests(device: Identity, authority: Identity) -> dict[str, Callable[[], object]]:
    """A CSR and the certificate for it, with the extensions that every profile has."""
    subject, now = device.chain[0].subject, datetime.now(UTC)
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    request = builder.sign(device.key, hashes.SHA256())
    encoded = request.public_bytes(Encoding.DER)
    identifier = x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.key.public_key())

    def issue() -> bytes:
        certificate = x509.CertificateBuilder().subject_name(subject).issuer_name(authority.chain[0].subject)
        certificate = certificate.public_key(request.public_key()).serial_number(x509.random_serial_number())
        certificate = certificate.not_valid_before(now).not_valid_after(now + timedelta(days=365))
        certificate = certificate.add_extension(identifier, critical=False)
        certificate = certificate.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        return certificate.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.DER)

    return {
        "make-csr": lambda: builder.sign(device.key, hashes.SHA256()).public_bytes(Encoding.DER),
        "verify-csr": lambda: x509.load_der_x509_csr(encoded).is_signature_valid,
        "issue": issue,
    }


class _Table:
    """Durable rows: a transaction of `group` of them, as SQLite does it with WAL and synchronous=FULL."""

    def __init__(self, path: Path, group: int) -> None:
        self._group = group
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("CREATE TABLE unit (id INTEGER PRIMARY KEY, device TEXT, body BLOB)")
        self._database.execute("CREATE INDEX by_device ON unit (device)")

    def commit(self) -> None:
        """One transaction."""
        self._database.execute("BEGIN IMMEDIATE")
        for _ in range(self._group):
            row = (os.urandom(8).hex(), bytes(MESSAGE_BYTES))
            self._database.execute("INSERT INTO unit (device, body) VALUES (?, ?)", row)
        self._database.execute("COMMIT")

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()


def _commit_file(path: Path, data: bytes) -> None:
    """Replace a small file durably."""
    beside = path.with_suffix(".new")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    folder = os.open(path.parent, os.O_RDONLY)
    os.fsync(folder)
    os.close(folder)
