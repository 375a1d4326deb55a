"""Two evaluations beside each other: wins, differences and their intervals, side by side."""

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import bootstrap

from data.lake.lake import Lake
from data.pictures.contact_sheet import CELL
from data.scorers.clip import ClipScore
from imagen.config.evaluation import EvaluateSettings
from imagen.evaluate.compare import Difference, compare, direction, side_by_side
from imagen.evaluate.evaluation import Evaluation, evaluate, plan_evaluation
from tests.engines import InProcessEngine
from tests.imagen.metrics.painted import paint
from tests.shared import copy_of

KINDS, COLOURS = ("circle", "square", "star", "cross"), ("red", "green", "blue", "black", "orange", "purple")
COUNT = len(KINDS) * len(COLOURS)
BEFORE, AFTER = set(range(0, COUNT, 2)), set(range(0, COUNT, 3)) | set(range(12))


@pytest.fixture(scope="module")
def pair(three_models_lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> tuple[Evaluation, Evaluation]:
    folder = tmp_path_factory.mktemp("compared")
    rows = [f"a {colour} {kind},{kind}" for kind in KINDS for colour in COLOURS]
    (folder / "few.csv").write_text("\n".join(["prompt,category", *rows]))
    clip = {"clip": ClipScore(model="built-in")}
    settings = EvaluateSettings(suite=str(folder / "few.csv"), clip=clip, distances=("kid", "cmmd", "recall"))
    lake = copy_of(three_models_lake, folder / "lake")
    before, after = (
        paint(plan_evaluation(lake, model, settings), right)
        for model, right in (("little/1", BEFORE), ("little/2", AFTER))
    )
    for evaluation in (before, after):
        evaluate(evaluation, InProcessEngine())
    return before, after


@pytest.fixture(scope="module")
def differences(pair: tuple[Evaluation, Evaluation]) -> dict[tuple[str, str], Difference]:
    """By metric and slice."""
    return {(difference.metric, difference.slice): difference for difference in compare(*pair)}


def test_shares_and_wins_are_those_of_the_painted_pictures(differences: dict[tuple[str, str], Difference]) -> None:
    every = differences["right", "all"]
    assert (every.before, every.after) == (len(BEFORE) / COUNT, len(AFTER) / COUNT)
    assert (every.wins, every.losses) == (len(AFTER - BEFORE), len(BEFORE - AFTER))
    assert every.ties == COUNT - every.wins - every.losses
    assert every.figure.value == pytest.approx(every.after - every.before)


def test_each_category_is_compared_apart(differences: dict[tuple[str, str], Difference]) -> None:
    circles = differences["right", "circle"]
    assert (circles.before, circles.after, circles.wins, circles.losses) == (0.5, 1.0, 3, 0)
    assert {part for metric, part in differences if metric == "clip_score"} == {"all", *KINDS}


def test_every_metric_that_both_have_is_compared(differences: dict[tuple[str, str], Difference]) -> None:
    assert {metric for metric, _ in differences} == {
        "right", "right_sizes", "clip_score", "kid_clip", "cmmd_clip", "recall_clip",
    }  # fmt: skip


def test_an_interval_is_that_of_the_paired_bootstrap(
    pair: tuple[Evaluation, Evaluation], differences: dict[tuple[str, str], Difference]
) -> None:
    before, after = pair
    for metric in ("right", "clip_score"):
        ends = after.picture_values[metric], before.picture_values[metric]
        theirs = bootstrap(
            ends,
            lambda a, b, axis: (a - b).mean(axis),
            paired=True,
            vectorized=True,
            method="percentile",
            rng=np.random.default_rng(1),
        ).confidence_interval
        ours = differences[metric, "all"].figure
        width = theirs.high - theirs.low
        assert ours.low == pytest.approx(theirs.low, abs=0.15 * width)
        assert ours.high == pytest.approx(theirs.high, abs=0.15 * width)


def test_a_distance_differs_by_what_both_evaluations_measured(
    pair: tuple[Evaluation, Evaluation], differences: dict[tuple[str, str], Difference]
) -> None:
    before, after = (
        {row["metric"]: row["value"] for row in evaluation.stored_rows() if row["slice"] == "all"}
        for evaluation in pair
    )
    for (metric, _), difference in differences.items():
        if metric.endswith("_clip"):
            figure = difference.figure
            assert (difference.before, difference.after) == pytest.approx((before[metric], after[metric]))
            assert figure.value == pytest.approx(after[metric] - before[metric])
            assert figure.low <= figure.value <= figure.high or metric == "recall_clip"
    assert (direction("kid_clip"), direction("right"), direction("recall_clip")) == (-1, 1, 1)


def test_a_model_beside_itself_is_no_different(pair: tuple[Evaluation, Evaluation]) -> None:
    for difference in compare(pair[0], pair[0]):
        figure = difference.figure
        assert (figure.value, figure.low, figure.high, difference.wins, difference.losses) == (0, 0, 0, 0, 0)


def test_those_that_differ_most_are_side_by_side(pair: tuple[Evaluation, Evaluation], tmp_path: Path) -> None:
    sheet = side_by_side(*pair, "right", 8)
    assert sheet.width > 4 * CELL
    assert sheet.height > 4 * CELL
    before, after = pair
    assert [np.asarray(picture).shape for picture in before.pictures([5, 2])] == [(64, 64, 3)] * 2
    first, second = before.pictures([1]), after.pictures([1])  # a green circle, and what is none
    assert np.abs(np.asarray(first[0], int) - np.asarray(second[0], int)).max() > 100
