"""What a person sees while something runs: bars on a terminal, plain lines in a pipe, nothing under --json."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from data.engine.progress import watcher
from flows.terminal.console import console

EVERY = 15.0  # seconds between lines of one stage


class Bars:
    """A bar a stage, for a terminal."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.bars: dict[str, TaskID] = {}

    def planned(self, stage: str, rows: int) -> None:
        if stage not in self.bars:
            self.bars[stage] = self.progress.add_task(stage, total=rows, completed=rows if not rows else 0, note="")
            if not rows:
                self.progress.update(
                    self.bars[stage], total=1, completed=1, description=f"{stage} [dim]nothing pending"
                )
        elif rows:  # planned again, after somebody else was faster
            bar = self.bars[stage]
            self.progress.update(bar, total=self.progress.tasks[bar].completed + rows)

    def done(self, stage: str, rows: int, note: str = "") -> None:
        self.progress.update(self.bars[stage], advance=rows, note=note)


class Lines:
    """A line a stage for a pipe or a log, and now and then one of how far it is."""

    def __init__(self) -> None:
        self.told = time.monotonic()
        self.rows: dict[str, int] = {}

    def planned(self, stage: str, rows: int) -> None:
        console.print(f"{stage}: {rows:,} pending" if rows else f"{stage}: nothing pending", highlight=False)

    def done(self, stage: str, rows: int, note: str = "") -> None:
        self.rows[stage] = self.rows.get(stage, 0) + rows
        if time.monotonic() - self.told > EVERY:
            self.told = time.monotonic()
            console.print(f"{stage}: {self.rows[stage]:,} done{f', {note}' if note else ''}", highlight=False)


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
    columns = (
        TextColumn("{task.description:<28}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        token = watcher.set(Bars(progress))
        try:
            yield
        finally:
            watcher.reset(token)
