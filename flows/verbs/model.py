"""The verbs that train a cascade, generate and edit pictures with it, and read how a picture was made."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.terminal.options import JsonOption, LakeOption, parse_version, pluralize, write_json

ModelOption = Annotated[
    str | None,
    typer.Option(
        show_default=False, help="NAME/NUMBER in the lake, a folder or a URL; the newest in the lake if not given."
    ),
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the first picture; each next picture adds 1.")]
OutOption = Annotated[Path, typer.Option(help="The PNG to write.")]
GuidanceOption = Annotated[float | None, typer.Option(show_default=False, help="Weight of classifier-free guidance.")]
StepsOption = Annotated[int | None, typer.Option(min=1, show_default=False, help="Sampling steps of each stage.")]
NegativeOption = Annotated[str | None, typer.Option(show_default=False, help="What the pictures should not show.")]


def train(
    config: Annotated[str, typer.Argument(help="A configuration (.yaml), or a preset: tiny, small, imagen-2b.")],
    dataset: Annotated[str, typer.Option(help="NAME@VERSION; the newest version if only NAME.")],
    lake: LakeOption = "lake",
    stage: Annotated[
        list[int] | None,
        typer.Option(min=1, show_default=False, help="Train only this stage; 1 is the base. May be repeated."),
    ] = None,
    name: Annotated[str | None, typer.Option(show_default=False, help="Name of the model.")] = None,
    size: Annotated[
        int | None, typer.Option(show_default=False, help="Base width of the U-Nets, from which other sizes follow.")
    ] = None,
    minutes: Annotated[
        float | None, typer.Option(show_default=False, help="Minutes of training per stage, instead of steps.")
    ] = None,
    seed: Annotated[int | None, typer.Option(show_default=False, help="Seed of the training.")] = None,
    cpu: Annotated[bool, typer.Option("--cpu", help="Train on the CPU even if there is a GPU.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Train a cascade on a dataset version.

    Stages are trained one after the other. A training that was stopped or killed continues from its last checkpoint
    when you run the same command again.

    Example: imagen train tiny --dataset shapes@1
    """
    from data.lake.lake import Lake
    from flows.terminal.progress import watching
    from imagen.config.training import load_config
    from imagen.train.setup import plan_training
    from imagen.train.train import train as run_training

    loaded = load_config(config, set_options(name=name, size=size), set_options(minutes=minutes, seed=seed))
    dataset_name, version = parse_version(dataset)
    training = plan_training(Lake.open(lake), loaded, dataset_name, version)
    stages = None if stage is None else [check_stage(number, len(training.cascade.stages)) for number in stage]
    is_main = os.environ.get("RANK", "0") == "0"  # only the main one of several processes prints
    with watching(silent=as_json or not is_main):
        result = run_training(training, stages, bars(training), cpu)
    if not is_main:
        return
    if as_json:
        write_json(
            {
                "model": result.trained.reference if result.trained else None,
                "dataset": f"{dataset_name}@{training.version}",
                "stages": result.stages,
                "training": result.url,
            }
        )
    else:
        from flows.terminal.model_tables import show_trained

        show_trained(result, training)


def check_stage(number: int, count: int) -> int:
    """The index of a stage from its number, which begins at 1; refuses numbers above the count of stages."""
    if number > count:
        raise typer.BadParameter(f"the cascade has {count} stages, there is no stage {number}", param_hint="--stage")
    return number - 1


def bars(training: Any) -> Any:
    """Callbacks of a training that show the progress of each stage."""
    from data.engine.progress import watcher
    from imagen.train.train import TrainingCallbacks

    shown: dict[int, tuple[str, int, int]] = {}  # of each stage: name of its bar, total, and how much of it is done

    def on_stage(stage: int, settings: Any, step: int, done: float) -> None:
        side = training.cascade.stages[stage].resolution
        unit, total = ("steps", settings.steps) if settings.minutes is None else ("s", round(60 * settings.minutes))
        now = min(total, round(done * total))
        shown[stage] = f"train {side} px ({unit})", total, now
        watcher.get().planned(shown[stage][0], total - now)

    def on_step(stage: int, measure: Any, done: float) -> None:
        bar, total, before = shown[stage]
        now = min(total, round(done * total))
        rate = training.config.training(stage).batch / measure.seconds
        watcher.get().done(bar, now - before, f"loss {measure.loss:.4f}, {rate:.0f} samples/s")
        shown[stage] = bar, total, now

    return TrainingCallbacks(on_stage, on_step)


def generate(
    prompts: Annotated[list[str], typer.Argument(help="What the pictures show.", show_default=False)],
    model: ModelOption = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Pictures per prompt.")] = 1,
    seed: SeedOption = 0,
    out: OutOption = Path("out.png"),
    guidance: GuidanceOption = None,
    steps: StepsOption = None,
    negative: NegativeOption = None,
    stages: Annotated[int | None, typer.Option(min=1, show_default=False, help="Stop after this many stages.")] = None,
    lake: LakeOption = "lake",
    as_json: JsonOption = False,
) -> None:
    """Generate pictures from prompts, as one PNG.

    Several pictures become a contact sheet. Prompt, seed, settings and model are written into the PNG.

    Example: imagen generate "a red circle above a small blue square" -n 8 --seed 3 --out grid.png
    """
    loaded, reference = load_model(model, lake)
    sampling = set_options(guidance=guidance, steps=steps)
    with working() as progress:
        pictures = loaded.generate_images(
            prompts, n, seed, negative, stages, progress=progress(loaded, "generate"), **sampling
        )
    more = {"how": "generate", "model": reference, **set_options(negative_prompt=negative, stages=stages), **sampling}
    settings = [{"prompt": prompt, "seed": seed + at, **more} for prompt in prompts for at in range(n)]
    write_pictures(pictures, settings, n if len(prompts) > 1 else min(4, n), out, as_json)


def edit(
    image: Annotated[Path, typer.Argument(help="A square picture.")],
    prompt: Annotated[str | None, typer.Argument(show_default=False, help="What the picture shows.")] = None,
    mask: Annotated[
        Path | None, typer.Option(show_default=False, help="Repaint where this picture of the same size is white.")
    ] = None,
    upscale: Annotated[bool, typer.Option("--upscale", help="Only enlarge the picture.")] = False,
    strength: Annotated[float, typer.Option(help="How far the result may differ from the picture, 0 to 1.")] = 0.6,
    model: ModelOption = None,
    n: Annotated[int, typer.Option("-n", min=1, help="Variations.")] = 1,
    seed: SeedOption = 0,
    out: OutOption = Path("out.png"),
    guidance: GuidanceOption = None,
    steps: StepsOption = None,
    negative: NegativeOption = None,
    lake: LakeOption = "lake",
    as_json: JsonOption = False,
) -> None:
    """Edit, inpaint, enlarge or vary a picture.

    With a prompt the picture is changed to show it; with --mask only inside the mask; without a prompt you get
    variations of the picture.

    Example: imagen edit in.png "a blue star" --mask mask.png --out out.png
    """
    from imagen.models.png import open_picture

    if mask is not None and upscale:
        raise typer.BadParameter("use either --mask (inpaint) or --upscale, not both")
    picture = open_picture(image)
    mask_picture = open_picture(mask) if mask else None
    loaded, reference = load_model(model, lake)
    sampling = set_options(guidance=guidance, steps=steps)
    more: dict[str, Any] = {"negative_prompt": negative, **sampling}
    with working() as progress:
        more["progress"] = progress(loaded, "edit")
        if mask_picture is not None:
            pictures = [loaded.inpaint(picture, mask_picture, prompt, seed + at, **more) for at in range(n)]
        elif upscale:
            pictures = [loaded.upscale(picture, prompt, seed + at, **more) for at in range(n)]
        else:
            pictures = loaded.restyle(picture, prompt, strength, n, seed, **more)
    how = "restyle"
    if mask or upscale:
        how = "inpaint" if mask else "upscale"
    options = set_options(image=str(image), mask=mask and str(mask), negative_prompt=negative, **sampling)
    if how == "restyle":
        options["strength"] = strength
    settings = [{"prompt": prompt, "seed": seed + at, "how": how, "model": reference, **options} for at in range(n)]
    write_pictures(pictures, settings, min(4, n), out, as_json)


def inspect(
    file: Annotated[Path, typer.Argument(help="A PNG that `generate` or `edit` wrote.")],
    as_json: JsonOption = False,
) -> None:
    """Show how a picture was made.

    Prompt, seed, settings and model, as `generate` and `edit` write them into the PNG.

    Example: imagen inspect grid.png
    """
    from imagen.models.png import read_png

    settings = read_png(file)
    if as_json:
        write_json(settings)
    else:
        from flows.terminal.model_tables import show_made

        show_made(settings)


def describe(
    files: Annotated[list[Path], typer.Argument(help="Pictures.", show_default=False)],
    model: Annotated[
        str,
        typer.Option(
            help="A captioner: built-in, a folder, or a hub id such as Salesforce/blip-image-captioning-base."
        ),
    ] = "built-in",
    prompt: Annotated[
        str | None,
        typer.Option(show_default=False, help="A question for the captioner, or the beginning of each caption."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Write a caption for each picture.

    Example: imagen describe one.png other.jpg
    """
    from imagen.models.captions import describe as write_captions
    from imagen.models.png import open_picture

    pictures = [open_picture(file) for file in files]
    captions = list(zip(map(str, files), write_captions(pictures, model, prompt=prompt), strict=True))
    if as_json:
        write_json([{"file": file, "caption": caption} for file, caption in captions])
    else:
        for file, caption in captions:
            sys.stdout.write(f"{file}: {caption}\n" if len(captions) > 1 else f"{caption}\n")


def load_model(model: str | None, lake: str) -> tuple[Any, str]:
    """Load a model, on the GPU if there is one.

    Args:
        model: NAME/NUMBER in the lake, a folder or a URL; the newest in the lake if None
        lake: folder or URL of the lake

    Returns:
        The model and its reference.

    Raises:
        ModelNotFound: the lake has no model.
    """
    from data.lake.lake import Lake
    from imagen.errors import ModelNotFound
    from imagen.models.model import Imagen
    from imagen.models.table import models

    if model is None:
        trained = models(Lake.open(lake))
        if not trained:
            raise ModelNotFound(f"{lake} has no model yet. Train one: imagen train tiny --dataset NAME --lake {lake}")
        model = trained[0].reference
    loaded = Imagen.from_pretrained(model, lake)
    import torch

    return loaded.to("cuda") if torch.cuda.is_available() else loaded, model


@contextmanager
def working() -> Iterator[Callable[[Any, str], Callable[[int, int, int], None]]]:
    """Show the sampling steps of each stage.

    Yields:
        A function that makes the pipeline's progress callback from a model and the name of the work.

    Raises:
        ImagenError: the pipeline cannot do what was asked.
    """
    from data.engine.progress import watcher
    from data.errors import ImagenError
    from flows.terminal.progress import watching
    from imagen.cascade.pipeline import NotPossible

    def progress(model: Any, work: str) -> Callable[[int, int, int], None]:
        def on_step(stage: int, step: int, steps: int) -> None:
            name = f"{work} {model.stages[stage].side} px"
            if step == 1:
                watcher.get().planned(name, steps)
            watcher.get().done(name, 1)

        return on_step

    try:
        with watching():
            yield progress
    except NotPossible as error:
        raise ImagenError(str(error)) from None


def set_options(**options: Any) -> dict[str, Any]:
    """The options that have a value."""
    return {name: value for name, value in options.items() if value is not None}


def write_pictures(pictures: list[Any], settings: list[dict[str, Any]], columns: int, out: Path, as_json: bool) -> None:
    """Write one PNG with the settings of every picture in it."""
    from data.pictures.contact_sheet import draw_contact_sheet
    from imagen.models.png import save_png

    captions = [picture["prompt"] or "" for picture in settings]
    save_png(pictures[0] if len(pictures) == 1 else draw_contact_sheet(pictures, captions, columns), out, settings)
    if as_json:
        write_json({"out": str(out), "pictures": settings})
    else:
        sys.stdout.write(f"{out}: {pluralize(len(pictures), 'picture')} by {settings[0]['model']}\n")
