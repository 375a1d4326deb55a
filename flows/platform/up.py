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
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from data.errors import ServerError
from data.lake.lake import Lake
from flows.platform.deploy import CHECKOUT, POOLS, deploy, deployments, prefect, run_folder
from flows.server.client import AUTH, URL, home_of
from flows.terminal.data_tables import console

START_SECONDS, STOP_SECONDS = 120, 40  # a worker gives a training 30 s for a checkpoint
TOO_OFTEN, TOO_OFTEN_SECONDS = 4, 120.0  # starts of a process


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
    if not CHECKOUT:
        environment["PYTHONSAFEPATH"] = "1"  # modules of the current folder must not hide ours
    if AUTH in os.environ:
        environment["PREFECT_API_AUTH_STRING"] = os.environ[AUTH]  # of the workers and their runs
    with suppress(KeyboardInterrupt), ExitStack() as stack, ending() as end:
        words = ["server", "start", "--host", host, "--port", str(port), "--log-level", "ERROR"]
        server = stack.enter_context(Kept("server", words, environment, home))
        with end.at_once(), console.status("Prefect's server starts"):
            wait(server, url, home)
        (home / URL).write_text(f"{url}/api")
        with end.at_once(), console.status(f"{len(said['deployments'])} deployments are made"):
            deploy(said, "process", environment, home)
        workers = [
            stack.enter_context(Kept(f"worker-{pool}", ["worker", "start", "--pool", pool], environment, home))
            for pool in POOLS
        ]
        console.print(f"[bold]{url}[/] shows what runs; the lake is {lake}. Ctrl-C ends all of it.", soft_wrap=True)
        while not end.told:
            for one in (server, *workers):
                one.keep()
            time.sleep(0.5)
    console.print("ended")


class Kept(AbstractContextManager["Kept"]):
    """A process of Prefect's, its words in a log: started again where it ends by itself, ended when this ends."""

    def __init__(self, name: str, words: list[str], environment: dict[str, str], home: Path) -> None:
        self.name, self.words, self.environment, self.home = name, words, environment, home
        self.starts: list[float] = []
        self.start()

    def start(self) -> None:
        self.starts.append(time.monotonic())
        with (self.home / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [prefect(), *self.words],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=run_folder(),
                start_new_session=True,
            )

    def keep(self) -> None:
        if self.process.poll() is None:
            return
        if sum(time.monotonic() - at < TOO_OFTEN_SECONDS for at in self.starts) == TOO_OFTEN:
            raise ServerError(f"{self.name} ends again and again; its words are in {self.home}/{self.name}.log")
        console.print(f"[yellow]{self.name} ended with code {self.process.returncode} and is started again[/]")
        self.start()

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            if self.name != "server":
                self._end_runs()
            self.process.send_signal(signal.SIGINT if self.name == "server" else signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def _end_runs(self) -> None:
        """Of a worker, before it: ended by it, they would be gone before they could say so to the server."""
        runs = psutil.Process(self.process.pid).children()
        for run in runs:
            with suppress(psutil.NoSuchProcess):
                run.terminate()
        psutil.wait_procs(runs, STOP_SECONDS)


def wait(server: Kept, url: str, home: Path) -> None:
    for _ in range(START_SECONDS * 2):
        try:
            with urllib.request.urlopen(f"{url}/api/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if server.process.poll() is not None:
                break
            time.sleep(0.5)
    raise ServerError(f"Prefect's server does not answer at {url}; its words are in {home}/server.log")


@dataclass
class Ending:
    """Whether a signal told us to end; within `at_once` it interrupts, elsewhere what was begun is done first."""

    told: bool = False
    interrupts: bool = False

    def hear(self, *_: object) -> None:
        self.told = True
        if self.interrupts:
            self.interrupts = False
            raise KeyboardInterrupt

    @contextmanager
    def at_once(self) -> Iterator[None]:
        if self.told:
            raise KeyboardInterrupt
        self.interrupts = True
        try:
            yield
        finally:
            self.interrupts = False


@contextmanager
def ending() -> Iterator[Ending]:
    """Hears the signals."""
    end = Ending()
    before = {number: signal.signal(number, end.hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield end
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
