"""Every service listens on loopback only, but for one port that its program cannot bind: docs/operations.md."""

from __future__ import annotations

import ipaddress

import psutil
import pytest

from airflow_provider_rtlake.kit import supervise
from airflow_provider_rtlake.kit.stack import Stack

pytestmark = pytest.mark.integration
EVERYWHERE = {("pinot", 8098)}  # its query port, before the offset: Pinot 0.11 binds every interface


def test_everything_listens_on_loopback_only(stack: Stack) -> None:
    keeper = supervise.supervisor_of(stack.home, stack.supervisor)
    found: dict[str, set[tuple[str, int]]] = {}
    for name in stack.services:
        pid = keeper.pid(name)
        if pid is None:
            continue
        for process in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            try:
                sockets = process.net_connections(kind="inet")
            except psutil.Error:  # ended meanwhile
                continue
            listening = {(s.laddr.ip, s.laddr.port) for s in sockets if s.status == psutil.CONN_LISTEN}
            found.setdefault(name, set()).update(listening)
    assert {port for one in found.values() for _, port in one} >= {s.port for s in stack.services.values()}
    for name, sockets in found.items():
        for address, port in sockets:
            at = ipaddress.ip_address(address)
            mapped = getattr(at, "ipv4_mapped", None) or at
            known = (name, port - stack.port_offset) in EVERYWHERE
            assert mapped.is_loopback or known, f"{name} listens on {address}:{port}"
