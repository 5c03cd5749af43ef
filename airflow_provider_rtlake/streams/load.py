"""Reads the declarations under ``connectors/``: every mistake in all of them is found before anything is touched."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from airflow_provider_rtlake.exceptions import DeclarationError
from airflow_provider_rtlake.streams.clashes import find_clashes
from airflow_provider_rtlake.streams.model import Connector, Database, History, Realtime, Table
from airflow_provider_rtlake.streams.naming import split_qualified
from airflow_provider_rtlake.streams.rules import Path as KeyPath
from airflow_provider_rtlake.streams.rules import check_connector
from airflow_provider_rtlake.streams.yaml_lines import YamlFile, read_yaml

SUFFIXES = (".yaml", ".yml")


@dataclass
class Loaded:
    """One file.

    :param file: the file with its lines.
    :param connector: what it declares; None where that could not be made out.
    :param problems: what is wrong with it, in order of lines.
    """

    file: YamlFile
    connector: Connector | None = None
    problems: list[tuple[int, str]] = field(default_factory=list)

    def add(self, path: KeyPath, what: str, fix: str) -> None:
        """Note a problem.

        :param path: keys and list indexes from the top.
        :param what: what is wrong.
        :param fix: what to do.
        """
        entry = (self.file.line(path), self.file.problem(path, what, fix))
        if entry not in self.problems:
            self.problems.append(entry)


@dataclass(frozen=True)
class Declarations:
    """Connectors together with where each of their keys stands.

    :param connectors: in the order of file names.
    :param files: the file of each.
    """

    connectors: tuple[Connector, ...]
    files: tuple[YamlFile, ...]

    def problem(self, connector: Connector, path: KeyPath, what: str, fix: str) -> str:
        """A message that names a key of a declaration, in the project's one form.

        :param connector: one of them.
        :param path: keys and list indexes from the top of its file.
        :param what: what is wrong.
        :param fix: what to do.
        """
        return self.files[self.connectors.index(connector)].problem(path, what, fix)


def load_connectors(folder: str | Path) -> list[Connector]:
    """Read every declaration of a folder.

    :param folder: holds one YAML file for each connector.
    :raises DeclarationError: any of them breaks a rule; holds every problem of every file.
    """
    return list(load_declarations(folder).connectors)


def load_declarations(folder: str | Path) -> Declarations:
    """Read every declaration of a folder, and keep where each key stands.

    :param folder: holds one YAML file for each connector.
    :raises DeclarationError: any of them breaks a rule; holds every problem of every file.
    """
    root = Path(folder)
    if not root.is_dir():
        raise DeclarationError([f"{root}: (folder): does not exist; create it with one YAML file for each connector"])
    paths = sorted(path for path in root.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith("."))
    if not paths:
        raise DeclarationError([f"{root}: (folder): holds no *.yaml file; write one for each connector"])
    loaded = [parse_connector(read_yaml(path, f"{root.name}/{path.name}")) for path in paths]
    _add_clashes(loaded)
    problems = [text for one in loaded for _, text in sorted(one.problems)]
    if problems:
        raise DeclarationError(problems)
    pairs = [(one.connector, one.file) for one in loaded if one.connector is not None]
    return Declarations(tuple(connector for connector, _ in pairs), tuple(file for _, file in pairs))


def parse_connector(file: YamlFile) -> Loaded:
    """Check one parsed file by every rule that needs no other file.

    :param file: the file.
    """
    loaded = Loaded(file, problems=[(0, text) for text in file.problems])
    if file.problems:
        return loaded
    if not isinstance(file.data, dict):
        loaded.add((), f"holds {_kind(file.data)}", "write keys such as connector, topic_prefix and tables")
        return loaded
    for path in _keys_that_are_no_text(file.data):
        loaded.add(path, "is no text for YAML", "put the key into quotes")
    if loaded.problems:
        return loaded
    loaded.connector = _validate(loaded, _with_defaults(file.data))
    if loaded.connector is not None:
        for path, what, fix in check_connector(loaded.connector):
            loaded.add(path, what, fix)
    return loaded


def _add_clashes(loaded: list[Loaded]) -> None:
    usable = [(index, _named(one.connector)) for index, one in enumerate(loaded) if one.connector is not None]
    for clash in find_clashes(usable):
        first = loaded[clash.first.file].file
        where = f"{first.name}:{first.line(clash.first.path)}"
        loaded[clash.place.file].add(clash.place.path, f"{clash.what} by {where}", clash.fix)


def _named(connector: Connector) -> Connector:
    """Without tables whose name is no name, which was told already."""
    tables = {source: table for source, table in connector.tables.items() if _is_name(source)}
    return connector.model_copy(update={"tables": tables})


def _is_name(source: str) -> bool:
    try:
        split_qualified(source)
    except ValueError:
        return False
    return True


def _keys_that_are_no_text(data: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    if isinstance(data, dict):
        for key, value in data.items():
            if isinstance(key, str):
                yield from _keys_that_are_no_text(value, (*path, key))
            else:
                yield (*path, {True: "true", False: "false", None: "null"}.get(key, str(key)))
    elif isinstance(data, list):
        for index, value in enumerate(data):
            yield from _keys_that_are_no_text(value, (*path, index))


def _with_defaults(data: dict[str, Any]) -> dict[str, Any]:
    """``table:`` without a value takes every default, and so does ``history: true``."""
    tables = data.get("tables")
    if not isinstance(tables, dict):
        return data
    return {**data, "tables": {name: _table_defaults(table) for name, table in tables.items()}}


def _table_defaults(table: Any) -> Any:
    if table is None:
        return {}
    if not isinstance(table, dict):
        return table
    return {key: {} if key in ("history", "realtime") and value is True else value for key, value in table.items()}


_REQUIRED: tuple[KeyPath, ...] = ((), ("connector",), ("topic_prefix",), ("tables",))


def _depth(path: KeyPath) -> tuple[int, int]:
    """Deepest first, and the last of a list's items first: what was removed shifts nothing that is still to go."""
    last = path[-1]
    return len(path), last if isinstance(last, int) else 0


def _validate(loaded: Loaded, data: dict[str, Any]) -> Connector | None:
    """The connector without what is wrong in it, so that the other rules are checked all the same."""
    for _ in range(3):
        try:
            return Connector.model_validate_json(json.dumps(data, default=str), strict=True)
        except ValidationError as error:
            wrong = _explain(loaded, data, error.errors(include_url=False, include_context=True))
            if any(path in _REQUIRED for path in wrong):
                return None
            for path in sorted(wrong, key=_depth, reverse=True):
                _remove(data, path)
    return None


def _explain(loaded: Loaded, data: dict[str, Any], errors: list[ErrorDetails]) -> list[KeyPath]:
    """Note each error once; return the paths that were wrong."""
    paths: dict[KeyPath, tuple[str, str]] = {}
    for error in errors:
        path, value = _path_in(data, error["loc"])
        if error["type"] == "literal_error" and isinstance(value, dict):
            continue  # history and realtime: a mapping, whose own mistakes follow
        paths.setdefault(path, _message(path, value, error))
    for path, (what, fix) in paths.items():
        loaded.add(path, what, fix)
    return list(paths)


_UNION_MEMBERS = ("History", "Realtime", "literal[False]", "str", "int", "bool")  # as pydantic spells them


def _path_in(data: Any, loc: tuple[str | int, ...]) -> tuple[KeyPath, Any]:
    """The error's place in the file: pydantic adds the names of a union's members to it."""
    path: list[str | int] = []
    for number, part in enumerate(loc):
        if (isinstance(data, dict) and part in data) or isinstance(data, list):
            data = data[part]  # type: ignore[index]  # pydantic gives a list's errors an index
            path.append(part)
        elif number == len(loc) - 1 and isinstance(data, dict) and part not in _UNION_MEMBERS:
            return (*path, part), None
    return tuple(path), data


def _known_keys(path: KeyPath) -> list[str]:
    parent = path[:-1]
    models: dict[str, type[BaseModel]] = {"history": History, "realtime": Realtime}
    if parent == ("database",):
        return list(Database.model_fields)
    if parent[:1] == ("tables",):
        return list((models.get(str(parent[2])) or Table if len(parent) > 2 else Table).model_fields)
    return list(Connector.model_fields)


def _message(path: KeyPath, value: Any, error: ErrorDetails) -> tuple[str, str]:
    kind = error["type"]
    if kind == "extra_forbidden":
        known = _known_keys(path)
        near = difflib.get_close_matches(str(path[-1]), known, n=1, cutoff=0.6)
        return (
            "is no key of a declaration",
            f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}",
        )
    if kind == "missing":
        return "is missing", "add it"
    if kind == "json_invalid":
        return "holds a character that is no valid text", "remove it"
    context = error.get("ctx", {})
    if "ge" in context or "le" in context:
        limit = f"at least {context['ge']}" if "ge" in context else f"at most {context['le']}"
        return f"is {value}", f"write a number of {limit}"
    return f"is {_kind(value)}", f"write {_expected(path, error)}"


def _expected(path: KeyPath, error: ErrorDetails) -> str:
    if path[0] == "config":
        return "a text, a whole number, true or false" if len(path) > 1 else "'setting: value' pairs"
    if path[-1] in ("history", "realtime"):
        return "keys below it, or false"
    if path[-1] == "replica_identity":
        return "full or keep"
    if path[-1] == "renamed_from":
        return "'new name: old name' pairs"
    kinds = {
        "string_type": "a text (in quotes, if YAML takes it for something else)",
        "int_type": "a whole number",
        "int_from_float": "a whole number",
        "tuple_type": "a list, such as [id, region]",
        "dict_type": "keys and values below it",
        "model_type": "keys and values below it",
    }
    return kinds.get(error["type"], "keys and values below it")


def _kind(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, bool):
        return f"{str(value).lower()} (true or false)"
    if isinstance(value, (int, float)):
        return f"the number {value}"
    if isinstance(value, str):
        return f"the text {value[:40]!r}"
    return "a list" if isinstance(value, list) else "a group of keys"


def _remove(data: Any, path: KeyPath) -> None:
    *parents, last = path
    for part in parents:
        data = data[part]
    if isinstance(data, list) and isinstance(last, int):
        data.pop(last)
    elif isinstance(data, dict):
        data.pop(last, None)
