"""A recipe that has its pictures described: a column beside the web's caption, written once, and embedded."""

import io
import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.build.build import BuildResult, build
from data.build.dry_run import plan_build
from data.build.recipe import Recipe, load_recipe, parse_recipe
from data.encoders.encoder import encoder_of
from data.encoders.settings import EncoderSettings
from data.errors import RecipeError
from data.lake.lake import Lake
from data.lake.schemas import text_id
from data.upkeep.forget import forget
from data.upkeep.verify import verify
from data.world.check import caption_is_true
from data.world.draw import draw
from data.world.scene import random_scene
from tests.data.upkeep.test_forget import traces
from tests.engines import InProcessEngine
from tests.lakes.empty import rows_of, unprobed_lake
from tests.lakes.fetched import add_fetched_pairs
from tests.shared import copy_of

RECIPE = """
name: small
sources:
  - path: {source}
scores:
  recaption: {{scorer: captioner, model: built-in{more}}}
select:
  - words: {{min: 2}}
embed:
  t5: {{encoder: t5, model: built-in}}
  t5_new: {{encoder: t5, model: built-in, of: recaption}}
"""
PAIRS = 14
KEPT = PAIRS - 3
BROKEN = "http://small.test/0.png"
SHORTER = ", max_tokens: 3"


def pictures(count: int, seed: int) -> list[bytes]:
    """Of one shape each."""
    drawings, rng = list[bytes](), np.random.default_rng([seed, 22])
    while len(drawings) < count:
        scene = random_scene(rng, 200, 160)
        if len(scene.shapes) == 1:
            buffer = io.BytesIO()
            Image.fromarray(draw(scene, rng)).save(buffer, "PNG")
            drawings.append(buffer.getvalue())
    return drawings


def recipe(source: Path, more: str = "") -> Recipe:
    return parse_recipe(RECIPE.format(source=source, more=more), "small.yaml")


@dataclass(frozen=True)
class Described:
    """A lake after a build that described its pictures, its source, and what the build did."""

    lake: Lake
    source: Path
    result: BuildResult

    @property
    def recipe(self) -> Recipe:
        return recipe(self.source)

    @property
    def embeddings(self) -> str:
        """The table with the embeddings of both texts."""
        return f"embeddings/{encoder_of(self.recipe.embed['t5_new']).id}"


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Described:
    """One caption is too short, one picture can't be read, two could not be fetched. Not to be changed by a test."""
    folder = tmp_path_factory.mktemp("described")
    lake, source = unprobed_lake(folder, 2), folder / "pairs.parquet"
    pairs = [(f"http://small.test/{n}.png", f"photo {n % 9}" if n != 5 else "photo") for n in range(PAIRS)]
    add_fetched_pairs(lake, source, pairs, broken=1, pictures=pictures(PAIRS, 3))
    return Described(lake, source, build(lake, recipe(source), InProcessEngine()))


@pytest.fixture(scope="module")
def redescribed(described: Described, tmp_path_factory: pytest.TempPathFactory) -> Described:
    """The same after a build with a captioner of shorter texts. Not to be changed by a test."""
    lake = copy_of(described.lake, tmp_path_factory.mktemp("redescribed") / "lake")
    result = build(lake, recipe(described.source, SHORTER), InProcessEngine())
    return Described(lake, described.source, result)


@pytest.fixture
def photo_lake(described: Described, tmp_path: Path) -> Lake:
    """A copy of the described lake for one test."""
    return copy_of(described.lake, tmp_path / "lake")


def published(lake: Lake) -> dict[str, dict[str, Any]]:
    return {row["url"]: row for row in rows_of(lake, "datasets/small")}


def test_what_is_kept_is_described_and_nothing_else(described: Described) -> None:
    assert described.result.kept == KEPT
    assert described.result.rows["describe-recaption"] == KEPT


def test_descriptions_stand_beside_the_captions(described: Described) -> None:
    rows = published(described.lake)
    assert {row["caption"] for row in rows.values()} <= {f"photo {n}" for n in range(9)}
    broken = rows[BROKEN]
    assert (broken["recaption_text"], broken["t5_new_length"], broken["t5_length"]) == (None, None, 3)


def test_most_descriptions_are_true_of_their_pictures(described: Described) -> None:
    rows = [row for url, row in published(described.lake).items() if url != BROKEN]
    verdicts = [
        caption_is_true(Image.open(io.BytesIO(row["image"]["bytes"])), row["recaption_text"]).true for row in rows
    ]
    assert sum(verdicts) >= 0.8 * len(verdicts)


def test_caption_and_description_are_embedded_in_one_table(described: Described) -> None:
    texts = {row["id"]: row for row in rows_of(described.lake, described.embeddings)}
    for url, row in published(described.lake).items():
        for text, name in (("caption", "t5"), ("recaption_text", "t5_new")):
            if url != BROKEN:
                assert row[f"{name}_embedding"] == texts[text_id(row[text])]["embedding"]


def test_the_version_records_what_it_was_described_and_embedded_with(described: Described) -> None:
    record = described.lake.table("datasets/small").last_record()
    assert record["embeddings"] == {"t5": described.embeddings, "t5_new": described.embeddings}
    assert record["texts"] == {"t5_new": "recaption_text"}
    assert record["inputs"][described.recipe.scores["recaption"].table] > 0
    assert verify(described.lake, "small").same


def test_pictures_are_described_once(described: Described, photo_lake: Lake) -> None:
    assert not any(step.pending for step in plan_build(photo_lake, described.recipe).steps)
    again = build(photo_lake, described.recipe, InProcessEngine())
    assert (again.anything_done, again.version) == (False, described.result.version)


def test_another_captioner_describes_every_picture_again(described: Described, redescribed: Described) -> None:
    plan = plan_build(described.lake, recipe(described.source, SHORTER))
    first, second = described.result, redescribed.result
    assert next(step.pending for step in plan.steps if step.name == "describe-recaption") == first.kept
    assert second.rows["describe-recaption"] == first.kept
    assert (second.version, second.changed) == (first.version + 1, first.kept - 1), "one has no text either way"


def test_another_captioner_changes_no_caption_and_no_embedding_of_one(
    described: Described, redescribed: Described
) -> None:
    before = published(described.lake)
    for url, row in published(redescribed.lake).items():
        assert row["caption"] == before[url]["caption"]
        assert row["t5_embedding"] == before[url]["t5_embedding"]
        if row["recaption_text"] is not None:
            assert before[url]["recaption_text"].startswith(row["recaption_text"])
            assert row["t5_new_embedding"] != before[url]["t5_new_embedding"]


def test_the_captioner_of_before_finds_its_descriptions_again(
    described: Described, redescribed: Described, tmp_path: Path
) -> None:
    lake = copy_of(redescribed.lake, tmp_path / "lake")
    back = build(lake, described.recipe, InProcessEngine())
    assert back.rows["describe-recaption"] == 0
    assert published(lake) == published(described.lake)


def test_a_text_that_is_embedded_in_place_of_another_is_published_again(described: Described, photo_lake: Lake) -> None:
    embed = described.recipe.embed
    plain = described.recipe.model_copy(update={"embed": {**embed, "t5_new": embed["t5"]}})
    second = build(photo_lake, plain, InProcessEngine())
    assert (second.version, second.changed) == (described.result.version + 1, described.result.kept)
    assert all(row["t5_new_embedding"] == row["t5_embedding"] for row in published(photo_lake).values())


def test_new_pairs_alone_are_described(photo_lake: Lake, tmp_path: Path) -> None:
    more, source = [(f"http://small.test/more/{n}.png", "another photo") for n in range(3)], tmp_path / "more.parquet"
    add_fetched_pairs(photo_lake, source, more, missing=0, pictures=pictures(3, 4))
    assert build(photo_lake, recipe(source), InProcessEngine()).rows["describe-recaption"] == 3


def test_the_description_of_a_forgotten_picture_is_forgotten(described: Described, photo_lake: Lake) -> None:
    rows = published(photo_lake).values()
    counts = Counter(row["recaption_text"] for row in rows)
    unique = next(row for row in rows if counts[row["recaption_text"]] == 1)
    text, table = unique["recaption_text"], described.embeddings
    assert len(traces(photo_lake, [text.encode()])) >= 2
    assert photo_lake.table(table).find_rows([text_id(text)], ["id"]).num_rows == 1
    forget(photo_lake, "pair", unique["id"])
    assert traces(photo_lake, [text.encode()]) == []
    assert photo_lake.table(table).find_rows([text_id(text)], ["id"]).num_rows == 0


def test_a_recipe_that_names_no_text_to_embed_is_what_it_was() -> None:
    plain, other = (EncoderSettings(encoder="t5", model="built-in", **more) for more in ({}, {"of": "recaption"}))
    assert encoder_of(plain).id == encoder_of(other).id
    assert "of" not in plain.model_dump()
    assert "of" not in json.loads(load_recipe("shapes").model_dump_json())["embed"]["t5"]


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        ("embed:\n  t5: {encoder: t5, model: built-in, of: recaption}\n", 5, "no score 'recaption' that is a text"),
        ("scores:\n  caption:\nembed:\n  t5: {encoder: t5, model: built-in, of: caption}\n", 7, "there are none: a"),
        ("scores:\n  captioner: {model: ./nowhere}\n", 5, "is neither a folder here nor the name of a model"),
        ("scores:\n  captioner: {max_tokens: 0}\n", 5, "max_tokens: Input should be greater than or equal to 1"),
        ("scores:\n  captioner:\nselect:\n  - captioner_text: {min: 3}\n", 7, "there is no fact 'captioner_text'"),
    ],
)
def test_a_wrong_field_is_one_sentence_with_its_line(text: str, line: int, sentence: str) -> None:
    with pytest.raises(RecipeError) as raised:
        parse_recipe("name: shapes\nsources:\n  - path: pairs.parquet\n" + text, "mine.yaml")
    assert str(raised.value).startswith(f"mine.yaml, line {line}: ")
    assert sentence in str(raised.value)
