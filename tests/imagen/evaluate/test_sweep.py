"""A sweep does each point once, draws them, and chooses one."""

import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass
from typing import Any

import pytest

from data.engine.stage import Plan
from data.lake.lake import Lake
from data.report.chart import Curve, Point, draw_chart
from data.scorers.clip import ClipScore
from imagen.config.evaluation import EvaluateSettings
from imagen.errors import ConfigError
from imagen.evaluate.evaluation import Evaluation, evaluate, plan_evaluation
from imagen.evaluate.leaderboard import boards, latest_figures
from imagen.evaluate.sweep import Point as Swept
from imagen.evaluate.sweep import _mark_best, choose_axes, plan_sweep, plot, stored_points, sweep
from tests.engines import InProcessEngine
from tests.shared import copy_of


@pytest.fixture(scope="module")
def sweep_settings(tmp_path_factory: pytest.TempPathFactory) -> EvaluateSettings:
    suite = tmp_path_factory.mktemp("suite") / "few.csv"
    rows = [f"a {colour} {kind}" for kind in ("circle", "star") for colour in ("red", "green", "blue", "black")]
    suite.write_text("\n".join(["prompt", *rows]))
    clip = {"clip": ClipScore(model="built-in")}
    return EvaluateSettings(suite=str(suite), clip=clip, distances=("kid", "cmmd"))


@dataclass(frozen=True)
class FinishedSweep:
    evaluation: Evaluation  # of its first point
    points: list[Swept]
    generated: list[int]  # pictures that each evaluation had still to generate


@pytest.fixture(scope="module")
def sweeps(
    three_models_lake: Lake, sweep_settings: EvaluateSettings, tmp_path_factory: pytest.TempPathFactory
) -> tuple[FinishedSweep, FinishedSweep]:
    """A sweep over two guidance weights, and one over the same with another number of steps besides."""
    lake = copy_of(three_models_lake, tmp_path_factory.mktemp("swept") / "lake")

    def run(guidance: list[float], steps: list[int]) -> FinishedSweep:
        generated: list[int] = []

        def count(plan: Plan) -> None:
            generated.extend([plan.rows] if plan.stage.name == "make" else [])

        evaluations = plan_sweep(lake, "little/1", sweep_settings, guidance, steps, [])
        points = sweep(evaluations, InProcessEngine(), choose_axes(evaluations[0]), on_plan=count)
        return FinishedSweep(evaluations[0], points, generated)

    return run([1.0, 4.0], [2]), run([1.0, 4.0], [2, 3])


def test_only_points_that_are_missing_generate_pictures(sweeps: tuple[FinishedSweep, FinishedSweep]) -> None:
    first, second = sweeps
    assert first.generated == [8, 8]
    assert second.generated == [8, 8]  # of three steps alone
    assert [point.score["value"] for point in second.points[:2]] == [point.score["value"] for point in first.points]


def test_points_are_in_the_order_of_steps_and_guidance(sweeps: tuple[FinishedSweep, FinishedSweep]) -> None:
    first, second = sweeps
    assert second.points[:1] + second.points[2:3] != first.points
    assert [point.sampling for point in second.points] == [
        {"steps": steps, "guidance": guidance} for steps in (2, 3) for guidance in (1.0, 4.0)
    ]


def test_each_point_has_its_score_and_one_is_chosen(sweeps: tuple[FinishedSweep, FinishedSweep]) -> None:
    points = sweeps[1].points
    assert sum(point.chosen for point in points) == 1
    assert len({point.score["value"] for point in points}) == 4


def test_points_are_read_from_the_lake_again(sweeps: tuple[FinishedSweep, FinishedSweep]) -> None:
    evaluation, points = sweeps[1].evaluation, sweeps[1].points
    stored = stored_points(evaluation, choose_axes(evaluation))
    assert sorted(point.score["id"] for point in stored) == sorted(point.score["id"] for point in points)


def test_the_plot_names_its_axes_and_points(sweeps: tuple[FinishedSweep, FinishedSweep]) -> None:
    first, second = sweeps
    assert choose_axes(first.evaluation) == ("clip_score", "kid_clip")
    text = texts(plot(second.points, choose_axes(first.evaluation)))
    assert {"steps 2", "steps 3", "clip_score; the numbers are guidance weights", "kid_clip"} <= set(text)
    assert text.count("4.0") == 2


def texts(svg: str) -> list[str | None]:
    return [element.text for element in ElementTree.fromstring(svg).iter() if element.tag.endswith("text")]


def test_the_best_score_that_is_near_enough_is_chosen() -> None:
    def swept(score: float, distance: float, reach: float) -> Swept:
        row: dict[str, Any] = {"value": distance, "low": distance - reach, "high": distance + reach}
        return Swept({}, {"value": score}, row)

    points = _mark_best([swept(0.1, 10, 1), swept(0.3, 11.5, 1), swept(0.9, 20, 1), swept(0.2, 10.5, 1)])
    assert [point.chosen for point in points] == [False, True, False, False]
    assert _mark_best([]) == []


def test_a_drawing_escapes_its_words_and_takes_what_does_not_vary() -> None:
    hostile = '<script>alert("x")</script>'
    chart = draw_chart([Curve(hostile, [Point(1, 5, hostile)], dots=True), Curve("b", [Point(1, 5)])], hostile, "y")
    assert "<script" not in chart
    assert texts(chart).count(hostile) == 3
    losses = draw_chart([Curve("loss", [Point(0, 1.0), Point(10, 0.01)])], "step", "loss", log=True)
    assert {"1", "0.1", "0.01"} <= set(texts(losses))


def test_what_can_not_be_swept_is_one_sentence(three_models: Lake, sweep_settings: EvaluateSettings) -> None:
    evaluation = plan_evaluation(three_models, "little/1", sweep_settings)
    with pytest.raises(ConfigError, match="fid is not measured; measured are right, right_sizes, clip_score, kid_clip"):
        choose_axes(evaluation, distance="fid")
    blind = plan_evaluation(three_models, "little/1", sweep_settings.model_copy(update={"clip": {}}))
    with pytest.raises(ConfigError, match="a sweep needs a distance: score with a CLIP model, or name inception"):
        choose_axes(blind)


def test_a_leaderboard_is_of_evaluations_with_the_same_prompts_and_seed(
    three_models: Lake, sweep_settings: EvaluateSettings
) -> None:
    assert boards(three_models) == []
    for model in ("little/1", "little/2"):
        evaluate(plan_evaluation(three_models, model, sweep_settings), InProcessEngine())
    other = sweep_settings.model_copy(update={"seed": 1})
    evaluate(plan_evaluation(three_models, "little/1", other), InProcessEngine())
    listed = boards(three_models)
    assert [(board.seed, len(board.lines)) for board in listed] == [(1, 1), (0, 2)]
    for metric, way in (("clip_score", -1), ("kid_clip", 1)):
        board = boards(three_models, "few", metric)[1]
        values = [line.figures[metric]["value"] for line in board.lines]
        assert values == sorted(values, key=lambda value: way * value)
    assert listed[0].metrics == ("right", "right_sizes", "clip_score", "kid_clip", "cmmd_clip")
    assert set(latest_figures(three_models)) == {"little/1", "little/2"}
    with pytest.raises(ConfigError, match="fid is not measured on few; measured are right"):
        boards(three_models, metric="fid")
