"""The device as the command knows it: one TOML file that says where its things are and how it behaves.

Keys are those of `DeviceFile` and of `PledgeSettings`. The environment (BRSKI_PLEDGE_MDNS=false) comes
before the file, options before both. Paths in the file are relative to the file, all others to where
the command runs. An unknown key is an error, not a surprise.
"""

import os
import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from brski_common.errors import Misconfigured
from brski_pledge.settings import PledgeSettings, demand

ENVIRONMENT = "BRSKI_PLEDGE_"
PATHS = ("state", "certificate", "voucher_anchors", "cloud_anchors")
URI_SCHEMES = ("file:", "pkcs11:")
BEHAVIOUR = {each.name: each.default for each in fields(PledgeSettings)}


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFile:
    """Where the device's own things are."""

    state: Path
    certificate: Path  # PEM: the IDevID and its chain, leaf first
    key: str  # its key: a path or a file: URI
    voucher_anchors: Path  # PEM: who may sign vouchers
    cloud_anchors: Path | None = None  # PEM: who may vouch for the cloud registrar
    trusted_clock: bool = False  # whether the time of day can be believed (RFC 8995, 2.6)
    settings: PledgeSettings = field(default_factory=PledgeSettings)

    @classmethod
    def load(cls, path: Path | None, options: Mapping[str, Any], environment: Mapping[str, str] = os.environ) -> Self:
        """Read the file, the environment and the options; raises Misconfigured.

        A person at a console gives up after one round, unless something says `once = false`.
        """
        values = {"once": True} | _values(path, options, environment)
        _check_known(values, path)
        _check_complete(values, path)
        own, settings = _judged(values, path, options, environment)
        return cls(**own, settings=settings)

    @classmethod
    def state_of(cls, path: Path | None, option: Path | None, environment: Mapping[str, str] = os.environ) -> Path:
        """The state folder, for what needs nothing else; all that is set is judged. Raises Misconfigured."""
        options = {"state": option}
        values = _values(path, options, environment)
        _check_known(values, path)
        own, _ = _judged(values, path, options, environment)
        if "state" not in own:
            raise Misconfigured("setting-missing", "state: name the folder with --state, or a file with --config")
        return Path(own["state"])


def _values(path: Path | None, options: Mapping[str, Any], environment: Mapping[str, str]) -> dict[str, Any]:
    values = {} if path is None else _anchored(_read(path), path.absolute().parent)
    for name, text in environment.items():
        if name.startswith(ENVIRONMENT):
            key = name.removeprefix(ENVIRONMENT).lower()
            if key not in BEHAVIOUR and key not in _own_names():
                raise Misconfigured(
                    "setting-unknown", f"{name}; allowed are {_known()}, in capitals after {ENVIRONMENT}"
                )
            values[key] = _from_text(name, text, BEHAVIOUR.get(key, False if key == "trusted_clock" else None))
    return values | {name: value for name, value in options.items() if value is not None}


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise Misconfigured("settings-unreadable", f"{path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Misconfigured("settings-malformed", f"{path}: {error}") from error


def _anchored(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Paths of the file, seen from where the file is."""
    named = [name for name in (*PATHS, "key") if isinstance(values.get(name), str)]
    return values | {name: str(folder / values[name]) for name in named if not values[name].startswith(URI_SCHEMES)}


def _from_text(name: str, text: str, default: object) -> object:
    """A variable's text as the TOML value its key takes: a list by commas, a number, a truth, a text."""
    if isinstance(default, tuple):
        return [part.strip() for part in text.split(",") if part.strip()]
    if isinstance(default, bool):
        demand(text.lower() in {"true", "false"}, name, "true or false")
        return text.lower() == "true"
    if isinstance(default, int | float):
        try:
            return type(default)(text)
        except ValueError as error:
            raise Misconfigured("setting-invalid", f"{name}: a number is allowed") from error
    return text


def _own_names() -> dict[str, bool]:
    """The keys of the device itself, and whether each is needed."""
    return {each.name: each.default is MISSING for each in fields(DeviceFile) if each.name != "settings"}


def _known() -> str:
    return ", ".join(sorted({*_own_names(), *BEHAVIOUR}))


def _check_known(values: Mapping[str, Any], path: Path | None) -> None:
    unknown = sorted(values.keys() - _own_names().keys() - BEHAVIOUR.keys())
    if unknown:
        where = "options" if path is None else str(path)
        raise Misconfigured("setting-unknown", f"{where}: {', '.join(unknown)}; allowed are {_known()}")


def _check_complete(values: Mapping[str, Any], path: Path | None) -> None:
    missing = [name for name, needed in _own_names().items() if needed and name not in values]
    if missing and path is None:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in missing)
        raise Misconfigured("setting-missing", f"give {options}, or a file that has them with --config")
    if missing:
        raise Misconfigured("setting-missing", f"{path}: {', '.join(missing)}")


def _judged(
    values: Mapping[str, Any], path: Path | None, options: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[dict[str, Any], PledgeSettings]:
    """The device's own things and its behaviour; raises Misconfigured, which says where a wrong value comes from."""
    try:
        behaviour: dict[str, Any] = {name: _frozen(values[name]) for name in BEHAVIOUR if name in values}
        settings = PledgeSettings(**behaviour)
        return {name: _own(name, values[name]) for name in _own_names() if name in values}, settings
    except Misconfigured as error:
        name = error.detail.partition(":")[0]
        variable, where = ENVIRONMENT + name.upper(), "options" if path is None else str(path)
        if options.get(name) is not None:
            where = "options"
        elif variable in environment:
            where = variable
        raise Misconfigured(error.reason, f"{where}: {error.detail}") from error


def _own(name: str, value: object) -> object:
    if name == "trusted_clock":
        demand(isinstance(value, bool), name, "true or false")
        return value
    sound = isinstance(value, str | Path) and bool(str(value)) and "\0" not in str(value)
    demand(sound, name, "a path")
    return str(value) if name == "key" else Path(str(value))


def _frozen(value: object) -> object:
    return tuple(value) if isinstance(value, list) else value
