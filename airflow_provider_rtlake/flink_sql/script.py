"""A SQL script as a job: any number of definitions and exactly one statement that starts it. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.flink_sql.job import RenderedJob

_TOKEN = re.compile(r"""--[^\n]*|/\*.*?\*/|'(?:[^']|'')*'|`(?:[^`]|``)*`|"(?:[^"]|"")*"|;|[A-Za-z_]+|.""", re.DOTALL)
_STARTS_A_JOB = re.compile(
    r"(?is)^\s*(?:INSERT\b|EXECUTE\b|COMPILE\s+AND\s+EXECUTE\b|(?:CREATE|REPLACE|CREATE\s+OR\s+REPLACE)\s+TABLE\b.*\bAS\s+SELECT\b"
    r"|UPDATE\b|DELETE\s+FROM\b|CALL\b)"
)


def split_statements(script: str) -> list[str]:
    """The statements of a script, without comments and the semicolons between them.

    A ``STATEMENT SET BEGIN … END`` is one statement, whatever semicolons are in it.

    :param script: SQL.
    """
    statements: list[str] = []
    current: list[str] = []
    inside_set = False
    for token in _TOKEN.findall(script):
        if token.startswith(("--", "/*")):
            current.append(" ")
            continue
        word = token.upper()
        if word == "BEGIN":
            inside_set = True
        elif word == "END" and inside_set and _ends_with_semicolon(current):
            inside_set = False
        if token == ";" and not inside_set:  # noqa: S105
            statements.append("".join(current).strip())
            current = []
        else:
            current.append(token)
    statements.append("".join(current).strip())
    return [statement for statement in statements if statement]


def _ends_with_semicolon(tokens: list[str]) -> bool:
    # END of a CASE follows an expression, the END of a set follows a statement's semicolon (or its BEGIN)
    last = next((token for token in reversed(tokens) if token.strip()), "")
    return last == ";" or last.upper() == "BEGIN"


def script_job(name: str, script: str, properties: Mapping[str, str]) -> RenderedJob:
    """A job from a script.

    :param name: of the job.
    :param script: SQL; its last statement starts the job and is the only one that does.
    :param properties: of the session.
    :raises UserError: no statement, or more than one, starts a job.
    """
    statements = split_statements(script)
    starting = [number for number, text in enumerate(statements, 1) if _STARTS_A_JOB.match(text)]
    if len(starting) != 1 or starting[0] != len(statements):
        raise UserError(
            f"job {name}: {len(starting)} of {len(statements)} statements start a job (number "
            f"{', '.join(map(str, starting)) or '-'}); exactly the last one must: put several INSERTs into EXECUTE "
            "STATEMENT SET BEGIN … END"
        )
    return RenderedJob(name, tuple(statements[:-1]), statements[-1], dict(properties))
