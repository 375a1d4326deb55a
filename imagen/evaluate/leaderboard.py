"""The leaderboard: the rows of `evals` beside each other, where they were asked the same and held against the same."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.lake.lake import Lake
from imagen.errors import ConfigError
from imagen.evaluate.compare import better
from imagen.evaluate.evals import find_evals
from imagen.evaluate.evaluation import ALL


@dataclass(frozen=True)
class Line:
    """One model, sampled in one way."""

    model: str
    sampling: dict[str, Any]
    figures: dict[str, dict[str, Any]]  # rows of `evals` by metric


@dataclass(frozen=True)
class Board:
    suite: str
    dataset: str
    version: int
    seed: int
    n: int  # pictures of each prompt
    by: str  # the metric that lines are ordered by
    metrics: tuple[str, ...]
    lines: tuple[Line, ...]  # the best first


def boards(lake: Lake, suite: str | None = None, metric: str | None = None) -> list[Board]:
    """One for each suite, seed, reference and way of scoring; ordered by a metric, or by the first of each."""
    found: dict[tuple[Any, ...], dict[tuple[str, str], list[dict[str, Any]]]] = {}
    for row in sorted(find_evals(lake).values(), key=lambda row: row["made"]):
        if row["slice"] != ALL or suite not in (None, row["suite"]):
            continue
        said = json.loads(row["settings"])
        scorers = json.dumps(said["scorers"], sort_keys=True)
        same = (row["suite"], row["suite_id"], row["dataset"], row["version"], row["seed"], said["n"], scorers)
        line = (row["model"], json.dumps(said["sampling"], sort_keys=True))
        found.setdefault(same, {}).setdefault(line, []).append(row)
    return [_board(same, lines, metric) for same, lines in reversed(found.items())]


def latest(lake: Lake) -> dict[str, dict[str, dict[str, Any]]]:
    """Of each model its newest figures over all prompts, by metric."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for row in sorted(find_evals(lake).values(), key=lambda row: row["made"]):
        if row["slice"] == ALL:
            found.setdefault(row["model"], {})[row["metric"]] = row
    return {model: {name: rows[name] for name in _ordered(set(rows))} for model, rows in found.items()}


def _board(same: tuple[Any, ...], found: dict[tuple[str, str], list[dict[str, Any]]], metric: str | None) -> Board:
    lines = [
        Line(model, json.loads(sampling), {row["metric"]: row for row in rows})
        for (model, sampling), rows in found.items()
    ]
    metrics = _ordered({name for line in lines for name in line.figures})
    by = metric or metrics[0]
    if by not in metrics:
        raise ConfigError(f"{by} is not measured on {same[0]}; measured are {', '.join(metrics)}")
    lines.sort(key=lambda line: _rank(line, by))
    suite, _, dataset, version, seed, n, _ = same
    return Board(suite, dataset, version, seed, n, by, tuple(metrics), tuple(lines))


def _ordered(metrics: set[str]) -> Sequence[str]:
    """Whether pictures are right, scores, distances, and what else there is."""
    kinds = ("right", "vqa", "fd", "kid", "cmmd")

    def place(name: str) -> tuple[float, str]:
        kind = name.split("_")[0]
        return (1.5 if name.endswith("_score") else kinds.index(kind) if kind in kinds else len(kinds), name)

    return sorted(metrics, key=place)


def _rank(line: Line, metric: str) -> tuple[bool, float]:
    row = line.figures.get(metric)
    return (True, 0.0) if row is None else (False, -better(metric) * row["value"])
