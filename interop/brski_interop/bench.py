"""The bench: whole onboardings against running services, and the floor of the same work, measured in one run.

Laws of this file:

1. Registrar, MASA and pledges are separate processes on loopback with durable SQLite, set up as `init` leaves them. The
   registrar's address is configured and there is no join proxy: discovery is waiting, not work.
2. Processor time is read from each process's own clock right before and right after the measured onboardings, so
   starting, loading and warming up are not in it.
3. The floor (`floor`) is measured in the same run, with the same keys and certificates, while the services are idle.
"""

import json
import platform
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography.hazmat.backends.openssl import backend

from brski_common.errors import Misconfigured, PeerFailed
from brski_interop import floor
from brski_interop.floor import ROLES, Floor, Role
from brski_interop.floor_wire import Identity
from brski_interop.processes import Child, Crew, cpu_seconds, resident_mib
from brski_interop.staging import Device, Stage

WARM_UP: Final = 20  # onboardings before the measured ones: connections open, caches fill


@dataclass(frozen=True, slots=True)
class Outcome:
    """What was measured; times in seconds."""

    onboardings: int
    concurrency: int
    wall: float
    latencies: Sequence[float]
    failures: Sequence[str]
    cpu: Mapping[Role, float]
    rss_mib: Mapping[str, float]
    floor: Floor

    def cpu_us(self, role: Role) -> float:
        """Processor microseconds of a role for one onboarding."""
        return self.cpu[role] / self.onboardings * 1e6

    def ratio(self, role: Role) -> float:
        """How many times the floor that is."""
        return self.cpu_us(role) / self.floor.of(role)

    def percentile(self, percent: int) -> float:
        """Milliseconds within which so many of a hundred onboardings were done."""
        values = self.latencies if len(self.latencies) > 1 else [*self.latencies, *self.latencies]
        return quantiles(values, n=100, method="inclusive")[percent - 1] * 1000

    def as_json(self) -> dict[str, Any]:
        """As the contract has it."""
        return {
            "onboardings": self.onboardings,
            "concurrency": self.concurrency,
            "failed": len(self.failures),
            "per_second": round(self.onboardings / self.wall, 1),
            "latency_ms": {f"p{percent}": round(self.percentile(percent), 2) for percent in (50, 95, 99)},
            "cpu_us": {role: round(self.cpu_us(role)) for role in ROLES},
            "floor_us": {role: round(self.floor.of(role)) for role in ROLES},
            "ratio": {role: round(self.ratio(role), 2) for role in ROLES},
            "rss_mib": {role: round(size, 1) for role, size in self.rss_mib.items()},
            "versions": {"python": platform.python_version(), "openssl": backend.openssl_version_text()},
        }


async def run(onboardings: int, concurrency: int) -> Outcome:
    """Run the bench; raises PeerFailed if a service does not start or an onboarding does not end."""
    if sys.platform != "linux":
        raise Misconfigured("platform-unsupported", "the bench reads processes' clocks as Linux has them")
    with tempfile.TemporaryDirectory(prefix="brski-bench-") as folder:
        stage = Stage(Path(folder))
        await stage.found()
        async with Crew(stage.logs) as crew:
            return await _run(crew, stage, onboardings, concurrency)


async def _run(crew: Crew, stage: Stage, onboardings: int, concurrency: int) -> Outcome:
    masa, masa_url = await _serve(crew, "masa", "brski_masa", stage.masa / "masa.toml")
    devices = await stage.make_devices(urlsplit(masa_url).netloc, onboardings + WARM_UP)
    registrar, url = await _serve(crew, "registrar", "brski_registrar", stage.registrar / "registrar.toml")
    plan = _write_plan(stage, devices, url, concurrency)
    pledges = await crew.start("pledges", "brski_interop.bench_pledges", str(plan), attentive=False)
    await pledges.listening()
    children: dict[Role, Child] = {"registrar": registrar, "masa": masa, "pledge": pledges}
    _check(await _measure(pledges, 0, WARM_UP))
    before = {role: cpu_seconds(child.pid) for role, child in children.items()}
    measured = await _measure(pledges, WARM_UP, WARM_UP + onboardings)
    return Outcome(
        onboardings=onboardings,
        concurrency=concurrency,
        wall=measured["wall"],
        latencies=measured["latencies"],
        failures=measured["failures"],
        cpu={role: cpu_seconds(child.pid) - before[role] for role, child in children.items()},
        rss_mib={"registrar": resident_mib(registrar.pid), "masa": resident_mib(masa.pid)},
        floor=_floor(stage, devices[0], concurrency),
    )


async def _serve(crew: Crew, name: str, module: str, config: Path) -> tuple[Child, str]:
    child = await crew.start(name, module, "serve", "--config", str(config), "--json", attentive=False)
    return child, (await child.listening())["url"]


async def _measure(pledges: Child, first: int, last: int) -> Mapping[str, Any]:
    stdin = pledges.process.stdin
    assert stdin is not None
    stdin.write(f"[{first}, {last}]\n".encode())
    await stdin.drain()
    async for event in pledges.events():
        if event.get("event") == "measured":
            return event
    raise PeerFailed("bench-failed", f"the pledges ended; {pledges.last_words()}")


def _check(warm_up: Mapping[str, Any]) -> None:
    if warm_up["failures"]:
        raise PeerFailed("bench-failed", f"an onboarding failed: {warm_up['failures'][0]}")


def _write_plan(stage: Stage, devices: Sequence[Device], registrar_url: str, concurrency: int) -> Path:
    plan = {
        "registrar": urlsplit(registrar_url).netloc,
        "anchors": str(stage.anchors["masa_voucher"]),
        "devices": [str(device.folder) for device in devices],
        "concurrency": concurrency,
    }
    path = stage.folder / "plan.json"
    path.write_text(json.dumps(plan), encoding="utf-8")
    return path


def _floor(stage: Stage, device: Device, concurrency: int) -> Floor:
    registrar = Identity.read(
        stage.registrar / "keys" / "registrar.key", stage.registrar / "certificates" / "registrar.pem"
    )
    return floor.measure(Identity.read(device.key, device.chain), registrar, stage.folder, group=concurrency)
