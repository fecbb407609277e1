"""`join-proxy`: carries devices' connections from their link to the registrar."""

import logging
from collections.abc import Sequence
from typing import Annotated, Final

import typer

from brski_common import cli, logs
from brski_common.errors import Misconfigured
from brski_registrar.discovery import Endpoint, addresses_of, parse_endpoint
from brski_registrar.joining import Options, run
from brski_registrar.limits import Limits

MDNS: Final = "mdns"
MDNS_PREFIX: Final = "mdns:"
DNS_PREFIX: Final = "dns:"
_DEFAULT: Final = Limits()


def join_proxy(  # noqa: PLR0913, PLR0917 -- each option is an argument
    registrar: Annotated[
        str,
        typer.Option(
            help="HOST:PORT of the registrar; `mdns` looks for it, `mdns:NAME` for the one of that instance name,"
            " `dns:DOMAIN` asks the domain's DNS."
        ),
    ],
    listen: Annotated[
        list[str] | None, typer.Option(help="Link-local address and port, [fe80::1%eth1]:0. May be repeated.")
    ] = None,
    interface: Annotated[
        list[str] | None, typer.Option(help="Listen on this interface's link-local address. May be repeated.")
    ] = None,
    registrar_interface: Annotated[
        list[str] | None, typer.Option(help="Look for the registrar on this interface. May be repeated.")
    ] = None,
    announce: Annotated[
        list[str] | None, typer.Option(help="Announce the proxy by mDNS on this interface. May be repeated.")
    ] = None,
    name: Annotated[str, typer.Option(help="Instance name of the announcement.")] = "",
    grasp: Annotated[bool, typer.Option("--grasp", help="Flood AN_Proxy by GRASP too (RFC 8995, 4.1.1).")] = False,
    any_address: Annotated[bool, typer.Option("--any-address", help="Listen on what is not link-local too.")] = False,
    total: Annotated[int, typer.Option(help="Connections at once.", min=1)] = _DEFAULT.total,
    per_source: Annotated[int, typer.Option(help="Connections at once from one address.", min=1)] = _DEFAULT.per_source,
    idle_seconds: Annotated[float, typer.Option(help="A silent connection ends after.", min=1)] = _DEFAULT.idle_seconds,
    total_seconds: Annotated[float, typer.Option(help="Any connection ends after.", min=1)] = _DEFAULT.total_seconds,
    level: Annotated[str, typer.Option("--log-level", help="debug, info, warning or error.")] = "warning",
    as_json: cli.Json = False,
) -> None:
    """Relay TLS connections of new devices to the registrar, without looking into them (RFC 8995, 4)."""
    if level not in {"debug", "info", "warning", "error"}:
        raise Misconfigured("log-level-unknown", f"{level}: allowed are debug, info, warning, error")
    logs.configure(json=as_json, level=level)
    logging.getLogger("zeroconf").setLevel(logging.ERROR)  # it warns of every odd packet that somebody sends
    limits = Limits(total=total, per_source=per_source, idle_seconds=idle_seconds, total_seconds=total_seconds)
    wanted = [parse_endpoint(text, port_needed=False) for text in listen or ()]
    wanted += [Endpoint(address, 0) for each in interface or () for address in _link_local_of(each)]
    if not wanted:
        raise Misconfigured("listen-missing", "name an interface of the devices' link with --interface, or --listen")
    options = Options(
        listen=tuple(wanted),
        registrar=None if _is_looked_for(registrar) else parse_endpoint(registrar),
        registrar_name=registrar.removeprefix(MDNS_PREFIX) if registrar.startswith(MDNS_PREFIX) else None,
        registrar_interfaces=tuple(registrar_interface or ()),
        domain=registrar.removeprefix(DNS_PREFIX) if registrar.startswith(DNS_PREFIX) else None,
        announce_interfaces=tuple(announce or ()),
        name=name,
        grasp=grasp,
        any_address=any_address,
        limits=limits,
    )
    cli.run_async(run(options, lambda at: _listening(at, as_json)))


def _is_looked_for(registrar: str) -> bool:
    return registrar == MDNS or registrar.startswith((MDNS_PREFIX, DNS_PREFIX))


def _link_local_of(interface: str) -> list[str]:
    found = [address for address in addresses_of([interface]) if address.lower().startswith("fe80")]
    if not found:
        raise Misconfigured("interface-unusable", f"{interface} has no IPv6 link-local address")
    return found


def _listening(endpoints: Sequence[Endpoint], as_json: bool) -> None:
    if as_json:
        first, all_of_them = endpoints[0], [str(endpoint) for endpoint in endpoints]
        cli.emit({"event": "listening", "host": first.host, "port": first.port, "endpoints": all_of_them})
    else:
        cli.say(f"the join proxy listens at {', '.join(map(str, endpoints))}")
