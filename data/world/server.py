"""The HTTP server of a built-in world, on the loopback interface. Runs in a thread, in the foreground or as a process.

Not here: the answers to requests (origin.py).
"""

import argparse
import asyncio
import os
import signal
import ssl
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from data.errors import WorldError
from data.world.origin import Origin, Stats

READY = "serving"  # the first word that a server process prints once it accepts connections
MAX_HEAD_BYTES = 16_384

Certificate = tuple[str | Path, str | Path]  # the file with the certificate chain, and the file with its key


class OriginServer:
    """A server in a thread of this process. It stops at the end of the `with` block.

    Example:
        >>> with OriginServer("world") as server:
        ...     urllib.request.urlopen(server.url + "/.stats")
    """

    def __init__(self, folder: str | Path, port: int = 0, certificate: Certificate | None = None) -> None:
        """Prepare a server. It starts when the `with` block is entered.

        Args:
            folder: the folder of a world.
            port: the port; 0 chooses a free port.
            certificate: if given, the server uses HTTPS.

        Raises:
            WorldError: the folder contains no finished world. Entering the block raises it if the port can't be used.
        """
        self._origin = Origin(folder)
        self._port = port
        self._certificate = certificate
        self._ready = threading.Event()
        self._error: Exception | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self.address = ""  # host:port, once it has started

    @property
    def stats(self) -> Stats:
        """Return the counts of requests to the server so far."""
        return self._origin.stats

    @property
    def url(self) -> str:
        """The root URL. It is known once the server has started."""
        return f"{'https' if self._certificate else 'http'}://{self.address}"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=lambda: asyncio.run(self.run()), name="origin", daemon=True)
        self._thread.start()
        self._ready.wait()
        self.check_started()
        return self

    def __exit__(self, *_: object) -> None:
        if self._loop and self._stop:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()

    def wait(self) -> None:
        """Block until the server stops."""
        self._thread.join()

    def check_started(self) -> None:
        """Raise the error that kept the server from starting, if there was one."""
        if self._error:
            raise self._error

    async def run(self, on_ready: Callable[[str], None] | None = None) -> None:
        """Serve until stopped, or until SIGINT or SIGTERM in the main thread. Calls `on_ready` with the URL."""
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        connections: set[asyncio.Task[Any]] = set()

        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task
            connections.add(task)
            task.add_done_callback(connections.discard)
            with suppress(asyncio.CancelledError):  # else asyncio prints a traceback for each when the server stops
                await self._origin.handle_connection(reader, writer)

        try:
            context = None
            if self._certificate:
                context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
                context.load_cert_chain(*self._certificate)
            server = await asyncio.start_server(
                handle, "127.0.0.1", self._port, ssl=context, limit=MAX_HEAD_BYTES, backlog=1024
            )
        except OSError as error:
            self._error = WorldError(f"port {self._port} can't be served: {error}. Choose another port")
            self._ready.set()
            return
        host, port = server.sockets[0].getsockname()[:2]
        self.address = f"{host}:{port}"
        self._ready.set()
        if on_ready:
            on_ready(self.url)
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._stop.set)
        await self._stop.wait()
        server.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


def serve(folder: str | Path, port: int = 0, certificate: Certificate | None = None) -> None:
    """Serve in the foreground until SIGINT or SIGTERM. The first line on standard output ends with the URL.

    Raises:
        WorldError: the folder contains no finished world, or the port can't be used.
    """

    def print_url(url: str) -> None:
        sys.stdout.write(f"{READY} {folder} on {url}\n")
        sys.stdout.flush()

    server = OriginServer(folder, port, certificate)
    asyncio.run(server.run(print_url))
    server.check_started()


@dataclass
class OriginProcess:
    """A server in a separate process. It stops at the end of a `with` block, and when the parent process ends."""

    process: subprocess.Popen[str]
    url: str

    @property
    def address(self) -> str:
        """HOST:PORT of the server."""
        return self.url.partition("://")[2]

    def stop(self) -> None:
        """Stop the process and wait for its end."""
        self.process.terminate()
        self.process.communicate()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start_process(folder: str | Path, port: int = 0, certificate: Certificate | None = None) -> OriginProcess:
    """Start a server process and wait until it accepts connections.

    Raises:
        WorldError: the server did not start.
    """
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


def _exit_with_parent() -> None:
    """Exit when the parent process ends. Standard input is a pipe from the parent, and nothing is written to it."""
    os.read(0, 1)  # not sys.stdin, whose lock would still be held when the interpreter shuts down
    os._exit(0)


def main() -> None:
    """Run the command `python -m data.world.server`."""
    parser = argparse.ArgumentParser(prog="python -m data.world.server", description="Serve a built-in world.")
    parser.add_argument("folder")
    parser.add_argument("--port", type=int, default=0, help="port; 0 chooses a free one")
    parser.add_argument("--certificate", help="file of a certificate chain, to serve HTTPS")
    parser.add_argument("--key", help="file of the certificate's key")
    parser.add_argument("--with-parent", action="store_true", help="exit when standard input is closed")
    arguments = parser.parse_args()
    if arguments.with_parent:
        threading.Thread(target=_exit_with_parent, daemon=True).start()
    certificate = (arguments.certificate, arguments.key) if arguments.certificate else None
    try:
        serve(arguments.folder, arguments.port, certificate)
    except WorldError as error:
        parser.exit(2, f"{error}\n")


if __name__ == "__main__":
    main()
