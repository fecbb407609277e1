"""Commands about what was issued: `voucher` and `auditlog`."""

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

from brski_common import cli
from brski_common.artifact import Format
from brski_common.errors import Misconfigured
from brski_masa import serving
from brski_masa.audit import check_head, verify_chain
from brski_masa.commands.showing import (
    DEFAULT_CONFIG,
    DEFAULT_LIMIT,
    Config,
    Limit,
    Serial,
    SerialOption,
    choice,
    entry_row,
    read_certificates,
    show_one,
    show_rows,
    some_serial,
    the_device,
    the_serial,
    with_store,
)
from brski_masa.store import Store

SomeSerial = Annotated[
    str | None, typer.Argument(metavar="SERIAL", help="Only those of this device.", show_default=False)
]
_HASH: Final = re.compile(r"[0-9A-Fa-f]{64}")  # SHA-256

voucher_app = cli.application("Vouchers. Example: `brski-masa voucher list`")
auditlog_app = cli.application("The audit log. Example: `brski-masa auditlog verify`")


# voucher and auditlog


@voucher_app.command(
    "issue", epilog="Example: brski-masa voucher issue 0001 --pin domain-ca.pem --days 30 --out 0001.vcj"
)
def issue_voucher(
    pin: Annotated[Path, typer.Option(help="PEM of the domain certificate to pin")],
    out_file: Annotated[Path, typer.Option("--out", help="file to write")],
    serial: Serial = None,
    serial_option: SerialOption = None,
    days: Annotated[float, typer.Option(min=0.001, max=3660, help="how long it can be used")] = 30.0,
    voucher_format: Annotated[str, typer.Option("--format", help="cms, jws or cose")] = "cms",
    config: Config = DEFAULT_CONFIG,
    as_json: cli.Json = False,
) -> None:
    """Issue a voucher without a nonce, for a device that will meet no MASA (RFC 8995, 7.4.1). It is logged."""
    number, settings = the_serial(serial, serial_option), serving.load_settings(config)
    chosen = Format[choice(voucher_format.upper(), [each.name for each in Format])]
    certificate = read_certificates(pin)[0]

    async def work(store: Store) -> bytes:
        masa = serving.assemble(settings, store, secret=serving.ask_secret)
        device = await the_device(store, number)
        return await masa.issue_offline(device, certificate, lifetime=timedelta(days=days), answer_format=chosen)

    data = with_store(settings, work)
    try:
        out_file.write_bytes(data)
    except OSError as error:
        raise Misconfigured("file-not-writable", f"{out_file}: {error.strerror}") from error
    answer = {"serial-number": number, "file": str(out_file.absolute()), "format": chosen.name.lower()}
    show_one(answer, as_json)


@voucher_app.command("list", epilog="Example: `brski-masa voucher list 0001`")
def list_vouchers(
    serial: SomeSerial = None,
    serial_option: SerialOption = None,
    limit: Limit = DEFAULT_LIMIT,
    config: Config = DEFAULT_CONFIG,
    as_json: cli.Json = False,
) -> None:
    """Show the vouchers that were issued, newest first."""
    columns = ("number", "date", "serial-number", "assertion", "owner", "expires-on")
    _list_entries(config, some_serial(serial, serial_option), limit, columns, as_json=as_json)


@auditlog_app.command("show", epilog="Example: `brski-masa auditlog show 0001 --json`")
def show_auditlog(
    serial: SomeSerial = None,
    serial_option: SerialOption = None,
    limit: Limit = DEFAULT_LIMIT,
    config: Config = DEFAULT_CONFIG,
    as_json: cli.Json = False,
) -> None:
    """Show the log newest first, with what registrars see of it; --json has all that was recorded."""
    columns = ("number", "date", "serial-number", "assertion", "owner", "domain-id", "nonce")
    _list_entries(config, some_serial(serial, serial_option), limit, columns, as_json=as_json)


def _list_entries(config: Path, serial: str | None, limit: int, columns: tuple[str, ...], *, as_json: bool) -> None:
    work = serving.load_settings(config)
    rows = [entry_row(each) for each in with_store(work, lambda store: store.list_entries(serial=serial, limit=limit))]
    show_rows(rows, columns, as_json, empty="none")


@auditlog_app.command("verify", epilog="Example: `brski-masa auditlog verify --head 4f2a…`")
def verify_auditlog(
    head: Annotated[str | None, typer.Option(help="the last hash noted earlier; it must still be in the log")] = None,
    config: Config = DEFAULT_CONFIG,
    as_json: cli.Json = False,
) -> None:
    """Check the chain of hashes over the whole log, and print its head: note it somewhere else."""
    noted = None if head is None else _hash(head)
    links = with_store(serving.load_settings(config), lambda store: store.chain())
    number, newest = verify_chain(links)
    if noted is not None:
        check_head(links, noted)
    answer = {"entries": number, "head": newest.hex()}
    cli.answer(answer, as_json, lambda: cli.facts([*answer.items(), ("log", _verdict(number, noted))]))


def _verdict(number: int, noted: bytes | None) -> str:
    """What a chain that holds shows, and what it cannot show."""
    if noted is not None:
        return "intact: every entry is as it was written, and the head that you noted is in it"
    if number == 0:
        return "intact: no entry yet"
    return "intact: every entry is as it was written; that none is missing at its end, --head with a noted head shows"


def _hash(text: str) -> bytes:
    """A hash as `auditlog verify` prints it; anything else is wrong usage, and says nothing about the log."""
    if not _HASH.fullmatch(text.strip()):
        raise typer.BadParameter("--head is a hash that `auditlog verify` printed earlier: 64 hexadecimal digits")
    return bytes.fromhex(text)
