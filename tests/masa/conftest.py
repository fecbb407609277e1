"""The fixtures of this room."""

from tests.support.postgres import database_url, postgresql_server
from tests.support.softhsm import softhsm

__all__ = ["database_url", "postgresql_server", "softhsm"]
