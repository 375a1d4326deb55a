"""A sweep does each point once, draws them, and chooses one."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path
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


@pytest.fixture
def settings(tmp_path: Path) -> EvaluateSettings:
    rows = [f"a {colour} {kind}" for kind in ("circle", "star") for colour in ("red", "green", "blue", "black")]
    (tmp_path / "few.csv").write_text("\n".join(["prompt", *rows]))
    clip = {"clip": ClipScore(model="built-in")}
    return EvaluateSettings(suite=str(tmp_path / "few.csv"), clip=clip, distances=("kid", "cmmd"))


def test_points_are_pending_until_they_are_there(three_models: Lake, settings: EvaluateSettings) -> None:
    made: list[int] = []

    def count(plan: Plan) -> None:
        made.extend([plan.rows] if plan.stage.name == "make" else [])

    def run(guidance: list[float], steps: list[int]) -> tuple[list[Evaluation], list[Swept]]:
        made.clear()
        asked = plan_sweep(three_models, "little/1", settings, guidance, steps, [])
        return asked, sweep(asked, InProcessEngine(), choose_axes(asked[0]), on_plan=count)

    asked, points = run([1.0, 4.0], [2])
    assert made == [8, 8]
    assert choose_axes(asked[0]) == ("clip_score", "kid_clip")
    again, more = run([1.0, 4.0], [2, 3])
    assert made == [8, 8]  # of three steps alone
    assert more[:1] + more[2:3] != points  # in the order that was asked for: sampler, steps, guidance
    assert [point.sampling for point in more] == [
        {"steps": steps, "guidance": guidance} for steps in (2, 3) for guidance in (1.0, 4.0)
    ]
    assert [point.score["value"] for point in more[:2]] == [point.score["value"] for point in points]
    assert sum(point.chosen for point in more) == 1
    assert len({point.score["value"] for point in more}) == 4
    known = stored_points(again[0], choose_axes(again[0]))
    assert sorted(point.score["id"] for point in known) == sorted(point.score["id"] for point in more)
    drawing = ElementTree.fromstring(plot(more, choose_axes(asked[0])))
    text = [one.text for one in drawing.iter() if one.tag.endswith("text")]
    assert {"steps 2", "steps 3", "clip_score; the numbers are guidance weights", "kid_clip"} <= set(text)
    assert text.count("4.0") == 2


def test_the_best_score_that_is_near_enough_is_chosen() -> None:
    def point(score: float, distance: float, reach: float) -> Swept:
        row: dict[str, Any] = {"value": distance, "low": distance - reach, "high": distance + reach}
        return Swept({}, {"value": score}, row)

    points = _mark_best([point(0.1, 10, 1), point(0.3, 11.5, 1), point(0.9, 20, 1), point(0.2, 10.5, 1)])
    assert [one.chosen for one in points] == [False, True, False, False]
    assert _mark_best([]) == []


def test_a_drawing_escapes_its_words_and_takes_what_does_not_vary() -> None:
    hostile = '<script>alert("x")</script>'
    drawn = draw_chart([Curve(hostile, [Point(1, 5, hostile)], dots=True), Curve("b", [Point(1, 5)])], hostile, "y")
    assert "<script" not in drawn
    texts = [one.text for one in ElementTree.fromstring(drawn).iter() if one.tag.endswith("text")]
    assert texts.count(hostile) == 3
    losses = draw_chart([Curve("loss", [Point(0, 1.0), Point(10, 0.01)])], "step", "loss", log=True)
    assert {"1", "0.1", "0.01"} <= {one.text for one in ElementTree.fromstring(losses).iter()}


def test_what_can_not_be_swept_is_one_sentence(three_models: Lake, settings: EvaluateSettings) -> None:
    evaluation = plan_evaluation(three_models, "little/1", settings)
    with pytest.raises(ConfigError, match="fid is not measured; measured are right, right_sizes, clip_score, kid_clip"):
        choose_axes(evaluation, distance="fid")
    blind = plan_evaluation(three_models, "little/1", settings.model_copy(update={"clip": {}}))
    with pytest.raises(ConfigError, match="a sweep needs a distance: score with a CLIP model, or name inception"):
        choose_axes(blind)


def test_the_leaderboard_puts_those_together_that_were_asked_the_same(
    three_models: Lake, settings: EvaluateSettings
) -> None:
    assert boards(three_models) == []
    for model in ("little/1", "little/2"):
        evaluate(plan_evaluation(three_models, model, settings), InProcessEngine())
    other = settings.model_copy(update={"seed": 1})
    evaluate(plan_evaluation(three_models, "little/1", other), InProcessEngine())
    found = boards(three_models)
    assert [(board.seed, len(board.lines)) for board in found] == [(1, 1), (0, 2)]
    for metric, way in (("clip_score", -1), ("kid_clip", 1)):
        board = boards(three_models, "few", metric)[1]
        values = [line.figures[metric]["value"] for line in board.lines]
        assert values == sorted(values, key=lambda value: way * value)
    assert found[0].metrics == ("right", "right_sizes", "clip_score", "kid_clip", "cmmd_clip")
    assert set(latest_figures(three_models)) == {"little/1", "little/2"}
    with pytest.raises(ConfigError, match="fid is not measured on few; measured are right"):
        boards(three_models, metric="fid")
