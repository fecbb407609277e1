"""The log: one line per event on standard error, as JSON or for people. Only this file knows structlog.

The laws of this file:

1. A value is shown only if it is plain: text, number, time, path, or a collection of such. Of anything
   else stands the name of its type, so a key object cannot get into a log by its repr.
2. What a name calls secret is hidden, and so is whatever looks like a private key, a PIN or a password
   inside a text, wherever it comes from.
3. What is said through `logging`, by libraries and by us, goes through the same processors and comes out in the
   same form. Tracebacks hold no local variables.
4. A line is one write. That it cannot be written fails nobody's request.
"""

import logging
import re
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from functools import lru_cache
from pathlib import PurePath
from typing import Any, Final, Protocol

import structlog
from structlog.dev import Column, KeyValueColumnFormatter
from structlog.typing import EventDict, Processor, WrappedLogger

from brski_common import strictjson
from brski_common.errors import BrskiError

HIDDEN: Final = "[hidden]"
MAX_TEXT_CHARACTERS: Final = 4096  # of one value; a peer's words end up here
MAX_DEPTH: Final = 4
REMEMBERED_EVENTS: Final = 512
TIME_FOR_PEOPLE: Final = "%Y-%m-%dT%H:%M:%SZ"  # UTC

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
# A text without one of these, whatever its capitals, holds nothing that _SECRET_TEXT looks for.
_SECRET_MARKS: Final = ("private key-----", "pin-value=", "://", "basic ", "bearer ")
_SIMPLE: Final = frozenset((bool, int, float, type(None)))  # kinds of value that are shown as they are
_SIMPLE_AND_TEXT: Final = _SIMPLE | {str}
_TO_QUOTE: Final = re.compile(r"[ \t=\r\n\"']")
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
    return _LOGGERS.setdefault(name, _Named(name))


def configure(*, json: bool, level: str = "info") -> None:
    """Send events of `level` (debug, info, warning, error) and above to standard error."""
    number = logging.getLevelNamesMapping()[level.upper()]
    processors: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _name_the_logger,
        structlog.processors.add_log_level,
        _stamp if json else structlog.processors.TimeStamper(fmt=TIME_FOR_PEOPLE, utc=True, key="time"),
        structlog.processors.format_exc_info,
        clean,
        render_json if json else _renderer_for_people(),
    ]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=_StandardError,
    )
    for each in _LOGGERS.values():
        each.renew()
    _route_standard_logging(processors, number)


def bind(**values: object) -> Mapping[str, object]:
    """Add values to every event of the running task, such as the id of a request; `unbind` with the answer."""
    return structlog.contextvars.bind_contextvars(**values)


def unbind(tokens: Mapping[str, Any]) -> None:
    """Take back what `bind` added."""
    structlog.contextvars.reset_contextvars(**tokens)


def clean(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Make an event fit to be seen: laws 1 and 2."""
    texts = " ".join([value for value in event.values() if type(value) is str])
    # One glance at all texts, and it is nearly always enough.
    stay = _SIMPLE_AND_TEXT if _is_harmless(texts) else _SIMPLE
    cleaned = {name: value if type(value) in stay else _plain(value) for name, value in event.items()}
    for name in _secret_names(tuple(event)):
        cleaned[name] = HIDDEN
    if "exception" in event:  # a traceback is the one value with lines of its own
        cleaned["exception"] = "\n".join(map(_text, _hide(str(event["exception"])).splitlines()))
    return cleaned


@lru_cache(maxsize=REMEMBERED_EVENTS)
def _secret_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Those whose values are not to be seen. The names of an event's values stand in our code: there are few such."""
    return tuple(name for name in names if _SECRET_NAME.search(name) is not None)


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
    if _is_harmless(text):
        return text
    hidden = _hide(text)
    if len(hidden) > MAX_TEXT_CHARACTERS:
        hidden = f"{hidden[:MAX_TEXT_CHARACTERS]}… ({len(hidden)} characters)"
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", hidden)


def _is_harmless(text: str) -> bool:
    """Whether `_text` would leave a text, and every part of it, as it is: seen at a glance, and true of nearly all."""
    if len(text) > MAX_TEXT_CHARACTERS or not text.isascii() or not text.isprintable():
        return False
    lowered = text.lower()
    for mark in _SECRET_MARKS:  # noqa: SIM110 -- any() costs three times as much, for every text of every line
        if mark in lowered:
            return False
    return True


def _hide(text: str) -> str:
    return _SECRET_TEXT.sub(HIDDEN, text)


_as_json: Final = strictjson.writer(", ", ": ", allow_nan=True)  # `clean` lets no circle through


def render_json(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """An event that is clean, for machines."""
    return _as_json(event)


def render_plain(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """An event that is clean, for people: as `console_renderer` writes it, for a fifth of the time."""
    exception = event.pop("exception", None)
    time = str(event.pop("time", ""))
    shown = [f"{time}{' ' if time else ''}[{event.pop('level')}] {event.pop('logger')}: {event.pop('event')} "]
    shown += [f"{name}={_quoted(event[name])}" for name in sorted(event)]
    line = " ".join(shown).rstrip(" ")
    return line if exception is None else f"{line}\n{exception}"


def _quoted(value: object) -> str:
    return value if isinstance(value, str) and not _TO_QUOTE.search(value) else repr(value)


def _renderer_for_people() -> Processor:
    if sys.stderr is None or not sys.stderr.isatty():
        return render_plain
    return console_renderer(colors=True)


def console_renderer(*, colors: bool) -> structlog.dev.ConsoleRenderer:
    """structlog's form in our order: when, how grave, who, what, and the values; nothing is padded."""
    made = structlog.dev.ConsoleRenderer(
        colors=colors, pad_level=False, timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
    )
    values, time, level, _, logger, *_ = made.columns
    styles = made.get_default_column_styles(colors)
    who = KeyValueColumnFormatter(None, styles.bright + styles.logger_name, styles.reset, str, postfix=":")
    what = KeyValueColumnFormatter(None, styles.bright, styles.reset, str, postfix=" ")
    made.columns = [values, time, level, Column(logger.key, who), Column("event", what)]
    return made


class _StandardError:
    """Writes lines to whatever standard error is at that moment; None: it was closed before we began."""

    def __init__(self, name: str = "") -> None:
        self.name = name

    def msg(self, message: str) -> None:
        stream = sys.stderr
        if stream is not None:
            try:  # `suppress` is three calls, for every line
                stream.write(f"{message}\n")
                stream.flush()
            except (OSError, ValueError):  # a closed pipe shall not fail a request
                pass

    debug = info = warning = error = critical = msg


class _Named:
    """A logger as it was configured last. structlog's own stand-in for it makes a new one for every line."""

    def __init__(self, name: str) -> None:
        self._name = name
        self.renew()

    def renew(self) -> None:
        """Follow what was configured since."""
        made = structlog.get_logger(self._name).bind()
        self.debug, self.info, self.warning = made.debug, made.info, made.warning
        self.error, self.exception, self.bind = made.error, made.exception, made.bind


class _RoutedHandler(logging.Handler):
    """Gives records of the `logging` module the same form."""

    def __init__(self, processors: Sequence[Processor]) -> None:
        super().__init__()
        self._processors = processors

    def emit(self, record: logging.LogRecord) -> None:
        line: Any = {"event": record.getMessage()}
        if record.exc_info:
            line["exc_info"] = record.exc_info
        if record.stack_info:
            line["stack_info"] = record.stack_info
        method = record.levelname.lower()
        for process in self._processors:
            line = process(record, method, line)
        _standard_error.msg(line)


def _route_standard_logging(processors: Sequence[Processor], level: int) -> None:
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _RoutedHandler)]:
        root.removeHandler(old)
    root.addHandler(_RoutedHandler(processors))
    root.setLevel(level)


def _name_the_logger(logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Say which part speaks: a logger has a name, and so has a record of `logging`."""
    event["logger"] = logger.name
    return event


def _stamp(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The time in UTC, for machines."""
    event["time"] = datetime.now(UTC).isoformat().replace("+00:00", "Z")
    return event


_standard_error: Final = _StandardError()
_LOGGERS: Final[dict[str, _Named]] = {}

# Before `configure` only warnings are told: a library must not write where nobody asked for a log.
structlog.configure(
    processors=[
        _name_the_logger,
        structlog.processors.add_log_level,
        structlog.processors.format_exc_info,
        clean,
        render_json,
    ],
    wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
    logger_factory=_StandardError,
)
