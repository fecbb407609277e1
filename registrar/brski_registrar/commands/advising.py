"""Who was turned away, and the command that would let each in: for `device knocking` and `device show`."""

import itertools
import shlex
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from brski_common import cli
from brski_registrar.commands.opening import Desk
from brski_registrar.knocking import NOT_LISTED, turned_away
from brski_registrar.policy import SOURCE_NOT_ALLOWED, sources_with
from brski_registrar.policy_store import Policy
from brski_registrar.records import Knock

MAKER_UNKNOWN: Final = "manufacturer-unknown"
TURNED_AWAY: Final = "turned-away"  # what `device show` calls the state of one who is no device yet


@dataclass(frozen=True, slots=True)
class Advised:
    """Somebody who was turned away; `advice` is a command, empty where none would let him in."""

    knock: Knock
    purpose: str
    advice: str

    def line(self) -> str:
        """The advice, for a person."""
        return f"{self.purpose}:  {cli.cell(self.advice)}"

    def facts(self) -> dict[str, Any]:
        """All of it, for a program."""
        return asdict(self.knock) | {"advice": self.advice}


async def advised(at: Desk, config: Path) -> list[Advised]:
    """Everybody who was turned away and has not been admitted since, the last first."""
    policy = await at.policies.load()
    return [await _advised(at, policy, knock, config) for knock in await turned_away(at.store.database)]


async def find_advised(at: Desk, config: Path, serial_number: str, manufacturer: str | None) -> Advised | None:
    """Who was turned away with that number last; one who cannot have lied about it goes first."""
    found = [
        each
        for each in await advised(at, config)
        if each.knock.serial_number == serial_number and manufacturer in (None, each.knock.manufacturer)
    ]
    return max(found, key=lambda each: each.knock.is_known, default=None)


def maker_of(knock: Knock) -> str:
    """The maker, with a question mark where only the stranger says so."""
    return knock.manufacturer if knock.is_known else f"{knock.manufacturer}?"


def show_turned_away(found: Advised, *, as_json: bool) -> None:
    """What `device show` says of one who is no device yet: he has no voucher, no certificate and no journal."""
    knock = found.knock
    nothing: dict[str, Any] = {"vouchers": [], "certificates": [], "journal": []}

    def human() -> None:
        cli.facts(
            {
                "serial_number": knock.serial_number,
                "manufacturer": maker_of(knock),
                "state": TURNED_AWAY,
                "reason": knock.reason,
                "detail": knock.detail,
                "address": knock.address,
                "first_at": knock.first_at,
                "last_at": knock.last_at,
                "count": knock.count,
            }.items()
        )
        cli.show(f"\n{found.line() if found.advice else 'see `brski-registrar device knocking`'}")

    cli.answer({"state": TURNED_AWAY} | found.facts() | nothing, as_json, human)


async def _advised(at: Desk, policy: Policy, knock: Knock, config: Path) -> Advised:
    options, purpose = f"--config {shlex.quote(str(config))}", "to admit it"
    serial = f"--serial {shlex.quote(knock.serial_number)}"
    advice = ""
    if knock.reason == SOURCE_NOT_ALLOWED:
        purpose = f"if a proxy of this plant is at {cli.cell(knock.address)}"
        if sources := " ".join(f"--source {network}" for network in sources_with(policy.domain, knock.address)):
            advice = f"brski-registrar policy domain {options} {sources}"
    elif knock.reason == NOT_LISTED:
        advice = f"brski-registrar policy allow {shlex.quote(knock.manufacturer)} {options} {serial}"
    elif knock.reason == MAKER_UNKNOWN and (name := await _free_name(at, policy, knock)):
        if knock.manufacturer in policy.trust.makers:
            purpose = f"to admit it, if its maker is not the {cli.cell(knock.manufacturer)} that is admitted"
        files = "--idevid-anchors manufacturer.pem --masa-tls-anchors tls.pem --masa-host masa.example:9443"
        advice = f"brski-registrar policy allow {shlex.quote(name)} {options} {files} {serial}"
    return Advised(knock, purpose, advice)


async def _free_name(at: Desk, policy: Policy, knock: Knock) -> str:
    """What to call a stranger's maker: under the name of an admitted one the command would replace that one's anchors.

    Empty if one of that name has the device on its list: the advice was followed already.
    """
    said = knock.manufacturer or "NAME"
    for name in itertools.chain([said], (f"{said} {number}" for number in itertools.count(2))):
        if name not in policy.trust.makers:
            return name
        if await at.policies.admission(name, knock.serial_number) is not None:
            break
    return ""
