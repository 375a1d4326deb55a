"""The `map` of plan, map, commit: shards go to warm workers that load each model once. Knows no Prefect."""

import atexit
import os
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from typing import Protocol, TypeVar

from data.environment import read_settings
from data.errors import EngineNotThere, WorkerDied

Item = TypeVar("Item")
Result = TypeVar("Result")

DEATHS_ALLOWED = 3  # of a worker on the same shard: a picture that kills a worker must not stop the night
BESIDE = "IMAGEN_WORKERS_BESIDE"  # set by an engine for its workers
STALLS_ALLOWED = 1  # of a map: what hangs is tried once more
AHEAD = 1  # shards waiting beyond those in work, so that no worker idles


class Engine(Protocol):
    """What runs shards: bounded in flight, results in the order of completion."""

    workers: int

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]: ...

    def close(self) -> None: ...

    def kill(self) -> None: ...


class Killed(RuntimeError):
    """The engine was told to end amid its shards."""


class PoolEngine(AbstractContextManager["PoolEngine"], ABC):
    """What the engines have in common: what a worker had in hand when it died, or hung, runs again in another."""

    workers: int
    patience: float | None  # seconds in which some item must be done, of all that are mapped at once
    _done_at: float

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Run `work` on every item."""
        waiting, self._done_at = iter(items), time.monotonic()
        deaths: dict[int, int] = {}
        stalls = 0
        running: dict[Future[Result], Item] = {}
        try:
            while True:
                for item in islice(waiting, self.workers + AHEAD - len(running)):
                    running[self._submit(work, item)] = item
                if not running:
                    return
                done = self._done_of(running)
                stalls += not done
                if stalls > STALLS_ALLOWED:
                    raise WorkerDied(
                        f"nothing was done in {self.patience:g} seconds, {stalls} times, with "
                        f"{next(iter(running.values()))} in hand: IMAGEN_SHARD_MINUTES is how long it may take"
                    )
                for future in done:
                    item = running.pop(future)
                    try:
                        result = future.result()
                    except BrokenExecutor:
                        if self.killed:
                            raise Killed(f"the engine was ended amid {item}") from None
                        deaths[id(item)] = deaths.get(id(item), 0) + 1
                        if deaths[id(item)] > DEATHS_ALLOWED:
                            raise WorkerDied(
                                f"a worker died {DEATHS_ALLOWED + 1} times on {item}: out of memory? "
                                "Lower shard_rows or the number of workers"
                            ) from None
                        running[self._submit(work, item)] = item
                    else:
                        yield result
        finally:
            for future in running:
                future.cancel()

    def _done_of(self, running: Collection["Future[Result]"]) -> "set[Future[Result]]":
        """As soon as there are some; none where nothing got done for too long, after the workers are ended."""
        while True:
            done, _ = wait(running, self.patience, FIRST_COMPLETED)
            if not done and time.monotonic() - self._done_at < (self.patience or 0):
                continue  # in another thread's map
            self._done_at = time.monotonic()
            if not done:
                self._end_workers()
            return done

    @property
    @abstractmethod
    def killed(self) -> bool: ...

    @abstractmethod
    def close(self) -> None: ...

    @abstractmethod
    def kill(self) -> None:
        """End the workers amid their shards, which nobody commits. Whoever waits for one is told."""

    @abstractmethod
    def _end_workers(self) -> None:
        """Amid what they do, however they hang; others take their places."""

    @abstractmethod
    def _submit(self, work: Callable[[Item], Result], item: Item) -> "Future[Result]":
        """Have a worker do it; the future holds a BrokenExecutor if the worker died."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):  # such as Ctrl-C
            self.kill()
        self.close()


class LocalEngine(PoolEngine):
    """A pool of processes on this machine, started at the first shard and kept until closed."""

    def __init__(self, workers: int | None = None, threads: int | None = None, patience: float | None = None) -> None:
        self.workers = workers or os.cpu_count() or 1
        self.patience = patience
        self.threads = threads or max(1, (os.cpu_count() or 1) // self.workers)  # of each
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()
        self._heard, self._told = get_context("spawn").Pipe(duplex=False)  # workers end when it is closed

    @property
    def killed(self) -> bool:
        return self._told.closed

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def kill(self) -> None:
        self._told.close()
        self._end_workers()

    def _end_workers(self) -> None:
        with self._lock:
            processes = list(self._pool._processes.values()) if self._pool else []  # kill_workers() from Python 3.14 on
        for process in processes:
            process.kill()

    def _submit(self, work: Callable[[Item], Result], item: Item) -> "Future[Result]":
        with self._lock:
            if self.killed:
                raise Killed(f"the engine was ended before {item}")
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    self.workers,
                    mp_context=get_context("spawn"),
                    initializer=_warm_up,
                    initargs=(self.workers, self.threads, self._heard),
                )
            pool = self._pool
        try:
            return pool.submit(work, item)
        except BrokenProcessPool:  # one of its workers died, and the others with it: make another pool
            self._discard(pool)
            return self._submit(work, item)

    def _discard(self, pool: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._pool is pool:
                self._pool = None
        pool.shutdown(wait=False, cancel_futures=True)


def open_engine(workers: int | None = None, threads: int | None = None) -> PoolEngine:
    """The engine that the environment asks for, with so many workers, of so many threads each."""
    said = read_settings()
    workers, patience = workers or said.workers, 60 * said.shard_minutes
    if said.engine == "local":
        return LocalEngine(workers, threads, patience)
    try:
        from data.engine.ray import RayEngine
    except ImportError:
        raise EngineNotThere("the engine ray needs its package: pip install 'imagen[ray]'") from None
    return RayEngine(workers, threads, patience, said.worker_cpus, said.worker_gpus)


def workers_beside() -> int:
    """How many workers there are, the one that asks included: what a site bears is shared by them."""
    return int(os.environ.get(BESIDE, "1"))


def share(workers: int, threads: int) -> None:
    """Be one of so many workers, and keep quiet."""
    os.environ[BESIDE] = str(workers)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # img2dataset's dependency would ask the internet


def _warm_up(workers: int, threads: int, told: connection.Connection) -> None:
    """Share the cores, and die when told to, or with the process that started us, however it dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started us
    atexit.register(os._exit, 0)  # finalizing the interpreter races with Arrow's threads, and aborts
    share(workers, threads)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.sentinel, told), daemon=True).start()


def _die_with(sentinel: int, told: connection.Connection) -> None:
    connection.wait([sentinel, told])
    os._exit(1)
