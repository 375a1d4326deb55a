"""The `map` of plan, map, commit: shards go to warm workers that load each model once. Knows no Prefect."""

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

DEATHS_ALLOWED = 3  # of a worker on the same shard: a picture that kills a worker must not stop the night
WORKERS_VARIABLE = "IMAGEN_WORKERS_BESIDE"  # set by an engine for its workers
STALLS_ALLOWED = 1  # of a map: what hangs is tried once more
QUEUED_ITEMS = 1  # shards waiting beyond those in work, so that no worker idles


class Engine(Protocol):
    """What runs shards: bounded in flight, results in the order of completion."""

    workers: int

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]: ...

    def close(self) -> None: ...

    def kill(self) -> None: ...


class EngineKilled(RuntimeError):
    """The engine was told to end amid its shards."""


class PoolEngine(AbstractContextManager["PoolEngine"], ABC):
    """What the engines have in common: what a worker had in hand when it died, or hung, runs again in another."""

    workers: int
    stall_timeout: float | None  # seconds in which some item must be done, of all that are mapped at once
    _last_done: float

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """Run `work` on every item."""
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
                        f"nothing was done in {self.stall_timeout:g} seconds, {stalls} times, with "
                        f"{next(iter(running.values()))} in hand: IMAGEN_SHARD_MINUTES is how long it may take"
                    )
                for future in done:
                    item = running.pop(future)
                    try:
                        result = future.result()
                    except BrokenExecutor:
                        if self.killed:
                            raise EngineKilled(f"the engine was ended amid {item}") from None
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
        """As soon as there are some; none where nothing got done for too long, after the workers are ended."""
        while True:
            done, _ = wait(running, self.stall_timeout, FIRST_COMPLETED)
            if not done and time.monotonic() - self._last_done < (self.stall_timeout or 0):
                continue  # in another thread's map
            self._last_done = time.monotonic()
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


def worker_count() -> int:
    """How many workers there are, the one that asks included: what a site bears is shared by them."""
    return int(os.environ.get(WORKERS_VARIABLE, "1"))


def configure_worker(workers: int, threads: int) -> None:
    """Be one of so many workers, and keep quiet."""
    os.environ[WORKERS_VARIABLE] = str(workers)
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")  # img2dataset's dependency would ask the internet
