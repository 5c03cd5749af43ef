"""A fresh Debian 12 or Ubuntu 22.04 node for the system tests, prepared with network, then cut off from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from airflow_provider_rtlake.kit import verbs
from tests.system_node import node as nodes
from tests.system_node.server import CACHE, PROJECT_IN_NODE, Server

PROJECT = Path(__file__).parents[2]
DEFAULT = "postgresql,s3proxy,zookeeper,kafka,connect,nessie"
MEMORY_GB = {"all": 11.0}
_PACKAGES = "openjdk-17-jre-headless maven python3-venv"


def components() -> list[str]:
    """What the node runs: RTLAKE_TEST_NODE=all, or names; a part of it by default, so that it fits beside others."""
    wanted = os.environ.get("RTLAKE_TEST_NODE") or DEFAULT
    return [] if wanted == "all" else wanted.split(",")


def suite() -> nodes.Suite:
    """The node's system: RTLAKE_TEST_NODE_SUITE, a key of :data:`nodes.SUITES`."""
    return nodes.SUITES[os.environ.get("RTLAKE_TEST_NODE_SUITE", "bookworm")]


def mirror(wanted: nodes.Suite) -> str | None:
    """RTLAKE_TEST_MIRROR, or for a Debian this machine's own, where it is one."""
    return os.environ.get("RTLAKE_TEST_MIRROR") or (nodes.host_mirror() if wanted.name == "bookworm" else None)


@pytest.fixture(scope="session")
def server() -> Iterator[Server]:
    """A node without network on which everything is there that the playbook needs, and nothing of ours is installed."""
    wanted = suite()
    reason = nodes.why_impossible(wanted)
    if reason:
        pytest.skip(f"no node can be booted here: {reason}")
    needed = MEMORY_GB["all"] if not components() else 4.0
    available = psutil.virtual_memory().available / 2**30
    if available < needed:
        pytest.skip(f"{available:.1f} GB of memory are available, the node needs {needed:.0f}")
    cache = verbs.cache()
    given = os.environ.get("RTLAKE_TEST_NODE_ROOT")  # what an earlier run with RTLAKE_TEST_KEEP left
    if given:
        node = nodes.Node(Path(given), f"rtlake-{os.getpid()}", {cache: CACHE})
    else:
        folder = Path(os.environ.get("RTLAKE_TEST_GOLDEN") or cache / "nodes")
        golden = nodes.golden(folder, wanted, mirror(wanted))
        folder = Path(tempfile.mkdtemp(prefix="rtlake-node-", dir=os.environ.get("RTLAKE_TEST_NODE_FOLDER")))
        node = nodes.Node.fresh(golden, folder / "root", f"rtlake-{os.getpid()}", {cache: CACHE})
    found = Server(node, components(), wanted.postgresql)
    try:
        _copy_project(node.root / PROJECT_IN_NODE.lstrip("/"))
        if not given:
            node.boot()
            found.prepare(_PACKAGES)
            node.stop()
        node.boot(private_network=True)
        yield found
    finally:
        if given or os.environ.get("RTLAKE_TEST_KEEP"):
            node.stop()
        else:
            node.remove()
            shutil.rmtree(node.root.parent, ignore_errors=True)


def _copy_project(target: Path) -> None:
    """The checkout as a clone would be, with what is not committed yet."""
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    names = subprocess.run(listing, cwd=PROJECT, check=True, capture_output=True, text=True).stdout.split("\0")
    for name in filter(None, names):
        if (PROJECT / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(PROJECT / name, target / name)
