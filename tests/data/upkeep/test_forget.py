"""What is forgotten is nowhere in the lake's bytes and does not come back; forgetting names who had seen it."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
from data.upkeep.forget import ForgetResult, forget
from data.upkeep.vacuum import vacuum
from data.upkeep.verify import verify
from tests.data.conftest import STRICT, recipe_for
from tests.shared import copy_of


def traces(lake: Lake, needles: list[bytes]) -> list[str]:
    """Files of the lake whose bytes, or whose unpacked values, hold any of some bytes."""
    paths = []
    for path in storage.files(lake.url):
        content = storage.read(storage.join(lake.url, path))
        if path.endswith(".parquet"):
            rows = pq.read_table(io.BytesIO(content))
            values = rows.to_pydict()
            images = [image["bytes"] if isinstance(image, dict) else image for image in values.pop("image", [])]
            content += b"".join(images) + repr(values).encode()
        if any(needle in content for needle in needles):
            paths.append(path)
    return paths


@dataclass(frozen=True)
class Forgotten:
    """A lake in which a pair with a caption of its own was forgotten, and what was known before."""

    lake: Lake
    pair: dict[str, Any]
    needles: list[bytes]
    traces_before: list[str]
    rows_before: dict[int, int]  # by version
    summary: ForgetResult


@pytest.fixture(scope="module")
def forgotten(built: Lake, tmp_path_factory: pytest.TempPathFactory) -> Forgotten:
    """Not to be changed by a test."""
    lake = copy_of(built, tmp_path_factory.mktemp("forgotten") / "lake")
    ids = lake.table("datasets/shapes").dataset().to_table(columns=["id", "caption", "url", "image"])
    pair = query(
        "SELECT ids.* FROM ids JOIN pairs ON pairs.caption = ids.caption GROUP BY ALL HAVING count(*) = 1 LIMIT 1",
        ids=ids,
        pairs=lake.table("pairs").dataset(),
    ).to_pylist()[0]
    needles = [pair["url"].encode(), pair["caption"].encode(), pair["image"]["bytes"]]
    before = {version: lake.table("datasets/shapes", version).count_rows() for version in (1, 2)}
    return Forgotten(lake, pair, needles, traces(lake, needles), before, forget(lake, "url", pair["url"]))


def test_a_forgotten_pair_is_nowhere(forgotten: Forgotten) -> None:
    assert len(forgotten.traces_before) >= 4, "the search finds the pair before it is forgotten"
    assert traces(forgotten.lake, forgotten.needles) == []


def test_forgetting_names_the_pair_its_versions_and_its_tables(forgotten: Forgotten) -> None:
    assert forgotten.summary.pairs == [forgotten.pair["id"]]
    assert forgotten.summary.seen_by == ["shapes@1", "shapes@2"]
    assert {"pairs", "images", "fetches", "verdicts/shapes", "datasets/shapes"} <= forgotten.summary.rows.keys()


def test_old_versions_stay_readable_without_a_forgotten_pair(forgotten: Forgotten) -> None:
    lake = forgotten.lake
    assert [version.version for version in versions(lake, "shapes")] == [3, 2, 1]
    for version, rows in forgotten.rows_before.items():
        ids = lake.table("datasets/shapes", version).dataset().to_table(columns=["id"])["id"].to_pylist()
        assert len(ids) == rows - 1
        assert forgotten.pair["id"] not in ids
        assert verify(lake, "shapes", version).same
    assert lake.table("datasets/shapes").count_rows() == forgotten.rows_before[2] - 1


def test_a_forgotten_pair_does_not_come_back(
    forgotten: Forgotten, world: Path, engine: LocalEngine, tmp_path: Path
) -> None:
    lake = copy_of(forgotten.lake, tmp_path / "lake")
    again = build(lake, recipe_for(world, *STRICT), engine)
    assert again.new_pairs == again.added == 0, "known files are not read again"
    table = lake.table("pairs")
    row = {name: forgotten.pair[name] for name in ("id", "url", "caption")}
    table.append([write_file(table.url, 0, pa.Table.from_pylist([row], PAIRS))])
    assert build(lake, recipe_for(world, *STRICT), engine).added == 0, "blocked, should it be listed again"
    assert forget(lake, "pair", forgotten.pair["id"]).seen_by == []


def test_a_version_is_what_it_says_it_is_after_the_first_of_its_duplicates_was_forgotten(
    built: Lake, tmp_path: Path
) -> None:
    lake = copy_of(built, tmp_path / "lake")
    first = query(
        "SELECT right(reasons[1], 32) AS id, count(*) AS n FROM verdicts WHERE reasons[1] LIKE '%: same as %' "
        "OR reasons[1] LIKE '%: like %' GROUP BY ALL ORDER BY n DESC, id LIMIT 1",
        verdicts=lake.table(
            "verdicts/shapes", versions(lake, "shapes")[-1].record["inputs"]["verdicts/shapes"]
        ).dataset(),
    ).to_pylist()[0]
    forget(lake, "pair", first["id"])
    verification = verify(lake, "shapes", 1)
    assert verification.same
    assert verification.rewritten
    assert 1 <= len(verification.regrouped) <= first["n"]


def test_a_domain_is_forgotten_with_all_its_pairs_and_bytes_by_their_hash(built: Lake, tmp_path: Path) -> None:
    lake = copy_of(built, tmp_path / "lake")
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
    lake = copy_of(built, tmp_path / "lake")
    orphan = Path(lake.url) / "images" / "bucket=0" / "orphan.parquet"
    orphan.write_bytes(b"left behind")
    assert vacuum(lake).files == 0, "it may be about to be committed"
    assert vacuum(lake, 0, dry_run=True).files == 1
    assert orphan.exists()
    summary = vacuum(lake, 0)
    assert (summary.files, summary.bytes) == (1, 11)
    assert not orphan.exists()
    for version in (1, 2):
        assert verify(lake, "shapes", version).same
