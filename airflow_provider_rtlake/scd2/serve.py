"""A warm merge: one process that keeps its Spark session, asked over a socket in the file system.

``rtlake scd2 serve`` starts it. Python is the process that is supervised and the JVM its child: the JVM ends when
Python does, however that ends. A merge is one step as seen from main, so a server may be killed at any instant; the
next one starts clean. If the one who asked goes away (a killed task), the merge stops before its next step.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import select
import signal
import socket
import socketserver
import stat
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from airflow_provider_rtlake.exceptions import ServiceUnavailable, TransientError, UserError
from airflow_provider_rtlake.scd2.request import MergeRequest

SOCKET = "merge.sock"
_REQUESTS = TypeAdapter(list[MergeRequest])
_LONGEST = 10_000_000  # bytes of a question
_PAUSE, _LONGEST_PAUSE = 0.5, 10.0  # seconds, after a merge that left something to do
Merge = Callable[[Sequence[MergeRequest], Callable[[str], None]], list[dict[str, Any]]]


class Gone(TransientError):
    """Whoever asked for the merge is gone."""


def socket_path(home: Path) -> Path:
    """Where a stack's merge server listens.

    :param home: RTLAKE_HOME.
    """
    return home / "run" / "scd2" / SOCKET


def default_socket() -> Path:
    """Of the stack in RTLAKE_HOME.

    :raises UserError: the variable is not set.
    """
    home = os.environ.get("RTLAKE_HOME")
    if not home:
        raise UserError("a warm merge needs the merge server's socket: set RTLAKE_HOME, or name the socket")
    return socket_path(Path(home))


class Server:
    """Answers merges one after the other.

    :param path: of the socket.
    :param merge: does the work: called with requests and with what is called before each step.
    """

    def __init__(self, path: Path, merge: Merge) -> None:
        self.path = path
        self._merge = merge
        self._turn = threading.Lock()
        self._server: socketserver.ThreadingUnixStreamServer | None = None

    def merge(self, requests: Sequence[MergeRequest], step: Callable[[str], None]) -> list[dict[str, Any]]:
        """Merge when it is this one's turn."""
        with self._turn:
            step("turn")
            return self._merge(requests, step)

    def run(self, ready: Callable[[], None] = lambda: None) -> None:
        """Serve until :meth:`stop`.

        :param ready: called when the socket is there.
        :raises UserError: another server listens there.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if _listens(self.path):
            raise UserError(f"{self.path}: another merge server listens there")
        self.path.unlink(missing_ok=True)
        owner = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self.wfile.write(json.dumps(owner._answer(self.rfile.readline(_LONGEST), self.connection)).encode())

        before = os.umask(0o117)
        try:
            self._server = socketserver.ThreadingUnixStreamServer(str(self.path), Handler)
        finally:
            os.umask(before)
        self._server.daemon_threads = True
        ready()
        try:
            self._server.serve_forever(poll_interval=0.2)
        finally:
            self._server.server_close()
            self.path.unlink(missing_ok=True)

    def stop(self) -> None:
        """End :meth:`run`; a merge under way is left where it is, which is safe."""
        if self._server is not None:
            threading.Thread(target=self._server.shutdown, daemon=True).start()

    def _answer(self, line: bytes, connection: socket.socket) -> dict[str, Any]:
        try:
            requests = _REQUESTS.validate_json(line)
        except ValidationError as error:
            return {"error": f"not a list of merge requests: {error.error_count()} problems"}

        def step(_: str) -> None:
            if _closed(connection):
                raise Gone("whoever asked for the merge is gone; nothing was published")

        try:
            return {"results": self.merge(requests, step)}
        except Gone as error:
            return {"error": str(error)}


def _closed(connection: socket.socket) -> bool:
    """Whether the other side hung up."""
    readable, _, _ = select.select([connection], [], [], 0)
    if not readable:
        return False
    try:
        return connection.recv(1, socket.MSG_PEEK) == b""
    except OSError:
        return True


def _listens(path: Path) -> bool:
    try:
        if not stat.S_ISSOCK(path.stat().st_mode):
            raise UserError(f"{path}: is no socket; remove it")
    except FileNotFoundError:
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


class Asking:
    """A question to the merge server, which can be taken back.

    :param path: of the socket.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._socket: socket.socket | None = None

    def results(self, requests: Sequence[MergeRequest]) -> list[dict[str, Any]]:
        """Merge, and wait for it.

        :return: as of :func:`.job.merge_tables`.
        :raises ServiceUnavailable: no server answers.
        """
        question = _REQUESTS.dump_json(list(requests)) + b"\n"
        with socket.socket(socket.AF_UNIX) as self._socket:
            try:
                self._socket.connect(str(self.path))
                self._socket.sendall(question)
                text = b"".join(_received(self._socket))
            except OSError as error:
                raise ServiceUnavailable(
                    "merge server", f"no answer at {self.path}: start it (rtlake scd2 serve): {error}"
                ) from error
        if not text:
            raise ServiceUnavailable("merge server", "it ended before it answered; the next merge starts clean")
        answer = json.loads(text)
        if "error" in answer:
            raise TransientError(answer["error"])
        return list(answer["results"])

    def take_back(self) -> None:
        """Hang up: the merge stops before its next step."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


def _received(connection: socket.socket) -> Iterator[bytes]:
    while part := connection.recv(65536):
        yield part


def follow(
    server: Server,
    requests: Sequence[MergeRequest],
    moved: Callable[[MergeRequest], object],
    seconds: float,
    stopped: threading.Event,
) -> None:
    """Merge tables continuously: whenever a table's bronze, or what the connector tells of it, has moved.

    :param moved: tells a table's bronze snapshot cheaply; a merge is made when it is another one.
    :param seconds: between two looks.
    :param stopped: ends it.
    """
    looks = {request.history: _Look() for request in requests}
    while not stopped.wait(seconds):
        for request in requests:
            look = looks[request.history]
            try:
                now = moved(request)
            except TransientError as error:
                print(f"scd2 follow: {request.history}: {error}", flush=True)
                continue
            if look.due(now):
                (result,) = server.merge([request], lambda _: None)
                look.merged(now, result)


class _Look:
    """When a table is to be merged: when its bronze has moved; a while later again where something waits or failed."""

    def __init__(self) -> None:
        self._seen: object = object()
        self._again = math.inf
        self._pause = _PAUSE

    def due(self, now: object) -> bool:
        """Whether to merge."""
        return now != self._seen or time.monotonic() >= self._again

    def merged(self, now: object, result: Mapping[str, Any]) -> None:
        """Note a merge of the table as it was."""
        failed = "error" in result
        moved, self._seen = now != self._seen and not failed, now
        self._pause = _PAUSE if moved else min(2 * self._pause, _LONGEST_PAUSE)
        settled = not failed and not result["waiting"] and not result["behind"]
        self._again = math.inf if settled else time.monotonic() + self._pause


def stop_on_signals(stop: Callable[[], None]) -> None:
    """Call a function on SIGTERM and SIGINT."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())
