"""What an attack leaves behind: nothing of a key in any log, no forged line, no settings that somebody smuggled in."""

import base64
import logging
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from brski_common import logs
from brski_common.certificates import Credential, PrivateKey
from brski_masa import founding as masa_founding
from brski_pledge import enrolling
from brski_registrar.lifecycle import State
from tests.support.forgeries import serial_of
from tests.support.plant import BRSKI, CMS
from tests.support.rogues import Scene
from tests.support.world import NOW, Manufacturer, fresh, key_for


@pytest.fixture
def everything_told(capfd: pytest.CaptureFixture[str]) -> Iterator[pytest.CaptureFixture[str]]:
    """Every log of the process at its most talkative, as it goes to standard error."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    logs.configure(json=True, level="debug")
    yield capfd
    for handler in [each for each in root.handlers if each not in handlers]:
        root.removeHandler(handler)
    root.setLevel(level)
    logs.configure(json=True, level="warning")
    for handler in [each for each in root.handlers if each not in handlers]:
        root.removeHandler(handler)


def forms_of(key: PrivateKey) -> list[str]:
    """A private key as it might appear in a text."""
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    number = key.private_numbers().private_value
    raw = number.to_bytes(32, "big")
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return [raw.hex(), str(number), f"{number:x}", base64.b64encode(raw).decode(), repr(raw)[2:-1], pem.splitlines()[1]]


@pytest.mark.req("AR-06", "AT-21")
async def test_no_key_gets_into_any_log(scene: Scene, everything_told: pytest.CaptureFixture[str]) -> None:
    made: list[PrivateKey] = []

    def make_key(kind: str) -> PrivateKey:
        made.append(enrolling.make_key(kind))
        return made[-1]

    device = await scene.device()
    outcome = await scene.onboard(device, make_key=make_key)
    assert outcome.is_operational
    other = await scene.factory.device(owner=None)
    assert not (await scene.onboard(other, make_key=make_key)).is_operational
    assert len(made) == 1
    logging.getLogger("brski.test").warning("a key by mistake: %s", made[0])
    captured = everything_told.readouterr()
    told = captured.out + captured.err
    for event in scene.events[serial_of(device)]:
        told += repr(event) + str(event)
    told += repr(outcome) + str(outcome) + repr(outcome.enrollment)
    for entry in await scene.plant.store.journal():
        told += repr(entry)
    assert "voucher" in told, "something was told at all"
    for key in (*made, device.key, scene.plant.domain.issuing.key, scene.factory.maker.voucher_signer.key):
        for form in forms_of(key):
            assert form not in told
    assert "PRIVATE KEY" not in told


@pytest.mark.req("AR-06", "AT-24")
async def test_the_registrar_never_holds_the_devices_key(scene: Scene) -> None:
    """The device makes it; what is in the plant's database and in all its answers is the public half."""
    made: list[PrivateKey] = []

    def make_key(kind: str) -> PrivateKey:
        made.append(enrolling.make_key(kind))
        return made[-1]

    assert (await scene.onboard(await scene.device(), make_key=make_key)).is_operational
    (key,) = made
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    raw = key.private_numbers().private_value.to_bytes(32, "big")
    for path in scene.folder.glob("*.sqlite*"):
        assert raw not in path.read_bytes(), path.name


EVIL = '\n{"level": "critical", "event": "owned"}\r\n\x1b[2J\x1b]0;owned\x07\u202e</td><script>'


@pytest.mark.req("AT-10", "VS-08")
async def test_nobody_forges_a_line_in_a_log_or_journal(
    scene: Scene, everything_told: pytest.CaptureFixture[str]
) -> None:
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.SERIAL_NUMBER, "SN-EVIL"),
            x509.NameAttribute(NameOID.COMMON_NAME, EVIL[:60], _ASN1Type.UTF8String),
        ]
    )
    counterfeit = Manufacturer(name="Counterfeit Maker").idevid("SN-EVIL", subject=subject, key=key_for("evil"))
    own = scene.factory.maker.idevid(fresh(), subject=subject, key=key_for("evil"), masa_url=scene.factory.authority)
    for device in (counterfeit, own):
        async with scene.plant.connect(device) as line:
            await line.post(f"{BRSKI}/requestvoucher", b"\x30\x00", CMS)
            await line.get("/%0a%1b[2J" + "x" * 50)
    async with scene.vouched() as line:
        report = b'{"version": 1, "status": false, "reason": "%s", "%s": 1}'
        text = EVIL.encode("unicode_escape").replace(b"\\x", b"\\u00").replace(b'"', b'\\"')
        assert (await line.post(f"{BRSKI}/voucher_status", report % (text, text), "application/json")).status == 200
        journal = await scene.plant.store.journal()
        device_row = await scene.plant.device(line.serial)
    assert device_row.state is State.FAILED
    for stored in (*(entry.detail + entry.reason + entry.address for entry in journal), device_row.reason):
        assert not any(ord(character) < 32 or character in "\x7f\u202e" for character in stored)
    told = everything_told.readouterr().err
    lines = [each for each in told.splitlines() if each]
    assert all(each.startswith("{") and each.endswith("}") for each in lines)
    assert not [each for each in lines if '"level": "critical"' in each.replace('\\"', "")]
    assert "\x1b" not in told


@pytest.mark.req("AT-10")
async def test_an_error_tells_a_stranger_a_slug_and_nothing_else(scene: Scene) -> None:
    device = await scene.factory.device(owner=None)
    async with scene.plant.connect(device) as line:
        answers = [
            await line.request_voucher(),
            await line.post(f"{BRSKI}/requestvoucher", b"secret \x00 body", CMS),
            await line.get("/.well-known/est/csrattrs"),
        ]
    for answer in answers:
        said = answer.body.decode()
        assert said.replace("-", "").strip().isalpha(), "one slug"
        assert not {"Server", "X-Powered-By"} & set(answer.headers)


@pytest.mark.req("RS-02")
@pytest.mark.parametrize(
    "name", ['Maker"\n[policy]\nowned = "audit-only"\n#', "Maker '''", "Maker\\", "Ünïted ${HOME} %(x)s"]
)
def test_a_name_is_no_setting(tmp_path: Path, name: str) -> None:
    """`init` writes what it is told into a settings file; it can only ever be a text there."""
    from brski_common.errors import BrskiError
    from brski_masa.serving import load_settings

    folder = tmp_path / "masa"
    plan = masa_founding.Plan(
        folder=folder, name=name, host="127.0.0.1", port=0, masa_url="127.0.0.1:9443", kind="P-256"
    )
    try:
        masa_founding.found(plan, NOW)
    except (BrskiError, ValueError):
        return
    written = tomllib.loads((folder / "masa.toml").read_text(encoding="utf-8"))
    assert "owned" not in written.get("policy", {})
    settings = load_settings(folder / "masa.toml")
    assert settings.policy.owned.value == "owner-only"
    assert settings.maker.name == name


@pytest.mark.req("AR-06")
async def test_what_a_device_keeps_only_its_owner_reads(scene: Scene) -> None:
    outcome = await scene.onboard(device := await scene.device())
    assert outcome.enrollment is not None
    assert outcome.enrollment.folder is not None
    for path in outcome.enrollment.folder.iterdir():
        assert path.stat().st_mode & 0o077 == 0, path.name
    pledge = scene.pledge(device)
    pledge.reset()
    left = [path for path in pledge_folder(scene, device).rglob("*") if path.is_file()]
    assert left == [], "a reset leaves nothing of the LDevID"


def pledge_folder(scene: Scene, device: Credential) -> Path:
    return scene.folder / f"pledge-{serial_of(device)}"
