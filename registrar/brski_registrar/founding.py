"""Founding a plant: what `init` makes.

The laws of this file:

1. Nothing that exists is overwritten by founding. The settings file is written last, so a folder that has one is whole.
2. Private keys are born readable by their owner alone, or never leave the token that holds them.
3. Everything is checked before the first file is written.
"""

import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509

from brski_common import issuing, keys
from brski_common.certificates import (
    ID_KP_CLIENT_AUTH,
    ID_KP_CMC_RA,
    ID_KP_SERVER_AUTH,
    Credential,
    PrivateKey,
    PublicKey,
    to_pem,
)
from brski_common.errors import Misconfigured
from brski_common.keys import Kind, Secret
from brski_common.published_keys import refuse_published_key
from brski_common.settings import render
from brski_registrar.settings import DEFAULT_PORT, Authority, Discovery, Identity, Listen, Settings

ROOT_LIFETIME: Final = timedelta(days=20 * 365)
ISSUING_LIFETIME: Final = timedelta(days=10 * 365)
REGISTRAR_LIFETIME: Final = timedelta(days=2 * 365)

# What a MASA asks for, what a TLS server has, what a TLS client needs (RFC 8995, 5.5.4;
# draft-ietf-anima-constrained-voucher, 7.4).
REGISTRAR_USAGES: Final = (ID_KP_CMC_RA, ID_KP_SERVER_AUTH, ID_KP_CLIENT_AUTH)
EVERYWHERE: Final = "::"
HEADING: Final = """\
Settings of a BRSKI registrar (RFC 8995). Lines that are commented out show the defaults. Paths are relative to this
file. BRSKI_REGISTRAR_LISTEN__PORT=9000 in the environment wins over `port` in [listen]. Whom the plant admits is set
with `brski-registrar policy`, not here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to found. `root_key` and `issuing_key` are URIs of keys that are there already; else keys are made."""

    name: str
    hosts: Sequence[str]
    listen: str | None = None
    port: int = DEFAULT_PORT
    kind: Kind = "P-256"
    root_key: str | None = None
    issuing_key: str | None = None
    interfaces: Sequence[str] = ()


def found(folder: Path, plan: Plan, now: datetime, secret: Secret | None = None) -> Path:
    """Make everything that a registrar needs in `folder`; returns the path of its settings file.

    Raises Misconfigured `already-there` if any of it exists, `host-invalid`, `interface-unknown`, and those of
    `keys.load`.
    """
    names = [general_name(host) for host in plan.hosts]
    settings = _settings(plan)
    _check_interfaces(plan.interfaces)
    taken = [path for path in _files(folder) if path.exists()]
    if taken:
        raise Misconfigured("already-there", f"{taken[0]} exists: choose another folder, or take that one away")
    for inner in (folder, folder / "certificates", folder / "anchors"):
        inner.mkdir(parents=True, exist_ok=True)
    for private in (folder / "keys", folder / "secrets"):
        private.mkdir(mode=0o700, exist_ok=True)
    root = _root(folder, plan, now, secret)
    issuer = _issuing_ca(folder, plan, root, now, secret)
    key = make_key(folder / "keys/registrar.key", None, plan.kind, secret)
    subject = issuing.name(f"{plan.name} Registrar", organization_name=plan.name)
    registrar = (registrar_certificate(issuer, key.public_key(), subject, names, now), *issuer.chain)
    write_certificates(folder / "anchors/domain-ca.pem", root.certificate)
    write_certificates(folder / "certificates/issuing.pem", *issuer.chain)
    write_certificates(folder / "certificates/registrar.pem", *registrar)
    path = folder / "registrar.toml"
    keys.write_private(path, render(settings, HEADING).encode())
    return path


def registrar_certificate(
    issuer: Credential, key: PublicKey, subject: x509.Name, names: Sequence[x509.GeneralName], now: datetime
) -> x509.Certificate:
    """The registrar's own certificate: with SubjectKeyIdentifier (RFC 8995, 5.8.2), cmcRA and both TLS usages."""
    return issuing.end_entity(
        issuer,
        key,
        subject,
        not_before=now - issuing.BACKDATE,
        not_after=min(now + REGISTRAR_LIFETIME, *(above.not_valid_after_utc for above in issuer.chain)),
        extended_key_usage=REGISTRAR_USAGES,
        alternative_names=names,
        key_usage=issuing.signing_key_usage(),
    )


def general_name(host: str) -> x509.GeneralName:
    """A host as subjectAltName; raises Misconfigured `host-invalid`."""
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    labels = host.rstrip(".").split(".")
    if not host.isascii() or len(host) > 253 or not all(_is_label(label) for label in labels):
        raise Misconfigured("host-invalid", f"{host[:80]!a}: neither a host name nor an address")
    return x509.DNSName(host.rstrip("."))


def write_certificates(path: Path, *certificates: x509.Certificate) -> None:
    """Replace a PEM file at once or not at all."""
    temporary = path.with_name(f".{path.name}.new")
    with temporary.open("wb") as file:
        file.write(to_pem(*certificates))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _is_label(label: str) -> bool:
    return 0 < len(label) <= 63 and label.replace("-", "").isalnum() and label[0] != "-" != label[-1]


def _settings(plan: Plan) -> Settings:
    """The settings file's content, with paths relative to it."""
    address = plan.listen or _address_of(plan.hosts)
    return Settings(
        listen=Listen(host=address, port=plan.port),
        registrar=Identity(key="file:keys/registrar.key", certificates=Path("certificates/registrar.pem")),
        ca=Authority(
            key=plan.issuing_key or "file:keys/issuing.key",
            certificates=Path("certificates/issuing.pem"),
            root_key=plan.root_key or "file:keys/root.key",
        ),
        discovery=Discovery(mdns=bool(plan.interfaces), interfaces=tuple(plan.interfaces)),
    )


def _check_interfaces(interfaces: Sequence[str]) -> None:
    """Raise Misconfigured for an interface that this machine has not: the registrar would not start."""
    if interfaces:
        from brski_registrar.discovery import addresses_of  # noqa: PLC0415 -- zeroconf, for plants that announce only

        addresses_of(interfaces)


def _address_of(hosts: Sequence[str]) -> str:
    """Listen on the address that devices are told, if there is one; else on all."""
    for host in hosts:
        if host == "localhost":
            return "127.0.0.1"
        if isinstance(general_name(host), x509.IPAddress):
            return host
    return EVERYWHERE


def _files(folder: Path) -> tuple[Path, ...]:
    names = ("registrar.toml", "keys/root.key", "keys/issuing.key", "keys/registrar.key", "anchors/domain-ca.pem",
             "certificates/issuing.pem", "certificates/registrar.pem")  # fmt: skip
    return tuple(folder / name for name in names)


def _root(folder: Path, plan: Plan, now: datetime, secret: Secret | None) -> Credential:
    key = make_key(folder / "keys/root.key", plan.root_key, plan.kind, secret)
    subject = issuing.name(f"{plan.name} Root CA", organization_name=plan.name)
    certificate = issuing.root_ca(key, subject, now=now, lifetime=ROOT_LIFETIME, path_length=1)
    return Credential(key, (certificate,))


def _issuing_ca(folder: Path, plan: Plan, root: Credential, now: datetime, secret: Secret | None) -> Credential:
    key = make_key(folder / "keys/issuing.key", plan.issuing_key, plan.kind, secret)
    subject = issuing.name(f"{plan.name} Issuing CA", organization_name=plan.name)
    certificate = issuing.subordinate_ca(root, key.public_key(), subject, now=now, lifetime=ISSUING_LIFETIME)
    return Credential(key, (certificate, *root.chain))


def make_key(path: Path, uri: str | None, kind: Kind, secret: Secret | None) -> PrivateKey:
    """Load the key that `uri` names, or make one and save it at `path`; a published test key is refused."""
    if uri is None:
        key = keys.generate(kind)
        keys.save(path, key)
        return key
    key = keys.load(uri, secret)
    refuse_published_key(key.public_key())
    return key
