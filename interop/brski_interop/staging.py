"""The stage of demo and bench: a maker with its MASA, a plant with its registrar, and devices of every kind.

    FOLDER/masa         what `brski-masa init` makes, and its database
    FOLDER/registrar    what `brski-registrar init` makes, and its database
    FOLDER/pledges/…    a folder per device: its IDevID as the factory left it, its settings, its state
    FOLDER/logs         what each process said

Everything is made through the roles' own libraries, in this process, because a command per device would take seconds.
The MASA runs before the devices are made: its port is in their certificates.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import repeat
from pathlib import Path
from typing import Final, Literal

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from brski_common import issuing, keys
from brski_common.certificates import Credential, to_pem
from brski_common.database import Database
from brski_masa import factory
from brski_masa import founding as masa_founding
from brski_masa.parties import IdentityKind
from brski_masa.store import Store
from brski_registrar import founding as registrar_founding
from brski_registrar.policy import Admission, Manufacturer
from brski_registrar.policy_store import PolicyStore
from brski_registrar.store import MIGRATIONS

MAKER: Final = "Example Maker"
PLANT: Final = "Example Plant"
OTHER_PLANT: Final = "Another Plant"
COUNTERFEITER: Final = "Counterfeit Maker"
HOST: Final = "127.0.0.1"

DeviceRole = Literal["good", "unknown-manufacturer", "not-owned", "not-allowed"]
GOOD: Final[DeviceRole] = "good"
BAD_ROLES: Final[tuple[DeviceRole, ...]] = ("unknown-manufacturer", "not-owned", "not-allowed")


@dataclass(frozen=True, slots=True)
class Device:
    """A device that left the factory."""

    serial: str
    role: DeviceRole
    folder: Path

    @property
    def certificate(self) -> Path:
        """The IDevID, PEM."""
        return self.folder / "idevid.pem"

    @property
    def chain(self) -> Path:
        """The IDevID and the CAs above it, PEM."""
        return self.folder / "chain.pem"

    @property
    def key(self) -> Path:
        """The IDevID's private key, PEM."""
        return self.folder / "key.pem"

    @property
    def state(self) -> Path:
        """Where the pledge keeps what outlives a reboot."""
        return self.folder / "state"


class Stage:
    """The folders, and what is done in them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.masa, self.registrar = folder / "masa", folder / "registrar"
        self.pledges, self.logs = folder / "pledges", folder / "logs"

    @property
    def anchors(self) -> dict[str, Path]:
        """The trust anchors, by the names of demo.json."""
        made = self.masa / "anchors"
        domain = self.registrar / "anchors" / "domain-ca.pem"
        return {
            "masa_voucher": made / "voucher.pem",
            "masa_tls": made / "tls.pem",
            "manufacturer": made / "manufacturer.pem",
            "domain_ca": domain,
        }

    async def found(self, *, interfaces: Sequence[str] = ()) -> None:
        """Make maker and plant: authorities, keys, settings, and the plant's trust in the maker.

        Any free port is taken when they start to serve.
        """
        now = datetime.now(UTC)
        await asyncio.to_thread(self._found, interfaces, now)
        anchors = {name: path.read_text(encoding="ascii") for name, path in self.anchors.items()}
        record = Manufacturer(
            name=MAKER,
            idevid_anchors=anchors["manufacturer"],
            masa_tls_anchors=anchors["masa_tls"],
            voucher_anchors=anchors["masa_voucher"],
            masa_hosts=(f"{HOST}:*",),  # the MASA's port is not known yet
        )
        async with await self._registrar_database() as database:
            await PolicyStore(database).put_manufacturer(record, now)

    def _found(self, interfaces: Sequence[str], now: datetime) -> None:
        self.pledges.mkdir(parents=True, exist_ok=True)
        self.logs.mkdir(exist_ok=True)
        masa = masa_founding.Plan(
            folder=self.masa, name=MAKER, host=HOST, port=0, masa_url=f"{HOST}:9443", kind="P-256"
        )
        masa_founding.found(masa, now)
        plant = registrar_founding.Plan(name=PLANT, hosts=("localhost", HOST), port=0, interfaces=interfaces)
        registrar_founding.found(self.registrar, plant, now)

    async def make_devices(self, masa_authority: str, good: int, *, others: bool = False) -> tuple[Device, ...]:
        """Make devices, sell them and put them on the allow-list; with `others` also one of each bad kind."""
        roles: list[DeviceRole] = [*repeat(GOOD, good), *(BAD_ROLES if others else ())]
        now = datetime.now(UTC)
        maker = _credential(self.masa, "idevid-ca")
        issuers: dict[DeviceRole, Credential] = {"unknown-manufacturer": _counterfeiter(now)} if others else {}
        made = [
            _make_device(self.pledges, number, role, issuers.get(role, maker), masa_authority, now)
            for number, role in enumerate(roles, 1)
        ]
        await self._sell(made, now)
        await self._allow([device for device, _ in made], now)
        return tuple(device for device, _ in made)

    async def _sell(self, made: Sequence[tuple[Device, x509.Certificate]], now: datetime) -> None:
        """Tell the MASA which device is whose."""
        store = await asyncio.to_thread(Store.open, f"sqlite:///{self.masa / 'masa.db'}")
        try:
            await store.put_owner(PLANT, now)
            [root] = x509.load_pem_x509_certificates(self.anchors["domain_ca"].read_bytes())
            await store.add_certificate(PLANT, IdentityKind.ANCHOR, root)
            await asyncio.gather(
                *(
                    store.register(certificate, now, owner=OTHER_PLANT if device.role == "not-owned" else PLANT)
                    for device, certificate in made
                    if device.role != "unknown-manufacturer"
                )
            )
        finally:
            await store.close()

    async def _allow(self, devices: Sequence[Device], now: datetime) -> None:
        """Put devices on the registrar's allow-list."""
        listed = tuple(
            Admission(manufacturer=MAKER, serial_number=device.serial)
            for device in devices
            if device.role in {"good", "not-owned"}
        )
        async with await self._registrar_database() as database:
            await PolicyStore(database).allow_all(listed, now)

    async def _registrar_database(self) -> Database:
        url = f"sqlite:///{self.registrar / 'registrar.sqlite'}"
        return await asyncio.to_thread(lambda: Database.open(url, migrations=MIGRATIONS))


def _make_device(
    pledges: Path, number: int, role: DeviceRole, issuer: Credential, masa_authority: str, now: datetime
) -> tuple[Device, x509.Certificate]:
    serial = f"EX-{now:%Y}-{number:04d}"
    key = keys.generate("P-256")
    wishes = factory.Wishes(serial_number=serial, masa_url=masa_authority, organization=MAKER)
    certificate = factory.issue(issuer, key.public_key(), wishes, now)
    device = Device(serial, role, pledges / factory.folder_name(serial))
    device.folder.mkdir()
    device.certificate.write_bytes(to_pem(certificate))
    device.chain.write_bytes(to_pem(certificate, *issuer.chain))
    # Durability is for devices, not for a stage: `keys.save` would wait for the disk hundreds of times.
    device.key.touch(mode=0o600)
    device.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return device, certificate


def _counterfeiter(now: datetime) -> Credential:
    """A CA that nobody here trusts."""
    key = keys.generate("P-256")
    subject = issuing.name(f"{COUNTERFEITER} Root CA", organization_name=COUNTERFEITER)
    return Credential(key, (issuing.root_ca(key, subject, now=now, lifetime=timedelta(days=365)),))


def _credential(masa: Path, stem: str) -> Credential:
    return keys.load_credential(f"file:{masa / 'keys' / f'{stem}.key.pem'}", masa / "keys" / f"{stem}.chain.pem")
