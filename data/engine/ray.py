"""The engine for several machines. Its workers are actors in a Ray cluster.

The cluster is at RAY_ADDRESS, or is started on this machine. In this process, one thread per actor gives it shards, and
takes a shard only when the actor is running. When a node is lost, its actors are restarted on other nodes. If
resources are not free, they wait for minutes if needed, while the other actors do the work.
"""

import os
import queue
import signal
import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Future
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError, RayTaskError

from data.engine.pool import EngineKilled, Item, PoolEngine, Result, configure_worker
from data.errors import EngineUnavailable

CAPACITY_SECONDS = 600.0  # to start an actor: an autoscaling cluster adds nodes during this time
CONNECT_SECONDS = 10.0
START_TRIES = 3  # to start an actor, in a row
IDLE_SECONDS = 1.0  # an actor that was idle for longer is checked before it gets a shard


class Worker:
    """An actor on a node. Its process lives as long as the engine, and keeps the models that stages have loaded."""

    def __init__(self, workers: int, threads: int) -> None:
        configure_worker(workers, threads)

    def ready(self) -> None:
        """Do nothing: the response shows that the actor runs."""

    def do(self, work: Callable[[Item], Result], item: Item) -> Result:
        return work(item)


Actor: Any = ray.remote(Worker)


@dataclass
class Job:
    """An item that waits for an actor, and the future of its result."""

    work: Callable[[Any], Any]
    item: Any
    future: "Future[Any]"


class RayEngine(PoolEngine):
    """A pool of Ray actors. They start with the first shard and stay until `close`.

    Args:
        workers: Number of actors; by default as many as the cluster has resources for.
        threads: Threads per actor; by default the number of cores that it reserves.
        stall_timeout: Seconds within which at least one shard must finish. Otherwise the actors are killed. By default
            there is no limit.
        cpus: Cores that each actor reserves.
        gpus: GPUs that each actor reserves. With a fraction, several actors share one GPU.

    Raises:
        EngineUnavailable: The cluster does not answer, or Ray does not start.
    """

    def __init__(
        self,
        workers: int | None = None,
        threads: int | None = None,
        stall_timeout: float | None = None,
        cpus: float = 1,
        gpus: float = 0,
    ) -> None:
        self.connected = connect()
        self.stall_timeout = stall_timeout
        self.cpus, self.gpus = cpus, gpus
        self.workers = workers or _cluster_capacity(cpus, gpus)
        self.threads = threads or max(1, int(cpus))
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._actors: set[Any] = set()
        self._threads: list[threading.Thread] = []  # one per actor
        self._killed = threading.Event()
        self._lock = threading.Lock()
        self._failure: str | None = None  # why the last thread ended

    @property
    def killed(self) -> bool:
        """Whether `kill` was called."""
        return self._killed.is_set()

    def close(self) -> None:
        """Kill the actors, and disconnect from the cluster if this engine connected to it."""
        self.kill()
        for thread in self._threads:
            thread.join()
        if self.connected:
            ray.shutdown()
            self.connected = False

    def kill(self) -> None:
        """Kill the actors immediately."""
        self._killed.set()
        self._kill_workers()
        self._jobs.put(None)

    def _kill_workers(self) -> None:
        with self._lock:
            for actor in self._actors:
                ray.kill(actor)

    def _submit(self, work: Callable[[Item], Result], item: Item) -> "Future[Result]":
        future: Future[Result] = Future()
        with self._lock:
            if self.killed:
                raise EngineKilled(f"the engine was killed before it ran {item}")
            if self._failure is not None:
                raise EngineUnavailable(self._failure)
            self._jobs.put(Job(work, item, future))
            if not self._threads:
                self._threads = [threading.Thread(target=self._serve_actor, daemon=True) for _ in range(self.workers)]
                for thread in self._threads:
                    thread.start()
        return future

    def _serve_actor(self) -> None:
        """Start an actor and run jobs in it. If the actor is lost, start another one."""
        failures, error_text = 0, ""
        while failures < START_TRIES and not self.killed:
            with self._lock:
                if self.killed:
                    break
                actor = Actor.options(num_cpus=self.cpus, num_gpus=self.gpus).remote(self.workers, self.threads)
                self._actors.add(actor)
            try:
                ray.get(actor.ready.remote(), timeout=CAPACITY_SECONDS)
                failures = 0
                self._run_jobs(actor)
            except GetTimeoutError:
                failures, error_text = START_TRIES, f"no node has {self.cpus:g} cores and {self.gpus:g} GPUs free"
            except RayError as error:  # its node was lost, or it can't be started there
                failures, error_text = failures + 1, str(error)
            finally:
                with self._lock:
                    self._actors.discard(actor)
                ray.kill(actor)
        self._end_thread(error_text)

    def _run_jobs(self, actor: Any) -> None:
        """Run jobs in an actor until the engine ends. Raises only errors of the actor itself, not of its jobs."""
        last_used = time.monotonic()
        while job := self._jobs.get():
            try:
                if time.monotonic() - last_used > IDLE_SECONDS:
                    ray.get(actor.ready.remote())
            except RayError:
                self._jobs.put(job)
                raise
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                job.future.set_result(ray.get(actor.do.remote(job.work, job.item)))
            except RayTaskError as error:
                job.future.set_exception(error.cause)
            except RayError as error:
                job.future.set_exception(BrokenExecutor(str(error)))
                raise
            last_used = time.monotonic()

    def _end_thread(self, error_text: str) -> None:
        """End the current thread. The last thread makes all waiting jobs fail, since no actor is left to run them."""
        with self._lock:
            self._threads = [thread for thread in self._threads if thread is not threading.current_thread()]
            if self._threads and not self.killed:
                return
            if not self.killed:
                self._failure = f"the Ray cluster starts no worker: {error_text}. It has: {_cluster_resources()}"
            while not self._jobs.empty():
                job = self._jobs.get()
                if job and job.future.set_running_or_notify_cancel():
                    job.future.set_exception(EngineUnavailable(self._failure) if self._failure else BrokenExecutor())
            self._jobs.put(None)  # wakes a thread that still waits for a job


def connect() -> bool:
    """Connect this process to the cluster. Returns False if it was connected already.

    Raises:
        EngineUnavailable: The cluster does not answer, or Ray does not start.
    """
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _check_address(os.environ.get("RAY_ADDRESS", "").removeprefix("ray://"))
    in_main_thread = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level="warning")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise EngineUnavailable(f"Ray does not start: {error}") from None
    if in_main_thread:
        signal.signal(signal.SIGTERM, handler)  # Ray's handler would end the process at once
    return True


def _check_address(address: str) -> None:
    """Raise immediately if nothing listens at the address. Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            raise EngineUnavailable(f"no Ray cluster answers at RAY_ADDRESS={address}: {error}") from None


def _cluster_capacity(cpus: float, gpus: float) -> int:
    """Return the number of workers that fit in the cluster if each needs these resources. At least 1."""
    resources = ray.cluster_resources()
    limits = [resources.get("CPU", 0) / cpus]
    if gpus:
        limits.append(resources.get("GPU", 0) / gpus)
    return max(1, int(min(limits)))


def _cluster_resources() -> str:
    resources = ray.cluster_resources()
    return ", ".join(f"{resources[name]:g} {name}" for name in ("CPU", "GPU") if name in resources) or "nothing"
