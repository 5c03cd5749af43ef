"""The same stack and tools as the integration tests have."""

from tests.integration.conftest import (
    access,
    declare,
    kafka_admin,
    pg,
    pytest_collection_modifyitems,
    rtlake,
    stack,
    trino_cursor,
)

__all__ = [
    "access",
    "declare",
    "kafka_admin",
    "pg",
    "pytest_collection_modifyitems",
    "rtlake",
    "stack",
    "trino_cursor",
]
