"""Bodies that mean harm, through the real stage over a real server: no crash, no hang, memory bounded, each a row."""

import io
import time
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from PIL import Image

from data.engine.local import LocalEngine
from data.engine.stage import run_stage
from data.fetch.download import Download, DownloadSettings
from data.lake.lake import Lake
from data.lake.schemas import PAIRS, bucket_of, pair_id
from data.lake.shard_file import write_file
from data.world.server import start_process
from tests.data.pictures.hostile_corpus import BOMBS, HEAVY, worker_peak, write_corpus

HOST = "shapes.test"
STATUSES = {"ok", "not_an_image", "broken_image", "too_many_pixels"}
MOST_MEMORY = 1_000_000  # kB of a worker, all its libraries included


def add_pairs(lake: Lake, count: int) -> dict[str, int]:
    """A pair for each page of the corpus; their ids, with the page's number."""
    urls = [f"http://{HOST}/{number}.jpg" for number in range(count)]
    ids = {pair_id(url, "a caption"): number for number, url in enumerate(urls)}
    now, table = datetime.now(UTC), lake.table_or_make("pairs", PAIRS)
    for bucket in lake.buckets:
        rows = [
            {"id": id, "url": urls[number], "caption": "a caption", "source": "list", "first_seen": now}
            for id, number in ids.items()
            if bucket_of(id, lake.config.buckets) == bucket
        ]
        table.append([write_file(table.url, bucket, pa.Table.from_pylist(rows, PAIRS))])
    return ids


def survive(folder: Path, count: int, seed: int, heavy: list[str]) -> str:
    """Download the corpus in one worker and check every row; what it took, in words."""
    (folder / "origin").mkdir()
    names = write_corpus(folder / "origin", count, seed, heavy)
    settings = DownloadSettings(per_host=64, per_host_rate=5000, timeout=120)
    with start_process(folder / "origin") as origin, LocalEngine(1) as engine:
        lake = Lake.make(str(folder / "lake"), hosts={HOST: origin.address})
        ids = add_pairs(lake, count)
        ((worker, _),) = engine.map(worker_peak, [0])
        began = time.monotonic()
        assert run_stage(lake, Download(lake, settings), engine, 500) == count
        seconds = time.monotonic() - began
        ((still, peak),) = engine.map(worker_peak, [0])
    assert still == worker, "the worker died on the way"
    attempts = lake.table("fetches").dataset().to_table().to_pylist()
    assert {row["id"] for row in attempts} == set(ids)
    assert len(attempts) == count
    for row in attempts:
        name = names[ids[row["id"]]]
        assert row["status"] in STATUSES, (name, row)
        assert (row["status"] == "ok") == (row["error"] is None), (name, row)
        assert row["error"] is None or len(row["error"]) > 10, (name, row)
    images = lake.table("images").dataset().to_table().to_pylist()
    assert {row["id"] for row in images} == {row["id"] for row in attempts if row["status"] == "ok"}
    for row in images:
        with Image.open(io.BytesIO(row["image"])) as picture:
            picture.load()
            assert picture.size == (row["width"], row["height"]), names[ids[row["id"]]]
            assert max(picture.size) <= settings.image_size
    counts = dict(Counter(row["status"] for row in attempts).most_common())
    summary = f"{count:,} hostile bodies in {seconds:.0f} s, a worker's peak {peak // 1000:,} MB, {counts}"
    assert peak < MOST_MEMORY, summary
    return summary


@pytest.mark.slow
def test_every_hostile_body_is_a_row_in_words(tmp_path: Path) -> None:
    survive(tmp_path, 400, seed=1, heavy=["png alpha", "jpeg scans"])


@pytest.mark.nightly
@pytest.mark.timeout(3600)
def test_ten_thousand_hostile_bodies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    summary = survive(tmp_path, 10_000, seed=2, heavy=list(HEAVY))
    with capsys.disabled():
        print(f"\n{summary}")  # noqa: T201 - the measurement


def test_the_corpus_is_the_same_for_a_seed(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        write_corpus(tmp_path / folder, len(BOMBS) + 60, 3, [])
    for file in sorted((tmp_path / "a").glob("*.jpg")):
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
