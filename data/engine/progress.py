"""Progress of stages: who runs them reports planned and finished rows to the current watcher."""

from contextvars import ContextVar
from typing import Protocol


class Watcher(Protocol):
    """Told what each stage has planned, and each piece that is done."""

    def planned(self, stage: str, rows: int) -> None: ...

    def done(self, stage: str, rows: int, note: str = "") -> None: ...


class SilentWatcher:
    def planned(self, stage: str, rows: int) -> None:
        pass

    def done(self, stage: str, rows: int, note: str = "") -> None:
        pass


watcher: ContextVar[Watcher] = ContextVar("watcher", default=SilentWatcher())  # noqa: B039 - it has no state
