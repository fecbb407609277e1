"""The BRSKI pledge: what a device embeds to find its owner and become operational (RFC 8995).

    from brski_pledge import Pledge, PledgeSettings

    pledge = Pledge(PledgeSettings(), idevid, voucher_anchors, state=Path("/var/lib/brski"))
    outcome = await pledge.onboard()

Whoever has a transport of its own drives `brski_pledge.bootstrap.Bootstrap` instead: the same
machine, without any I/O. Importing this package loads neither aiohttp nor zeroconf.
"""

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
