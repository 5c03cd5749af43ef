"""Reads and checks ``pinot_tables/*.yaml``: files in, declarations or one error with every mistake out."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from airflow_provider_rtlake.exceptions import DeclarationError
from airflow_provider_rtlake.pinot_config.check import check
from airflow_provider_rtlake.pinot_config.model import GlobalSection, PinotTable
from airflow_provider_rtlake.streams.yaml_lines import YamlFile, parse_yaml, read_yaml

GLOBAL_FILE = "_global.yaml"


def load_directory(directory: Path) -> list[PinotTable]:
    """Every table declared in a folder, in the order of the files' names.

    :param directory: folder of the YAML files.
    :raises DeclarationError: with every mistake in every file, or there is no such folder.
    """
    if not directory.is_dir():
        raise DeclarationError([f"{directory}: (folder): does not exist; name another, or create it: it may be empty"])
    paths = sorted(path for path in directory.iterdir() if path.suffix in (".yaml", ".yml"))
    files = [read_yaml(path, f"{directory.name}/{path.name}") for path in paths]
    return load_files(files)


def load_text(text: str, name: str = "pinot_tables/table.yaml", global_text: str | None = None) -> PinotTable:
    """One declaration from text; see :func:`load_files`.

    :param text: the YAML.
    :param name: file name for messages.
    :param global_text: what ``_global.yaml`` holds.
    """
    files = [parse_yaml(text, name)]
    if global_text is not None:
        files.append(parse_yaml(global_text, f"pinot_tables/{GLOBAL_FILE}"))
    return load_files(files)[0]


def load_files(files: Iterable[YamlFile]) -> list[PinotTable]:
    """Declarations from parsed files.

    :param files: one a table, and at most one named ``_global.yaml``.
    :raises DeclarationError: with every mistake in every file.
    """
    problems: list[str] = []
    defaults: dict[str, Any] = {}
    tables: list[tuple[YamlFile, PinotTable]] = []
    own = []
    for file in files:
        problems.extend(file.problems)
        if file.problems:
            continue
        if file.name.endswith(GLOBAL_FILE):
            defaults = _read_defaults(file, problems)
        else:
            own.append(file)
    for file in own:
        table = _read_table(file, defaults, problems)
        if table is not None:
            tables.append((file, table))
    problems.extend(_across(tables))
    if problems:
        raise DeclarationError(problems)
    return [table for _, table in tables]


def _read_defaults(file: YamlFile, problems: list[str]) -> dict[str, Any]:
    if not isinstance(file.data, dict) or set(file.data) != {"global"}:
        problems.append(
            file.problem((), "holds more or less than one key global", "write global: and the defaults under it")
        )
        return {}
    return _section(file, problems)


def _section(file: YamlFile, problems: list[str]) -> dict[str, Any]:
    section = file.data.get("global")
    if section is None:
        if "global" in file.data:
            problems.append(file.problem(("global",), "is empty", "give defaults under it or remove it"))
        return {}
    if not isinstance(section, dict):
        problems.append(file.problem(("global",), "is not a mapping", "write key: value lines under it"))
        return {}
    found = _validate(GlobalSection, section, file, ("global",), problems)
    return {} if found is None else section


def _read_table(file: YamlFile, defaults: dict[str, Any], problems: list[str]) -> PinotTable | None:
    if not isinstance(file.data, dict):
        problems.append(file.problem((), "is not a mapping", "begin with table: NAME"))
        return None
    own = {key: value for key, value in file.data.items() if key != "global"}
    merged = _merge(_merge(defaults, _section(file, problems)), own)
    table = _validate(PinotTable, merged, file, (), problems)
    if table is None:
        return None
    found = check(table)
    problems.extend(file.problem(problem.path, problem.what, problem.fix) for problem in found)
    return None if found else table


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        under = result.get(key)
        result[key] = _merge(under, value) if isinstance(under, Mapping) and isinstance(value, Mapping) else value
    return result


def _validate(
    model: type[BaseModel],
    data: dict[Any, Any],
    file: YamlFile,
    prefix: tuple[str | int, ...],
    problems: list[str],
) -> Any:
    try:
        return model.model_validate(data)
    except ValidationError as error:
        seen = set()
        for detail in error.errors(include_url=False):
            path = (*prefix, *_location(detail["loc"], data))
            what, fix = _explain(detail, model)
            if (path, detail["type"] == "extra_forbidden") not in seen:
                seen.add((path, detail["type"] == "extra_forbidden"))
                problems.append(file.problem(path, what, fix))
        return None


def _location(loc: tuple[str | int, ...], data: Any) -> tuple[str | int, ...]:
    """A pydantic location without the parts that name a union's member or a mapping's key."""
    path: list[str | int] = []
    here = data
    for part in loc:
        if isinstance(here, Mapping) and (part in here or not path or here is data):
            path.append(part)
            here = here.get(part)
        elif isinstance(here, (list, tuple)) and isinstance(part, int):
            path.append(part)
            here = here[part] if part < len(here) else None
        elif isinstance(here, Mapping) and part != "[key]":
            path.append(part)
            here = None
    return tuple(path)


def _explain(detail: Any, model: type[BaseModel]) -> tuple[str, str]:
    """What is wrong and what to do, in plain words."""
    kind, value, context = detail["type"], detail.get("input"), detail.get("ctx", {})
    if kind == "extra_forbidden":
        name = str(detail["loc"][-1])
        close = difflib.get_close_matches(name, _known_keys(model, detail["loc"]), 1)
        return "is no known key", f"did you mean {close[0]}?" if close else "remove it"
    if kind == "missing":
        return "is missing", "add it"
    if kind == "literal_error":
        return f"{value!r} is not allowed", f"use one of {context['expected']}"
    if kind in ("greater_than_equal", "less_than_equal"):
        limit = context.get("ge", context.get("le"))
        return (
            f"{value!r} is out of range",
            f"use a value {'of at least' if 'ge' in context else 'of at most'} {limit}",
        )
    if kind == "too_short":
        return "is empty", "add at least one"
    return f"{_shown(value)} has the wrong type", f"give {_WANTED.get(kind, detail['msg'])}"


_WANTED = {
    "string_type": "text (in quotes where it looks like a number)",
    "int_type": "a whole number without quotes",
    "int_parsing": "a whole number",
    "bool_type": "true or false",
    "tuple_type": "a list: [a, b]",
    "dict_type": "key: value lines under it",
    "model_type": "key: value lines under it",
    "model_attributes_type": "key: value lines under it",
}


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _known_keys(model: type[BaseModel], loc: tuple[Any, ...]) -> list[str]:
    from airflow_provider_rtlake.pinot_config import model as models

    sections: dict[str, type[BaseModel]] = {
        "kafka": models.Kafka,
        "upsert": models.Upsert,
        "segment": models.Segment,
        "columns": models.Column,
    }
    owner = model if len(loc) == 1 else sections.get(str(loc[0]), model)
    return [*owner.model_fields, *(["global"] if owner is PinotTable else [])]


def _across(tables: list[tuple[YamlFile, PinotTable]]) -> list[str]:
    problems: list[str] = []
    names: dict[str, str] = {}
    topics: dict[str, tuple[str, PinotTable]] = {}
    for file, table in tables:
        folded = table.full_name.lower()
        if folded in names:
            problems.append(
                file.problem(
                    ("table",),
                    f"{table.table} is declared in {names[folded]} too",
                    "keep one of the two files",
                )
            )
        names.setdefault(folded, file.name)
        first = topics.setdefault(table.kafka.topic, (file.name, table))
        for key in ("partitions", "replication_factor", "cleanup_policy"):
            mine, other = getattr(table.kafka, key), getattr(first[1].kafka, key)
            if mine != other:
                problems.append(
                    file.problem(
                        ("kafka", key),
                        f"{mine} differs from {other} in {first[0]}, which reads the same topic",
                        "make them equal",
                    )
                )
    return problems
