"""The verbs that run the platform on this machine, and say what it does."""

from dataclasses import asdict
from typing import Annotated

import typer

from flows.terminal.options import JsonOption, LakeOption, write_json

RecipesArgument = Annotated[list[str], typer.Argument(help="Recipes that are rebuilt every night.")]
ConfigOption = Annotated[str, typer.Option(help="What is trained on what they publish: a .yaml file or a preset.")]


def up(
    recipe: RecipesArgument = ["shapes"],  # noqa: B006
    lake: LakeOption = "lake",
    config: ConfigOption = "tiny",
    host: Annotated[str, typer.Option(help="Address that the server listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the server and its pages.")] = 4200,
    database: Annotated[
        str | None,
        typer.Option(show_default=False, help="URL of the server's database; SQLite beside the lake if none."),
    ] = None,
    auth: Annotated[
        bool, typer.Option("--auth", help="Ask for the USER:PASSWORD in PREFECT_SERVER_API_AUTH_STRING.")
    ] = False,
) -> None:
    """Prefect's server, a worker for each pool and every deployment of prefect.yaml, until Ctrl-C.

    Example: imagen up mine.yaml --config model.yaml
    """
    from flows.platform.up import run_up

    run_up(lake, recipe, config, host, port, database, auth)


def deploy(
    recipe: RecipesArgument = ["shapes"],  # noqa: B006
    lake: LakeOption = "lake",
    config: ConfigOption = "tiny",
    workers: Annotated[
        str, typer.Option(help="What runs the flows: process, docker or kubernetes, as prefect.yaml describes them.")
    ] = "process",
) -> None:
    """Every deployment of prefect.yaml, the work pools and the automations, on the server at PREFECT_API_URL.

    Example: PREFECT_API_URL=http://prefect:4200/api imagen deploy mine.yaml --lake s3://ours/lake
    """
    from flows.platform.deploy import run_deploy

    run_deploy(lake, recipe, config, workers)


def status(lake: LakeOption = "lake", as_json: JsonOption = False) -> None:
    """What runs in a lake, what is to run, what failed last and why.

    Example: imagen status
    """
    from flows.platform.status import status as find_status

    found = find_status(lake)
    if as_json:
        write_json(asdict(found))
    else:
        from flows.platform.status_table import show_status

        show_status(found)


def metrics(
    recipe: Annotated[
        list[str] | None, typer.Argument(show_default=False, help="Recipes whose pending rows are told.")
    ] = None,
    lake: LakeOption = "lake",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page /metrics.")] = 9464,
    every: Annotated[float, typer.Option(min=0, help="Seconds for which what was read is told again.")] = 60.0,
) -> None:
    """What Prometheus asks for, read from the lake, until Ctrl-C: rows, pending rows, versions, trainings, gates.

    Example: imagen metrics shapes
    """
    import signal

    from flows.platform.metrics import serve
    from flows.terminal.data_tables import console

    number, stop = serve(lake, recipe or [], host, port, every)
    console.print(f"http://{host}:{number}/metrics. Ctrl-C ends it.", soft_wrap=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        signal.pause()
    except KeyboardInterrupt:
        stop()
