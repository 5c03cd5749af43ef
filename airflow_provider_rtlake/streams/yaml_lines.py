"""YAML that remembers where each key stands, so that an error can name file and line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

Path_ = tuple[str | int, ...]


@dataclass(frozen=True)
class YamlFile:
    """One parsed file.

    :param name: as it is shown in messages.
    :param data: what it holds; None where it could not be parsed.
    :param lines: path of keys and list indexes → line, counted from 1.
    :param problems: what is wrong with it as YAML, one line each.
    """

    name: str
    data: Any
    lines: dict[Path_, int] = field(default_factory=dict)
    problems: tuple[str, ...] = ()

    def line(self, path: Path_) -> int:
        """Line of a path, or of its nearest parent that is in the file.

        :param path: keys and list indexes from the top.
        """
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)

    def problem(self, path: Path_, what: str, fix: str) -> str:
        """A message in the project's one form: ``file:line: key: what; fix``.

        :param path: keys and list indexes from the top.
        :param what: what is wrong.
        :param fix: what to do.
        """
        key = ".".join(str(part) for part in path) or "(file)"
        return f"{self.name}:{self.line(path)}: {key}: {what}; {fix}"


_KEYS = 20_000  # in one declaration, aliases counted as often as they are used


class _Loader(yaml.SafeLoader):
    """Dates stay text: no declaration holds a date."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def read_yaml(path: Path, name: str | None = None) -> YamlFile:
    """Read a file; see :func:`parse_yaml`. One that cannot be read is a mistake like the others.

    :param path: the file.
    :param name: as it is shown in messages; by default the path.
    """
    shown = name or str(path)
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        return YamlFile(shown, None, problems=(f"{shown}:1: (file): is not UTF-8: {error.reason}; save it as UTF-8",))
    except OSError as error:
        what = f"{shown}:1: (file): cannot be read: {error.strerror}; make it a readable file"
        return YamlFile(shown, None, problems=(what,))
    return parse_yaml(text, shown)


def parse_yaml(text: str, name: str) -> YamlFile:
    """Parse one YAML document. Mistakes in it are collected, not raised.

    :param text: the document.
    :param name: the file's name as it is shown in messages.
    """
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        what = f"holds the character U+{error.character:04X}, which YAML does not allow; remove it"
        return YamlFile(name, None, problems=(f"{name}:{line}: (file): {what}",))
    try:
        node = loader.get_single_node()
        if node is None:
            return YamlFile(
                name, None, problems=(f"{name}:1: (file): is empty; write a declaration or remove the file",)
            )
        lines: dict[Path_, int] = {}
        problems: list[str] = []
        _walk(node, (), name, lines, problems, depth=0)
        data = None if problems else loader.construct_document(node)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return YamlFile(name, None, problems=(_syntax(name, error),))
    finally:
        loader.dispose()
    return YamlFile(name, data, lines, tuple(problems))


def _syntax(name: str, error: Exception) -> str:
    mark = getattr(error, "problem_mark", None)
    line = 1 if mark is None else mark.line + 1
    what = getattr(error, "problem", None) or str(error).splitlines()[0]
    return f"{name}:{line}: (file): is not valid YAML: {what}; check indentation, colons and quotes on this line"


def _walk(node: yaml.Node, path: Path_, name: str, lines: dict[Path_, int], problems: list[str], depth: int) -> None:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if len(lines) > _KEYS:  # aliases of aliases make a short file endless
        raise yaml.MarkedYAMLError(
            problem=f"is too large: more than {_KEYS} keys and values", problem_mark=node.start_mark
        )
    if depth > 30:
        problems.append(f"{name}:{line}: {path[0]}: is nested too deeply; declarations are at most a few levels deep")
    elif isinstance(node, yaml.MappingNode):
        for key_node, value in node.value:
            key = _key(key_node)
            here = key_node.start_mark.line + 1
            where = (*path, key)
            if where in lines:
                dotted = ".".join(str(part) for part in where)
                problems.append(f"{name}:{here}: {dotted}: is given twice (first on line {lines[where]}); keep one")
                continue
            lines[where] = here
            _walk(value, where, name, lines, problems, depth + 1)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(item, (*path, index), name, lines, problems, depth + 1)


def _key(node: yaml.Node) -> str:
    return node.value if isinstance(node, yaml.ScalarNode) else "?"
