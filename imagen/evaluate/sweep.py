"""A sweep: one model sampled in several ways, each an evaluation of its own (a point), pending until it is there.

The curve is the Imagen paper's (section 4.4): how well pictures are what their prompts say, over how far they are from
real ones. More guidance moves along it.
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
from data.report.chart import Point as Dot
from imagen.config.evaluation import EvaluateSettings
from imagen.errors import ConfigError
from imagen.evaluate.compare import better
from imagen.evaluate.evals import find_evals
from imagen.evaluate.evaluation import ALL, Evaluation, evaluate, plan_evaluation

Row = dict[str, Any]
SWEPT = ("sampler", "steps", "guidance")


@dataclass(frozen=True)
class Point:
    """One way of sampling, and the two figures that it came to."""

    sampling: dict[str, Any]
    score: Row
    distance: Row
    chosen: bool = False


def points_of(
    lake: Lake,
    model: str,
    settings: EvaluateSettings,
    guidance: Sequence[float],
    steps: Sequence[int],
    samplers: Sequence[str],
    dataset: str | None = None,
    version: int | None = None,
) -> list[Evaluation]:
    """Every combination; what is not swept stays as the settings or the model have it."""
    found = []
    swept: list[Sequence[Any]] = [samplers or [None], steps or [None], guidance or [None]]
    for values in product(*swept):
        changes = {name: value for name, value in zip(SWEPT, values, strict=True) if value is not None}
        changed = settings.model_copy(update={"sampling": {**settings.sampling, **changes}})
        found.append(plan_evaluation(lake, model, changed, dataset, version))
    return found


def axes_of(evaluation: Evaluation, score: str | None = None, distance: str | None = None) -> tuple[str, str]:
    """The names of what is drawn: by default the first CLIP's score, and FID or what there is of its kind."""
    names = list(dict.fromkeys(metric for metric, _ in evaluation.names()))
    scores = [name for name in names if better(name) > 0]
    distances = sorted((name for name in names if better(name) < 0), key=lambda name: name != "fd_inception")
    if not distances:
        raise ConfigError("a sweep needs a distance: score with a CLIP model, or name inception or dinov2 in --config")
    score = score or next((name for name in scores if name.endswith("_score")), scores[0])
    distance = distance or distances[0]
    for name in (score, distance):
        if name not in names:
            raise ConfigError(f"{name} is not measured; measured are {', '.join(names)}")
    return score, distance


def sweep(
    evaluations: Sequence[Evaluation],
    engine: Engine,
    axes: tuple[str, str],
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_shard: Callable[[ShardResult], None] = lambda written: None,
) -> list[Point]:
    """The points, after evaluating those that are not there yet."""
    rows = [one.known() or evaluate(one, engine, on_plan, on_shard) for one in evaluations]
    samplings = [one.asking.sampling for one in evaluations]
    return _chosen([_point(*pair, axes) for pair in zip(samplings, rows, strict=True)])


def known_points(like: Evaluation, axes: tuple[str, str]) -> list[Point]:
    """Every point of this model, suite, seed and reference that was ever evaluated."""
    settings = json.loads(like.said_settings)
    same = {"digest": like.asking.digest, "suite_id": like.asking.suite.id, "seed": like.asking.seed}
    same |= {"dataset": like.dataset, "version": like.version, "slice": ALL}
    found: dict[str, list[Row]] = {}
    for row in find_evals(like.lake).values():
        said = json.loads(row["settings"])
        if all(row[name] == value for name, value in same.items()) and said == {
            **settings,
            "sampling": said["sampling"],
        }:
            found.setdefault(json.dumps(said["sampling"], sort_keys=True), []).append(row)
    whole = {said: rows for said, rows in found.items() if {*axes} <= {row["metric"] for row in rows}}
    return _chosen([_point(json.loads(said), rows, axes) for said, rows in sorted(whole.items())])


def plot(points: Sequence[Point], axes: tuple[str, str]) -> Markup:
    """A curve for each sampler and number of steps, from point to point of guidance; the chosen point ringed."""
    curves: dict[str, list[Point]] = {}
    for point in points:
        rest = {name: value for name, value in point.sampling.items() if name != "guidance"}
        curves.setdefault(", ".join(f"{name} {value}" for name, value in rest.items()) or "as trained", []).append(
            point
        )
    across = f"{axes[0]}; the numbers are weights of guidance"
    return draw_chart([Curve(name, _dots(of), dots=True) for name, of in curves.items()], across, axes[1])


def _dots(points: Sequence[Point]) -> list[Dot]:
    ordered = sorted(points, key=lambda point: _number(point.sampling.get("guidance")))
    return [
        Dot(
            point.score["value"],
            point.distance["value"],
            str(point.sampling.get("guidance", "")),
            (point.score["low"], point.score["high"]),
            (point.distance["low"], point.distance["high"]),
            point.chosen,
        )
        for point in ordered
    ]


def _number(value: Any) -> float:
    """What is not swept, or differs from stage to stage, comes first."""
    return float(value) if isinstance(value, int | float) else -1.0


def _point(sampling: dict[str, Any], rows: Sequence[Row], axes: tuple[str, str]) -> Point:
    whole = {row["metric"]: row for row in rows if row["slice"] == ALL}
    return Point(sampling, whole[axes[0]], whole[axes[1]])


def _chosen(points: list[Point]) -> list[Point]:
    """The best score among the points that are not surely further from real pictures than the nearest is."""
    if not points:
        return []
    nearest = min(points, key=lambda point: point.distance["value"])
    near = [point for point in points if point.distance["low"] <= nearest.distance["high"]]
    best = max(near, key=lambda point: point.score["value"])
    return [replace(point, chosen=point is best) for point in points]
