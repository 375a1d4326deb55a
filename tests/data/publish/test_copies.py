"""Smaller copies of the pictures: what is in them, who reads them, and when they are made again."""

import io
import tarfile
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from data.errors import RecipeError
from data.export.export import Format, export
from data.lake.lake import Lake
from data.reader.reader import Reader
from data.upkeep.diff import diff
from tests.lakes.fetched import add_fetched_pairs, build_in_process, numbered_pairs, small_recipe

COPIES = "sizes: [12, 64]\n"  # of pictures of 40 x 30


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, Path]:
    """A lake with a version without copies and one with them."""
    folder = tmp_path_factory.mktemp("copies")
    lake, source = Lake.make(str(folder / "lake"), buckets=2), folder / "pairs.parquet"
    add_fetched_pairs(lake, source, numbered_pairs(40))
    assert build_in_process(lake, small_recipe(source)).version == 1
    return lake, source


def test_copies_have_the_sizes_asked_for_and_are_made_once(small: tuple[Lake, Path]) -> None:
    lake, source = small
    first = build_in_process(lake, small_recipe(source, more=COPIES))
    assert first.changed == first.kept > 20
    for row in lake.table("datasets/small").dataset().to_table().to_pylist():
        kept, copy = (Image.open(io.BytesIO(row[name]["bytes"])) for name in ("image", "image_12"))
        assert (kept.size, copy.size) == ((40, 30), (16, 12))
        close = np.asarray(copy, float) - np.asarray(kept.resize((16, 12), Image.Resampling.BOX), float)
        assert np.abs(close).mean() < 4
        assert row["image_64"] == row["image"], "a picture that is small stays as it is"
    assert not build_in_process(lake, small_recipe(source, more=COPIES)).anything_done
    found = diff(lake, "small", 1, first.version)
    assert (found.into, found.out, found.changed) == (0, 0, 0)
    finer = build_in_process(lake, small_recipe(source, more=COPIES + "download: {encode_quality: 70}\n"))
    sizes = [
        sum(lake.table("datasets/small", version).file_sizes().values()) for version in (first.version, finer.version)
    ]
    assert sizes[1] < sizes[0]


def test_copies_are_read_and_exported_like_the_picture(small: tuple[Lake, Path], tmp_path: Path) -> None:
    lake, source = small
    build_in_process(lake, small_recipe(source, more=COPIES))
    samples = list(Reader(lake, "small", columns=("id", "image_12")))
    assert {tuple(sample["image_12"].shape) for sample in samples} == {(3, 12, 16)}
    export(lake, "small", None, str(tmp_path / "tars"), Format.webdataset)
    with tarfile.open(next((tmp_path / "tars").rglob("*.tar"))) as tar:
        names = {member.name.partition(".")[2] for member in tar}
    assert names == {"jpg", "12.jpg", "64.jpg", "txt", "json"}
    export(lake, "small", None, str(tmp_path / "hub"), Format.hf)
    loaded = datasets.load_dataset(str(tmp_path / "hub"), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded[0]["image_12"].size == (16, 12)


def test_a_size_is_a_number_of_pixels(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"sizes"):
        small_recipe(tmp_path, more="sizes: [0]\n")
