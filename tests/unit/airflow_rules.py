"""The rules that operators, sensors and triggers obey, as checks of their source."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field


@dataclass
class Class:
    """What a class says of itself.

    :param name: its name.
    :param bases: names of its bases.
    :param templates: names in its own ``template_fields``; None where it has none.
    :param from_classes: classes whose ``template_fields`` it takes over.
    :param attributes: what its ``__init__`` puts on ``self``.
    :param arguments: of its ``__init__``.
    :param node: the class.
    """

    name: str
    bases: list[str]
    node: ast.ClassDef
    templates: set[str] | None = None
    from_classes: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    arguments: set[str] = field(default_factory=set)


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _method(node: ast.ClassDef, name: str) -> ast.FunctionDef | None:
    return next((item for item in node.body if isinstance(item, ast.FunctionDef) and item.name == name), None)


def _templates(found: Class, value: ast.expr) -> None:
    found.templates = set()
    for part in ast.walk(value):
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            found.templates.add(part.value)
        elif isinstance(part, ast.Attribute) and part.attr == "template_fields":
            found.from_classes.add(_name(part.value))


def classes(sources: Iterable[str]) -> dict[str, Class]:
    """Every class of some modules.

    :param sources: the modules' texts.
    """
    table: dict[str, Class] = {}
    for source in sources:
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ClassDef):
                table[node.name] = _describe(node)
    return table


def _describe(node: ast.ClassDef) -> Class:
    found = Class(node.name, [_name(base) for base in node.bases], node)
    for item in node.body:
        if not isinstance(item, (ast.Assign, ast.AnnAssign)):
            continue
        targets = item.targets if isinstance(item, ast.Assign) else [item.target]
        if any(_name(target) == "template_fields" for target in targets) and item.value is not None:
            _templates(found, item.value)
    init = _method(node, "__init__")
    if init is not None:
        every = [*init.args.args, *init.args.kwonlyargs]
        found.arguments = {argument.arg for argument in every} - {"self"}
        for part in ast.walk(init):
            if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Store) and _name(part.value) == "self":
                found.attributes.add(part.attr)
    return found


def _line(found: Class, table: dict[str, Class]) -> Iterator[Class]:
    """A class and its known ancestors, nearest first."""
    yield found
    for base in found.bases:
        if base in table:
            yield from _line(table[base], table)


def _templated(found: Class, table: dict[str, Class]) -> set[str]:
    for one in _line(found, table):
        if one.templates is not None:
            taken = set(one.templates)
            for other in one.from_classes:
                if other in table:
                    taken |= _templated(table[other], table)
            return taken
    return set()


def untemplated_connections(sources: Iterable[str]) -> list[str]:
    """Connection ids that are no template fields, through the whole line of ancestors.

    :param sources: texts of operators and sensors.
    """
    table = classes(sources)
    problems = []
    for found in table.values():
        line = list(_line(found, table))
        ids = {name for one in line for name in one.attributes if name.endswith("conn_id")}
        problems += [f"{found.name}.{name} is not templated" for name in sorted(ids - _templated(found, table))]
    return problems


def working_inits(sources: Iterable[str]) -> list[str]:
    """``__init__`` that do more than assign: values of template fields are not rendered yet.

    :param sources: texts of operators and sensors.
    """
    problems = []
    for found in classes(sources).values():
        init = _method(found.node, "__init__")
        if init is None:
            continue
        for part in ast.walk(init):
            if isinstance(part, (ast.Raise, ast.Assert, ast.If, ast.For, ast.While, ast.Try, ast.With)):
                problems.append(f"{found.name}.__init__ line {part.lineno}: {type(part).__name__}")
    return problems


def incomplete_triggers(operators: Iterable[str], triggers: Iterable[str]) -> tuple[list[str], int]:
    """Triggers that lose an argument: in ``serialize``, or where an operator could have passed it.

    :param operators: texts of operators and sensors.
    :param triggers: texts of triggers.
    :return: the problems, and how many places that make a trigger were seen.
    """
    known = {name: found for name, found in classes(triggers).items() if name.endswith("Trigger")}
    problems = [
        f"{found.name}.serialize loses {argument}"
        for found in known.values()
        for argument in sorted(_unserialised(found, known))
    ]
    table = classes(operators)
    seen = 0
    for found in table.values():
        offered = {name for one in _line(found, table) for name in one.attributes}
        for call in (part for part in ast.walk(found.node) if isinstance(part, ast.Call)):
            trigger = known.get(_name(call.func))
            if trigger is None:
                continue
            seen += 1
            if any(keyword.arg is None for keyword in call.keywords):
                continue  # ``**arguments``: what is in them is tested by round trips
            passed = {keyword.arg for keyword in call.keywords}
            lost = (trigger.arguments & offered) - passed
            problems += [f"{found.name} does not pass {name} to {trigger.name}" for name in sorted(lost)]
    return problems, seen


def _unserialised(found: Class, known: dict[str, Class]) -> set[str]:
    line = list(_line(found, known))
    serialize = next((method for one in line if (method := _method(one.node, "serialize")) is not None), None)
    if serialize is None:
        return set(found.arguments)
    # Its own body, and the methods of the class that it calls: a subclass adds its arguments there.
    called = {_name(part.func) for part in ast.walk(serialize) if isinstance(part, ast.Call)}
    bodies = [serialize, *(method for one in line for name in called if (method := _method(one.node, name)))]
    parts = [part for body in bodies for part in ast.walk(body)]
    words = {part.attr for part in parts if isinstance(part, ast.Attribute) and isinstance(part.ctx, ast.Load)}
    return found.arguments - words


def raised_airflow_exceptions(sources: Iterable[str]) -> list[str]:
    """Places that raise ``AirflowException``: errors have names, in ``exceptions.py``.

    :param sources: texts of any modules.
    """
    problems = []
    for source in sources:
        for part in ast.walk(ast.parse(source)):
            if isinstance(part, ast.Raise) and part.exc is not None:
                target = part.exc.func if isinstance(part.exc, ast.Call) else part.exc
                if _name(target) == "AirflowException":
                    problems.append(f"line {part.lineno}: raises AirflowException")
    return problems
