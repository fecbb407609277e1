"""`brski bench`: what it measures and how it tells, on a run too small to mean anything about speed."""

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from brski_interop import floor
from brski_interop.bench import Outcome
from brski_interop.floor import COMPOSITION, ROLES, Floor
from brski_interop.floor_wire import Identity
from tests.support.world import Domain, Manufacturer, fresh

SECONDS = 120.0
COMMAND = [sys.executable, "-m", "brski_interop", "bench"]

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="reads other processes' clocks as Linux has them")


def bench(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=SECONDS)


def outcome(latencies: list[float], failures: tuple[str, ...] = ()) -> Outcome:
    cost = dict.fromkeys({part for parts in COMPOSITION.values() for part in parts}, 10.0)
    return Outcome(
        onboardings=len(latencies),
        concurrency=2,
        wall=0.5,
        latencies=latencies,
        failures=failures,
        cpu=dict.fromkeys(ROLES, 0.002),
        rss_mib={"registrar": 50.04, "masa": 60.06},
        floor=Floor(cost),
    )


@linux_only
def test_a_small_bench_prints_what_the_contract_says() -> None:
    done = bench("--onboardings", "4", "--concurrency", "2", "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert (told["onboardings"], told["concurrency"], told["failed"]) == (4, 2, 0)
    assert told["latency_ms"].keys() == {"p50", "p95", "p99"}
    assert told["latency_ms"]["p50"] <= told["latency_ms"]["p95"] <= told["latency_ms"]["p99"]
    for name in ("cpu_us", "floor_us", "ratio"):
        assert told[name].keys() == set(ROLES)
        assert all(value > 0 for value in told[name].values())
    assert told["rss_mib"].keys() == {"registrar", "masa"}
    assert told["versions"].keys() == {"python", "openssl"}


@linux_only
def test_people_get_a_table_with_the_floor() -> None:
    done = bench("--onboardings", "1", "--concurrency", "1", "--floor")
    assert done.returncode == 0, done.stderr
    assert "handshake-server" in done.stdout
    assert "per second" in done.stdout


@linux_only
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 1), (signal.SIGINT, 130)])
def test_a_bench_that_is_stopped_leaves_nothing(number: signal.Signals, code: int, tmp_path: Path) -> None:
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    process = subprocess.Popen([*COMMAND, "--onboardings", "100000"], env=environment, stderr=subprocess.PIPE)
    while not list(tmp_path.glob("brski-bench-*/logs/masa.log")):
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.05)
    process.send_signal(number)
    assert process.wait(SECONDS) == code
    assert process.stderr is not None
    assert b"interrupted" in process.stderr.read()
    process.stderr.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [("--onboardings", "0"), ("--concurrency", "many")])
def test_wrong_usage_is_exit_code_2(arguments: tuple[str, ...]) -> None:
    assert bench(*arguments).returncode == 2


def test_figures_are_per_onboarding_and_percentiles_in_milliseconds() -> None:
    told = outcome([0.010, 0.020, 0.030, 0.040]).as_json()
    assert told["per_second"] == 8.0
    assert told["latency_ms"]["p50"] == 25.0
    assert told["cpu_us"]["registrar"] == 500
    assert told["ratio"]["masa"] == round(500 / told["floor_us"]["masa"], 2)
    assert told["rss_mib"] == {"registrar": 50.0, "masa": 60.1}


def test_one_onboarding_has_percentiles_too() -> None:
    assert outcome([0.010]).as_json()["latency_ms"] == {"p50": 10.0, "p95": 10.0, "p99": 10.0}


def test_failures_are_counted() -> None:
    assert outcome([0.01, 0.02], ("peer-timeout: slow",)).as_json()["failed"] == 1


def test_the_floor_measures_every_part_that_a_role_is_made_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(floor, "ROUNDS", 10)
    idevid, registrar = Manufacturer().idevid(fresh()), Domain().registrar
    pledge = Identity.of(idevid.key, idevid.chain)
    measured = floor.measure(pledge, Identity.of(registrar.key, registrar.chain), tmp_path, group=2)
    assert measured.parts.keys() == {part for parts in COMPOSITION.values() for part in parts}
    assert all(cost > 0 for cost in measured.parts.values())
    assert measured.of("registrar") > measured.of("masa")
