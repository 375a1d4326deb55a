"""The verb that shows the whole way on the built-in world."""

from pathlib import Path
from typing import Annotated

import typer

from flows.terminal.options import LakeOption, WorkersOption
from flows.terminal.quiet import quiet_prefect


def demo(
    lake: LakeOption = "lake",
    world: Annotated[Path, typer.Option(help="Folder of the built-in world.")] = Path("world"),
    pairs: Annotated[int, typer.Option(min=20, help="Pairs of the world.")] = 2000,
    seed: Annotated[int, typer.Option(help="Of the world.")] = 7,
    workers: WorkersOption = None,
    train_minutes: Annotated[
        float, typer.Option(min=0, help="For which a cascade is trained; 0: none. More is better: 30.")
    ] = 3.5,
) -> None:
    """The whole way on the built-in world: pairs, download, score, select, embed, publish, train, generate.

    Example: imagen demo
    """
    quiet_prefect()
    from flows.verbs.demo_run import run_demo

    run_demo(lake, world, pairs, seed, workers, train_minutes)
