"""A sweep: evaluate one model with several sampling settings. Each evaluation is a point, and is done once.

The curve is that of the Imagen paper (section 4.4). It shows the match between pictures and prompts against the
distance from real pictures, for growing guidance weights.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from markupsafe import Markup

from data.engine.pool import Engine
from data.engine.stage import Plan, ShardResult
from data.lake.lake import Lake
from data.report.chart import Curve, draw_chart
from data.report.chart import Point as ChartPoint
from imagen.config.evaluation import EvaluateSettings
from imagen.errors import ConfigError
from imagen.evaluate.compare import direction
from imagen.evaluate.evals import find_evals
from imagen.evaluate.evaluation import ALL, Evaluation, evaluate, plan_evaluation

Row = dict[str, Any]
SWEPT_OPTIONS = ("sampler", "steps", "guidance")


@dataclass(frozen=True)
class Point:
    """Sampling settings with their rows of `evals` for the score and the distance.

    The best point is marked as chosen.
    """

    sampling: dict[str, Any]
    score: Row
    distance: Row
    chosen: bool = False


def plan_sweep(
    lake: Lake,
    model: str,
    settings: EvaluateSettings,
    guidance: Sequence[float],
    steps: Sequence[int],
    samplers: Sequence[str],
    dataset: str | None = None,
    version: int | None = None,
) -> list[Evaluation]:
    """Plan an evaluation for every combination of samplers, steps and guidance weights.

    If a list is empty, that option does not vary: its value comes from the settings or the model.

    Raises:
        ImagenError: an evaluation can't be planned; see `plan_evaluation`.
    """
    evaluations = []
    options: list[Sequence[Any]] = [samplers or [None], steps or [None], guidance or [None]]
    for values in product(*options):
        changes = {name: value for name, value in zip(SWEPT_OPTIONS, values, strict=True) if value is not None}
        changed = settings.model_copy(update={"sampling": {**settings.sampling, **changes}})
        evaluations.append(plan_evaluation(lake, model, changed, dataset, version))
    return evaluations


def choose_axes(evaluation: Evaluation, score: str | None = None, distance: str | None = None) -> tuple[str, str]:
    """Return the metrics of the horizontal axis (a score) and the vertical axis (a distance).

    Args:
        score: by default the first that ends in `_score`, else the first metric in which higher is better.
        distance: by default `fd_inception` (FID), else the first distance.

    Raises:
        ConfigError: a metric is not measured, or no distance is.
    """
    metrics = list(dict.fromkeys(metric for metric, _ in evaluation.figure_names()))
    scores = [metric for metric in metrics if direction(metric) > 0]
    scores.sort(key=lambda metric: not metric.endswith("_score"))
    distances = [metric for metric in metrics if direction(metric) < 0]
    distances.sort(key=lambda metric: metric != "fd_inception")
    if not distances:
        raise ConfigError("a sweep needs a distance: score with a CLIP model, or name inception or dinov2 in --config")
    axes = score or scores[0], distance or distances[0]
    for metric in axes:
        if metric not in metrics:
            raise ConfigError(f"{metric} is not measured; measured are {', '.join(metrics)}")
    return axes


def sweep(
    evaluations: Sequence[Evaluation],
    engine: Engine,
    axes: tuple[str, str],
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_shard: Callable[[ShardResult], None] = lambda result: None,
) -> list[Point]:
    """Run the evaluations that are not complete, and return their points, one of them chosen.

    Args:
        axes: the score and the distance, as `choose_axes` returns them.
        on_plan: called with each stage's plan.
        on_shard: called with each shard that is committed.
    """
    points = []
    for evaluation in evaluations:
        rows = evaluation.stored_rows() or evaluate(evaluation, engine, on_plan, on_shard)
        points.append(_point(evaluation.generation.sampling, rows, axes))
    return _mark_best(points)


def stored_points(evaluation: Evaluation, axes: tuple[str, str]) -> list[Point]:
    """Return the points of all stored evaluations that differ from this one only in the sampling settings."""
    settings = json.loads(evaluation.settings_json)
    columns = {
        "digest": evaluation.generation.digest,
        "suite_id": evaluation.generation.suite.id,
        "seed": evaluation.generation.seed,
        "dataset": evaluation.dataset,
        "version": evaluation.version,
        "slice": ALL,
    }
    rows_by_sampling: dict[str, list[Row]] = {}
    for row in find_evals(evaluation.lake).values():
        row_settings = json.loads(row["settings"])
        sampling = row_settings["sampling"]
        same_columns = all(row[name] == value for name, value in columns.items())
        if same_columns and row_settings == {**settings, "sampling": sampling}:
            rows_by_sampling.setdefault(json.dumps(sampling, sort_keys=True), []).append(row)
    points = []
    for sampling_json, rows in sorted(rows_by_sampling.items()):
        if {*axes} <= {row["metric"] for row in rows}:
            points.append(_point(json.loads(sampling_json), rows, axes))
    return _mark_best(points)


def plot(points: Sequence[Point], axes: tuple[str, str]) -> Markup:
    """Draw the distance over the score as SVG: a curve for each sampler and number of steps, the chosen point ringed.

    A curve connects its points in the order of their guidance weights.
    """
    curves: dict[str, list[Point]] = {}
    for point in points:
        fixed = {name: value for name, value in point.sampling.items() if name != "guidance"}
        label = ", ".join(f"{name} {value}" for name, value in fixed.items()) or "as trained"
        curves.setdefault(label, []).append(point)
    x_label = f"{axes[0]}; the numbers are guidance weights"
    return draw_chart([Curve(label, _chart_points(of), dots=True) for label, of in curves.items()], x_label, axes[1])


def _chart_points(points: Sequence[Point]) -> list[ChartPoint]:
    ordered = sorted(points, key=lambda point: _guidance_order(point.sampling.get("guidance")))
    return [
        ChartPoint(
            point.score["value"],
            point.distance["value"],
            str(point.sampling.get("guidance", "")),
            (point.score["low"], point.score["high"]),
            (point.distance["low"], point.distance["high"]),
            point.chosen,
        )
        for point in ordered
    ]


def _guidance_order(guidance: Any) -> float:
    """Return a sort key by guidance weight. A guidance that is not given, or that differs by stage, comes first."""
    return float(guidance) if isinstance(guidance, int | float) else -1.0


def _point(sampling: dict[str, Any], rows: Sequence[Row], axes: tuple[str, str]) -> Point:
    by_metric = {row["metric"]: row for row in rows if row["slice"] == ALL}
    return Point(sampling, by_metric[axes[0]], by_metric[axes[1]])


def _mark_best(points: list[Point]) -> list[Point]:
    """Choose the best score among the points whose distance is not significantly above the smallest distance."""
    if not points:
        return []
    nearest = min(points, key=lambda point: point.distance["value"])
    candidates = [point for point in points if point.distance["low"] <= nearest.distance["high"]]
    best = max(candidates, key=lambda point: point.score["value"])
    return [replace(point, chosen=point is best) for point in points]
