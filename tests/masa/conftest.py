"""The fixtures of this room."""

from tests.support.postgres import database_url, postgresql_server

__all__ = ["database_url", "postgresql_server"]
