"""Compare two models on the same prompts and seeds, so that a prompt's pictures differ only by the model.

Prompts are resampled for both models at once (paired bootstrap): a prompt that is easy or hard for both does not widen
the interval of the difference.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data.pictures.contact_sheet import draw_contact_sheet
from imagen.errors import ConfigError
from imagen.evaluate.evaluation import ALL, Evaluation
from imagen.metrics.intervals import Figure, Statistic, bootstrap_mean, bootstrap_statistic

LOWER_IS_BETTER = ("fd", "kid", "cmmd")  # distances; higher is better in all other metrics
TIE_TOLERANCE = 1e-9  # a smaller difference is a tie


@dataclass(frozen=True)
class Difference:
    """The difference between two models in one metric, on one slice.

    Attributes:
        before: value of the first model.
        after: value of the second model.
        figure: after - before, with its interval.
        wins: number of prompts on which the second model is better; 0 for distances, which have no value per prompt.
        losses: number of prompts on which the first model is better.
        ties: number of prompts on which both are equal.
    """

    metric: str
    slice: str
    before: float
    after: float
    figure: Figure
    wins: int = 0
    losses: int = 0
    ties: int = 0


def compare(before: Evaluation, after: Evaluation) -> list[Difference]:
    """Return the differences in every metric that both models were evaluated with.

    Args:
        before: the complete evaluation of the first model.
        after: the complete evaluation of the second model, on the same prompts and seed.
    """
    return [*_picture_differences(before, after), *_distance_differences(before, after)]


def direction(metric: str) -> int:
    """Return 1 if higher values of a metric are better, -1 if lower ones are."""
    return -1 if metric.split("_")[0] in LOWER_IS_BETTER else 1


def leading_metric(evaluation: Evaluation) -> str:
    """Return the metric by which prompts are sorted: the first metric of single pictures.

    Raises:
        ConfigError: no metric of single pictures is measured.
    """
    if not evaluation.picture_values:
        raise ConfigError("no metric of single pictures is measured: score with a CLIP model, or use the suite shapes")
    return next(iter(evaluation.picture_values))


def side_by_side(before: Evaluation, after: Evaluation, metric: str, count: int) -> Image.Image:
    """Return a contact sheet of both models' pictures, for the prompts on which the models differ most.

    Args:
        metric: the metric of single pictures that defines the difference.
        count: the number of prompts, taken from each category in turn.
    """
    numbers = _most_different(before, after, metric, count)
    prompts = after.generation.suite.prompts
    pictures, captions = [], []
    for number, *pair in zip(numbers, before.pictures(numbers), after.pictures(numbers), strict=True):
        pictures += pair
        captions += [f"{evaluation.model}: {prompts[number].text}" for evaluation in (before, after)]
    return draw_contact_sheet(pictures, captions, 4)


def _picture_differences(before: Evaluation, after: Evaluation) -> Iterator[Difference]:
    """Yield the differences in metrics of single pictures, on every slice."""
    seed, numbers = after.generation.seed, after.prompt_numbers
    for metric, after_values in after.picture_values.items():
        if metric not in before.picture_values:
            continue
        before_values = before.picture_values[metric]
        changes = after_values - before_values
        measured = ~np.isnan(changes)
        for part, members in after.slices.items():
            chosen = members & measured
            if not chosen.any():
                continue
            gains = direction(metric) * _prompt_means(changes[chosen], numbers[chosen])
            wins, losses = int((gains > TIE_TOLERANCE).sum()), int((gains < -TIE_TOLERANCE).sum())
            figure = bootstrap_mean(changes[chosen], seed, numbers[chosen])
            means = float(before_values[chosen].mean()), float(after_values[chosen].mean())
            yield Difference(metric, part, *means, figure, wins, losses, len(gains) - wins - losses)


def _distance_differences(before: Evaluation, after: Evaluation) -> Iterator[Difference]:
    """Yield the differences in distances between sets of pictures."""
    before_statistics = {metric: statistic for metric, statistic, _, _ in before.distance_statistics()}
    for metric, after_statistic, groups, resamples in after.distance_statistics():
        if metric in before_statistics:
            before_statistic = before_statistics[metric]
            each_once = np.ones((1, len(groups)))
            values = float(before_statistic(each_once)[0]), float(after_statistic(each_once)[0])
            difference = _difference_statistic(before_statistic, after_statistic)
            figure = bootstrap_statistic(difference, groups, after.generation.seed, resamples)
            yield Difference(metric, ALL, *values, figure)


def _difference_statistic(before: Statistic, after: Statistic) -> Statistic:
    return lambda counts: after(counts) - before(counts)


def _prompt_means(values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Return the mean of each prompt's values, in the order of the prompts' numbers."""
    index_of = np.unique(numbers, return_inverse=True)[1]
    means: np.ndarray = np.bincount(index_of, values) / np.bincount(index_of)
    return means


def _most_different(before: Evaluation, after: Evaluation, metric: str, count: int) -> list[int]:
    """Return the numbers of the prompts that differ most: first the first of each category, then the second of each."""
    changes = np.nan_to_num(after.picture_values[metric] - before.picture_values[metric])
    sizes = np.abs(_prompt_means(changes, after.prompt_numbers))
    prompts = after.generation.suite.prompts
    order = sorted(range(len(prompts)), key=lambda number: -sizes[number])
    category_counts: dict[str, int] = {}
    turn = {}  # of each prompt: its place within its category
    for number in order:
        category = prompts[number].category
        turn[number] = category_counts.get(category, 0)
        category_counts[category] = turn[number] + 1
    return sorted(order, key=lambda number: turn[number])[:count]
