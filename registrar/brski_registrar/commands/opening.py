"""What the verbs share: options, settings, the open database."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from typer.core import TyperCommand

from brski_common.database import Database
from brski_common.errors import Misconfigured, Unknown
from brski_registrar.policy_store import PolicyStore
from brski_registrar.records import Device
from brski_registrar.runtime import load_settings, opened
from brski_registrar.store import Store

Config = Annotated[Path, typer.Option("--config", help="The settings file that `init` wrote.")]
Serial = Annotated[str, typer.Argument(help="Serial number of the device.", metavar="SERIAL")]
Maker = Annotated[
    str | None, typer.Option("--manufacturer", help="Its maker, where several have devices of that number.")
]
DEFAULT_CONFIG: Final = Path("registrar.toml")


class Plain(TyperCommand):
    """A command with long options: its help is not drawn as a table, which would cut their names at 80 columns."""

    def __init__(self, *arguments: Any, **named: Any) -> None:  # noqa: ANN401 -- typer's own arguments, handed on
        super().__init__(*arguments, **named | {"rich_markup_mode": None})


@dataclass(frozen=True, slots=True)
class Desk:
    """What an operator works on."""

    store: Store
    policies: PolicyStore


@asynccontextmanager
async def desk(config: Path) -> AsyncIterator[Desk]:
    """Store and policy of the registrar with this settings file; the registrar may be running."""
    settings = load_settings(config)
    Database.check_exists(settings.database.url)  # an empty plant in place of a lost one would look in order
    async with opened(settings) as database:
        yield Desk(Store(database), PolicyStore(database))


async def find_device(store: Store, serial_number: str, manufacturer: str | None) -> Device:
    """The device of that number; raises Unknown, and Misconfigured where it could be one of several."""
    found = [device for device in await store.find(serial_number) if manufacturer in (None, device.manufacturer)]
    if not found:
        raise Unknown("device-unknown", f"no device {serial_number} has asked here; `device list` shows those that did")
    if len(found) > 1 and len({device.manufacturer for device in found}) > 1:
        makers = ", ".join(device.manufacturer for device in found)
        raise Misconfigured("device-ambiguous", f"{serial_number} is a device of {makers}: add --manufacturer")
    return max(found, key=lambda device: device.changed_at)
