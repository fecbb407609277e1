"""`ca`: the domain's own certification authority."""

from pathlib import Path
from typing import Annotated, Any, Final

import typer
from cryptography import x509

from brski_common import cli, keys
from brski_common.certificates import fingerprint, to_pem
from brski_common.errors import Misconfigured
from brski_common.keys import Kind
from brski_registrar import renewing
from brski_registrar.commands.opening import DEFAULT_CONFIG, Config
from brski_registrar.founding import write_certificates
from brski_registrar.runtime import ask_secret, load_settings, utc_now
from brski_registrar.settings import Settings

KINDS: Final[dict[str, Kind]] = {
    "P-256": "P-256",
    "P-384": "P-384",
    "RSA-2048": "RSA-2048",
    "Ed25519": "Ed25519",
}

KeyKind = Annotated[str, typer.Option("--key", help=f"Kind of the keys that are made: {', '.join(KINDS)}.")]

app = cli.application("The domain's own certification authority.")


def key_kind(text: str) -> Kind:
    """The kind of key; raises Misconfigured."""
    if text not in KINDS:
        raise Misconfigured("key-kind-unknown", f"{text}: allowed are {', '.join(KINDS)}")
    return KINDS[text]


@app.command("show", epilog="Example: `brski-registrar ca show`")
def show(config: Config = DEFAULT_CONFIG, as_json: cli.Json = False) -> None:
    """Show the certificates of the registrar, the issuing CA and the root; of a CA elsewhere, its anchors."""
    found = _certificates(load_settings(config))
    rows = [(role, value["subject"], value["not_after"], value["sha256"]) for role, value in found]
    cli.answer(
        [{"role": role} | value for role, value in found],
        as_json,
        lambda: cli.table(("role", "subject", "ends", "SHA-256"), rows, empty="no certificates"),
    )


@app.command("export", epilog="Example: `brski-registrar ca export --out domain-ca.pem`")
def export(
    config: Config = DEFAULT_CONFIG,
    out: Annotated[Path | None, typer.Option(help="File to write; standard output without.")] = None,
    as_json: cli.Json = False,
) -> None:
    """Write the root certificate as PEM: what everybody in the plant trusts."""
    settings = _of_local_ca(config)
    root = keys.read_certificates(settings.ca.certificates)[-1]
    text = to_pem(root).decode()
    if out is not None:
        write_certificates(out, root)
    value = _facts(root) | {"pem": text, "file": None if out is None else str(out.absolute())}
    cli.answer(value, as_json, lambda: cli.show(text.rstrip() if out is None else f"wrote {out}"))


@app.command("renew", epilog="Example: `brski-registrar ca renew`")
def renew(
    config: Config = DEFAULT_CONFIG,
    issuing: Annotated[bool, typer.Option("--issuing", help="Renew the issuing CA too; needs the root's key.")] = False,
    as_json: cli.Json = False,
) -> None:
    """Renew the registrar's certificate; its names and its key stay. Restart the registrar then."""
    settings = _of_local_ca(config)
    work = renewing.renew_issuing if issuing else renewing.renew_registrar
    _renewed(work(settings, utc_now(), ask_secret), "restart the registrar", as_json)


@app.command("next-root", epilog="Example: `brski-registrar ca next-root`")
def next_root(config: Config = DEFAULT_CONFIG, kind: KeyKind = "P-256", as_json: cli.Json = False) -> None:
    """Begin a change of root: make the next root, and let devices learn it from /cacerts."""
    settings = _of_local_ca(config)
    words = "restart the registrar, leave devices time to fetch /cacerts, then `ca change-root`"
    _renewed(renewing.announce(settings, key_kind(kind), utc_now(), ask_secret), words, as_json)


@app.command("change-root", epilog="Example: `brski-registrar ca change-root`")
def change_root(config: Config = DEFAULT_CONFIG, as_json: cli.Json = False) -> None:
    """Move issuing CA and registrar under the next root; the old one stays trusted through /cacerts."""
    words = "restart the registrar; when every device has renewed, `ca retire-root`"
    _renewed(renewing.change(_of_local_ca(config), utc_now(), ask_secret), words, as_json)


@app.command("retire-root", epilog="Example: `brski-registrar ca retire-root`")
def retire_root(config: Config = DEFAULT_CONFIG, as_json: cli.Json = False) -> None:
    """End a change of root: the old root is not handed out any more."""
    renewing.retire(_of_local_ca(config))
    cli.answer({"retired": True}, as_json, lambda: cli.show("the old root is forgotten: restart the registrar"))


def _of_local_ca(config: Path) -> Settings:
    """The settings of a registrar that holds its CA; raises Misconfigured `ca-elsewhere`."""
    settings = load_settings(config)
    if settings.ca.upstream is not None:
        advice = "its certificates, and the registrar's, are renewed there; `ca show` has the anchors"
        raise Misconfigured("ca-elsewhere", f"the CA of this registrar is {settings.ca.upstream}: {advice}")
    return settings


def _renewed(certificate: x509.Certificate, words: str, as_json: bool) -> None:
    value = _facts(certificate)
    cli.answer(value, as_json, lambda: cli.show(f"{value['subject']} until {cli.cell(value['not_after'])}; {words}"))


def _certificates(settings: Settings) -> list[tuple[str, dict[str, Any]]]:
    registrar = keys.read_certificates(settings.registrar.certificates)[0]
    if settings.ca.upstream_anchors is not None:
        anchors = keys.read_certificates(settings.ca.upstream_anchors)
        return [
            ("registrar", _facts(registrar)),
            *((f"anchor of {settings.ca.upstream}", _facts(each)) for each in anchors),
        ]
    issuer, *above = keys.read_certificates(settings.ca.certificates)
    found = [("registrar", registrar), ("issuing CA", issuer), *(("root", each) for each in above)]
    if settings.ca.rollover.exists():
        found += [("change of root", each) for each in keys.read_certificates(settings.ca.rollover)]
    return [(role, _facts(certificate)) for role, certificate in found]


def _facts(certificate: x509.Certificate) -> dict[str, Any]:
    return {
        "subject": certificate.subject.rfc4514_string(),
        "issuer": certificate.issuer.rfc4514_string(),
        "serial": f"{certificate.serial_number:x}",
        "not_before": certificate.not_valid_before_utc,
        "not_after": certificate.not_valid_after_utc,
        "sha256": fingerprint(certificate).hex(),
    }
