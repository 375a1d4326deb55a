"""The origin of a built-in world: the logic of the web server that its pictures are fetched from.

It decides the response to each URL, including the deliberate faults. `origin.parquet` names the file and the behaviour
for each path. `GET /.stats` returns request counts. The table is read once and pictures are cached in memory. So one
process serves several thousand pictures per second, and is not a bottleneck.

Not here: the server and the process that run the origin (server.py).
"""

import asyncio
import hashlib
import json
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import pyarrow.parquet as pq

from data.errors import WorldError

HUGE_BYTES = 50_000_000
DRIP_SECONDS = 0.2  # between two bytes
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


@dataclass(frozen=True, slots=True)
class Page:
    """One path of the origin: a row of `origin.parquet`."""

    path: str
    file: str | None  # relative to the world's folder
    behaviour: str  # a key of BEHAVIOURS
    location: str | None  # the target of a redirect, or another parameter of the behaviour
    content_type: str | None


@dataclass
class Stats:
    """Counts of the requests to the origin, as returned by `GET /.stats`."""

    connections: int = 0
    pictures: int = 0  # requests for pictures
    unchanged: int = 0  # of those, conditional requests that were answered by 304 Not Modified
    robots: int = 0  # requests for robots.txt
    busiest: int = 0  # the most picture requests that one host name had at the same time
    paths: Counter[str] = field(default_factory=Counter)  # requests for each path

    def to_json(self) -> bytes:
        """Return the counts as the body of a response."""
        return json.dumps({**vars(self), "paths": dict(self.paths)}).encode()


class ConnectionClosed(Exception):
    """Raised by a behaviour that has closed the connection."""


class Origin:
    """The pages of a world, and the behaviours that answer requests for them. Opens no sockets."""

    def __init__(self, folder: str | Path) -> None:
        """Read the world in a folder.

        Raises:
            WorldError: the folder contains no finished world.
        """
        self.folder = Path(folder)
        try:
            rows = pq.read_table(self.folder / "origin.parquet").to_pylist()
        except OSError:
            raise WorldError(
                f"{folder} is not a built-in world (no origin.parquet). Make one: imagen world make --out {folder}"
            ) from None
        columns = Page.__dataclass_fields__
        self.pages = {row["path"]: Page(**{name: row.get(name) for name in columns}) for row in rows}
        self.stats = Stats()
        self._active: Counter[str] = Counter()  # picture requests in progress for each host name
        self._read_cached = lru_cache(maxsize=8192)(self._read)

    async def handle_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the requests of a connection until either side closes it."""
        self.stats.connections += 1
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await self.handle_request(head, writer)
                if b"connection: close" in head.lower():
                    break
        except (
            ConnectionClosed,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
            ConnectionError,
            ssl.SSLError,
        ):
            pass
        finally:
            writer.close()

    async def handle_request(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        """Answer one request, given its request line and headers.

        Raises:
            ConnectionClosed: the page's behaviour closed the connection.
        """
        path = head.split(b" ", 2)[1].decode("latin-1")
        if path == "/.stats":
            return await _send(writer, 200, "application/json", self.stats.to_json())
        if path == "/robots.txt":
            self.stats.robots += 1
            file = self.folder / "robots.txt"
            status, body = (200, file.read_bytes()) if file.exists() else (404, b"")
            return await _send(writer, status, "text/plain", body)
        self.stats.pictures += 1
        self.stats.paths[path] += 1
        host = _header_value(head, "Host")
        self._active[host] += 1
        self.stats.busiest = max(self.stats.busiest, self._active[host])
        try:
            page = self.pages.get(path) or Page(path, None, "not_found", None, None)
            if page.behaviour == "ok" and _header_value(head, "If-None-Match") == self._body_and_etag(page)[1]:
                self.stats.unchanged += 1
                return await _send(writer, 304, page.content_type or "image/jpeg", b"")
            await BEHAVIOURS[page.behaviour](self, page, writer)
        finally:
            self._active[host] -= 1
        return None

    def _read(self, file: str, modified_ns: int) -> tuple[bytes, str]:
        """Return a file's bytes and ETag. The modification time is part of the cache key, so changes are noticed."""
        body = (self.folder / file).read_bytes()
        return body, f'"{hashlib.md5(body).hexdigest()}"'

    def _body_and_etag(self, page: Page) -> tuple[bytes, str]:
        if not page.file:
            return b"", '""'
        return self._read_cached(page.file, (self.folder / page.file).stat().st_mtime_ns)

    def _body(self, page: Page) -> bytes:
        return self._body_and_etag(page)[0]

    async def ok(self, page: Page, writer: asyncio.StreamWriter, headers: str = "") -> None:
        """Send the picture with its ETag and additional headers."""
        body, etag = self._body_and_etag(page)
        await _send(writer, 200, page.content_type or "image/jpeg", body, f"ETag: {etag}\r\n{headers}")

    async def not_found(self, page: Page, writer: asyncio.StreamWriter) -> None:
        """404."""
        await _send(writer, 404, "text/plain", b"no such picture\n")

    async def gone(self, page: Page, writer: asyncio.StreamWriter) -> None:
        """410."""
        await _send(writer, 410, "text/plain", b"gone\n")

    async def heals(self, page: Page, writer: asyncio.StreamWriter) -> None:
        """Answer the first request with 500, and later requests with the picture."""
        if self.stats.paths[page.path] == 1:
            return await _send(writer, 500, "text/plain", b"try again\n")
        return await self.ok(page, writer)

    async def unavailable(self, page: Page, writer: asyncio.StreamWriter) -> None:
        """503."""
        await _send(writer, 503, "text/plain", b"overloaded\n")

    async def timeout(self, page: Page, writer: asyncio.StreamWriter) -> None:
        """Send nothing until the client gives up."""
        await writer.wait_closed()
        raise ConnectionClosed

    async def drip(self, page: Page, writer: asyncio.StreamWriter) -> None:
        """Send the picture one byte at a time."""
        body = self._body(page)
        writer.write(_response_head(200, page.content_type or "image/jpeg", len(body)))
        for byte in body:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(DRIP_SECONDS)

    async def reset(self, page: Page, writer: asyncio.StreamWriter) -> None:
        """Send half of the picture, then a TCP reset."""
        await self._send_half(page, writer)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
        raise ConnectionClosed

    async def truncated(self, page: Page, writer: asyncio.StreamWriter) -> None:
        """Send half of the picture, then close the connection."""
        await self._send_half(page, writer)
        raise ConnectionClosed

    async def _send_half(self, page: Page, writer: asyncio.StreamWriter) -> None:
        body = self._body(page)
        writer.write(_response_head(200, page.content_type or "image/jpeg", len(body)) + body[: len(body) // 2])
        await writer.drain()
        await asyncio.sleep(0.05)  # so that the bytes leave before the connection ends

    async def html(self, page: Page, writer: asyncio.StreamWriter) -> None:
        """Send a page of HTML with status 200 instead of the picture."""
        await _send(writer, 200, "text/html", b"<!doctype html><html><body>This picture has moved.</body></html>\n")

    async def huge(self, page: Page, writer: asyncio.StreamWriter) -> None:
        """Send HUGE_BYTES without a Content-Length, so that a client must count the bytes to notice."""
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: image/jpeg\r\nTransfer-Encoding: chunked\r\n\r\n")
        chunk = bytes(65_536)
        for _ in range(HUGE_BYTES // len(chunk)):
            writer.write(b"%x\r\n%b\r\n" % (len(chunk), chunk))
            await writer.drain()
        writer.write(b"0\r\n\r\n")

    async def redirect(self, page: Page, writer: asyncio.StreamWriter) -> None:
        """Redirect to the page's location, or to itself for `redirect_loop`."""
        target = page.path if page.behaviour == "redirect_loop" else page.location
        await _send(writer, 302, "text/plain", b"", f"Location: {target}\r\n")

    async def limited(self, page: Page, writer: asyncio.StreamWriter) -> None:
        """Answer with 429. The page's location gives the seconds of Retry-After."""
        await _send(writer, 429, "text/plain", b"slower\n", f"Retry-After: {page.location}\r\n")

    async def garbled(self, page: Page, writer: asyncio.StreamWriter) -> None:
        """Send headers that are not text. The page's location gives the status, by default 500."""
        body, status = self._body(page), (page.location or "500").encode()
        head = b"HTTP/1.1 " + status + b' \xff\xfe\r\nETag: "\xff\xfe"\r\nContent-Type: \xff\r\nLast-Modified: \xfd\r\n'
        writer.write(head + f"Content-Length: {len(body)}\r\n\r\n".encode() + body)
        await writer.drain()

    async def noai(self, page: Page, writer: asyncio.StreamWriter) -> None:
        """Send the picture with a header that opts out of training."""
        await self.ok(page, writer, "X-Robots-Tag: noai\r\n")


BEHAVIOURS: dict[str, Callable[[Origin, Page, asyncio.StreamWriter], Awaitable[None]]] = {
    "ok": Origin.ok,
    "bomb": Origin.ok,  # its file is a decompression bomb
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
    "redirect_private": Origin.redirect,  # its location is a private address
    "noai": Origin.noai,
    "limited": Origin.limited,
    "garbled": Origin.garbled,
}


def _response_head(status: int, content_type: str, length: int, headers: str = "") -> bytes:
    return (
        f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {length}\r\n{headers}\r\n"
    ).encode("latin-1")


async def _send(writer: asyncio.StreamWriter, status: int, content_type: str, body: bytes, headers: str = "") -> None:
    writer.write(_response_head(status, content_type, len(body), headers) + body)
    await writer.drain()


def _header_value(head: bytes, name: str) -> str:
    """Return the value of a header in a request, or an empty text if the request lacks it."""
    for line in head.decode("latin-1").split("\r\n")[1:]:
        if line.lower().startswith(f"{name.lower()}:"):
            return line.partition(":")[2].strip()
    return ""
