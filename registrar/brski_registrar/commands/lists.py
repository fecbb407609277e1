"""Lists of devices as purchasing has them: CSV files, in what form a spreadsheet writes them."""

import csv
import io
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from brski_common import cli
from brski_common.encoding import decode_time
from brski_common.errors import BrskiError, Misconfigured
from brski_registrar.identity import MAX_SERIAL_NUMBER
from brski_registrar.policy import Admission

MAX_SERIALS: Final = 200_000  # in one file
SERIAL_COLUMN: Final = "serial_number"
COLUMNS: Final = (SERIAL_COLUMN, "purchased_on", "note")
_WANTED_COLUMNS: Final = f"the columns are {', '.join(COLUMNS)}"
_DELIMITER: Final = re.compile(r"[,;\t]")
_QUOTED: Final = re.compile(r'"[^"]*"')
_HEAD_WITHOUT_NAME: Final = re.compile(r"serial[^0-9]*")  # a column called `serial` is no device


def read_list(manufacturer: str, path: Path) -> Iterator[Admission]:
    """The devices of a CSV file: with a head line in any order, or serial numbers in the first column."""
    try:
        text = cli.read_input(path).decode("utf-8-sig")
        reader = csv.reader(io.StringIO(text), delimiter=_delimiter(text))
        rows = [(reader.line_num, row) for row in reader if any(map(str.strip, row))]
    except (ValueError, csv.Error) as error:
        raise Misconfigured("list-unreadable", f"{path}: not a CSV file in UTF-8: {error}") from error
    if len(rows) > MAX_SERIALS:
        raise Misconfigured("list-unreadable", f"{path}: {len(rows)} lines, at most {MAX_SERIALS}")
    head = [column.strip().lower().replace(" ", "_").replace("-", "_") for column in rows[0][1]] if rows else []
    if SERIAL_COLUMN not in head and any(_HEAD_WITHOUT_NAME.fullmatch(column) for column in head):
        advice = f"a head line has to name {SERIAL_COLUMN}; {_WANTED_COLUMNS}"
        raise Misconfigured("list-unreadable", f"{path}, line {rows[0][0]}: {advice}")
    columns = head if SERIAL_COLUMN in head else list(COLUMNS)
    for number, row in rows[1:] if SERIAL_COLUMN in head else rows:
        values = dict(zip(columns, (value.strip() for value in row), strict=False))
        try:
            yield entry(manufacturer, values[SERIAL_COLUMN], values.get("purchased_on", ""), values.get("note", ""))
        except (BrskiError, ValueError, KeyError) as error:
            raise Misconfigured("list-unreadable", f"{path}, line {number}: {error}") from error


def _delimiter(text: str) -> str:
    """The first comma, semicolon or tab outside quotes: a spreadsheet writes what is usual in its country."""
    found = _DELIMITER.search(_QUOTED.sub("", text))
    return found[0] if found else ","


def entry(manufacturer: str, serial: str, purchased_on: str = "", note: str = "") -> Admission:
    """An entry of the allow-list from texts; raises Misconfigured for one that is unusable."""
    if not serial or len(serial) > MAX_SERIAL_NUMBER or not serial.isprintable():
        wanted = f"1 to {MAX_SERIAL_NUMBER} printable characters are wanted"
        raise Misconfigured("serial-number-unusable", f"{serial[:80]!a}: {wanted}")
    return Admission(
        manufacturer=manufacturer, serial_number=serial, purchased_on=_date(purchased_on), note=note[:1000]
    )


def _date(text: str) -> datetime | None:
    """A day, or a time with its zone (RFC 3339); a day counts from midnight UTC."""
    if not text:
        return None
    try:
        return decode_time(text) if text[:1].isdigit() and "T" in text.upper() else _midnight(text)
    except (BrskiError, ValueError) as error:
        wanted = "a date is written 2026-11-02, or 2026-11-02T10:00:00Z"
        raise Misconfigured("time-malformed", f"{text[:80]!a}: {wanted}") from error


def _midnight(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)
