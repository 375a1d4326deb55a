"""An evaluation of a little cascade: what it says, that it repeats, and that a killed one does only what is missing."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.engine.local import LocalEngine
from data.engine.stage import Plan
from data.lake.lake import Lake
from data.pictures.prepare import decode
from data.scorers.clip import ClipScore
from data.world.check import caption_is_true
from imagen.config.evaluation import EvaluateSettings
from imagen.errors import ModelNotUsable
from imagen.evaluate.evals import TABLE
from imagen.evaluate.evaluation import Evaluation, evaluate, plan_evaluation
from imagen.models.model import Imagen
from tests.engines import EngineKilledAfterOneShard, InProcessEngine
from tests.shared import copy_of

PROMPTS = 20
Figures = dict[tuple[str, str], tuple[float, float, float, int]]  # value, low, high and number by metric and slice


@pytest.fixture(scope="module")
def evaluated_lake(pictured_lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return copy_of(pictured_lake, tmp_path_factory.mktemp("evaluated") / "lake")


@pytest.fixture
def pictured_copy(pictured_lake: Lake, tmp_path: Path) -> Lake:
    return copy_of(pictured_lake, tmp_path / "lake")


@pytest.fixture(scope="module")
def evaluation_settings(tmp_path_factory: pytest.TempPathFactory) -> EvaluateSettings:
    suite = tmp_path_factory.mktemp("suite") / "few.csv"
    kinds = ("circle", "square", "star", "ring", "cross")
    rows = [f"a {colour} {kind},{kind}" for colour in ("red", "green", "blue", "black") for kind in kinds]
    suite.write_text("\n".join(["prompt,category", *rows]))
    return EvaluateSettings(
        suite=str(suite), clip={"clip": ClipScore(model="built-in")}, distances=("kid", "cmmd", "precision")
    )


def of(lake: Lake, settings: EvaluateSettings, **more: Any) -> Evaluation:
    return plan_evaluation(lake, "little/1", settings, **more)


def figures_of(rows: list[dict[str, Any]]) -> Figures:
    return {(row["metric"], row["slice"]): (row["value"], row["low"], row["high"], row["n"]) for row in rows}


@dataclass(frozen=True)
class Evaluated:
    evaluation: Evaluation
    figures: Figures
    pictures: dict[str, Image.Image]  # by their prompts, in the order of the table


@pytest.fixture(scope="module")
def evaluated(evaluated_lake: Lake, evaluation_settings: EvaluateSettings) -> Evaluated:
    evaluation = of(evaluated_lake, evaluation_settings)
    figures = figures_of(evaluate(evaluation, InProcessEngine()))
    rows = evaluation.picture_lake.table("images").dataset().to_table(columns=["id", "image"]).to_pylist()
    pairs = evaluation.picture_lake.table("pairs").dataset().to_table(columns=["id", "caption"]).to_pylist()
    captions = {pair["id"]: pair["caption"] for pair in pairs}
    assert len(rows) == len(captions) == PROMPTS
    assert {len(row["image"]) > 0 for row in rows} == {True}
    return Evaluated(evaluation, figures, {captions[row["id"]]: decode(row["image"]) for row in rows})


def test_every_metric_is_measured_on_all_prompts_and_those_of_pictures_on_each_category(evaluated: Evaluated) -> None:
    slices = ("all", "circle", "square", "star", "ring", "cross")
    assert set(evaluated.figures) == {
        *((metric, part) for metric in ("right", "right_sizes", "clip_score") for part in slices),
        *((f"{distance}_clip", "all") for distance in ("kid", "cmmd", "precision")),
    }


def test_pictures_are_those_that_the_model_generates_by_their_seeds(evaluated: Evaluated, evaluated_lake: Lake) -> None:
    model, table = Imagen.from_pretrained("little/1", evaluated_lake.url), evaluated.evaluation.rows
    prompts = list(evaluated.pictures)[:2]
    seeds = [table["seed"][table["caption"].index(prompt)] for prompt in prompts]
    again = model.generate_images(prompts, seed=seeds)
    for prompt, picture in zip(prompts, again, strict=True):
        assert np.abs(np.asarray(picture, int) - np.asarray(evaluated.pictures[prompt], int)).max() <= 1


def test_the_share_of_right_pictures_is_that_of_the_pictures_themselves(evaluated: Evaluated) -> None:
    right = np.mean([caption_is_true(picture, prompt).true for prompt, picture in evaluated.pictures.items()])
    assert evaluated.figures["right", "all"][0] == pytest.approx(right)


def test_a_score_has_its_interval_and_its_number_of_pictures(evaluated: Evaluated) -> None:
    assert evaluated.figures["clip_score", "star"][3] == 4
    value, low, high, n = evaluated.figures["clip_score", "all"]
    assert low < value < high
    assert n == PROMPTS


def test_a_killed_evaluation_does_only_what_is_missing_and_gives_the_same_figures(
    evaluated_lake: Lake, pictured_copy: Lake, evaluation_settings: EvaluateSettings
) -> None:
    expected = figures_of(evaluate(of(evaluated_lake, evaluation_settings), InProcessEngine()))
    kills, images = 0, 0

    def count(plan: Plan) -> None:
        nonlocal images
        images += plan.rows if plan.stage.name == "make" else 0

    while True:
        try:
            again = evaluate(of(pictured_copy, evaluation_settings), EngineKilledAfterOneShard(), on_plan=count)
        except KeyboardInterrupt:
            kills += 1
        else:
            break
    assert kills >= 4
    assert figures_of(again) == expected
    assert images == PROMPTS + 4  # the second batch was pending twice
    version = pictured_copy.table(TABLE).version
    assert figures_of(evaluate(of(pictured_copy, evaluation_settings), InProcessEngine())) == expected
    assert pictured_copy.table(TABLE).version == version


def test_on_two_processes_the_figures_are_the_same(
    evaluated_lake: Lake, pictured_copy: Lake, evaluation_settings: EvaluateSettings
) -> None:
    with LocalEngine(2) as engine:
        assert figures_of(evaluate(of(pictured_copy, evaluation_settings), engine)) == figures_of(
            evaluate(of(evaluated_lake, evaluation_settings), InProcessEngine())
        )


def test_several_pictures_of_a_prompt_give_a_diversity(
    pictured_copy: Lake, evaluation_settings: EvaluateSettings
) -> None:
    several = evaluation_settings.model_copy(update={"n": 2})
    rows = figures_of(evaluate(of(pictured_copy, several), InProcessEngine()))
    assert 0 < rows["diversity_clip", "all"][0] < 2
    assert rows["right", "all"][3] == 2 * PROMPTS


def test_a_folder_without_lineage_needs_a_dataset(
    evaluated_lake: Lake, evaluation_settings: EvaluateSettings, tmp_path: Path
) -> None:
    folder = str(tmp_path / "model")
    Imagen.from_pretrained("little/1", evaluated_lake.url).save_pretrained(folder)
    with pytest.raises(ModelNotUsable, match="its dataset is unknown: name one with --dataset"):
        plan_evaluation(evaluated_lake, folder, evaluation_settings)
    named = of(evaluated_lake, evaluation_settings)
    figures = figures_of(evaluate(named, InProcessEngine()))
    evaluation = plan_evaluation(evaluated_lake, folder, evaluation_settings, "drawn", 1)
    assert evaluation.generation.id == named.generation.id  # the same weights were evaluated before

    def nothing(plan: Plan) -> None:
        assert plan.stage.name != "make" or not plan.rows, "the pictures are there"

    assert figures_of(evaluate(evaluation, InProcessEngine(), on_plan=nothing)) == figures
