"""Commands that make things: `init`, `idevid`, `key`; and `serve` for its help."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from brski_common import cli, keys
from brski_common.certificates import Credential, HardwareModuleName, common_name
from brski_common.errors import Misconfigured
from brski_masa import factory, founding, linting, serving
from brski_masa.commands.showing import (
    DEFAULT_CONFIG,
    Config,
    SharedKey,
    choice,
    key_kind,
    owner_advice,
    read_certificates,
    show_one,
    show_rows,
    warn,
    with_store,
)
from brski_masa.parties import DevicePolicy
from brski_masa.settings import Settings
from brski_masa.store import Store

INIT_EXAMPLE = "Example: `brski-masa init maker --name 'Example Maker' --host masa.example --port 9443`"
NEXT_STEPS = """\
Next, with the domain-ca.pem that a customer gives you:
  brski-masa owner add 'Example Plant' --anchor domain-ca.pem --config {config}
  brski-masa idevid --serial 0001 --key P-256 --owner 'Example Plant' --out device-0001 --config {config}
  brski-masa serve --config {config}"""
SERVE_EXAMPLE = "Example: `brski-masa serve --config maker/masa.toml`"
IDEVID_EXAMPLE = (
    "Examples: `brski-masa idevid --serial 0001 --csr 0001.csr --out out/0001` for a key the device keeps,"
    " `brski-masa idevid --serial 0001 --serial 0002 --key P-256 --owner 'Example Plant' --out out` for simulated"
    " devices, `brski-masa idevid --lint device/chain.pem` to check one"
)
key_app = cli.application("The MASA's keys. Example: `brski-masa key list`")


# init and serve


def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="a new folder for settings, keys and anchors")],
    name: Annotated[str, typer.Option(help="the maker's name, in its certificates")] = "Example Maker",
    host: Annotated[str, typer.Option(help="name or address under which registrars reach it")] = "127.0.0.1",
    listen: Annotated[
        str | None, typer.Option(help="address to listen on; default: --host if it is an address, else all")
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="TCP port")] = 9443,
    masa_url: Annotated[str | None, typer.Option(help="what IDevIDs say of the MASA: host[:port]")] = None,
    key: Annotated[str, typer.Option(help="kind of all keys: P-256, P-384, RSA-2048 or Ed25519")] = "P-256",
    as_json: cli.Json = False,
) -> None:
    """Make a maker: authorities, keys, anchors, an empty database and a commented masa.toml."""
    authority = masa_url or (f"[{host}]" if ":" in host else host) + f":{port}"
    plan = founding.Plan(
        folder=folder, name=name, host=host, listen=listen, port=port, masa_url=authority, kind=key_kind(key)
    )
    founding.found(plan, serving.utc_now())
    config = (folder / founding.SETTINGS_FILE).absolute()
    anchors = {
        each: str((folder / "anchors" / f"{each}.pem").absolute()) for each in ("voucher", "tls", "manufacturer")
    }
    answer = {"config": str(config), "masa_url": authority, "anchors": anchors}
    cli.answer(answer, as_json, lambda: cli.facts([("settings", config), *anchors.items()]))
    if not as_json:
        cli.say(NEXT_STEPS.format(config=shlex.quote(str(folder / founding.SETTINGS_FILE))))


def serve(config: Config = DEFAULT_CONFIG, as_json: cli.Json = False) -> None:
    """Serve vouchers and audit logs until SIGTERM or SIGINT."""
    serving.run(config, json_lines=as_json)


# idevid


def idevid(  # noqa: PLR0913, PLR0917 -- a command's options
    serial: Annotated[list[str] | None, typer.Option(help="serial number; several go to OUT/SERIAL each")] = None,
    out_folder: Annotated[Path | None, typer.Option("--out", help="folder to write to")] = None,
    csr: Annotated[Path | None, typer.Option(help="the device's own PKCS#10 request (PEM or DER)")] = None,
    key: Annotated[str | None, typer.Option(help="make the key here: P-256, P-384, RSA-2048 or Ed25519")] = None,
    owner: Annotated[str | None, typer.Option(help="who bought it; a new owner is added")] = None,
    policy: Annotated[DevicePolicy | None, typer.Option(help="who may have it, if not as the settings say")] = None,
    masa_url: Annotated[str | None, typer.Option(help="host[:port] of the MASA, if not as the settings say")] = None,
    model: Annotated[str | None, typer.Option(help="common name in the certificate")] = None,
    hw_type: Annotated[str | None, typer.Option(help="OID of a hardwareModuleName, with the serial number")] = None,
    unsafe_shared_key: SharedKey = False,
    lint: Annotated[Path | None, typer.Option(help="only check the IDevID chain in this PEM file")] = None,
    config: Config = DEFAULT_CONFIG,
    as_json: cli.Json = False,
) -> None:
    """Make IDevIDs and register the devices, or check one that was made elsewhere."""
    if lint is not None:
        _lint(lint, as_json=as_json)
        return
    if not serial or out_folder is None or (csr is None) == (key is None) or (csr is not None and len(serial) > 1):
        raise typer.BadParameter("give --serial, --out and either --csr (for one device) or --key")
    settings = serving.load_settings(config)
    issuer = _issuer(settings)
    kind = None if key is None else key_kind(key)
    made = [
        _make(issuer, each, csr, kind, _wishes(settings, each, masa_url=masa_url, model=model, hw_type=hw_type))
        for each in serial
    ]
    folders = [out_folder if len(serial) == 1 else out_folder / factory.folder_name(each) for each in serial]

    async def register(store: Store) -> str | None:
        for each in made:
            await store.register(
                each.certificate,
                serving.utc_now(),
                owner=owner,
                policy=policy,
                unsafe_shared_key=unsafe_shared_key,
            )
        return await owner_advice(store, settings, owner)

    for folder in folders:
        factory.check_folder(folder)  # a device whose files cannot be written shall not be in the registry
    advice = with_store(settings, register)
    written = [factory.write(folder, each, owner) for folder, each in zip(folders, made, strict=True)]
    if len(written) == 1:
        show_one(written[0], as_json)
    else:
        show_rows(written, ("serial-number", "owner", "folder"), as_json, empty="none")
    warn(advice)


def _issuer(settings: Settings) -> Credential:
    maker = settings.maker
    if maker.idevid_ca_key is None or maker.idevid_ca_chain is None:
        raise Misconfigured("idevid-ca-missing", "set maker.idevid_ca_key and maker.idevid_ca_chain")
    founding.check_key_is_there(maker.idevid_ca_key, "idevid-ca", "the IDevID CA signs")
    return keys.load_credential(maker.idevid_ca_key, maker.idevid_ca_chain, secret=serving.ask_secret)


def _wishes(
    settings: Settings, serial: str, *, masa_url: str | None, model: str | None, hw_type: str | None
) -> factory.Wishes:
    return factory.Wishes(
        serial_number=serial,
        masa_url=masa_url or settings.maker.masa_url,
        organization=settings.maker.name,
        common_name=model,
        hardware=None if hw_type is None else HardwareModuleName(hw_type, serial.encode()),
    )


def _make(
    issuer: Credential, serial: str, csr: Path | None, kind: keys.Kind | None, wishes: factory.Wishes
) -> factory.Made:
    factory.check_serial(serial)
    if csr is not None:
        public, private = factory.key_of_csr(cli.read_input(csr)), None
    else:
        assert kind is not None
        private = keys.generate(kind)
        public = private.public_key()
    certificate = factory.issue(issuer, public, wishes, serving.utc_now())
    return factory.Made(factory.chain_of(issuer, certificate), private)


def _lint(path: Path, *, as_json: bool) -> None:
    findings = linting.lint_chain(read_certificates(path))
    rows = [{"requirement": each.requirement, "level": each.level, "text": each.text} for each in findings]
    show_rows(rows, ("requirement", "level", "text"), as_json, empty="no faults")
    if any(each.level == "error" for each in findings):
        raise typer.Exit(1)


# key


@key_app.command("list", epilog="Example: `brski-masa key list`")
def list_keys(config: Config = DEFAULT_CONFIG, as_json: cli.Json = False) -> None:
    """Show the certificates of the MASA's keys and when they end."""
    settings = serving.load_settings(config)
    chains = {
        "tls": settings.tls.chain,
        "voucher": settings.signing.chain,
        "voucher-nonceless": settings.signing.nonceless_chain,
        "idevid-ca": settings.maker.idevid_ca_chain,
    }
    rows = []
    for use, path in chains.items():
        if path is not None:
            leaf = keys.read_certificates(path)[0]
            rows.append({"use": use, "subject": common_name(leaf), "until": leaf.not_valid_after_utc.isoformat()})
    show_rows(rows, ("use", "subject", "until"), as_json, empty="none")


@key_app.command("rotate", epilog="Example: `brski-masa key rotate voucher`")
def rotate_key(
    use: Annotated[str, typer.Argument(metavar="USE", help="voucher, voucher-nonceless or tls")],
    key: Annotated[str, typer.Option(help="kind of the new key")] = "P-256",
    config: Config = DEFAULT_CONFIG,
    as_json: cli.Json = False,
) -> None:
    """Make a new key and certificate under the same root; restart the service to use it."""
    settings = serving.load_settings(config)
    made = founding.rotate(settings, choice(use, list(founding.ROTATED)), key_kind(key), serving.utc_now())
    until = made.certificate.not_valid_after_utc.isoformat()
    answer = {"use": use, "subject": common_name(made.certificate), "until": until}
    show_one(answer, as_json)
    if not as_json:
        cli.say("restart the service; when it runs with the new key, delete the old files that end in .old")
