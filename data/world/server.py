"""The origin of the built-in world: HTTP on loopback that serves a world's pictures and misbehaves where it is told to.

`origin.parquet` names for each path its file and its behaviour. `GET /.stats` says what was asked of it. The world is
read once; a picture comes from memory, so that one process gives several thousand a second and is no one's bottleneck.
"""

import argparse
import asyncio
import hashlib
import json
import os
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import pyarrow.parquet as pq

from data.errors import WorldError

HUGE = 50_000_000
DRIP_SECONDS = 0.2
READY = "serving"
MAX_HEAD = 16_384

Certificate = tuple[str | Path, str | Path]  # the chain's file and the key's


@dataclass(frozen=True, slots=True)
class Page:
    """What lies under one path."""

    path: str
    file: str | None
    behaviour: str
    location: str | None
    content_type: str | None


@dataclass
class Stats:
    """What was asked of the server; `busiest` is the most picture requests that one host name had at once."""

    connections: int = 0
    pictures: int = 0
    unchanged: int = 0  # of those pictures, asked for if they had changed, and they had not
    robots: int = 0
    busiest: int = 0
    paths: Counter[str] = field(default_factory=Counter)

    def to_json(self) -> bytes:
        return json.dumps({**vars(self), "paths": dict(self.paths)}).encode()


class Gone(Exception):
    """The behaviour has closed the connection."""


class Origin:
    """A world's pages and the behaviours by which they are answered; knows no socket but the one it answers on."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            rows = pq.read_table(self.folder / "origin.parquet").to_pylist()
        except OSError:
            raise WorldError(
                f"{folder} is no built-in world (no origin.parquet). Make one: imagen world make --out {folder}"
            ) from None
        names = Page.__dataclass_fields__
        self.pages = {row["path"]: Page(**{name: row.get(name) for name in names}) for row in rows}
        self.stats = Stats()
        self._at_once: Counter[str] = Counter()
        self._file = lru_cache(maxsize=8192)(self._read)

    def _read(self, file: str, changed: int) -> tuple[bytes, str]:
        """A file's bytes and their ETag; read again when it has changed."""
        body = (self.folder / file).read_bytes()
        return body, f'"{hashlib.md5(body).hexdigest()}"'

    async def converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, request by request."""
        self.stats.connections += 1
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await self.answer(head, writer)
                if b"connection: close" in head.lower():
                    break
        except (Gone, asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, ssl.SSLError):
            pass
        finally:
            writer.close()

    async def answer(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        path = head.split(b" ", 2)[1].decode("latin-1")
        if path == "/.stats":
            return await _send(writer, 200, "application/json", self.stats.to_json())
        if path == "/robots.txt":
            self.stats.robots += 1
            file = self.folder / "robots.txt"
            return await _send(
                writer, 200 if file.exists() else 404, "text/plain", file.read_bytes() if file.exists() else b""
            )
        self.stats.pictures += 1
        self.stats.paths[path] += 1
        host = header(head, "Host")
        self._at_once[host] += 1
        self.stats.busiest = max(self.stats.busiest, self._at_once[host])
        try:
            page = self.pages.get(path) or Page(path, None, "not_found", None, None)
            if page.behaviour == "ok" and header(head, "If-None-Match") == self._tagged(page)[1]:
                self.stats.unchanged += 1
                return await _send(writer, 304, page.content_type or "image/jpeg", b"")
            await BEHAVIOURS[page.behaviour](self, page, writer)
        finally:
            self._at_once[host] -= 1
        return None

    async def ok(self, page: Page, writer: asyncio.StreamWriter, more: str = "") -> None:
        body, tag = self._tagged(page)
        await _send(writer, 200, page.content_type or "image/jpeg", body, f"ETag: {tag}\r\n{more}")

    def _tagged(self, page: Page) -> tuple[bytes, str]:
        return self._file(page.file, (self.folder / page.file).stat().st_mtime_ns) if page.file else (b"", '""')

    def _body(self, page: Page) -> bytes:
        return self._tagged(page)[0]

    async def not_found(self, page: Page, writer: asyncio.StreamWriter) -> None:
        await _send(writer, 404, "text/plain", b"no such picture\n")

    async def gone(self, page: Page, writer: asyncio.StreamWriter) -> None:
        await _send(writer, 410, "text/plain", b"gone\n")

    async def heals(self, page: Page, writer: asyncio.StreamWriter) -> None:
        if self.stats.paths[page.path] == 1:
            return await _send(writer, 500, "text/plain", b"try again\n")
        return await self.ok(page, writer)

    async def unavailable(self, page: Page, writer: asyncio.StreamWriter) -> None:
        await _send(writer, 503, "text/plain", b"overloaded\n")

    async def timeout(self, page: Page, writer: asyncio.StreamWriter) -> None:
        await writer.wait_closed()
        raise Gone

    async def drip(self, page: Page, writer: asyncio.StreamWriter) -> None:
        body = self._body(page)
        writer.write(_head(200, page.content_type or "image/jpeg", len(body)))
        for byte in body:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(DRIP_SECONDS)

    async def reset(self, page: Page, writer: asyncio.StreamWriter) -> None:
        await self._half(page, writer)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        raise Gone

    async def truncated(self, page: Page, writer: asyncio.StreamWriter) -> None:
        await self._half(page, writer)
        raise Gone

    async def _half(self, page: Page, writer: asyncio.StreamWriter) -> None:
        body = self._body(page)
        writer.write(_head(200, page.content_type or "image/jpeg", len(body)) + body[: len(body) // 2])
        await writer.drain()
        await asyncio.sleep(0.05)  # what was sent must have left before the end is

    async def html(self, page: Page, writer: asyncio.StreamWriter) -> None:
        await _send(writer, 200, "text/html", b"<!doctype html><html><body>This picture has moved.</body></html>\n")

    async def huge(self, page: Page, writer: asyncio.StreamWriter) -> None:
        """Without a length, so that only counting tells."""
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = bytes(65_536)
        for _ in range(HUGE // len(piece)):
            writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async def redirect(self, page: Page, writer: asyncio.StreamWriter) -> None:
        to = page.path if page.behaviour == "redirect_loop" else page.location
        await _send(writer, 302, "text/plain", b"", f"Location: {to}\r\n")

    async def limited(self, page: Page, writer: asyncio.StreamWriter) -> None:
        """429 that says in how many seconds to come again: what the page has as its location."""
        await _send(writer, 429, "text/plain", b"slower\n", f"Retry-After: {page.location}\r\n")

    async def garbled(self, page: Page, writer: asyncio.StreamWriter) -> None:
        """A head of bytes that are no text; 500, or what the page has as its location."""
        body, status = self._body(page), (page.location or "500").encode()
        head = b"HTTP/1.1 " + status + b' \xff\xfe\r\nETag: "\xff\xfe"\r\nContent-Type: \xff\r\nLast-Modified: \xfd\r\n'
        writer.write(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()

    async def noai(self, page: Page, writer: asyncio.StreamWriter) -> None:
        await self.ok(page, writer, "X-Robots-Tag: noai\r\n")


BEHAVIOURS: dict[str, Callable[[Origin, Page, asyncio.StreamWriter], Awaitable[None]]] = {
    "ok": Origin.ok,
    "bomb": Origin.ok,
    "not_found": Origin.not_found,
    "gone": Origin.gone,
    "heals": Origin.heals,
    "unavailable": Origin.unavailable,
    "timeout": Origin.timeout,
    "drip": Origin.drip,
    "reset": Origin.reset,
    "truncated": Origin.truncated,
    "html": Origin.html,
    "huge": Origin.huge,
    "redirect": Origin.redirect,
    "redirect_loop": Origin.redirect,
    "redirect_private": Origin.redirect,
    "noai": Origin.noai,
    "limited": Origin.limited,
    "garbled": Origin.garbled,
}
REASONS = {
    200: "OK",
    302: "Found",
    304: "Not Modified",
    429: "Too Many Requests",
    404: "Not Found",
    410: "Gone",
    500: "Internal Server Error",
    503: "Unavailable",
}


def _head(status: int, content_type: str, length: int, more: str = "") -> bytes:
    return (
        f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: {content_type}\r\nContent-Length: {length}\r\n{more}\r\n"
    ).encode("latin-1")


async def _send(writer: asyncio.StreamWriter, status: int, content_type: str, body: bytes, more: str = "") -> None:
    writer.write(_head(status, content_type, len(body), more) + body)
    await writer.drain()


def header(head: bytes, name: str) -> str:
    for line in head.decode("latin-1").split("\r\n")[1:]:
        if line.lower().startswith(f"{name.lower()}:"):
            return line.partition(":")[2].strip()
    return ""


class OriginServer:
    """The server in a thread of this process: `with OriginServer(folder) as origin: origin.address`."""

    def __init__(self, folder: str | Path, port: int = 0, certificate: Certificate | None = None) -> None:
        self._origin = Origin(folder)
        self._port = port
        self._certificate = certificate
        self._ready = threading.Event()
        self._failed: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.address = ""

    @property
    def stats(self) -> Stats:
        return self._origin.stats

    @property
    def url(self) -> str:
        return f"{'https' if self._certificate else 'http'}://{self.address}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self.run()), name="origin", daemon=True)
        self._thread.start()
        self._ready.wait()
        if self._failed:
            raise self._failed
        return self

    def wait(self) -> None:
        """Until the server is stopped."""
        self._thread.join()

    def __exit__(self, *_: object) -> None:
        if self._loop and self._stop:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    async def run(self, ready: Callable[[str], None] | None = None) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        talks: set[asyncio.Task[Any]] = set()

        async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task
            talks.add(task)
            task.add_done_callback(talks.discard)
            with suppress(asyncio.CancelledError):  # the server ends; asyncio would print a traceback for each
                await self._origin.converse(reader, writer)

        try:
            context = None
            if self._certificate:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*self._certificate)
            server = await asyncio.start_server(
                talk, "127.0.0.1", self._port, ssl=context, limit=MAX_HEAD, backlog=1024
            )
        except OSError as error:
            self._failed = WorldError(f"port {self._port} can't be served: {error}")
            self._ready.set()
            return
        host, port = server.sockets[0].getsockname()[:2]
        self.address = f"{host}:{port}"
        self._ready.set()
        if ready:
            ready(self.url)
        for number in (signal.SIGTERM, signal.SIGINT) if threading.current_thread() is threading.main_thread() else ():
            self._loop.add_signal_handler(number, self._stop.set)
        await self._stop.wait()
        server.close()
        for task in list(talks):
            task.cancel()
        await asyncio.gather(*talks, return_exceptions=True)


def serve(folder: str | Path, port: int = 0, certificate: Certificate | None = None) -> None:
    """Serve until SIGINT or SIGTERM; the first line printed says where."""

    def ready(url: str) -> None:
        sys.stdout.write(f"{READY} {folder} on {url}\n")
        sys.stdout.flush()

    server = OriginServer(folder, port, certificate)
    asyncio.run(server.run(ready))
    if server._failed:
        raise server._failed


@dataclass
class OriginProcess:
    """The server as a process of its own, which ends with the block, or with the process that started it."""

    process: subprocess.Popen[str]
    url: str

    @property
    def address(self) -> str:
        return self.url.partition("://")[2]

    def stop(self) -> None:
        self.process.terminate()
        self.process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_process(folder: str | Path, port: int = 0, certificate: Certificate | None = None) -> OriginProcess:
    command = [sys.executable, "-m", "data.world.server", str(folder), "--port", str(port), "--with-parent"]
    if certificate:
        command += ["--certificate", str(certificate[0]), "--key", str(certificate[1])]
    root = Path(__file__).parents[2]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)
    assert process.stdout
    line = process.stdout.readline()
    if not line.startswith(READY):
        process.communicate()
        raise WorldError(f"the origin server of {folder} did not start (exit code {process.returncode})")
    return OriginProcess(process, line.split()[-1])


def _end_with_parent() -> None:
    """Wait on a pipe that nobody writes to: it ends when the process that holds its other end does."""
    os.read(0, 1)  # not sys.stdin, whose lock would be held as the interpreter ends
    os._exit(0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m data.world.server", description="Serve a built-in world.")
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--certificate", help="serve https: file of the certificate chain")
    parser.add_argument("--key", help="file of its key")
    parser.add_argument("--with-parent", action="store_true", help="end when standard input does")
    given = parser.parse_args()
    if given.with_parent:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        serve(given.folder, given.port, (given.certificate, given.key) if given.certificate else None)
    except WorldError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
