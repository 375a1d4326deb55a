"""Lakes and tables: clear errors, concurrent commits, and every row once whoever commits."""

import multiprocessing
import os
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import DatasetVersionNotFound, LakeNotFound, LakeTooNew, NotALake, TableNotFound
from data.lake.lake import Lake
from data.lake.layout import MARKER
from data.lake.schemas import PAIRS, bucket_of, pair_id
from data.lake.shard_file import write_file
from data.lake.table import Table

WRITERS = 8


def pair_rows(ids: list[str]) -> pa.Table:
    now = datetime.now(UTC)
    return pa.Table.from_pylist(
        [{"id": id, "url": f"u{id}", "caption": "c", "source": "s", "first_seen": now} for id in ids], PAIRS
    )


def ids_of(table: Table) -> list[str]:
    return sorted(table.dataset().to_table(columns=["id"])["id"].to_pylist())


def test_a_missing_lake_and_a_folder_that_is_no_lake_are_different_errors(tmp_path: Path) -> None:
    with pytest.raises(LakeNotFound, match="imagen build"):
        Lake.open(str(tmp_path / "nothing"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(NotALake, match="is not a lake"):
        Lake.open(str(tmp_path))
    with pytest.raises(NotALake, match="not empty"):
        Lake.make(str(tmp_path))


def test_a_lake_of_a_newer_format_is_refused(tmp_path: Path) -> None:
    lake = Lake.make(str(tmp_path / "lake"))
    marker = Path(lake.url) / MARKER
    marker.write_text(marker.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(LakeTooNew, match="Upgrade"):
        Lake.open(lake.url)


def test_a_missing_table_and_a_missing_version_say_what_to_do(tmp_path: Path) -> None:
    lake = Lake.make(str(tmp_path / "lake"))
    with pytest.raises(TableNotFound, match="imagen build RECIPE"):
        lake.table("images")
    lake.table_or_make("pairs", PAIRS)
    with pytest.raises(DatasetVersionNotFound, match="newest is pairs@0"):
        lake.table("pairs", 9)


@pytest.mark.parametrize("buckets", [1, 2, 4, 256, 65_536])
def test_the_bucket_is_the_leading_bits_of_the_id(buckets: int) -> None:
    id = pair_id("http://a/b.jpg", "a cat")
    assert bucket_of(id, buckets) == int(id, 16) * buckets >> 128
    assert bucket_of("0" * 32, buckets) == 0
    assert bucket_of("f" * 32, buckets) == buckets - 1


def test_two_that_planned_on_the_same_state_land_each_row_once(tmp_path: Path) -> None:
    lake = Lake.make(str(tmp_path / "lake"))
    lake.table_or_make("pairs", PAIRS)
    first, second = lake.table("pairs"), lake.table("pairs")
    assert len(first.append([write_file(first.url, 0, pair_rows(["a", "b"]))])) == 1
    assert second.append([write_file(second.url, 0, pair_rows(["b", "c"]))]) == []
    assert len(second.append([write_file(second.url, 0, pair_rows(["d"]))])) == 1
    assert second.append([write_file(second.url, 0, pair_rows(["a"]))]) == [], "what was foreign once stays foreign"
    second.refresh()
    assert ids_of(second) == ["a", "b", "d"]


def test_a_file_committed_twice_is_there_once(tmp_path: Path) -> None:
    lake = Lake.make(str(tmp_path / "lake"))
    table = lake.table_or_make("pairs", PAIRS)
    other = lake.table("pairs")
    file = write_file(table.url, 0, pair_rows(["a"]))
    assert table.append([file]) == [file]
    assert other.append([file]) == [file]
    other.refresh()
    assert ids_of(other) == ["a"]


def commit_files(url: str, writer: int, files: int, start: object, environment: dict[str, str]) -> None:
    os.environ.update(environment)  # a fork server keeps that of its own start
    lake = Lake.open(url)
    table = lake.table("pairs")
    start.wait()  # type: ignore[attr-defined]
    for number in range(files):
        file = write_file(table.url, 0, pair_rows([f"{writer}-{number}", f"{writer}-{number}-b"]))
        assert table.append([file]) == [file]


@pytest.mark.slow
def test_eight_processes_that_commit_at_once_lose_and_double_nothing(tmp_path: Path) -> None:
    lake = Lake.make(str(tmp_path / "lake"))
    check_concurrent_commits(lake, files_each=5)


def check_concurrent_commits(lake: Lake, files_each: int) -> None:
    lake.table_or_make("pairs", PAIRS)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # what eight would import is imported once
    start, environment = context.Barrier(WRITERS), dict(os.environ)
    processes = [
        context.Process(target=commit_files, args=(lake.url, n, files_each, start, environment)) for n in range(WRITERS)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(240)
        assert process.exitcode == 0
    wanted = sorted(f"{w}-{n}{end}" for w in range(WRITERS) for n in range(files_each) for end in ("", "-b"))
    assert ids_of(lake.table("pairs")) == wanted


@pytest.mark.slow
@settings(max_examples=15, deadline=None)
@given(plans=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=4, unique=True), min_size=2, max_size=6))
def test_whatever_overlapping_plans_commit_no_row_is_double(
    tmp_path_factory: pytest.TempPathFactory, plans: list[list[int]]
) -> None:
    lake = Lake.make(str(tmp_path_factory.mktemp("lakes") / "lake"))
    lake.table_or_make("pairs", PAIRS)
    tables = [lake.table("pairs") for _ in plans]
    landed: list[str] = []
    for table, plan in zip(tables, plans, strict=True):
        ids = [f"{n:02d}" for n in plan]
        if table.append([write_file(table.url, 0, pair_rows(ids))]):
            landed += ids
    stored_ids = ids_of(lake.table("pairs"))
    assert stored_ids == sorted(landed)
    assert len(stored_ids) == len(set(stored_ids))
    assert {f"{n:02d}" for n in plans[0]} <= set(stored_ids)
