"""What `init` makes: a maker's authorities, the MASA's keys, an empty database, and the settings that name them.

    Manufacturer Root ── IDevID CA                       anchors/manufacturer.pem   for registrars
    Voucher Root ─┬─ voucher signer (with a nonce)       anchors/voucher.pem        for the devices' firmware
                  └─ voucher signer (nonceless)
    TLS Root ── the MASA's TLS server                    anchors/tls.pem            for registrars

Three roots, so that no device can sign vouchers and no TLS key can make devices (D-14). The keys of the roots and of
the IDevID CA are not needed by the running service: move them away (masa/README.md).
"""

import ipaddress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote

from cryptography import x509

from brski_common import issuing, keys, settings
from brski_common.certificates import ID_KP_SERVER_AUTH, Credential, public_key_info, spki, to_pem
from brski_common.errors import Misconfigured
from brski_masa import store
from brski_masa.factory import check_masa_url, lifetime_without_end
from brski_masa.settings import Listen, Maker, Settings, Signing

SIGNER_LIFETIME: Final = timedelta(days=398)  # renewed by `key rotate`
NONCELESS_LIFETIME: Final = timedelta(days=3653)  # as long as such vouchers may last
TLS_LIFETIME: Final = timedelta(days=398)
TLS_ROOT_LIFETIME: Final = timedelta(days=7305)
EVERYWHERE: Final = "::"  # IPv4 too
SETTINGS_FILE: Final = "masa.toml"
DATABASE_FILE: Final = "masa.db"

HEADING: Final = (
    "Settings of the MASA. Keys that stand commented out have the value shown. Every key can be overridden by the"
    " environment: BRSKI_MASA_LISTEN__PORT is port in [listen]. Paths are relative to this file."
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What `init` was asked for. `host` is what registrars call the MASA; `listen` an address of this machine."""

    folder: Path
    name: str
    host: str
    port: int
    masa_url: str
    kind: keys.Kind
    listen: str | None = None


def found(plan: Plan, now: datetime) -> Settings:
    """Make everything; raises Misconfigured `already-there`, `folder-not-writable`."""
    check_masa_url(plan.masa_url)
    if plan.folder.exists() and not plan.folder.is_dir():
        raise Misconfigured("folder-not-writable", f"{plan.folder} is a file; name a new folder")
    if (plan.folder / SETTINGS_FILE).exists():
        raise Misconfigured("already-there", f"{plan.folder / SETTINGS_FILE} is there; choose another folder")
    try:
        (plan.folder / "anchors").mkdir(parents=True, exist_ok=True)
        (plan.folder / "keys").mkdir(mode=0o700, exist_ok=True)
        _make_idevid_ca(plan, now)
        _make_signers(plan, now)
        _make_tls(plan, now)
        made = _settings(plan)
        store.create(f"sqlite:///{plan.folder.absolute() / DATABASE_FILE}")
        # A URL of a database may hold a password.
        keys.write_private(plan.folder / SETTINGS_FILE, settings.render(made, HEADING).encode())
    except OSError as error:
        raise Misconfigured("folder-not-writable", f"{plan.folder}: {error.strerror}") from error
    return made


def _make_idevid_ca(plan: Plan, now: datetime) -> None:
    root = _root(plan, "Manufacturer Root CA", "manufacturer-root", lifetime_without_end(now), now)
    key = keys.generate(plan.kind)
    certificate = issuing.subordinate_ca(
        root,
        key.public_key(),
        _name(plan, "IDevID CA"),
        now=now,
        lifetime=lifetime_without_end(now),
    )
    _save(plan, "idevid-ca", Credential(key, (certificate, *root.chain)))
    _anchor(plan, "manufacturer", root)


def _make_signers(plan: Plan, now: datetime) -> None:
    root = _root(plan, "Voucher Root CA", "voucher-root", lifetime_without_end(now), now)
    for stem, title, lifetime in (
        ("voucher", "Voucher Signer", SIGNER_LIFETIME),
        ("voucher-nonceless", "Nonceless Voucher Signer", NONCELESS_LIFETIME),
    ):
        _save(plan, stem, new_signer(root, _name(plan, title), plan.kind, lifetime, now))
    _anchor(plan, "voucher", root)


def new_signer(root: Credential, subject: x509.Name, kind: keys.Kind, lifetime: timedelta, now: datetime) -> Credential:
    """A new key and certificate for signing vouchers."""
    key = keys.generate(kind)
    certificate = issuing.end_entity(
        root,
        key.public_key(),
        subject,
        not_before=now - issuing.BACKDATE,
        not_after=min(now + lifetime, root.certificate.not_valid_after_utc),
        key_usage=issuing.signing_key_usage(),
    )
    return Credential(key, (certificate, *root.chain))


def _make_tls(plan: Plan, now: datetime) -> None:
    root = _root(plan, "TLS Root CA", "tls-root", TLS_ROOT_LIFETIME, now)
    _save(plan, "tls", new_tls(root, _name(plan, "MASA"), _hosts(plan), plan.kind, now))
    _anchor(plan, "tls", root)


def new_tls(
    root: Credential, subject: x509.Name, names: list[x509.GeneralName], kind: keys.Kind, now: datetime
) -> Credential:
    """A new key and certificate for the TLS server."""
    key = keys.generate(kind)
    certificate = issuing.end_entity(
        root,
        key.public_key(),
        subject,
        not_before=now - issuing.BACKDATE,
        not_after=min(now + TLS_LIFETIME, root.certificate.not_valid_after_utc),
        extended_key_usage=(ID_KP_SERVER_AUTH,),
        alternative_names=names,
        key_usage=issuing.signing_key_usage(),
    )
    return Credential(key, (certificate, *root.chain))


def _hosts(plan: Plan) -> list[x509.GeneralName]:
    """What registrars may call the MASA: the authority of the IDevIDs, its host, and localhost on loopback."""
    hosts = [_host(plan.masa_url), plan.host]
    names = [_general_name(host) for host in dict.fromkeys(hosts) if host not in ("0.0.0.0", "::")]  # noqa: S104 -- compared, not bound
    if plan.host in ("127.0.0.1", "::1"):
        names.append(x509.DNSName("localhost"))
    return names


def _address_of(host: str) -> str:
    """Listen on the address that registrars are told, if it is one; else on all."""
    if host == "localhost":
        return "127.0.0.1"
    return EVERYWHERE if isinstance(_general_name(host), x509.DNSName) else host


def _host(authority: str) -> str:
    if authority.startswith("["):
        return authority[1:].partition("]")[0]
    return authority.partition(":")[0]


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _root(plan: Plan, title: str, stem: str, lifetime: timedelta, now: datetime) -> Credential:
    key = keys.generate(plan.kind)
    root = Credential(key, (issuing.root_ca(key, _name(plan, title), now=now, lifetime=lifetime),))
    _save(plan, stem, root)
    return root


def _name(plan: Plan, title: str) -> x509.Name:
    return issuing.name(f"{plan.name} {title}"[:64], organization_name=plan.name[:64])


def _save(plan: Plan, stem: str, credential: Credential) -> None:
    write_credential(plan.folder / "keys", stem, credential)


def write_credential(folder: Path, stem: str, credential: Credential) -> None:
    """Write STEM.key.pem and STEM.chain.pem; raises OSError."""
    keys.save(folder / f"{stem}.key.pem", credential.key)
    (folder / f"{stem}.chain.pem").write_bytes(to_pem(*credential.chain))


def _anchor(plan: Plan, name: str, root: Credential) -> None:
    (plan.folder / "anchors" / f"{name}.pem").write_bytes(to_pem(root.certificate))


def _settings(plan: Plan) -> Settings:
    return Settings(
        database=f"sqlite:///{DATABASE_FILE}",
        listen=Listen(host=plan.listen or _address_of(plan.host), port=plan.port),
        maker=Maker(
            name=plan.name,
            masa_url=plan.masa_url,
            idevid_ca_key="keys/idevid-ca.key.pem",
            idevid_ca_chain=Path("keys/idevid-ca.chain.pem"),
        ),
        signing=Signing(
            nonceless_key="keys/voucher-nonceless.key.pem",
            nonceless_chain=Path("keys/voucher-nonceless.chain.pem"),
            root_key="keys/voucher-root.key.pem",
        ),
    )


# Rotation

# What `key rotate` knows, and where each new certificate's subject and names come from: the one before.
ROTATED: Final = {"voucher": "voucher-root", "voucher-nonceless": "voucher-root", "tls": "tls-root"}


def rotate(current: Settings, use: str, kind: keys.Kind, now: datetime) -> Credential:
    """Replace a key and its certificate by new ones under the same root; raises Misconfigured.

    The old files stay beside the new ones as .old, so that nothing is lost if the restart fails.
    """
    key_uri, chain = _place(current, use)
    if not key_uri.startswith("file:"):
        raise Misconfigured("key-not-a-file", f"{keys.redact(key_uri)}: rotate it in the token, then set its chain")
    old = keys.read_certificates(chain)
    root = _root_credential(current, use, chain, old[-1])
    made = _successor(root, old[0], use, kind, now)
    key_path = Path(unquote(key_uri.removeprefix("file:")))
    try:
        for path in (key_path, chain):
            path.with_name(f"{path.name}.old").unlink(missing_ok=True)
            path.rename(path.with_name(f"{path.name}.old"))
        keys.save(key_path, made.key)
        chain.write_bytes(to_pem(*made.chain))
    except OSError as error:
        raise Misconfigured("folder-not-writable", f"{error.filename}: {error.strerror}") from error
    return made


def _place(current: Settings, use: str) -> tuple[str, Path]:
    signing = current.signing
    if use == "tls":
        return current.tls.key, current.tls.chain
    if use == "voucher":
        return signing.key, signing.chain
    if signing.nonceless_key is None or signing.nonceless_chain is None:
        raise Misconfigured("nonceless-key-missing", "set signing.nonceless_key and signing.nonceless_chain")
    return signing.nonceless_key, signing.nonceless_chain


def _root_credential(current: Settings, use: str, chain: Path, certificate: x509.Certificate) -> Credential:
    """The root's key: of vouchers as the settings say, of TLS beside the chain, as `init` put it."""
    uri = f"file:{quote(str(chain.parent / 'tls-root.key.pem'))}" if use == "tls" else current.signing.root_key
    if uri is None:
        raise Misconfigured("voucher-root-key-missing", "set signing.root_key for as long as it takes")
    check_key_is_there(uri, ROTATED[use], f"the new certificate of {use} is signed")
    key = keys.load(uri)
    if public_key_info(key.public_key()) != spki(certificate):
        raise Misconfigured("key-does-not-match", f"{keys.redact(uri)} is not the key of {chain}'s root")
    return Credential(key, (certificate,))


def check_key_is_there(uri: str, stem: str, purpose: str) -> None:
    """A key that was put away, as the operator was told to, is missed by name; raises Misconfigured `STEM-key-missing`.

    `purpose` says who signs with it; of a key in a token nothing is known here.
    """
    if not uri.startswith("file:"):
        return
    path = Path(unquote(uri.removeprefix("file:")))
    if not path.exists():
        advice = "bring it back for as long as it takes"
        raise Misconfigured(f"{stem}-key-missing", f"{path}: {purpose} with this key; {advice}")


def _successor(root: Credential, old: x509.Certificate, use: str, kind: keys.Kind, now: datetime) -> Credential:
    if use == "tls":
        names = list(old.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
        return new_tls(root, old.subject, names, kind, now)
    lifetime = SIGNER_LIFETIME if use == "voucher" else NONCELESS_LIFETIME
    return new_signer(root, old.subject, kind, lifetime, now)
