"""`imagen up`: the platform on this machine. Prefect's server, its work pools, a worker for each, every deployment.

The server keeps its runs in SQLite beside the lake's tables, or in the database that is named. All of it are processes
of ours: Ctrl-C ends them, and run again they take up where they were, for what is done lies in the lake.
"""

import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from data.errors import ServerError
from data.lake import Lake
from flows.asking import AUTH, URL, home_of
from flows.deploy import POOLS, ROOT, deploy, deployments, prefect
from flows.show import console

START_SECONDS, STOP_SECONDS = 120, 40  # a worker gives a training 30 s for a checkpoint


def run_up(
    lake: str, recipes: Sequence[str], config: str, host: str, port: int, database: str | None, auth: bool = False
) -> None:
    """Until Ctrl-C."""
    if auth and ":" not in os.environ.get(AUTH, ""):
        raise ServerError(f"set {AUTH} to the USER:PASSWORD that the server is to ask for")
    if AUTH not in os.environ and host not in ("127.0.0.1", "localhost", "::1"):
        console.print(f"[yellow]Whoever reaches {host}:{port} may run anything here: use --auth.[/]", soft_wrap=True)
    opened = Lake.open_or_make(lake)
    said = deployments(opened, recipes, config)
    with socket.socket() as probe:
        if probe.connect_ex((host, port)) == 0:
            raise ServerError(f"something answers at {host}:{port} already: end it, or choose another --port")
    url, home = f"http://{host}:{port}", home_of(opened)
    home.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_API_DATABASE_CONNECTION_URL": database or f"sqlite+aiosqlite:///{home}/prefect.db",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # who falls silent has died
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",  # what the server says while its database is started again
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "NO_ALBUMENTATIONS_UPDATE": "1",
    }
    if AUTH in os.environ:
        environment["PREFECT_API_AUTH_STRING"] = os.environ[AUTH]  # of the workers and their runs
    with ExitStack() as stack, ended() as told:
        words = ["server", "start", "--host", host, "--port", str(port), "--log-level", "ERROR"]
        server = stack.enter_context(started("server", words, environment, home))
        wait(server, url, home)
        (home / URL).write_text(f"{url}/api")
        deploy(said, "process", environment, home)
        workers = [
            stack.enter_context(started(f"worker-{pool}", ["worker", "start", "--pool", pool], environment, home))
            for pool in POOLS
        ]
        console.print(f"[bold]{url}[/] shows what runs; the lake is {lake}. Ctrl-C ends all of it.", soft_wrap=True)
        while not told and all(one.poll() is None for one in (server, *workers)):
            time.sleep(0.5)
        if not told:
            raise ServerError(f"the server or a worker ended by itself; its words are in {home}/*.log")
    console.print("ended")


@contextmanager
def started(
    name: str, words: list[str], environment: dict[str, str], home: Path
) -> "Iterator[subprocess.Popen[bytes]]":
    """A process of Prefect's, its words in a log; ended when this ends."""
    with (home / f"{name}.log").open("ab") as log:
        command = [prefect(), *words]
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=ROOT, start_new_session=True
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT if name == "server" else signal.SIGTERM)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait(server: "subprocess.Popen[bytes]", url: str, home: Path) -> None:
    for _ in range(START_SECONDS * 2):
        try:
            with urllib.request.urlopen(f"{url}/api/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if server.poll() is not None:
                break
            time.sleep(0.5)
    raise ServerError(f"Prefect's server does not answer at {url}; its words are in {home}/server.log")


@contextmanager
def ended() -> "Iterator[list[int]]":
    """The signals that told us to end."""
    told: list[int] = []
    before = {
        number: signal.signal(number, lambda got, _: told.append(got)) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield told
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
