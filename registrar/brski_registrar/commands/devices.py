"""`device`, `voucher` and `cert`: what became of each device, and the operator's say in it."""

import getpass
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from brski_common import cli
from brski_common.artifact import Format
from brski_common.certificates import common_name, load_certificate, load_pem, to_pem
from brski_common.errors import Misconfigured, Unknown
from brski_registrar import operating
from brski_registrar.commands.advising import Advised, advised, find_advised, maker_of, show_turned_away
from brski_registrar.commands.opening import (
    DEFAULT_CONFIG,
    Config,
    Maker,
    Serial,
    desk,
    find_device,
)
from brski_registrar.lifecycle import EST_OPEN, State
from brski_registrar.policy import ASK_AGAIN_SECONDS
from brski_registrar.records import Device, Entry, Issued, StoredVoucher
from brski_registrar.runtime import ask_secret, assembled, load_settings, utc_now

# What an approval leads to, by the state that the device is in then.
_NEXT: Final = {
    State.HELD: f"will be admitted at its next try, within {ASK_AGAIN_SECONDS:g} seconds",
    State.CLEARED: f"will get its certificate at its next try, within {ASK_AGAIN_SECONDS:g} seconds",
    State.APPROVED: "may enroll: its audit log is overruled",
}
OVERRULED: Final = "may renew: its audit log is overruled"
BARRED: Final = "no renewal: its audit log was refused"
STAYS_BARRED: Final = f"{BARRED}, until it is accepted, or overruled by `device approve`"
MAX_ADVICE: Final = 10  # lines
FORMATS: Final = {each.name.lower(): each for each in Format}

devices = cli.application("The devices that asked to join, and the journal about each.")
vouchers = cli.application("The vouchers that MASAs issued for devices here.")
certificates = cli.application("The certificates that were issued to devices.")


@devices.command("list", epilog="Example: `brski-registrar device list --state denied`")
def list_devices(
    config: Config = DEFAULT_CONFIG,
    state: Annotated[
        State | None, typer.Option(help="Only those in this state, such as held or denied.", metavar="STATE")
    ] = None,
    as_json: cli.Json = False,
) -> None:
    """List the devices that asked here, the last to change first."""

    async def work() -> list[Device]:
        async with desk(config) as at:
            return [device for device in await at.store.devices() if state in (None, device.state, device.state.told)]

    found = cli.run_async(work())
    empty = "no device has asked yet" if state is None else f"no device is {state}"
    columns = ("serial number", "manufacturer", "state", "changed", "reason")
    rows = [(each.serial_number, each.manufacturer, each.state.told, each.changed_at, _why(each)) for each in found]
    cli.answer(
        [_device_facts(each) for each in found],
        as_json,
        lambda: cli.table(columns, rows, empty=empty),
    )


@devices.command("knocking", epilog="Example: `brski-registrar device knocking`")
def list_knocking(config: Config = DEFAULT_CONFIG, as_json: cli.Json = False) -> None:
    """List who was turned away and has not been admitted since, the last first; what a stranger says may be a lie."""

    async def work() -> list[Advised]:
        async with desk(config) as at:
            return await advised(at, config)

    found = cli.run_async(work())
    knocks = [each.knock for each in found]
    rows = [
        (each.serial_number, maker_of(each), each.reason, each.address, each.first_at, each.last_at, each.count)
        for each in knocks
    ]
    columns = ("serial number", "manufacturer", "reason", "from", "first", "last", "times")

    def human() -> None:
        cli.table(columns, rows, empty="nobody was turned away who still waits")
        lines = (each.line() for each in found if each.advice)
        for line in list(dict.fromkeys(lines))[:MAX_ADVICE]:
            cli.show(line)

    cli.answer([each.facts() for each in found], as_json, human)


@devices.command("show", epilog="Example: `brski-registrar device show SN-0001`")
def show_device(
    serial: Serial, config: Config = DEFAULT_CONFIG, manufacturer: Maker = None, as_json: cli.Json = False
) -> None:
    """Show one device: where it stands, its certificates, all the journal says; or why it was turned away."""

    async def work() -> Advised | tuple[Device, tuple[StoredVoucher, ...], tuple[Issued, ...], tuple[Entry, ...]]:
        async with desk(config) as at:
            try:
                device = await find_device(at.store, serial, manufacturer)
            except Unknown:
                if (knock := await find_advised(at, config, serial, manufacturer)) is None:
                    raise
                return knock
            issued = await at.store.issued_to(device.id)
            return device, await at.store.vouchers(device.id), issued, await at.store.journal(device.id)

    found = cli.run_async(work())
    if isinstance(found, Advised):
        show_turned_away(found, as_json=as_json)
        return
    device, handed, issued, entries = found
    value = _device_facts(device) | {
        "vouchers": [_voucher_facts(each) for each in handed],
        "certificates": [_certificate_facts(each) for each in issued],
        "journal": [each._asdict() for each in entries],
    }

    def human() -> None:
        bar = {"is_barred": STAYS_BARRED if device.is_barred else None}
        cli.facts((_device_facts(device) | bar).items())
        cli.show(f"\n{_counted(len(handed), 'voucher')}, {_counted(len(issued), 'certificate')}\n")
        rows = [(each.at, each.event, each.reason, each.detail, each.address) for each in entries]
        cli.table(("at", "event", "reason", "detail", "from"), rows, empty="the journal says nothing")

    cli.answer(value, as_json, human)


@devices.command("approve", epilog="Example: `brski-registrar device approve SN-0001`")
def approve_device(
    serial: Serial, config: Config = DEFAULT_CONFIG, manufacturer: Maker = None, as_json: cli.Json = False
) -> None:
    """Let a device go on: admit it, clear its certificate request, or overrule its audit log."""

    async def work() -> tuple[Device, Device]:
        async with desk(config) as at:
            device = await find_device(at.store, serial, manufacturer)
            return device, await operating.approve(at.store, at.policies, device, by=_operator(), now=utc_now())

    before, device = cli.run_async(work())
    words = f"{cli.cell(device.serial_number)} {_next(before, device)}"
    cli.answer(_device_facts(device), as_json, lambda: cli.show(words))


@devices.command("block", epilog='Example: `brski-registrar device block SN-0001 --reason "stolen"`')
def block_device(
    serial: Serial,
    config: Config = DEFAULT_CONFIG,
    manufacturer: Maker = None,
    reason: Annotated[str, typer.Option(help="Why, for the journal.")] = "",
    as_json: cli.Json = False,
) -> None:
    """Shut a device out: it gets no voucher, no certificate and no renewal."""

    async def work() -> Device:
        async with desk(config) as at:
            device = await find_device(at.store, serial, manufacturer)
            return await operating.block(at.store, device, reason=reason, by=_operator(), now=utc_now())

    _done(cli.run_async(work()), "is", as_json)


@devices.command("unblock", epilog="Example: `brski-registrar device unblock SN-0001`")
def unblock_device(
    serial: Serial, config: Config = DEFAULT_CONFIG, manufacturer: Maker = None, as_json: cli.Json = False
) -> None:
    """Take a block away: what was operational is so again, any other may ask again; a refused audit log stays so."""

    async def work() -> Device:
        async with desk(config) as at:
            device = await find_device(at.store, serial, manufacturer)
            return await operating.unblock(at.store, device, by=_operator(), now=utc_now())

    _done(cli.run_async(work()), "may ask again: it is", as_json)


@vouchers.command("list", epilog="Example: `brski-registrar voucher list SN-0001`")
def list_vouchers(
    serial: Serial, config: Config = DEFAULT_CONFIG, manufacturer: Maker = None, as_json: cli.Json = False
) -> None:
    """List the vouchers that a device got."""

    async def work() -> tuple[StoredVoucher, ...]:
        async with desk(config) as at:
            return await at.store.vouchers((await find_device(at.store, serial, manufacturer)).id)

    found = cli.run_async(work())
    rows = [(each.id, each.received_at, each.assertion, each.media_type, each.nonce or "nonceless") for each in found]
    cli.answer(
        [_voucher_facts(each) for each in found],
        as_json,
        lambda: cli.table(("id", "received", "assertion", "format", "nonce"), rows, empty="it got none"),
    )


@vouchers.command(
    "prefetch", epilog="Example: `brski-registrar voucher prefetch SN-0001 --manufacturer 'Example Maker'`"
)
def prefetch_voucher(
    serial: Serial,
    manufacturer: Annotated[str, typer.Option(help="Its maker, by the name in the policy.")],
    config: Config = DEFAULT_CONFIG,
    idevid: Annotated[Path | None, typer.Option(help="Its IDevID certificate, PEM: names the MASA and issuer.")] = None,
    form: Annotated[str, typer.Option("--format", help="cms, jws or cose, as the device will ask for.")] = "cms",
    as_json: cli.Json = False,
) -> None:
    """Fetch a nonceless voucher now, for a device that comes when no MASA can be reached (RFC 8995, 7.3)."""
    if form not in FORMATS:
        raise Misconfigured("format-unknown", f"{form}: allowed are {', '.join(FORMATS)}")
    certificate = load_pem(cli.read_input(idevid))[0] if idevid else None

    async def work() -> None:
        async with assembled(load_settings(config), ask_secret) as parts:
            await parts.service.prefetch(manufacturer, serial, certificate=certificate, artifact_format=FORMATS[form])

    cli.run_async(work())
    value = {"serial_number": serial, "manufacturer": manufacturer, "format": form}
    cli.answer(value, as_json, lambda: cli.show(f"a voucher waits for {serial}; it is on the allow-list"))


@certificates.command("list", epilog="Example: `brski-registrar cert list SN-0001`")
def list_certificates(
    serial: Serial, config: Config = DEFAULT_CONFIG, manufacturer: Maker = None, as_json: cli.Json = False
) -> None:
    """List the certificates of a device."""

    async def work() -> tuple[Issued, ...]:
        async with desk(config) as at:
            return await at.store.issued_to((await find_device(at.store, serial, manufacturer)).id)

    found = cli.run_async(work())
    rows = [(each.fingerprint, each.serial, each.issued_at, each.not_after, each.revoked_at) for each in found]
    columns = ("SHA-256 fingerprint", "serial", "issued", "ends", "revoked")
    cli.answer(
        [_certificate_facts(each) for each in found],
        as_json,
        lambda: cli.table(columns, rows, empty="it has no certificate"),
    )


@certificates.command("show", epilog="Example: `brski-registrar cert show SN-0001 > device.pem`")
def show_certificate(
    serial: Serial, config: Config = DEFAULT_CONFIG, manufacturer: Maker = None, as_json: cli.Json = False
) -> None:
    """Write the newest certificate of a device as PEM."""

    async def work() -> tuple[Issued, ...]:
        async with desk(config) as at:
            return await at.store.issued_to((await find_device(at.store, serial, manufacturer)).id)

    found = cli.run_async(work())
    if not found:
        raise Unknown("certificate-unknown", f"{serial} has no certificate")
    text = to_pem(load_certificate(found[-1].der)).decode()
    cli.answer(_certificate_facts(found[-1]) | {"pem": text}, as_json, lambda: cli.show(text.rstrip()))


@certificates.command(
    "revoke", epilog="Example: `brski-registrar cert revoke 3f0c…` (the fingerprint that `cert list` shows)"
)
def revoke_certificate(
    fingerprint: Annotated[str, typer.Argument(help="SHA-256 fingerprint, hex.")],
    config: Config = DEFAULT_CONFIG,
    as_json: cli.Json = False,
) -> None:
    """Take a certificate out of use: the registrar renews it no more."""
    plain = fingerprint.replace(":", "").lower()

    async def work() -> bool:
        async with desk(config) as at:
            return await at.store.revoke(plain, utc_now())

    if not cli.run_async(work()):
        raise Unknown("certificate-unknown", f"{fingerprint[:80]}: none in use; `cert list SERIAL` shows them")
    cli.answer({"fingerprint": plain, "revoked": True}, as_json, lambda: cli.show(f"revoked {plain}"))


def _done(device: Device, words: str, as_json: bool) -> None:
    done = f"{cli.cell(device.serial_number)} {words} {device.state.told}"
    cli.answer(_device_facts(device), as_json, lambda: cli.show(_with_bar(done, device)))


def _next(before: Device, device: Device) -> str:
    """What an approval leads to."""
    if before.is_barred and not device.is_barred and device.state not in EST_OPEN:
        return OVERRULED
    return _with_bar(_NEXT.get(device.state, f"is {device.state}"), device)


def _with_bar(words: str, device: Device) -> str:
    return f"{words}; {STAYS_BARRED}" if device.is_barred else words


def _why(device: Device) -> str:
    """Why a device stands where it does, and the bar where its state does not say it."""
    if device.is_barred and device.state is not State.DENIED:
        return f"{BARRED}; {device.reason}" if device.reason else BARRED
    return device.reason


def _counted(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _operator() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return "somebody without a name here"


def _device_facts(device: Device) -> dict[str, Any]:
    return {
        "id": device.id,
        "serial_number": device.serial_number,
        "manufacturer": device.manufacturer,
        "state": device.state.told,
        "is_barred": device.is_barred,
        "reason": device.reason,
        "address": device.address,
        "masa": device.masa,
        "idevid": common_name(load_certificate(device.certificate)) if device.certificate else "",
        "idevid_sha256": device.fingerprint,
        "created_at": device.created_at,
        "changed_at": device.changed_at,
    }


def _voucher_facts(voucher: StoredVoucher) -> dict[str, Any]:
    return {
        "id": voucher.id,
        "media_type": voucher.media_type,
        "nonce": voucher.nonce,
        "assertion": voucher.assertion,
        "received_at": voucher.received_at,
    }


def _certificate_facts(issued: Issued) -> dict[str, Any]:
    return {
        "fingerprint": issued.fingerprint,
        "serial": issued.serial,
        "issued_at": issued.issued_at,
        "not_after": issued.not_after,
        "revoked_at": issued.revoked_at,
    }
