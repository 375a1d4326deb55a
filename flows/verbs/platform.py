"""The verbs that run the platform and show what it does."""

from dataclasses import asdict
from typing import Annotated

import typer

from flows.terminal.options import JsonOption, LakeOption, write_json

RecipesArgument = Annotated[list[str], typer.Argument(help="Recipes to rebuild every night.")]
ConfigOption = Annotated[str, typer.Option(help="Training configuration (.yaml) or preset for their datasets.")]


def up(
    recipe: RecipesArgument = ["shapes"],  # noqa: B006
    lake: LakeOption = "lake",
    config: ConfigOption = "tiny",
    host: Annotated[str, typer.Option(help="Address the server listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the server and its pages.")] = 4200,
    database: Annotated[
        str | None,
        typer.Option(show_default=False, help="URL of the server's database; SQLite beside the lake if not given."),
    ] = None,
    auth: Annotated[
        bool, typer.Option("--auth", help="Require the USER:PASSWORD in PREFECT_SERVER_API_AUTH_STRING.")
    ] = False,
) -> None:
    """Run the platform on this machine, until Ctrl-C.

    Starts Prefect's server and a worker for each work pool, and deploys everything in prefect.yaml.

    Example: imagen up mine.yaml --config model.yaml
    """
    from flows.platform.up import run_up

    run_up(lake, recipe, config, host, port, database, auth)


def deploy(
    recipe: RecipesArgument = ["shapes"],  # noqa: B006
    lake: LakeOption = "lake",
    config: ConfigOption = "tiny",
    workers: Annotated[str, typer.Option(help="Kind of worker: process, docker or kubernetes.")] = "process",
) -> None:
    """Put every deployment on the Prefect server.

    Deployments of prefect.yaml, work pools and automations, on the server at PREFECT_API_URL.

    Example: PREFECT_API_URL=http://prefect:4200/api imagen deploy mine.yaml --lake s3://ours/lake
    """
    from flows.platform.deploy import run_deploy

    run_deploy(lake, recipe, config, workers)


def status(lake: LakeOption = "lake", as_json: JsonOption = False) -> None:
    """Show what runs, what comes next, what failed last.

    Example: imagen status
    """
    from flows.platform.status import status as find_status

    current = find_status(lake)
    if as_json:
        write_json(asdict(current))
    else:
        from flows.platform.status_table import show_status

        show_status(current)


def metrics(
    recipe: Annotated[
        list[str] | None, typer.Argument(show_default=False, help="Recipes whose pending rows are exported.")
    ] = None,
    lake: LakeOption = "lake",
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port of the page /metrics; 0 for any free port.")] = 9464,
    every: Annotated[float, typer.Option(min=0, help="Seconds for which values are cached.")] = 60.0,
) -> None:
    """Serve metrics for Prometheus, until Ctrl-C.

    Rows, pending rows, versions, trainings and gates, read from the lake when Prometheus asks.

    Example: imagen metrics shapes
    """
    import signal

    from flows.platform.metrics import serve
    from flows.terminal.data_tables import console

    bound_port, stop = serve(lake, recipe or [], host, port, every)
    console.print(f"Serving http://{host}:{bound_port}/metrics. Stop with Ctrl-C.", soft_wrap=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        signal.pause()
    except KeyboardInterrupt:
        stop()
