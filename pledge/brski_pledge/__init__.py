"""The BRSKI pledge: what a device embeds to find its owner and become operational (RFC 8995).

    from brski_pledge import Pledge, PledgeSettings

    pledge = Pledge(PledgeSettings(), idevid, voucher_anchors, state=Path("/var/lib/brski"))
    outcome = await pledge.onboard()

Whoever has a transport of its own drives `brski_pledge.bootstrap.Bootstrap` instead: the same
machine, without any I/O. Importing this package loads neither aiohttp nor zeroconf; its names are
loaded when they are first used, so that whoever stops the command while it starts is heard.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from brski_common.certificates import Credential
    from brski_common.errors import BrskiError, Misconfigured, Refused
    from brski_common.paths import Anchors
    from brski_pledge import events
    from brski_pledge.discovery import Offer, Source
    from brski_pledge.events import Event
    from brski_pledge.hardware import CallbackKey
    from brski_pledge.service import Outcome, Pledge
    from brski_pledge.settings import PledgeSettings
    from brski_pledge.state import Enrollment
    from brski_pledge.transport import Transport

__all__ = [
    "Anchors",
    "BrskiError",
    "CallbackKey",
    "Credential",
    "Enrollment",
    "Event",
    "Misconfigured",
    "Offer",
    "Outcome",
    "Pledge",
    "PledgeSettings",
    "Refused",
    "Source",
    "Transport",
    "events",
]

_HOMES = {
    "brski_common.certificates": ("Credential",),
    "brski_common.errors": ("BrskiError", "Misconfigured", "Refused"),
    "brski_common.paths": ("Anchors",),
    "brski_pledge.discovery": ("Offer", "Source"),
    "brski_pledge.events": ("Event",),
    "brski_pledge.hardware": ("CallbackKey",),
    "brski_pledge.service": ("Outcome", "Pledge"),
    "brski_pledge.settings": ("PledgeSettings",),
    "brski_pledge.state": ("Enrollment",),
    "brski_pledge.transport": ("Transport",),
}

if not TYPE_CHECKING:  # a type checker knows the names from above, and shall complain of others

    def __getattr__(name: str) -> object:
        if name == "events":
            return import_module("brski_pledge.events")
        for home, names in _HOMES.items():
            if name in names:
                return globals().setdefault(name, getattr(import_module(home), name))
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
