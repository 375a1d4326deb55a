"""The verbs that say what a model is worth."""

from pathlib import Path
from typing import Annotated, Any

import typer

from flows.make import given
from flows.options import JsonOption, LakeOption, WorkersOption, named, write_json


def evaluate(
    model: Annotated[str, typer.Argument(help="NAME/NUMBER in the lake, a folder or URL.")],
    lake: LakeOption = "lake",
    suite: Annotated[
        str | None,
        typer.Option(show_default=False, help="shapes, or a file or folder of prompts; shapes if not given."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(show_default=False, help="A .yaml of what is asked and measured: docs/evaluation.md.")
    ] = None,
    dataset: Annotated[
        str | None, typer.Option(show_default=False, help="NAME@VERSION to compare with; what it learnt if not given.")
    ] = None,
    n: Annotated[int | None, typer.Option("-n", min=1, show_default=False, help="Pictures of each prompt.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, show_default=False)] = None,
    guidance: Annotated[float | None, typer.Option(show_default=False, help="Other than the model's own.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, show_default=False, help="Other than the model's own.")] = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Make pictures of a suite's prompts and measure them: rows of `evals`. What is there already is not done again.

    Example: imagen evaluate shapes/1 --suite shapes
    """
    import torch

    from data.engine import LocalEngine
    from data.lake import Lake
    from flows.progress import watching
    from imagen.evaluate.evaluation import evaluate as run_evaluation
    from imagen.evaluate.evaluation import planned
    from imagen.evaluate.settings import load_settings

    changes = given(suite=suite, n=n, seed=seed, sampling=given(guidance=guidance, steps=steps) or None)
    settings = load_settings(str(config) if config else None, changes)
    against = named(dataset) if dataset else (None, None)
    evaluation = planned(Lake.open(lake), model, settings, *against)
    if torch.cuda.is_available():
        workers = workers or 1
    # One thread each on a CPU, however many processes there are: sums of more differ in their last bits.
    with watching(silent=as_json), LocalEngine(workers, threads=1) as engine:
        rows = run_evaluation(evaluation, engine, *tellers())
    if as_json:
        write_json({"model": evaluation.model, "dataset": f"{evaluation.dataset}@{evaluation.version}", "evals": rows})
    else:
        from flows.show import show_evals

        show_evals(evaluation, rows)


def tellers() -> tuple[Any, Any]:
    """What is called for each plan and each shard of it, for whoever watches."""
    from flows.progress import watcher

    now = ""

    def planned(plan: Any) -> None:
        nonlocal now
        now = plan.stage.name
        watcher.get().planned(now, plan.rows)

    return planned, lambda written: watcher.get().done(now, written.rows)
