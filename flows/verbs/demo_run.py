"""`imagen demo`: the built-in world, its server, one `rebuild`, a cascade trained on it, and what came out."""

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from data.build.build import Built
from data.build.pipeline import pipeline_of
from data.build.recipe import load_recipe
from data.engine.progress import watcher
from data.lake.lake import Lake
from data.report.contact_sheet import write_contact_sheet
from data.select.funnel import funnel
from data.world.make import HOST, make_world, same_world
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
CHECKED = 100  # prompts that were never a caption
BASE_SHARE = 0.75  # of the training's time; the rest goes to the models that enlarge


def run_demo(lake: str, world: Path, pairs: int, seed: int, workers: int | None, minutes: float) -> None:
    began = time.monotonic()
    console.print(f"[bold]The built-in world[/]: {pairs:,} pairs of pictures and captions, about half of them faulty.")
    with watching():
        if not same_world(world, pairs, seed):
            watcher.get().planned("draw the world", pairs)
            make_world(world, pairs, seed, progress=lambda done: watcher.get().done("draw the world", done))
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
    """The tiny cascade, as it learns the world in so many minutes of training."""
    from imagen.cascade.settings import SampleSettings
    from imagen.config.training import TrainConfig, with_time_budget

    sampling = SampleSettings(steps=20, guidance=3), SampleSettings(steps=10, guidance=1)  # enlarging needs no guidance
    return with_time_budget(TrainConfig(name="shapes", preset="tiny", fit="pad", sample=sampling), minutes, BASE_SHARE)


def train_and_show(lake: Lake, built: Built, out: Path, minutes: float) -> str:
    """Train the tiny cascade for so long, and look at what it makes; what it is called comes back."""
    from data.pictures.contact_sheet import draw_contact_sheet
    from data.world.prompts import aligned, unseen_prompts
    from flows.terminal.model_tables import show_trained
    from flows.verbs.model import bars
    from imagen.models.model import Imagen
    from imagen.train.setup import plan_training
    from imagen.train.train import train

    console.print(
        f"\n[bold]A cascade[/] is trained on {built.dataset}@{built.version}, for {minutes:g} minutes in all."
    )
    training = plan_training(lake, tiny_for(minutes), built.dataset, built.version)
    with watching():
        ended = train(training, callbacks=bars(training))
    assert ended.trained is not None
    show_trained(ended, training)
    captions = lake.table(f"datasets/{built.dataset}").dataset().to_table(columns=["caption"])["caption"]
    asked = unseen_prompts(set(captions.to_pylist()), CHECKED)
    model = Imagen.from_pretrained(ended.trained.reference, lake.url)
    with watching():
        watcher.get().planned("make pictures", len(PROMPTS) + len(asked))
        made = []
        for prompts in (PROMPTS, asked):
            made.append(model.generate_images(prompts, seed=1))
            watcher.get().done("make pictures", len(prompts))
    out.parent.mkdir(parents=True, exist_ok=True)
    draw_contact_sheet(made[0], PROMPTS, 4).save(out)
    found = aligned(made[1], asked)
    console.print(
        f"\n[bold]Right in {found.share:.0%}[/] of {found.prompts} prompts that were never a caption: the pixels show "
        f"the shape in its colour ({found.sized / found.prompts:.0%} of the right size too)."
    )
    console.print(f"[bold]Look at {out}[/]: {len(PROMPTS)} prompts and what came out.")
    return ended.trained.reference


def show_build(built: Built, lake: str, world: Path, sheet: Path, seconds: float) -> None:
    console.print()
    if built.anything_done:
        source = str(world / "pairs.parquet")
        show_funnel(funnel(Lake.open(lake), pipeline_of(Lake.open(lake), load_recipe("shapes", (source,))).selection))
        console.print()
    show_built(built, lake)
    console.print(f"Kept and dropped side by side: {sheet}. This took {seconds:.0f} s.")
    if not built.warning:
        console.print(f"\n[bold]Open {built.report}[/]: funnel, score histograms with thresholds, samples by reason.")


def show_next(lake: str, trained: str | None, seconds: float) -> None:
    imagen = command()
    console.print(f"\nThe whole way took {seconds:.0f} s. Next:")
    model = (
        (f'{imagen} generate "a red star" -n 8 --lake {lake}', "pictures of your own words, in out.png"),
        (f"{imagen} report {trained} --lake {lake}", "what the model is worth, on a page: model.html"),
        (f"{imagen} demo --train-minutes 30 --lake {lake}", "a model that knows more"),
    )
    for words, what in (
        (f"{imagen} versions shapes --lake {lake}", "what was published, and what made it"),
        (f"{imagen} recipe shapes > mine.yaml", "the recipe: change a threshold in it, then"),
        (f"{imagen} build mine.yaml --lake {lake}", "another version in seconds: no picture is touched"),
        *(model if trained else ()),
        (f"{imagen} demo", "again: nothing is pending"),
    ):
        console.print(f"  {words:<{len(imagen) + len(lake) + 32}} {what}", soft_wrap=True, highlight=False)


def command() -> str:
    """How to call this very command from here: by its name, or by its path where the shell would not find it."""
    here, found = Path(sys.argv[0]).absolute(), shutil.which("imagen")
    if found is not None and Path(found).absolute() == here:
        return "imagen"
    return str(here.relative_to(Path.cwd()) if here.is_relative_to(Path.cwd()) else here)
