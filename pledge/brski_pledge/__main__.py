"""`brski-pledge`: onboard, status, renew and reset from a command line.

Only arguments, files and words live here. Standard output holds the result, as text or with --json
as one object; events go to standard error as they happen. Exit code 0: done, 1: refused or failed,
2: wrong usage.
"""

import argparse
import asyncio
import json
import signal
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

from brski_common import keys
from brski_common.certificates import Credential, common_name, fingerprint, serial_number
from brski_common.errors import BrskiError, Misconfigured
from brski_common.paths import Anchors
from brski_pledge.device import DeviceFile
from brski_pledge.discovery import parse_offer
from brski_pledge.events import Event
from brski_pledge.service import Outcome, Pledge
from brski_pledge.state import ANCHORS, IDENTITY, LDEVID, VOUCHER, Enrollment, Folder

EXAMPLE = """example:
  brski-pledge onboard --state /var/lib/brski --certificate idevid.pem --key idevid.key \\
      --voucher-anchors voucher-anchors.pem --registrar 192.0.2.1:8443
  brski-pledge onboard --config pledge.toml --json
"""
# What options set, under the names of the settings.
_SETTINGS = (
    *("state", "certificate", "key", "voucher_anchors", "cloud_anchors", "trusted_clock"),
    *("registrars", "cloud_registrar", "mdns", "mdns_interfaces", "grasp", "renewal_registrar"),
)
ADVICE = {
    "no-registrar-found": "check the link, or name one with --registrar HOST:PORT",
    "state-damaged": "erase it with `brski-pledge reset`",
    "fingerprint-mismatch": "if that is what the server's operator reads out to you, give it with --fingerprint",
    "not-enrolled": "run `brski-pledge onboard` first",
    "peer-unreachable": "is it running, and is that its address and port?",
    "voucher-signer-unknown": "give those of this device's maker with --voucher-anchors",
}


class Timeline:
    """The events of one run, with seconds since its begin; each is also written to `out` as it comes."""

    def __init__(self, out: TextIO, *, as_json: bool) -> None:
        self.entries: list[dict[str, Any]] = []
        self.begin = time.monotonic()
        self._out, self._as_json = out, as_json

    def __call__(self, event: Event) -> None:
        """Note one event."""
        entry = {"at": round(time.monotonic() - self.begin, 3), "step": event.step, "detail": event.detail}
        self.entries.append(entry)
        line = json.dumps(entry) if self._as_json else f"{entry['at']:8.3f} s  {event.step:<21} {event.detail}".rstrip()
        print(line, file=self._out, flush=True)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    options = _parser().parse_args(arguments)
    try:
        result = _COMMANDS[options.command](options)
    except BrskiError as error:
        result = {"state": "failed", "reason": error.reason, "detail": error.detail}
    except OSError as error:
        result = {"state": "failed", "reason": "file-failed", "detail": f"{error.filename}: {error.strerror}"}
    except KeyboardInterrupt:
        result = {"state": "failed", "reason": "interrupted", "detail": ""}
    return _show(result, as_json=options.json)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="brski-pledge",
        description="Find this device's owner and enroll with it (RFC 8995).",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (help_text, add) in _VERBS.items():
        command = commands.add_parser(
            name, help=help_text, description=help_text, epilog=EXAMPLE, formatter_class=parser.formatter_class
        )
        command.add_argument("--json", action="store_true", help="one JSON object on standard output")
        command.add_argument("--config", type=Path, metavar="FILE", help="TOML file with the settings")
        command.add_argument("--state", type=Path, metavar="DIR", help="folder that outlives reboots")
        add(command)
    return parser


def _add_nothing(_: argparse.ArgumentParser) -> None:
    """`status` and `reset` need only the state."""


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--certificate", type=Path, metavar="PEM", help="the IDevID and its chain, leaf first")
    parser.add_argument(
        "--key",
        metavar="PATH",
        help="file with the IDevID's key: the built-in TLS has to read it; a key in a token needs the device's own TLS",
    )
    parser.add_argument("--voucher-anchors", type=Path, metavar="PEM", help="who may sign vouchers")
    parser.add_argument("--trusted-clock", action="store_true", default=None, help="believe this machine's clock")
    parser.add_argument("--timeout", type=float, metavar="SECONDS", help="give up after so long")


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


def _onboard(options: argparse.Namespace) -> dict[str, Any]:
    timeline = Timeline(sys.stderr, as_json=options.json)
    pledge = _pledge(options, timeline, once=False if options.keep_trying else None)
    work = pledge.onboard if options.est_enroll is None else _touched(pledge, options)
    return _result(pledge, _run(work, options.timeout), timeline)


def _touched(pledge: Pledge, options: argparse.Namespace) -> Callable[[], Coroutine[Any, Any, Outcome]]:
    """Somebody at the console vouches for a server; without its fingerprint the first run only tells it."""
    try:
        offer = parse_offer(options.est_enroll)
        fingerprint = bytes.fromhex((options.fingerprint or "00").replace(":", ""))
    except ValueError as error:
        raise Misconfigured("setting-invalid", f"--est-enroll, --fingerprint: {error}") from error
    return lambda: pledge.enroll_at(offer, fingerprint)


def _renew(options: argparse.Namespace) -> dict[str, Any]:
    timeline = Timeline(sys.stderr, as_json=options.json)
    pledge = _pledge(options, timeline)
    enrollment = pledge.enrollment
    if options.if_due and enrollment is not None and _utc() < enrollment.renew_at:
        return _result(pledge, Outcome("operational", enrollment=enrollment), timeline)
    outcome = _run(lambda: pledge.renew(rekey=not options.same_key), options.timeout)
    return _result(pledge, outcome, timeline)


def _status(options: argparse.Namespace) -> dict[str, Any]:
    enrollment = Folder(_state(options)).load()
    return {"state": "factory"} if enrollment is None else {"state": "operational", **_describe(enrollment)}


def _reset(options: argparse.Namespace) -> dict[str, Any]:
    Folder(_state(options)).reset()
    return {"state": "factory"}


def _state(options: argparse.Namespace) -> Path:
    """The folder alone: status and reset do not need the IDevID."""
    return DeviceFile.state_of(options.config, options.state)


def _pledge(options: argparse.Namespace, timeline: Timeline, *, once: bool | None = None) -> Pledge:
    chosen = {name: getattr(options, name, None) for name in _SETTINGS}
    device = DeviceFile.load(options.config, chosen | {"once": once})
    return Pledge(
        device.settings,
        _credential(device),
        _anchors(device.voucher_anchors),
        state=device.state,
        clock=_utc if device.trusted_clock else None,
        cloud_anchors=None if device.cloud_anchors is None else _anchors(device.cloud_anchors),
        observer=timeline,
    )


def _credential(device: DeviceFile) -> Credential:
    if device.key.startswith("pkcs11:"):
        explanation = "the built-in TLS needs the key in a file; for one in a token embed brski_pledge with a transport"
        raise Misconfigured("key-not-a-file", f"{explanation} of your own (pledge/README.md)")
    return keys.load_credential(device.key, device.certificate)


def _anchors(path: Path) -> Anchors:
    return Anchors(keys.read_certificates(path))


def _utc() -> datetime:
    return datetime.now(UTC)


def _run(work: Callable[[], Coroutine[Any, Any, Outcome]], timeout: float | None) -> Outcome:
    async def bounded() -> Outcome:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        try:
            async with asyncio.timeout(timeout):
                return await work()
        except TimeoutError:
            return Outcome("failed", "timed-out", f"not operational after {timeout:g} s")
        except asyncio.CancelledError:
            return Outcome("failed", "interrupted")

    return asyncio.run(bounded())


def _result(pledge: Pledge, outcome: Outcome, timeline: Timeline) -> dict[str, Any]:
    result: dict[str, Any] = {
        "state": outcome.state,
        "reason": outcome.reason,
        "detail": outcome.detail,
        "serial-number": pledge.serial_number,
        "seconds": round(time.monotonic() - timeline.begin, 3),
    }
    if outcome.enrollment is not None:
        pledge.export()
        result |= _describe(outcome.enrollment)
    return result | {"timeline": timeline.entries}


def _describe(enrollment: Enrollment) -> dict[str, Any]:
    leaf, folder = enrollment.credential.certificate, enrollment.folder
    assert folder is not None
    try:
        serial: str | None = serial_number(leaf)
    except BrskiError:
        serial = None
    exports = {"ldevid": folder / LDEVID, "anchors": folder / ANCHORS, "voucher": folder / VOUCHER}
    return {
        "key": str(folder / IDENTITY),
        **{name: str(path) for name, path in exports.items() if path.exists()},
        "subject": leaf.subject.rfc4514_string(),
        "ldevid-serial-number": serial,
        "issuer": leaf.issuer.rfc4514_string(),
        "fingerprint": fingerprint(leaf).hex(),
        "not-after": leaf.not_valid_after_utc.isoformat(),
        "renew-at": enrollment.renew_at.isoformat(),
        "owner": common_name(enrollment.pinned),
        "registrar": f"{enrollment.host}:{enrollment.port}",
        "confirmed": enrollment.confirmed,
    }


def _show(result: dict[str, Any], *, as_json: bool) -> int:
    failed = result["state"] in {"failed", "refused"}
    if as_json:
        print(json.dumps(result))
    if failed:
        advice = ADVICE.get(result["reason"], "")
        words = [result["reason"], result["detail"], advice]
        print("brski-pledge: " + ": ".join(word for word in words if word), file=sys.stderr)
    elif not as_json:
        for name, value in result.items():
            if name != "timeline" and value not in (None, ""):
                print(f"{name:22} {value}")
    return 1 if failed else 0


_VERBS: dict[str, tuple[str, Callable[[argparse.ArgumentParser], None]]] = {
    "onboard": ("Find the owner, get a voucher and enroll; nothing happens if that was done before.", _add_onboard),
    "status": ("Say what this device is.", _add_nothing),
    "renew": ("Get a new certificate before the present one ends.", _add_renew),
    "reset": ("Back to the factory state: erase the LDevID and all anchors, keep the IDevID.", _add_nothing),
}
_COMMANDS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "onboard": _onboard,
    "status": _status,
    "renew": _renew,
    "reset": _reset,
}

if __name__ == "__main__":
    sys.exit(main())
