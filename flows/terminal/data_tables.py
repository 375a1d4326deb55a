"""Results as a person reads them: tables for terminals."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from data.build.build import Built
from data.build.dry_run import BuildPlan, Probe
from data.export.export import Exported
from data.publish.versions import Version
from data.select.funnel import Step
from data.upkeep.diff import QUANTILES, Diff
from data.upkeep.forget import Forgotten
from data.upkeep.vacuum import Vacuumed
from data.upkeep.verify import Verified
from data.upkeep.why import Story
from flows.terminal.options import pluralize

console = Console()


def show_built(built: Built, lake: str) -> None:
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


def show_plan(found: BuildPlan, dataset: str) -> None:
    if found.new_files:
        console.print(f"{found.new_files:,} new files of the sources, {found.new_pairs:,} new pairs in them")
    table = Table("stage", "pending", "with what comes", "time", box=None)
    for column in table.columns[1:]:
        column.justify = "right"
    for step in found.steps:
        seconds = "never run here" if step.seconds is None else duration(step.seconds)
        table.add_row(step.name, f"{step.pending:,}", f"{step.expected:,}", seconds if step.expected else "")
    console.print(table)
    if found.bytes:
        console.print(f"The pictures to come will take about {found.bytes / 1e6:,.1f} MB.")
    if not found.pending:
        console.print("Nothing is pending.")
    change = found.change
    console.print(
        f"By what is scored already, {dataset} would hold [bold]{change.kept:,}[/] samples: "
        f"{change.before:,} now, +{change.into:,} −{change.out:,}."
    )
    for sign, samples in (("+", change.samples_in), ("−", change.samples_out)):
        for caption in samples:
            console.print(f"  {sign} “{plain(caption)}”", highlight=False)


def show_probe(probed: Probe, found: BuildPlan) -> None:
    total = found.steps[0].expected
    console.print(f"A sample of {probed.pairs:,} of {total:,} pairs was fetched and scored:")
    for share in probed.shares:
        low, high = share.interval
        part = share.found / share.of if share.of else 0.0
        console.print(f"  {share.name}: {part:.1%}, of all probably {low * total:,.0f} to {high * total:,.0f}")
    console.print("  (of duplicates a sample sees few: they fall only among all)")
    if probed.pairs:
        whole = sum(probed.seconds.values()) / probed.pairs * total
        console.print(f"  all of it would take about {duration(whole)} at this pace")


def show_diff(found: Diff, before: str, after: str) -> None:
    console.print(
        f"[bold]{before}[/] {found.before:,} samples − {found.out:,} + {found.into:,} = {found.after:,} "
        f"[bold]{after}[/]; {found.changed:,} of them changed"
    )
    for title, reasons in (("in, after", found.why_in), ("out", found.why_out)):
        for reason, count in reasons.items():
            console.print(f"  {count:>8,} {title}: {escape(reason)}")
    if found.shifts:
        names = [f"{quantile:.0%}" for quantile in QUANTILES]
        table = Table("quantiles", *names, "distance", box=None)
        table.columns[0].no_wrap = True
        for shift in found.shifts:
            pairs = zip(shift.before, shift.after, strict=True)
            moved = (f"{_figure(a)} → {_figure(b)}" for a, b in pairs)
            table.add_row(shift.score, *moved, f"{shift.distance:.3f}")
        console.print(table)


def show_story(story: Story) -> None:
    """What came from the web is printed as text: no markup, no control characters."""
    pair = story.pair
    console.print(f"[bold]{pair['id']}[/]")
    console.print(f"  {plain(pair['url'])}\n  “{plain(pair['caption'])}”", soft_wrap=True)
    console.print(f"  first seen {pair['first_seen']:%Y-%m-%d %H:%M:%S} in {plain(pair['source'])}", soft_wrap=True)
    for fetch in story.fetches:
        again = f"; again after {fetch['retry_after']:%Y-%m-%d %H:%M}" if fetch["retry_after"] else ""
        error = f": {plain(fetch['error'])}" if fetch["error"] else ""
        console.print(f"  fetched {fetch['at']:%Y-%m-%d %H:%M:%S} {fetch['status']}{error}{again}", soft_wrap=True)
    if story.image:
        image = story.image
        size = f"{image['original_width']} × {image['original_height']}"
        console.print(f"  picture {size}, kept as {image['width']} × {image['height']} {image['format']}")
    for scorer, said in story.scores.items():
        facts = ", ".join(f"{name} {_figure(value)}" for name, value in said.items() if value is not None)
        console.print(f"  {scorer}: {plain(facts)}", soft_wrap=True)
    for one in story.like:
        console.print(f"  duplicate: {one['id']} {plain(one['url'])}", soft_wrap=True)
    for verdict in story.verdicts:
        told = "[green]kept[/]" if verdict.kept else f"[red]dropped[/]: {'; '.join(map(plain, verdict.reasons))}"
        console.print(f"  {verdict.dataset}@{verdict.version} {told}", soft_wrap=True)


def show_verified(found: Verified, name: str) -> None:
    if found.same:
        again = f"{pluralize(found.rows, 'row')} selected again, {pluralize(found.files, 'file')}"
        console.print(f"[green]{name} is what it says it is[/]: {again}")
        if found.rewritten:
            console.print(f"Rewritten without what was forgotten since: {pluralize(len(found.rewritten), 'file')}.")
        if found.regrouped:
            others = pluralize(len(found.regrouped), "pair")
            console.print(f"Left out for a pair that is forgotten now, or for one of those: {others}.")
    for title, those in (
        ("kept by its recipe and not there", found.missing),
        ("there and not kept by its recipe", found.extra),
        ("damaged files", found.damaged),
        ("files that are gone", found.absent),
    ):
        if those:
            console.print(f"[red]{name}: {len(those):,} {title}[/]: {', '.join(those[:5])}{', …' * (len(those) > 5)}")


def show_forgotten(found: Forgotten) -> None:
    rows = ", ".join(f"{table} {count:,}" for table, count in found.rows.items())
    console.print(f"[bold]Forgotten and blocked: {pluralize(len(found.pairs), 'pair')}[/]. Rows taken out: {rows}.")
    console.print(f"Written again without them: {pluralize(found.files, 'file')} of old and new versions.")
    console.print(f"Seen by: {', '.join(found.seen_by) or 'no dataset version'}.", soft_wrap=True)
    if found.models:
        console.print(f"[bold]Models trained on these:[/] {', '.join(found.models)}.", soft_wrap=True)


def show_vacuumed(found: Vacuumed, dry_run: bool) -> None:
    would = "would be removed" if dry_run else "removed"
    console.print(
        f"{pluralize(found.files, 'file')} of {found.bytes / 1e6:,.1f} MB {would}; "
        f"{found.young:,} may be of a running build."
    )


def show_exported(exported: Exported) -> None:
    earlier = f", {exported.found:,} of them from before" if exported.found else ""
    console.print(
        f"[bold]{exported.dataset}@{exported.version}[/] in {escape(exported.url)}: {exported.samples:,} samples, "
        f"{pluralize(len(exported.shards), 'file')}{earlier}, {exported.bytes / 1e6:,.1f} MB."
    )


def duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _figure(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else "–" if value is None else str(value)


def plain(text: str) -> str:
    return escape("".join(one if one.isprintable() else "�" for one in text))
