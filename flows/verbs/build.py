"""The verbs that make a dataset: build, plan a build, and print a shipped recipe."""

import sys
from dataclasses import asdict
from typing import Annotated

import typer

from flows.terminal.options import (
    JsonOption,
    LakeOption,
    RecipeArgument,
    SetOption,
    SourceOption,
    WorkersOption,
    check_buckets,
    write_json,
)
from flows.terminal.quiet import quiet_prefect


def build(
    recipe: RecipeArgument,
    lake: LakeOption = "lake",
    source: SourceOption = None,
    change: SetOption = None,
    repin: Annotated[
        bool, typer.Option(help="Compute the cut of each `top` criterion again instead of keeping it.")
    ] = False,
    workers: WorkersOption = None,
    buckets: Annotated[int, typer.Option(help="Number of buckets if the lake is new; a power of two.")] = 4,
    as_json: JsonOption = False,
) -> None:
    """Build a dataset by its recipe and publish the version.

    Only pending work is done: new pairs are fetched and scored, the selection runs again, and a version is published
    if anything changed. A build that was killed continues when you run it again.

    Example: imagen build shapes --lake s3://bucket/lake
    """
    quiet_prefect()
    check_build(recipe, lake, source, change, buckets)
    from data.build.build import describe_build
    from flows.server.temporary import tracking
    from flows.terminal.progress import watching

    with tracking():
        from flows.runs.rebuild import rebuild

        with watching(silent=as_json):
            built = rebuild(
                recipe=recipe,
                lake=lake,
                sources=source,
                changes=change,
                repin=repin,
                workers=workers,
                buckets=buckets,
            )
    if as_json:
        write_json(describe_build(built))
    else:
        from flows.terminal.data_tables import show_built

        show_built(built, lake)


def plan(
    recipe: RecipeArgument,
    lake: LakeOption = "lake",
    source: SourceOption = None,
    change: SetOption = None,
    probe: Annotated[
        str | None,
        typer.Option(show_default=False, help="Fetch and score this share of the pending pairs first: 0.5%."),
    ] = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what a build would do, without doing it.

    Pending rows, bytes and time of each stage, and the pairs that the selection would keep of those already scored.
    Nothing is written to the lake.

    Example: imagen plan shapes --set select.clip_score.min=0.35
    """
    from data.build.dry_run import plan_build
    from data.build.recipe import load_recipe
    from data.lake.lake import Lake

    loaded, opened = load_recipe(recipe, tuple(source or ()), tuple(change or ())), Lake.open(lake)
    share = None if probe is None else parse_share(probe)
    build_plan = plan_build(opened, loaded)
    probed = None
    if share is not None:
        from data.build.probe import run_probe
        from data.engine.choose import open_engine

        with open_engine(workers) as engine:
            probed = run_probe(opened, loaded, share, engine)
    if as_json:
        probe_values = None
        if probed:
            shares = [{**asdict(share), "interval": share.interval} for share in probed.shares]
            probe_values = {"pairs": probed.pairs, "seconds": probed.seconds, "shares": shares}
        write_json({**asdict(build_plan), "probe": probe_values})
    else:
        from flows.terminal.data_tables import show_plan, show_probe

        show_plan(build_plan, loaded.name)
        if probed:
            show_probe(probed, build_plan)


def parse_share(text: str) -> float:
    """Parse a share, such as 0.5% or 0.005, into a number above 0 and up to 1."""
    try:
        share = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:
        raise typer.BadParameter(f"{text!r} is not a share such as 0.5%", param_hint="--probe")
    return share


def recipe(name: Annotated[str, typer.Argument(help="The name of a shipped recipe.")]) -> None:
    """Print a shipped recipe, to copy and change.

    Example: imagen recipe shapes > mine.yaml
    """
    from data.build.recipe import RECIPES_FOLDER, shipped_recipes
    from data.errors import RecipeError

    if name not in shipped_recipes():
        raise RecipeError(f"there is no shipped recipe {name}. Shipped recipes: {', '.join(shipped_recipes())}")
    sys.stdout.write((RECIPES_FOLDER / f"{name}.yaml").read_text())


def check_build(recipe: str, lake: str, source: list[str] | None, change: list[str] | None, buckets: int) -> None:
    """Check options, recipe, sources and lake before Prefect starts and before anything is written.

    Raises:
        ImagenError: something is wrong that the user can correct.
    """
    check_buckets(buckets)
    from data.build.recipe import load_recipe
    from data.sources.sources import open_checked_lake

    open_checked_lake(lake, load_recipe(recipe, tuple(source or ()), tuple(change or ())).sources, buckets)
