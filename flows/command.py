"""The `imagen` command. Each verb does one thing and exists in Python too; heavy modules are imported by the verb that
needs them, so that help answers at once.
"""

import atexit
import os
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.terminal.options import JsonOption, LakeOption, SetOption, SourceOption, WorkersOption, write_json
from flows.verbs import champion, evaluate, inspect, model, platform, take_out

MODELS = Path(__file__).parents[1] / "data" / "world" / "models"

app = typer.Typer(
    name="imagen",
    help="Keep a text-image dataset fresh and a text-to-image model trained on it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
lakes = typer.Typer(help="Make and configure lakes.", no_args_is_help=True)
worlds = typer.Typer(help="The built-in world: pictures of coloured shapes with true captions.", no_args_is_help=True)
app.add_typer(lakes, name="lake")
app.add_typer(worlds, name="world")
VERBS: tuple[Callable[..., None], ...] = (
    inspect.plan,
    inspect.versions,
    inspect.diff,
    inspect.why,
    inspect.verify,
    take_out.export,
    take_out.forget,
    take_out.vacuum,
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
    platform.up,
    platform.deploy,
    platform.status,
    platform.metrics,
)
for verb in VERBS:
    app.command()(verb)


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


@app.command()
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
    from flows.verbs.demo import run_demo

    run_demo(lake, world, pairs, seed, workers, train_minutes)


@app.command()
def build(
    recipe: Annotated[str, typer.Argument(help="A recipe's .yaml file, or the name of a shipped one.")],
    lake: LakeOption = "lake",
    source: SourceOption = None,
    change: SetOption = None,
    repin: Annotated[bool, typer.Option(help="Make the cuts of `top` anew; they are pinned otherwise.")] = False,
    workers: WorkersOption = None,
    buckets: Annotated[int, typer.Option(help="Of a lake that is made now; a power of two.")] = 4,
    as_json: JsonOption = False,
) -> None:
    """Bring a dataset up to date with its sources and recipe, and publish the version if anything changed.

    Example: imagen build shapes --lake s3://bucket/lake
    """
    quiet_prefect()
    check_build(recipe, lake, source, change, buckets)
    from data.build.build import describe
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
        write_json(describe(built))
    else:
        from flows.terminal.data_tables import show_built

        show_built(built, lake)


@app.command()
def recipe(name: Annotated[str, typer.Argument(help="The name of a shipped recipe.")]) -> None:
    """Print a shipped recipe, to copy and change.

    Example: imagen recipe shapes > mine.yaml
    """
    from data.build.recipe import SHIPPED, shipped
    from data.errors import RecipeError

    if name not in shipped():
        raise RecipeError(f"there is no shipped recipe {name}. There are: {', '.join(shipped())}")
    sys.stdout.write((SHIPPED / f"{name}.yaml").read_text())


@lakes.command("make")
def lake_make(
    url: Annotated[str, typer.Argument(help="An empty folder or bucket prefix.")],
    buckets: Annotated[int, typer.Option(help="4 for a laptop, 256 and more for hundreds of millions of rows.")] = 4,
) -> None:
    """Make a lake, after a race has shown that the store keeps concurrent commits.

    Example: imagen lake make s3://bucket/lake --buckets 256
    """
    check_buckets(buckets)
    from data.lake.lake import Lake

    Lake.make(url, buckets)
    sys.stdout.write(f"{url}: a lake of {buckets} buckets\n")


@lakes.command("allow")
def lake_allow(
    name: Annotated[str, typer.Argument(help="A host's name, or *.name.")],
    address: Annotated[str, typer.Argument(help="Where it is: address or address:port.")],
    lake: LakeOption = "lake",
) -> None:
    """Let a named host be fetched from a private address, as /etc/hosts would say it. All others stay refused.

    Example: imagen lake allow pictures.corp 10.2.0.7:8080
    """
    from data.lake.lake import Lake

    Lake.open(lake).allow(name, address)
    sys.stdout.write(f"{lake}: {name} is fetched from {address}\n")


@worlds.command("make")
def world_make(
    out: Annotated[Path, typer.Option(help="The folder to write.")] = Path("world"),
    pairs: Annotated[int, typer.Option(min=20)] = 2000,
    seed: Annotated[int, typer.Option()] = 7,
) -> None:
    """Draw a world: pictures, pair list, and a side file of every fault that no stage reads.

    Example: imagen world make --pairs 2000 --seed 7 --out world
    """
    from data.world.make import make_world
    from flows.terminal.progress import watcher, watching

    with watching():
        watcher.get().planned("draw the world", pairs)
        make_world(out, pairs, seed, progress=lambda done: watcher.get().done("draw the world", done))
    sys.stdout.write(f"{out}: a world of {pairs:,} pairs. Serve it: imagen world serve {out}\n")


@worlds.command("serve")
def world_serve(
    folder: Annotated[Path, typer.Argument(help="A world's folder.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 0,
    lake: Annotated[str | None, typer.Option(help="Let this lake fetch from here.", show_default=False)] = None,
) -> None:
    """Serve a world over HTTP on loopback, until Ctrl-C.

    Example: imagen world serve world --port 0
    """
    from data.world.server import OriginServer

    with OriginServer(folder, port) as server:
        if lake is not None:
            from data.lake.lake import Lake

            Lake.open(lake).allow("shapes.test", server.address)
        sys.stdout.write(f"http://{server.address} serves {folder}; Ctrl-C ends it\n")
        sys.stdout.flush()
        try:
            server.wait()
        except KeyboardInterrupt:
            sys.stdout.write("ended\n")


@worlds.command("check")
def world_check(
    image: Annotated[Path, typer.Argument(help="Any picture.")],
    caption: Annotated[str, typer.Argument(help="What it should show.")],
) -> None:
    """Look at the pixels of a picture: is the caption true? Exit code 1 if not.

    Example: imagen world check picture.png "a red circle above a blue square"
    """
    from PIL import Image, UnidentifiedImageError

    from data.errors import WorldError
    from data.world.check import caption_is_true, find_shapes

    try:
        picture = Image.open(image).convert("RGB")
    except (OSError, UnidentifiedImageError) as error:
        raise WorldError(f"{image} is no picture that can be read: {error}") from None
    for found in find_shapes(picture):
        sys.stdout.write(f"{found}\n")
    verdict = caption_is_true(picture, caption)
    sys.stdout.write("true\n" if verdict.true else f"false: {'; '.join(verdict.reasons)}\n")
    raise typer.Exit(0 if verdict.true else 1)


@worlds.command("train-models")
def world_train_models(
    out: Annotated[Path, typer.Option(help="The folder to write; clip/, t5/ and captioner/ in it.")] = MODELS,
    seed: Annotated[int, typer.Option()] = 0,
    only: Annotated[list[str] | None, typer.Option(show_default=False, help="Only this one; may be repeated.")] = None,
) -> None:
    """Train the tiny CLIP, T5 and captioner on worlds that no test uses. Some minutes each on two cores.

    Example: imagen world train-models --out models --only captioner
    """
    from data.world.train import MODELS as KNOWN
    from data.world.train import train_models
    from flows.terminal.progress import console

    for name in only or ():
        if name not in KNOWN:
            raise typer.BadParameter(f"there is no model {name!r}; there are {', '.join(KNOWN)}", param_hint="--only")
    train_models(out, seed, say=console.print, only=only or KNOWN)
    sys.stdout.write(f"{out}: {', '.join(only or KNOWN)}\n")


def check_build(recipe: str, lake: str, source: list[str] | None, change: list[str] | None, buckets: int) -> None:
    """What a person can mend is said before Prefect starts and before anything is written."""
    check_buckets(buckets)
    from data.build.recipe import load_recipe
    from data.sources.sources import checked_lake

    checked_lake(lake, load_recipe(recipe, tuple(source or ()), tuple(change or ())).sources, buckets)


def check_buckets(buckets: int) -> None:
    if not 1 <= buckets <= 65_536 or buckets & (buckets - 1):
        raise typer.BadParameter(f"{buckets} is no power of two from 1 to 65536", param_hint="--buckets")


def quiet_prefect() -> None:
    """Prefect's settings must stand before it is imported: no calls home, no log lines between the bars."""
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")  # the server has them all
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")


if __name__ == "__main__":  # torchrun -m flows.command train ...
    main()
