"""What all commands share: options, the way to the database, and answers for people or programs.

Answers go to standard output, as tables or with `--json` as one JSON document; notes go to standard error.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from brski_common import keys, strictjson
from brski_common.errors import Malformed, Unknown
from brski_masa.audit import Link
from brski_masa.policy import Device, Owner
from brski_masa.settings import Settings
from brski_masa.store import Store

T = TypeVar("T")

Config = Annotated[Path, typer.Option("--config", "-c", help="the settings file", show_default="masa.toml")]
Json = Annotated[bool, typer.Option("--json", help="machine output: one JSON document on standard output")]
Serial = Annotated[str, typer.Option("--serial", help="the device's serial number")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="show no more than these")]
DEFAULT_CONFIG = Path("masa.toml")

notes = Console(stderr=True)
out = Console()


def show(value: Any, *, as_json: bool, table: Callable[[], Table]) -> None:  # noqa: ANN401 -- any JSON value
    """One answer, for a program or for a person."""
    if as_json:
        typer.echo(strictjson.dumps(value).decode())
    else:
        out.print(table())


def with_store(settings: Settings, work: Callable[[Store], Awaitable[T]]) -> T:
    """Run one piece of work on the database of these settings."""

    async def run() -> T:
        store = Store.open(settings.database)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(run())


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
        "idevid-issuer": device.idevid_issuer.hex(),
    }


def owner_row(owner: Owner) -> dict[str, Any]:
    """An owner as JSON."""
    known = [f"{each.kind.value} {each.value[:16]}" for each in owner.identities]
    return {"owner": owner.name, "pin": owner.pin.value, "nonceless": owner.nonceless, "identities": known}


def entry_row(link: Link) -> dict[str, Any]:
    """A voucher as JSON."""
    entry = link.entry
    return {
        "number": link.number,
        "date": entry.date.isoformat(),
        "serial-number": entry.serial_number,
        "assertion": entry.assertion.value,
        "owner": entry.owner,
        "domain-id": entry.domain_id.hex(),
        "nonce": entry.nonce,
        "expires-on": None if entry.expires_on is None else entry.expires_on.isoformat(),
        "renewal": entry.renewal,
        "requester": entry.requester,
        "hash": link.hash.hex(),
    }


def many(columns: tuple[str, ...], rows: Sequence[Mapping[str, Any]]) -> Table:
    """A table with a row for each."""
    table = Table(*columns)
    for row in rows:
        table.add_row(*(_cell(row.get(column)) for column in columns))
    return table


def one(title: str, row: Mapping[str, Any]) -> Table:
    """A table of names and values."""
    table = Table(title, "", show_header=True)
    for name, value in row.items():
        table.add_row(name, _cell(value))
    return table


def _cell(value: Any) -> str:  # noqa: ANN401 -- any JSON value
    if isinstance(value, list):
        return "\n".join(map(_cell, value))
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(item)}" for name, item in value.items() if item is not None)
    return "-" if value is None else str(value)


def key_kind(text: str) -> keys.Kind:
    """The kind of key a person means."""
    kinds: dict[str, keys.Kind] = {"p-256": "P-256", "p-384": "P-384", "rsa-2048": "RSA-2048", "ed25519": "Ed25519"}
    return kinds[choice(text.lower(), list(kinds))]


def choice(value: str, allowed: list[str]) -> str:
    """`value`, if it is one of these; else wrong usage."""
    if value not in allowed:
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(allowed)}")
    return value


def read(path: Path) -> bytes:
    """A file the user named; raises Malformed."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Malformed("file-unreadable", f"{path}: {error.strerror}") from error
