"""Results as a person reads them: tables for terminals."""

from rich.console import Console
from rich.table import Table

from data.build import Built
from data.versions import Step, Version

console = Console()


def show_built(built: Built, lake: str) -> None:
    if built.warning:
        console.print(
            f"{built.dataset}@{built.version} is published, but {built.warning}.", style="yellow", markup=False
        )
    if not built.anything_done:
        console.print(f"Nothing was pending: {built.dataset}@{built.version} has {built.kept:,} samples.")
        return
    console.print(
        f"[bold]{built.dataset}@{built.version}[/] in {lake}: {built.kept:,} samples "
        f"(+{built.added:,} −{built.removed:,}), from {built.new_pairs:,} new pairs."
    )


def show_versions(found: list[Version]) -> None:
    table = Table("version", "published", "samples", "added", "removed", "changed", "recipe", "code", box=None)
    for one in found:
        record, code = one.record, one.record["code"]
        table.add_row(
            f"{one.dataset}@{one.version}",
            f"{one.at:%Y-%m-%d %H:%M:%S}",
            *(f"{record[name]:,}" for name in ("kept", "added", "removed", "changed")),
            record["recipe_hash"][:8],
            (code["commit"] or code["version"])[:8],
        )
    console.print(table)


def show_funnel(steps: list[Step]) -> None:
    table = Table("step", "dropped", "left", "share", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    total = steps[0].left or 1
    for step in steps:
        dropped = f"−{step.dropped:,}" if step.dropped else ""
        table.add_row(step.name, dropped, f"{step.left:,}", f"{step.left / total:.0%}")
    console.print(table)
