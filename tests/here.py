"""An engine that runs shards in this very process."""

from collections.abc import Callable, Iterable, Iterator

from data.engine import Item, Result


class Here:
    workers = 1

    def map(self, work: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        return map(work, items)

    def close(self) -> None:
        pass
