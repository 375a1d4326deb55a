"""Print results about datasets in a terminal, as tables and sentences."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data.build.build import BuildResult
from data.build.dry_run import BuildPlan
from data.build.probe import Probe
from data.export.export import Exported
from data.publish.versions import Version
from data.select.funnel import FunnelStep
from data.upkeep.diff import QUANTILES, Diff
from data.upkeep.forget import ForgetResult
from data.upkeep.vacuum import VacuumResult
from data.upkeep.verify import VerifyResult
from data.upkeep.why import PairHistory
from flows.terminal.options import pluralize

console = Console()


def show_built(built: BuildResult, lake: str) -> None:
    """Print which version a build published and what changed."""
    if built.warning:
        console.print(
            f"{built.dataset}@{built.version} is published, but {built.warning}.", style="yellow", markup=False
        )
    if not built.anything_done:
        console.print(f"Nothing was pending: {built.dataset}@{built.version} has {built.kept:,} samples.")
        return
    changed = f", {built.changed:,} changed" if built.changed else ""
    console.print(
        f"[bold]{built.dataset}@{built.version}[/] in {lake}: {built.kept:,} samples "
        f"(+{built.added:,} −{built.removed:,}{changed}), from {pluralize(built.new_pairs, 'new pair')}."
    )


def show_versions(versions: list[Version]) -> None:
    """Print one line per version."""
    table = Table("version", "published", "samples", "added", "removed", "changed", "recipe", "code", box=None)
    for version in versions:
        record, code = version.record, version.record["code"]
        table.add_row(
            f"{version.dataset}@{version.version}",
            f"{version.at:%Y-%m-%d %H:%M:%S}",
            *(f"{record[name]:,}" for name in ("kept", "added", "removed", "changed")),
            record["recipe_hash"][:8],
            (code["commit"] or code["version"])[:8],
        )
    console.print(table)


def show_funnel(steps: list[FunnelStep]) -> None:
    """Print how many pairs each step of the selection drops and leaves."""
    table = Table("step", "dropped", "left", "share", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    total = steps[0].left or 1
    for step in steps:
        dropped = f"−{step.dropped:,}" if step.dropped else ""
        table.add_row(step.name, dropped, f"{step.left:,}", f"{step.left / total:.0%}")
    console.print(table)


def show_plan(plan: BuildPlan, dataset: str) -> None:
    """Print what a build would do: rows and time of each stage, and how the dataset would change.

    `pending` counts the rows that a stage could do now. `expected` also counts those that earlier stages may pass on.
    """
    if plan.new_files:
        console.print(f"{pluralize(plan.new_pairs, 'new pair')} in {pluralize(plan.new_files, 'new source file')}")
    table = Table("stage", "pending", "expected", "time", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for step in plan.steps:
        seconds = "not measured yet" if step.seconds is None else duration(step.seconds)
        table.add_row(step.name, f"{step.pending:,}", f"{step.expected:,}", seconds if step.expected else "")
    console.print(table)
    if plan.bytes:
        console.print(f"New pictures will take about {plan.bytes / 1e6:,.1f} MB.")
    if not plan.pending:
        console.print("Nothing is pending.")
    change = plan.change
    console.print(
        f"From the pairs scored so far, {dataset} would have [bold]{change.kept:,}[/] samples: "
        f"{change.before:,} now, +{change.into:,} −{change.out:,}."
    )
    for sign, samples in (("+", change.samples_in), ("−", change.samples_out)):
        for caption in samples:
            console.print(f"  {sign} “{plain(caption)}”", highlight=False)


def show_probe(probe: Probe, plan: BuildPlan) -> None:
    """Print estimates for all pending pairs, made from a sample of them."""
    total = plan.steps[0].expected
    console.print(f"A sample of {probe.pairs:,} of {total:,} pending pairs was fetched and scored:")
    for share in probe.shares:
        low, high = share.interval
        part = share.found / share.of if share.of else 0.0
        console.print(f"  {share.name}: {part:.1%}; probably {low * total:,.0f} to {high * total:,.0f} of all")
    console.print("  (a sample contains few duplicates: a build of all pairs drops more)")
    if probe.pairs:
        seconds = sum(probe.seconds.values()) / probe.pairs * total
        console.print(f"  all pairs would take about {duration(seconds)} at this rate")


def show_diff(difference: Diff, before: str, after: str) -> None:
    """Print which rows were added and removed, and how the quantiles of each score have changed."""
    console.print(
        f"[bold]{before}[/] had {difference.before:,} samples, [bold]{after}[/] has {difference.after:,}: "
        f"+{difference.into:,} −{difference.out:,}, {difference.changed:,} changed"
    )
    for title, reasons in (("added, dropped before", difference.why_in), ("removed", difference.why_out)):
        for reason, count in reasons.items():
            console.print(f"  {count:>8,} {title}: {escape(reason)}")
    if difference.shifts:
        names = [f"{quantile:.0%}" for quantile in QUANTILES]
        table = Table("quantiles", *names, "distance", box=None)
        table.columns[0].no_wrap = True
        for shift in difference.shifts:
            quantiles = zip(shift.before, shift.after, strict=True)
            moves = (f"{_format(old)} → {_format(new)}" for old, new in quantiles)
            table.add_row(shift.score, *moves, f"{shift.distance:.3f}")
        console.print(table)


def show_story(story: PairHistory) -> None:
    """Print the history of a pair. Text from the web is printed without markup and control characters."""
    pair = story.pair
    console.print(f"[bold]{pair['id']}[/]")
    console.print(f"  {plain(pair['url'])}\n  “{plain(pair['caption'])}”", soft_wrap=True)
    console.print(f"  first seen {pair['first_seen']:%Y-%m-%d %H:%M:%S} in {plain(pair['source'])}", soft_wrap=True)
    for fetch in story.fetches:
        retry = f"; retry after {fetch['retry_after']:%Y-%m-%d %H:%M}" if fetch["retry_after"] else ""
        error = f": {plain(fetch['error'])}" if fetch["error"] else ""
        console.print(f"  fetched {fetch['at']:%Y-%m-%d %H:%M:%S} {fetch['status']}{error}{retry}", soft_wrap=True)
    if story.image:
        image = story.image
        size = f"{image['original_width']} × {image['original_height']}"
        console.print(f"  picture {size}, stored as {image['width']} × {image['height']} {image['format']}")
    for scorer, row in story.scores.items():
        scores = ", ".join(f"{name} {_format(value)}" for name, value in row.items() if value is not None)
        console.print(f"  {scorer}: {plain(scores)}", soft_wrap=True)
    for duplicate in story.like:
        console.print(f"  duplicate: {duplicate['id']} {plain(duplicate['url'])}", soft_wrap=True)
    for verdict in story.verdicts:
        outcome = "[green]kept[/]" if verdict.kept else f"[red]dropped[/]: {'; '.join(map(plain, verdict.reasons))}"
        console.print(f"  {verdict.dataset}@{verdict.version} {outcome}", soft_wrap=True)


def show_verified(verified: VerifyResult, name: str) -> None:
    """Print whether a version matches its lineage, and what differs."""
    if verified.same:
        checked = f"{pluralize(verified.rows, 'row')} selected again, {pluralize(verified.files, 'file')} read again"
        console.print(f"[green]{name} matches its lineage[/]: {checked}")
        if verified.rewritten:
            console.print(f"Rewritten because pairs were forgotten: {pluralize(len(verified.rewritten), 'file')}.")
        if verified.regrouped:
            pairs = pluralize(len(verified.regrouped), "pair")
            console.print(f"Different only because a duplicate was forgotten since: {pairs}.")
    for title, names in (
        ("pairs that the recipe keeps but the version lacks", verified.missing),
        ("pairs that the version has but the recipe does not keep", verified.extra),
        ("damaged files", verified.damaged),
        ("missing files", verified.absent),
    ):
        if names:
            console.print(f"[red]{name}, {title}[/] ({len(names):,}): {', '.join(names[:5])}{', …' * (len(names) > 5)}")


def show_forgotten(forgotten: ForgetResult) -> None:
    """Print what was erased, and which versions and models had contained it."""
    rows = ", ".join(f"{table} {count:,}" for table, count in forgotten.rows.items())
    console.print(f"[bold]Erased and blocked: {pluralize(len(forgotten.pairs), 'pair')}[/]. Rows removed: {rows}.")
    console.print(f"Rewritten without them: {pluralize(forgotten.files, 'file')} of table versions, old and new.")
    console.print(f"Versions that had them: {', '.join(forgotten.seen_by) or 'none'}.", soft_wrap=True)
    if forgotten.models:
        console.print(f"[bold]Models trained on these:[/] {', '.join(forgotten.models)}.", soft_wrap=True)


def show_vacuumed(vacuumed: VacuumResult, dry_run: bool) -> None:
    """Print how much was removed, or would be removed."""
    removed = "would be removed" if dry_run else "removed"
    console.print(
        f"{pluralize(vacuumed.files, 'file')} ({vacuumed.bytes / 1e6:,.1f} MB) {removed}; "
        f"{vacuumed.young:,} kept because a running build may still commit them."
    )


def show_exported(exported: Exported) -> None:
    """Print what an export wrote."""
    earlier = f", {exported.found:,} of them from an earlier run" if exported.found else ""
    console.print(
        f"[bold]{exported.dataset}@{exported.version}[/] in {escape(exported.url)}: {exported.samples:,} samples, "
        f"{pluralize(len(exported.shards), 'file')}{earlier}, {exported.bytes / 1e6:,.1f} MB."
    )


def duration(seconds: float) -> str:
    """Format seconds in a suitable unit: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _format(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "–" if value is None else str(value)


def plain(text: str) -> str:
    """Make text from outside safe to print: escape markup and replace control characters."""
    return escape("".join(letter if letter.isprintable() else "�" for letter in text))
