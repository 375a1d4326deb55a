"""An evaluation of a little cascade: what it says, that it repeats, and that a killed one does only what is missing."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

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


@pytest.fixture(scope="module")
def evaluated_lake(pictured_lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return copy_of(pictured_lake, tmp_path_factory.mktemp("asked") / "lake")


@pytest.fixture
def copied(pictured_lake: Lake, tmp_path: Path) -> Lake:
    return copy_of(pictured_lake, tmp_path / "lake")


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> EvaluateSettings:
    suite = tmp_path_factory.mktemp("suite") / "few.csv"
    kinds = ("circle", "square", "star", "ring", "cross")
    rows = [f"a {colour} {kind},{kind}" for colour in ("red", "green", "blue", "black") for kind in kinds]
    suite.write_text("\n".join(["prompt,category", *rows]))
    return EvaluateSettings(
        suite=str(suite), clip={"clip": ClipScore(model="built-in")}, distances=("kid", "cmmd", "precision")
    )


def of(lake: Lake, settings: EvaluateSettings, **more: Any) -> Evaluation:
    return plan_evaluation(lake, "little/1", settings, **more)


def told(rows: list[dict[str, Any]]) -> dict[tuple[str, str], tuple[float, float, float, int]]:
    return {(row["metric"], row["slice"]): (row["value"], row["low"], row["high"], row["n"]) for row in rows}


def test_figures_are_what_the_pictures_say(evaluated_lake: Lake, settings: EvaluateSettings) -> None:
    evaluation = of(evaluated_lake, settings)
    rows = told(evaluate(evaluation, InProcessEngine()))
    slices = ("all", "circle", "square", "star", "ring", "cross")
    assert set(rows) == {
        *((metric, part) for metric in ("right", "right_sizes", "clip_score") for part in slices),
        *((f"{distance}_clip", "all") for distance in ("kid", "cmmd", "precision")),
    }
    made = evaluation.picture_lake.table("images").dataset().to_table(columns=["id", "image"]).to_pylist()
    pairs = evaluation.picture_lake.table("pairs").dataset().to_table(columns=["id", "caption"]).to_pylist()
    captions = {pair["id"]: pair["caption"] for pair in pairs}
    model = Imagen.from_pretrained("little/1", evaluated_lake.url)
    assert len(made) == len(captions) == PROMPTS
    assert {len(row["image"]) > 0 for row in made} == {True}
    seeds = [evaluation.rows["seed"][evaluation.rows["caption"].index(captions[row["id"]])] for row in made[:2]]
    again = model.generate_images([captions[row["id"]] for row in made[:2]], seed=seeds)
    for row, picture in zip(made[:2], again, strict=True):
        assert np.abs(np.asarray(picture, int) - np.asarray(decode(row["image"]), int)).max() <= 1
    right = np.mean([caption_is_true(decode(row["image"]), captions[row["id"]]).true for row in made])
    assert rows["right", "all"][0] == pytest.approx(right)
    assert rows["clip_score", "star"][3] == 4
    value, low, high, n = rows["clip_score", "all"]
    assert low < value < high
    assert n == PROMPTS


def test_killed_anywhere_it_does_only_what_is_missing_and_says_the_same(
    evaluated_lake: Lake, copied: Lake, settings: EvaluateSettings
) -> None:
    whole = told(evaluate(of(evaluated_lake, settings), InProcessEngine()))
    kills, made = 0, 0

    def count(plan: Plan) -> None:
        nonlocal made
        made += plan.rows if plan.stage.name == "make" else 0

    while True:
        try:
            again = evaluate(of(copied, settings), EngineKilledAfterOneShard(), on_plan=count)
        except KeyboardInterrupt:
            kills += 1
        else:
            break
    assert kills >= 4
    assert told(again) == whole
    assert made == PROMPTS + 4  # the second batch was pending twice
    version = copied.table(TABLE).version
    assert told(evaluate(of(copied, settings), InProcessEngine())) == whole
    assert copied.table(TABLE).version == version


def test_on_two_processes_the_figures_are_the_same(
    evaluated_lake: Lake, copied: Lake, settings: EvaluateSettings
) -> None:
    with LocalEngine(2) as engine:
        assert told(evaluate(of(copied, settings), engine)) == told(
            evaluate(of(evaluated_lake, settings), InProcessEngine())
        )


def test_several_pictures_of_a_prompt_tell_how_diverse_they_are(copied: Lake, settings: EvaluateSettings) -> None:
    several = settings.model_copy(update={"n": 2})
    rows = told(evaluate(of(copied, several), InProcessEngine()))
    assert 0 < rows["diversity_clip", "all"][0] < 2
    assert rows["right", "all"][3] == 2 * PROMPTS


def test_a_folder_without_lineage_needs_a_dataset(
    evaluated_lake: Lake, settings: EvaluateSettings, tmp_path: Path
) -> None:
    folder = str(tmp_path / "model")
    Imagen.from_pretrained("little/1", evaluated_lake.url).save_pretrained(folder)
    with pytest.raises(ModelNotUsable, match="its dataset is unknown: name one with --dataset"):
        plan_evaluation(evaluated_lake, folder, settings)
    asked = of(evaluated_lake, settings)
    figures = told(evaluate(asked, InProcessEngine()))
    evaluation = plan_evaluation(evaluated_lake, folder, settings, "drawn", 1)
    assert evaluation.generation.id == asked.generation.id  # the same weights were asked already

    def nothing(plan: Plan) -> None:
        assert plan.stage.name != "make" or not plan.rows, "the pictures are there"

    assert told(evaluate(evaluation, InProcessEngine(), on_plan=nothing)) == figures
