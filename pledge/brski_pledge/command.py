"""`brski-pledge`: onboard, status, renew and reset from a command line.

Only arguments, files and words live here. Standard output holds the result, as text or with --json
as one object, which of a failure has `error`, the slug, and `detail` as those of the other programs do; events and
warnings go to standard error as they happen. Exit code 0: done, 1: refused or failed, 2: wrong usage, 130: interrupted
from the keyboard.
"""

import argparse
import asyncio
import json
import signal
import stat
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
from brski_pledge.arguments import parse
from brski_pledge.device import DeviceFile
from brski_pledge.discovery import parse_offer
from brski_pledge.events import Event, name_of
from brski_pledge.service import Outcome, Pledge
from brski_pledge.state import ANCHORS, IDENTITY, LDEVID, VOUCHER, Enrollment, Folder

# What options set, under the names of the settings.
_SETTINGS = (
    *("state", "certificate", "key", "voucher_anchors", "cloud_anchors", "trusted_clock"),
    *("registrars", "cloud_registrar", "mdns", "mdns_interfaces", "grasp", "renewal_registrar"),
)
FAILURES, INTERRUPTED = frozenset(("failed", "refused")), 130
_REGISTRAR_KNOWS = (
    "the registrar's operator sees why with `brski-registrar device show {serial}` or `… device knocking`"
)
_REGISTRAR_LOGS = "the registrar's log says why; if `est_label` is set, it has to be a label that is served there"
ADVICE = {
    "no-registrar-found": "check the link, or name one with --registrar HOST:PORT",
    "state-damaged": "erase it with `brski-pledge reset`",
    "fingerprint-mismatch": "if that is what the server's operator reads out to you, give it with --fingerprint",
    "not-enrolled": "run `brski-pledge onboard` first",
    "peer-unreachable": "is it running, and is that its address and port?",
    "state-unsafe": "if another may have had its key, `brski-pledge reset` and onboard anew",
    "state-unusable": "the state needs a folder that can be written, with 16 KiB to spare",
    "state-missing": "is this the folder? If it is, `brski-pledge onboard` makes it",
    "state-unknown": "is this the folder? If it is, `brski-pledge reset --force` erases them",
    "voucher-request-refused": _REGISTRAR_KNOWS,
    "enrollment-refused": _REGISTRAR_KNOWS,
    "cacerts-refused": _REGISTRAR_LOGS,
    "csrattrs-refused": _REGISTRAR_LOGS,
    "voucher-signer-unknown": "give those of this device's maker with --voucher-anchors",
}

# What a registrar answers about a device, and not about the question: its operator decided that.
_DECIDED = frozenset(("device-blocked", "device-denied"))


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


def run(arguments: Sequence[str] | None) -> int:
    """Run one command; the exit code."""
    options = parse(arguments)
    try:
        result = _COMMANDS[options.command](options)
    except BrskiError as error:
        result = {"state": "failed", "reason": error.reason, "detail": error.detail}
    except OSError as error:
        result = {"state": "failed", "reason": "file-failed", "detail": _told(error)}
    except KeyboardInterrupt:
        result = {"state": "failed", "reason": "interrupted", "detail": ""}
    _show(result, as_json=options.json)
    return _exit_code(result, options)


def _exit_code(result: dict[str, Any], options: argparse.Namespace) -> int:
    if result["state"] not in FAILURES:
        return 0
    if result["reason"] == "interrupted":
        return INTERRUPTED
    # Without a file, what is missing is an option.
    return 2 if result["reason"] == "setting-missing" and options.config is None else 1


def _told(error: OSError) -> str:
    """What failed and why: `write` knows no path."""
    return ": ".join(str(part) for part in (error.filename, error.strerror) if part) or str(error)


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
        told = {"renewal": f"not due until {enrollment.renew_at.isoformat()}"}
        return told | _result(pledge, Outcome("operational", enrollment=enrollment), timeline)
    outcome = _run(lambda: pledge.renew(rekey=not options.same_key), options.timeout)
    told = {"renewal": "done"} if outcome.is_operational else {}
    return told | _result(pledge, outcome, timeline)


def _status(options: argparse.Namespace) -> dict[str, Any]:
    folder = Folder(_state(options))
    enrollment = folder.load()
    if enrollment is None and not folder.path.exists():
        # A wrong path must not pass for a device that nobody onboarded.
        raise Misconfigured("state-missing", f"{folder.path}: there is no such folder")
    if enrollment is None:
        return {"state": "factory"}
    return {"state": "operational", **_describe(enrollment), **_exposed(folder.path / IDENTITY)}


def _exposed(identity: Path) -> dict[str, Any]:
    """A warning if others than its owner get at the key."""
    mode = stat.S_IMODE(identity.stat().st_mode)
    if not mode & 0o077:
        return {}
    return {"warning": f"others than its owner may use the key (mode {mode:04o}): `chmod 600 {identity}`"}


def _reset(options: argparse.Namespace) -> dict[str, Any]:
    folder = Folder(_state(options))
    if not folder.path.exists():
        raise Misconfigured("state-missing", f"{folder.path}: there is no such folder, so nothing was erased")
    strangers = [] if options.force else [str(path) for path in folder.strangers()]
    if strangers:
        raise Misconfigured("state-unknown", f"nothing tells that a pledge wrote {', '.join(strangers)}")
    # A folder that is not the device's own must not pass for a device that was reset.
    told = {"reset": "there was nothing to erase"} if folder.is_bare else {}
    folder.reset()
    return {"state": "factory"} | told


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
        task, stopped = asyncio.current_task(), list[str]()
        assert task is not None

        def terminate() -> None:
            stopped.append("terminated")
            task.cancel()

        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, terminate)
        try:
            async with asyncio.timeout(timeout):
                return await work()
        except TimeoutError:
            return Outcome("failed", "timed-out", f"not operational after {timeout:g} s")
        except asyncio.CancelledError:
            return Outcome("failed", stopped[0] if stopped else "interrupted")

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
        result |= _exported(pledge)
        result |= _describe(outcome.enrollment)
    return result | {"timeline": timeline.entries}


def _exported(pledge: Pledge) -> dict[str, Any]:
    """A warning if the exports cannot be written: they decide nothing, so the device is what it is without them."""
    try:
        pledge.export()
    except OSError as error:
        return {"warning": f"not exported for other programs: {_told(error)}"}
    return {}


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
        "subject": name_of(leaf.subject),
        "ldevid-serial-number": serial,
        "issuer": name_of(leaf.issuer),
        "fingerprint": fingerprint(leaf).hex(),
        "not-after": leaf.not_valid_after_utc.isoformat(),
        "renew-at": enrollment.renew_at.isoformat(),
        "owner": common_name(enrollment.pinned),
        "registrar": f"{enrollment.host}:{enrollment.port}",
        "confirmed": enrollment.confirmed,
    }


def _show(result: dict[str, Any], *, as_json: bool) -> None:
    failed = result["state"] in FAILURES
    if as_json:
        print(json.dumps({"error": result["reason"], **result} if failed else result))
    if "warning" in result:
        print(f"brski-pledge: warning: {result['warning']}", file=sys.stderr)
    if failed:
        words = [result["reason"], result["detail"], _advice(result)]
        print("brski-pledge: " + ": ".join(word for word in words if word), file=sys.stderr)
    elif not as_json:
        for name, value in result.items():
            if name not in {"timeline", "warning"} and value not in (None, ""):
                print(f"{name:22} {value}")


def _advice(result: dict[str, Any]) -> str:
    advice = ADVICE.get(result["reason"], "")
    if advice == _REGISTRAR_LOGS and not _DECIDED.isdisjoint(result["detail"].split()):
        advice = _REGISTRAR_KNOWS
    return advice.format(serial=result.get("serial-number", "SERIAL"))


_COMMANDS: dict[str, Callable[[argparse.Namespace], dict[str, Any]]] = {
    "onboard": _onboard,
    "status": _status,
    "renew": _renew,
    "reset": _reset,
}
