"""The pledges of the bench: one process that onboards many devices, so many at a time.

    python -m brski_interop.bench_pledges PLAN.json

It reads the plan (devices, anchors, registrar, concurrency), says {"event": "listening"}, and for every line on
standard input that names a range of devices, onboards them and answers with one line. Loading IDevIDs comes before,
so what is measured is what a device does after it has booted. Each has its own folder with durable state, all on one
disk, which is known to be quick or slow from the second save on.
"""

import asyncio
import json
import resource
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from brski_common import keys
from brski_common.paths import Anchors
from brski_pledge import Pledge, PledgeSettings
from brski_pledge.disk import Disk
from brski_pledge.state import Folder


@dataclass(frozen=True, slots=True)
class Result:
    """How one onboarding went; times in seconds."""

    seconds: float
    reason: str | None


def _now() -> datetime:
    return datetime.now(UTC)


def load(plan: dict[str, Any]) -> list[Pledge]:
    """The pledges of a plan, ready to onboard at the registrar it names, without any discovery."""
    settings = PledgeSettings(mdns=False, registrars=(plan["registrar"],), configured_after=0.0, once=True)
    anchors = Anchors(keys.read_certificates(Path(plan["anchors"])))
    disk = Disk()
    return [_pledge(Path(folder), settings, anchors, disk) for folder in plan["devices"]]


def _pledge(folder: Path, settings: PledgeSettings, anchors: Anchors, disk: Disk) -> Pledge:
    credential = keys.load_credential(str(folder / "key.pem"), folder / "chain.pem")
    return Pledge(settings, credential, anchors, state=Folder(folder / "state", disk), clock=_now)


async def onboard(pledges: Sequence[Pledge], concurrency: int) -> list[Result]:
    """Onboard all, `concurrency` at a time."""
    waiting, results = iter(pledges), list[Result]()

    async def work() -> None:
        for pledge in waiting:
            started = time.perf_counter()
            outcome = await pledge.onboard()
            reason = None if outcome.is_operational else f"{outcome.reason}: {outcome.detail}"
            if outcome.enrollment is not None and not outcome.enrollment.confirmed:
                reason = "not-confirmed"
            results.append(Result(time.perf_counter() - started, reason))

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())
    return results


def measure(pledges: Sequence[Pledge], concurrency: int) -> dict[str, Any]:
    """Onboard all and tell the latencies, the elapsed and the processor seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    results = asyncio.run(onboard(pledges, concurrency))
    return {
        "event": "measured",
        "wall": time.perf_counter() - wall,
        "cpu": time.process_time() - cpu,
        "latencies": [result.seconds for result in results],
        "failures": [result.reason for result in results if result.reason],
        "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def main() -> None:
    """Serve one bench."""
    plan = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    pledges = load(plan)
    print(json.dumps({"event": "listening"}), flush=True)
    for line in sys.stdin:
        first, last = json.loads(line)
        print(json.dumps(measure(pledges[first:last], plan["concurrency"])), flush=True)


if __name__ == "__main__":
    main()
