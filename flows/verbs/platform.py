"""The verb that runs the platform on this machine."""

from typing import Annotated

import typer

from flows.options import LakeOption


def up(
    recipe: Annotated[list[str], typer.Argument(help="Recipes that are rebuilt every night.")] = ["shapes"],  # noqa: B006
    lake: LakeOption = "lake",
    config: Annotated[
        str, typer.Option(help="What is trained on what they publish: a .yaml file or a preset.")
    ] = "tiny",
    host: Annotated[str, typer.Option(help="Address that the server listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the server and its pages.")] = 4200,
    database: Annotated[
        str | None,
        typer.Option(show_default=False, help="URL of the server's database; SQLite beside the lake if none."),
    ] = None,
) -> None:
    """Prefect's server, a worker for each pool and every deployment of prefect.yaml, until Ctrl-C.

    Example: imagen up mine.yaml --config model.yaml
    """
    from flows.up import run_up

    run_up(lake, recipe, config, host, port, database)
