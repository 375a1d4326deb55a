"""An engine that runs shards in this very process."""

from collections.abc import Callable, Iterable, Iterator

from data.engine.pool import Item, Result


class InProcessEngine:
    workers = 1

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        return map(work, items)

    def close(self) -> None:
        pass

    def kill(self) -> None:
        pass


class KilledAfterOneShardEngine(InProcessEngine):
    """Is killed when its second shard is done, before that is committed."""

    def __init__(self) -> None:
        self.left = 1

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        for result in super().map(work, items):
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            yield result
