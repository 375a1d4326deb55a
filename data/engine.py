"""The `map` of plan, map, commit: shards go to warm worker processes that load each model once. Knows no Prefect."""

import atexit
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager
from itertools import islice
from multiprocessing import connection, get_context, parent_process
from typing import Any, Protocol, TypeVar

from data.errors import WorkerDied

Item = TypeVar("Item")
Result = TypeVar("Result")

DEATHS_ALLOWED = 3  # of a worker on the same shard: a picture that kills a worker must not stop the night
AHEAD = 1  # shards waiting beyond those in work, so that no worker idles


class Engine(Protocol):
    """What runs shards: bounded in flight, results in the order of completion."""

    workers: int

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]: ...

    def close(self) -> None: ...

    def kill(self) -> None: ...


class Killed(RuntimeError):
    """The engine was told to end amid its shards."""


class LocalEngine(AbstractContextManager["LocalEngine"]):
    """A pool of processes on this machine, started at the first shard and kept until closed."""

    def __init__(self, workers: int | None = None, threads: int | None = None) -> None:
        self.workers = workers or os.cpu_count() or 1
        self.threads = threads or max(1, (os.cpu_count() or 1) // self.workers)  # of each
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()
        self._heard, self._told = get_context("spawn").Pipe(duplex=False)  # workers end when it is closed

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Run `work` on every item. A worker that dies takes down its pool: the lost items run again in a new one."""
        waiting = iter(items)
        deaths: dict[int, int] = {}
        running: dict[Future[Result], tuple[ProcessPoolExecutor, Item]] = {}
        try:
            while True:
                for item in islice(waiting, self.workers + AHEAD - len(running)):
                    self._submit(running, work, item)
                if not running:
                    return
                done, _ = wait(running, return_when=FIRST_COMPLETED)
                for future in done:
                    pool, item = running.pop(future)
                    try:
                        result = future.result()
                    except BrokenProcessPool:
                        if self._told.closed:
                            raise Killed(f"the engine was ended amid {item}") from None
                        self._discard(pool)
                        deaths[id(item)] = deaths.get(id(item), 0) + 1
                        if deaths[id(item)] > DEATHS_ALLOWED:
                            raise WorkerDied(
                                f"a worker died {DEATHS_ALLOWED + 1} times on {item}: out of memory? "
                                "Lower shard_rows or the number of workers"
                            ) from None
                        self._submit(running, work, item)
                    else:
                        yield result
        finally:
            for future in running:
                future.cancel()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def kill(self) -> None:
        """End the workers amid their shards, which nobody commits. Whoever waits for one is told."""
        self._told.close()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):  # such as Ctrl-C
            self.kill()
        self.close()

    def _submit(self, running: dict[Future[Result], Any], work: Callable[[Item], Result], item: Item) -> None:
        with self._lock:
            if self._told.closed:
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
            running[pool.submit(work, item)] = (pool, item)
        except BrokenProcessPool:
            self._discard(pool)
            self._submit(running, work, item)

    def _discard(self, pool: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._pool is pool:
                self._pool = None
        pool.shutdown(wait=False, cancel_futures=True)


def workers_beside() -> int:
    """How many workers share this machine with the one that asks, itself included."""
    return int(os.environ.get("IMAGEN_WORKERS", "1"))


def _warm_up(workers: int, threads: int, told: connection.Connection) -> None:
    """Share the cores, keep quiet, and die when told to, or with the process that started us, however it dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started us
    atexit.register(os._exit, 0)  # finalizing the interpreter races with Arrow's threads, and aborts
    os.environ["IMAGEN_WORKERS"] = str(workers)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # img2dataset's dependency would ask the internet
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.sentinel, told), daemon=True).start()


def _die_with(sentinel: int, told: connection.Connection) -> None:
    connection.wait([sentinel, told])
    os._exit(1)
