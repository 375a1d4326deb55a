"""The verb that shows everything on the built-in world."""

from pathlib import Path
from typing import Annotated

import typer

from flows.terminal.options import LakeOption, WorkersOption
from flows.terminal.quiet import quiet_prefect


def demo(
    lake: LakeOption = "lake",
    world: Annotated[Path, typer.Option(help="Folder of the built-in world.")] = Path("world"),
    pairs: Annotated[int, typer.Option(min=20, help="Number of pairs in the world.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the world.")] = 7,
    workers: WorkersOption = None,
    train_minutes: Annotated[
        float, typer.Option(min=0, help="Minutes of training; 0 skips it, 30 gives good pictures.")
    ] = 3.5,
) -> None:
    """Go from a URL list to a trained model, offline.

    On the built-in world: download, score, select, embed, publish, train and generate.

    Example: imagen demo
    """
    quiet_prefect()
    from flows.verbs.demo_run import run_demo

    run_demo(lake, world, pairs, seed, workers, train_minutes)
