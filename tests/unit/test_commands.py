"""The command line's rooms: what they are called with and from where."""

from __future__ import annotations

from pathlib import Path

from typer.testing import CliRunner

from airflow_provider_rtlake.commands import stream


def test_a_corrected_value_that_is_not_there_is_refused_at_once(tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        answer = CliRunner().invoke(stream.letters_app, ["replay", "t:0:1", "--value", str(path)])
        assert (answer.exit_code, "--value" in answer.output) == (2, True)
