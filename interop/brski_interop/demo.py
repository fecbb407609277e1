"""The demo: a MASA, a registrar, a join proxy and some pledges, each a process of its own, on loopback.

Only order lives here: `staging` makes what they need, `processes` keeps them on a leash, `demo_view` shows them.

    found maker and plant ▸ MASA ▸ IDevIDs with its port in them ▸ registrar ▸ join proxy ▸ pledges

Ports are ephemeral, and nothing is written outside the folder, so demos do not disturb each other. On loopback they
hear each other's announcements all the same: a join proxy takes only the registrar with this demo's instance name, and
a pledge that meets a proxy of another demo is refused there and tries the next.
"""

import json
import secrets
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from brski_interop.demo_report import Journey, Report, Step
from brski_interop.demo_view import View
from brski_interop.processes import Child, Crew, Event, together
from brski_interop.staging import HOST, PLANT, Device, Stage

PLEDGE_SECONDS: Final = 60.0  # after which a pledge that found nobody gives up
SERVICE_LOGS: Final = {"BRSKI_MASA_LOG__JSON_LINES": "true", "BRSKI_REGISTRAR_LOG__JSON_LINES": "true"}

PLEDGE_SETTINGS: Final = """\
# A device of the demo. `brski-pledge onboard --config` this file.
state = "state"
certificate = "chain.pem"
key = "key.pem"
voucher_anchors = {anchors}
trusted_clock = true
mdns_interfaces = ["{host}"]
# Other demos on this machine are heard too: do not wait long for a proxy that leads to one of those.
attempt_spacing = 0.2
once = false
"""


@dataclass(frozen=True, slots=True)
class Services:
    """What listens."""

    masa_url: str
    registrar_url: str
    proxy: str  # host:port


async def start_services(
    crew: Crew, stage: Stage, good: int, view: View, *, others: bool = False
) -> tuple[Services, tuple[Device, ...]]:
    """Found everything, start what serves, make the devices; raises PeerFailed, Misconfigured."""
    view.doing("makes keys, certificates and settings of a maker and a plant")
    await stage.found(interfaces=(HOST,))
    view.doing("starts MASA, registrar and join proxy")
    name = f"{PLANT} {secrets.token_hex(4)}"
    # None of them needs another one to start; at the same time they are there seconds earlier.
    masa, registrar, proxy = await together(
        (_start_masa(crew, stage, view), _start_registrar(crew, stage, view, name), _start_proxy(crew, view, name))
    )
    view.doing("makes the devices")
    devices = await stage.make_devices(masa, good, others=others)
    for device in devices:
        write_pledge_settings(stage, device)
    return Services(f"https://{masa}", f"https://{registrar}", proxy), devices


async def _start_masa(crew: Crew, stage: Stage, view: View) -> str:
    url = await _serve(crew, "masa", "brski_masa", "serve", "--config", str(stage.masa / "masa.toml"))
    view.service("MASA", url)
    return urlsplit(url).netloc


async def _start_registrar(crew: Crew, stage: Stage, view: View, name: str) -> str:
    arguments = ("serve", "--config", str(stage.registrar / "registrar.toml"))
    url = await _serve(crew, "registrar", "brski_registrar", *arguments, BRSKI_REGISTRAR_DISCOVERY__NAME=name)
    view.service("registrar", url)
    return urlsplit(url).netloc


async def _start_proxy(crew: Crew, view: View, registrar_name: str) -> str:
    at = ("--listen", f"{HOST}:0", "--any-address", "--announce", HOST, "--name", f"{registrar_name} proxy")
    upstream = ("--registrar", f"mdns:{registrar_name}", "--registrar-interface", HOST)
    child = await crew.start("join-proxy", "brski_registrar", "join-proxy", *at, *upstream, "--json", attentive=False)
    event = await child.listening()
    place = f"{event['host']}:{event['port']}"
    view.service("join proxy", place)
    return place


async def _serve(crew: Crew, log: str, module: str, *arguments: str, **settings: str) -> str:
    child = await crew.start(log, module, *arguments, "--json", attentive=False, settings=SERVICE_LOGS | settings)
    url: str = (await child.listening())["url"]
    return url


async def onboard(crew: Crew, devices: Iterable[Device], journeys: Iterable[Journey], view: View) -> None:
    """Onboard all devices at the same time; how each ended is in its journey."""
    pairs = zip(devices, journeys, strict=True)
    await together(_onboard(crew, device, journey, view) for device, journey in pairs)


async def _onboard(crew: Crew, device: Device, journey: Journey, view: View) -> None:
    arguments = ("onboard", "--config", str(device.folder / "pledge.toml"), "--timeout", str(PLEDGE_SECONDS), "--json")
    started = time.monotonic()
    child = await crew.start(f"pledge-{device.serial}", "brski_pledge", *arguments)
    result: Event = {}
    async for event in child.events():
        if "step" in event:
            journey.steps.append(step_of(event))
            view.step(journey, journey.steps[-1])
        elif "state" in event:
            result = event
    await child.ended()
    journey.seconds = time.monotonic() - started
    _conclude(journey, result, child)
    view.ended(journey)


def step_of(event: Event) -> Step:
    """An event of `brski-pledge onboard --json` as a step; what was checked stands in its detail, after the rest."""
    detail, _, checked = str(event.get("detail", "")).partition("; checked ")
    checks = tuple(checked.split(", ")) if checked else ()
    return Step(float(event["at"]), str(event["step"]), detail, checks)


def _conclude(journey: Journey, result: Event, child: Child) -> None:
    """How it ended: refused, if the last attempt ended with a 4xx; failed for anything else that is not good."""
    if result.get("state") == "operational":
        journey.state, journey.ldevid = "operational", Path(result["ldevid"])
        return
    reason, detail = result.get("reason") or "pledge-ended", result.get("detail") or child.last_words()
    refusals = [step.detail for step in journey.steps if step.step == "attempt-failed"]
    if refusals and reason in {"timed-out", "all-failed"}:
        _, reason, detail = (*refusals[-1].split(": ", 2), "", "")[:3]
    journey.state = "refused" if "HTTP 4" in detail else "failed"
    journey.reason, journey.detail = reason, detail


def write_pledge_settings(stage: Stage, device: Device) -> None:
    """Write the device's pledge.toml."""
    anchors = json.dumps(str(stage.anchors["masa_voucher"]))
    text = PLEDGE_SETTINGS.format(anchors=anchors, host=HOST)
    (device.folder / "pledge.toml").write_text(text, encoding="utf-8")


async def run(folder: Path, pledges: int, view: View, journeys: list[Journey]) -> Report:
    """One whole demo in `folder`; `journeys` gets a journey per pledge as soon as its serial number is known."""
    stage = Stage(folder)
    started = time.monotonic()
    (stage.logs).mkdir(parents=True, exist_ok=True)
    async with Crew(stage.logs) as crew:
        _, devices = await start_services(crew, stage, pledges, view)
        journeys += [Journey(device.serial) for device in devices]
        await onboard(crew, devices, journeys, view)
    return Report(journeys, time.monotonic() - started)


def document(stage: Stage, services: Services, devices: Iterable[Device]) -> dict[str, Any]:
    """What demo.json says; all paths are absolute."""
    keys, certificates = stage.registrar / "keys", stage.registrar / "certificates"
    proxy = urlsplit(f"//{services.proxy}")
    return {
        "registrar": {"url": services.registrar_url},
        "masa": {"url": services.masa_url},
        "join_proxy": {"host": proxy.hostname, "port": proxy.port},
        "anchors": {name: str(path) for name, path in stage.anchors.items()},
        "registrar_credential": {
            "cert": str(certificates / "registrar.pem"),
            "key": str(keys / "registrar.key"),
            "chain": str(certificates / "registrar.pem"),
        },
        "pledges": [
            {
                "serial": device.serial,
                "cert": str(device.certificate),
                "key": str(device.key),
                "chain": str(device.chain),
                "role": device.role,
            }
            for device in devices
        ],
    }
