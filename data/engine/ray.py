"""The engine for more than one machine: its workers are actors of a Ray cluster, at RAY_ADDRESS or one started here.

A thread of ours serves each actor, and takes a shard when its actor is there and not before. So where a node is lost,
its actors wait for room elsewhere, for minutes if need be, while the others do the work.
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

CAPACITY_SECONDS = 600.0  # for a cluster that grows by itself
CONNECT_SECONDS = 10.0
START_TRIES = 3  # to start an actor, in a row
IDLE_SECONDS = 1.0  # after which an actor is asked whether it is alive before it gets a shard


class Worker:
    """What runs on a node: keeps its process, and with it the models that stages have loaded."""

    def __init__(self, workers: int, threads: int) -> None:
        configure_worker(workers, threads)

    def ready(self) -> None:
        """Answering is enough."""

    def do(self, work: Callable[[Item], Result], item: Item) -> Result:
        return work(item)


Actor: Any = ray.remote(Worker)


@dataclass
class Job:
    work: Callable[[Any], Any]
    item: Any
    future: "Future[Any]"


class RayEngine(PoolEngine):
    """Actors, each of which takes its share of cores and GPUs; as many as there is room for, unless told otherwise."""

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
        self.workers = workers or _room(cpus, gpus)
        self.threads = threads or max(1, int(cpus))
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._actors: set[Any] = set()
        self._servants: list[threading.Thread] = []
        self._ended = threading.Event()
        self._lock = threading.Lock()
        self._useless: str | None = None  # why no servant is left

    @property
    def killed(self) -> bool:
        return self._ended.is_set()

    def close(self) -> None:
        self.kill()
        for servant in self._servants:
            servant.join()
        if self.connected:
            ray.shutdown()
            self.connected = False

    def kill(self) -> None:
        self._ended.set()
        self._end_workers()
        self._jobs.put(None)

    def _end_workers(self) -> None:
        with self._lock:
            for actor in self._actors:
                ray.kill(actor)

    def _submit(self, work: Callable[[Item], Result], item: Item) -> "Future[Result]":
        future: Future[Result] = Future()
        with self._lock:
            if self.killed:
                raise EngineKilled(f"the engine was ended before {item}")
            if self._useless is not None:
                raise EngineUnavailable(self._useless)
            self._jobs.put(Job(work, item, future))
            if not self._servants:
                self._servants = [threading.Thread(target=self._serve, daemon=True) for _ in range(self.workers)]
                for servant in self._servants:
                    servant.start()
        return future

    def _serve(self) -> None:
        """Have an actor, and another when that is lost, and give it what there is to do."""
        tries, why = 0, ""
        while tries < START_TRIES and not self.killed:
            with self._lock:
                if self.killed:
                    break
                actor = Actor.options(num_cpus=self.cpus, num_gpus=self.gpus).remote(self.workers, self.threads)
                self._actors.add(actor)
            try:
                ray.get(actor.ready.remote(), timeout=CAPACITY_SECONDS)
                tries = 0
                self._feed(actor)
            except GetTimeoutError:
                tries, why = START_TRIES, f"no node has room for a worker of {self.cpus:g} cores and {self.gpus:g} GPUs"
            except RayError as error:  # its node was lost, or it can't be started there
                tries, why = tries + 1, str(error)
            finally:
                with self._lock:
                    self._actors.discard(actor)
                ray.kill(actor)
        self._leave(why)

    def _feed(self, actor: Any) -> None:
        """Until the engine ends. Whatever goes wrong with the actor itself is raised."""
        since = time.monotonic()
        while job := self._jobs.get():
            try:
                if time.monotonic() - since > IDLE_SECONDS:
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
            since = time.monotonic()

    def _leave(self, why: str) -> None:
        """The last one tells those who wait that nobody will come."""
        with self._lock:
            self._servants = [one for one in self._servants if one is not threading.current_thread()]
            if self._servants and not self.killed:
                return
            if not self.killed:
                self._useless = f"the Ray cluster gives no worker: {why}. It has: {_resources()}"
            while not self._jobs.empty():
                job = self._jobs.get()
                if job and job.future.set_running_or_notify_cancel():
                    job.future.set_exception(EngineUnavailable(self._useless) if self._useless else BrokenExecutor())
            self._jobs.put(None)  # for whoever still waits


def connect() -> bool:
    """Be a driver of the cluster. Whether we were not before."""
    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    _knock(os.environ.get("RAY_ADDRESS", "").removeprefix("ray://"))
    here = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(log_to_driver=False, logging_level="warning")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise EngineUnavailable(f"Ray does not start: {error}") from None
    if here:
        signal.signal(signal.SIGTERM, before)  # Ray's would end the process at once, and flows are told by this signal
    return True


def _knock(address: str) -> None:
    """Ray itself would try for minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit():
        try:
            socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
        except OSError as error:
            raise EngineUnavailable(f"no Ray cluster answers at RAY_ADDRESS={address}: {error}") from None


def _room(cpus: float, gpus: float) -> int:
    there = ray.cluster_resources()
    rooms = [there.get("CPU", 0) / cpus, *([there.get("GPU", 0) / gpus] if gpus else [])]
    return max(1, int(min(rooms)))


def _resources() -> str:
    there = ray.cluster_resources()
    return ", ".join(f"{there[name]:g} {name}" for name in ("CPU", "GPU") if name in there) or "nothing"
