"""Stands between a client and its services, counts their calls, and takes the services away at a chosen one."""

from __future__ import annotations

import http.client
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

BEFORE, AFTER = "before", "after"


@dataclass
class Faults:
    """What the proxies of one client do.

    :param calls: method and path of each call since the last :meth:`arm`.
    """

    calls: list[str] = field(default_factory=list)
    _at: int | None = None
    _mode: str = BEFORE
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def arm(self, at: int | None, mode: str = BEFORE) -> None:
        """From a call on, nothing answers any more.

        :param at: number of the call, from 1; None: everything answers.
        :param mode: ``before``: the call does not reach its service; ``after``: it does, and its answer is lost.
        """
        with self._lock:
            self.calls, self._at, self._mode = [], at, mode

    def judge(self, call: str) -> tuple[bool, bool]:
        """Count a call; whether it is forwarded, and whether it is answered."""
        with self._lock:
            self.calls.append(call)
            if self._at is None or len(self.calls) < self._at:
                return True, True
            return len(self.calls) == self._at and self._mode == AFTER, False


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    upstream: str
    faults: Faults
    _peer: http.client.HTTPConnection | None = None

    def log_message(self, format: str, *args: object) -> None:
        """Keep silent."""

    def _any(self) -> None:
        body = self._body()
        forwarded, answered = self.faults.judge(f"{self.command} {self.path.split('?')[0]}")
        if forwarded:
            answer = self._forward(body)
        if not answered:
            self.close_connection = True
            self.connection.close()
            return
        self.send_response_only(answer.status, answer.reason)
        content = answer.read()
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                self.send_header(name, value)
        told = answer.getheader("content-length") if self.command == "HEAD" else None
        self.send_header("Content-Length", told or str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _body(self) -> bytes | None:
        if "chunked" in self.headers.get("transfer-encoding", "").lower():
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        length = self.headers.get("content-length")
        return self.rfile.read(int(length)) if length is not None else None

    def _forward(self, body: bytes | None) -> http.client.HTTPResponse:
        for attempt in (1, 2):
            if self._peer is None:
                self._peer = http.client.HTTPConnection(self.upstream, timeout=60)
            try:
                self._peer.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                for name, value in self.headers.items():
                    if name.lower() not in ("expect", "transfer-encoding", "content-length", "connection"):
                        self._peer.putheader(name, value)
                if body is not None:
                    self._peer.putheader("Content-Length", str(len(body)))
                self._peer.endheaders(body)
                return self._peer.getresponse()
            except (http.client.HTTPException, OSError):
                self._hang_up()  # it was closed while it rested
                if attempt == 2:
                    raise
        raise AssertionError

    def _hang_up(self) -> None:
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    def finish(self) -> None:
        """The client is gone: so is the connection that was made for it."""
        try:
            super().finish()
        finally:
            self._hang_up()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any


@contextmanager
def fault_proxy(url: str, faults: Faults) -> Iterator[str]:
    """A proxy in front of a service, as long as the block lasts.

    :param url: of the service: scheme, host and port count.
    :param faults: what it does; several proxies may share one.
    :return: the proxy's URL, with the path of ``url``.
    """
    parts = urlsplit(url)
    handler = type("Handler", (_Handler,), {"upstream": parts.netloc, "faults": faults})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{parts.path}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
