"""Track runs on the configured Prefect server, or else on a temporary one.

Prefect can start a temporary server too. Ours is ready sooner, because it starts while Prefect is being imported. It
ends with this process, even after a kill. And the package `dataclasses`, which img2dataset installs with pip, cannot
shadow the standard library there.
"""

import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from data.errors import ServerError

START_SECONDS = 120
STOP_SECONDS = 5
SERVER = """
import dataclasses, os, socket, sys, threading

def end_with_parent():
    os.read(0, 1)  # the other end of this pipe is never written to: it ends with the process that holds it
    os._exit(0)

threading.Thread(target=end_with_parent, daemon=True).start()
import uvicorn

config = uvicorn.Config(
    "prefect.server.api.server:create_app", factory=True, lifespan="on", log_level="error", timeout_graceful_shutdown=1
)
uvicorn.Server(config).run(sockets=[socket.socket(fileno=int(sys.argv[1]))])
"""
SETTINGS = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}


@contextmanager
def tracking() -> Iterator[None]:
    """Track flow runs inside the block.

    Import the rest of Prefect inside the block: it loads while the server starts.

    Raises:
        ServerError: the temporary server did not start.
    """
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_LOGGING_TO_API_ENABLED,
        PREFECT_SERVER_EPHEMERAL_ENABLED,
        temporary_settings,
    )

    if PREFECT_API_URL.value() or not PREFECT_SERVER_EPHEMERAL_ENABLED.value():
        yield
        return
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/api"
        process = subprocess.Popen(
            [sys.executable, "-P", "-c", SERVER, str(listening.fileno())],
            env={**os.environ, **SETTINGS},
            stdin=subprocess.PIPE,
            pass_fds=[listening.fileno()],
            start_new_session=True,  # Ctrl-C is for us; it ends after us
        )
    try:
        from prefect import flow  # noqa: F401 - a second or two, that the server needs as well

        _wait(process, f"{url}/health")
        # Log lines are sent by a thread, which would still send some when this server has ended.
        with temporary_settings({PREFECT_API_URL: url, PREFECT_LOGGING_TO_API_ENABLED: False}):
            yield
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: "subprocess.Popen[bytes]", url: str) -> None:
    """Wait until the server answers. Its socket listens already, so the request waits instead of being refused."""
    try:
        with urllib.request.urlopen(url, timeout=START_SECONDS):
            return
    except OSError as error:
        code = process.poll()
        problem = f"ended with exit code {code}"
        if code is None:
            problem = f"did not answer within {START_SECONDS} s ({error})"
        raise ServerError(
            f"Prefect's temporary server {problem}; its output is above. "
            "Or start a server with `prefect server start` and set PREFECT_API_URL"
        ) from None
