"""Starts the merge by spark-submit: the one way, for the operator and the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from airflow_provider_rtlake.exceptions import TerminalError, TransientError, UserError
from airflow_provider_rtlake.scd2.fold import Refused
from airflow_provider_rtlake.scd2.publish import Overtaken
from airflow_provider_rtlake.scd2.request import MergeRequest

APPLICATION = str(Path(__file__).parent / "entry" / "merge.py")
REBUILD = str(Path(__file__).parent / "entry" / "rebuild.py")
# A merge's JVM lives for seconds: the quick compiler only, and no code generated for queries that run once. It takes a
# third off the CPU time of a cold merge. "default" options leave those of the installed settings in force.
SPARK_SETTINGS = {
    "spark.driver.defaultJavaOptions": "-XX:TieredStopAtLevel=1 -XX:-UsePerfData",
    "spark.sql.codegen.wholeStage": "false",
    "spark.sql.codegen.factoryMode": "NO_CODEGEN",
}
_TAIL = 4000  # characters of a failed job's output that an error keeps


class JobDied(TransientError):
    """The Spark job ended without an account of itself."""


@dataclass(frozen=True)
class Desk:
    """A folder of one run, readable by its owner only: what the job is asked and what it answers.

    :param folder: the folder.
    """

    folder: Path

    @property
    def request(self) -> Path:
        """The requests."""
        return self.folder / "request.json"

    @property
    def result(self) -> Path:
        """The outcome."""
        return self.folder / "result.json"

    def arguments(self, requests: Sequence[MergeRequest]) -> list[str]:
        """Lay the requests down; the job's arguments."""
        content = json.dumps([request.model_dump(mode="json") for request in requests])
        descriptor = os.open(self.request, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(content)
        return ["--request", str(self.request), "--result", str(self.result)]

    def outcome(self) -> list[dict[str, Any]]:
        """One result for each request.

        :raises Refused: a merge was refused.
        :raises Overtaken: another merge was published meanwhile.
        :raises TerminalError: a merge failed in a way that a retry cannot mend.
        :raises JobDied: the job left no result.
        :raises TransientError: a merge failed in another way.
        """
        if not self.result.exists():
            raise JobDied("the merge's Spark job ended without a result: see its log")
        results: list[dict[str, Any]] = json.loads(self.result.read_text(encoding="utf-8"))
        raise_errors(results)
        return results


def raise_errors(results: Sequence[Mapping[str, Any]]) -> None:
    """Raise the first error that results of merges tell.

    :raises Refused: a merge was refused.
    :raises Overtaken: another merge was published meanwhile.
    :raises TerminalError: a merge failed in a way that a retry cannot mend.
    :raises TransientError: a merge failed in another way.
    """
    for result in results:
        _raise_error(result)


def _raise_error(result: Mapping[str, Any]) -> None:
    kind = result.get("error")
    if kind == "refused":
        error = Refused(result["rule"], result["keys"])
        error.args = (result["message"],)
        raise error
    if kind == "overtaken":
        raise Overtaken(result["message"])
    if kind == "failed":
        raise TransientError(result["message"])
    if kind is not None:
        raise TerminalError(result["message"])


def spark_folder(home: Path | None = None) -> Path | None:
    """Folder of ``spark-submit``: on the path, else of the installed stack.

    :param home: RTLAKE_HOME.
    """
    found = shutil.which("spark-submit")
    installed = home or (Path(os.environ["RTLAKE_HOME"]) if os.environ.get("RTLAKE_HOME") else None)
    if home is None and found:
        return Path(found).parent
    candidates = sorted((installed / "opt").glob("spark-*/bin/spark-submit")) if installed else []
    if candidates:
        return candidates[-1].parent
    return Path(found).parent if found else None


def _found_spark(home: Path | None) -> Path:
    folder = spark_folder(home)
    if folder is None:
        raise UserError("spark-submit is neither on the PATH nor below RTLAKE_HOME/opt: run ./rtlake up")
    return folder


def environment(home: Path | None = None) -> dict[str, str]:
    """What the job needs in its environment beyond what Spark's own settings bring: the path to Spark and to us.

    :param home: RTLAKE_HOME.
    :raises UserError: Spark cannot be found.
    """
    folder = _found_spark(home)
    package = str(Path(__file__).parents[2])
    python_path = os.environ.get("PYTHONPATH", "")
    return {
        "PATH": f"{folder}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "PYTHONPATH": f"{package}{os.pathsep}{python_path}" if python_path else package,
    }


def session_environment(home: Path | None = None) -> dict[str, str]:
    """What a Python process needs that makes its own Spark session: Spark's own environment, with the store's keys.

    :param home: RTLAKE_HOME.
    :raises UserError: Spark cannot be found.
    """
    folder = _found_spark(home)
    installed = folder.parent
    settings = Path(os.environ.get("SPARK_CONF_DIR") or installed / "conf")
    told = subprocess.run(
        ["bash", "-c", 'set -a; . "$0"; env -0', str(settings / "spark-env.sh")],
        capture_output=True,
        check=True,
        text=True,
        env={**os.environ, **environment(home), "SPARK_HOME": str(installed)},
    ).stdout
    found = dict(line.split("=", 1) for line in told.split("\0") if "=" in line)
    return {**found, "SPARK_HOME": str(installed), "SPARK_CONF_DIR": str(settings)}


def installed_catalog(catalog: str, home: Path | None = None) -> dict[str, str]:
    """Settings of a catalog as the installed Spark has them; the object store's keys are not among them.

    :param catalog: its name.
    :param home: RTLAKE_HOME.
    """
    settings = Path(session_environment(home)["SPARK_CONF_DIR"]) / "spark-defaults.conf"
    prefix = f"spark.sql.catalog.{catalog}."
    lines = (line.split(None, 1) for line in settings.read_text(encoding="utf-8").splitlines())
    return {line[0].removeprefix(prefix): line[1].strip() for line in lines if line and line[0].startswith(prefix)}


def run(
    requests: Sequence[MergeRequest],
    *,
    home: Path | None = None,
    spark_arguments: Sequence[str] = (),
    application: str = APPLICATION,
) -> list[dict[str, Any]]:
    """Merge tables in one Spark session, and wait.

    :param requests: one for each table.
    :param home: RTLAKE_HOME.
    :param spark_arguments: further arguments of spark-submit.
    :param application: :data:`APPLICATION`, or :data:`REBUILD` to give the histories up first.
    :return: one result for each request.
    :raises JobDied: the job died; the message ends with its last output.
    """
    variables = environment(home)
    with TemporaryDirectory(prefix="rtlake-scd2-") as folder:
        desk = Desk(Path(folder))
        settings = [part for name, value in SPARK_SETTINGS.items() for part in ("--conf", f"{name}={value}")]
        command = ["spark-submit", *settings, *spark_arguments, application, *desk.arguments(requests)]
        done = subprocess.run(  # the program is found on the PATH of `env`; Spark sends Python's errors to its output
            command,
            env={**os.environ, **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        try:
            return desk.outcome()
        except JobDied as error:
            raise JobDied(f"{error} (exit code {done.returncode}):\n{done.stdout[-_TAIL:]}") from None
