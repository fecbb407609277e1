"""`policy`: whom the plant admits. A running registrar heeds a change within a second or two."""

from collections.abc import Iterable
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from cryptography import x509

from brski_common import cli
from brski_common.certificates import load_pem
from brski_common.errors import BrskiError, Misconfigured, Unknown
from brski_registrar.commands.addresses import masa_host_of, network
from brski_registrar.commands.lists import COLUMNS, entry, read_list
from brski_registrar.commands.opening import DEFAULT_CONFIG, Config, Desk, Plain, desk
from brski_registrar.policy import (
    Admission,
    Admit,
    Approval,
    AuditPolicy,
    DomainPolicy,
    Login,
    Manufacturer,
    PinHint,
    SerialField,
    Treatment,
)
from brski_registrar.runtime import utc_now

Name = Annotated[str, typer.Argument(help="What the policy calls the manufacturer.", metavar="MANUFACTURER")]

AUDIT_RULES: Final = tuple(each.name for each in fields(AuditPolicy) if isinstance(each.default, Treatment))

ToleratedCritical = Annotated[
    list[str] | None, typer.Option(help="OID of a critical extension its certificates have. May be repeated.")
]
KnownDomain = Annotated[
    list[str] | None, typer.Option(help="domainID (hex) of an earlier owner that is no surprise. May be repeated.")
]
AuditRule = Annotated[
    list[str] | None,
    typer.Option(
        help=f"RULE=refuse, =note or =ignore for what audit logs say. Rules: {', '.join(AUDIT_RULES)}. Repeatable.",
        metavar="RULE=TREATMENT",
    ),
]
IgnoreHistory = Annotated[bool | None, typer.Option(help="Do not judge audit logs (RFC 8995, 5.8.3: only with NEA).")]
OpaqueVouchers = Annotated[bool | None, typer.Option(help="Hand on vouchers that cannot be read here (RFC 8995, 7.3).")]
Serials = Annotated[
    Path | None, typer.Option(help=f"Put the devices of a CSV file on it: columns {', '.join(COLUMNS)}.")
]

app = cli.application("Whom the plant admits: manufacturers, devices, and what holds for all of them.")


@app.command(
    "allow",
    cls=Plain,
    epilog="""Example: `brski-registrar policy allow "Example Maker" --idevid-anchors maker.pem \
--masa-tls-anchors masa-tls.pem --masa-host masa.example:9443 --serial SN-0001`""",
)
def allow(  # noqa: PLR0913, PLR0917 -- each option is an argument
    name: Name,
    config: Config = DEFAULT_CONFIG,
    idevid_anchors: Annotated[Path | None, typer.Option(help="PEM: trust anchors of its devices.")] = None,
    masa_tls_anchors: Annotated[Path | None, typer.Option(help="PEM: trust anchors of its MASA's server.")] = None,
    voucher_anchors: Annotated[Path | None, typer.Option(help="PEM: who signs its vouchers, if checked here.")] = None,
    masa_host: Annotated[
        list[str] | None, typer.Option(help="Allow this MASA: HOST, HOST:PORT or *.HOST. May be repeated.")
    ] = None,
    masa_url: Annotated[str | None, typer.Option(help="Ask this MASA, whatever its devices say.")] = None,
    admit: Annotated[Admit | None, typer.Option(help="Which of its devices may join; default: listed.")] = None,
    login: Annotated[Login | None, typer.Option(help="How to log in at its MASA; default: tls.")] = None,
    login_user: Annotated[str | None, typer.Option(help="User for basic and digest.")] = None,
    login_secret: Annotated[str | None, typer.Option(help="Name of the file with the password.")] = None,
    serial_field: Annotated[SerialField | None, typer.Option(help="Where its IDevIDs have the serial number.")] = None,
    ignore_expired_idevid: Annotated[bool | None, typer.Option(help="Take IDevIDs that are out of date.")] = None,
    plain_cms: Annotated[bool | None, typer.Option(help="Its MASA wants eContentType id-data.")] = None,
    wait_for_masa: Annotated[bool | None, typer.Option(help="Let devices wait while its MASA is away.")] = None,
    tolerate_critical: ToleratedCritical = None,
    known_domain: KnownDomain = None,
    audit: AuditRule = None,
    unsafe_ignore_history: IgnoreHistory = None,
    unsafe_opaque_vouchers: OpaqueVouchers = None,
    serial: Annotated[list[str] | None, typer.Option(help="Put this device on its allow-list. Repeatable.")] = None,
    serials: Serials = None,
    as_json: cli.Json = False,
) -> None:
    """Admit a manufacturer, change what its record says, or put devices on its allow-list."""
    entries = [*(entry(name, text) for text in serial or ()), *(read_list(name, serials) if serials else ())]
    given: dict[str, Any] = {
        "idevid_anchors": _pem(idevid_anchors),
        "masa_tls_anchors": _pem(masa_tls_anchors),
        "voucher_anchors": _pem(voucher_anchors),
        "masa_hosts": tuple(map(masa_host_of, masa_host)) if masa_host else None,
        "masa_url": masa_url,
        "admit": admit,
        "login": login,
        "login_user": login_user,
        "login_secret": login_secret,
        "serial_field": serial_field,
        "ignore_expired_idevid": ignore_expired_idevid,
        "plain_cms": plain_cms,
        "wait_for_masa": wait_for_masa,
        "tolerated_critical": tuple(tolerate_critical) if tolerate_critical else None,
        "unsafe_opaque_vouchers": unsafe_opaque_vouchers,
    }
    judged = _treatments(audit or ()) | {
        "known_domains": tuple(domain.replace(":", "").lower() for domain in known_domain) if known_domain else None,
        "unsafe_ignore_history": unsafe_ignore_history,
    }
    before, record = cli.run_async(_allow(config, name, _given(given), _given(judged), tuple(entries)))
    _tell_allowed(before, record, len(entries), as_json)


@app.command("deny", epilog='Example: `brski-registrar policy deny "Example Maker" --serial SN-0001`')
def deny(
    name: Name,
    serial: Annotated[list[str], typer.Option(help="Take this device off the allow-list. May be repeated.")],
    config: Config = DEFAULT_CONFIG,
    as_json: cli.Json = False,
) -> None:
    """Take devices off a manufacturer's allow-list. What they have already is not taken away (`device block` does)."""

    async def work() -> list[str]:
        async with desk(config) as at:
            return [each for each in serial if not await at.policies.disallow(name, each)]

    missing = cli.run_async(work())
    if missing:
        raise Unknown("device-not-listed", f"{', '.join(missing)}: not on the allow-list of {name}")
    cli.answer({"removed": serial}, as_json, lambda: cli.show(f"off the list: {', '.join(map(cli.cell, serial))}"))


@app.command("remove", epilog='Example: `brski-registrar policy remove "Example Maker"`')
def remove(name: Name, config: Config = DEFAULT_CONFIG, as_json: cli.Json = False) -> None:
    """Admit no device of this manufacturer any more. Its allow-list stays, in case it comes back."""

    async def work() -> None:
        async with desk(config) as at:
            await at.policies.remove_manufacturer(name)

    cli.run_async(work())
    cli.answer({"removed": name}, as_json, lambda: cli.show(f"{cli.cell(name)} is no longer admitted"))


@app.command("list", epilog="Example: `brski-registrar policy list`")
def list_policy(config: Config = DEFAULT_CONFIG, as_json: cli.Json = False) -> None:
    """List the manufacturers that are admitted, and what holds for every device."""

    async def work() -> tuple[list[tuple[Manufacturer, int]], DomainPolicy]:
        async with desk(config) as at:
            policy = await at.policies.load()
            records = [maker.record for maker in policy.trust.makers.values()]
            return [(record, len(await at.policies.admissions(record.name))) for record in records], policy.domain

    found, domain = cli.run_async(work())
    columns = ("manufacturer", "admits", "listed", "MASA", "login")
    rows = [(each.name, each.admit, count, each.masa_url or each.masa_hosts, each.login) for each, count in found]

    def human() -> None:
        cli.table(columns, rows, empty="no manufacturer is admitted: see `brski-registrar policy allow --help`")
        cli.facts(_domain_facts(domain).items())

    makers = [_manufacturer_facts(record) | {"listed": count} for record, count in found]
    cli.answer({"manufacturers": makers, "domain": _domain_facts(domain)}, as_json, human)


@app.command("show", epilog='Example: `brski-registrar policy show "Example Maker"`')
def show(name: Name, config: Config = DEFAULT_CONFIG, as_json: cli.Json = False) -> None:
    """Show a manufacturer's record and its allow-list."""

    async def work() -> tuple[Manufacturer, tuple[Admission, ...]]:
        async with desk(config) as at:
            return await _record(at, name), await at.policies.admissions(name)

    record, entries = cli.run_async(work())

    def human() -> None:
        plain = _manufacturer_facts(record)
        audit = plain.pop("audit")
        cli.facts([*plain.items(), *((f"audit {rule}", treatment) for rule, treatment in audit.items())])
        rows = [(each.serial_number, each.purchased_on, each.note, each.voucher_type) for each in entries]
        cli.show("")
        cli.table(("serial number", "purchased on", "note", "voucher waiting"), rows, empty="the allow-list is empty")

    listed = [
        {"serial_number": each.serial_number, "purchased_on": each.purchased_on, "note": each.note} for each in entries
    ]
    cli.answer(_manufacturer_facts(record) | {"allow_list": listed}, as_json, human)


@app.command(
    "domain", cls=Plain, epilog="Example: `brski-registrar policy domain --source fd00:10::/64 --approval manual`"
)
def domain_policy(
    config: Config = DEFAULT_CONFIG,
    source: Annotated[
        list[str] | None,
        typer.Option(help="Take voucher requests from this network only, as that of the join proxies; '' for all."),
    ] = None,
    pin_hint: Annotated[PinHint | None, typer.Option(help="Which own certificates a MASA may pin.")] = None,
    approval: Annotated[Approval | None, typer.Option(help="Who approves certificate requests.")] = None,
    organization: Annotated[str | None, typer.Option(help="The O in the certificates of devices.")] = None,
    certificate_days: Annotated[int | None, typer.Option(help="How long certificates are valid.", min=1)] = None,
    require_voucher_status: Annotated[
        bool | None, typer.Option(help="No certificate before the device has reported on its voucher.")
    ] = None,
    serverkeygen: Annotated[bool | None, typer.Option(help="Make keys for devices that ask for it.")] = None,
    unsafe_plain_server_keys: Annotated[
        bool | None, typer.Option(help="Send such keys without encryption of their own (RFC 7030, 4.4.2).")
    ] = None,
    as_json: cli.Json = False,
) -> None:
    """Show what holds for every device, or change it."""
    given = _given(
        {
            "sources": None if source is None else tuple(map(network, filter(None, source))),
            "pin_hint": pin_hint,
            "approval": approval,
            "organization": organization,
            "certificate_days": certificate_days,
            "require_voucher_status": require_voucher_status,
            "serverkeygen": serverkeygen,
            "unsafe_plain_server_keys": unsafe_plain_server_keys,
        }
    )

    async def work() -> DomainPolicy:
        async with desk(config) as at:
            present = (await at.policies.load()).domain
            if given:
                present = replace(present, **given)
                await at.policies.put_domain(present, utc_now())
            return present

    now = cli.run_async(work())
    cli.answer(_domain_facts(now), as_json, lambda: cli.facts(_domain_facts(now).items()))


async def _allow(
    config: Path, name: str, given: dict[str, Any], audit: dict[str, Any], entries: tuple[Admission, ...]
) -> tuple[Manufacturer, Manufacturer]:
    """The maker's record as it was, without anchors if it is new here, and as it is now."""
    async with desk(config) as at:
        now = utc_now()
        known = (await at.policies.load()).trust.makers.get(name)
        if known is None and "idevid_anchors" not in given:
            raise Misconfigured("policy-malformed", f"{name} is new here: --idevid-anchors says whose devices it means")
        before = record = known.record if known else Manufacturer(name=name, idevid_anchors="")
        if given or audit:
            record = replace(record, **given, audit=replace(record.audit, **audit))
            await at.policies.put_manufacturer(record, now)
        if entries:
            await at.policies.allow_all(entries, now)
        return before, record


def _tell_allowed(before: Manufacturer, record: Manufacturer, added: int, as_json: bool) -> None:
    replaced = _replaced(before, record)
    missing = _missing(record)
    if missing:
        cli.say(f"its MASA cannot be reached yet: add {' and '.join(missing)} with `policy allow`")
    value = _manufacturer_facts(record) | {"added": added, "missing": missing, "replaced": replaced}

    def human() -> None:
        cli.show(f"{cli.cell(record.name)} is admitted: {_summary(record, added)}")
        for anchors, subjects in replaced.items():
            cli.show(f"{anchors} replaced, no longer trusted: {cli.cell(subjects)}")

    cli.answer(value, as_json, human)


async def _record(at: Desk, name: str) -> Manufacturer:
    maker = (await at.policies.load()).trust.makers.get(name)
    if maker is None:
        raise Unknown("manufacturer-unknown", f"{name}: `policy list` shows those that are admitted")
    return maker.record


def _treatments(rules: Iterable[str]) -> dict[str, Any]:
    """What `--audit` said; raises Misconfigured for a rule or a treatment that is none."""
    found: dict[str, Any] = {}
    for text in rules:
        rule, _, treatment = text.replace("-", "_").partition("=")
        if rule not in AUDIT_RULES or treatment not in set(Treatment):
            allowed = f"{' '.join(AUDIT_RULES)}, each = {' '.join(Treatment)}"
            raise Misconfigured("policy-malformed", f"--audit {text[:80]!a}: allowed are {allowed}")
        found[rule] = Treatment(treatment)
    return found


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _pem(path: Path | None) -> str | None:
    """A PEM file's text, if it holds certificates; raises Malformed naming the file."""
    if path is None:
        return None
    data = cli.read_input(path)
    try:
        load_pem(data)
        return data.decode("ascii")
    except (BrskiError, ValueError) as error:
        raise Misconfigured("certificates-unreadable", f"{path}: {error}") from error


def _missing(record: Manufacturer) -> tuple[str, ...]:
    """The options without which no MASA can be asked for this maker's devices."""
    wanted = {
        "--masa-tls-anchors": bool(record.masa_tls_anchors.strip()),
        "--masa-host": bool(record.masa_hosts or record.masa_url),
    }
    return tuple(option for option, given in wanted.items() if not given)


def _summary(record: Manufacturer, added: int) -> str:
    which = {
        Admit.ALL: "all devices",
        Admit.ASK: "listed devices, and others once you approve them",
        Admit.LISTED: "listed devices only",
    }
    return which[record.admit] + (f"; put on the list now: {added}" if added else "")


def _manufacturer_facts(record: Manufacturer) -> dict[str, Any]:
    return {
        "name": record.name,
        "admit": record.admit,
        "masa_url": record.masa_url,
        "masa_hosts": record.masa_hosts,
        "login": record.login,
        "login_user": record.login_user,
        "serial_field": record.serial_field,
        "ignore_expired_idevid": record.ignore_expired_idevid,
        "plain_cms": record.plain_cms,
        "wait_for_masa": record.wait_for_masa,
        "tolerated_critical": record.tolerated_critical,
        "unsafe_opaque_vouchers": record.unsafe_opaque_vouchers,
        "known_domains": record.audit.known_domains,
        "audit": {rule: getattr(record.audit, rule) for rule in AUDIT_RULES},
        "unsafe_ignore_history": record.audit.unsafe_ignore_history,
        "idevid_anchors": _subjects(record.idevid_anchors),
        "masa_tls_anchors": _subjects(record.masa_tls_anchors),
        "voucher_anchors": _subjects(record.voucher_anchors),
    }


def _replaced(before: Manufacturer, now: Manufacturer) -> dict[str, tuple[str, ...]]:
    """The anchors that are trusted no longer, by the kind of anchors."""
    replaced = {}
    for kind in ("idevid_anchors", "masa_tls_anchors", "voucher_anchors"):
        gone = set(_certificates(getattr(before, kind))) - set(_certificates(getattr(now, kind)))
        if gone:
            replaced[kind] = tuple(sorted(each.subject.rfc4514_string() for each in gone))
    return replaced


def _certificates(pem: str) -> tuple[x509.Certificate, ...]:
    return load_pem(pem.encode()) if pem.strip() else ()


def _subjects(pem: str) -> tuple[str, ...]:
    return tuple(each.subject.rfc4514_string() for each in _certificates(pem))


def _domain_facts(domain: DomainPolicy) -> dict[str, Any]:
    return {
        "sources": domain.sources or ("anywhere",),
        "pin_hint": domain.pin_hint,
        "approval": domain.approval,
        "organization": domain.organization,
        "certificate_days": domain.certificate_days,
        "require_voucher_status": domain.require_voucher_status,
        "serverkeygen": domain.serverkeygen,
        "unsafe_plain_server_keys": domain.unsafe_plain_server_keys,
    }
