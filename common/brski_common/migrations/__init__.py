"""Bring a role's tables up to date: the one place that knows Alembic.

A role keeps its revisions in `brski_ROLE/migrations/versions/NNNN_what.py`, in one line: the revision
id is the number, `down_revision` the number before. The package itself holds nothing but a docstring;
`env.py` is here, for all of them. Alembic (10 MB, 100 ms) is imported only when there is something to do.

    revision = "0002"
    down_revision = "0001"

    def upgrade() -> None:
        op.add_column("devices", Column("model", String))

There is no downgrade: a newer schema than the program knows is an error, and a copy of the database
made before the upgrade is the way back.
"""

import re
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import sqlalchemy
from sqlalchemy import Connection, Engine

from brski_common.errors import Misconfigured

ADVISORY_LOCK: Final = 0x6272736B69  # "brski": PostgreSQL's lock while a schema changes

_REVISION_FILE: Final = re.compile(r"(\d{4})_\w+\.py")


def upgrade(engine: Engine, package: str) -> None:
    """Run the revisions of `package` that the database lacks, in one transaction.

    Raises Misconfigured `database-newer-than-program`, and whatever SQLAlchemy raises.
    """
    folder = _versions(package)
    newest = _newest(folder)
    table = version_table(package)
    with engine.connect() as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(sqlalchemy.select(sqlalchemy.func.pg_advisory_xact_lock(ADVISORY_LOCK)))
        current = _current(connection, table)
        if current == newest:
            return
        if current is not None and current > newest:
            raise Misconfigured(
                "database-newer-than-program",
                f"the schema is at revision {current}, this program knows up to {newest}; use the newer program",
            )
        _run(connection, folder, table)


def version_table(package: str) -> str:
    """The table that holds the revision: one for each role, so that two may share a database."""
    return package.partition(".")[0] + "_revision"


def _versions(package: str) -> Path:
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(f"no package {package}", name=package)
    return Path(spec.submodule_search_locations[0]) / "versions"


def _newest(folder: Path) -> str:
    """The last revision by its file name; asking Alembic would import it and every revision."""
    numbers = [match[1] for file in folder.iterdir() if (match := _REVISION_FILE.fullmatch(file.name))]
    if not numbers:
        raise FileNotFoundError(f"no revision NNNN_what.py in {folder}")
    return max(numbers)


def _current(connection: Connection, table: str) -> str | None:
    if not sqlalchemy.inspect(connection).has_table(table):
        return None
    column = sqlalchemy.column("version_num", sqlalchemy.String)
    return connection.execute(sqlalchemy.select(column).select_from(sqlalchemy.table(table))).scalar()


def _run(connection: Connection, folder: Path, table: str) -> None:
    from alembic import command  # noqa: PLC0415 - a start with the schema in place shall not pay for Alembic
    from alembic.config import Config  # noqa: PLC0415 - as above

    config = Config(attributes={"connection": connection, "version_table": table})
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("version_locations", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "newline")
    command.upgrade(config, "head")
