"""What a person sees while something runs: bars on a terminal, plain lines in a pipe, nothing under --json."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

# Everything a person reads goes to stderr; stdout is for results.
console = Console(stderr=True)


class Watcher(Protocol):
    """Told what each stage has planned, and each piece that is done."""

    def planned(self, stage: str, rows: int) -> None: ...

    def done(self, stage: str, rows: int) -> None: ...


class Silent:
    def planned(self, stage: str, rows: int) -> None:
        pass

    def done(self, stage: str, rows: int) -> None:
        pass


class Bars:
    """A bar a stage, for a terminal."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.bars: dict[str, TaskID] = {}

    def planned(self, stage: str, rows: int) -> None:
        if stage not in self.bars:
            self.bars[stage] = self.progress.add_task(stage, total=rows, completed=rows if not rows else 0)
            if not rows:
                self.progress.update(
                    self.bars[stage], total=1, completed=1, description=f"{stage} [dim]nothing pending"
                )
        elif rows:  # planned again, after somebody else was faster
            bar = self.bars[stage]
            self.progress.update(bar, total=self.progress.tasks[bar].completed + rows)

    def done(self, stage: str, rows: int) -> None:
        self.progress.advance(self.bars[stage], rows)


class Lines:
    """A line a stage, for a pipe or a log."""

    def planned(self, stage: str, rows: int) -> None:
        console.print(f"{stage}: {rows:,} pending" if rows else f"{stage}: nothing pending", highlight=False)

    def done(self, stage: str, rows: int) -> None:
        pass


watcher: ContextVar[Watcher] = ContextVar("watcher", default=Silent())  # noqa: B039 - it has no state


@contextmanager
def watching(silent: bool = False) -> Iterator[None]:
    """Show what happens inside."""
    if silent:
        yield
        return
    if not console.is_terminal:
        token = watcher.set(Lines())
        try:
            yield
        finally:
            watcher.reset(token)
        return
    columns = (TextColumn("{task.description:<28}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console) as progress:
        token = watcher.set(Bars(progress))
        try:
            yield
        finally:
            watcher.reset(token)
