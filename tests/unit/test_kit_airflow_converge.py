"""What Airflow is given: its environment, and only those connections that differ."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from airflow_provider_rtlake.exceptions import ServiceUnavailable, UserError
from airflow_provider_rtlake.kit import airflow
from airflow_provider_rtlake.kit.stack import Stack

WANTED: dict[str, dict[str, Any]] = {
    "rtlake_flink": {
        "conn_type": "flink",
        "host": "127.0.0.1",
        "port": 8082,
        "login": None,
        "schema": None,
        "password": None,
        "extra": {"gateway_url": "http://127.0.0.1:8085"},
    },
    "rtlake_s3": {
        "conn_type": "aws",
        "host": "127.0.0.1",
        "port": 9002,
        "login": "rtlake",
        "schema": None,
        "password": "key",
        "extra": {},
    },
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home with the files that the role writes."""
    (tmp_path / "etc" / "airflow").mkdir(parents=True)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "s3").write_text("key\n")
    (tmp_path / "etc" / "airflow" / "environment").write_text("# made\nA=1\nB='two words; $(no)'\nC='it'\"'\"'s'\n")
    connections = {n: {**c, "secret": "s3" if n == "rtlake_s3" else None} for n, c in WANTED.items()}
    for connection in connections.values():
        del connection["password"]
    stack = {
        "home": str(tmp_path),
        "project": str(tmp_path),
        "supervisor": "supervisord",
        "port_offset": 0,
        "components": ["airflow"],
        "services": {},
        "connections": connections,
    }
    (tmp_path / "etc" / "stack.json").write_text(json.dumps(stack))
    return tmp_path


def test_environment_is_read_as_a_shell_would(home: Path) -> None:
    env = airflow.airflow_env(home)
    assert (env["A"], env["B"], env["C"]) == ("1", "two words; $(no)", "it's")


def test_environment_keeps_nothing_secret_of_the_caller(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "leak")
    assert "AWS_SECRET_ACCESS_KEY" not in airflow.airflow_env(home)


def test_missing_airflow_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not installed"):
        airflow.airflow_env(tmp_path)


def test_wanted_connections_carry_the_secret(home: Path) -> None:
    assert airflow.wanted_connections(Stack.load(home)) == WANTED


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"password": "old"}, ["rtlake_s3"]),
        ({"extra": {"region_name": "x"}}, ["rtlake_s3"]),
        ({"port": 1}, ["rtlake_s3"]),
        ({"schema": ""}, []),
    ],
)
def test_only_what_differs_is_written(change: dict[str, Any], expected: list[str]) -> None:
    stored = {**WANTED, "rtlake_s3": {**WANTED["rtlake_s3"], **change}, "of_the_user": WANTED["rtlake_s3"]}
    assert airflow.differing(WANTED, stored) == expected


def test_absent_connection_differs() -> None:
    assert airflow.differing(WANTED, {"rtlake_s3": WANTED["rtlake_s3"]}) == ["rtlake_flink"]


class Rows:
    """Answers every query with the same rows."""

    def __init__(self, rows: list[tuple[Any, ...]]) -> None:
        self.rows = rows

    def execute(self, _query: str) -> Rows:
        return self

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self.rows


def test_stored_values_are_decrypted_and_foreign_keys_count_as_absent() -> None:
    key, other = Fernet.generate_key(), Fernet.generate_key()

    def sealed(text: str, with_key: bytes = key) -> str:
        return Fernet(with_key).encrypt(text.encode()).decode()

    rows = Rows(
        [
            ("a", "aws", "h", 1, "l", None, sealed("pw"), True, sealed('{"x": 1}'), True),
            ("b", "aws", "h", 1, "l", None, sealed("pw", other), True, None, False),
            ("c", "http", "h", None, None, None, None, False, "{}", False),
        ]
    )
    found = airflow.stored_connections(rows, key.decode())
    assert sorted(found) == ["a", "c"]
    assert (found["a"]["password"], found["a"]["extra"]) == ("pw", {"x": 1})
    assert (found["c"]["password"], found["c"]["extra"]) == (None, {})


def test_a_database_that_does_not_answer_is_an_error_but_none_of_a_check(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as closed:  # bound, so that nobody else takes it; nobody listens
        closed.bind(("127.0.0.1", 0))
        nobody = airflow.Database("127.0.0.1", closed.getsockname()[1], "secret-word")
        monkeypatch.setattr(airflow, "database", lambda _: nobody)
        assert airflow.converge(Stack.load(home), {}, check=True) == ["PostgreSQL does not run yet"]
        with pytest.raises(ServiceUnavailable, match=r"PostgreSQL: .*refused") as refused:
            airflow.converge(Stack.load(home), {})
    assert "secret-word" not in str(refused.value)
