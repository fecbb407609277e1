"""The floor: what one onboarding costs each role in cryptography, handshakes and durable commits alone.

Laws of this file:

1. Nothing of the suite runs here, and no HTTP: OpenSSL by pyca and pyOpenSSL, TCP on loopback between two processes
   by the system's calls (`floor_wire`), and sqlite3, with thin calls between.
2. Keys and certificates are those of the measured run, so curves, chain lengths and sizes are the same.
3. `COMPOSITION` says what is counted. A part is what the protocol cannot do without, once per onboarding; the
   kept-alive connection to the MASA is not in it.
4. The parts of all roles are done one after the other, round for round, as in onboardings, and the median of each is
   taken. In a loop of its own a part would find its code and tables in the processor's nearest cache every time, which
   happens to nobody who onboards a device: there a signature is made, and a certificate parsed, several times as fast.
5. Figures are processor microseconds of one side (`time.thread_time_ns`), not elapsed time.
"""

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from brski_interop.floor_wire import MESSAGE_BYTES, Identity, Line, Works, signatures

Role = Literal["registrar", "masa", "pledge"]
ROLES: tuple[Role, ...] = ("registrar", "masa", "pledge")

ROUNDS = 200  # the median of so many is taken: somebody else may use the machine
WARM_UP_ROUNDS = 5

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
class Floor:
    """The cost of each part in microseconds, and what they come to."""

    parts: Mapping[str, float]

    def of(self, role: Role) -> float:
        """Microseconds of one onboarding for a role."""
        return sum(count * self.parts[part] for part, count in COMPOSITION[role].items())


def measure(pledge: Identity, registrar: Identity, folder: Path, *, group: int = 1) -> Floor:
    """Measure every part, `group` onboardings at a time; so many units share a commit, as the services do it."""
    count = WARM_UP_ROUNDS + ROUNDS
    with closing(_Table(folder / "floor.db", group)) as table, closing(Line(registrar, pledge, count, group)) as line:
        works = signatures(pledge) | _requests(pledge, registrar)
        works["commit"] = table.commit
        works["commit-file"] = lambda: _commit_file(folder, os.urandom(MESSAGE_BYTES))
        with ThreadPoolExecutor(group) as pool:
            rounds = list(pool.map(lambda _: _round(line, works), range(count)))
        spent = {name: [each[name] for each in rounds] for name in rounds[0]} | line.of_client()
    parts = {name: median(costs[WARM_UP_ROUNDS:]) / 1000 for name, costs in spent.items()}
    return Floor(parts | {"commit": parts["commit"] / group})


def _round(line: Line, works: Works) -> dict[str, int]:
    """Every part once; nanoseconds."""
    return line.session() | {name: _spent(work) for name, work in works.items()}


def _spent(work: Callable[[], object]) -> int:
    before = time.thread_time_ns()
    work()
    return time.thread_time_ns() - before


def _requests(device: Identity, authority: Identity) -> Works:
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
        self._lock = threading.Lock()
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute("CREATE TABLE unit (id INTEGER PRIMARY KEY, device TEXT, body BLOB)")
        self._database.execute("CREATE INDEX by_device ON unit (device)")

    def commit(self) -> None:
        """One transaction."""
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            for _ in range(self._group):
                row = (os.urandom(8).hex(), bytes(MESSAGE_BYTES))
                self._database.execute("INSERT INTO unit (device, body) VALUES (?, ?)", row)
            self._database.execute("COMMIT")

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()


def _commit_file(folder: Path, data: bytes) -> None:
    """Replace a small file durably."""
    path = folder / f"floor-{threading.get_ident()}.state"
    beside = path.with_suffix(".new")
    with beside.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    beside.replace(path)
    descriptor = os.open(folder, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
