"""The verbs of the built-in world: draw it, serve it, check a picture, train its tiny models."""

import sys
from pathlib import Path
from typing import Annotated

import typer

MODELS = Path(__file__).parents[2] / "data" / "world" / "models"


def make(
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("world"),
    pairs: Annotated[int, typer.Option(min=20, help="Number of pairs.")] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the world.")] = 7,
) -> None:
    """Draw pictures, their pair list and its faults.

    Faults are labelled in a file of their own, which no stage reads.

    Example: imagen world make --pairs 2000 --seed 7 --out world
    """
    from data.engine.progress import watcher
    from data.world.make import make_world
    from flows.terminal.progress import watching

    with watching():
        watcher.get().planned("draw the world", pairs)
        make_world(out, pairs, seed, on_drawn=lambda count: watcher.get().done("draw the world", count))
    sys.stdout.write(f"{out}: a world of {pairs:,} pairs. Serve it: imagen world serve {out}\n")


def serve(
    folder: Annotated[Path, typer.Argument(help="The folder of a world.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 for any free port.")] = 0,
    lake: Annotated[
        str | None, typer.Option(help="Allow this lake to fetch from the server.", show_default=False)
    ] = None,
) -> None:
    """Serve a world over HTTP, until Ctrl-C.

    On loopback, with all faults of a real origin: missing pages, timeouts, redirects, bombs.

    Example: imagen world serve world --port 0
    """
    from data.world.server import OriginServer

    with OriginServer(folder, port) as server:
        if lake is not None:
            from data.lake.lake import Lake

            Lake.open(lake).allow_host("shapes.test", server.address)
        sys.stdout.write(f"Serving {folder} at http://{server.address}. Stop with Ctrl-C.\n")
        sys.stdout.flush()
        try:
            server.wait()
        except KeyboardInterrupt:
            sys.stdout.write("stopped\n")


def check(
    image: Annotated[Path, typer.Argument(help="Any picture.")],
    caption: Annotated[str, typer.Argument(help="The caption to check.")],
) -> None:
    """Check by pixels whether a caption is true.

    Exit code 1 if it is not.

    Example: imagen world check picture.png "a red circle above a blue square"
    """
    from PIL import Image, UnidentifiedImageError

    from data.errors import WorldError
    from data.world.check import caption_is_true, find_shapes

    try:
        picture = Image.open(image).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise WorldError(f"{image} is not a readable picture: {error}") from None
    for shape in find_shapes(picture):
        sys.stdout.write(f"{shape}\n")
    verdict = caption_is_true(picture, caption)
    sys.stdout.write("true\n" if verdict.true else f"false: {'; '.join(verdict.reasons)}\n")
    raise typer.Exit(0 if verdict.true else 1)


def train_models(
    out: Annotated[Path, typer.Option(help="The folder to write: clip/, t5/ and captioner/.")] = MODELS,
    seed: Annotated[int, typer.Option(help="Seed of the training.")] = 0,
    only: Annotated[
        list[str] | None, typer.Option(show_default=False, help="Only this model; may be repeated.")
    ] = None,
) -> None:
    """Train the tiny CLIP, T5 and captioner.

    On worlds that no test uses; a few minutes each on two cores.

    Example: imagen world train-models --out models --only captioner
    """
    from data.world.train import MODELS as KNOWN
    from data.world.train import train_models as run_training
    from flows.terminal.console import console

    for name in only or ():
        if name not in KNOWN:
            raise typer.BadParameter(f"there is no model {name!r}. Models: {', '.join(KNOWN)}", param_hint="--only")
    run_training(out, seed, log=console.print, only=only or KNOWN)
    sys.stdout.write(f"{out}: {', '.join(only or KNOWN)}\n")
