"""Limits of a worker that fetches: concurrent requests, request rate and back-off per host, and memory for bodies."""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

MAX_HOSTS = 4096  # hosts whose state is kept; if there are more, idle hosts are dropped


class HostBackoff(Exception):
    """The host asked for a pause in requests. `status` is the fetch status of the response that asked for it."""

    def __init__(self, seconds: float, status: str) -> None:
        super().__init__(f"not requested: the host asked to wait {seconds:.0f} s more")
        self.seconds, self.status = seconds, status


class _HostState:
    def __init__(self, concurrency: int) -> None:
        self.slots = asyncio.Semaphore(concurrency)
        self.users = 0
        self.next_request_at = 0.0
        self.backoff_until = 0.0
        self.status = ""

    def check(self) -> None:
        """Raise `HostBackoff` if the host asked for a pause that is not over yet."""
        seconds_left = self.backoff_until - time.monotonic()
        if seconds_left > 0:
            raise HostBackoff(seconds_left, self.status)


class HostLimits:
    """Limits the requests to each host: concurrent requests, and requests per second (evenly spaced).

    During a back-off, no request is sent to the host.

    Args:
        concurrency: concurrent requests to one host.
        per_second: requests per second to one host.
    """

    def __init__(self, concurrency: int, per_second: float) -> None:
        self._concurrency = concurrency
        self._interval = 1 / per_second
        self._hosts: dict[str, _HostState] = {}

    @asynccontextmanager
    async def slot(self, name: str) -> AsyncIterator[None]:
        """Wait until a request to the host may start. Send the request inside the block.

        Raises:
            HostBackoff: the host asked for a pause. Requests that already wait for the host raise it immediately too.
        """
        host = self._host(name)
        host.users += 1
        try:
            host.check()
            async with host.slots:
                host.check()
                await self._wait_for_rate(host)
                host.check()
                yield
        finally:
            host.users -= 1

    def back_off(self, name: str, seconds: float, status: str) -> None:
        """Send no requests to a host for some seconds. During this time, requests fail with the host's `status`."""
        host = self._host(name)
        host.backoff_until, host.status = max(host.backoff_until, time.monotonic() + seconds), status

    def _host(self, name: str) -> _HostState:
        if name not in self._hosts:
            self._drop_idle_hosts()
            self._hosts[name] = _HostState(self._concurrency)
        return self._hosts[name]

    async def _wait_for_rate(self, host: _HostState) -> None:
        now = time.monotonic()
        start = max(host.next_request_at, now)
        host.next_request_at = start + self._interval
        if start - now > 0.005:  # a shorter sleep costs more than it is worth; the mean rate is right without it
            await asyncio.sleep(start - now)

    def _drop_idle_hosts(self) -> None:
        if len(self._hosts) < MAX_HOSTS:
            return
        now = time.monotonic()
        self._hosts = {
            name: host
            for name, host in self._hosts.items()
            if host.users or max(host.next_request_at, host.backoff_until) > now
        }


class MemoryBudget:
    """Limits the memory of all response bodies together. A body that would exceed the limit waits for its turn."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def acquire(self, size: int) -> None:
        """Take `size` bytes of the budget. Waits until they are free."""
        if not self._waiting and size <= self._free:
            self._free -= size
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.release(size)
            else:
                self._waiting.remove((size, granted))
                self._grant_waiting()
            raise

    def release(self, size: int) -> None:
        """Give bytes back to the budget."""
        self._free += size
        self._grant_waiting()

    def _grant_waiting(self) -> None:
        while self._waiting and (self._waiting[0][1].cancelled() or self._waiting[0][0] <= self._free):
            size, granted = self._waiting.popleft()
            if not granted.cancelled():
                self._free -= size
                granted.set_result(None)


class Reservation:
    """One body's part of a `MemoryBudget`: nothing while the body is small, then its largest possible size."""

    def __init__(self, budget: MemoryBudget) -> None:
        self._budget = budget
        self._reserved = 0

    async def reserve(self, size: int) -> None:
        """Reserve the whole size on the first call. Later calls do nothing.

        If two bodies each reserved a part and waited for the rest, they could block each other forever.
        """
        if not self._reserved:
            size = min(size, self._budget.size)
            await self._budget.acquire(size)
            self._reserved = size

    def release(self) -> None:
        """Give the reserved bytes back."""
        if self._reserved:
            self._budget.release(self._reserved)
            self._reserved = 0
