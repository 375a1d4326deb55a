"""What is forgotten is nowhere in the lake's bytes, does not come back, and who had seen it is told."""

import io
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.build.build import build
from data.engine.local import LocalEngine
from data.errors import PairNotFound
from data.lake import storage
from data.lake.lake import Lake
from data.lake.schemas import PAIRS
from data.lake.shard_file import write_file
from data.lake.sql import query
from data.publish.versions import versions
from data.upkeep.forget import forget
from data.upkeep.vacuum import vacuum
from data.upkeep.verify import verify
from tests.data.build.test_dry_run import copy_of
from tests.data.conftest import STRICT, recipe_for


def traces(lake: Lake, needles: list[bytes]) -> list[str]:
    """Files of the lake whose bytes, or whose unpacked values, hold any of some bytes."""
    found = []
    for path in storage.files(lake.url):
        content = storage.read(storage.join(lake.url, path))
        if path.endswith(".parquet"):
            rows = pq.read_table(io.BytesIO(content))
            values = rows.to_pydict()
            images = [image["bytes"] if isinstance(image, dict) else image for image in values.pop("image", [])]
            content += b"".join(images) + repr(values).encode()
        if any(needle in content for needle in needles):
            found.append(path)
    return found


def test_a_forgotten_pair_is_nowhere_and_does_not_come_back(
    built: Lake, world: Path, engine: LocalEngine, tmp_path: Path
) -> None:
    lake = copy_of(built, tmp_path)
    ids = lake.table("datasets/shapes").dataset().to_table(columns=["id", "caption", "url", "image"])
    alone = query(
        "SELECT ids.* FROM ids JOIN pairs ON pairs.caption = ids.caption GROUP BY ALL HAVING count(*) = 1 LIMIT 1",
        ids=ids,
        pairs=lake.table("pairs").dataset(),
    ).to_pylist()[0]
    needles = [alone["url"].encode(), alone["caption"].encode(), alone["image"]["bytes"]]
    assert len(traces(lake, needles)) >= 4, "the search finds what is there"
    before = {version: lake.table("datasets/shapes", version).count_rows() for version in (1, 2)}
    found = forget(lake, "url", alone["url"])
    assert found.pairs == [alone["id"]]
    assert found.seen_by == ["shapes@1", "shapes@2"]
    assert {"pairs", "images", "fetches", "verdicts/shapes", "datasets/shapes"} <= found.rows.keys()
    assert traces(lake, needles) == []
    assert [version.version for version in versions(lake, "shapes")] == [3, 2, 1]
    for version, rows in before.items():
        there = lake.table("datasets/shapes", version).dataset().to_table(columns=["id"])["id"].to_pylist()
        assert len(there) == rows - 1, "old versions stay readable"
        assert alone["id"] not in there
        assert verify(lake, "shapes", version).same
    assert lake.table("datasets/shapes").count_rows() == before[2] - 1
    again = build(lake, recipe_for(world, *STRICT), engine)
    assert again.new_pairs == again.added == 0, "known files are not read again"
    table = lake.table("pairs")
    row = {"id": alone["id"], "url": alone["url"], "caption": alone["caption"]}
    table.append([write_file(table.url, 0, pa.Table.from_pylist([row], PAIRS))])
    assert build(lake, recipe_for(world, *STRICT), engine).added == 0, "blocked, should it be listed anew"
    assert forget(lake, "pair", alone["id"]).seen_by == []


def test_a_version_is_what_it_says_it_is_after_the_first_of_its_duplicates_was_forgotten(
    built: Lake, tmp_path: Path
) -> None:
    lake = copy_of(built, tmp_path)
    first = query(
        "SELECT right(reasons[1], 32) AS id, count(*) AS n FROM verdicts WHERE reasons[1] LIKE '%: same as %' "
        "OR reasons[1] LIKE '%: like %' GROUP BY ALL ORDER BY n DESC, id LIMIT 1",
        verdicts=lake.table(
            "verdicts/shapes", versions(lake, "shapes")[-1].record["inputs"]["verdicts/shapes"]
        ).dataset(),
    ).to_pylist()[0]
    forget(lake, "pair", first["id"])
    found = verify(lake, "shapes", 1)
    assert found.same
    assert found.rewritten
    assert 1 <= len(found.regrouped) <= first["n"]


def test_a_domain_is_forgotten_whole_and_bytes_by_their_hash(built: Lake, tmp_path: Path) -> None:
    lake = copy_of(built, tmp_path)
    image = lake.table("images").dataset().head(1, columns=["id", "sha256"]).to_pylist()[0]
    assert image["id"] in forget(lake, "sha256", image["sha256"]).pairs
    with pytest.raises(PairNotFound, match=r"has no pair of domain 'test.org'. Nothing was forgotten"):
        forget(lake, "domain", "test.org")
    with pytest.raises(PairNotFound):
        forget(lake, "domain", "hapes.test")
    forget(lake, "domain", "test")
    assert {name: lake.table(name).count_rows() for name in ("pairs", "images", "datasets/shapes")} == {
        "pairs": 0,
        "images": 0,
        "datasets/shapes": 0,
    }


def test_vacuum_removes_what_nobody_named_and_nothing_else(built: Lake, tmp_path: Path) -> None:
    lake = copy_of(built, tmp_path)
    orphan = Path(lake.url) / "images" / "bucket=0" / "orphan.parquet"
    orphan.write_bytes(b"left behind")
    assert vacuum(lake).files == 0, "it may be about to be committed"
    assert vacuum(lake, 0, dry_run=True).files == 1
    assert orphan.exists()
    found = vacuum(lake, 0)
    assert (found.files, found.bytes) == (1, 11)
    assert not orphan.exists()
    for version in (1, 2):
        assert verify(lake, "shapes", version).same
