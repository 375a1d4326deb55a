"""The local engine: a pool of warm worker processes on this machine."""

import atexit
import os
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import connection, get_context, parent_process

from data.engine.pool import EngineKilled, Item, PoolEngine, Result, configure_worker


class LocalEngine(PoolEngine):
    """A pool of processes on this machine, started at the first shard and kept until closed."""

    def __init__(
        self, workers: int | None = None, threads: int | None = None, stall_timeout: float | None = None
    ) -> None:
        self.workers = workers or os.cpu_count() or 1
        self.stall_timeout = stall_timeout
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
                raise EngineKilled(f"the engine was ended before {item}")
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


def _warm_up(workers: int, threads: int, told: connection.Connection) -> None:
    """Share the cores, and die when told to, or with the process that started us, however it dies."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that started us
    atexit.register(os._exit, 0)  # finalizing the interpreter races with Arrow's threads, and aborts
    configure_worker(workers, threads)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_die_with, args=(parent.sentinel, told), daemon=True).start()


def _die_with(sentinel: int, told: connection.Connection) -> None:
    connection.wait([sentinel, told])
    os._exit(1)
