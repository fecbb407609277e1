"""A pledge made of other people's code: the openssl command for every artefact, `ssl` and `http.client` for the wire.

Nothing of the suite is imported here. What this client sends was encoded by OpenSSL, what it gets is read by OpenSSL.
"""

import base64
import http.client
import json
import secrets
import shutil
import ssl
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

import pytest

VOUCHER_TYPE = "application/voucher-cms+json"
ID_CT_ANIMA_JSON_VOUCHER = "1.2.840.113549.1.9.16.1.40"
BRSKI, EST = "/.well-known/brski", "/.well-known/est"
SECONDS = 20.0  # until a peer that does not answer is a failure


def program(name: str, package: str) -> str:
    """The path of a program, or a skip that names its Debian package."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"needs {name}: install the Debian package {package}")
    return path


def openssl(*arguments: str, data: bytes = b"") -> bytes:
    """Run the openssl command; its standard output."""
    command = [program("openssl", "openssl"), *arguments]
    done = subprocess.run(command, input=data, capture_output=True, check=False, timeout=SECONDS)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.decode(errors='replace')}"
    return done.stdout


@dataclass
class Answer:
    """What a server said."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def media_type(self) -> str:
        """The Content-Type without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()


@dataclass
class Session:
    """One TLS connection that takes any server certificate, as a provisional one does (RFC 8995, 5.1)."""

    url: str
    cert: Path | None = None
    key: Path | None = None
    minimum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2
    maximum: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
    connection: http.client.HTTPSConnection = field(init=False)

    def __enter__(self) -> Self:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.minimum_version, context.maximum_version = self.minimum, self.maximum
        if self.cert is not None:
            context.load_cert_chain(self.cert, self.key)
        place = urlsplit(self.url)
        assert place.hostname is not None
        self.connection = http.client.HTTPSConnection(place.hostname, place.port, context=context, timeout=SECONDS)
        self.connection.connect()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.connection.close()

    @property
    def server_certificate(self) -> bytes:
        """The DER of the certificate the server showed."""
        assert isinstance(self.connection.sock, ssl.SSLSocket)
        certificate = self.connection.sock.getpeercert(binary_form=True)
        assert certificate is not None
        return certificate

    @property
    def version(self) -> str | None:
        """The TLS version in use."""
        assert isinstance(self.connection.sock, ssl.SSLSocket)
        return self.connection.sock.version()

    def request(self, method: str, path: str, body: bytes = b"", **headers: str) -> Answer:
        """Ask on this connection. Header names are given with `_`."""
        fields = {name.replace("_", "-"): value for name, value in headers.items()}
        self.connection.request(method, path, body or None, fields)
        response = self.connection.getresponse()
        received = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, received, response.read())

    def post_json(self, path: str, value: object) -> Answer:
        """POST a JSON document."""
        return self.request("POST", path, json.dumps(value).encode(), Content_Type="application/json")


@dataclass
class ForeignPledge:
    """A device of demo.json, and a folder for what it makes."""

    device: dict[str, str]
    anchors: dict[str, str]
    folder: Path
    nonce: str = field(default_factory=lambda: base64.b64encode(secrets.token_bytes(16)).decode())

    def session(self, url: str, *, tls: ssl.TLSVersion | None = None) -> Session:
        """Connect with the IDevID."""
        cert, key = Path(self.device["chain"]), Path(self.device["key"])
        if tls is None:
            return Session(url, cert, key)
        return Session(url, cert, key, tls, tls)

    def voucher_request(self, server_certificate: bytes, **changes: object) -> bytes:
        """The signed pledge voucher request, by `openssl cms`; `changes` replace members, None removes one."""
        return self.sign(self.voucher_request_data(server_certificate, **changes))

    def voucher_request_data(self, server_certificate: bytes, **changes: object) -> bytes:
        """What is to be signed."""
        members: dict[str, object] = {
            "created-on": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "assertion": "proximity",
            "nonce": self.nonce,
            "serial-number": self.device["serial"],
            "proximity-registrar-cert": base64.b64encode(server_certificate).decode(),
        }
        members |= {name.replace("_", "-"): value for name, value in changes.items()}
        kept = {name: value for name, value in members.items() if value is not None}
        return json.dumps({"ietf-voucher-request:voucher": kept}).encode()

    def sign(self, content: bytes) -> bytes:
        """CMS SignedData by the IDevID, the way RFC 8366 has it."""
        device = self.device
        # chain.pem begins with the signer, and openssl wants no certificate twice
        issuers = self.folder / "issuers.pem"
        issuers.write_text("".join(certificates_of(Path(device["chain"]))[1:]), encoding="ascii")
        signer = ("-signer", device["cert"], "-inkey", device["key"], "-certfile", str(issuers))
        form = ("-binary", "-nodetach", "-outform", "DER", "-econtent_type", ID_CT_ANIMA_JSON_VOUCHER, "-md", "sha256")
        return openssl("cms", "-sign", *form, *signer, data=content)

    def request_voucher(self, session: Session, body: bytes | None = None) -> Answer:
        """POST the voucher request."""
        content = self.voucher_request(session.server_certificate) if body is None else body
        accepted = {"Content_Type": VOUCHER_TYPE, "Accept": VOUCHER_TYPE}
        return session.request("POST", f"{BRSKI}/requestvoucher", content, **accepted)

    def check_voucher(self, voucher: bytes) -> dict[str, Any]:
        """`openssl cms -verify` against the maker's voucher anchor; the voucher's members."""
        path = self.folder / "voucher.vcj"
        path.write_bytes(voucher)
        where = ("-in", str(path), "-inform", "DER", "-CAfile", self.anchors["masa_voucher"], "-purpose", "any")
        content = openssl("cms", "-verify", *where, "-binary")
        document = json.loads(content)
        assert list(document) == ["ietf-voucher:voucher"]
        members: dict[str, Any] = document["ietf-voucher:voucher"]
        return members

    def make_request(self, subject: str | None = None) -> tuple[Path, bytes]:
        """A fresh key on this device and a request for it: the key file and the base64 that EST wants."""
        key = self.folder / "ldevid.key"
        key.write_bytes(openssl("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"))
        name = subject or f"/serialNumber={self.device['serial']}"
        request = openssl("req", "-new", "-key", str(key), "-subj", name, "-outform", "DER")
        return key, base64.b64encode(request) + b"\n"

    def save_certificate(self, answer: Answer) -> Path:
        """The certificate in an answer to simpleenroll, as a PEM file."""
        path = self.folder / "ldevid.pem"
        path.write_bytes(certificates_in(answer.body))
        return path


def certificates_of(path: Path) -> list[str]:
    """The PEM blocks of a file."""
    end = "-----END CERTIFICATE-----\n"
    return [f"{block}{end}" for block in path.read_text(encoding="ascii").split(end) if block.strip()]


def certificates_in(body: bytes) -> bytes:
    """The PEM certificates of an EST answer (base64 of a certs-only CMS), read by openssl."""
    return openssl("pkcs7", "-inform", "DER", "-print_certs", data=base64.b64decode(body))
