"""One TOML file per role, every key of which the environment may override.

A role describes its settings as a `Section` (a pydantic model) whose fields carry descriptions;
`load` reads them, `render` writes the commented file of `init`. The laws of this file:

1. What is not known is an error. The message names the file (or the variable), the key, and what is
   allowed there; it never repeats a value, which may be a secret.
2. The environment wins over the file: BRSKI_MASA_LISTEN__PORT=9443 is `port` in `[listen]`. A value
   that starts with `[` or `{` is read as JSON, everything else is text.
3. Relative paths, key URIs and database URLs are relative to the file's folder, not to where the
   program was started.

pydantic itself does the checking. pydantic-settings is not used: it cannot say which variable was
wrong, lets unknown variables pass, and costs 5 MB and 50 ms.
"""

import json
import os
import re
import tomllib
import types
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_args, get_origin
from urllib.parse import quote, unquote

from pydantic import AfterValidator, BaseModel, ConfigDict, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from brski_common.errors import Misconfigured

MAX_SETTINGS_BYTES: Final = 256 * 1024
COMMENT_WIDTH: Final = 100

Location = tuple[int | str, ...]


class Section(BaseModel):
    """A table of the file. Frozen; unknown keys are refused; paths become absolute."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        revalidate_instances="always",  # a table's default is made before the folder is known
    )

    @field_validator("*", mode="after")
    @classmethod
    def _anchor_paths(cls, value: Any, info: ValidationInfo) -> Any:  # noqa: ANN401 -- any field's value
        folder = _folder(info)
        if isinstance(value, Path):
            return folder / value
        if isinstance(value, tuple | list) and value and all(isinstance(item, Path) for item in value):
            return type(value)(folder / item for item in value)
        return value


Model = TypeVar("Model", bound=Section)


def _folder(info: ValidationInfo) -> Path:
    context: Mapping[str, Path] = info.context or {}
    return context.get("folder", Path())


def _anchor_key(uri: str, info: ValidationInfo) -> str:
    """`file:` URIs and bare paths get the folder; `pkcs11:` stays."""
    if uri.startswith("pkcs11:"):
        return uri
    path = unquote(uri.removeprefix("file:"))
    if path.startswith("//"):
        path = path.removeprefix("//")
    if not path:
        raise ValueError("a key is file:PATH or pkcs11:… (RFC 7512)")
    return "file:" + quote(str(_folder(info) / path))


def _anchor_database(url: str, info: ValidationInfo) -> str:
    """`sqlite:///relative` gets the folder; `sqlite:////absolute` and `postgresql://…` stay."""
    if url.startswith(("postgresql://", "postgres://", "postgresql+psycopg://")):
        return url
    if not url.startswith("sqlite:///") or url == "sqlite:///":
        raise ValueError("must be sqlite:///FILE or postgresql://USER@HOST/NAME")
    return f"sqlite:///{_folder(info) / url.removeprefix('sqlite:///')}"


KeyUri = Annotated[str, AfterValidator(_anchor_key)]
DatabaseUrl = Annotated[str, AfterValidator(_anchor_database)]


def load(model: type[Model], path: Path | None, env_prefix: str, environment: Mapping[str, str] = os.environ) -> Model:
    """Read the settings from the TOML file `path` (None: none) and from the variables `env_prefix…`.

    Raises Misconfigured `settings-unreadable` or `settings-invalid`; the detail lists every fault.
    """
    values, variables = _read(path), _variables(env_prefix, environment)
    for location, (_name, value) in variables.items():
        _put(values, location, value)
    folder = path.absolute().parent if path else Path.cwd()
    try:
        return model.model_validate(values, context={"folder": folder})
    except ValidationError as error:
        names: dict[Location, str] = {location: name for location, (name, _value) in variables.items()}
        faults = [_explain(model, fault, path, names) for fault in error.errors(include_input=False, include_url=False)]
        raise Misconfigured("settings-invalid", "; ".join(faults)) from None  # the cause would show the values


def _read(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        data = path.read_bytes()
        if len(data) > MAX_SETTINGS_BYTES:
            raise Misconfigured("settings-unreadable", f"{path}: {len(data)} bytes, at most {MAX_SETTINGS_BYTES}")
        return tomllib.loads(data.decode())
    except OSError as error:
        raise Misconfigured("settings-unreadable", f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise Misconfigured("settings-unreadable", f"{path}: not TOML: {error}") from error


def _variables(prefix: str, environment: Mapping[str, str]) -> dict[tuple[str, ...], tuple[str, Any]]:
    """The variables of this program: where each belongs, its name and its value."""
    return {
        tuple(name.removeprefix(prefix).lower().split("__")): (name, _value(text))
        for name, text in sorted(environment.items())
        if name.startswith(prefix)
    }


def _value(text: str) -> Any:  # noqa: ANN401 -- whatever JSON holds
    if text.startswith(("[", "{")):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _put(values: dict[str, Any], location: tuple[str, ...], value: Any) -> None:  # noqa: ANN401 -- see above
    for key in location[:-1]:
        inner = values.get(key)
        if not isinstance(inner, dict):
            inner = values[key] = {}
        values = inner
    values[location[-1]] = value


def _explain(model: type[BaseModel], fault: ErrorDetails, path: Path | None, names: Mapping[Location, str]) -> str:
    """One fault: where it stands, what is wrong, what is allowed."""
    location = fault["loc"]
    source = next((name for at, name in names.items() if at == location[: len(at)]), None)
    where = ": ".join(filter(None, (str(source or path or "the settings"), ".".join(map(str, location)))))
    owner = _section_at(model, location[:-1])
    if fault["type"] == "extra_forbidden" and owner is not None:
        return f"{where}: unknown key (allowed: {', '.join(owner.model_fields)})"
    if fault["type"] == "missing":
        return f"{where}: must be set{_purpose(owner, location[-1])}"
    said = fault["msg"].removeprefix("Value error, ")
    purpose = _purpose(owner, location[-1]) if location else ""  # none: a rule over the whole file
    return f"{where}: {said}{'' if purpose.strip(' ()') in said else purpose}"


def _purpose(owner: type[BaseModel] | None, key: int | str) -> str:
    field = owner.model_fields.get(str(key)) if owner else None
    if field is None:
        return ""
    said = [text for text in (field.description, _allowed(field.annotation)) if text]
    return f" ({'; '.join(said)})" if said else ""


def _section_at(model: type[BaseModel], location: Location) -> type[BaseModel] | None:
    """The model that holds the last key of a location; list positions do not count."""
    for step in location:
        if isinstance(step, int):
            continue
        field = model.model_fields.get(step)
        inner = _inner_model(field.annotation) if field else None
        if inner is None:
            return None
        model = inner
    return model


def _inner_model(annotation: Any) -> type[BaseModel] | None:  # noqa: ANN401 -- any type expression
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((inner for part in get_args(annotation) if (inner := _inner_model(part))), None)


def _allowed(annotation: Any) -> str:  # noqa: ANN401 -- any type expression
    """The values of a closed choice, in words; empty where it is open."""
    origin = get_origin(annotation)
    if origin is Literal:
        return "allowed: " + ", ".join(map(str, get_args(annotation)))
    if annotation is bool:
        return "allowed: true, false"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "allowed: " + ", ".join(str(member.value) for member in annotation)
    if origin in (Union, types.UnionType, Annotated):
        return next((words for part in get_args(annotation) if (words := _allowed(part))), "")
    return ""


def render(settings: BaseModel, heading: str = "") -> str:
    """Write settings as a commented TOML text for `init`.

    What was set explicitly stands as it is; what was left at its default stands commented out, so
    that the file shows every key.
    """
    blocks = [_comment(heading)] if heading else []
    blocks += _render_section(settings, "")
    return "\n".join(blocks).strip() + "\n"


def _render_section(section: BaseModel, prefix: str) -> list[str]:
    """Plain keys first: in TOML a key after a table's head belongs to that table."""
    fields = type(section).model_fields
    values = {name: getattr(section, name) for name in fields}
    tables = {name for name, value in values.items() if _is_table(value)}
    blocks = [_render_key(section, name, fields[name]) for name in fields if name not in tables]
    for name in (name for name in fields if name in tables):
        items, mark = ([values[name]], "[{}]") if isinstance(values[name], BaseModel) else (values[name], "[[{}]]")
        for item in items:
            blocks.append(_comment(fields[name].description) + mark.format(prefix + name) + "\n")
            blocks += _render_section(item, f"{prefix}{name}.")
    return blocks


def _is_table(value: Any) -> bool:  # noqa: ANN401 -- any field's value
    if isinstance(value, BaseModel):
        return True
    return isinstance(value, tuple | list) and bool(value) and all(isinstance(item, BaseModel) for item in value)


def _render_key(section: BaseModel, name: str, field: FieldInfo) -> str:
    value = getattr(section, name)
    said = ". ".join(text.rstrip(".") for text in (field.description, _allowed(field.annotation)) if text)
    line = f"{name} = {_toml(value)}" if value is not None else f"{name} ="
    if name not in section.model_fields_set or value is None:
        line = "# " + line
    return _comment(said) + line + "\n"


def _comment(text: str | None) -> str:
    """Wrap a text at COMMENT_WIDTH, each line behind `# `."""
    lines = re.findall(rf"\S.{{0,{COMMENT_WIDTH - 1}}}(?!\S)|\S+", " ".join((text or "").split()))
    return "".join(f"# {line.rstrip()}\n" for line in lines)


def _toml(value: Any) -> str:  # noqa: ANN401 -- any field's value
    if isinstance(value, SecretStr):
        value = value.get_secret_value()
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool | int | float):
        return str(value).lower()
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, Mapping):
        inner = ", ".join(f"{json.dumps(str(key))} = {_toml(item)}" for key, item in value.items())
        return f"{{{inner}}}"
    if isinstance(value, Sequence | set | frozenset):
        return f"[{', '.join(_toml(item) for item in value)}]"
    raise TypeError(f"a {type(value).__name__} has no form in a settings file")
