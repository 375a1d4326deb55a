"""The `map` step of plan, map, commit: sends shards to long-lived workers, each of which loads a model only once.

It does not depend on Prefect.
"""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Future, wait
from contextlib import AbstractContextManager
from itertools import islice
from typing import Protocol, TypeVar

from data.errors import WorkerDied

Item = TypeVar("Item")
Result = TypeVar("Result")

DEATHS_ALLOWED = 3  # worker deaths on one item before the map fails, so that a fatal item is not retried forever
STALLS_ALLOWED = 1  # timeouts of a map before it fails: items that hang are retried once
WORKERS_VARIABLE = "IMAGEN_WORKERS_BESIDE"  # set by an engine in the environment of its workers
QUEUED_ITEMS = 1  # items that wait in addition to the running ones, so that no worker idles


class Engine(Protocol):
    """Runs work on items in parallel, with a bounded number of items in flight."""

    workers: int

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield `work(item)` for every item, in the order of completion."""

    def close(self) -> None:
        """Wait for the workers and end them."""

    def kill(self) -> None:
        """End the workers immediately, in the middle of their items."""


class EngineKilled(RuntimeError):
    """The engine was killed while it had items to run."""


class PoolEngine(AbstractContextManager["PoolEngine"], ABC):
    """An engine with a pool of workers. If a worker dies or hangs, another worker retries its item.

    Leaving a `with` block closes the engine. If Ctrl-C ends the block, the engine is killed.
    """

    workers: int
    stall_timeout: float | None  # seconds within which an item of any running map must finish
    _last_done: float

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Yield `work(item)` for every item, in the order of completion.

        Args:
            work: A function that can be pickled. Its exceptions are raised here.

        Raises:
            WorkerDied: A worker died or hung repeatedly on the same item.
            EngineKilled: The engine was killed during the map.
        """
        waiting, self._last_done = iter(items), time.monotonic()
        deaths: dict[int, int] = {}
        stalls = 0
        running: dict[Future[Result], Item] = {}
        try:
            while True:
                for item in islice(waiting, self.workers + QUEUED_ITEMS - len(running)):
                    running[self._submit(work, item)] = item
                if not running:
                    return
                done = self._wait_for_done(running)
                stalls += not done
                if stalls > STALLS_ALLOWED:
                    raise WorkerDied(
                        f"nothing finished in {self.stall_timeout:g} seconds, {stalls} times; "
                        f"{next(iter(running.values()))} was running. Raise IMAGEN_SHARD_MINUTES if it needs longer"
                    )
                for future in done:
                    item = running.pop(future)
                    try:
                        result = future.result()
                    except BrokenExecutor:
                        if self.killed:
                            raise EngineKilled(f"the engine was killed while it ran {item}") from None
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

    def _wait_for_done(self, running: Collection["Future[Result]"]) -> "set[Future[Result]]":
        """Wait until at least one future is done. After a stall, kill the workers and return an empty set."""
        while True:
            done, _ = wait(running, self.stall_timeout, FIRST_COMPLETED)
            if not done and time.monotonic() - self._last_done < (self.stall_timeout or 0):
                continue  # an item of another thread's map finished meanwhile
            self._last_done = time.monotonic()
            if not done:
                self._kill_workers()
            return done

    @property
    @abstractmethod
    def killed(self) -> bool:
        """Whether `kill` was called."""

    @abstractmethod
    def close(self) -> None:
        """Wait for the workers and end them."""

    @abstractmethod
    def kill(self) -> None:
        """End the workers immediately. Their shards are not committed, and a running `map` raises EngineKilled."""

    @abstractmethod
    def _kill_workers(self) -> None:
        """Kill the workers, including those that hang. New workers replace them."""

    @abstractmethod
    def _submit(self, work: Callable[[Item], Result], item: Item) -> "Future[Result]":
        """Give an item to a worker. If the worker dies, the future raises a BrokenExecutor."""

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is not None and not issubclass(kind, Exception):  # such as Ctrl-C
            self.kill()
        self.close()


def worker_count() -> int:
    """Return the number of workers of the engine that runs this process, or 1 outside an engine.

    Limits per site are divided by this number.
    """
    return int(os.environ.get(WORKERS_VARIABLE, "1"))


def configure_worker(workers: int, threads: int) -> None:
    """Set the environment of a worker process: number of workers, number of threads, no update checks by libraries."""
    os.environ[WORKERS_VARIABLE] = str(workers)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # a dependency of img2dataset would access the internet
