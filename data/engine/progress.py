"""Progress of stages: whoever runs them reports planned and finished rows to the current watcher."""

from contextvars import ContextVar
from typing import Protocol


class Watcher(Protocol):
    """Receives what each stage has planned, and each part that is done."""

    def planned(self, stage: str, rows: int) -> None:
        """A stage plans to do so many rows."""

    def done(self, stage: str, rows: int, note: str = "") -> None:
        """A stage has done so many more rows; `note` is shown beside the count."""


class SilentWatcher:
    """A watcher that shows nothing: the default."""

    def planned(self, stage: str, rows: int) -> None:
        pass

    def done(self, stage: str, rows: int, note: str = "") -> None:
        pass


watcher: ContextVar[Watcher] = ContextVar("watcher", default=SilentWatcher())  # noqa: B039 - it has no state
