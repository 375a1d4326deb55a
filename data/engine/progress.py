"""Progress of stages: the code that runs a stage reports planned and finished rows to the current watcher."""

from contextvars import ContextVar
from typing import Protocol


class Watcher(Protocol):
    """Receives the number of rows that a stage has planned, and the number of each part that is done."""

    def planned(self, stage: str, rows: int) -> None:
        """Called when a stage has planned `rows` more rows."""

    def done(self, stage: str, rows: int, note: str = "") -> None:
        """Called when a stage has finished `rows` more rows. `note` is shown next to the count."""


class SilentWatcher:
    """The default watcher, which shows nothing."""

    def planned(self, stage: str, rows: int) -> None:
        pass

    def done(self, stage: str, rows: int, note: str = "") -> None:
        pass


watcher: ContextVar[Watcher] = ContextVar("watcher", default=SilentWatcher())  # noqa: B039 - it has no state
