"""The log: one line per event on standard error, as JSON or for people. Only this file knows structlog.

The laws of this file:

1. A value is shown only if it is plain: text, number, time, path, or a collection of such. Of anything
   else stands the name of its type, so a key object cannot get into a log by its repr.
2. What a name calls secret is hidden, and so is whatever looks like a private key, a PIN or a password
   inside a text, wherever it comes from.
3. What libraries say through `logging` comes out in the same form. Tracebacks hold no local variables.
"""

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from enum import Enum
from pathlib import PurePath
from typing import Any, Final, Protocol

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from brski_common.errors import BrskiError

HIDDEN: Final = "[hidden]"
MAX_TEXT_CHARACTERS: Final = 4096  # of one value; a peer's words end up here
MAX_DEPTH: Final = 4

_SECRET_NAME: Final = re.compile(
    r"(?i)pass(word|phrase|wd)?$|(^|[_-])pin($|[_-])|secret|private|credential|token$|authorization|cookie|api_?key"
)
_SECRET_TEXT: Final = re.compile(
    r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)"  # PEM
    r"|(?<=pin-value=)[^&;\s'\"]+"  # a pkcs11: URI
    r"|(?<=://)[^/@:\s]*:[^/@\s]+(?=@)"  # user and password in a URL
    r"|(?i:(?<=basic )|(?<=bearer ))[A-Za-z0-9+/=._~-]{8,}",  # an Authorization header
    re.DOTALL,
)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f\x80-\x9f\u2028\u2029]")


class Logger(Protocol):
    """What the rooms see of a logger. `event` is a fixed text, everything that varies is a value."""

    def debug(self, event: str, **values: object) -> None:
        """Tell what helps to find a fault."""

    def info(self, event: str, **values: object) -> None:
        """Tell what happened."""

    def warning(self, event: str, **values: object) -> None:
        """Tell what somebody should look at."""

    def error(self, event: str, **values: object) -> None:
        """Tell what failed."""

    def exception(self, event: str, **values: object) -> None:
        """Tell what failed, with the traceback of the exception being handled."""

    def bind(self, **values: object) -> "Logger":
        """Return a logger that adds these values to every event."""


def logger(name: str) -> Logger:
    """The logger of one part of a program, such as `registrar`; usable before `configure`."""
    made: Logger = structlog.get_logger(name)
    return made


def configure(*, json: bool, level: str = "info") -> None:
    """Send events of `level` (debug, info, warning, error) and above to standard error."""
    number = logging.getLevelNamesMapping()[level.upper()]
    renderer = _json_renderer() if json else structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )  # fmt: skip
    prepare: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _name_the_logger,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.format_exc_info,
        clean,
    ]
    structlog.configure(
        processors=[*prepare, renderer],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=_StandardError,
    )
    _route_standard_logging([*prepare, structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer], number)


def bind(**values: object) -> Mapping[str, object]:
    """Add values to every event of the running task, such as the id of a request; `unbind` with the answer."""
    return structlog.contextvars.bind_contextvars(**values)


def unbind(tokens: Mapping[str, Any]) -> None:
    """Take back what `bind` added."""
    structlog.contextvars.reset_contextvars(**tokens)


def clean(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Make an event fit to be seen: laws 1 and 2."""
    cleaned = {name: HIDDEN if _SECRET_NAME.search(name) else _plain(value) for name, value in event.items()}
    if "exception" in event:  # a traceback is the one value with lines of its own
        cleaned["exception"] = "\n".join(map(_text, _hide(str(event["exception"])).splitlines()))
    return cleaned


def _plain(value: object, depth: int = 0) -> object:
    if isinstance(value, Enum):
        value = value.value
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, str | PurePath | BrskiError):
        return _text(str(value))
    if isinstance(value, BaseException):
        return _text(f"{type(value).__name__}: {value}")
    return _collection(value, depth + 1)


def _collection(value: object, depth: int) -> object:
    if depth <= MAX_DEPTH and isinstance(value, Mapping):
        return {
            str(name): HIDDEN if _SECRET_NAME.search(str(name)) else _plain(item, depth) for name, item in value.items()
        }
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if depth <= MAX_DEPTH and isinstance(value, Sequence | set | frozenset):
        return [_plain(item, depth) for item in value]
    return f"<{type(value).__name__}>"


def _text(text: str) -> str:
    """Hide secrets, take out what could forge a line or steer a terminal, and keep it short."""
    hidden = _hide(text)
    if len(hidden) > MAX_TEXT_CHARACTERS:
        hidden = f"{hidden[:MAX_TEXT_CHARACTERS]}… ({len(hidden)} characters)"
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", hidden)


def _hide(text: str) -> str:
    return _SECRET_TEXT.sub(HIDDEN, text)


def _json_renderer() -> Processor:
    return structlog.processors.JSONRenderer(ensure_ascii=False)


class _StandardError:
    """Writes lines to whatever standard error is at that moment."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def msg(self, message: str) -> None:
        with suppress(OSError, ValueError):  # a closed pipe shall not fail a request
            print(message, file=sys.stderr, flush=True)

    debug = info = warning = error = critical = msg


class _RoutedHandler(logging.Handler):
    """Gives records of the `logging` module the same form."""

    def emit(self, record: logging.LogRecord) -> None:
        _StandardError().msg(self.format(record))


def _route_standard_logging(processors: Sequence[Processor], level: int) -> None:
    handler = _RoutedHandler()
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=processors))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _RoutedHandler)]:
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(level)


def _name_the_logger(logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Say which part speaks; `_record` comes with what libraries log."""
    record = event.get("_record")
    event["logger"] = record.name if record else logger.name
    return event


# Before `configure` only warnings are told: a library must not write where nobody asked for a log.
structlog.configure(
    processors=[
        _name_the_logger,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        clean,
        _json_renderer(),
    ],
    wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    logger_factory=_StandardError,
)
