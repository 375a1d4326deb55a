"""`imagen demo`: the built-in world, its server, one `rebuild`, and what came out."""

import shutil
import sys
import time
from pathlib import Path

from data.build import Built, way
from data.lake import Lake
from data.recipe import load_recipe
from data.sheet import write_sheet
from data.versions import funnel
from data.world.make import HOST, make_world, same_world
from data.world.server import OriginServer
from flows.progress import watcher, watching
from flows.server import tracking
from flows.show import console, show_built, show_funnel


def run_demo(lake: str, world: Path, pairs: int, seed: int, workers: int | None) -> None:
    began = time.monotonic()
    console.print(f"[bold]The built-in world[/]: {pairs:,} pairs of pictures and captions, about half of them faulty.")
    with watching():
        if not same_world(world, pairs, seed):
            watcher.get().planned("draw the world", pairs)
            make_world(world, pairs, seed, progress=lambda done: watcher.get().done("draw the world", done))
        target = Lake.open_or_make(lake)
    with tracking(), OriginServer(world) as origin:
        from flows.rebuild import rebuild

        target.allow(HOST, origin.address)
        with watching():
            built = rebuild(recipe="shapes", lake=lake, sources=[str(world / "pairs.parquet")], workers=workers)
    sheet = world / "sheet.png"
    if built.anything_done or not sheet.exists():
        write_sheet(target, "shapes", sheet)
    show_summary(built, lake, world, sheet, time.monotonic() - began)


def show_summary(built: Built, lake: str, world: Path, sheet: Path, seconds: float) -> None:
    console.print()
    if built.anything_done:
        source = str(world / "pairs.parquet")
        show_funnel(funnel(Lake.open(lake), way(Lake.open(lake), load_recipe("shapes", (source,))).selection))
        console.print()
    show_built(built, lake)
    console.print(f"Kept and dropped side by side: {sheet}. All of it took {seconds:.0f} s.")
    if not built.warning:
        console.print(f"\n[bold]Open {built.report}[/]: funnel, score histograms with thresholds, samples by reason.")
    imagen = command()
    console.print("\nNext:")
    for words, what in (
        (f"{imagen} versions shapes --lake {lake}", "what was published, and what made it"),
        (f"{imagen} recipe shapes > mine.yaml", "the recipe: change a threshold in it, then"),
        (f"{imagen} build mine.yaml --lake {lake}", "another version in seconds: no picture is touched"),
        (f"{imagen} demo", "again: nothing is pending"),
    ):
        console.print(f"  {words:<{len(imagen) + len(lake) + 25}} {what}", soft_wrap=True, highlight=False)


def command() -> str:
    """How to call this very command from here: by its name, or by its path where the shell would not find it."""
    here, found = Path(sys.argv[0]).absolute(), shutil.which("imagen")
    if found is not None and Path(found).absolute() == here:
        return "imagen"
    return str(here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here)
