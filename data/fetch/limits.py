"""What bounds a worker that fetches: requests at once and a second to one host, rests that hosts ask for, and memory
for bodies in flight.
"""

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

REMEMBERED = 4096  # hosts; those that nobody asks are forgotten beyond it


class Resting(Exception):
    """It is nobody's turn: the host has said when it may be asked again."""

    def __init__(self, seconds: float, status: str) -> None:
        super().__init__(f"not asked, as it wants to be left alone for {seconds:.0f} s more")
        self.seconds, self.status = seconds, status


class _Host:
    def __init__(self, at_once: int) -> None:
        self.slots = asyncio.Semaphore(at_once)
        self.users = 0
        self.next_at = 0.0
        self.rests_until = 0.0
        self.status = ""

    def check(self) -> None:
        left = self.rests_until - time.monotonic()
        if left > 0:
            raise Resting(left, self.status)


class Turns:
    """Whose turn it is to ask a host: so many requests at once, so many a second, evenly spaced, none while it rests.

    A host that rests is noticed on every step of the queue, so that those who wait in it leave at once.
    """

    def __init__(self, at_once: int, per_second: float) -> None:
        self._at_once = at_once
        self._interval = 1 / per_second
        self._hosts: dict[str, _Host] = {}

    @asynccontextmanager
    async def turn(self, name: str) -> AsyncIterator[None]:
        host = self._host(name)
        host.users += 1
        try:
            host.check()
            async with host.slots:
                host.check()
                await self._space(host)
                host.check()
                yield
        finally:
            host.users -= 1

    def rest(self, name: str, seconds: float, status: str) -> None:
        """Leave a host alone; `status` is what it said, for those who come meanwhile."""
        host = self._host(name)
        host.rests_until, host.status = max(host.rests_until, time.monotonic() + seconds), status

    def _host(self, name: str) -> _Host:
        if name not in self._hosts:
            self._forget()
            self._hosts[name] = _Host(self._at_once)
        return self._hosts[name]

    async def _space(self, host: _Host) -> None:
        now = time.monotonic()
        at = max(host.next_at, now)
        host.next_at = at + self._interval
        if at - now > 0.005:  # a shorter sleep costs more than it spaces; the mean rate holds all the same
            await asyncio.sleep(at - now)

    def _forget(self) -> None:
        if len(self._hosts) < REMEMBERED:
            return
        now = time.monotonic()
        self._hosts = {
            name: host for name, host in self._hosts.items() if host.users or max(host.next_at, host.rests_until) > now
        }


class Memory:
    """Bytes that bodies in flight may take together; whoever would exceed them waits, first come first served."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._free = size
        self._waiting: deque[tuple[int, asyncio.Future[None]]] = deque()

    async def take(self, size: int) -> None:
        if not self._waiting and size <= self._free:
            self._free -= size
            return
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((size, granted))
        try:
            await granted
        except asyncio.CancelledError:
            if granted.done() and not granted.cancelled():
                self.give(size)
            else:
                self._waiting.remove((size, granted))
                self._serve()
            raise

    def give(self, size: int) -> None:
        self._free += size
        self._serve()

    def _serve(self) -> None:
        while self._waiting and (self._waiting[0][1].cancelled() or self._waiting[0][0] <= self._free):
            size, granted = self._waiting.popleft()
            if not granted.cancelled():
                self._free -= size
                granted.set_result(None)


class Share:
    """One body's part of the memory: none while it is small, all that it may need once it is not."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._held = 0

    async def hold(self, size: int) -> None:
        """Ask once for all that may be needed: two bodies that each wait for the other's rest would wait for ever."""
        if not self._held:
            size = min(size, self._memory.size)
            await self._memory.take(size)
            self._held = size

    def release(self) -> None:
        if self._held:
            self._memory.give(self._held)
            self._held = 0
