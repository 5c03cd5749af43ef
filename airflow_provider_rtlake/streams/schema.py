"""What the source's catalog says about a table: columns, types, key, replica identity."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Column:
    """One column of a source table.

    :param name: as PostgreSQL spells it.
    :param type: ``format_type`` without modifiers: ``numeric``, ``timestamp with time zone``, ``integer[]``, an enum's
        name; of a domain its base type's.
    :param precision: numeric precision, a character or bit type's length, or the digits of a time's seconds; None
        where the column declares none.
    :param scale: numeric scale.
    :param nullable: whether NULL is allowed.
    :param generated: a generated column, which replication leaves out.
    :param kind: ``b`` base, ``e`` enum, ``d`` domain, ``c`` composite, ``r`` range (``pg_type.typtype``).
    :param dimensions: declared array dimensions, 0 for a scalar.
    :param toastable: whether a large value may be stored apart (and so be missing from a change).
    """

    name: str
    type: str
    precision: int | None = None
    scale: int | None = None
    nullable: bool = True
    generated: bool = False
    kind: str = "b"
    dimensions: int = 0
    toastable: bool = False


@dataclass(frozen=True)
class TableSchema:
    """One source table as the source's catalog describes it.

    :param schema: PostgreSQL schema.
    :param name: table name.
    :param columns: in the table's order.
    :param key: primary key columns, or the declared key, in order.
    :param replica_identity: ``default``, ``full``, ``index`` or ``nothing``.
    :param deferrable_key: whether the key may be violated inside a transaction.
    :param partitioned: a partitioned table, published through its root.
    """

    schema: str
    name: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    replica_identity: str = "default"
    deferrable_key: bool = False
    partitioned: bool = False
    _by_name: dict[str, Column] = field(init=False, repr=False, compare=False, hash=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_name", {column.name: column for column in self.columns})

    def column(self, name: str) -> Column:
        """The column of that name.

        :raises KeyError: there is none.
        """
        return self._by_name[name]

    @property
    def captured(self) -> tuple[Column, ...]:
        """The columns that replication sends: all but the generated ones."""
        return tuple(column for column in self.columns if not column.generated)
