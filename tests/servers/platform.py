"""`imagen up` as a test runs it, and what a person sees of it: deployments, runs, artifacts and events, by the API."""

import os
import signal
import subprocess
import time
import urllib.error
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

import psutil

from flows.server.client import AUTH
from tests.command import IMAGEN
from tests.conftest import free_port
from tests.servers.prefect_api import flow_filter, request

BUSY_SECONDS = (1, 2, 4, 8, 16, 16)  # between requests, while the server starts again or SQLite has too many writers
WAIT_SECONDS = 600
ENDED = {"COMPLETED", "FAILED", "CRASHED", "CANCELLED"}
ENGINE_WORKER = "spawn_main"  # in the command of its process

Answer = TypeVar("Answer")
Run = dict[str, Any]


class Platform:
    """A platform that runs, and can be ended and started again.

    Args:
        words: the command's, after `imagen up`
        environment: variables besides those of this process
        imagen: path of the command
    """

    def __init__(self, words: Sequence[str], environment: Mapping[str, str], imagen: str = IMAGEN) -> None:
        self.port = free_port()
        self.command = [imagen, "up", *words, "--port", str(self.port)]
        self.environment = {**os.environ, **environment}
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        """Start the command and wait for the line that says where its pages are."""
        self.process = subprocess.Popen(
            self.command, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert f"{self.url} shows what runs" in line, line + self.process.stdout.read()

    def stop(self) -> None:
        """Press Ctrl-C, and wait for the good end."""
        self.process.send_signal(signal.SIGINT)
        output, _ = self.process.communicate(timeout=120)
        assert self.process.returncode == 0, output
        assert "stopped" in output

    def api(self, path: str, body: dict[str, Any] | None = None, method: str = "POST") -> Any:
        """The answer of a route."""
        for seconds in BUSY_SECONDS:
            try:
                return request(f"{self.url}/api/{path}", body, self.environment.get(AUTH), method)
            except urllib.error.HTTPError as error:
                if error.code != 503:
                    raise
                time.sleep(seconds)
            except OSError:
                time.sleep(seconds)
        raise AssertionError(f"{path} is unavailable")

    def names(self, kind: str) -> dict[str, dict[str, Any]]:
        """All deployments, automations, work_pools or flows by their names."""
        return {item["name"]: item for item in self.api(f"{kind}/filter")}

    def start_run(self, deployment: str, **parameters: Any) -> str:
        """Start a run as the form of its deployment does; its id."""
        id = self.names("deployments")[deployment]["id"]
        return str(self.api(f"deployments/{id}/create_flow_run", {"parameters": parameters})["id"])

    def runs(self, flow: str) -> list[Run]:
        """The runs of a flow that ended or run, without those that a schedule of the platform started."""
        runs = self.api("flow_runs/filter", flow_filter(flow))
        return [run for run in runs if run["state_type"] != "SCHEDULED" and not run["auto_scheduled"]]

    def wait_for(self, what: str, find: Callable[[], Answer], seconds: float = WAIT_SECONDS) -> Answer:
        """The first answer that is true."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            assert self.process.poll() is None, self.process.communicate()
            if answer := find():
                return answer
            time.sleep(0.25)
        raise AssertionError(f"{what}: waited {seconds} s for it; runs: {self.api('flow_runs/filter')}")

    def wait_for_run(self, id: str, seconds: float = WAIT_SECONDS) -> Run:
        """A run once it has ended."""

        def ended() -> Run | None:
            run: Run = self.api(f"flow_runs/{id}", method="GET")
            return run if run["state_type"] in ENDED else None

        run = self.wait_for(f"the end of run {id}", ended, seconds)
        assert run is not None
        return run

    def wait_for_run_of(self, flow: str) -> Run:
        """The first run of a flow, once it has ended."""
        run = self.wait_for(f"a run of {flow}", lambda: next(iter(self.runs(flow)), None))
        assert run is not None
        return self.wait_for_run(run["id"])

    def wait_for_stage(self, stage: str, run: str) -> None:
        """Wait until a stage of a build has begun, and its workers work."""
        body = {"flow_runs": {"name": {"any_": [stage]}, "parent_flow_run_id": {"any_": [run]}}}

        def works() -> bool:
            running = [stage for stage in self.api("flow_runs/filter", body) if stage["state_type"] == "RUNNING"]
            return bool(running and self.engine_workers(run))

        self.wait_for(f"stage {stage} of run {run}", works)

    def cancel(self, run: str) -> None:
        self.api(f"flow_runs/{run}/set_state", {"state": {"type": "CANCELLING"}})

    def events(self, count: int, seconds: float = 20) -> list[dict[str, Any]]:
        """The product's events in order, once `count` of them have arrived or the time is over."""
        body = {"filter": {"event": {"prefix": ["imagen."]}, "order": "ASC"}}
        end = time.monotonic() + seconds
        while len(events := self.api("events/filter", body)["events"]) < count and time.monotonic() < end:
            time.sleep(0.5)
        return list(events)

    def child(self, word: str) -> psutil.Process:
        """The child of the command that has a word in its own command."""
        (child,) = (child for child in psutil.Process(self.process.pid).children() if word in child.cmdline())
        return child

    def engine_workers(self, run: str) -> list[int]:
        """The ids of the processes that work for a build."""
        workers = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            with suppress(psutil.Error):
                of_run = process.environ().get("PREFECT__FLOW_RUN_ID") == run
                if of_run and ENGINE_WORKER in " ".join(process.cmdline()):
                    workers.append(process.pid)
        return workers


@contextmanager
def running_platform(
    words: Sequence[str], environment: Mapping[str, str] | None = None, imagen: str = IMAGEN
) -> Iterator[Platform]:
    """A platform from the line that says where it is to Ctrl-C."""
    platform = Platform(words, environment or {}, imagen)
    try:
        yield platform
    finally:
        assert platform.process.poll() is None, platform.process.communicate()
        platform.stop()
