"""The command as typer sees it: `init`, `serve`, and the groups of verbs."""

import shlex
from pathlib import Path
from typing import Annotated

import typer

from brski_common import cli
from brski_registrar import founding
from brski_registrar.commands import authority, devices, policies
from brski_registrar.commands.authority import KeyKind, key_kind
from brski_registrar.commands.joining import join_proxy
from brski_registrar.commands.opening import DEFAULT_CONFIG, Config
from brski_registrar.runtime import ask_secret, load_settings, opened, run, utc_now
from brski_registrar.settings import DEFAULT_PORT

app = cli.application(
    "The registrar of a BRSKI plant (RFC 8995): it admits devices and gives them certificates.",
    distribution="brski-registrar",
)
app.command("join-proxy", epilog="Example: `brski-registrar join-proxy --listen '[fe80::1%eth1]:0' --registrar mdns`")(
    join_proxy
)
app.add_typer(devices.devices, name="device")
app.add_typer(policies.app, name="policy")
app.add_typer(devices.vouchers, name="voucher")
app.add_typer(devices.certificates, name="cert")
app.add_typer(authority.app, name="ca")


@app.command(epilog='Example: `brski-registrar init plant --name "Example Plant" --host registrar.plant.example`')
def init(
    folder: Annotated[Path, typer.Argument(help="Folder to make, or an empty one.", metavar="DIR")],
    name: Annotated[str, typer.Option(help="The plant's name, in its certificates.")] = "Example Plant",
    host: Annotated[
        list[str] | None, typer.Option(help="Name or address under which devices reach it. May be repeated.")
    ] = None,
    listen: Annotated[
        str | None, typer.Option(help="Address to listen on; default: the --host that is an address, else all.")
    ] = None,
    port: Annotated[int, typer.Option(help="TCP port; 0 takes any free one.", min=0, max=65535)] = DEFAULT_PORT,
    kind: KeyKind = "P-256",
    root_key: Annotated[str | None, typer.Option(help="pkcs11: URI of a root key that is there already.")] = None,
    issuing_key: Annotated[str | None, typer.Option(help="pkcs11: URI of a key for the issuing CA.")] = None,
    interface: Annotated[
        list[str] | None, typer.Option(help="Announce the registrar by mDNS on this interface. May be repeated.")
    ] = None,
    as_json: cli.Json = False,
) -> None:
    """Found a plant: domain CA, registrar certificate and settings, ready to serve."""
    plan = founding.Plan(
        name=name,
        hosts=host or ["localhost", "127.0.0.1"],
        listen=listen,
        port=port,
        kind=key_kind(kind),
        root_key=root_key,
        issuing_key=issuing_key,
        interfaces=interface or (),
    )
    path = founding.found(folder, plan, utc_now(), ask_secret).absolute()
    cli.run_async(_make_database(path))
    domain_ca = path.parent / "anchors/domain-ca.pem"
    at = f"--config {shlex.quote(str(path))}"
    serving = f"brski-registrar serve {at}"
    admitting = (
        f'brski-registrar policy allow "Example Maker" {at} --idevid-anchors manufacturer.pem '
        "--masa-tls-anchors tls.pem --masa-host masa.example:9443 --serial SN-0001"
    )

    def human() -> None:
        cli.show(f"wrote {path}")
        cli.show(f"\nSend this file to each maker: its MASA knows your plant by it.\n  {domain_ca}")
        cli.show(f"Admit the maker, with the anchors and the MASA that it names to you.\n  {admitting}")
        cli.show(f"Serve; a policy may change while the registrar runs.\n  {serving}")

    cli.answer({"config": path, "domain_ca": domain_ca, "next": [admitting, serving]}, as_json, human)


@app.command(epilog="Example: `brski-registrar serve --config plant/registrar.toml`")
def serve(config: Config = DEFAULT_CONFIG, as_json: cli.Json = False) -> None:
    """Serve devices until SIGTERM or SIGINT. With --json one line on standard output says where it listens."""
    run(config, as_json=as_json)


async def _make_database(config: Path) -> None:
    """Bring the database into being, so that `serve` starts without the tools for that."""
    async with opened(load_settings(config)):
        pass
