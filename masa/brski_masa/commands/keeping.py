"""Commands that keep the registry: `device` and `owner`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from brski_common import cli
from brski_common.artifact import Format
from brski_common.certificates import common_name, is_ca, serial_number
from brski_masa import linting, serving
from brski_masa.audit import Link
from brski_masa.authentication import check_user_name, new_password, verifier
from brski_masa.commands.showing import (
    DEFAULT_CONFIG,
    DEFAULT_LIMIT,
    Config,
    Limit,
    Serial,
    SerialOption,
    SharedKey,
    choice,
    device_row,
    entry_row,
    owner_advice,
    owner_row,
    read_certificates,
    show_entries,
    show_one,
    show_rows,
    the_device,
    the_serial,
    warn,
    with_store,
)
from brski_masa.parties import Device, DevicePolicy, IdentityKind, Pin
from brski_masa.service import CONTENT_TYPES
from brski_masa.store import Store

device_app = cli.application("The registry of devices. Example: `brski-masa device list`")
owner_app = cli.application("Customers. Example: `brski-masa owner add 'Example Plant' --anchor domain-ca.pem`")


# device


@device_app.command("list", epilog="Example: `brski-masa device list --owner 'Example Plant'`")
def list_devices(
    owner: Annotated[str | None, typer.Option(help="only those of this owner")] = None,
    limit: Limit = DEFAULT_LIMIT,
    config: Config = DEFAULT_CONFIG,
    as_json: cli.Json = False,
) -> None:
    """Show the devices, newest first."""
    found = with_store(serving.load_settings(config), lambda store: store.list_devices(owner=owner, limit=limit))
    rows = [device_row(each) for each in found]
    show_rows(rows, ("serial-number", "owner", "policy", "blocked", "claimed"), as_json, empty="none")


@device_app.command("show", epilog="Example: `brski-masa device show 0001 --json`")
def show_device(
    serial: Serial = None,
    serial_option: SerialOption = None,
    config: Config = DEFAULT_CONFIG,
    as_json: cli.Json = False,
) -> None:
    """Show one device with its vouchers, and in what its IDevID departs from the standard."""
    number = the_serial(serial, serial_option)

    async def work(store: Store) -> tuple[dict[str, Any], list[Link]]:
        device = await the_device(store, number)
        findings = linting.lint(await store.certificate_of(device.id))
        row = device_row(device) | {"findings": [str(each) for each in findings]}
        return row, await store.list_entries(serial=number)

    row, entries = with_store(serving.load_settings(config), work)

    def human() -> None:
        cli.facts(row.items())
        show_entries(entries, empty="\nno voucher was issued for it yet")

    cli.answer(row | {"vouchers": [entry_row(each) for each in entries]}, as_json, human)


@device_app.command("add", epilog="Example: `brski-masa device add made-elsewhere.pem --owner 'Example Plant'`")
def add_device(
    certificates: Annotated[
        Path, typer.Argument(metavar="PEM", help="PEM file with the IDevIDs of one or many devices")
    ],
    owner: Annotated[str | None, typer.Option(help="who bought them; a new owner is added")] = None,
    unsafe_shared_key: SharedKey = False,
    config: Config = DEFAULT_CONFIG,
    as_json: cli.Json = False,
) -> None:
    """Register devices whose IDevIDs were made elsewhere. CA certificates in the file are passed over."""
    settings = serving.load_settings(config)
    chosen = [each for each in read_certificates(certificates) if not is_ca(each)]

    async def work(store: Store) -> str | None:
        for each in chosen:
            await store.register(each, serving.utc_now(), owner=owner, unsafe_shared_key=unsafe_shared_key)
        return await owner_advice(store, settings, owner)

    advice = with_store(settings, work)
    rows = [{"serial-number": serial_number(each), "owner": owner} for each in chosen]
    show_rows(rows, ("serial-number", "owner"), as_json, empty="none")
    warn(advice)


@device_app.command("assign", epilog="Example: `brski-masa device assign 0001 --owner 'Example Plant'`")
def assign_device(
    serial: Serial = None,
    serial_option: SerialOption = None,
    owner: Annotated[str | None, typer.Option(help="the new owner")] = None,
    nobody: Annotated[bool, typer.Option("--nobody", help="back in stock: it has no owner")] = False,
    config: Config = DEFAULT_CONFIG,
    as_json: cli.Json = False,
) -> None:
    """Change the owner of a device: the one before gets no more vouchers, but may still read the log."""
    if (owner is None) != nobody:
        raise typer.BadParameter("give --owner NAME or --nobody")
    number, settings = the_serial(serial, serial_option), serving.load_settings(config)

    async def work(store: Store) -> tuple[Device, str | None]:
        await store.assign((await the_device(store, number)).id, owner, serving.utc_now())
        return await the_device(store, number), await owner_advice(store, settings, owner)

    device, advice = with_store(settings, work)
    _show_device(device, as_json=as_json)
    warn(advice)


@device_app.command("block", epilog="Example: `brski-masa device block 0001 --reason 'reported stolen'`")
def block_device(
    serial: Serial = None,
    serial_option: SerialOption = None,
    reason: Annotated[str, typer.Option(help="for the log; the registrar does not see it")] = "blocked",
    lift: Annotated[bool, typer.Option("--lift", help="let it have vouchers again")] = False,
    config: Config = DEFAULT_CONFIG,
    as_json: cli.Json = False,
) -> None:
    """Give out no more vouchers for a device, or do so again."""
    _change(config, the_serial(serial, serial_option), as_json=as_json, blocked=None if lift else reason)


@device_app.command("set", epilog="Example: `brski-masa device set 0001 --policy first-come --formats cms,jws`")
def set_device(
    serial: Serial = None,
    serial_option: SerialOption = None,
    policy: Annotated[str | None, typer.Option(help="owner-only, refuse, first-come, audit-only or default")] = None,
    formats: Annotated[str | None, typer.Option(help="what its firmware reads: cms, jws, cose, or any")] = None,
    content_type: Annotated[str | None, typer.Option(help="CMS content type: voucher, data or default")] = None,
    config: Config = DEFAULT_CONFIG,
    as_json: cli.Json = False,
) -> None:
    """Set what is special about a device."""
    values: dict[str, str | None] = {}
    if policy is not None:
        values["policy"] = None if policy == "default" else choice(policy, [each.value for each in DevicePolicy])
    if formats is not None:
        values["formats"] = None if formats == "any" else ",".join(_formats(formats))
    if content_type is not None:
        known = CONTENT_TYPES
        values["content_type"] = None if content_type == "default" else known[choice(content_type, list(known))]
    if not values:
        raise typer.BadParameter("give at least one of --policy, --formats, --content-type")
    _change(config, the_serial(serial, serial_option), as_json=as_json, **values)


def _formats(text: str) -> list[str]:
    return [choice(each.strip().upper(), [known.name for known in Format]) for each in text.split(",")]


def _change(config: Path, serial: str, *, as_json: bool, **values: str | None) -> None:
    async def work(store: Store) -> Device:
        await store.change_device((await the_device(store, serial)).id, **values)
        return await the_device(store, serial)

    _show_device(with_store(serving.load_settings(config), work), as_json=as_json)


def _show_device(device: Device, *, as_json: bool) -> None:
    row = device_row(device)
    show_one(row, as_json)


# owner


@owner_app.command("add", epilog="Example: `brski-masa owner add 'Example Plant' --anchor domain-ca.pem`")
def add_owner(
    name: Annotated[str, typer.Argument(metavar="NAME", help="the customer's name")],
    anchor: Annotated[list[Path] | None, typer.Option(help="PEM of its domain CA or registrar certificate")] = None,
    tls_client: Annotated[list[Path] | None, typer.Option(help="PEM of its TLS client certificate")] = None,
    user: Annotated[str | None, typer.Option(help="a user name for HTTP; the password is made and shown once")] = None,
    pin: Annotated[Pin | None, typer.Option(help="which certificate its vouchers pin")] = None,
    nonceless: Annotated[bool | None, typer.Option(help="whether it may have vouchers without a nonce")] = None,
    config: Config = DEFAULT_CONFIG,
    as_json: cli.Json = False,
) -> None:
    """Add a customer, or tell how to recognise its registrars."""
    settings = serving.load_settings(config)
    marks = [(IdentityKind.ANCHOR, path) for path in anchor or ()]
    marks += [(IdentityKind.TLS_CLIENT, path) for path in tls_client or ()]
    certificates = [(kind, certificate) for kind, path in marks for certificate in read_certificates(path)]
    password = None if user is None else new_password()

    async def work(store: Store) -> str | None:
        await store.put_owner(name, serving.utc_now(), pin=pin, nonceless=nonceless)
        for kind, certificate in certificates:
            await store.add_certificate(name, kind, certificate)
        if user is not None and password is not None:
            stored = verifier(check_user_name(user), settings.authentication.realm, password)
            await store.add_user(name, user, stored)
        return await owner_advice(store, settings, name)

    advice = with_store(settings, work)
    answer = {"owner": name, "certificates": [common_name(each) for _, each in certificates], "user": user}
    answer |= {} if password is None else {"password": password}
    show_one(answer, as_json)
    warn(advice)


@owner_app.command("list", epilog="Example: `brski-masa owner list --json`")
def list_owners(config: Config = DEFAULT_CONFIG, as_json: cli.Json = False) -> None:
    """Show the customers and how they are recognised."""
    rows = [owner_row(each) for each in with_store(serving.load_settings(config), lambda store: store.list_owners())]
    show_rows(rows, ("owner", "pin", "nonceless", "identities"), as_json, empty="none")
