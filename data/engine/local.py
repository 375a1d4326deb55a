"""The local engine: a pool of long-lived worker processes on this machine."""

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
    """A pool of worker processes on this machine. They start with the first shard and stay until `close`.

    Args:
        workers: Number of processes; by default one per core.
        threads: Threads per process; by default the cores divided by the workers.
        stall_timeout: Seconds within which at least one shard must finish. Otherwise the workers are killed. By
            default there is no limit.
    """

    def __init__(
        self, workers: int | None = None, threads: int | None = None, stall_timeout: float | None = None
    ) -> None:
        self.workers = workers or os.cpu_count() or 1
        self.stall_timeout = stall_timeout
        self.threads = threads or max(1, (os.cpu_count() or 1) // self.workers)
        self._pool: ProcessPoolExecutor | None = None
        self._lock = threading.Lock()
        # Workers exit when this process closes its end of the pipe.
        self._worker_end, self._engine_end = get_context("spawn").Pipe(duplex=False)

    @property
    def killed(self) -> bool:
        """Whether `kill` was called."""
        return self._engine_end.closed

    def close(self) -> None:
        """Wait for the running shards, then end the processes."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def kill(self) -> None:
        """Kill the processes immediately."""
        self._engine_end.close()
        self._kill_workers()

    def _kill_workers(self) -> None:
        with self._lock:
            processes = list(self._pool._processes.values()) if self._pool else []  # kill_workers() from Python 3.14 on
        for process in processes:
            process.kill()

    def _submit(self, work: Callable[[Item], Result], item: Item) -> "Future[Result]":
        with self._lock:
            if self.killed:
                raise EngineKilled(f"the engine was killed before it ran {item}")
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    self.workers,
                    mp_context=get_context("spawn"),
                    initializer=_initialize_worker,
                    initargs=(self.workers, self.threads, self._worker_end),
                )
            pool = self._pool
        try:
            return pool.submit(work, item)
        except BrokenProcessPool:  # a worker died, which ends the whole pool: start another one
            self._discard(pool)
            return self._submit(work, item)

    def _discard(self, pool: ProcessPoolExecutor) -> None:
        with self._lock:
            if self._pool is pool:
                self._pool = None
        pool.shutdown(wait=False, cancel_futures=True)


def _initialize_worker(workers: int, threads: int, worker_end: connection.Connection) -> None:
    """Set up a worker process. It exits when the engine closes the pipe, or when its parent process dies in any way."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent process
    atexit.register(os._exit, 0)  # skip the interpreter's finalization, which races with Arrow's threads and aborts
    configure_worker(workers, threads)
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_exit_with, args=(parent.sentinel, worker_end), daemon=True).start()


def _exit_with(parent: int, worker_end: connection.Connection) -> None:
    connection.wait([parent, worker_end])
    os._exit(1)
