"""What a support bundle masks: our secrets wherever they stand, and what users put into settings."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from airflow_provider_rtlake.kit import bundle, doctor, health
from airflow_provider_rtlake.kit.stack import Stack


@pytest.fixture
def stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stack:
    monkeypatch.setattr(bundle, "_COMMANDS", {})
    monkeypatch.setattr(doctor, "examine", lambda *_: [])
    monkeypatch.setattr(health, "check_all", lambda *_: {})
    home = tmp_path / "home"
    (home / "secrets").mkdir(parents=True)
    (home / "etc" / "trino").mkdir(parents=True)
    return Stack(home, tmp_path, "supervisord", 0, (), {}, {})


def contents(stack: Stack) -> dict[str, str]:
    with tarfile.open(bundle.write(stack, stack.project, stack.project / "out")) as archive:
        files = [(m.name.split("/", 1)[1], archive.extractfile(m)) for m in archive.getmembers()]
        return {name: file.read().decode() for name, file in files if file}


def test_secrets_are_masked_however_short(stack: Stack) -> None:
    (stack.home / "secrets" / "s3").write_text("s3cret\n")
    path = stack.home / "etc" / "trino" / "config.properties"
    path.write_text("node.id=xs3cretx\n")
    path.chmod(0o640)
    assert contents(stack)["etc/trino/config.properties"] == "node.id=x***x\n"


def test_files_for_their_owner_only_are_left_out(stack: Stack) -> None:
    for name, mode in (("settings.json", 0o600), ("stack.json", 0o644)):
        (stack.home / "etc" / name).write_text("{}")
        (stack.home / "etc" / name).chmod(mode)
    assert {name for name in contents(stack) if name.startswith("etc/")} == {"etc/stack.json"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("connection-password=p w\nconnection-user=u\n", "connection-password=***\nconnection-user=u\n"),
        ("smtp_password = 'hunter2'  # x", "smtp_password = ***  # x"),
        ('{"api_key": "a\\"b", "host": "h"}', '{"api_key": ***, "host": "h"}'),
        ("basic_auth: {username: u, password: 'p'}", "basic_auth: {username: u, password: ***}"),
        ("bearerToken: abc", "bearerToken: ***"),
        ("password = 'not closed", "password = ***"),
        ("spark.hadoop.fs.s3a.secret.key  abc", "spark.hadoop.fs.s3a.secret.key  ***"),
        ("sql_alchemy_conn = postgresql://u:p/w@h:5432/d", "sql_alchemy_conn = postgresql://u:***@h:5432/d"),
    ],
)
def test_what_a_name_calls_a_key_is_masked(text: str, expected: str) -> None:
    assert bundle.redacted(text, []) == expected


@pytest.mark.parametrize(
    "text",
    [
        "key.converter=org.apache.kafka.connect.json.JsonConverter",
        "fernet_key_cmd = cat /opt/rtlake/etc/airflow/fernet",
        "the key of the table is told elsewhere",
        "url = http://127.0.0.1:8084/connectors",
        "bootstrap = PLAINTEXT://127.0.0.1:9092",
    ],
)
def test_what_is_no_key_stays(text: str) -> None:
    assert bundle.redacted(text, []) == text
