"""A proxy before an S3 server that does what networks and poor stores do: fails, cuts answers off, drops conditions."""

import http.client
import multiprocessing
import random
import time
from contextlib import AbstractContextManager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing.connection import Connection
from typing import Any, Literal

Fault = Literal["flaky", "forgetful", "unconditional", "check_then_put"]


class FlakyProxy(AbstractContextManager["FlakyProxy"]):
    """`flaky`: a tenth of the answers are 500, 503 or cut off, also after the server has done what was asked.
    `forgetful`: the first write of each object is done, and answered with 500.
    `unconditional`: If-None-Match is ignored. `check_then_put`: it is honoured, but not atomically.

    A process of its own: some calls of deltalake hold this interpreter's lock while they wait for an answer.
    """

    def __init__(self, upstream: str, fault: Fault, seed: int = 0) -> None:
        context = multiprocessing.get_context("spawn")
        self._faults = context.Value("i", 0)
        receiver, sender = context.Pipe(duplex=False)
        arguments = (upstream.removeprefix("http://"), fault, seed, self._faults, sender)
        self._process = context.Process(target=_serve, args=arguments, daemon=True)
        self._process.start()
        self.url: str = receiver.recv()

    @property
    def faults(self) -> int:
        return int(self._faults.value)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()


def _serve(upstream: str, fault: Fault, seed: int, faults: Any, sender: Connection) -> None:
    proxy = _Proxy(upstream, fault, seed, faults)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_any(self) -> None:
            proxy.pass_on(self)

        do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = do_any

        def handle(self) -> None:
            try:
                super().handle()
            except ConnectionError:
                self.close_connection = True  # the client has gone: tired of waiting, or ended

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    sender.send("http://{}:{}".format(*server.server_address))
    server.serve_forever()


class _Proxy:
    def __init__(self, upstream: str, fault: Fault, seed: int, faults: Any) -> None:
        self.upstream, self.fault, self.faults = upstream, fault, faults
        self.chance = random.Random(seed)
        self.written: set[str] = set()

    def spoil(self) -> None:
        with self.faults.get_lock():
            self.faults.value += 1

    def pass_on(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        headers = {name: value for name, value in request.headers.items() if name.lower() != "connection"}
        conditional = any(name.lower() == "if-none-match" for name in headers)
        if self.fault in ("unconditional", "check_then_put") and request.command == "PUT" and conditional:
            headers = {name: value for name, value in headers.items() if name.lower() != "if-none-match"}
            if self.fault == "check_then_put":
                bare = {name: value for name, value in headers.items() if not name.lower().startswith("content-")}
                status, _, _ = self.ask("HEAD", request.path, bare, b"")
                if status == 200:
                    return self.answer(request, 412, {}, b"<Error><Code>PreconditionFailed</Code></Error>")
                time.sleep(0.05)
        luck = self.chance.random() if self.fault == "flaky" else 1.0
        if luck < 0.04:
            self.spoil()
            return self.answer(request, 503, {}, b"<Error><Code>SlowDown</Code></Error>")
        status, answered, content = self.ask(request.command, request.path, headers, body)
        forgotten = self.fault == "forgetful" and request.command == "PUT" and request.path not in self.written
        self.written.add(request.path)
        if luck < 0.07 or forgotten:  # done, but the answer says that it failed
            self.spoil()
            return self.answer(request, 500, {}, b"<Error><Code>InternalError</Code></Error>")
        if luck < 0.10:
            self.spoil()
            request.close_connection = True
            if content:
                self.answer(request, status, answered, content, send=len(content) // 2)
            return None
        return self.answer(request, status, answered, content)

    def ask(self, method: str, path: str, headers: dict[str, str], body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.upstream, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, dict(response.getheaders()), response.read()
        finally:
            connection.close()

    def answer(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        headers: dict[str, str],
        body: bytes,
        send: int | None = None,
    ) -> None:
        request.send_response(status)
        skip = {"transfer-encoding", "connection", "server", "date", "content-length"}
        for name, value in headers.items():
            if name.lower() not in skip:
                request.send_header(name, value)
        length = headers.get("Content-Length", "0") if request.command == "HEAD" else str(len(body))
        request.send_header("Content-Length", length)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(body[:send])
