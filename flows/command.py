"""The `imagen` command. Each verb does one thing and exists in Python too; heavy modules are imported by the verb that
needs them, so that help answers at once.
"""

import atexit
import os
import sys
import warnings
from typing import Any

import typer

from flows.terminal.panels import PanelGroup, add_panel
from flows.verbs import build, champion, demo, evaluate, inspect, lake, model, platform, take_out, world

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
    inspect.plan,
    build.recipe,
    inspect.versions,
    inspect.diff,
    inspect.why,
    inspect.verify,
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


def main() -> None:
    """Run the command; what a person can mend ends in one sentence and exit code 2."""
    from data.errors import ImagenError

    code: Any = 1
    warnings.filterwarnings("ignore", "'set_vital' is deprecated")  # torchdata's call, nobody's here

    def leave() -> None:
        """End without finalizing the interpreter: a thread of Arrow's that still lets go of a buffer would abort it."""
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code if isinstance(code, int) else int(code is not None))

    atexit.register(leave)  # the first in is the last to run
    try:
        app()
    except ImagenError as error:
        sys.stderr.write(f"Error: {error}\n")
        code = error.code
    except SystemExit as end:
        code = end.code


if __name__ == "__main__":  # torchrun -m flows.command train ...
    main()
