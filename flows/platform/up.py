"""`imagen up` runs the platform on this machine: Prefect's server, a worker for each work pool, every deployment.

The server stores its runs in SQLite beside the lake's tables, or in another database. Server and workers are child
processes: Ctrl-C stops them. When they are started again, they continue, because finished work is in the lake.
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

START_SECONDS, STOP_SECONDS = 120, 40  # a worker gives a training 30 s to write a checkpoint
MAX_STARTS, STARTS_SECONDS = 4, 120.0  # a process that starts so often in this time is given up


def run_up(
    lake: str, recipes: Sequence[str], config: str, host: str, port: int, database: str | None, auth: bool = False
) -> None:
    """Run the platform until Ctrl-C.

    Args:
        lake: folder or URL of the lake; made if it does not exist
        recipes: recipes to rebuild every night
        config: training configuration (.yaml) or preset for their datasets
        host: address that the server listens on
        port: port of the server
        database: URL of the server's database; SQLite beside the lake if None
        auth: require the USER:PASSWORD of the environment

    Raises:
        ServerError: the port is taken, the password is missing, or a process keeps exiting.
    """
    if auth and ":" not in os.environ.get(AUTH, ""):
        raise ServerError(f"--auth needs the variable {AUTH}: set it to USER:PASSWORD")
    if AUTH not in os.environ and host not in ("127.0.0.1", "localhost", "::1"):
        console.print(
            f"[yellow]Anyone who can reach {host}:{port} can run code on this machine: use --auth.[/]", soft_wrap=True
        )
    opened = Lake.open_or_make(lake)
    definition = deployments(opened, recipes, config)
    with socket.socket() as probe:
        if probe.connect_ex((host, port)) == 0:
            raise ServerError(f"another server already listens on {host}:{port}. Stop it, or choose another --port")
    url, home = f"http://{host}:{port}", home_of(opened)
    home.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "PREFECT_HOME": str(home),
        "PREFECT_API_URL": f"{url}/api",
        "PREFECT_API_DATABASE_CONNECTION_URL": database or f"sqlite+aiosqlite:///{home}/prefect.db",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",  # seconds; runs without heartbeats count as crashed
        "PREFECT_CLIENT_RETRY_EXTRA_CODES": "500",  # the server's answer while its database restarts
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
        "NO_ALBUMENTATIONS_UPDATE": "1",
    }
    if not CHECKOUT:
        environment["PYTHONSAFEPATH"] = "1"  # modules in the current folder must not shadow ours
    if AUTH in os.environ:
        environment["PREFECT_API_AUTH_STRING"] = os.environ[AUTH]  # for the workers and their runs
    with suppress(KeyboardInterrupt), ExitStack() as stack, handling_signals() as stop:
        arguments = ["server", "start", "--host", host, "--port", str(port), "--log-level", "ERROR"]
        server = stack.enter_context(Supervised("server", arguments, environment, home))
        with stop.immediately(), console.status("Starting Prefect's server"):
            wait(server, url, home)
        (home / URL).write_text(f"{url}/api")
        with stop.immediately(), console.status(f"Creating {len(definition['deployments'])} deployments"):
            deploy(definition, "process", environment, home)
        workers = [
            stack.enter_context(Supervised(f"worker-{pool}", ["worker", "start", "--pool", pool], environment, home))
            for pool in POOLS
        ]
        console.print(f"[bold]{url}[/] shows what runs; the lake is {lake}. Stop it with Ctrl-C.", soft_wrap=True)
        while not stop.requested:
            for process in (server, *workers):
                process.restart_if_exited()
            time.sleep(0.5)
    console.print("stopped")


class Supervised(AbstractContextManager["Supervised"]):
    """A process of Prefect that logs to a file. It is restarted if it exits, and stopped at the end of the block."""

    def __init__(self, name: str, arguments: list[str], environment: dict[str, str], home: Path) -> None:
        self.name, self.arguments, self.environment, self.home = name, arguments, environment, home
        self.starts: list[float] = []
        self.start()

    def start(self) -> None:
        """Start the process in a new session, so that Ctrl-C reaches only the calling process."""
        self.starts.append(time.monotonic())
        with (self.home / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                [prefect(), *self.arguments],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=run_folder(),
                start_new_session=True,
            )

    def restart_if_exited(self) -> None:
        """Start the process again if it has exited.

        Raises:
            ServerError: it has exited too often in a short time.
        """
        if self.process.poll() is None:
            return
        if sum(time.monotonic() - at < STARTS_SECONDS for at in self.starts) == MAX_STARTS:
            raise ServerError(f"{self.name} keeps exiting. Its log: {self.home}/{self.name}.log")
        console.print(f"[yellow]{self.name} ended with exit code {self.process.returncode}; starting it again[/]")
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
        """Stop the runs of a worker before the worker.

        Otherwise the worker kills runs before they report to the server.
        """
        runs = psutil.Process(self.process.pid).children()
        for run in runs:
            with suppress(psutil.NoSuchProcess):
                run.terminate()
        psutil.wait_procs(runs, STOP_SECONDS)


def wait(server: Supervised, url: str, home: Path) -> None:
    """Wait until the server answers.

    Raises:
        ServerError: the server exited, or did not answer in time.
    """
    for _ in range(START_SECONDS * 2):
        try:
            with urllib.request.urlopen(f"{url}/api/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            if server.process.poll() is not None:
                break
            time.sleep(0.5)
    raise ServerError(f"Prefect's server does not answer at {url}. Its log: {home}/server.log")


@dataclass
class StopSignal:
    """Records whether a signal asked the process to stop. Inside `immediately` the signal also raises."""

    requested: bool = False
    interrupts: bool = False

    def handle(self, *_: object) -> None:
        """Handle SIGINT or SIGTERM."""
        self.requested = True
        if self.interrupts:
            self.interrupts = False
            raise KeyboardInterrupt

    @contextmanager
    def immediately(self) -> Iterator[None]:
        """Let a signal raise KeyboardInterrupt inside the block. A signal that came earlier raises at once."""
        if self.requested:
            raise KeyboardInterrupt
        self.interrupts = True
        try:
            yield
        finally:
            self.interrupts = False


@contextmanager
def handling_signals() -> Iterator[StopSignal]:
    """Handle SIGINT and SIGTERM inside the block; the former handlers are restored after it."""
    stop = StopSignal()
    former = {number: signal.signal(number, stop.handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)
