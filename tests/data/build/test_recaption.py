"""A recipe that has its pictures described anew: a column beside the web's caption, written once, and embedded."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data.build.build import build
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


def pictures(count: int, seed: int) -> list[bytes]:
    """Of one shape each."""
    found, rng = list[bytes](), np.random.default_rng([seed, 22])
    while len(found) < count:
        scene = random_scene(rng, 200, 160)
        if len(scene.shapes) == 1:
            buffer = io.BytesIO()
            Image.fromarray(draw(scene, rng)).save(buffer, "PNG")
            found.append(buffer.getvalue())
    return found


@pytest.fixture
def photo_lake(tmp_path: Path) -> Lake:
    """Of its pairs one caption is too short, one picture can't be read, and of two none could be had."""
    lake = unprobed_lake(tmp_path, 2)
    pairs = [(f"http://small.test/{n}.png", f"photo {n % 9}" if n != 5 else "photo") for n in range(PAIRS)]
    add_fetched_pairs(lake, tmp_path / "pairs.parquet", pairs, broken=1, pictures=pictures(PAIRS, 3))
    return lake


def recipe(lake: Lake, more: str = "") -> Recipe:
    source = Path(lake.url).parent / "pairs.parquet"
    return parse_recipe(RECIPE.format(source=source, more=more), "small.yaml")


def recipe_table(lake: Lake) -> str:
    """Where the embeddings of both texts lie."""
    return f"embeddings/{encoder_of(recipe(lake).embed['t5_new']).id}"


def published(lake: Lake) -> dict[str, dict[str, Any]]:
    return {row["url"]: row for row in rows_of(lake, "datasets/small")}


def test_what_is_kept_is_described_once_beside_its_caption_and_embedded(photo_lake: Lake) -> None:
    first = build(photo_lake, recipe(photo_lake), InProcessEngine())
    kept = PAIRS - 3
    assert first.kept == kept
    assert first.rows["describe-recaption"] == kept, "what is not kept is not described"
    rows = published(photo_lake)
    assert {row["caption"] for row in rows.values()} <= {f"photo {n}" for n in range(9)}
    broken = rows.pop("http://small.test/0.png")
    assert (broken["recaption_text"], broken["t5_new_length"], broken["t5_length"]) == (None, None, 3)
    told = [
        caption_is_true(Image.open(io.BytesIO(r["image"]["bytes"])), r["recaption_text"]).true for r in rows.values()
    ]
    assert sum(told) >= 0.8 * len(told)
    table = recipe_table(photo_lake)
    texts = {row["id"]: row for row in rows_of(photo_lake, table)}
    for row in rows.values():
        for text, name in (("caption", "t5"), ("recaption_text", "t5_new")):
            assert row[f"{name}_embedding"] == texts[text_id(row[text])]["embedding"]
    record = photo_lake.table("datasets/small").last_record()
    assert record["embeddings"] == {"t5": table, "t5_new": table}
    assert record["texts"] == {"t5_new": "recaption_text"}
    assert record["inputs"][recipe(photo_lake).scores["recaption"].table] > 0
    assert verify(photo_lake, "small").same

    assert not any(step.pending for step in plan_build(photo_lake, recipe(photo_lake)).steps)
    again = build(photo_lake, recipe(photo_lake), InProcessEngine())
    assert (again.anything_done, again.version) == (False, first.version)


def test_another_captioner_writes_anew_and_keeps_what_the_web_said(photo_lake: Lake) -> None:
    first = build(photo_lake, recipe(photo_lake), InProcessEngine())
    before = published(photo_lake)
    other = recipe(photo_lake, ", max_tokens: 3")
    assert next(s.pending for s in plan_build(photo_lake, other).steps if s.name == "describe-recaption") == first.kept
    second = build(photo_lake, other, InProcessEngine())
    assert second.rows["describe-recaption"] == first.kept
    assert (second.version, second.changed) == (first.version + 1, first.kept - 1), "one has no text either way"
    for url, row in published(photo_lake).items():
        assert row["caption"] == before[url]["caption"]
        assert row["t5_embedding"] == before[url]["t5_embedding"]
        if row["recaption_text"] is not None:
            assert before[url]["recaption_text"].startswith(row["recaption_text"])
            assert row["t5_new_embedding"] != before[url]["t5_new_embedding"]
    back = build(photo_lake, recipe(photo_lake), InProcessEngine())
    assert back.rows["describe-recaption"] == 0, "its captions are there still"
    assert published(photo_lake) == before


def test_an_encoder_that_reads_another_text_is_published_anew(photo_lake: Lake) -> None:
    first = build(photo_lake, recipe(photo_lake), InProcessEngine())
    told = recipe(photo_lake)
    plain = told.model_copy(update={"embed": {**told.embed, "t5_new": told.embed["t5"]}})
    second = build(photo_lake, plain, InProcessEngine())
    assert (second.version, second.changed) == (first.version + 1, first.kept)
    assert all(row["t5_new_embedding"] == row["t5_embedding"] for row in published(photo_lake).values())


def test_new_pairs_alone_are_described(photo_lake: Lake, tmp_path: Path) -> None:
    build(photo_lake, recipe(photo_lake), InProcessEngine())
    more = [(f"http://small.test/more/{n}.png", "another photo") for n in range(3)]
    add_fetched_pairs(photo_lake, tmp_path / "pairs.parquet", more, missing=0, pictures=pictures(3, 4))
    assert build(photo_lake, recipe(photo_lake), InProcessEngine()).rows["describe-recaption"] == 3


def test_what_was_written_of_a_forgotten_picture_is_forgotten(photo_lake: Lake) -> None:
    build(photo_lake, recipe(photo_lake), InProcessEngine())
    rows = published(photo_lake)
    once = next(
        r for r in rows.values() if [o["recaption_text"] for o in rows.values()].count(r["recaption_text"]) == 1
    )
    table = recipe_table(photo_lake)
    assert len(traces(photo_lake, [once["recaption_text"].encode()])) >= 2
    assert photo_lake.table(table).find_rows([text_id(once["recaption_text"])], ["id"]).num_rows == 1
    forget(photo_lake, "pair", once["id"])
    assert traces(photo_lake, [once["recaption_text"].encode()]) == []
    assert photo_lake.table(table).find_rows([text_id(once["recaption_text"])], ["id"]).num_rows == 0


def test_a_recipe_that_does_not_say_it_is_what_it_was() -> None:
    plain, told = (EncoderSettings(encoder="t5", model="built-in", **more) for more in ({}, {"of": "recaption"}))
    assert encoder_of(plain).id == encoder_of(told).id
    assert "of" not in plain.model_dump()
    assert "of" not in json.loads(load_recipe("shapes").model_dump_json())["embed"]["t5"]


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("embed:\n  t5: {encoder: t5, model: built-in, of: recaption}\n", 5, "no score 'recaption' that is a text"),
        ("scores:\n  caption:\nembed:\n  t5: {encoder: t5, model: built-in, of: caption}\n", 7, "there are none: a"),
        ("scores:\n  captioner: {model: ./nowhere}\n", 5, "is neither a folder here nor the name of a model"),
        ("scores:\n  captioner: {max_tokens: 0}\n", 5, "max_tokens: Input should be greater than or equal to 1"),
        ("scores:\n  captioner:\nselect:\n  - captioner_text: {min: 3}\n", 7, "there is no fact 'captioner_text'"),
    ],
)
def test_a_wrong_field_is_one_sentence_with_its_line(text: str, line: int, said: str) -> None:
    with pytest.raises(RecipeError) as raised:
        parse_recipe("name: shapes\nsources:\n  - path: pairs.parquet\n" + text, "mine.yaml")
    assert str(raised.value).startswith(f"mine.yaml, line {line}: ")
    assert said in str(raised.value)
