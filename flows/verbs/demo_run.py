"""`imagen demo`: draw the built-in world, serve it, build a dataset from it, train a cascade and show its pictures."""

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from data.build.build import BuildResult
from data.build.pipeline import make_pipeline
from data.build.recipe import load_recipe
from data.engine.progress import watcher
from data.lake.lake import Lake
from data.report.contact_sheet import write_contact_sheet
from data.select.funnel import funnel
from data.world.make import HOST, has_world, make_world
from data.world.server import OriginServer
from flows.server.temporary import tracking
from flows.terminal.data_tables import console, show_built, show_funnel
from flows.terminal.progress import watching

if TYPE_CHECKING:
    from imagen.config.training import TrainConfig

PROMPTS = (
    "a large red circle",
    "a small blue star",
    "a green triangle",
    "a large purple ring",
    "an orange square",
    "a black cross",
    "a medium cyan circle",
    "a large yellow star",
    "a small red square above a large blue circle",
    "a green ring to the left of an orange star",
    "a purple triangle below a yellow box",
    "a black disc inside a large cyan square",
)
CHECKED_PROMPTS = 100  # prompts that no caption has
BASE_SHARE = 0.75  # of the training time; the rest is for the super-resolution stages


def run_demo(lake: str, world: Path, pairs: int, seed: int, workers: int | None, minutes: float) -> None:
    """Run the demo. What is done already is not repeated.

    Args:
        lake: folder or URL of the lake; made if it does not exist
        world: folder of the built-in world; drawn if it is not that of `pairs` and `seed`
        pairs: number of pairs in the world
        seed: seed of the world
        workers: worker processes; one per core if None
        minutes: minutes of training; 0 skips it
    """
    began = time.monotonic()
    console.print(
        f"[bold]The built-in world[/]: {pairs:,} pictures with captions. About half of the pairs have a fault, such as "
        "a wrong caption."
    )
    with watching():
        if not has_world(world, pairs, seed):
            watcher.get().planned("draw the world", pairs)
            make_world(world, pairs, seed, on_drawn=lambda count: watcher.get().done("draw the world", count))
        target = Lake.open_or_make(lake)
    with tracking(), OriginServer(world) as origin:
        from flows.runs.rebuild import rebuild

        target.allow_host(HOST, origin.address)
        with watching():
            built = rebuild(recipe="shapes", lake=lake, sources=[str(world / "pairs.parquet")], workers=workers)
    sheet = world / "sheet.png"
    if built.anything_done or not sheet.exists():
        write_contact_sheet(target, "shapes", sheet)
    show_build(built, lake, world, sheet, time.monotonic() - began)
    model = train_and_show(target, built, world / "model.png", minutes) if minutes else None
    show_next(lake, model, time.monotonic() - began)


def tiny_for(minutes: float) -> "TrainConfig":
    """The configuration of the tiny cascade for so many minutes of training."""
    from imagen.cascade.settings import SampleSettings
    from imagen.config.training import TrainConfig, with_time_budget

    sampling = (
        SampleSettings(steps=20, guidance=3),
        SampleSettings(steps=10, guidance=1),
    )  # super-resolution needs no guidance
    return with_time_budget(TrainConfig(name="shapes", preset="tiny", fit="pad", sample=sampling), minutes, BASE_SHARE)


def train_and_show(lake: Lake, built: BuildResult, out: Path, minutes: float) -> str:
    """Train the tiny cascade, write a sheet of its pictures, and check it on prompts that no caption has.

    Returns:
        NAME/NUMBER of the model.
    """
    from data.pictures.contact_sheet import draw_contact_sheet
    from data.world.prompts import measure_alignment, unseen_prompts
    from flows.terminal.model_tables import show_trained
    from flows.verbs.model import bars
    from imagen.models.model import Imagen
    from imagen.train.setup import plan_training
    from imagen.train.train import train

    console.print(f"\n[bold]Training a cascade[/] on {built.dataset}@{built.version} for {minutes:g} minutes.")
    training = plan_training(lake, tiny_for(minutes), built.dataset, built.version)
    with watching():
        result = train(training, callbacks=bars(training))
    assert result.trained is not None
    show_trained(result, training)
    captions = lake.table(f"datasets/{built.dataset}").dataset().to_table(columns=["caption"])["caption"]
    new_prompts = unseen_prompts(set(captions.to_pylist()), CHECKED_PROMPTS)
    model = Imagen.from_pretrained(result.trained.reference, lake.url)
    with watching():
        watcher.get().planned("generate", len(PROMPTS) + len(new_prompts))
        shown = model.generate_images(PROMPTS, seed=1)
        watcher.get().done("generate", len(PROMPTS))
        checked = model.generate_images(new_prompts, seed=1)
        watcher.get().done("generate", len(new_prompts))
    out.parent.mkdir(parents=True, exist_ok=True)
    draw_contact_sheet(shown, PROMPTS, 4).save(out)
    alignment = measure_alignment(checked, new_prompts)
    console.print(
        f"\n[bold]{alignment.share:.0%} right[/]: of {alignment.prompts} prompts that no caption has, so many pictures "
        f"show the shape in its colour ({alignment.sized / alignment.prompts:.0%} in the right size too)."
    )
    console.print(f"[bold]Open {out}[/]: the pictures for {len(PROMPTS)} prompts.")
    return result.trained.reference


def show_build(built: BuildResult, lake: str, world: Path, sheet: Path, seconds: float) -> None:
    """Print the funnel, the version, and where to look."""
    console.print()
    if built.anything_done:
        source = str(world / "pairs.parquet")
        show_funnel(funnel(Lake.open(lake), make_pipeline(Lake.open(lake), load_recipe("shapes", (source,))).selection))
        console.print()
    show_built(built, lake)
    console.print(f"Kept and dropped pairs side by side: {sheet}. Time so far: {seconds:.0f} s.")
    if not built.warning:
        console.print(
            f"\n[bold]Open {built.report}[/]: the funnel, score histograms, and examples of kept and dropped pairs."
        )


def show_next(lake: str, trained: str | None, seconds: float) -> None:
    """Print commands to try next; those for a model only if one was trained."""
    imagen = command()
    console.print(f"\nThe demo took {seconds:.0f} s. Try next:")
    for_models = (
        (f'{imagen} generate "a red star" -n 8 --lake {lake}', "generate pictures from your own prompt: out.png"),
        (f"{imagen} report {trained} --lake {lake}", "measure the model and write a report page: model.html"),
        (f"{imagen} demo --train-minutes 30 --lake {lake}", "train longer, for better pictures"),
    )
    for line, purpose in (
        (f"{imagen} versions shapes --lake {lake}", "list the published versions"),
        (f"{imagen} recipe shapes > mine.yaml", "copy the recipe; change a threshold in it, then"),
        (f"{imagen} build mine.yaml --lake {lake}", "publish another version in seconds; no picture is fetched again"),
        *(for_models if trained else ()),
        (f"{imagen} demo", "run the demo again: nothing is pending"),
    ):
        console.print(f"  {line:<{len(imagen) + len(lake) + 32}} {purpose}", soft_wrap=True, highlight=False)


def command() -> str:
    """How to call this command from the current folder: `imagen`, or its path if it is not the one on PATH."""
    path, on_path = Path(sys.argv[0]).absolute(), shutil.which("imagen")
    if on_path is not None and Path(on_path).absolute() == path:
        return "imagen"
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
