"""Two commands do not change one installation at once."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit import exclusive, preflight

PROJECT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from airflow_provider_rtlake.kit.exclusive import alone
with alone(Path(sys.argv[1])): """
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(PROJECT)}


def rtlake(home: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "airflow_provider_rtlake.cli", *words],
        env={**ENVIRONMENT, "RTLAKE_HOME": str(home)},
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_second_command_is_refused_until_the_first_has_ended(tmp_path: Path) -> None:
    script = HOLD + "print('held', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, env=ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout and holder.stdin
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match="at work"), exclusive.alone(tmp_path):
            pytest.fail("two of them")
        assert any("at work" in problem for problem in preflight._busy(tmp_path))
        refused = rtlake(tmp_path, "backup", str(tmp_path.parent / "backups"))
        assert refused.returncode == 1 and "at work" in refused.stderr, refused.stderr
        assert "at work" not in rtlake(tmp_path, "status").stderr
        holder.stdin.close()
    with exclusive.alone(tmp_path):
        assert preflight._busy(tmp_path) == []
    assert exclusive._HOLDER not in os.environ


@pytest.mark.parametrize(("holder", "allowed"), [(str(os.getpid()), True), ("999999999", False), ("", False)])
def test_what_a_command_starts_works_for_it_and_nobody_else_does(tmp_path: Path, holder: str, allowed: bool) -> None:
    with exclusive.alone(tmp_path), exclusive.alone(tmp_path):
        command = [sys.executable, "-c", HOLD + "pass", str(tmp_path)]
        given = {**ENVIRONMENT, exclusive._HOLDER: holder}
        done = subprocess.run(command, env=given, capture_output=True, check=False)
    assert (done.returncode == 0) is allowed
