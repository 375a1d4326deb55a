"""Progress of stages: bars on a terminal, plain lines in a pipe or log, nothing under --json."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from data.engine.progress import watcher
from flows.terminal.console import console

LINE_SECONDS = 15.0  # between two progress lines in a pipe


class Bars:
    """Shows a progress bar per stage, for a terminal."""

    def __init__(self, progress: Progress) -> None:
        self.progress = progress
        self.bars: dict[str, TaskID] = {}

    def planned(self, stage: str, rows: int) -> None:
        """Add a bar for a stage, or more rows to the bar that it has."""
        if stage not in self.bars:
            self.bars[stage] = self.progress.add_task(stage, total=rows, completed=rows if not rows else 0, note="")
            if not rows:
                self.progress.update(
                    self.bars[stage], total=1, completed=1, description=f"{stage} [dim]nothing pending"
                )
        elif rows:  # planned again, because another build committed first
            bar = self.bars[stage]
            self.progress.update(bar, total=self.progress.tasks[bar].completed + rows)

    def done(self, stage: str, rows: int, note: str = "") -> None:
        """Advance the bar of a stage."""
        self.progress.update(self.bars[stage], advance=rows, note=note)


class Lines:
    """Prints a line per stage, and from time to time how many rows are done, for a pipe or a log."""

    def __init__(self) -> None:
        self.printed_at = time.monotonic()
        self.rows: dict[str, int] = {}

    def planned(self, stage: str, rows: int) -> None:
        """Print how many rows of a stage are pending."""
        console.print(f"{stage}: {rows:,} pending" if rows else f"{stage}: nothing pending", highlight=False)

    def done(self, stage: str, rows: int, note: str = "") -> None:
        """Count rows, and print the count if the last line is old enough."""
        self.rows[stage] = self.rows.get(stage, 0) + rows
        if time.monotonic() - self.printed_at > LINE_SECONDS:
            self.printed_at = time.monotonic()
            console.print(f"{stage}: {self.rows[stage]:,} done{f', {note}' if note else ''}", highlight=False)


@contextmanager
def watching(silent: bool = False) -> Iterator[None]:
    """Show the progress of the stages that run inside the block."""
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
