"""What all commands of the MASA share: options, the way to the database, and how things are shown."""

import base64
import shlex
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from cryptography import x509

from brski_common import cli, keys
from brski_common.certificates import load_pem
from brski_common.database import Database
from brski_common.errors import Malformed, Misconfigured, Unknown
from brski_masa.audit import Link
from brski_masa.parties import Device, Owner
from brski_masa.settings import Settings
from brski_masa.store import Store

T = TypeVar("T")

Config = Annotated[Path, typer.Option("--config", "-c", help="The settings file.", show_default="masa.toml")]
Serial = Annotated[str | None, typer.Argument(metavar="SERIAL", help="The device's serial number.", show_default=False)]
SerialOption = Annotated[str | None, typer.Option("--serial", metavar="SERIAL", help="The same as an option.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="Show no more than these.")]
SharedKey = Annotated[
    bool,
    typer.Option(
        "--unsafe-shared-key",
        help="Register a key that another device has: whoever holds it can pass for both.",
        show_default=False,
    ),
]
DEFAULT_CONFIG = Path("masa.toml")
DEFAULT_LIMIT = 1000
SHORT_DIGITS = 12  # of a hash, enough to tell one from another in a table


def show_rows(rows: Sequence[Mapping[str, Any]], columns: tuple[str, ...], as_json: bool, *, empty: str) -> None:
    """A list: every member as JSON, or a table of some columns."""
    cli.answer(
        rows, as_json, lambda: cli.table(columns, [[row.get(name) for name in columns] for row in rows], empty=empty)
    )


def show_one(row: Mapping[str, Any], as_json: bool) -> None:
    """One thing: as JSON, or a line for each member."""
    cli.answer(row, as_json, lambda: cli.facts(row.items()))


def with_store(settings: Settings, work: Callable[[Store], Awaitable[T]]) -> T:
    """Run one piece of work on the database of these settings."""

    async def run() -> T:
        Database.check_exists(settings.database)  # an empty log in place of a lost one would look in order
        store = Store.open(settings.database)
        try:
            return await work(store)
        finally:
            await store.close()

    return cli.run_async(run())


async def the_device(store: Store, serial: str) -> Device:
    """The one device with this serial number; raises Unknown."""
    found = await store.find_devices(serial)
    if not found:
        raise Unknown("device-unknown", f"no device with serial number {serial}")
    if len(found) > 1:
        raise Unknown("serial-number-ambiguous", f"{len(found)} devices of different issuers have {serial}")
    return found[0]


def device_row(device: Device) -> dict[str, Any]:
    """A device as JSON."""
    return {
        "serial-number": device.serial_number,
        "owner": None if device.owner is None else device.owner.name,
        "policy": None if device.policy is None else device.policy.value,
        "blocked": device.blocked,
        "claimed": device.last_pinned_key is not None,
        "formats": [each.name.lower() for each in device.formats],
        "content-type": device.content_type,
        "idevid-issuer": base64.b64encode(device.idevid_issuer).decode(),  # as in the manifest of `idevid`
    }


def owner_row(owner: Owner) -> dict[str, Any]:
    """An owner as JSON."""
    known = [f"{each.kind.value} {each.value}" for each in owner.identities]
    return {"owner": owner.name, "pin": owner.pin.value, "nonceless": owner.nonceless, "identities": known}


def entry_row(link: Link) -> dict[str, Any]:
    """A voucher as JSON."""
    entry = link.entry
    return {
        "number": link.number,
        "date": entry.date,
        "serial-number": entry.serial_number,
        "assertion": entry.assertion.value,
        "owner": entry.owner,
        "domain-id": entry.domain_id,
        "nonce": entry.nonce,
        "expires-on": entry.expires_on,
        "renewal": entry.renewal,
        "requester": entry.requester,
        "hash": link.hash,
    }


def show_entries(links: Sequence[Link], *, empty: str) -> None:
    """Vouchers as a table that fits a terminal; `auditlog show` and --json have the hashes whole."""
    columns = ("number", "date", "assertion", "domain-id", "nonce", "requester")
    cli.table(columns, [_entry_cells(each) for each in links], empty=empty)


def _entry_cells(link: Link) -> tuple[object, ...]:
    entry = link.entry
    kind, _, name = entry.requester.partition(":")
    requester = f"{kind}:{_short(name)}" if kind == "tls" else entry.requester
    domain, has_nonce = _short(entry.domain_id.hex()), entry.nonce is not None
    return link.number, entry.date, entry.assertion.value, domain, has_nonce, requester


def _short(digits: str) -> str:
    return digits if len(digits) <= SHORT_DIGITS else f"{digits[:SHORT_DIGITS]}…"


def the_serial(argument: str | None, option: str | None) -> str:
    """The serial number, given as the argument or with --serial; else wrong usage."""
    serial = some_serial(argument, option)
    if serial is None:
        raise typer.BadParameter("give the device's serial number")
    return serial


def some_serial(argument: str | None, option: str | None) -> str | None:
    """The serial number, if one is given; two of them are wrong usage."""
    if argument is not None and option is not None and argument != option:
        raise typer.BadParameter(f"two serial numbers: {argument} and {option}")
    return option if argument is None else argument


async def owner_advice(store: Store, settings: Settings, name: str | None) -> str | None:
    """What to add so that somebody can be recognised as this owner; None if nothing is missing."""
    owner = next((each for each in await store.list_owners() if each.name == name), None)
    kinds = set() if owner is None else {each.kind for each in owner.identities}
    if owner is None or kinds & set(settings.authentication.accept):
        return None
    if kinds:
        known_by = ", ".join(sorted(kinds))
        return f"{owner.name} is known only by {known_by}: add that to `accept` in [authentication] of the settings"
    command = f"brski-masa owner add {shlex.quote(owner.name)} --anchor domain-ca.pem"
    return f"nobody can be recognised as {owner.name} yet: add the customer's domain CA with `{command}`"


def warn(advice: str | None) -> None:
    """Tell a person on standard error what is still missing, if anything is."""
    if advice is not None:
        cli.say(f"brski-masa: warning: {advice}")


def read_certificates(path: Path) -> tuple[x509.Certificate, ...]:
    """The certificates in a PEM file, or on standard input for `-`; raises Misconfigured."""
    try:
        return load_pem(cli.read_input(path))
    except Malformed as error:
        raise Misconfigured("certificates-unreadable", f"{path}: {error.detail}") from error


def key_kind(text: str) -> keys.Kind:
    """The kind of key a person means."""
    kinds: dict[str, keys.Kind] = {"p-256": "P-256", "p-384": "P-384", "rsa-2048": "RSA-2048", "ed25519": "Ed25519"}
    return kinds[choice(text.lower(), list(kinds))]


def choice(value: str, allowed: list[str]) -> str:
    """`value`, if it is one of these; else wrong usage."""
    if value not in allowed:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(allowed)}")
    return value
