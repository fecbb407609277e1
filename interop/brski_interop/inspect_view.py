"""How `brski inspect` looks on a terminal: what it is, what it says, what was checked."""

import base64
import binascii
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from brski_common.certificates import fingerprint, load_certificate
from brski_common.errors import BrskiError
from brski_common.strictjson import JsonValue
from brski_common.voucher import LEAVES, Kind
from brski_interop import terms
from brski_interop.inspection import Report

NOTHING = "-"
MAX_VALUE = 76  # characters of one value; `--json` shows all of it
MAX_BINARY = 40  # characters of base64: enough to tell two apart
MAX_FINGERPRINT = 16  # hex digits, likewise

# The members that are base64: of vouchers and their requests, and of join proxy messages.
_BINARIES = {leaf.yang for leaf in LEAVES if leaf.kind in {Kind.BINARY, Kind.BINARY_LIST}} | {"header", "content"}
_DOMAIN_IDS = {"domain-id", "domainID"}

_TITLES = {
    "voucher": "Voucher",
    "voucher-request": "Voucher request",
    "certificate": "Certificate",
    "csr": "Certificate request",
    "certs-only": "Certificates (certs-only)",
    "csrattrs": "CSR attributes",
    "auditlog": "Audit log",
    "jpy": "Join proxy message",
}
_COLOURS = {"valid": "green", "trusted": "green", "invalid": "bold red", "untrusted": "bold red"}


def show(report: Report, console: Console) -> None:
    """Print the whole report."""
    console.print(_panel(report))


def _panel(report: Report) -> Panel:
    parts: list[RenderableType] = [_verdict(report), *(Text(f"▸ {note}") for note in report.notes)]
    parts.extend((Text(), _members(report.content)))
    parts.extend(Text(f"✗ {failure}", style="red") for failure in report.failures)
    if report.findings:
        parts.append(Text())
        parts.extend(Text(f"• {finding}", style="yellow") for finding in report.findings)
    if report.prior is not None:
        parts.extend((Text(), _panel(report.prior)))
    title = f"{_TITLES.get(report.kind, report.kind)} · {_form(report)}"
    return Panel(Group(*parts), title=title, title_align="left", border_style=_border(report))


def _form(report: Report) -> str:
    """The format and the text around it: `DER`, `PEM` (which is DER as text), `CMS in base64`."""
    form = report.format.upper()
    if report.armour is None:
        return form
    if report.armour == "pem":
        return "PEM" if form == "DER" else f"{form} in PEM"
    return f"{form} in {report.armour}"


def _border(report: Report) -> str:
    return "red" if not report.acceptable else "green" if report.trust == "trusted" else "blue"


def _verdict(report: Report) -> Text:
    text = Text("signature ")
    text.append(report.signature, _COLOURS.get(report.signature, "dim"))
    text.append("   trust ").append(report.trust, _COLOURS.get(report.trust, "dim"))
    if report.signer:
        text.append("   signer ").append(report.signer, "bold")
    return text


def _members(content: Mapping[str, JsonValue]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(overflow="fold")
    for key, value in _flatten(content):
        table.add_row(key, value)
    return table


def _flatten(content: Mapping[str, JsonValue], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in content.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, Sequence) and not isinstance(value, str) and any(isinstance(v, Mapping) for v in value):
            for index, item in enumerate(value):
                inner = item if isinstance(item, Mapping) else {"": item}
                yield from _flatten(inner, f"{prefix}{key}[{index}].")
        else:
            yield f"{prefix}{key}", _binary(key, value) if key in _BINARIES else _short(value)
            if key in _DOMAIN_IDS:
                yield from _hex(f"{prefix}{key}", str(value))


def _hex(key: str, text: str) -> Iterator[tuple[str, str]]:
    """A domainID once more, as `brski-masa auditlog show` has it."""
    with suppress(ValueError):
        yield f"{key} (hex)", base64.b64decode(text, validate=True).hex()


def _binary(key: str, value: JsonValue) -> str:
    """A certificate by its subject and fingerprint, anything else by its first characters."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        return "; ".join(_binary(key, item) for item in value) or NOTHING
    text = str(value)
    try:
        certificate = load_certificate(base64.b64decode(text, validate=True)) if key.endswith("-cert") else None
    except (BrskiError, binascii.Error, ValueError):
        certificate = None
    if certificate is not None:
        return f"{terms.name(certificate.subject)}, sha256 {fingerprint(certificate).hex()[:MAX_FINGERPRINT]}…"
    return _cut(text, MAX_BINARY)


def _short(value: JsonValue) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(str(item) for item in value) or NOTHING
    if value is None or isinstance(value, bool):
        return {True: "yes", False: "no", None: NOTHING}[value]
    return _cut(str(value), MAX_VALUE)


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text)} characters)"
