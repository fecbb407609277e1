"""The command line: whole programs from init to SIGTERM, and every verb on a real database."""

import asyncio
import json
import shlex
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
from typer.testing import CliRunner, Result

from brski_common import est
from brski_common.certificates import load_pem, to_pem
from brski_registrar.commands.application import app
from brski_registrar.lifecycle import State
from brski_registrar.policy import Admit, Approval
from tests.support.plant import Plant, reason_of
from tests.support.world import Manufacturer

COMMAND = [sys.executable, "-m", "brski_registrar"]
MAKER = Manufacturer()


def run(*arguments: str | Path, code: int = 0) -> Result:
    result = CliRunner().invoke(app, [str(each) for each in arguments], prog_name="brski-registrar")
    assert result.exit_code == code, result.output
    return result


def answer(*arguments: str | Path, code: int = 0) -> Any:  # noqa: ANN401 -- whatever the command says
    return json.loads(run(*arguments, "--json", code=code).stdout)


@pytest.fixture
def config(tmp_path: Path) -> Path:
    run("init", tmp_path / "plant", "--port", "0")
    return tmp_path / "plant/registrar.toml"


@pytest.fixture
def anchors(tmp_path: Path) -> Path:
    file = tmp_path / "maker.pem"
    file.write_bytes(to_pem(MAKER.root.certificate))
    return file


@contextmanager
def started(*arguments: str | Path) -> Iterator[tuple["subprocess.Popen[str]", dict[str, Any]]]:
    """A program that listens, and what it said about that."""
    command = [*COMMAND, *map(str, arguments), "--json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.stderr and process.stderr.read()
            yield process, json.loads(line)
        finally:
            process.kill()


# Programs


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_from_init_to_serve_to_a_clean_end(config: Path, number: signal.Signals) -> None:
    trusting = ssl.create_default_context(cafile=str(config.parent / "anchors/domain-ca.pem"))
    with started("serve", "--config", config) as (process, event):
        assert event["event"] == "listening"
        with urlopen(f"{event['url']}/.well-known/est/cacerts", context=trusting) as response:
            certificates = est.parse_certs_only(est.decode_body(response.read()))
        assert load_pem((config.parent / "anchors/domain-ca.pem").read_bytes())[0] in certificates
        process.send_signal(number)
        assert process.wait(10) == 0
        assert process.stdout is not None
        assert process.stdout.read() == ""
    assert (config.parent / "registrar.sqlite").exists()


@pytest.mark.req("PX-05")
def test_a_join_proxy_needs_neither_settings_nor_keys_of_its_own(config: Path) -> None:
    trusting = ssl.create_default_context(cafile=str(config.parent / "anchors/domain-ca.pem"))
    with started("serve", "--config", config) as (_, registrar):
        where = registrar["url"].removeprefix("https://")
        with started("join-proxy", "--listen", "127.0.0.1:0", "--any-address", "--registrar", where) as (proxy, event):
            url = f"https://{event['host']}:{event['port']}/.well-known/est/cacerts"
            with urlopen(url, context=trusting) as response:
                assert response.status == 200
            proxy.send_signal(signal.SIGTERM)
            assert proxy.wait(10) == 0


@pytest.mark.xdist_group("mdns")
@pytest.mark.req("DS-12")
def test_a_join_proxy_finds_its_registrar_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BRSKI_REGISTRAR_DISCOVERY__NAME", f"Plant of {tmp_path.name}")
    run("init", tmp_path / "plant", "--port", "0", "--interface", "127.0.0.1")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "plant/anchors/domain-ca.pem"))
    find = ("--registrar", f"mdns:Plant of {tmp_path.name}", "--registrar-interface", "127.0.0.1")
    proxy = ("join-proxy", "--listen", "127.0.0.1:0", "--any-address")
    with started("serve", "--config", tmp_path / "plant/registrar.toml"), started(*proxy, *find) as (_, event):
        url = f"https://{event['host']}:{event['port']}/.well-known/est/cacerts"
        with urlopen(url, context=trusting) as response:
            assert response.status == 200


def test_the_program_starts_without_a_traceback_for_what_a_user_can_cause(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cases: list[tuple[list[str], int]] = [
        (["serve", "--config", str(tmp_path / "missing.toml")], 1),
        (["serve", "--config", str(tmp_path)], 1),
        (["init", str(tmp_path / "file" / "below")], 1),
        (["join-proxy", "--registrar", "r:1", "--listen", "127.0.0.1:0"], 1),
        (["serve", "--dance"], 2),
        (["dance"], 2),
    ]
    for arguments, code in cases:
        done = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == code, (arguments, done.stderr)
        assert "Traceback" not in done.stderr
        assert done.stdout == ""
        if code == 1:
            assert done.stderr.count("\n") == 1, done.stderr
            assert done.stderr.startswith("brski-registrar: ")


@pytest.mark.parametrize(("more", "out"), [([], ""), (["--json"], '{"error": "interrupted", "detail": ""}\n')])
def test_an_interruption_in_the_midst_of_an_import_is_one_line(more: list[str], out: str) -> None:
    code = """
import sys

class Interrupting:
    def find_spec(self, name, *_):
        if name == "brski_registrar.commands.application":
            raise KeyboardInterrupt

sys.meta_path.insert(0, Interrupting())
from brski_registrar.__main__ import main
main(["device", "list", *sys.argv[1:]])
"""
    done = subprocess.run([sys.executable, "-c", code, *more], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, out, "brski-registrar: interrupted\n")


def test_json_is_for_the_log_of_serve_too(config: Path) -> None:
    with started("serve", "--config", config) as (process, event):
        assert set(event) == {"event", "url"}
        process.send_signal(signal.SIGTERM)
        assert process.stderr is not None
        told = [json.loads(line) for line in process.stderr.read().splitlines()]
    assert ("listening", event["url"]) in [(line["event"], line.get("url")) for line in told]


def test_serving_is_ready_quickly_and_small(config: Path) -> None:
    began = time.monotonic()
    with started("serve", "--config", config) as (process, _):
        status = Path(f"/proc/{process.pid}/status")
        if not status.exists():
            pytest.skip("no /proc on this system")
        resident = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS"))
        assert int(resident.split()[1]) < 85 * 1024, resident
    assert time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--registrar", "nowhere", "--listen", "127.0.0.1:0"], "endpoint-invalid"),
        (["--registrar", "r:1"], "listen-missing"),
        (["--registrar", "mdns", "--listen", "[fe80::1%lo]:0"], "registrar-missing"),
        (["--registrar", "r:1", "--listen", "127.0.0.1:0"], "address-not-link-local"),
        (["--registrar", "r:1", "--interface", "nope0"], "interface-unknown"),
        (["--registrar", "r:1", "--interface", "127.0.0.1"], "interface-unusable"),
        (["--registrar", "r:1", "--interface", "lo", "--log-level", "loud"], "log-level-unknown"),
    ],
)
def test_a_join_proxy_that_cannot_work_says_why(options: list[str], reason: str) -> None:
    assert answer("join-proxy", *options, code=1)["error"] == reason


# init


def test_init_says_what_it_made_and_refuses_to_do_it_twice(tmp_path: Path) -> None:
    value = answer("init", tmp_path / "plant", "--host", "registrar.example", "--key", "Ed25519")
    assert value["config"] == str(tmp_path / "plant/registrar.toml")
    assert Path(value["domain_ca"]).exists()
    assert answer("init", tmp_path / "plant", code=1)["error"] == "already-there"
    assert answer("init", tmp_path / "other", "--key", "P-257", code=1)["error"] == "key-kind-unknown"


@pytest.mark.parametrize("interface", ["eth7", "no such thing"])
def test_init_refuses_an_interface_that_is_not_there_and_makes_nothing(tmp_path: Path, interface: str) -> None:
    refused = answer("init", tmp_path / "plant", "--interface", interface, code=1)
    assert refused["error"] == "interface-unknown"
    assert "there are" in refused["detail"]
    assert not (tmp_path / "plant").exists()


def test_the_next_steps_that_init_names_work_as_they_stand(
    tmp_path: Path, anchors: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    told = run("init", tmp_path / "my plant", "--port", "0").stdout
    assert str(tmp_path / "my plant/anchors/domain-ca.pem") in told
    for name in ("manufacturer.pem", "tls.pem"):
        (tmp_path / name).write_bytes(anchors.read_bytes())
    admitting, serving = [
        shlex.split(line)[1:] for line in told.splitlines() if line.strip().startswith("brski-registrar")
    ]
    assert answer(*admitting)["missing"] == []
    with started(*serving) as (_, event):
        assert event["event"] == "listening"


@pytest.mark.parametrize("how", ["GRASP", "MDNS", "PROXY"])
def test_announcing_without_an_interface_is_refused(config: Path, monkeypatch: pytest.MonkeyPatch, how: str) -> None:
    for name in {"MDNS", how} if how == "PROXY" else {how}:
        monkeypatch.setenv(f"BRSKI_REGISTRAR_DISCOVERY__{name}", "true")
    command = [*COMMAND, "serve", "--config", str(config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("brski-registrar: interfaces-missing: discovery.interfaces")


# policy


def test_a_manufacturer_whose_masa_cannot_be_reached_yet_is_admitted_with_a_warning(
    config: Path, anchors: Path
) -> None:
    at = ("policy", "allow", "Example Maker", "--config", config)
    result = run(*at, "--idevid-anchors", anchors)
    assert result.stderr.count("\n") == 1
    assert "--masa-tls-anchors and --masa-host" in result.stderr
    assert answer(*at, "--masa-tls-anchors", anchors)["missing"] == ["--masa-host"]
    assert answer(*at, "--masa-url", "https://masa.example")["missing"] == []
    assert run(*at, "--serial", "SN-1").stderr == ""


def test_a_manufacturer_comes_changes_and_goes(config: Path, anchors: Path) -> None:
    at = ("--config", config)
    made = answer(
        *("policy", "allow", "Example Maker", *at, "--idevid-anchors", anchors, "--masa-tls-anchors", anchors),
        *("--masa-host", "masa.example:9443", "--masa-host", "*.spare.example", "--serial", "SN-1", "--serial", "SN-2"),
    )
    assert made["admit"] == "listed"
    assert made["added"] == 2
    changed = answer("policy", "allow", "Example Maker", *at, "--admit", "ask", "--known-domain", "AB:cd")
    assert changed["admit"] == "ask"
    assert changed["known_domains"] == ["abcd"]
    assert changed["masa_hosts"] == ["masa.example:9443", "*.spare.example"]
    shown = answer("policy", "show", "Example Maker", *at)
    assert [each["serial_number"] for each in shown["allow_list"]] == ["SN-1", "SN-2"]
    assert "Example Maker Root CA" in shown["idevid_anchors"][0]
    (listed,) = answer("policy", "list", *at)["manufacturers"]
    assert (listed["name"], listed["listed"]) == ("Example Maker", 2)
    assert "Example Maker" in run("policy", "list", *at).stdout
    run("policy", "deny", "Example Maker", "--serial", "SN-1", *at)
    assert answer("policy", "deny", "Example Maker", "--serial", "SN-1", *at, code=1)["error"] == "device-not-listed"
    run("policy", "remove", "Example Maker", *at)
    assert answer("policy", "remove", "Example Maker", *at, code=1)["error"] == "manufacturer-unknown"
    assert answer("policy", "list", *at)["manufacturers"] == []


def test_anchors_that_are_replaced_are_told(config: Path, anchors: Path, tmp_path: Path) -> None:
    at = ("policy", "allow", "Example Maker", "--config", config)
    other = tmp_path / "other.pem"
    other.write_bytes(to_pem(Manufacturer(name="Other").root.certificate))
    assert answer(*at, "--idevid-anchors", anchors)["replaced"] == {}
    assert answer(*at, "--idevid-anchors", anchors, "--masa-tls-anchors", anchors)["replaced"] == {}
    assert answer(*at, "--admit", "all")["replaced"] == {}
    told = run(*at, "--idevid-anchors", other).stdout.splitlines()
    assert told[1:] == ["idevid_anchors replaced, no longer trusted: CN=Example Maker Root CA,O=Example Maker"]
    replaced = answer(*at, "--idevid-anchors", anchors, "--masa-tls-anchors", other)["replaced"]
    assert replaced == {
        "idevid_anchors": ["CN=Other Root CA,O=Other"],
        "masa_tls_anchors": ["CN=Example Maker Root CA,O=Example Maker"],
    }
    both = tmp_path / "both.pem"
    both.write_bytes(anchors.read_bytes() + other.read_bytes())
    assert answer(*at, "--idevid-anchors", both)["replaced"] == {}, "one more"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("masa.example", "masa.example"),
        ("MASA.example.:9443", "MASA.example.:9443"),
        ("*.maker.example:*", "*.maker.example:*"),
        ("127.0.0.1:9443", "127.0.0.1:9443"),
        ("[2001:db8::1]:9443", "[2001:db8::1]:9443"),
        ("https://127.0.0.1:9443/", "127.0.0.1:9443"),
        ("https://masa.example", "masa.example"),
    ],
)
def test_the_host_of_a_masa_is_taken(config: Path, anchors: Path, text: str, kept: str) -> None:
    at = ("policy", "allow", "Example Maker", "--config", config, "--idevid-anchors", anchors)
    assert answer(*at, "--masa-host", text)["masa_hosts"] == [kept]


def test_what_is_no_host_of_a_masa_is_refused(config: Path, anchors: Path) -> None:
    at = ("policy", "allow", "Example Maker", "--config", config, "--idevid-anchors", anchors)
    wrong = ("", "not a host", "https://masa.example/brski", "http://masa.example", "masa.example/", "masa.example:")
    ports = ("masa.example:0", "masa.example:65536", "masa.example:https", "::1", "[::1", "[1.2]", "a..b", "*", "a,b")
    for text in (*wrong, *ports, "user@masa.example", "m\n", "\u017f.example"):
        refused = answer(*at, "--masa-host", "masa.example", "--masa-host", text, code=1)
        assert refused["error"] == "policy-malformed", text
        assert refused["detail"].startswith(f"--masa-host {text!a}: HOST or HOST:PORT is wanted")
    assert answer("policy", "list", "--config", config)["manufacturers"] == []


@pytest.mark.req("AL-13", "AL-15", "AL-16")
def test_the_operator_says_how_audit_logs_are_judged(config: Path, anchors: Path) -> None:
    at = ("policy", "allow", "Example Maker", "--config", config)
    first = answer(*at, "--idevid-anchors", anchors)
    assert first["audit"]["before_purchase"] == "refuse"
    assert first["unsafe_ignore_history"] is False
    changed = answer(
        *at, "--audit", "before-purchase=note", "--audit", "newer_format=refuse", "--unsafe-ignore-history"
    )
    assert (changed["audit"]["before_purchase"], changed["audit"]["newer_format"]) == ("note", "refuse")
    assert changed["audit"]["unexpected_domain"] == "refuse"
    assert changed["unsafe_ignore_history"] is True
    for wrong in ("before_purchase", "before_purchase=maybe", "assertions=note", "=note"):
        assert answer(*at, "--audit", wrong, code=1)["error"] == "policy-malformed"
    assert "audit before_purchase" in run("policy", "show", "Example Maker", "--config", config).stdout


def test_a_new_manufacturer_needs_anchors(config: Path, tmp_path: Path) -> None:
    at = ("--config", config)
    result = run("policy", "allow", "Nobody", *at, code=1)
    assert "--idevid-anchors" in result.stderr
    garbage = tmp_path / "garbage.pem"
    garbage.write_text("no certificate")
    result = run("policy", "allow", "Nobody", *at, "--idevid-anchors", garbage, code=1)
    assert str(garbage) in result.stderr
    run("policy", "allow", "Nobody", *at, "--admit", "everybody", code=2)


def test_a_database_that_is_gone_is_missed_and_not_made_anew(config: Path) -> None:
    database = config.parent / "registrar.sqlite"
    database.unlink()
    told = answer("device", "list", "--config", config, code=1)
    assert (told["error"], str(database) in told["detail"]) == ("database-missing", True)
    assert not database.exists()


@pytest.mark.req("RA-07")
@pytest.mark.parametrize(
    "text",
    [
        "SN-1\nSN-2\n",
        "SN-1,2026-10-01,pump\nSN-2,2026-10-01T10:00:00Z\n",
        "\ufeffSerial Number,purchased-on,note\nSN-1,2026-10-01,pump\n\nSN-2\n",
        "note,serial_number,price\npump,SN-1,10\nvalve,SN-2,20\n",
        "serial_number;note;purchased_on\nSN-1;pump, small;2026-10-01\nSN-2;;\n",
        "SN-1\t2026-10-01\tpump\nSN-2\n",
        '"SN-1";2026-10-01\n"SN-2";2026-10-01\n',
    ],
)
def test_an_allow_list_comes_from_purchasing(config: Path, anchors: Path, tmp_path: Path, text: str) -> None:
    bought = tmp_path / "bought.csv"
    bought.write_text(text, encoding="utf-8")
    at = ("--config", config)
    made = answer("policy", "allow", "Example Maker", *at, "--idevid-anchors", anchors, "--serials", bought)
    assert made["added"] == 2
    listed = answer("policy", "show", "Example Maker", *at)["allow_list"]
    assert [each["serial_number"] for each in listed] == ["SN-1", "SN-2"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("SN-1\n\nSN-2,yesterday\n", "line 3"),
        ("serial_number\nSN-1\n\x00\n", "list-unreadable"),
        (f"serial_number\nSN-1\n{'x' * 65}\n", "line 3: serial-number-unusable"),
        (f"{'x' * 65}\n", "1 to 64 printable characters"),
        ("note,serial_number\n,SN-1\nvalve,\n", "line 3"),
        ("serial;date\nA;2\n", "line 1: a head line has to name serial_number"),
        ("serial\nSN-1\n", "the columns are serial_number, purchased_on, note"),
        ("SN-1;yesterday\n", "a date is written 2026-11-02"),
    ],
)
def test_a_list_with_a_mistake_adds_nothing(config: Path, anchors: Path, tmp_path: Path, text: str, told: str) -> None:
    bought = tmp_path / "bought.csv"
    bought.write_text(text)
    at = ("--config", config)
    result = run("policy", "allow", "Example Maker", *at, "--idevid-anchors", anchors, "--serials", bought, code=1)
    assert told in result.stderr
    assert answer("policy", "list", *at)["manufacturers"] == []


@pytest.mark.req("PX-06")
def test_what_holds_for_every_device_is_shown_and_set(config: Path) -> None:
    at = ("--config", config)
    assert answer("policy", "domain", *at)["sources"] == ["anywhere"]
    changed = answer("policy", "domain", *at, "--source", "fd00:10::/64", "--source", "10.0.0.0/8")
    assert changed["sources"] == ["fd00:10::/64", "10.0.0.0/8"]
    assert answer("policy", "domain", *at, "--approval", "manual")["sources"] == ["fd00:10::/64", "10.0.0.0/8"]
    assert answer("policy", "domain", *at, "--source", "")["sources"] == ["anywhere"]
    assert answer("policy", "domain", *at)["approval"] == "manual"
    assert answer("policy", "domain", *at, "--source", "10.0.0.0/40", code=1)["error"] == "policy-malformed"


# device, voucher, cert


async def invoke(*arguments: str | Path, code: int = 0) -> Any:  # noqa: ANN401 -- whatever the command says
    """In a thread: the command brings its own event loop."""
    return await asyncio.to_thread(lambda: answer(*arguments, code=code))


@pytest.fixture
def beside(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings of a registrar whose database is that of the fixture `plant`."""
    monkeypatch.setenv("BRSKI_REGISTRAR_DATABASE__URL", f"sqlite:///{tmp_path}/registrar.sqlite")
    return config


async def test_a_device_is_followed_from_request_to_certificate(plant: Plant, beside: Path) -> None:
    at = ("--config", beside)
    assert await invoke("device", "list", *at) == []
    async with plant.vouched("SN-7") as line:
        await line.enrolled()
        await line.enroll_status(success=True)
    (listed,) = await invoke("device", "list", *at)
    assert (listed["serial_number"], listed["manufacturer"]) == ("SN-7", "Example Maker")
    shown = await invoke("device", "show", "SN-7", *at)
    assert "voucher-requested" in [entry["event"] for entry in shown["journal"]]
    assert len(shown["vouchers"]) == len(shown["certificates"]) == 1
    (voucher,) = await invoke("voucher", "list", "SN-7", *at)
    assert voucher["nonce"] == line.nonce
    (certificate,) = await invoke("cert", "list", "SN-7", *at)
    pem = (await invoke("cert", "show", "SN-7", *at))["pem"]
    assert load_pem(pem.encode())[0].subject.rfc4514_string().count("SN-7")
    assert (await invoke("cert", "revoke", certificate["fingerprint"], *at))["revoked"]
    assert (await invoke("cert", "revoke", certificate["fingerprint"], *at, code=1))["error"] == "certificate-unknown"
    human = await asyncio.to_thread(lambda: run("device", "show", "SN-7", *at).stdout)
    assert "voucher-requested" in human


@pytest.mark.req("RA-02", "RA-04")
async def test_who_was_turned_away_is_shown_until_admitted_with_the_command_for_it(plant: Plant, beside: Path) -> None:
    at = ("--config", beside)
    assert await invoke("device", "knocking", *at) == []
    stranger, unlisted = Manufacturer(name="It's Another").idevid("X-1"), plant.maker.idevid("SN-12")
    for device in (stranger, unlisted, unlisted):
        async with plant.connect(device) as line:
            assert (await line.request_voucher()).status in {403, 404}
            plant.clock.advance(1)
    await plant.service.knocking.write(at_once=True)
    last, first = await invoke("device", "knocking", *at)
    assert (last["serial_number"], last["reason"], last["count"]) == ("SN-12", "device-not-allowed", 2)
    assert (first["serial_number"], first["manufacturer"]) == ("X-1", "It's Another")
    assert (first["reason"], first["is_known"], first["address"]) == ("manufacturer-unknown", False, "127.0.0.1")
    assert shlex.split(first["advice"])[3] == "It's Another"
    human = await asyncio.to_thread(lambda: run("device", "knocking", *at).stdout)
    assert last["advice"] in human
    nothing: dict[str, Any] = {"vouchers": [], "certificates": [], "journal": []}
    assert await invoke("device", "show", "SN-12", *at) == {"state": "turned-away"} | last | nothing
    shown = await asyncio.to_thread(lambda: run("device", "show", "X-1", *at).stdout)
    assert "turned-away" in shown
    assert "manufacturer-unknown" in shown
    assert f"to admit it:  {first['advice']}\n" in shown
    assert (await invoke("device", "show", "SN-99", *at, code=1))["error"] == "device-unknown"
    assert (await invoke("device", "show", "X-1", "--manufacturer", "M", *at, code=1))["error"] == "device-unknown"
    assert await invoke(*shlex.split(last["advice"])[1:])
    assert [each["serial_number"] for each in await invoke("device", "knocking", *at)] == ["X-1"]


async def test_a_stranger_with_the_name_of_an_admitted_maker_is_to_be_admitted_under_another(
    plant: Plant, beside: Path, anchors: Path
) -> None:
    at = ("--config", beside)
    async with plant.connect(Manufacturer(name=plant.maker.name, kind="P-384").idevid("X-2")) as line:
        assert reason_of(await line.request_voucher()) == "manufacturer-unknown"
    await plant.service.knocking.write(at_once=True)
    (knock,) = await invoke("device", "knocking", *at)
    assert shlex.split(knock["advice"])[3] == f"{plant.maker.name} 2"
    told = await asyncio.to_thread(lambda: run("device", "show", "X-2", *at).stdout)
    assert f"to admit it, if its maker is not the {plant.maker.name} that is admitted:  {knock['advice']}\n" in told
    await invoke("policy", "allow", f"{plant.maker.name} 2", "--idevid-anchors", anchors, *at)
    (knock,) = await invoke("device", "knocking", *at)
    assert shlex.split(knock["advice"])[3] == f"{plant.maker.name} 3"
    await invoke("policy", "allow", f"{plant.maker.name} 2", "--serial", "X-2", *at)
    assert [each["advice"] for each in await invoke("device", "knocking", *at)] == [""], "that was done"
    told = await asyncio.to_thread(lambda: run("device", "show", "X-2", *at).stdout)
    assert told.endswith("\nsee `brski-registrar device knocking`\n")


async def test_who_came_from_elsewhere_is_shown_with_the_command_that_adds_that_place(
    plant: Plant, beside: Path
) -> None:
    at = ("--config", beside)
    await plant.change_domain(sources=("192.0.2.0/24",))
    async with plant.connect(await plant.admitted("SN-13")) as line:
        assert reason_of(await line.request_voucher()) == "source-not-allowed"
        await plant.service.knocking.write(at_once=True)
        (knock,) = await invoke("device", "knocking", *at)
        told = await asyncio.to_thread(lambda: run("device", "knocking", *at).stdout)
        assert f"if a proxy of this plant is at 127.0.0.1:  {knock['advice']}\n" in told
        changed = await invoke(*shlex.split(knock["advice"])[1:])
        assert changed["sources"] == ["192.0.2.0/24", "127.0.0.1/32"]
        assert [each["advice"] for each in await invoke("device", "knocking", *at)] == [""], "that was done"
        plant.clock.advance(1)
        assert (await line.request_voucher()).status == 200


@pytest.mark.req("RA-06")
async def test_a_device_that_waits_is_approved(plant: Plant, beside: Path) -> None:
    at = ("--config", beside)
    await plant.change_maker(admit=Admit.ASK)
    async with plant.connect(plant.maker.idevid("SN-8")) as line:
        assert (await line.request_voucher(body := line.pvr())).status == 202
        assert [each["serial_number"] for each in await invoke("device", "list", "--state", "held", *at)] == ["SN-8"]
        told = await asyncio.to_thread(lambda: run("device", "approve", "SN-8", *at).stdout)
        assert told == "SN-8 will be admitted at its next try, within 30 seconds\n"
        assert (await line.request_voucher(body)).status == 200
    assert (await invoke("device", "approve", "SN-8", *at, code=1))["error"] == "nothing-to-approve"
    assert ("approved", "admitted") in await plant.told("SN-8")


@pytest.mark.req("E-14")
async def test_a_certificate_request_that_waits_is_approved(plant: Plant, beside: Path) -> None:
    await plant.change_domain(approval=Approval.MANUAL)
    async with plant.vouched("SN-9") as line:
        csr = await line.csr()
        assert (await line.enroll(csr)).status == 202
        assert (await invoke("device", "approve", "SN-9", "--config", beside))["state"] == State.CLEARED
        while (response := await line.enroll(csr)).status == 202:  # what was just written is believed for a second
            assert reason_of(response) == "waiting-for-operator"
        assert response.status == 200


async def test_a_device_in_use_that_was_blocked_is_in_use_again(plant: Plant, beside: Path) -> None:
    at = ("--config", beside)
    async with plant.vouched("SN-14") as line:
        ldevid = await line.enrolled()
    async with plant.connect(ldevid) as line:
        assert (await line.enroll_status(success=True)).status == 200
    blocked = await invoke("device", "block", "SN-14", "--reason", "stolen?", *at)
    assert (blocked["state"], blocked["reason"]) == ("blocked", "stolen?")
    assert [each["state"] for each in await invoke("device", "list", "--state", "blocked", *at)] == ["blocked"]
    assert (await invoke("device", "show", "SN-14", *at))["state"] == "blocked"
    assert (await invoke("device", "block", "SN-14", *at))["state"] == "blocked", "once more"
    assert (await invoke("device", "approve", "SN-14", *at, code=1))["detail"].startswith("SN-14 is blocked")
    assert (await invoke("device", "unblock", "SN-14", *at))["state"] == "operational"


async def test_a_device_is_blocked_and_unblocked(plant: Plant, beside: Path) -> None:
    at = ("--config", beside)
    async with plant.vouched("SN-10") as line:
        csr = await line.csr()
        blocked = await invoke("device", "block", "SN-10", "--reason", "stolen", *at)
        assert (blocked["state"], blocked["reason"]) == ("blocked", "stolen")
        assert reason_of(await line.enroll(csr)) == "device-blocked"
        assert (await invoke("device", "unblock", "SN-10", *at))["state"] == "new"
    refused = await invoke("device", "unblock", "SN-10", *at, code=1)
    assert refused == {
        "error": "event-out-of-order",
        "detail": "SN-10 is new: only a block can be taken away",
    }
    assert await invoke("device", "list", "--state", "blocked", *at) == []
    assert await invoke("device", "list", "--state", "held", *at) == []
    none = await asyncio.to_thread(lambda: run("device", "list", "--state", "held", *at).stdout)
    assert none == "no device is held\n"
    assert (await invoke("device", "show", "SN-11", *at, code=1))["error"] == "device-unknown"


async def test_a_refused_log_is_shown_beside_any_state_until_an_operator_overrules_it(
    plant: Plant, beside: Path
) -> None:
    at = ("--config", beside)

    async def said(*words: str) -> str:
        return await asyncio.to_thread(lambda: run("device", *words, *at).stdout)

    async with plant.vouched("SN-15") as line:
        await line.enrolled()
        plant.masa.remember("SN-15", b"\x66" * 20)
        await plant.service.recheck(await plant.device("SN-15"))
    assert [each["is_barred"] for each in await invoke("device", "list", *at)] == [True]
    assert "blocked; no renewal: its audit log was refused, until" in await said("block", "SN-15")
    assert (await invoke("device", "approve", "SN-15", *at, code=1))["error"] == "nothing-to-approve"
    assert await said("unblock", "SN-15") == (
        "SN-15 may ask again: it is new; no renewal: its audit log was refused, until it is accepted, or overruled by "
        "`device approve`\n"
    )
    assert "no renewal: its audit log was refused, until" in await said("show", "SN-15")
    assert "no renewal" in await said("list")
    shown = await invoke("device", "show", "SN-15", *at)
    assert (shown["state"], shown["is_barred"]) == ("new", True)
    assert await said("approve", "SN-15") == "SN-15 may renew: its audit log is overruled\n"
    assert (await invoke("device", "show", "SN-15", *at))["is_barred"] is False
    assert "no renewal" not in await said("show", "SN-15")
    assert (await invoke("device", "approve", "SN-15", *at, code=1))["error"] == "nothing-to-approve"


async def test_a_held_device_with_a_refused_log_is_admitted_first_and_overruled_by_a_second_approval(
    plant: Plant, beside: Path
) -> None:
    at = ("--config", beside)
    await plant.change_maker(admit=Admit.ASK)
    async with plant.connect(plant.maker.idevid("SN-16")) as line:
        assert (await line.request_voucher()).status == 202
    await plant.service.recheck(await plant.device("SN-16"))
    first = await asyncio.to_thread(lambda: run("device", "approve", "SN-16", *at).stdout)
    assert first.startswith("SN-16 will be admitted at its next try, within 30 seconds; no renewal")
    second = await invoke("device", "approve", "SN-16", *at)
    assert (second["state"], second["is_barred"]) == ("held", False)


def test_a_prefetch_without_a_known_maker_is_told(config: Path) -> None:
    at = ("--config", config)
    told = answer("voucher", "prefetch", "SN-1", "--manufacturer", "Nobody", *at, code=1)
    assert told["error"] == "manufacturer-unknown"
    told = answer("voucher", "prefetch", "SN-1", "--manufacturer", "Nobody", "--format", "xml", *at, code=1)
    assert told["error"] == "format-unknown"


# ca


def test_the_domains_certificates_are_shown_exported_and_renewed(config: Path, tmp_path: Path) -> None:
    at = ("--config", config)
    assert [each["role"] for each in answer("ca", "show", *at)] == ["registrar", "issuing CA", "root"]
    exported = tmp_path / "root.pem"
    run("ca", "export", "--out", exported, *at)
    assert exported.read_bytes() == (config.parent / "anchors/domain-ca.pem").read_bytes()
    assert run("ca", "export", *at).stdout.encode() == exported.read_bytes()
    before = answer("ca", "show", *at)[0]["serial"]
    assert answer("ca", "renew", *at)["serial"] != before
    assert "Issuing CA" in answer("ca", "renew", "--issuing", *at)["subject"]


@pytest.mark.req("E-09")
def test_the_root_is_changed_from_the_command_line(config: Path) -> None:
    at = ("--config", config)
    assert answer("ca", "change-root", *at, code=1)["error"] == "rollover-not-announced"
    run("ca", "next-root", *at)
    assert len(answer("ca", "show", *at)) == 6
    run("ca", "change-root", *at)
    run("ca", "retire-root", *at)
    assert len(answer("ca", "show", *at)) == 3
    with started("serve", "--config", config) as (_, event):
        assert event["event"] == "listening"


# help


@pytest.mark.parametrize("verb", ["allow", "domain"])
def test_help_cuts_no_option_at_80_columns(verb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    text = run("policy", verb, "--help").stdout
    assert "…" not in text.replace("`…`", "")
    assert {"allow": "--unsafe-opaque-vouchers", "domain": "--require-voucher-status"}[verb] in text


def test_a_state_that_is_none_is_wrong_usage(config: Path) -> None:
    told = run("device", "list", "--state", "nope", "--config", config, code=2).stderr
    assert "operational" in told


def verbs() -> list[list[str]]:
    group = ("device", "policy", "voucher", "cert", "ca")
    listed = {
        "device": ("list", "knocking", "show", "approve", "block", "unblock"),
        "policy": ("allow", "deny", "remove", "list", "show", "domain"),
        "voucher": ("list", "prefetch"),
        "cert": ("list", "show", "revoke"),
        "ca": ("show", "export", "renew", "next-root", "change-root", "retire-root"),
    }
    return [["init"], ["serve"], ["join-proxy"], *([name, verb] for name in group for verb in listed[name])]


@pytest.mark.parametrize("command", verbs(), ids=" ".join)
def test_every_verb_has_help_with_an_example(command: list[str]) -> None:
    text = " ".join(run(*command, "--help").stdout.split())
    assert "Example:" in text
    assert "--json" in text
