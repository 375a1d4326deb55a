"""What the platform does, as a person reads it."""

from datetime import UTC, datetime

from rich.markup import escape
from rich.table import Table

from flows.platform.status import Status
from flows.terminal.data_tables import console

UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def show_status(status: Status) -> None:
    console.print(f"[bold]{status.url}[/]", soft_wrap=True)
    table = Table("", "run", "deployment", "state", "when", box=None)
    for kind, runs in (("runs", status.running), ("to come", status.scheduled)):
        for run in runs:
            table.add_row(kind, escape(run.name), run.deployment or "", run.state, _when(run.at))
            kind = ""
    if table.row_count:
        console.print(table)
    else:
        console.print("Nothing runs, nothing is to come.")
    for run in status.failed:
        mended = f", and went well {_when(run.since)}" if run.since else ""
        console.print(
            f"[{'dim' if run.since else 'red'}]{escape(run.name)}[/] {run.state.lower()} {_when(run.at)}{mended}: "
            f"{escape((run.why or 'nothing was said').strip())}",
            soft_wrap=True,
        )
    if not status.failed:
        console.print("Nothing failed.")


def _when(at: datetime | None) -> str:
    if at is None:
        return ""
    seconds = (datetime.now(UTC) - at).total_seconds()
    unit, size = next((one for one in UNITS if abs(seconds) >= one[1]), UNITS[-1])
    said = f"{abs(seconds) // size:.0f} {unit}"
    return f"{said} ago" if seconds >= 0 else f"in {said}"
