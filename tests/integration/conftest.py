"""The real stack for tests, and small tools around it.

By default the tests start a stack of their own, through the project itself: in the folder RTLAKE_TEST_HOME,
on ports 20000 above the usual ones, empty at the start, stopped at the end; its logs and data stay until the next
run (RTLAKE_TEST_KEEP=1 leaves it running, and the next run uses it). RTLAKE_TEST_STACK=/some/home uses a running
stack as it is: nothing is started or stopped then.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import trino
import yaml
from confluent_kafka.admin import AdminClient

from airflow_provider_rtlake.clients.nessie import NessieClient
from airflow_provider_rtlake.demo.access import Access, table_name
from airflow_provider_rtlake.exceptions import UserError
from airflow_provider_rtlake.kit import health
from airflow_provider_rtlake.kit.stack import Stack
from airflow_provider_rtlake.scd2.submit import environment
from airflow_provider_rtlake.streams.load import load_connectors
from airflow_provider_rtlake.streams.naming import slug
from tests.declared import Declared, quoted
from tests.scd2_lake import LakeTable

PROJECT = Path(__file__).parents[2]
PORT_OFFSET = 20_000
NEEDED_GB = 10.0  # of available memory for a whole stack beside the tests
START_SECONDS = 2_700  # a cold cache downloads and installs everything first
# In the home of such a stack: the session that made it, or "kept" where the next one may use what is there.
MARKER = "etc/made-by-tests"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The first test that needs the stack waits for its installation; every test here needs a server."""
    first = True
    for item in items:
        if not any(part in ("integration", "system") for part in item.path.relative_to(PROJECT).parts):
            continue
        if first and "stack" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.timeout(START_SECONDS + 900))
            first = False


def _test_home() -> Path:
    default = Path("/opt/rtlake-test") if os.geteuid() == 0 else Path.home() / ".rtlake-test"
    return Path(os.environ.get("RTLAKE_TEST_HOME") or default)


def _healthy(home: Path) -> Stack | None:
    """The stack of a folder, if all of it answers."""
    try:
        found = Stack.load(home)
    except UserError:
        return None
    answers = health.check_all(found, memory=False)
    return found if all(one.healthy for one in answers.values()) else None


@pytest.fixture(scope="session")
def stack(request: pytest.FixtureRequest) -> Iterator[Stack]:
    """A running stack, all of whose services answered just now."""
    given = os.environ.get("RTLAKE_TEST_STACK")
    if given:
        yield Stack.load(given)
        return
    home = _test_home()
    environment = {**os.environ, "RTLAKE_HOME": str(home)}
    environment.pop("PYTHONPATH", None)
    marker = home / MARKER
    left_over = _left_over(marker)
    running = None if left_over else _healthy(home)
    if running is not None:
        yield running
        return
    if left_over:  # what an earlier run left, above all an interrupted one, must not decide about this one
        _call([str(PROJECT / "rtlake"), "destroy", "--yes", "--keep-environment"], environment, 300)
    _refuse_where_it_cannot_run(request, home)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.write_text(f"{os.getpid()} {psutil.Process().create_time()}")
    command = [
        str(PROJECT / "rtlake"),
        "up",
        "--port-offset",
        str(PORT_OFFSET),
        "--supervisor",
        "supervisord",
    ]
    _call([*command, "--all"], environment, START_SECONDS)
    try:
        yield Stack.load(home)
    finally:
        if os.environ.get("RTLAKE_TEST_KEEP"):
            marker.write_text("kept")
        else:
            _call([str(PROJECT / "rtlake"), "down"], environment, 300)


def _left_over(marker: Path) -> bool:
    """Whether a session that has ended made the stack: this one asks twice, from both folders, and others may run."""
    if not marker.exists() or (text := marker.read_text()) == "kept":
        return False
    pid, _, begun = text.partition(" ")
    try:
        return str(psutil.Process(int(pid)).create_time()) != begun
    except (ValueError, psutil.NoSuchProcess):
        return True


def _refuse_where_it_cannot_run(request: pytest.FixtureRequest, home: Path) -> None:
    if request.session.testsfailed:
        pytest.exit("tests without a server failed: the stack is not started", returncode=1)
    try:
        Stack.load(home)
        part_runs = any(one.healthy for one in health.check_all(Stack.load(home), memory=False).values())
    except UserError:
        part_runs = False
    available = psutil.virtual_memory().available / 2**30
    if available < NEEDED_GB and not part_runs:
        pytest.exit(
            f"{available:.1f} GB of memory are available, the tests' stack needs {NEEDED_GB:.0f}: stop"
            " another one (rtlake down), or name a running one in RTLAKE_TEST_STACK",
            returncode=1,
        )


def _call(command: Sequence[str], environment: dict[str, str], limit: float) -> None:
    done = subprocess.run(
        command, env=environment, cwd=PROJECT, timeout=limit, check=False, capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.exit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-6000:]}", returncode=1)


@pytest.fixture(scope="session")
def access(stack: Stack) -> Iterator[Access]:
    """Doors to the stack's databases."""
    found = Access(stack)
    yield found
    found.close()


@pytest.fixture(scope="session")
def kafka_admin(stack: Stack) -> AdminClient:
    """An administrator of the broker."""
    # It outlives the broker, and would complain after pytest's last line.
    return AdminClient({"bootstrap.servers": stack.kafka_bootstrap, "log_level": 2})


@pytest.fixture
def pg(access: Access) -> Iterator[psycopg.Connection[Any]]:
    """An autocommit connection to the source database, as its owner."""
    with access.source() as conn:
        yield conn


@pytest.fixture
def trino_cursor(stack: Stack) -> Iterator[trino.dbapi.Cursor]:
    """A cursor in Trino; the catalog of the lakehouse is ``nessie``."""
    given = stack.connection("rtlake_trino")
    conn = trino.dbapi.connect(host=given.host, port=given.port, user="rtlake-tests", catalog="nessie")
    yield conn.cursor()
    conn.close()


@pytest.fixture(scope="session")
def rtlake(stack: Stack) -> Callable[..., str]:
    """Runs ``rtlake <arguments>`` against the tests' stack; returns what it printed, fails where it fails."""

    def run(*arguments: str, env: dict[str, str] | None = None, limit: float = 600, ok: bool = True) -> str:
        environment = {
            **os.environ,
            "RTLAKE_HOME": str(stack.home),
            "PYTHONPATH": str(PROJECT),
            **(env or {}),
        }
        command = [sys.executable, "-m", "airflow_provider_rtlake.cli", *arguments]
        done = subprocess.run(
            command, env=environment, cwd=PROJECT, timeout=limit, check=False, capture_output=True, text=True
        )
        if ok and done.returncode != 0:
            pytest.fail(f"rtlake {' '.join(arguments)}:\n{done.stdout[-4000:]}\n{done.stderr[-6000:]}")
        return done.stdout if ok else done.stdout + done.stderr

    return run


@pytest.fixture(scope="session")
def spark(stack: Stack) -> Iterator[Any]:
    """A session in this process, with the settings and the environment of the installed Spark."""
    home = Path(environment(stack.home)["PATH"].split(os.pathsep)[0]).parent
    script = f"set -a; . {home}/conf/spark-env.sh; env -0"
    told = subprocess.run(["bash", "-c", script], capture_output=True, check=True, text=True).stdout
    settings = dict(line.split("=", 1) for line in told.split("\0") if "=" in line)
    kept = {name: settings[name] for name in settings if name.startswith(("AWS_", "JAVA_", "SPARK_"))}
    os.environ.update(kept, SPARK_HOME=str(home), SPARK_CONF_DIR=str(home / "conf"))
    libraries = [str(home / "python"), *map(str, (home / "python" / "lib").glob("py4j-*.zip"))]
    sys.path[:0] = libraries
    for name in [name for name in sys.modules if name.split(".")[0] in ("pyspark", "py4j")]:
        del sys.modules[name]
    from airflow_provider_rtlake.scd2.job import session

    found = session("scd2-tests")
    yield found
    found.stop()
    logging.getLogger("py4j").setLevel(logging.WARNING)  # it tells of its end when the streams are closed already


@pytest.fixture(scope="session")
def nessie(stack: Stack) -> Iterator[NessieClient]:
    """The catalog's API."""
    with NessieClient(f"{stack.connection('rtlake_nessie').url}/api/v2") as client:
        yield client


@pytest.fixture
def lake_table(spark: Any, nessie: NessieClient) -> Iterator[Callable[..., LakeTable]]:
    """Makes captured tables, and takes them away."""
    made: list[LakeTable] = []

    def make(**options: Any) -> LakeTable:
        made.append(LakeTable(spark, nessie, **options))
        return made[-1]

    yield make
    for table in made:
        table.drop()


@pytest.fixture
def declare(
    access: Access, rtlake: Callable[..., str], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[Callable[..., Declared]]:
    """Makes source tables, declares and deploys them; takes everything away at the end.

    ``declare({"public.t": "CREATE TABLE {table} (id int PRIMARY KEY)"}, options={"public.t": {}})``: table as
    declared → its DDL, ``{table}`` standing for the quoted name; and what its declaration says beyond that.
    """
    made: list[Declared] = []
    plain = slug(request.node.name)[:30].strip("_")

    def make(
        tables: dict[str, str],
        options: dict[str, dict[str, Any]] | None = None,
        *,
        name: str = "",
        deploy: bool = True,
    ) -> Declared:
        unique = f"it_{name or plain}_{int(time.time()) % 1_000_000}"
        folder = tmp_path / unique
        (folder / "pinot").mkdir(parents=True)
        declaration = {
            "connector": unique.replace("_", "-"),
            "topic_prefix": unique,
            "publication": f"{unique}_pub",
            "tables": {table: (options or {}).get(table, {}) for table in tables},
        }
        (folder / "it.yaml").write_text(yaml.safe_dump(declaration, sort_keys=False, allow_unicode=True))
        found = Declared(access, rtlake, folder)
        made.append(found)
        found.reload()
        with access.source() as conn:
            for source, ddl in tables.items():
                conn.execute(ddl.replace("{table}", quoted(found.streams[source])).encode())
        if deploy:
            found.deploy()
        return found

    yield make
    for one in made:
        _take_away(access, rtlake, one)


def _take_away(access: Access, rtlake: Callable[..., str], declared: Declared) -> None:
    rtlake("stream", "stop", *declared.where, ok=False)
    for connector in load_connectors(declared.folder):
        rtlake("connectors", "delete", connector.connector, "--yes", *declared.where, ok=False)
    tables = [name for one in declared.streams.values() for name in (one.pinot_current, one.pinot_history) if name]
    if tables:
        rtlake("pinot", "delete", *tables, "--topics", "--yes", ok=False)
    _drop(access, declared)


def _drop(access: Access, declared: Declared) -> None:
    """Take away what a later run of the same test would find: tables of the source and of the lakehouse."""
    lake = set()
    for stream in declared.streams.values():
        lake |= {stream.bronze_table, stream.bronze_transactions, stream.bronze_notifications}
        if stream.history_table:
            lake |= {stream.history_table, f"{stream.history_base}_checkpoint", f"{stream.history_base}_changes"}
    for name in sorted(lake):
        access.trino(f"DROP TABLE IF EXISTS {table_name(name)}")
    with access.source() as conn:
        for stream in declared.streams.values():
            conn.execute(f"DROP TABLE IF EXISTS {quoted(stream)} CASCADE".encode())
