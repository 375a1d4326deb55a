"""Two models beside each other: the same prompts and seeds, so that each prompt's pictures differ by the model alone.

Prompts are resampled for both at once: what is easy or hard for both does not widen the interval of their difference.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from data.pictures.contact_sheet import draw_contact_sheet
from imagen.evaluate.evaluation import ALL, Evaluation
from imagen.metrics.intervals import Figure, Statistic, mean, statistic

LOWER = ("fd", "kid", "cmmd")  # distances, of which less is better; of all else more is
SAME = 1e-9  # a difference of less is none


@dataclass(frozen=True)
class Difference:
    """What a metric says of the second model and not of the first, on one slice."""

    metric: str
    slice: str
    before: float
    after: float
    figure: Figure  # after - before
    wins: int = 0  # prompts that the second has better; none of a distance, which has no single ones
    losses: int = 0
    ties: int = 0


def compare(before: Evaluation, after: Evaluation) -> list[Difference]:
    """Every metric that both were evaluated by."""
    return [*_of_pictures(before, after), *_of_sets(before, after)]


def better(metric: str) -> int:
    """1 if more is better, -1 if less is."""
    return -1 if metric.split("_")[0] in LOWER else 1


def side_by_side(before: Evaluation, after: Evaluation, metric: str, count: int) -> Image.Image:
    """Pairs of pictures of the prompts that differ most, of each category in turn."""
    numbers = _most_different(before, after, metric, count)
    prompts = after.asking.suite.prompts
    pictures, captions = [], []
    for number, *pair in zip(numbers, before.pictures(numbers), after.pictures(numbers), strict=True):
        pictures += pair
        captions += [f"{one.model}: {prompts[number].text}" for one in (before, after)]
    return draw_contact_sheet(pictures, captions, 4)


def _of_pictures(before: Evaluation, after: Evaluation) -> Iterator[Difference]:
    seed, numbers = after.asking.seed, after.numbers
    for metric, values in after.said.items():
        if metric not in before.said:
            continue
        others = before.said[metric]
        apart = values - others
        known = ~np.isnan(apart)
        for part, within in after.slices.items():
            if not (chosen := within & known).any():
                continue
            of_prompts = better(metric) * _means(apart[chosen], numbers[chosen])
            wins, losses = int((of_prompts > SAME).sum()), int((of_prompts < -SAME).sum())
            figure = mean(apart[chosen], seed, numbers[chosen])
            ends = float(others[chosen].mean()), float(values[chosen].mean())
            yield Difference(metric, part, *ends, figure, wins, losses, len(of_prompts) - wins - losses)


def _of_sets(before: Evaluation, after: Evaluation) -> Iterator[Difference]:
    first = {metric: of for metric, of, _, _ in before.between()}
    for metric, of, groups, resamples in after.between():
        if metric in first:
            once = np.ones((1, len(groups)))
            ends = float(first[metric](once)[0]), float(of(once)[0])
            figure = statistic(_apart(first[metric], of), groups, after.asking.seed, resamples)
            yield Difference(metric, ALL, *ends, figure)


def _apart(first: Statistic, second: Statistic) -> Callable[[np.ndarray], np.ndarray]:
    return lambda counts: second(counts) - first(counts)


def _means(values: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """Of each prompt."""
    which = np.unique(numbers, return_inverse=True)[1]
    means: np.ndarray = np.bincount(which, values) / np.bincount(which)
    return means


def _most_different(before: Evaluation, after: Evaluation, metric: str, count: int) -> list[int]:
    """Numbers of prompts, one of each category in turn, the most different first."""
    apart = np.abs(_means(np.nan_to_num(after.said[metric] - before.said[metric]), after.numbers))
    prompts = after.asking.suite.prompts
    order = sorted(range(len(prompts)), key=lambda number: -apart[number])
    place: dict[str, int] = {}
    turn = {}
    for number in order:
        category = prompts[number].category
        turn[number] = place[category] = place.get(category, -1) + 1
    return sorted(order, key=lambda number: turn[number])[:count]
