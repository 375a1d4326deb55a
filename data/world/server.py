"""The world's origin: real HTTP/1.1 on loopback, fast, kept alive, that misbehaves where `origin.parquet` says so.

Written on bare asyncio: a reset in mid-answer, a drip or a short body is what a web framework keeps from happening.
"""

import asyncio
import json
import os
import socket
import ssl
import struct
import subprocess
import sys
import threading
from collections import Counter
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from data.errors import WorldError

HUGE = 50_000_000
DRIP_SECONDS = 0.2
HTML = b"<!doctype html><title>Gone fishing</title><p>This was once a picture."
REASONS = {200: "OK", 302: "Found", 404: "Not Found", 410: "Gone", 500: "Internal Server Error", 503: "Unavailable"}
STATS = "/.stats"


@dataclass(frozen=True, slots=True)
class Answer:
    behaviour: str
    file: str | None
    location: str | None
    content_type: str


class Origin:
    """What the server knows: an answer for each path, and what it was asked."""

    def __init__(self, folder: Path) -> None:
        table = folder / "origin.parquet"
        if not table.exists():
            raise WorldError(
                f"{folder} is no world (it has no origin.parquet). Make one: imagen world make --out {folder}"
            )
        self.folder = folder
        self.answers = {
            row["path"]: Answer(row["behaviour"], row["file"], row["location"], row["content_type"] or "image/jpeg")
            for row in pq.read_table(table).to_pylist()
        }
        robots = folder / "robots.txt"
        self.robots = robots.read_bytes() if robots.exists() else b""
        self.asked: Counter[str] = Counter()
        self.connections = self.open = self.most_open = 0

    def stats(self) -> bytes:
        said = {"requests": sum(self.asked.values()), "connections": self.connections, "most_open": self.most_open}
        return json.dumps(said).encode()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, request after request."""
        self.connections += 1
        self.open += 1
        self.most_open = max(self.most_open, self.open)
        writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                path = head.split(b" ", 2)[1].decode("latin-1").partition("?")[0]
                if not await self.answer(path, writer):
                    break
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError, IndexError, ssl.SSLError):
            return  # the client is gone, or speaks something else: the next connection is as good
        finally:
            self.open -= 1
            writer.close()

    async def answer(self, path: str, writer: asyncio.StreamWriter) -> bool:
        """Answer one request. Whether the connection may be used again."""
        if path == STATS:
            return await send(writer, 200, self.stats(), "application/json")
        if path == "/robots.txt":
            return await send(writer, 200, self.robots, "text/plain")
        self.asked[path] += 1
        answer = self.answers.get(path)
        if answer is None:
            return await send(writer, 404, b"nothing here", "text/plain")
        return await self.behave(answer, path, writer)

    async def behave(self, answer: Answer, path: str, writer: asyncio.StreamWriter) -> bool:
        kind, body = answer.content_type, self.body(answer)
        match answer.behaviour:
            case "not_found":
                return await send(writer, 404, b"not found", "text/plain")
            case "gone":
                return await send(writer, 410, b"gone", "text/plain")
            case "unavailable":
                return await send(writer, 503, b"later", "text/plain")
            case "heals" if self.asked[path] == 1:
                return await send(writer, 500, b"oops", "text/plain")
            case "html":
                return await send(writer, 200, HTML, "text/html")
            case "redirect_loop":
                return await send(writer, 302, b"", kind, Location=path)
            case "redirect" | "redirect_private":
                return await send(writer, 302, b"", kind, Location=answer.location or "/")
            case "noai":
                return await send(writer, 200, body, kind, **{"X-Robots-Tag": "noai"})
            case "timeout":
                await asyncio.sleep(3600)
                return False
            case "drip":
                writer.write(header(200, len(body), kind))
                for place in range(len(body)):
                    writer.write(body[place : place + 1])
                    await writer.drain()
                    await asyncio.sleep(DRIP_SECONDS)
                return True
            case "reset":
                writer.write(header(200, len(body), kind) + body[: len(body) // 2])
                await writer.drain()
                linger = struct.pack("ii", 1, 0)  # closing sends RST
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
                return False
            case "truncated":
                writer.write(header(200, len(body) + 5_000, kind) + body)
                await writer.drain()
                return False
            case "huge":
                writer.write(header(200, HUGE, kind))
                for _ in range(HUGE // 100_000):
                    writer.write(bytes(100_000))
                    await writer.drain()
                return True
        return await send(writer, 200, body, kind)

    def body(self, answer: Answer) -> bytes:
        return (self.folder / answer.file).read_bytes() if answer.file else b""


def header(status: int, length: int, content_type: str, **more: str) -> bytes:
    lines = [f"HTTP/1.1 {status} {REASONS[status]}", f"Content-Length: {length}", f"Content-Type: {content_type}"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in more.items()), "", ""]).encode()


async def send(writer: asyncio.StreamWriter, status: int, body: bytes, content_type: str, **more: str) -> bool:
    writer.write(header(status, len(body), content_type, **more) + body)
    await writer.drain()
    return True


class OriginServer(AbstractContextManager["OriginServer"]):
    """The origin in a thread of this process."""

    def __init__(self, folder: Path, port: int = 0, certificate: tuple[str, str] | None = None) -> None:
        self.origin = Origin(Path(folder))
        self.tls = None
        if certificate is not None:
            self.tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            self.tls.load_cert_chain(*certificate)
        self.socket = socket.create_server(("127.0.0.1", port), backlog=1024)
        self.address = "{}:{}".format(*self.socket.getsockname())
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._run, name="origin", daemon=True)
        self.thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_until_complete(asyncio.start_server(self.origin.serve, sock=self.socket, ssl=self.tls))
        self.loop.run_forever()
        for task in asyncio.all_tasks(self.loop):
            task.cancel()
        with suppress(asyncio.CancelledError):
            self.loop.run_until_complete(asyncio.sleep(0))

    def wait(self) -> None:
        self.thread.join()

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(5)
        self.socket.close()


class OriginProcess(AbstractContextManager["OriginProcess"]):
    """The origin as a process of its own, ended by its process id."""

    def __init__(self, folder: Path, certificate: tuple[str, str] | None = None) -> None:
        command = [sys.executable, "-m", "data.world.server", str(folder), *(certificate or ())]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.address = self.process.stdout.readline().strip()
        if not self.address:
            raise WorldError(f"the origin server of {folder} did not start")

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()


def main() -> None:
    folder, *certificate = sys.argv[1:]
    server = OriginServer(Path(folder), certificate=(certificate[0], certificate[1]) if certificate else None)
    os.write(1, f"{server.address}\n".encode())
    server.wait()


if __name__ == "__main__":
    main()
