"""Engines that run shards in the process of the test, one after the other."""

from collections.abc import Callable, Iterable, Iterator

from data.engine.pool import Item, Result


class InProcessEngine:
    """Runs each item when its result is asked for. Needs no closing."""

    workers = 1

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        return map(work, items)

    def close(self) -> None:
        pass

    def kill(self) -> None:
        pass


class EngineKilledAfterOneShard(InProcessEngine):
    """Raises KeyboardInterrupt, as Ctrl-C does, when its second shard is done and not committed."""

    def __init__(self) -> None:
        self.remaining = 1

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        for result in super().map(work, items):
            if not self.remaining:
                raise KeyboardInterrupt
            self.remaining -= 1
            yield result
