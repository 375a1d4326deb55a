"""The `imagen` command: all verbs, grouped in panels.

Each verb exists in Python too. Heavy modules are imported inside the verb that needs them, so that `--help` stays fast.
"""

import atexit
import os
import sys
import warnings
from collections.abc import Sequence

import typer

from flows.terminal.panels import PanelGroup, add_panel
from flows.verbs import build, champion, demo, evaluate, lake, model, platform, take_out, versions, world

app = typer.Typer(
    name="imagen",
    cls=PanelGroup,
    help="Keep a text-image dataset fresh and a text-to-image model trained on it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
lakes = typer.Typer(name="lake", help="Make and configure lakes.", no_args_is_help=True)
lakes.command()(lake.make)
lakes.command()(lake.allow)
worlds = typer.Typer(name="world", help="Draw, serve and check the built-in world.", no_args_is_help=True)
for verb in (world.make, world.serve, world.check, world.train_models):
    worlds.command()(verb)

DATA = (
    build.build,
    build.plan,
    build.recipe,
    versions.versions,
    versions.diff,
    versions.why,
    versions.verify,
    take_out.export,
    take_out.forget,
    take_out.vacuum,
)
MODEL = (
    model.train,
    model.generate,
    model.edit,
    model.inspect,
    model.describe,
    evaluate.evaluate,
    evaluate.compare,
    evaluate.leaderboard,
    evaluate.sweep,
    evaluate.report,
    champion.models,
    champion.approve,
    champion.promote,
    champion.rollback,
)
PLATFORM = (platform.up, platform.deploy, platform.status, platform.metrics)
add_panel(app, "Data", DATA, [lakes])
add_panel(app, "Model", MODEL)
add_panel(app, "Platform", PLATFORM)
add_panel(app, "World", [demo.demo], [worlds])


def run(arguments: Sequence[str] | None = None) -> int:
    """Run a command line and return its exit code. An error that the user can correct is printed as one line.

    Args:
        arguments: the command line without `imagen`; by default the command line of this process.
    """
    from data.errors import ImagenError

    try:
        app(arguments)
    except ImagenError as error:
        sys.stderr.write(f"Error: {error}\n")
        return error.code
    except SystemExit as request:
        return request.code if isinstance(request.code, int) else int(request.code is not None)
    return 0


def main() -> None:
    """Run the command line of this process, and end with its exit code."""
    code = 1
    warnings.filterwarnings("ignore", "'set_vital' is deprecated")  # torchdata calls it; our code does not

    def exit_now() -> None:
        """Exit without finalizing the interpreter.

        If a thread of Arrow frees a buffer during finalization, the process aborts.
        """
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)

    atexit.register(exit_now)  # registered first, so it runs last
    code = run()


if __name__ == "__main__":  # torchrun -m flows.command train ...
    main()
