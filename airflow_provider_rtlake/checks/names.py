"""Names of tables and columns in Trino's SQL."""

from __future__ import annotations

import re
from dataclasses import dataclass

from airflow_provider_rtlake.exceptions import UserError

_PART = re.compile(r'"(?:[^"]|"")+"|[^".]+')


def quoted(name: str) -> str:
    """An identifier, quoted.

    :param name: any column, schema or table name.
    """
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as an SQL literal.

    :param text: any text.
    """
    return "'" + text.replace("'", "''") + "'"


@dataclass(frozen=True)
class TableName:
    """A table as Trino names it.

    :param catalog: such as ``nessie`` or ``postgresql``.
    :param schema: schema or namespace.
    :param table: table.
    """

    catalog: str
    schema: str
    table: str

    @classmethod
    def parse(cls, text: str) -> TableName:
        """Read ``catalog.schema.table``; a part with a dot in it stands in double quotes.

        :param text: the name.
        :raises UserError: it has not three parts.
        """
        parts = _PART.findall(text)
        spelled = ".".join(parts)
        if len(parts) != 3 or spelled != text:
            raise UserError(
                f"{text!r} is no table of Trino; write catalog.schema.table, a part with a dot or a quote"
                ' in it in double quotes, such as postgresql.public."my.table"'
            )
        return cls(*(part[1:-1].replace('""', '"') if part.startswith('"') else part for part in parts))

    @property
    def sql(self) -> str:
        """The name, quoted."""
        return ".".join(quoted(part) for part in (self.catalog, self.schema, self.table))

    def __str__(self) -> str:
        return ".".join(
            part if re.fullmatch(r"[^\".]+", part) else quoted(part) for part in (self.catalog, self.schema, self.table)
        )

    def columns_sql(self) -> str:
        """A query for the table's columns: name and type, in the table's order."""
        # Trino shows every name in lower case.
        schema, table = literal(self.schema.lower()), literal(self.table.lower())
        return (
            f"SELECT column_name, data_type FROM {quoted(self.catalog)}.information_schema.columns "  # noqa: S608
            f"WHERE table_schema = {schema} AND table_name = {table} ORDER BY ordinal_position"
        )
