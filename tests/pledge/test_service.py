"""A pledge that runs: real sockets on the loopback, a real disk, the real command."""

import asyncio
import json
import logging
import os
import signal
import socket
import ssl
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

import brski_pledge
from brski_common import issuing
from brski_common.certificates import fingerprint, load_pem, to_pem
from brski_common.errors import Misconfigured, Refused
from brski_pledge import Event, Offer, Outcome, Pledge, PledgeSettings, actions
from brski_pledge.__main__ import main
from brski_pledge.state import ANCHORS, IDENTITY, LDEVID, NEW, Folder
from tests.support.link_host import write_device
from tests.support.registrar_fake import Answer, FakeRegistrar, Reply, folder_of, serve
from tests.support.world import NOW, Domain, Manufacturer, key_for

MAKER = Manufacturer()


@asynccontextmanager
async def listening(registrar: FakeRegistrar) -> AsyncIterator[str]:
    server = await serve(registrar)
    try:
        yield server.url.removeprefix("https://")
    finally:
        await server.close(0.1)


def pledge(state: Path, *registrars: str, events: list[Event] | None = None, **settings: object) -> Pledge:
    chosen = PledgeSettings(mdns=False, registrars=registrars, **({"once": True} | settings))  # type: ignore[arg-type] # as PledgeSettings takes them
    observer = None if events is None else events.append
    return Pledge(
        chosen, MAKER.idevid("SN-1"), MAKER.voucher_anchors, state=state, clock=lambda: NOW, observer=observer
    )


# Real sockets


@pytest.mark.req("ST-01", "ST-04", "EI-08", "TL-05", "TL-10", "DS-17", "AR-09")
async def test_a_pledge_onboards_over_tls(tmp_path: Path) -> None:
    events: list[Event] = []
    registrar = FakeRegistrar(maker=MAKER)
    async with listening(registrar) as address:
        outcome = await pledge(tmp_path / "state", address, events=events).onboard()
    assert outcome.is_operational
    assert outcome.enrollment is not None
    assert outcome.enrollment.confirmed
    assert [event.step for event in events] == [
        "connecting",
        "registrar-seen",
        "voucher-requested",
        "imprinted",
        "anchors-received",
        "key-made",
        "certificate-received",
        "saved",
        "operational",
    ]
    assert registrar.clients[-1].certificate == outcome.enrollment.credential.certificate
    assert registrar.clients[0].chain[1:] == MAKER.idevid_ca.chain


@pytest.mark.req("TL-01")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_one_version_of_tls_is_enough(version: ssl.TLSVersion, tmp_path: Path) -> None:
    server = await serve(FakeRegistrar(maker=MAKER), version=version)
    outcome = await pledge(tmp_path / "state", server.url.removeprefix("https://")).onboard()
    await server.close(0.1)
    assert outcome.is_operational


@pytest.mark.req("AR-07")
@pytest.mark.parametrize("kind", ["P-256", "P-384", "RSA-2048", "Ed25519"])
async def test_every_kind_of_key_onboards_over_tls(kind: str, tmp_path: Path) -> None:
    maker, domain = Manufacturer(f"Maker of {kind}", kind=kind), Domain(f"Plant of {kind}", kind=kind)
    server = await serve(FakeRegistrar(maker=maker, domain=domain))
    address = server.url.removeprefix("https://")
    settings = PledgeSettings(mdns=False, registrars=(address,), once=True, ldevid_key=kind)
    device = Pledge(settings, maker.idevid("SN-1"), maker.voucher_anchors, state=tmp_path, clock=lambda: NOW)
    outcome = await device.onboard()
    await server.close(0.1)
    assert outcome.is_operational, outcome


@pytest.mark.req("ST-02", "AT-27", "AT-06", "RS-01")
async def test_an_enrolled_device_sends_nothing(tmp_path: Path) -> None:
    registrar = FakeRegistrar(maker=MAKER)
    async with listening(registrar) as address:
        await pledge(tmp_path / "state", address).onboard()
        seen = len(registrar.seen)
        again = await pledge(tmp_path / "state", address).onboard()
    assert again.is_operational
    assert len(registrar.seen) == seen


@pytest.mark.req("ST-02")
async def test_a_device_that_is_being_configured_starts_no_second_onboarding(tmp_path: Path) -> None:
    asked = asyncio.Event()

    def patience(_registrar: FakeRegistrar, _send: actions.Send) -> Reply:
        asked.set()
        return Answer(202, b"", {"Retry-After": "60"})

    registrar = FakeRegistrar(maker=MAKER, always={"requestvoucher": patience})
    async with listening(registrar) as address:
        device = pledge(tmp_path / "state", address)
        first = asyncio.ensure_future(device.onboard())
        await asked.wait()
        (tmp_path / "state" / NEW).write_bytes(b"being written")
        for begin in (device.onboard, lambda: device.enroll_at(Offer(*_host_and_port(address)), bytes(32))):
            with pytest.raises(Refused, match="under-way"):
                await begin()
        assert (tmp_path / "state" / NEW).exists()
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first


@pytest.mark.req("TL-07", "AT-10")
async def test_a_registrar_that_sends_too_much_is_given_up(tmp_path: Path) -> None:
    registrar = FakeRegistrar(maker=MAKER)
    registrar.script("requestvoucher", Answer(200, b"0" * 400_000, {"Content-Type": "application/voucher-cms+json"}))
    async with listening(registrar) as address:
        outcome = await pledge(tmp_path / "state", address).onboard()
    assert (outcome.state, outcome.reason) == ("failed", "response-too-large")


@pytest.mark.req("TL-07", "AT-10")
async def test_a_registrar_with_endless_headers_is_given_up(tmp_path: Path) -> None:
    registrar = FakeRegistrar(maker=MAKER)
    registrar.script("requestvoucher", Answer(200, b"", {"X-Long": "a" * 50_000}))
    async with listening(registrar) as address:
        outcome = await pledge(tmp_path / "state", address).onboard()
    assert (outcome.state, outcome.reason) == ("failed", "response-malformed")


def closing(registrar: FakeRegistrar, send: actions.Send) -> Reply:
    answer = registrar.behave(send.path.rpartition("/")[2], send)
    assert isinstance(answer, Answer)
    return replace(answer, close=True)


@pytest.mark.req("TL-11", "AT-25")
async def test_a_registrar_that_closes_every_connection_is_joined_over_several(tmp_path: Path) -> None:
    registrar = FakeRegistrar(maker=MAKER)
    for operation in ("requestvoucher", "voucher_status", "cacerts", "csrattrs", "simpleenroll", "enrollstatus"):
        registrar.always[operation] = closing
    async with listening(registrar) as address:
        outcome = await pledge(tmp_path / "state", address).onboard()
    assert outcome.is_operational


@pytest.mark.req("HT-06", "E-07")
async def test_a_redirection_to_another_registrar_is_followed(tmp_path: Path) -> None:
    first, second = FakeRegistrar(maker=MAKER), FakeRegistrar(maker=MAKER)
    second.credential = Domain().registrar_with(key=key_for("second registrar"))
    async with listening(first) as here, listening(second) as there:
        location = f"https://{there}/.well-known/brski/requestvoucher"
        first.script("requestvoucher", Answer(307, b"", {"Location": location}))
        outcome = await pledge(tmp_path / "state", here).onboard()
    assert outcome.is_operational
    assert len(first.seen) == 1


@pytest.mark.req("DS-05", "AT-01", "PV-11")
async def test_a_rogue_registrar_is_passed_over(tmp_path: Path) -> None:
    rogue = FakeRegistrar(maker=MAKER, credential=Domain("Rogue").registrar)
    good = FakeRegistrar(maker=MAKER)
    async with listening(rogue) as bad_address, listening(good) as address:
        outcome = await pledge(tmp_path / "state", bad_address, address).onboard()
    assert outcome.is_operational
    assert [send.path.rpartition("/")[2] for send in rogue.seen] == ["requestvoucher", "voucher_status"]


@pytest.mark.req("E-16", "EI-16")
async def test_a_device_renews_with_its_ldevid(tmp_path: Path) -> None:
    registrar = FakeRegistrar(maker=MAKER)
    async with listening(registrar) as address:
        device = pledge(tmp_path / "state", address)
        with pytest.raises(Refused, match="not-enrolled"):
            await device.renew()
        before = (await device.onboard()).enrollment
        after = (await device.renew()).enrollment
        registrar.always["simplereenroll"] = Answer(403)
        failed = await device.renew()
    assert before is not None
    assert after is not None
    assert after.credential.certificate != before.credential.certificate
    assert failed.reason == "enrollment-refused"
    kept = device.enrollment
    assert kept is not None
    assert kept.credential.certificate == after.credential.certificate


@pytest.mark.req("EI-07")
async def test_a_report_cut_off_by_power_loss_is_made_at_the_next_boot(tmp_path: Path) -> None:
    registrar = FakeRegistrar(maker=MAKER)
    async with listening(registrar) as address:
        device = pledge(tmp_path / "state", address)
        enrollment = (await device.onboard()).enrollment
        assert enrollment is not None
        Folder(tmp_path / "state").save(replace(enrollment, confirmed=False))
        await pledge(tmp_path / "state", address).onboard()
    assert len(registrar.reports("enrollstatus")) == 2
    kept = device.enrollment
    assert kept is not None
    assert kept.confirmed


@pytest.mark.req("AR-06", "ST-03")
async def test_a_reset_during_an_onboarding_begins_anew(tmp_path: Path) -> None:
    registrar = FakeRegistrar(maker=MAKER)
    async with listening(registrar) as address:
        device = pledge(tmp_path / "state", address)

        def button(_registrar: FakeRegistrar, _send: actions.Send) -> Reply:
            device.reset()
            return Answer(202, b"", {"Retry-After": "60"})

        registrar.script("simpleenroll", button)
        outcome = await device.onboard()
    assert outcome.is_operational
    assert len(registrar.asked("requestvoucher")) == 2


@pytest.mark.req("AR-06")
async def test_a_reset_keeps_the_idevid_and_nothing_else(tmp_path: Path) -> None:
    registrar = FakeRegistrar(maker=MAKER)
    async with listening(registrar) as address:
        device = pledge(tmp_path / "state", address)
        await device.onboard()
        device.reset()
        assert folder_of(tmp_path) == {}
        assert device.enrollment is None
        assert (await device.onboard()).is_operational


async def test_a_disk_that_fails_is_no_crash(tmp_path: Path) -> None:
    class FullDisk(Folder):
        def save(self, enrollment: object) -> object:  # type: ignore[override] # never returns
            raise OSError(28, "No space left on device")

    registrar = FakeRegistrar(maker=MAKER)
    async with listening(registrar) as address:
        settings = PledgeSettings(mdns=False, registrars=(address,), once=True)
        device = Pledge(settings, MAKER.idevid("SN-1"), MAKER.voucher_anchors, state=FullDisk(tmp_path))
        outcome = await device.onboard()
    assert outcome.reason == "disk-failed"
    assert [report.status for report in registrar.reports("enrollstatus")] == [False]


async def test_no_key_and_no_nonce_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    events: list[Event] = []
    registrar = FakeRegistrar(maker=MAKER)
    async with listening(registrar) as address:
        outcome = await pledge(tmp_path / "state", address, events=events).onboard()
    assert outcome.enrollment is not None
    assert outcome.enrollment.folder is not None
    secret = (outcome.enrollment.folder / IDENTITY).read_text().split("\n")[2]
    shown = caplog.text + repr(events) + repr(outcome) + "".join(event.detail for event in events)
    assert secret not in shown
    assert "PRIVATE" not in shown


@pytest.mark.req("DS-16", "E-23")
def test_a_cloud_registrar_needs_anchors(tmp_path: Path) -> None:
    settings = PledgeSettings(cloud_registrar="cloud.example")
    with pytest.raises(Misconfigured, match="cloud-anchors-missing"):
        Pledge(settings, MAKER.idevid("SN-1"), MAKER.voucher_anchors, state=tmp_path)


@pytest.mark.req("PV-02", "D-14")
def test_a_shared_anchor_is_refused_at_construction(tmp_path: Path) -> None:
    with pytest.raises(Misconfigured, match="voucher-anchor-shared"):
        Pledge(PledgeSettings(), MAKER.idevid("SN-1"), MAKER.idevid_anchors, state=tmp_path)


@pytest.mark.req("RS-04", "RS-06")
async def test_the_command_enrolls_at_a_server_that_somebody_compared(device_files: Path) -> None:
    registrar = FakeRegistrar(maker=MAKER)
    async with listening(registrar) as address:
        code, out, err = await command(device_files, "onboard", "--est-enroll", address, "--json")
        assert code == 1
        told = json.loads(out)
        assert told["reason"] == "fingerprint-mismatch"
        assert "--fingerprint" in err
        compared = told["detail"].removeprefix("sha256 ")
        code, out, _ = await command(
            device_files, "onboard", "--est-enroll", address, "--fingerprint", compared, "--json"
        )
        assert (code, json.loads(out)["state"]) == (0, "operational")
        code, out, _ = await command(
            device_files, "onboard", "--est-enroll", address, "--fingerprint", compared, "--json"
        )
        assert (code, json.loads(out)["reason"]) == (1, "already-enrolled")


@pytest.mark.req("EI-16")
async def test_a_renewal_that_is_not_due_does_nothing(device_files: Path) -> None:
    registrar = FakeRegistrar(maker=MAKER, issue=_long_lived)
    async with listening(registrar) as address:
        await command(device_files, "onboard", "--registrar", address)
        seen = len(registrar.seen)
        code, out, _ = await command(device_files, "renew", "--if-due", "--json")
        assert (code, len(registrar.seen)) == (0, seen)
        told = json.loads(out)
        assert told["renewal"] == f"not due until {told['renew-at']}"
        code, out, _ = await command(device_files, "renew", "--if-due")
        assert "not due until" in out
        code, out, _ = await command(device_files, "renew", "--json")
        assert (code, json.loads(out)["renewal"]) == (0, "done")


def _long_lived(certificate: x509.Certificate) -> x509.Certificate:
    key = certificate.public_key()
    return issuing.end_entity(
        Domain().issuing,
        key,  # type: ignore[arg-type] # a key of our own
        certificate.subject,
        not_before=NOW - timedelta(days=3650),
        not_after=NOW + timedelta(days=365_000),
    )


# The public API


def test_the_public_names_are_these() -> None:
    assert brski_pledge.__all__ == [
        "Anchors",
        "BrskiError",
        "CallbackKey",
        "Credential",
        "Enrollment",
        "Event",
        "Misconfigured",
        "Offer",
        "Outcome",
        "Pledge",
        "PledgeSettings",
        "Refused",
        "Source",
        "Transport",
        "events",
    ]
    assert all(hasattr(brski_pledge, name) for name in brski_pledge.__all__)
    assert not hasattr(brski_pledge, "Pledges")


def test_importing_the_package_loads_no_network_and_no_server_library() -> None:
    code = (
        "import sys, brski_pledge; heavy = {'aiohttp', 'zeroconf', 'sqlalchemy', 'pydantic', 'structlog', 'typer', "
        "'rich', 'jinja2', 'alembic'}; print(sorted(heavy & sys.modules.keys()))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"


def test_an_outcome_shows_no_key() -> None:
    assert repr(Outcome("operational")) == "Outcome(state='operational', reason=None, detail='')"


# The command


@pytest.fixture
def device_files(tmp_path: Path) -> Path:
    write_device(tmp_path, MAKER)
    return tmp_path


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BRSKI_PLEDGE_")]:
        monkeypatch.delenv(name)


def read(path: str) -> bytes:
    return Path(path).read_bytes()


def mode(path: str) -> int:
    return stat.S_IMODE(Path(path).stat().st_mode)


async def command(files: Path, verb: str, *options: str) -> tuple[int, str, str]:
    """The real command, as a process of its own."""
    arguments = ["-m", "brski_pledge", verb, "--config", str(files / "pledge.toml"), *options]
    process = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.mark.req("AR-06", "ST-04")
async def test_the_command_onboards_renews_and_resets(device_files: Path) -> None:
    registrar = FakeRegistrar(maker=MAKER)
    async with listening(registrar) as address:
        code, out, err = await command(device_files, "onboard", "--registrar", address, "--json")
        assert code == 0, err
        shown = json.loads(out)
        assert shown["state"] == "operational"
        assert shown["serial-number"] == "SN-1"
        assert load_pem(read(shown["ldevid"]))
        assert mode(shown["key"]) == 0o600
        assert [entry["step"] for entry in shown["timeline"]][-1] == "operational"
        assert [json.loads(line)["step"] for line in err.splitlines()][-1] == "operational"
        code, out, _ = await command(device_files, "renew", "--json")
        assert code == 0
        assert json.loads(out)["fingerprint"] != shown["fingerprint"]
    code, out, _ = await command(device_files, "status", "--json")
    assert (code, json.loads(out)["state"]) == (0, "operational")
    code, out, _ = await command(device_files, "status")
    assert "operational" in out
    code, out, _ = await command(device_files, "reset", "--json")
    assert (code, json.loads(out)) == (0, {"state": "factory"})
    assert folder_of(device_files / "state") == {}


async def test_the_command_says_in_one_line_why_it_failed(device_files: Path) -> None:
    registrar = FakeRegistrar(maker=MAKER)
    registrar.always["requestvoucher"] = Answer(403, b"not on the list", {"Content-Type": "text/plain"})
    async with listening(registrar) as address:
        code, out, err = await command(device_files, "onboard", "--registrar", address, "--json")
    assert code == 1
    assert json.loads(out)["reason"] == "voucher-request-refused"
    line = err.splitlines()[-1]
    assert line.startswith("brski-pledge: voucher-request-refused: HTTP 403: not on the list: the registrar's operator")
    assert "`brski-registrar device show SN-1`" in line, "where to look"
    assert "Traceback" not in err


@pytest.mark.parametrize("operation", ["cacerts", "csrattrs"])
async def test_the_command_says_where_to_look_when_a_question_before_enrolling_is_refused(
    operation: str, device_files: Path
) -> None:
    registrar = FakeRegistrar(maker=MAKER)
    registrar.always[operation] = Answer(403, b"not here", {"Content-Type": "text/plain"})
    compared = fingerprint(registrar.domain.registrar.certificate).hex()
    async with listening(registrar) as address:
        # Without a voucher there is no pinned CA that would do in place of the CA certificates.
        code, _, err = await command(device_files, "onboard", "--est-enroll", address, "--fingerprint", compared)
    assert code == 1
    line = (
        f"brski-pledge: {operation}-refused: HTTP 403: not here: the registrar's log says why; if `est_label` is set,"
    )
    assert err.splitlines()[-1].startswith(line)


@pytest.mark.parametrize("answer", [Answer(406, b"device-blocked"), Answer(403, b"device-denied\n")])
@pytest.mark.parametrize(
    ("operation", "reason"),
    [("csrattrs", "csrattrs-refused"), ("simplereenroll", "enrollment-refused")],
)
async def test_a_blocked_device_is_told_who_sees_why_whatever_it_asked(
    operation: str, reason: str, answer: Answer, device_files: Path
) -> None:
    registrar = FakeRegistrar(maker=MAKER)
    async with listening(registrar) as address:
        assert (await command(device_files, "onboard", "--registrar", address))[0] == 0
        registrar.always[operation] = replace(answer, headers={"Content-Type": "text/plain"})
        code, _, err = await command(device_files, "renew")
    assert code == 1
    told = f"brski-pledge: {reason}: HTTP {answer.status}: {answer.body.decode().strip()}: the registrar's operator"
    assert err.splitlines()[-1].startswith(f"{told} sees why with `brski-registrar device show SN-1`")


async def test_a_blocked_device_that_has_no_voucher_is_told_who_sees_why(device_files: Path) -> None:
    registrar = FakeRegistrar(maker=MAKER)
    registrar.always["cacerts"] = Answer(406, b"device-blocked", {"Content-Type": "text/plain"})
    compared = fingerprint(registrar.domain.registrar.certificate).hex()
    async with listening(registrar) as address:
        code, _, err = await command(device_files, "onboard", "--est-enroll", address, "--fingerprint", compared)
    assert code == 1
    told = "brski-pledge: cacerts-refused: HTTP 406: device-blocked: the registrar's operator sees why with"
    assert err.splitlines()[-1].startswith(told)


async def test_the_command_gives_up_after_a_time_out(device_files: Path) -> None:
    registrar = FakeRegistrar(maker=MAKER)
    registrar.always["requestvoucher"] = Answer(202, b"", {"Retry-After": "60"})
    async with listening(registrar) as address:
        code, _, err = await command(device_files, "onboard", "--registrar", address, "--timeout", "0.5")
    assert code == 1
    assert "timed-out" in err


async def test_the_command_says_what_to_do_when_nobody_listens_there(device_files: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    code, _, err = await command(device_files, "onboard", "--registrar", address)
    assert code == 1
    where = address.replace(":", " port ")
    assert err.splitlines()[-1].startswith(f"brski-pledge: peer-unreachable: {where}: Connection refused")
    assert "is it running" in err


@pytest.mark.req("PV-01")
async def test_the_command_tells_wrong_voucher_anchors_and_the_registrar_only_that_it_refused(
    device_files: Path,
) -> None:
    (device_files / "anchors.pem").write_bytes(to_pem(Manufacturer("Wrong Maker").voucher_root.certificate))
    registrar = FakeRegistrar(maker=MAKER)
    async with listening(registrar) as address:
        code, _, err = await command(device_files, "onboard", "--registrar", address)
    assert code == 1
    assert "voucher-signer-unknown: the voucher is not signed under this device's voucher_anchors" in err
    (report,) = registrar.reports("voucher_status")
    assert "anchor" not in str(report.reason).lower()


async def test_a_key_in_a_token_is_refused_with_the_way_there(device_files: Path) -> None:
    code, _, err = await command(device_files, "onboard", "--key", "pkcs11:token=t;object=k?pin-value=1234")
    assert code == 1
    assert "key-not-a-file" in err
    assert "transport" in err
    assert "1234" not in err


@pytest.mark.req("E-06")
async def test_a_device_renews_elsewhere_than_at_its_join_proxy(device_files: Path) -> None:
    async with listening(FakeRegistrar(maker=MAKER)) as proxy:
        code, out, err = await command(device_files, "onboard", "--registrar", proxy, "--json")
        assert code == 0, err
    code, _, err = await command(device_files, "renew")
    assert (code, "peer-unreachable" in err) == (1, True)
    server = FakeRegistrar(maker=MAKER)
    async with listening(FakeRegistrar(maker=MAKER, credential=Domain("Other Plant").registrar)) as rogue:
        code, _, err = await command(device_files, "renew", "--registrar", rogue)
        assert (code, "path-not-found" in err) == (1, True)
    async with listening(server) as address:
        code, renewed, err = await command(device_files, "renew", "--registrar", address, "--json")
        assert code == 0, err
        assert json.loads(renewed)["fingerprint"] != json.loads(out)["fingerprint"]
        code, _, err = await command(device_files, "renew")
        assert code == 0, "the server that worked is remembered"


def test_missing_settings_are_named_as_options(
    device_files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(device_files)
    assert main(["onboard", "--state", "state"]) == 2
    assert "give --certificate, --key, --voucher-anchors, or a file" in capsys.readouterr().err


BAD_USE = {
    "no command": ([], 2),
    "unknown command": (["launch"], 2),
    "unknown option": (["status", "--frob"], 2),
    "no state": (["status"], 2),
    "no state in the file": (["status", "--config", "empty.toml"], 1),
    "a fingerprint of nobody": (["onboard", "--config", "pledge.toml", "--fingerprint", "00"], 2),
    "no time at all": (["onboard", "--config", "pledge.toml", "--timeout", "-1"], 2),
    "endless time": (["onboard", "--config", "pledge.toml", "--timeout", "inf"], 2),
    "no number": (["renew", "--config", "pledge.toml", "--timeout", "soon"], 2),
    "a file as the folder": (["status", "--state", "idevid.key"], 1),
    "a file as the folder of an onboarding": (["onboard", "--config", "pledge.toml", "--state", "idevid.key"], 1),
    "a file to reset": (["reset", "--state", "idevid.key"], 1),
    "a folder that is not there": (["reset", "--state", "typo"], 1),
    "the status of a folder that is not there": (["status", "--state", "typo"], 1),
    "a link to nowhere": (["onboard", "--config", "pledge.toml", "--state", "dangling/state"], 1),
    "no such file": (["status", "--config", "missing.toml"], 1),
    "no IDevID": (["onboard", "--state", "state"], 2),
    "bad registrar": (["onboard", "--config", "pledge.toml", "--registrar", "nonsense"], 1),
    "missing key": (["onboard", "--config", "pledge.toml", "--key", "missing.key"], 1),
    "key of another": (["onboard", "--config", "pledge.toml", "--key", "other.key"], 1),
    "anchors of nobody": (["onboard", "--config", "pledge.toml", "--voucher-anchors", "pledge.toml"], 1),
    "unknown setting": (["status", "--config", "odd.toml"], 1),
    "unknown setting in reset": (["reset", "--config", "odd.toml"], 1),
    "bad setting": (["status", "--config", "bad.toml"], 1),
    "unknown setting in onboard": (["onboard", "--config", "odd.toml"], 1),
    "bad renewal registrar": (["renew", "--config", "pledge.toml", "--registrar", "nonsense"], 1),
    "no TOML": (["onboard", "--config", "broken.toml"], 1),
    "renewal of nothing": (["renew", "--config", "pledge.toml"], 1),
}


@pytest.mark.parametrize("story", BAD_USE)
def test_bad_use_ends_with_one_line_and_its_code(
    story: str, device_files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments, expected = BAD_USE[story]
    monkeypatch.chdir(device_files)
    text = (device_files / "pledge.toml").read_text()
    (device_files / "odd.toml").write_text(text + "frobnicate = 1\n")
    (device_files / "bad.toml").write_text(text + "max_connections = 0\n")
    (device_files / "broken.toml").write_text("= nothing\n")
    (device_files / "empty.toml").write_text("")
    (device_files / "dangling").symlink_to("/nowhere/x")
    other = key_for("other").private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (device_files / "other.key").write_bytes(other)
    (device_files / "other.key").chmod(0o600)
    try:
        code = main(arguments)
    except SystemExit as exit_:
        code = int(exit_.code or 0)
    assert code == expected
    shown = capsys.readouterr()
    assert "Traceback" not in shown.err
    if code == 1:
        assert len(shown.err.splitlines()) == 1
        assert shown.err.startswith("brski-pledge: ")


@pytest.mark.parametrize("verb", ["onboard", "status", "renew", "reset"])
def test_an_unknown_option_is_answered_with_the_usage_of_its_verb(
    verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main([verb, "--bogus"])
    assert caught.value.code == 2
    shown = capsys.readouterr().err
    assert shown.startswith(f"usage: brski-pledge {verb} [-h]")
    assert f"brski-pledge {verb}: error: unrecognized arguments: --bogus" in shown


def test_advice_is_given_once(device_files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = ["--config", str(device_files / "pledge.toml")]
    assert main(["renew", *config]) == 1
    line = "brski-pledge: not-enrolled: there is nothing to renew: run `brski-pledge onboard` first\n"
    assert capsys.readouterr().err == line
    key = device_files / "idevid.key"
    assert main(["status", "--state", str(key)]) == 1
    line = f"brski-pledge: state-unusable: {key}: this has to be a folder: the state needs a folder that can be written"
    assert capsys.readouterr().err.startswith(line)
    identity = device_files / "state" / IDENTITY
    identity.parent.mkdir()
    identity.write_bytes(b"brski-pledge state")
    identity.chmod(0o600)
    assert main(["status", *config]) == 1
    assert capsys.readouterr().err.count("reset") == 1


async def test_a_device_whose_exports_fail_is_operational_all_the_same(device_files: Path) -> None:
    (device_files / "state").mkdir(mode=0o700)
    (device_files / "state" / LDEVID).mkdir()
    async with listening(FakeRegistrar(maker=MAKER)) as address:
        code, out, err = await command(device_files, "onboard", "--registrar", address, "--json")
    told = json.loads(out)
    assert (code, told["state"]) == (0, "operational")
    assert str(device_files / "state" / LDEVID) in told["warning"]
    last = f"brski-pledge: warning: not exported for other programs: {device_files / 'state' / LDEVID}: Is a directory"
    assert err.splitlines()[-1] == last


async def test_status_says_names_in_words_and_warns_of_a_key_that_its_group_may_read(device_files: Path) -> None:
    async with listening(FakeRegistrar(maker=MAKER)) as address:
        code, _, _ = await command(device_files, "onboard", "--registrar", address)
    assert code == 0
    code, out, err = await command(device_files, "status")
    assert (code, err) == (0, "")
    assert "serialNumber=SN-1" in out
    assert "2.5.4.5" not in out
    identity = device_files / "state" / IDENTITY
    identity.chmod(0o640)
    code, out, err = await command(device_files, "status", "--json")
    assert code == 0
    assert err == f"brski-pledge: warning: {json.loads(out)['warning']}\n"
    assert f"(mode 0640): `chmod 600 {identity}`" in err
    identity.chmod(0o644)
    for verb in ("status", "onboard", "renew"):
        code, out, err = await command(device_files, verb, "--json")
        assert (code, json.loads(out)["reason"]) == (1, "state-unsafe")
        assert f"{identity}: everybody may read the key in it (mode 0644); use chmod 600: if another" in err
    identity.chmod(0o600)
    identity.parent.chmod(0o777)
    for verb in ("status", "onboard", "renew"):
        code, out, err = await command(device_files, verb, "--json")
        assert (code, json.loads(out)["reason"]) == (1, "state-unsafe")
        assert f"{identity.parent}: others than its owner may write into the folder (mode 0777); use chmod 700" in err
    assert main(["reset", "--state", str(identity.parent)]) == 0


# Reset, in the wrong place and in the right one


@pytest.mark.parametrize("verb", ["status", "reset"])
def test_a_folder_that_is_not_there_is_named(verb: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "link").symlink_to("/nowhere/x")
    for name in ("typo", "deep/typo", "link"):
        assert main([verb, "--state", str(tmp_path / name)]) == 1
        shown = capsys.readouterr()
        assert shown.out == ""
        assert f"state-missing: {tmp_path / name}: there is no such folder" in shown.err
        assert shown.err.endswith("is this the folder? If it is, `brski-pledge onboard` makes it\n")
    assert main([verb, "--state", str(tmp_path)]) == 0
    assert "factory" in capsys.readouterr().out


def test_a_reset_says_that_there_was_nothing_to_erase(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "another.txt").touch()
    arguments = ["reset", "--state", str(tmp_path)]
    assert main(arguments) == 0
    assert [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()] == [
        ["state", "factory"],
        ["reset", "there was nothing to erase"],
    ]
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"state": "factory", "reset": "there was nothing to erase"}
    (tmp_path / NEW).touch()  # what a power loss left
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"state": "factory"}


@pytest.mark.parametrize("name", [IDENTITY, LDEVID, ANCHORS])
def test_a_file_that_no_pledge_wrote_is_erased_only_by_force(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    foreign = tmp_path / name
    foreign.write_text("-----BEGIN OPENSSH PRIVATE KEY-----")
    arguments = ["reset", "--state", str(tmp_path)]
    assert main(arguments) == 1
    assert str(foreign) in capsys.readouterr().err
    assert foreign.read_text().startswith("-----BEGIN")
    assert main([*arguments, "--force"]) == 0
    assert not foreign.exists()


@pytest.mark.parametrize("damage", ["title", "content", "cut", "empty", "zeros"])
async def test_a_damaged_state_is_reset_without_force(damage: str, device_files: Path) -> None:
    async with listening(FakeRegistrar(maker=MAKER)) as address:
        await command(device_files, "onboard", "--registrar", address)
    identity = device_files / "state" / IDENTITY
    whole = identity.read_bytes()
    damaged = {
        "title": b"\xff" * 8 + whole[8:],
        "content": whole[:300] + bytes([whole[300] ^ 1]) + whole[301:],
        "cut": whole[:200],
        "empty": b"",
        "zeros": bytes(4096),
    }
    identity.write_bytes(damaged[damage])
    code, _, err = await command(device_files, "status")
    assert (code, "state-damaged" in err) == (1, True)
    code, _, err = await command(device_files, "reset")
    assert (code, err) == (0, "")
    assert folder_of(device_files / "state") == {}


# Interrupted


async def test_a_keyboard_interrupt_ends_with_one_line_and_its_code(device_files: Path) -> None:
    asked = asyncio.Event()

    def patience(_registrar: FakeRegistrar, _send: actions.Send) -> Reply:
        asked.set()
        return Answer(202, b"", {"Retry-After": "60"})

    arguments = ["-m", "brski_pledge", "onboard", "--config", str(device_files / "pledge.toml"), "--json"]
    for stop, expected, reason in ((signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 1, "terminated")):
        asked.clear()
        registrar = FakeRegistrar(maker=MAKER, always={"requestvoucher": patience})
        async with listening(registrar) as address:
            process = await asyncio.create_subprocess_exec(
                sys.executable, *arguments, "--registrar", address, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            await asked.wait()
            process.send_signal(stop)
            out, err = await process.communicate()
        assert process.returncode == expected
        assert json.loads(out)["reason"] == reason
        assert err.decode().splitlines()[-1] == f"brski-pledge: {reason}"
        assert b"Traceback" not in err


INTERRUPTED_IMPORT = """
import runpy, sys

class Keyboard:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            raise KeyboardInterrupt

sys.meta_path.insert(0, Keyboard())
sys.argv[1:] = ["status", "--state", "state"]
runpy.run_module("brski_pledge", run_name="__main__", alter_sys=True)
"""


@pytest.mark.parametrize("module", ["brski_pledge.command", "argparse", "cryptography", "brski_common"])
def test_an_interrupt_while_the_command_starts_is_no_traceback(module: str) -> None:
    code = INTERRUPTED_IMPORT.format(module=module)
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (shown.returncode, shown.stdout, shown.stderr) == (130, "", "brski-pledge: interrupted\n")


def example_of(readme: Path) -> str:
    return readme.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]


async def test_the_example_of_the_readme_runs(tmp_path: Path) -> None:
    factory = tmp_path / "factory"
    factory.mkdir()
    write_device(factory, MAKER)
    (factory / "anchors.pem").rename(factory / "voucher-anchors.pem")
    registrar = FakeRegistrar(maker=MAKER)
    readme = Path(brski_pledge.__file__).parents[1] / "README.md"
    async with listening(registrar) as address:
        # The example looks for its registrar by mDNS; here it is told where it is.
        told = f"PledgeSettings(mdns=False, registrars=({address!r},))"
        example = example_of(readme).replace("PledgeSettings()", told)
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", example, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path
        )
        out, _ = await process.communicate()
    assert process.returncode == 0, out.decode()
    assert out.decode().splitlines()[-1].startswith("operational ")


def test_help_has_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("", "onboard", "status", "renew", "reset"):
        with pytest.raises(SystemExit) as caught:
            main([*([verb] if verb else []), "--help"])
        assert caught.value.code == 0
        assert f"  brski-pledge {verb or 'onboard'} --config pledge.toml" in capsys.readouterr().out


async def test_an_observer_that_fails_keeps_no_device_from_its_owner(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def lamp(event: Event) -> None:
        raise RuntimeError("no lamp")

    registrar = FakeRegistrar(maker=MAKER)
    async with listening(registrar) as address:
        settings = PledgeSettings(mdns=False, registrars=(address,), once=True)
        device = Pledge(settings, MAKER.idevid("SN-1"), MAKER.voucher_anchors, state=tmp_path, observer=lamp)
        assert (await device.onboard()).is_operational
    assert "the observer failed at imprinted" in caplog.text


@pytest.mark.req("DS-03", "DS-04")
async def test_a_device_without_any_link_looks_again_when_one_comes_up(tmp_path: Path) -> None:
    heard: list[Event] = []
    registrar = FakeRegistrar(maker=MAKER)
    async with listening(registrar) as address:
        settings = PledgeSettings(mdns_interfaces=("203.0.113.77",), once=False)
        deaf = asyncio.Event()

        def lamp(event: Event) -> None:
            heard.append(event)
            if event.step == "cannot-listen":
                deaf.set()

        device = Pledge(settings, MAKER.idevid("SN-1"), MAKER.voucher_anchors, state=tmp_path, observer=lamp)
        onboarding = asyncio.ensure_future(device.onboard())
        await deaf.wait()
        device.link_up()
        device.found(Offer(*_host_and_port(address)))
        assert (await onboarding).is_operational
    assert [event.step for event in heard].count("cannot-listen") >= 1


def _host_and_port(address: str) -> tuple[str, int]:
    host, _, port = address.rpartition(":")
    return host, int(port)
