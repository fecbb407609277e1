"""Renewal of the domain's own certificates, up to a change of the root's key (RFC 7030, 4.1.3; RFC 4210, 4.4).

The laws of this file:

1. The issuing CA and the registrar keep their keys, so every file fits the others whether or not it was replaced yet,
   and each command can be given again after a power cut.
2. A change of root has three steps, each for as long as the plant needs: `announce` (devices learn the next root from
   /cacerts), `change` (issuing CA and registrar move under it), `retire` (the old root is forgotten).
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from brski_common import issuing, keys
from brski_common.certificates import PYCA_ERRORS, Credential, PublicKey, is_self_issued, without_duplicates
from brski_common.errors import Misconfigured
from brski_common.keys import Kind, Secret
from brski_registrar import founding
from brski_registrar.ca import cross_certify
from brski_registrar.founding import ISSUING_LIFETIME, ROOT_LIFETIME, write_certificates
from brski_registrar.settings import Settings

WARN_BEFORE: Final = timedelta(days=60)


def expiring(settings: Settings, now: datetime) -> tuple[x509.Certificate, ...]:
    """The certificates of the registrar and above that end within WARN_BEFORE, or have ended."""
    chain = keys.read_certificates(settings.registrar.certificates)
    return tuple(certificate for certificate in chain if certificate.not_valid_after_utc < now + WARN_BEFORE)


def renew_registrar(settings: Settings, now: datetime, secret: Secret | None = None) -> x509.Certificate:
    """Certify the registrar's key anew under the same names; returns the certificate."""
    return _renew_under(settings, _issuer(settings, secret), now, secret)


def renew_issuing(settings: Settings, now: datetime, secret: Secret | None = None) -> x509.Certificate:
    """Certify the issuing CA's key anew with the root, and then the registrar's; returns the CA's certificate."""
    root = _root(settings, secret)
    return _move(settings, root, (), now, secret)


def announce(settings: Settings, kind: Kind, now: datetime, secret: Secret | None = None) -> x509.Certificate:
    """Make the next root and what leads to it from the present one; returns the next root's certificate.

    Raises Misconfigured `rollover-under-way`, `root-key-missing`.
    """
    next_key = _next_key(settings)
    if settings.ca.rollover.exists() or next_key.exists():
        file = settings.ca.rollover if settings.ca.rollover.exists() else next_key
        raise Misconfigured("rollover-under-way", f"{file} exists: give `ca change-root` and `ca retire-root` first")
    old = _root(settings, secret)
    key = founding.make_key(next_key, None, kind, secret)
    certificate = issuing.root_ca(key, old.certificate.subject, now=now, lifetime=ROOT_LIFETIME, path_length=1)
    write_certificates(settings.ca.rollover, certificate, *cross_certify(old, Credential(key, (certificate,)), now=now))
    return certificate


def change(settings: Settings, now: datetime, secret: Secret | None = None) -> x509.Certificate:
    """Move under the announced root; the old one stays in /cacerts. Returns the issuing CA's new certificate.

    The old root's key is kept as FILE.old, for whoever has to prove something with it.
    """
    next_key, root_key = _next_key(settings), _root_key_file(settings)
    if not next_key.exists() or not settings.ca.rollover.exists():
        raise Misconfigured("rollover-not-announced", "give `ca next-root` first, and leave devices time to learn it")
    announced = keys.read_certificates(settings.ca.rollover)
    key = keys.load(_uri(next_key), secret)
    root = Credential(key, (_certificate_of(key.public_key(), announced),))
    present = keys.read_certificates(settings.ca.certificates)
    write_certificates(settings.ca.rollover, *without_duplicates((*announced, present[-1])))
    crossed = [each for each in announced if each.subject == root.certificate.subject and each not in root.chain]
    towards_old = [each for each in crossed if each.public_key() == root.certificate.public_key()]
    renewed = _move(settings, root, tuple(towards_old), now, secret)
    if root_key.exists():
        root_key.replace(root_key.with_name(f"{root_key.name}.old"))
    next_key.replace(root_key)
    return renewed


def retire(settings: Settings) -> None:
    """Forget the old root: /cacerts and the registrar's chain hold the new one only."""
    if _next_key(settings).exists():
        raise Misconfigured("rollover-under-way", "give `ca change-root` first")
    if not settings.ca.rollover.exists():
        raise Misconfigured("rollover-not-announced", "no change of root is under way")
    chain = keys.read_certificates(settings.registrar.certificates)
    end = next(at for at, certificate in enumerate(chain, 1) if certificate.issuer == certificate.subject)
    write_certificates(settings.registrar.certificates, *chain[:end])
    settings.ca.rollover.unlink()


def _move(
    settings: Settings, root: Credential, more: tuple[x509.Certificate, ...], now: datetime, secret: Secret | None
) -> x509.Certificate:
    """Put issuing CA and registrar under `root`; `more` follows it in the registrar's chain."""
    old = _issuer(settings, secret)
    renewed = issuing.subordinate_ca(
        root, old.key.public_key(), old.certificate.subject, now=now, lifetime=ISSUING_LIFETIME
    )
    chain = (renewed, root.certificate)
    write_certificates(settings.ca.certificates, *chain)
    _renew_under(settings, Credential(old.key, chain), now, secret, more)
    return renewed


def _renew_under(
    settings: Settings,
    issuer: Credential,
    now: datetime,
    secret: Secret | None,
    more: tuple[x509.Certificate, ...] = (),
) -> x509.Certificate:
    current = keys.load_credential(settings.registrar.key, settings.registrar.certificates, secret=secret)
    old = current.certificate
    renewed = founding.registrar_certificate(
        issuer,
        current.key.public_key(),
        old.subject,
        tuple(old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value),
        now,
    )
    write_certificates(settings.registrar.certificates, renewed, *issuer.chain, *more)
    return renewed


def _issuer(settings: Settings, secret: Secret | None) -> Credential:
    return keys.load_credential(settings.ca.key, settings.ca.certificates, secret=secret)


def _root(settings: Settings, secret: Secret | None) -> Credential:
    if settings.ca.root_key is None:
        raise Misconfigured("root-key-missing", "this needs the root's key: name it as `root_key` in [ca]")
    key = keys.load(settings.ca.root_key, secret)
    present = keys.read_certificates(settings.ca.certificates)
    return Credential(key, (_certificate_of(key.public_key(), present),))


def _certificate_of(key: PublicKey, among: Iterable[x509.Certificate]) -> x509.Certificate:
    """The self-signed certificate of a root's key."""
    for certificate in among:
        if is_self_issued(certificate) and certificate.public_key() == key and _is_self_signed(certificate):
            return certificate
    raise Misconfigured("key-does-not-match", "none of the root certificates belongs to the root's key")


def _is_self_signed(certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, *PYCA_ERRORS):
        return False
    return True


def _root_key_file(settings: Settings) -> Path:
    uri = settings.ca.root_key or ""
    if not uri.startswith("file:"):
        raise Misconfigured("root-key-missing", "a change of root needs `root_key` in [ca] to be a file: URI")
    return Path(unquote(uri.removeprefix("file:")))


def _next_key(settings: Settings) -> Path:
    present = _root_key_file(settings)
    return present.with_name(f"{present.name}.next")


def _uri(path: Path) -> str:
    return f"file:{quote(str(path))}"
