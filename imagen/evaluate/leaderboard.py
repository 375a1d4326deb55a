"""The leaderboard: models ranked by the rows of `evals` that have the same suite, seed, reference and scorers."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.lake.lake import Lake
from imagen.errors import ConfigError
from imagen.evaluate.compare import direction
from imagen.evaluate.evals import find_evals
from imagen.evaluate.evaluation import ALL

METRIC_ORDER = ("right", "vqa", "score", "fd", "kid", "cmmd")  # kinds of metrics; others come last


@dataclass(frozen=True)
class Line:
    """A model with one set of sampling settings, and its rows of `evals` by metric."""

    model: str
    sampling: dict[str, Any]
    figures: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Board:
    """Models that were evaluated in the same way, the best first.

    Attributes:
        n: number of pictures for each prompt.
        by: the metric by which the lines are sorted.
    """

    suite: str
    dataset: str
    version: int
    seed: int
    n: int
    by: str
    metrics: tuple[str, ...]
    lines: tuple[Line, ...]


def boards(lake: Lake, suite: str | None = None, metric: str | None = None) -> list[Board]:
    """Return a leaderboard for each suite, seed, reference and set of scorers, the most recently evaluated first.

    Args:
        suite: only boards of this suite.
        metric: the metric by which models are sorted; by default the first metric of each board.

    Raises:
        ConfigError: a board does not have the metric.
    """
    rows_by_board: dict[tuple[Any, ...], dict[tuple[str, str], list[dict[str, Any]]]] = {}
    for row in sorted(find_evals(lake).values(), key=lambda row: row["made"]):
        if row["slice"] != ALL or suite not in (None, row["suite"]):
            continue
        settings = json.loads(row["settings"])
        scorers = json.dumps(settings["scorers"], sort_keys=True)
        board = (row["suite"], row["suite_id"], row["dataset"], row["version"], row["seed"], settings["n"], scorers)
        line = (row["model"], json.dumps(settings["sampling"], sort_keys=True))
        rows_by_board.setdefault(board, {}).setdefault(line, []).append(row)
    return [_board(board, rows_by_line, metric) for board, rows_by_line in reversed(rows_by_board.items())]


def latest_figures(lake: Lake) -> dict[str, dict[str, dict[str, Any]]]:
    """Return the newest row of `evals` over all prompts, keyed by model and metric."""
    rows_by_model: dict[str, dict[str, dict[str, Any]]] = {}
    for row in sorted(find_evals(lake).values(), key=lambda row: row["made"]):
        if row["slice"] == ALL:
            rows_by_model.setdefault(row["model"], {})[row["metric"]] = row
    figures = {}
    for model, rows in rows_by_model.items():
        figures[model] = {metric: rows[metric] for metric in _order_metrics(set(rows))}
    return figures


def _board(
    key: tuple[Any, ...], rows_by_line: dict[tuple[str, str], list[dict[str, Any]]], metric: str | None
) -> Board:
    lines = []
    for (model, sampling), rows in rows_by_line.items():
        lines.append(Line(model, json.loads(sampling), {row["metric"]: row for row in rows}))
    suite, _, dataset, version, seed, n, _ = key
    metrics = _order_metrics({name for line in lines for name in line.figures})
    by = metric or metrics[0]
    if by not in metrics:
        raise ConfigError(f"{by} is not measured on {suite}; measured are {', '.join(metrics)}")
    lines.sort(key=lambda line: _rank(line, by))
    return Board(suite, dataset, version, seed, n, by, tuple(metrics), tuple(lines))


def _order_metrics(metrics: set[str]) -> Sequence[str]:
    """Return the metrics in the order of `METRIC_ORDER`, then by name."""

    def place(metric: str) -> tuple[int, str]:
        kind = "score" if metric.endswith("_score") else metric.split("_")[0]
        return METRIC_ORDER.index(kind) if kind in METRIC_ORDER else len(METRIC_ORDER), metric

    return sorted(metrics, key=place)


def _rank(line: Line, metric: str) -> tuple[bool, float]:
    """Return a sort key that puts better values first and models without a value last."""
    row = line.figures.get(metric)
    return (True, 0.0) if row is None else (False, -direction(metric) * row["value"])
