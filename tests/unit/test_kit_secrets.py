"""The module that makes secrets, run as Ansible runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MODULE = Path(__file__).parents[2] / "ansible" / "library" / "rtlake_secrets.py"


def run(**arguments: Any) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, str(MODULE)],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}),
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def test_secrets_are_made_once_for_their_owner_only(folder: Path) -> None:
    first = run(folder=str(folder), names={"a": "token", "b": "fernet"})
    assert first["changed"]
    assert len(set(first["secrets"].values())) == 2
    assert (folder / "a").stat().st_mode & 0o777 == 0o600
    again = run(folder=str(folder), names={"a": "token", "b": "fernet"})
    assert (again["changed"], again["secrets"]) == (False, first["secrets"])


def test_what_is_given_is_used_only_where_nothing_is(folder: Path) -> None:
    given = "given-by-vault-0123456789"
    answer = run(folder=str(folder), names={"a": "token"}, given={"a": given})
    assert (folder / "a").read_text().strip() == given
    assert answer["secrets"] == {"a": given}, "as the templates get it"
    run(folder=str(folder), names={"a": "token"}, given={"a": "another-0123456789"})
    assert (folder / "a").read_text().strip() == given, "an existing one is only changed by rotation"


def test_a_misspelt_name_is_refused_without_its_value(folder: Path) -> None:
    answer = run(folder=str(folder), names={"a": "token"}, given={"aa": "do-not-show-me-0123456789"})
    assert answer["failed"] and "no secret aa" in answer["msg"]
    assert "do-not-show-me" not in json.dumps(answer)


@pytest.mark.parametrize(
    "value", ["pass word-0123456789", "p@ss/0123456789abc", "a${b}0123456789abcdef", "short", "", None]
)
def test_what_some_settings_could_not_take_is_refused_without_its_value(folder: Path, value: str | None) -> None:
    answer = run(folder=str(folder), names={"a": "token"}, given={"a": value})
    assert answer["failed"] and answer["msg"].startswith("rtlake_secrets_given: a is ")
    assert not value or value not in json.dumps({**answer, "invocation": None})
    assert list(folder.iterdir()) == []


KEY = "0123456789012345678901234567890123456789-_A="


@pytest.mark.parametrize(
    ("value", "failed"), [(KEY, False), (f"{KEY},{KEY}", False), (KEY[:-1], True), ("a" * 44, True)]
)
def test_a_given_fernet_key_is_one(folder: Path, value: str, failed: bool) -> None:
    answer = run(folder=str(folder), names={"a": "fernet"}, given={"a": value})
    assert answer.get("failed", False) == failed


def test_what_data_hangs_on_is_not_made_anew(folder: Path) -> None:
    names = {"a": "token", "b": "token"}
    first = run(folder=str(folder), names=names, irreplaceable={"a": str(folder / "data")})
    (folder / "data").mkdir()
    for name in names:
        (folder / name).unlink()
    answer = run(folder=str(folder), names=names, irreplaceable={"a": str(folder / "data")})
    assert answer["failed"] and "lacks a, and" in answer["msg"] and "backup" in answer["msg"]
    again = {"a": first["secrets"]["a"]}
    answer = run(folder=str(folder), names=names, irreplaceable={"a": str(folder / "data")}, given=again)
    assert answer["secrets"]["a"] == again["a"], "given again"


def test_check_mode_makes_nothing(folder: Path) -> None:
    answer = run(folder=str(folder), names={"a": "token"}, _ansible_check_mode=True)
    assert answer["changed"]
    assert list(folder.iterdir()) == []


def test_an_open_secret_is_closed(folder: Path) -> None:
    run(folder=str(folder), names={"a": "token"})
    (folder / "a").chmod(0o644)
    assert run(folder=str(folder), names={"a": "token"})["changed"]
    assert (folder / "a").stat().st_mode & 0o777 == 0o600


def test_an_empty_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").touch(0o600)
    answer = run(folder=str(tmp_path), names={"a": "token"})
    assert answer["failed"] and "empty" in answer["msg"] and str(tmp_path / "a") in answer["msg"]
