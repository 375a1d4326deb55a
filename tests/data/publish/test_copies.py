"""Smaller copies of the pictures: what is in them, who reads them, and when they are made again."""

import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from data.build.build import BuildResult
from data.build.recipe import Recipe
from data.errors import RecipeError
from data.export.export import Format, export
from data.lake.lake import Lake
from data.reader.reader import Reader
from data.upkeep.diff import diff
from tests.lakes.empty import rows_of, unprobed_lake
from tests.lakes.fetched import add_fetched_pairs, build_in_process, numbered_pairs, small_recipe
from tests.shared import copy_of

COPIES = "sizes: [12, 64]\n"  # of pictures of 40 x 30


@dataclass(frozen=True)
class Copies:
    """A lake whose version 1 has no copies and whose version 2 has them, its source, and what the second build did."""

    lake: Lake
    source: Path
    result: BuildResult

    def recipe(self, more: str = "") -> Recipe:
        return small_recipe(self.source, more=COPIES + more)


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> Copies:
    """Not to be changed by a test."""
    folder = tmp_path_factory.mktemp("copies")
    lake, source = unprobed_lake(folder, 2), folder / "pairs.parquet"
    add_fetched_pairs(lake, source, numbered_pairs(40))
    assert build_in_process(lake, small_recipe(source)).version == 1
    return Copies(lake, source, build_in_process(lake, small_recipe(source, more=COPIES)))


def test_copies_have_the_sizes_of_the_recipe(copies: Copies) -> None:
    assert copies.result.changed == copies.result.kept > 20
    for row in rows_of(copies.lake, "datasets/small"):
        picture, copy = (Image.open(io.BytesIO(row[name]["bytes"])) for name in ("image", "image_12"))
        assert (picture.size, copy.size) == ((40, 30), (16, 12))
        difference = np.asarray(copy, float) - np.asarray(picture.resize((16, 12), Image.Resampling.BOX), float)
        assert np.abs(difference).mean() < 4
        assert row["image_64"] == row["image"], "a picture that is small stays as it is"


def test_copies_are_made_once(copies: Copies) -> None:
    assert not build_in_process(copies.lake, copies.recipe()).anything_done


def test_copies_alone_change_no_row_of_a_diff(copies: Copies) -> None:
    change = diff(copies.lake, "small", 1, copies.result.version)
    assert (change.into, change.out, change.changed) == (0, 0, 0)


def test_a_lower_quality_makes_smaller_copies(copies: Copies, tmp_path: Path) -> None:
    lake = copy_of(copies.lake, tmp_path / "lake")
    finer = build_in_process(lake, copies.recipe("download: {encode_quality: 70}\n"))
    sizes = [
        sum(lake.table("datasets/small", version).file_sizes().values())
        for version in (copies.result.version, finer.version)
    ]
    assert sizes[1] < sizes[0]


def test_copies_are_read_like_the_picture(copies: Copies) -> None:
    samples = list(Reader(copies.lake, "small", columns=("id", "image_12")))
    assert {tuple(sample["image_12"].shape) for sample in samples} == {(3, 12, 16)}


def test_copies_are_exported_like_the_picture(copies: Copies, tmp_path: Path) -> None:
    export(copies.lake, "small", None, str(tmp_path / "tars"), Format.webdataset)
    with tarfile.open(next((tmp_path / "tars").rglob("*.tar"))) as tar:
        names = {member.name.partition(".")[2] for member in tar}
    assert names == {"jpg", "12.jpg", "64.jpg", "txt", "json"}
    export(copies.lake, "small", None, str(tmp_path / "hub"), Format.hf)
    loaded = datasets.load_dataset(str(tmp_path / "hub"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["image_12"].size == (16, 12)


def test_a_size_is_a_number_of_pixels(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"sizes"):
        small_recipe(tmp_path, more="sizes: [0]\n")
