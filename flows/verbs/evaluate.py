"""The verbs that measure models: evaluate, compare, leaderboard, sweep, report."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.terminal.options import JsonOption, LakeOption, WorkersOption, parse_version, write_json
from flows.verbs.model import set_options

ModelArgument = Annotated[str, typer.Argument(help="NAME/NUMBER or NAME/champion in the lake, a folder or a URL.")]
SuiteOption = Annotated[
    str | None,
    typer.Option(show_default=False, help="shapes (default), or a file or folder of prompts."),
]
SettingsOption = Annotated[
    Path | None, typer.Option(show_default=False, help="Evaluation settings (.yaml), see docs/evaluation.md.")
]
DatasetOption = Annotated[
    str | None,
    typer.Option(show_default=False, help="NAME@VERSION with the reference pictures; the training set if not given."),
]
CountOption = Annotated[int | None, typer.Option("-n", min=1, show_default=False, help="Pictures per prompt.")]
SeedOption = Annotated[int | None, typer.Option(min=0, show_default=False, help="Seed of the first picture.")]
GuidanceOption = Annotated[
    float | None, typer.Option(show_default=False, help="Guidance weight; the model's own if not given.")
]
StepsOption = Annotated[
    int | None, typer.Option(min=1, show_default=False, help="Sampling steps; the model's own if not given.")
]


def evaluate(
    model: ModelArgument,
    lake: LakeOption = "lake",
    suite: SuiteOption = None,
    config: SettingsOption = None,
    dataset: DatasetOption = None,
    n: CountOption = None,
    seed: SeedOption = None,
    guidance: GuidanceOption = None,
    steps: StepsOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Generate a suite's prompts and measure the pictures.

    Figures become rows of the table `evals`. Pictures and scores that exist already are not made again.

    Example: imagen evaluate shapes/1 --suite shapes
    """
    from data.lake.lake import Lake
    from imagen.evaluate.evaluation import evaluate as run_evaluation
    from imagen.evaluate.evaluation import plan_evaluation

    settings = settings_of(config, suite, n, seed, guidance, steps)
    evaluation = plan_evaluation(Lake.open(lake), model, settings, *reference_of(dataset))
    with evaluating(workers, as_json) as engine:
        rows = run_evaluation(evaluation, engine, *progress_callbacks())
    if as_json:
        write_json({"model": evaluation.model, "dataset": f"{evaluation.dataset}@{evaluation.version}", "evals": rows})
    else:
        from flows.terminal.model_tables import show_evals

        show_evals(evaluation, rows)


def compare(
    first: ModelArgument,
    second: ModelArgument,
    lake: LakeOption = "lake",
    suite: SuiteOption = None,
    config: SettingsOption = None,
    dataset: Annotated[
        str | None,
        typer.Option(
            show_default=False,
            help="NAME@VERSION with the reference pictures; the second model's training set if not given.",
        ),
    ] = None,
    n: CountOption = None,
    seed: SeedOption = None,
    guidance: GuidanceOption = None,
    steps: StepsOption = None,
    out: Annotated[Path, typer.Option(help="The PNG with pictures side by side.")] = Path("compare.png"),
    pairs: Annotated[int, typer.Option(min=1, help="Number of prompts in the PNG: those that differ most.")] = 16,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Compare two models on the same prompts and seeds.

    Each metric with the difference, its confidence interval, and whether it may be chance.

    Example: imagen compare shapes/1 shapes/2
    """
    from dataclasses import asdict

    from data.lake.lake import Lake
    from imagen.evaluate.compare import compare as differences_of
    from imagen.evaluate.compare import leading_metric, side_by_side
    from imagen.evaluate.evaluation import evaluate as run_evaluation
    from imagen.evaluate.evaluation import plan_evaluation

    settings = settings_of(config, suite, n, seed, guidance, steps)
    after = plan_evaluation(Lake.open(lake), second, settings, *reference_of(dataset))
    before = after.for_model(first)
    with evaluating(workers, as_json) as engine:
        for evaluation in (before, after):
            run_evaluation(evaluation, engine, *progress_callbacks())
    differences = differences_of(before, after)
    side_by_side(before, after, leading_metric(after), pairs).save(out)
    if as_json:
        rows = [asdict(difference) for difference in differences]
        write_json({"before": before.model, "after": after.model, "out": str(out), "differences": rows})
    else:
        from flows.terminal.model_tables import show_comparison

        show_comparison(before, after, differences)
        sys.stdout.write(f"side by side: {out}\n")


def leaderboard(
    lake: LakeOption = "lake",
    suite: Annotated[str | None, typer.Option(show_default=False, help="Only this suite.")] = None,
    metric: Annotated[str | None, typer.Option(show_default=False, help="Order models by this metric.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Rank all evaluated models, best first.

    Models are ranked together if they were evaluated on the same suite, seed and reference dataset.

    Example: imagen leaderboard --metric fd_clip
    """
    from dataclasses import asdict

    from data.lake.lake import Lake
    from imagen.evaluate.leaderboard import boards

    leaderboards = boards(Lake.open(lake), suite, metric)
    if as_json:
        write_json([asdict(board) for board in leaderboards])
    else:
        from flows.terminal.model_tables import show_boards

        show_boards(leaderboards)


def sweep(
    model: ModelArgument,
    guidance: Annotated[str, typer.Option(help="Guidance weights, comma-separated.")] = "1,2,3,5,8",
    steps: Annotated[str | None, typer.Option(show_default=False, help="Sampling steps, comma-separated.")] = None,
    sampler: Annotated[
        str | None, typer.Option(show_default=False, help="Samplers, comma-separated: dpm, ddim, ddpm.")
    ] = None,
    lake: LakeOption = "lake",
    suite: SuiteOption = None,
    config: SettingsOption = None,
    dataset: DatasetOption = None,
    n: CountOption = None,
    seed: SeedOption = None,
    score: Annotated[
        str | None, typer.Option(show_default=False, help="Metric of the horizontal axis: clip_score.")
    ] = None,
    distance: Annotated[
        str | None, typer.Option(show_default=False, help="Metric of the vertical axis: fd_clip.")
    ] = None,
    out: Annotated[Path, typer.Option(help="The SVG to write.")] = Path("sweep.svg"),
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Evaluate a model under several sampling settings.

    Every combination of guidance, steps and sampler is one point of a curve. Points that exist already are kept.

    Example: imagen sweep shapes/1 --guidance 1,3,5,8 --steps 10,30
    """
    from dataclasses import asdict

    from data.lake.lake import Lake
    from imagen.cascade.settings import SAMPLERS
    from imagen.evaluate.sweep import choose_axes, plan_sweep, plot
    from imagen.evaluate.sweep import sweep as run_sweep

    settings = settings_of(config, suite, n, seed, None, None)
    samplers = sampler.split(",") if sampler else []
    for name in samplers:
        if name not in SAMPLERS:
            raise typer.BadParameter(f"there is no sampler {name}: {', '.join(SAMPLERS)}", param_hint="--sampler")
    values = parse_numbers(guidance, "--guidance", float), parse_numbers(steps, "--steps", int), samplers
    evaluations = plan_sweep(Lake.open(lake), model, settings, *values, *reference_of(dataset))
    axes = choose_axes(evaluations[0], score, distance)
    with evaluating(workers, as_json) as engine:
        points = run_sweep(evaluations, engine, axes, *progress_callbacks())
    out.write_text(plot(points, axes))
    if as_json:
        write_json(
            {"score": axes[0], "distance": axes[1], "out": str(out), "points": [asdict(point) for point in points]}
        )
    else:
        from flows.terminal.model_tables import show_points

        show_points(points, axes)
        sys.stdout.write(f"curve: {out}\n")


def report(
    model: Annotated[str, typer.Argument(help="NAME/NUMBER or NAME/champion in the lake.")],
    lake: LakeOption = "lake",
    config: Annotated[
        Path | None,
        typer.Option(show_default=False, help="Evaluation settings (.yaml); those of the model's gate if not given."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The HTML file to write.")] = Path("model.html"),
    workers: WorkersOption = None,
) -> None:
    """Write a report page about a model.

    Figures beside the champion's, pictures, worst prompts, training curves and lineage.

    Example: imagen report shapes/2 --out shapes-2.html
    """
    from data.lake.lake import Lake
    from imagen.champion.report import plan_report
    from imagen.champion.report import report as page
    from imagen.config.evaluation import load_settings
    from imagen.evaluate.evaluation import evaluate as run_evaluation

    settings = load_settings(str(config), {}) if config else None
    trained, evaluation, rival = plan_report(Lake.open(lake), model, settings)
    with evaluating(workers) as engine:
        rows = run_evaluation(evaluation, engine, *progress_callbacks())
        if rival is not None:
            run_evaluation(rival, engine, *progress_callbacks())
    out.write_text(page(trained, evaluation, rows, rival))
    sys.stdout.write(f"{out}: {trained.reference}{f' beside {rival.model}' if rival else ''}\n")


def settings_of(
    config: Path | None, suite: str | None, n: int | None, seed: int | None, guidance: float | None, steps: int | None
) -> Any:
    """Evaluation settings from a file, or the defaults, changed by the options of the command line."""
    from imagen.config.evaluation import load_settings

    changes = set_options(suite=suite, n=n, seed=seed, sampling=set_options(guidance=guidance, steps=steps) or None)
    return load_settings(str(config) if config else None, changes)


def reference_of(dataset: str | None) -> tuple[str | None, int | None]:
    """Name and version of the reference dataset; None twice for that of the model's training."""
    return parse_version(dataset) if dataset else (None, None)


def parse_numbers(text: str | None, option: str, parse: Callable[[str], Any]) -> list[Any]:
    """Parse comma-separated numbers, such as 1,2.5,4; none from None.

    Raises:
        BadParameter: a part is not a number, or below 1.
    """
    try:
        numbers = [parse(part) for part in text.split(",")] if text else []
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a list of numbers such as 1,3,8", param_hint=option) from None
    if any(number < 1 for number in numbers):
        raise typer.BadParameter(f"{text!r} has a number below 1", param_hint=option)
    return numbers


@contextmanager
def evaluating(workers: int | None, silent: bool = False) -> Iterator[Any]:
    """Open the engine of an evaluation and show its progress."""
    import torch

    from data.engine.choose import open_engine
    from flows.terminal.progress import watching

    if torch.cuda.is_available():
        workers = workers or 1
    # One thread per process, so that figures do not depend on the machine: more threads change the last bits of sums.
    with watching(silent=silent), open_engine(workers, threads=1) as engine:
        yield engine


def progress_callbacks() -> tuple[Any, Any]:
    """The callbacks of an evaluation, for plans and for shards, which report to the current watcher."""
    from data.engine.progress import watcher

    stage = ""

    def on_plan(plan: Any) -> None:
        nonlocal stage
        stage = plan.stage.name
        watcher.get().planned(stage, plan.rows)

    return on_plan, lambda written: watcher.get().done(stage, written.rows)
