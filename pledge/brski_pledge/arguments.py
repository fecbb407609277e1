"""The command line of `brski-pledge`: verbs, options, and what is said of a wrong one."""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

MAX_TIMEOUT = 1e9  # seconds, some thirty years

_EXAMPLES = {
    "onboard": """example:
  brski-pledge onboard --state /var/lib/brski --certificate idevid.pem --key idevid.key \\
      --voucher-anchors voucher-anchors.pem --registrar 192.0.2.1:8443
  brski-pledge onboard --config pledge.toml --json
""",
    "status": """example:
  brski-pledge status --state /var/lib/brski
  brski-pledge status --config pledge.toml --json
""",
    "renew": """example:
  brski-pledge renew --config pledge.toml --if-due
  brski-pledge renew --config pledge.toml --registrar registrar.plant.example:8443
""",
    "reset": """example:
  brski-pledge reset --state /var/lib/brski
  brski-pledge reset --config pledge.toml
""",
}


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line as read; ends the program with 2 and the usage of the verb where it is wrong."""
    options, unknown = make_parser().parse_known_args(arguments)
    if unknown:
        options.complain(f"unrecognized arguments: {' '.join(unknown)}")
    if options.command == "onboard" and options.fingerprint is not None and options.est_enroll is None:
        options.complain("argument --fingerprint: it is that of the server named with --est-enroll")
    return options


def make_parser() -> argparse.ArgumentParser:
    """Every verb and option."""
    parser = argparse.ArgumentParser(
        prog="brski-pledge",
        description="Find this device's owner and enroll with it (RFC 8995).",
        epilog=_EXAMPLES["onboard"],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action=_TellVersion, nargs=0, help="show the version, and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (help_text, add) in _VERBS.items():
        command = commands.add_parser(
            name, help=help_text, description=help_text, epilog=_EXAMPLES[name], formatter_class=parser.formatter_class
        )
        command.add_argument("--json", action="store_true", help="one JSON object on standard output")
        command.add_argument("--config", type=Path, metavar="FILE", help="TOML file with the settings")
        command.add_argument("--state", type=Path, metavar="DIR", help="folder that outlives reboots")
        add(command)
        command.set_defaults(complain=command.error)
    return parser


class _TellVersion(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib import metadata  # noqa: PLC0415 -- nothing else asks for it

        try:
            version = metadata.version(parser.prog)
        except metadata.PackageNotFoundError:  # a device may carry the code without what pip writes beside it
            version = "of no known version: it is not installed as a distribution"
        print(parser.prog, version)
        parser.exit()


def _add_nothing(_: argparse.ArgumentParser) -> None:
    """`status` needs only the state."""


def _add_reset(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--force", action="store_true", help="erase also what nobody can tell to be the state of a pledge"
    )


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--certificate", type=Path, metavar="PEM", help="the IDevID and its chain, leaf first")
    parser.add_argument(
        "--key",
        metavar="PATH",
        help="file with the IDevID's key: the built-in TLS has to read it; a key in a token needs the device's own TLS",
    )
    parser.add_argument("--voucher-anchors", type=Path, metavar="PEM", help="who may sign vouchers")
    parser.add_argument("--trusted-clock", action="store_true", default=None, help="believe this machine's clock")
    parser.add_argument("--timeout", type=_seconds, metavar="SECONDS", help="give up after so long")


def _add_onboard(parser: argparse.ArgumentParser) -> None:
    _add_device(parser)
    parser.add_argument(
        "--registrar",
        dest="registrars",
        action="append",
        metavar="HOST:PORT",
        help="a join proxy or registrar that is known beforehand; may be repeated",
    )
    parser.add_argument("--cloud-registrar", metavar="HOST[:PORT]", help="asked when nothing local is found")
    parser.add_argument("--cloud-anchors", type=Path, metavar="PEM", help="who may vouch for the cloud registrar")
    parser.add_argument("--mdns", action=argparse.BooleanOptionalAction, default=None, help="look for proxies by mDNS")
    parser.add_argument(
        "--mdns-interface",
        dest="mdns_interfaces",
        action="append",
        metavar="ADDRESS",
        help="where to look; may be repeated; default: everywhere",
    )
    parser.add_argument("--grasp", action=argparse.BooleanOptionalAction, default=None, help="listen for GRASP floods")
    parser.add_argument(
        "--est-enroll",
        metavar="HOST:PORT",
        help="enroll at this EST server without a voucher; for somebody at the device who knows its --fingerprint",
    )
    parser.add_argument("--fingerprint", metavar="HEX", help="SHA-256 of that server's certificate")
    parser.add_argument("--keep-trying", action="store_true", help="never give up, as a device should")


def _add_renew(parser: argparse.ArgumentParser) -> None:
    _add_device(parser)
    parser.add_argument(
        "--registrar",
        dest="renewal_registrar",
        metavar="HOST:PORT",
        help="the registrar that renews; default: where it was onboarded, which may have been a join proxy",
    )
    parser.add_argument("--if-due", action="store_true", help="do nothing before two thirds of its life are over")
    parser.add_argument("--same-key", action="store_true", help="keep the key instead of making a new one")


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < MAX_TIMEOUT:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0 and below {MAX_TIMEOUT:g}")
    return seconds


_VERBS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "onboard": ("Find the owner, get a voucher and enroll; nothing happens if that was done before.", _add_onboard),
    "status": ("Say what this device is.", _add_nothing),
    "renew": ("Get a new certificate before the present one ends.", _add_renew),
    "reset": ("Back to the factory state: erase the LDevID and all anchors, keep the IDevID.", _add_reset),
}
