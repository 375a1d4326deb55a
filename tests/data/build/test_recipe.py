"""Bad input: each ends in one readable sentence that names the field or file, and nothing is written."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.build.recipe import load_recipe, parse_recipe
from data.errors import RecipeError, SourceError
from data.sources.sources import check_sources
from tests.conftest import write_recipe

GOOD = "name: shapes\nsources:\n  - path: pairs.parquet\n"


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        (GOOD + "colour: red\n", 4, "colour: there is no such field"),
        (GOOD + "download:\n  timeout: soon\n", 5, "download.timeout: Input should be a valid number"),
        (GOOD + "download:\n  image_sise: 3\n", 5, "download.image_sise: there is no such field"),
        (GOOD + "select:\n  - side: {min: 64}\n  - side: {mist: 3}\n", 6, "select.1.side.mist: there is no such field"),
        (
            GOOD + "select:\n  - sides: {min: 64}\n",
            5,
            "select.0.sides: there is no fact 'sides'; there are source, words",
        ),
        (GOOD + "select:\n  - side: {min: 9, max: 3}\n", 5, "min 9 is above max 3"),
        (GOOD + "select:\n  - side: {most: 9}\n", 5, "select.0.side: `most` needs a list of concepts"),
        (GOOD + "select:\n  - unique: {by: feel}\n", 5, "select.0.unique.by: Input should be 'content'"),
        (GOOD + "select:\n  - unique: {by: look}\n", 5, "there is no fact 'phash_thumbnail'"),
        (GOOD + "select:\n  - side: {top: 2}\n", 5, "select.0.side.top: Input should be less than or equal to 1"),
        (GOOD + "select:\n  - any_of:\n    - side: {mist: 3}\n", 6, "there is no such field"),
        (GOOD + "scores:\n  clap: {}\n", 5, "there is no scorer 'clap'; there are caption"),
        (GOOD + "scores:\n  mine: {scorer: json.JSONDecoder}\n", 5, "is not a scorer"),
        (GOOD + "scores:\n  picture: {size: 3}\n", 5, "scores.picture.size: there is no such field"),
        (GOOD + "scores:\n  clip: {model: ViT-L-14}\n", 5, "`pretrained` must name its weights"),
        (GOOD + "embed:\n  t5: {encoder: t5, model: built-in, pooled: true}\n", 5, "`pooled` are for encoder: clip"),
        (GOOD + "embed:\n  T5: {encoder: t5, model: built-in}\n", 4, "can't name an encoder"),
        ("name: shapes\n", 1, "sources: Field required"),
        ("name: Shapes!\nsources:\n  - path: x\n", 1, "name: a dataset's name"),
    ],
)
def test_a_wrong_field_is_one_sentence_with_its_line(text: str, line: int, sentence: str) -> None:
    with pytest.raises(RecipeError) as raised:
        parse_recipe(text, "mine.yaml")
    message = str(raised.value)
    assert message.startswith(f"mine.yaml, line {line}: ")
    assert sentence in message
    assert "\n" not in message


@pytest.mark.parametrize("text", ["name: [", "just words", "- a list"])
def test_what_is_no_recipe_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match=r"mine.yaml is not (valid YAML|a valid recipe)"):
        parse_recipe(text, "mine.yaml")


def test_a_missing_recipe_names_the_shipped_ones() -> None:
    with pytest.raises(RecipeError, match=r"one of: .*shapes"):
        load_recipe("nowhere")


def test_relative_sources_and_models_are_looked_up_from_the_recipe(tmp_path: Path) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path, "world/pairs.parquet")))
    assert recipe.sources[0].path == str(tmp_path / "world/pairs.parquet")
    (tmp_path / "models" / "t5").mkdir(parents=True)
    (tmp_path / "mine.yaml").write_text(GOOD + "embed:\n  t5: {encoder: t5, model: models/t5}\n")
    assert load_recipe(str(tmp_path / "mine.yaml")).embed["t5"].model == str(tmp_path / "models" / "t5")
    assert load_recipe("shapes").sources[0].path == "world/pairs.parquet"


def test_sources_that_cannot_serve_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    def check(path: str) -> None:
        check_sources(load_recipe("shapes", (path,)).sources)

    with pytest.raises(SourceError, match=r"nothing\.parquet does not exist"):
        check(str(tmp_path / "nothing.parquet"))
    pq.write_table(
        pa.table({"url": pa.array([], pa.string()), "caption": pa.array([], pa.string())}), tmp_path / "e.parquet"
    )
    with pytest.raises(SourceError, match="holds no rows"):
        check(str(tmp_path / "e.parquet"))
    pq.write_table(pa.table({"link": ["a"], "text": ["b"]}), tmp_path / "c.parquet")
    with pytest.raises(SourceError, match=r"has no column 'url' for url; it has link, text\. .*sources\.columns\.url"):
        check(str(tmp_path / "c.parquet"))
    (tmp_path / "b.parquet").write_bytes(b"no table")
    with pytest.raises(SourceError, match=r"b\.parquet can't be read"):
        check(str(tmp_path / "b.parquet"))
    (tmp_path / "pairs.doc").write_text("x")
    with pytest.raises(SourceError, match="Known endings"):
        check(str(tmp_path / "pairs.doc"))
