"""The one error tree of the suite.

    BrskiError
    ├── Malformed          bytes that cannot be read
    ├── UnsupportedFormat  readable, but no format or kind that is taken here
    ├── Untrusted          a signature, path or identity that does not hold
    ├── Unknown            nothing is known here of the device, maker or peer
    ├── Refused            a policy says no
    ├── NotYet             ask again later (`retry_after`, seconds)
    ├── PeerFailed         the other party did not do its part
    └── Misconfigured      the operator has to change a file or an option

`reason` is a stable slug, the same in logs, telemetry, metrics and tests. `detail` is for the
log of the party that raised it; an adapter decides what of it the other side may read.
Status codes live in the adapters, because RFC 8995 renders one fault differently per interface.
"""


class BrskiError(Exception):
    """Something in the protocol went wrong: a stable `reason` and a `detail` for the log."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class Malformed(BrskiError):
    """Bytes that cannot be read."""


class UnsupportedFormat(BrskiError):
    """Readable, but no format or kind of artefact that is taken here."""


class Untrusted(BrskiError):
    """A signature, certification path or identity that does not hold."""


class Unknown(BrskiError):
    """Nothing is known here of this device, manufacturer or peer."""


class Refused(BrskiError):
    """A policy says no."""


class NotYet(BrskiError):
    """The answer is not ready: ask again after `retry_after` seconds."""

    def __init__(self, reason: str, detail: str = "", retry_after: float = 5.0) -> None:
        super().__init__(reason, detail)
        self.retry_after = retry_after


class PeerFailed(BrskiError):
    """The other party did not answer, or not as the protocol asks."""


class Misconfigured(BrskiError):
    """A setting, file or option is missing or wrong; `detail` names it and says what is allowed."""
