"""The status of the platform as a table for a terminal."""

from datetime import UTC, datetime

from rich.markup import escape
from rich.table import Table

from flows.platform.status import Status
from flows.terminal.data_tables import console

UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def show_status(status: Status) -> None:
    """Print what runs now, what comes next and what failed last."""
    console.print(f"[bold]{status.url}[/]", soft_wrap=True)
    table = Table("", "run", "deployment", "state", "when", box=None)
    for kind, runs in (("running", status.running), ("scheduled", status.scheduled)):
        for run in runs:
            table.add_row(kind, escape(run.name), run.deployment or "", run.state, _when(run.at))
            kind = ""
    if table.row_count:
        console.print(table)
    else:
        console.print("Nothing is running or scheduled.")
    for run in status.failed:
        completed = f", completed since then ({_when(run.since)})" if run.since else ""
        console.print(
            f"[{'dim' if run.since else 'red'}]{escape(run.name)}[/] {run.state.lower()} {_when(run.at)}{completed}: "
            f"{escape((run.why or 'no reason given').strip())}",
            soft_wrap=True,
        )
    if not status.failed:
        console.print("No run has failed.")


def _when(at: datetime | None) -> str:
    if at is None:
        return ""
    seconds = (datetime.now(UTC) - at).total_seconds()
    unit, size = next(((unit, size) for unit, size in UNITS if abs(seconds) >= size), UNITS[-1])
    distance = f"{abs(seconds) // size:.0f} {unit}"
    return f"{distance} ago" if seconds >= 0 else f"in {distance}"
