"""A version for others: read back by webdataset, `datasets` and our own sources; the same bytes however it went."""

import io
import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import webdataset
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import data.export.in_order
import data.lake.shard_file
from data.engine.stage import make_plan
from data.errors import DatasetVersionNotFound, ExportError, SampleDamaged
from data.export.export import MARKER, Exported, Format, export
from data.export.in_order import OrderedRows
from data.fetch.download import Download, DownloadSettings
from data.lake import storage
from data.lake.lake import Lake
from data.lake.schemas import bucket_of, pair_id
from data.lake.shard_file import write_file
from data.publish.publish import SAMPLE
from data.reader import order
from data.sources.ingest import ingest
from data.sources.sources import Source
from flows.command import app
from tests.conftest import Bucket
from tests.lakes.empty import NOW, rows_of, unprobed_lake

ROWS = 90
SCHEMA = pa.schema(
    [
        *SAMPLE,
        ("clip_score", pa.float32()),
        ("words", pa.int32()),
        ("t5_embedding", pa.binary()),
        ("t5_length", "int32"),
    ]
)
FORMS = ["JPEG", "PNG", "WEBP"]
CAPTIONS = {7: "", 8: "Ein Fuß, 足 and “quotes”", 9: "two\nlines"}


def picture(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (24 + number, 16), (number, 0, 255 - number)).save(buffer, FORMS[number % 3], lossless=True)
    return buffer.getvalue()


def vectors(number: int) -> np.ndarray:
    return (np.arange(number % 4 * 6, dtype=np.float32).reshape(-1, 6) + number % 7) / 4


def row(number: int) -> dict[str, Any]:
    url, caption = f"http://a.test/{number}", CAPTIONS.get(number, f"caption {number}")
    bfloat16 = (vectors(number).view(np.uint32) >> 16).astype(np.uint16).tobytes()
    return {
        "id": pair_id(url, caption),
        "url": url,
        "caption": caption,
        "image": {"bytes": picture(number), "path": None},
        "width": 24 + number,
        "height": 16,
        "sha256": f"{number:064x}",
        "clip_score": [0.31, float("nan"), None][number % 11 % 3],
        "words": number,
        "t5_embedding": None if number == 20 else bfloat16,
        "t5_length": None if number == 20 else len(vectors(number)),
    }


BY_ID = sorted((row(number) for number in range(ROWS)), key=lambda sample: sample["id"])
IDS = [sample["id"] for sample in BY_ID]


def publish(lake: Lake, rows: list[dict[str, Any]], dtype: str = "bfloat16") -> None:
    table = lake.table_or_make("datasets/shapes", SCHEMA)
    schema = SCHEMA.with_metadata({"imagen": json.dumps({"embeddings": {"t5": {"dtype": dtype, "dim": 6}}})})
    parts: dict[int, list[dict[str, Any]]] = {}
    for sample in rows:
        parts.setdefault(bucket_of(sample["id"], lake.config.buckets), []).append(sample)
    files = [write_file(table.url, number, pa.Table.from_pylist(part, schema)) for number, part in parts.items()]
    table.append(files, {"kept": table.count_rows() + len(rows)})


@pytest.fixture(scope="module")
def versioned_lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """shapes@3: three files in each of four buckets, of several row groups."""
    lake = unprobed_lake(tmp_path_factory.mktemp("export"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(data.lake.shard_file, "BINARY_ROW_GROUP", 4)
        for start in range(0, ROWS, 30):
            publish(lake, [row(number) for number in range(start, start + 30)])
    return lake


def write(lake: Lake, url: str | Path, format: str, **settings: Any) -> Exported:
    return export(lake, "shapes", 3, str(url), Format(format), **{"shard_size": 40, **settings})


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
@given(bounds=st.lists(st.integers(0, ROWS), max_size=4), seed=st.none() | st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=25)
def test_however_positions_are_cut_the_rows_are_the_same(
    versioned_lake: Lake, bounds: list[int], seed: int | None
) -> None:
    table = versioned_lake.table("datasets/shapes", 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(order, "UNIT_ROWS", 4)
        patch.setattr(data.export.in_order, "BATCH", 5)
        patch.setattr(data.export.in_order, "CHUNK_BYTES", 0)  # so that a chunk is a batch
        uncut = pa.concat_tables(OrderedRows(table, seed).read(0, ROWS))
        patch.setattr(data.export.in_order, "CACHE_BYTES", 2000)
        patch.setattr(data.export.in_order, "OPEN_FILES", 2)
        rows = OrderedRows(table, seed)
        parts = [batch for start, stop in pairwise([0, *sorted(bounds), ROWS]) for batch in rows.read(start, stop)]
    assert pa.concat_tables(parts).drop_columns("clip_score").equals(uncut.drop_columns("clip_score"))  # it has NaN
    if seed is None:
        assert uncut["id"].to_pylist() == IDS
    else:
        assert sorted(uncut["id"].to_pylist()) == IDS
        assert uncut["id"].to_pylist() != IDS


@dataclass(frozen=True)
class Written:
    """An export of shapes@3: its folder, and what `export` returned."""

    folder: Path
    summary: Exported


@pytest.fixture(scope="module")
def tars(versioned_lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("tars")
    return Written(folder, write(versioned_lake, folder, "webdataset"))


@pytest.fixture(scope="module")
def tar_samples(tars: Written) -> list[dict[str, Any]]:
    """What webdataset reads from the tars."""
    paths = [str(tars.folder / shard.name) for shard in tars.summary.shards]
    return list(webdataset.WebDataset(paths, shardshuffle=False).decode("pil"))


def test_an_export_has_shards_of_the_chosen_size_and_reports_them(tars: Written) -> None:
    names = ["00000.tar", "00001.tar", "00002.tar"]
    assert [(shard.name, shard.samples) for shard in tars.summary.shards] == list(zip(names, [40, 40, 10], strict=True))
    assert sorted(content(tars.folder)) == names
    assert tars.summary.bytes == sum(map(len, content(tars.folder).values()))


def test_webdataset_reads_pictures_and_captions_in_the_order_of_ids(tar_samples: list[dict[str, Any]]) -> None:
    assert [sample["__key__"] for sample in tar_samples] == IDS
    for sample, wanted in zip(tar_samples, BY_ID, strict=True):
        kind = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}[FORMS[wanted["words"] % 3]]
        assert sample[kind].size == (wanted["width"], wanted["height"])
        assert sample["txt"] == wanted["caption"]


def test_webdataset_reads_all_facts_of_a_sample_from_its_json(tar_samples: list[dict[str, Any]]) -> None:
    for sample, wanted in zip(tar_samples, BY_ID, strict=True):
        facts = {name: value for name, value in wanted.items() if name not in ("image", "t5_embedding")}
        score = facts.pop("clip_score")
        assert sample["json"] == facts | {"clip_score": None if score != score else score}  # JSON has no NaN


def test_webdataset_reads_embeddings_as_float32(tar_samples: list[dict[str, Any]]) -> None:
    for sample, wanted in zip(tar_samples, BY_ID, strict=True):
        if wanted["words"] == 20:
            assert "t5.npy" not in sample
        else:
            assert sample["t5.npy"].dtype == np.float32
            np.testing.assert_array_equal(sample["t5.npy"], vectors(wanted["words"]))


def test_our_own_sources_read_an_exported_tar_back(versioned_lake: Lake, tmp_path: Path) -> None:
    write(versioned_lake, tmp_path / "out", "webdataset")
    other = unprobed_lake(tmp_path)
    ingest(other, (Source(path=str(tmp_path / "out")),), NOW)
    assert {pair["id"] for pair in rows_of(other, "pairs")} == {*IDS}
    stage = Download(other, DownloadSettings(image_size=256))
    plan = make_plan(other, stage, 1000)
    plan.commit([stage.work(shard) for shard in plan.shards])
    sizes = {image["id"]: (image["width"], image["height"]) for image in rows_of(other, "images")}
    assert sizes == {sample["id"]: (sample["width"], sample["height"]) for sample in BY_ID}


@pytest.mark.parametrize("format", ["webdataset", "parquet", "hf"])
def test_an_export_that_was_killed_goes_on_and_ends_in_the_same_bytes(
    versioned_lake: Lake, tmp_path: Path, format: str
) -> None:
    counts: list[int] = []

    def kill(samples: int) -> None:
        counts.append(samples)
        if sum(counts) > 45:
            raise KeyboardInterrupt

    write(versioned_lake, tmp_path / "at once", format, shard_size=20)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        write(versioned_lake, out, format, shard_size=20, on_samples=kill)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file() and path.name != MARKER}
    assert len(before) == 2
    for other in ({"shard_size": 30}, {"shuffle": 1}):
        with pytest.raises(ExportError, match="holds an unfinished export of something else"):
            write(versioned_lake, out, format, **{"shard_size": 20, **other})
    done: list[int] = []
    again = write(versioned_lake, out, format, shard_size=20, on_plan=done.append, on_samples=done.append)
    assert (again.found, again.samples) == (2, ROWS)
    assert done == [50, 20, 20, 10], "what was planned, and each shard"
    assert content(out) == content(tmp_path / "at once")
    assert before == {path: path.stat().st_mtime_ns for path in before}
    with pytest.raises(ExportError, match=r"out is not empty\. Choose an empty folder"):
        write(versioned_lake, out, format)


def test_parquet_is_the_version_s_rows_and_shows_pictures(versioned_lake: Lake, tmp_path: Path) -> None:
    write(versioned_lake, tmp_path / "out", "parquet")
    files = [tmp_path / "out" / f"{number:05d}.parquet" for number in range(3)]
    assert [pq.read_metadata(file).num_rows for file in files] == [40, 40, 10]
    table = pa.concat_tables(pq.read_table(file) for file in files)
    assert table.schema.names == SCHEMA.names
    assert table.drop_columns("clip_score").to_pylist() == [
        {name: value for name, value in sample.items() if name != "clip_score"} for sample in BY_ID
    ]
    note = json.loads(pq.read_schema(files[0]).metadata[b"imagen"])
    assert note == {"embeddings": {"t5": {"dtype": "bfloat16", "dim": 6}}}
    loaded = datasets.load_dataset(
        "parquet", data_files=[str(file) for file in files], split="train", cache_dir=str(tmp_path / "cache")
    )
    assert loaded.features["image"] == datasets.Image()
    assert [sample["image"].size for sample in loaded] == [(sample["width"], sample["height"]) for sample in BY_ID]


def load(folder: Path, cache: Path) -> datasets.Dataset:
    return datasets.load_dataset(str(folder), split="train", cache_dir=str(cache))


def front(folder: Path) -> tuple[dict[str, Any], str]:
    _, matter, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(matter), text


@pytest.fixture(scope="module")
def hub(versioned_lake: Lake, tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("hub")
    return Written(folder, write(versioned_lake, folder, "hf"))


@pytest.fixture(scope="module")
def hub_dataset(hub: Written, tmp_path_factory: pytest.TempPathFactory) -> datasets.Dataset:
    return load(hub.folder, tmp_path_factory.mktemp("cache"))


def test_a_hub_folder_loads_by_its_name(hub: Written, hub_dataset: datasets.Dataset) -> None:
    names = [f"data/train-{number:05d}-of-00003.parquet" for number in range(3)]
    assert sorted(content(hub.folder)) == ["README.md", *names]
    assert hub_dataset["id"][:] == IDS
    assert hub_dataset[3]["image"].size == (BY_ID[3]["width"], BY_ID[3]["height"])
    assert hub_dataset.features["t5_embedding"] == datasets.Value("binary")


def test_a_hub_folder_has_a_card_that_describes_it(hub: Written, hub_dataset: datasets.Dataset) -> None:
    matter, text = front(hub.folder)
    assert matter["configs"] == [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}]
    about = matter["dataset_info"]
    assert about["splits"][0] == {"name": "train", "num_bytes": about["dataset_size"], "num_examples": ROWS}
    assert about["download_size"] == hub.summary.bytes
    assert datasets.Features._from_yaml_list(about["features"]) == hub_dataset.features
    assert matter["size_categories"] == ["n<1K"]
    assert "90 pictures with captions" in text


def test_the_card_in_the_lake_is_taken_if_it_is_of_this_version(versioned_lake: Lake, tmp_path: Path) -> None:
    card = storage.join(versioned_lake.table_url("datasets/shapes"), "README.md")
    wrong = "configs: [{config_name: default, data_files: bucket=0/*}]"
    try:
        for version, taken in ((3, True), (2, False)):
            storage.write(card, f"---\nlicense: cc0-1.0\n{wrong}\n---\n# shapes@{version}\nMine.\n".encode())
            write(versioned_lake, tmp_path / str(version), "hf")
            matter, text = front(tmp_path / str(version))
            assert matter["configs"][0]["data_files"] == [{"split": "train", "path": "data/train-*"}]
            assert ("license" in matter, "Mine." in text) == (taken, taken)
            assert len(load(tmp_path / str(version), tmp_path / "cache")) == ROWS
        storage.write(card, b"---\na: [\n---\nMine.\n")
        with pytest.raises(ExportError, match=r"front matter of .*README.md is not valid YAML"):
            write(versioned_lake, tmp_path / "broken", "hf")
    finally:
        storage.remove(card)


def test_a_seed_shuffles_the_same_way_each_time(versioned_lake: Lake, tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2), ("d", None)):
        write(versioned_lake, tmp_path / name, "parquet", shuffle=seed)
    assert content(tmp_path / "a") == content(tmp_path / "b") != content(tmp_path / "c")
    ids = {name: pq.read_table(tmp_path / name, columns=["id"])["id"].to_pylist() for name in "acd"}
    assert sorted(ids["a"]) == sorted(ids["c"]) == ids["d"] == IDS
    assert ids["a"] != IDS


def test_an_export_on_s3_is_the_one_on_disk(
    versioned_lake: Lake, tmp_path: Path, bucket: Bucket, s3_server: str
) -> None:
    root = bucket(s3_server)
    storage.split_url(root)[0].put(versioned_lake.url, root, recursive=True)
    far = Lake.open(root)

    def kill(samples: int) -> None:
        raise KeyboardInterrupt

    for format in ("webdataset", "hf"):
        out = f"{root}-{format}"
        with pytest.raises(KeyboardInterrupt):
            write(far, out, format, on_samples=kill)
        written = write(far, out, format)
        write(versioned_lake, tmp_path / format, format)
        assert {name: storage.read(f"{out}/{name}") for name in content(tmp_path / format)} == content(
            tmp_path / format
        )
        assert not storage.exists(f"{out}/{MARKER}")
        assert [shard.bytes for shard in written.shards] == [
            (tmp_path / format / shard.name).stat().st_size for shard in written.shards
        ]
        with pytest.raises(ExportError, match="is not empty"):
            write(far, out, format)


def test_what_can_t_be_exported_is_an_error_of_a_sentence(tmp_path: Path) -> None:
    lake = unprobed_lake(tmp_path)
    publish(lake, [row(1), {**row(2), "image": {"bytes": b"GIF89a", "path": None}}])
    with pytest.raises(DatasetVersionNotFound, match="shapes@9 does not exist"):
        export(lake, "shapes", 9, str(tmp_path / "a"), Format.parquet)
    with pytest.raises(SampleDamaged, match=f"picture of sample {row(2)['id']} is not a JPEG, PNG or WebP"):
        export(lake, "shapes", None, str(tmp_path / "b"), Format.webdataset)
    (tmp_path / "file").write_text("")
    for path in ("file", "file/below"):
        with pytest.raises(ExportError, match=r"is not empty|can't be written"):
            export(lake, "shapes", None, str(tmp_path / path), Format.parquet)
    publish(lake, [row(3)], "float16")
    with pytest.raises(ExportError, match=r"t5 is b?float16 in some files and b?float16 in others"):
        export(lake, "shapes", None, str(tmp_path / "c"), Format.parquet)
    table = lake.table("datasets/shapes")
    table.replace([], table.files(), {"kept": 0})
    with pytest.raises(ExportError, match="shapes@3 has no samples"):
        export(lake, "shapes", None, str(tmp_path / "d"), Format.parquet)
    storage.remove(storage.join(table.url, sorted(lake.table("datasets/shapes", 1).files())[0]))
    with pytest.raises(DatasetVersionNotFound, match="the version was vacuumed"):
        export(lake, "shapes", 1, str(tmp_path / "e"), Format.parquet)


def test_the_command_says_what_was_written(versioned_lake: Lake, tmp_path: Path) -> None:
    command = ["export", "shapes@3", str(tmp_path / "out"), "--lake", versioned_lake.url, "--shard-size", "50"]
    result = CliRunner().invoke(app, [*command, "--format", "webdataset", "--json"])
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert (answer["dataset"], answer["version"], answer["samples"], answer["found"]) == ("shapes", 3, ROWS, 0)
    assert [shard["name"] for shard in answer["shards"]] == ["00000.tar", "00001.tar"]
    assert CliRunner().invoke(app, [*command, "--format", "zip"]).exit_code == 2
