"""The same lake on S3 over HTTP: the same race, through a network that fails, and stores that must be refused."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

import data.lake.lake
from data.build.build import build
from data.build.recipe import load_recipe
from data.engine.local import LocalEngine
from data.errors import UnsafeStore
from data.lake import storage
from data.lake.lake import Lake
from data.lake.schemas import PAIRS, pair_id
from data.lake.shard_file import write_file
from data.upkeep.forget import forget
from data.upkeep.vacuum import vacuum
from data.upkeep.verify import verify
from data.world.server import OriginProcess
from tests.conftest import QUICK_RECIPE, Bucket, content_of, write_recipe
from tests.data.lake.test_lake import check_concurrent_commits, ids_of, pair_rows
from tests.data.report.test_write import run_card
from tests.data.upkeep.test_forget import traces
from tests.lakes.empty import rows_of
from tests.lakes.fetched import add_fetched_pairs, build_in_process, numbered_pairs, small_recipe
from tests.servers import ceph
from tests.servers.flaky import Fault, FlakyProxy

SHORT_RECIPE = QUICK_RECIPE.replace("image_size: 256", "image_size: 64").replace("timeout: 4", "timeout: 8")


@pytest.mark.nightly  # the next test is the same through a network that fails
def test_eight_processes_that_commit_at_once_on_s3_lose_and_double_nothing(bucket: Bucket, s3_server: str) -> None:
    check_concurrent_commits(Lake.make(bucket(s3_server)), files_each=2)


def test_neither_do_they_when_a_tenth_of_the_answers_fail(bucket: Bucket, s3_server: str) -> None:
    with FlakyProxy(s3_server, "flaky") as proxy:
        check_concurrent_commits(Lake.make(bucket(proxy.url, s3_server)), files_each=2)
        assert proxy.faults > 20


def test_a_write_that_is_done_and_then_denied_is_there_once(
    bucket: Bucket, s3_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.lake.lake, "PROBE_COMMITS", 1)
    with FlakyProxy(s3_server, "forgetful") as proxy:
        table = Lake.make(bucket(proxy.url, s3_server)).table_or_make("pairs", PAIRS)
        assert table.version == 0
        for id in "abc":
            file = write_file(table.url, 0, pair_rows([id]))
            assert table.append([file]) == [file]
        table.refresh()
        assert ids_of(table) == ["a", "b", "c"]
        assert proxy.faults > 10


def test_a_build_on_s3_through_a_failing_network_publishes_what_one_on_disk_does(
    bucket: Bucket, s3_server: str, world: Path, origin: OriginProcess, lake: Lake, tmp_path: Path
) -> None:
    """Fewer pairs and stages than a whole build has: each request may fail, and every failure waits."""
    pq.write_table(pq.read_table(world / "pairs.parquet").slice(0, 40), tmp_path / "pairs.parquet")
    recipe = load_recipe(str(write_recipe(tmp_path, tmp_path / "pairs.parquet", threshold=0.1, text=SHORT_RECIPE)))
    with FlakyProxy(s3_server, "flaky") as proxy:
        on_s3 = Lake.make(bucket(proxy.url, s3_server), buckets=1, hosts=lake.config.hosts)
        with LocalEngine(2) as engine:
            built = build(on_s3, recipe, engine), build(lake, recipe, engine)
        assert proxy.faults > 20
        assert built[0] == built[1]
        assert content_of(on_s3, "shapes") == content_of(lake, "shapes")


@pytest.mark.nightly
def test_a_whole_build_through_a_failing_network_publishes_what_one_on_disk_does(
    bucket: Bucket, s3_server: str, world: Path, origin: OriginProcess, lake: Lake, tmp_path: Path
) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path, world / "pairs.parquet")))
    with FlakyProxy(s3_server, "flaky") as proxy:
        on_s3 = Lake.make(bucket(proxy.url, s3_server), hosts=lake.config.hosts)
        with LocalEngine(2) as engine:
            built = build(on_s3, recipe, engine), build(lake, recipe, engine)
        assert proxy.faults > 20
        assert built[0] == built[1]
        assert content_of(on_s3, "shapes") == content_of(lake, "shapes")


def test_the_lines_of_a_card_on_s3_load_the_version(
    bucket: Bucket, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.lake.lake, "PROBE_COMMITS", 1)
    monkeypatch.setenv("AWS_ALLOW_HTTP", "true")  # what a reader of a store without TLS says to deltalake and Polars
    lake, source = Lake.make(bucket(s3_server), buckets=1), tmp_path / "pairs.parquet"
    add_fetched_pairs(lake, source, numbered_pairs(20))
    done = build_in_process(lake, small_recipe(source, 0.4))
    assert (done.version, done.warning) == (1, None)
    card = storage.read(storage.join(lake.table_url("datasets/small"), "README.md")).decode()
    count = str(done.kept)
    assert run_card(card, tmp_path / "cache") == [count, "0", count, "0"], "datasets, DuckDB, pandas, Polars"
    assert storage.exists(done.report)
    assert not build_in_process(lake, small_recipe(source, 0.4)).anything_done


def test_what_is_forgotten_on_s3_is_nowhere_and_versions_stay_what_they_say(
    bucket: Bucket, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.lake.lake, "PROBE_COMMITS", 1)
    lake, source, pairs = Lake.make(bucket(s3_server), buckets=1), tmp_path / "pairs.parquet", numbered_pairs(20)
    add_fetched_pairs(lake, source, pairs)
    count = build_in_process(lake, small_recipe(source, 0.4)).kept
    url, caption = pairs[15]
    images = {row["id"]: row["image"] for row in rows_of(lake, "images")}
    needles = [url.encode(), images[pair_id(url, caption)]]
    assert len(traces(lake, needles)) >= 3, "the search finds the pair before it is forgotten"
    assert forget(lake, "url", url).seen_by == ["small@1"]
    assert traces(lake, needles) == []
    assert vacuum(lake, older_than=0).files == 0, "forgetting leaves no file without a name"
    for version in (1, None):
        verification = verify(lake, "small", version)
        assert (verification.same, verification.rows) == (True, count - 1)
    assert build_in_process(lake, small_recipe(source, 0.4)).kept == count - 1


def test_vacuum_removes_an_old_file_on_s3_that_nothing_names(
    bucket: Bucket, s3_server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(data.lake.lake, "PROBE_COMMITS", 1)
    lake = Lake.make(bucket(s3_server), buckets=1)
    add_fetched_pairs(lake, tmp_path / "pairs.parquet", numbered_pairs(4))
    images = lake.table("images")
    orphan = write_file(images.url, 0, images.dataset().to_table().slice(0, 1))
    assert (vacuum(lake).files, vacuum(lake, older_than=0).files) == (0, 1)
    assert not storage.exists(storage.join(images.url, orphan.path))


@pytest.mark.nightly
@pytest.mark.skipif(bool(ceph.missing()), reason=f"not installed: {', '.join(ceph.missing())} (Debian: radosgw, ceph)")
def test_a_durable_store_of_another_make_keeps_every_row_through_its_own_death(
    bucket: Bucket,
    world: Path,
    origin: OriginProcess,
    lake: Lake,
    tmp_path: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    recipe = load_recipe(str(write_recipe(tmp_path, world / "pairs.parquet")))
    with ceph.Ceph(tmp_path_factory.mktemp("ceph")) as store, LocalEngine(2) as engine:
        raced = Lake.make(bucket(store.url))
        check_concurrent_commits(raced, files_each=8)
        before = ids_of(raced.table("pairs"))
        far = Lake.make(bucket(store.url), hosts=lake.config.hosts)
        built = build(far, recipe, engine)
        store.restart()
        assert ids_of(raced.table("pairs")) == before
        assert not build(far, recipe, engine).anything_done
        assert built == build(lake, recipe, engine)
        assert content_of(far, "shapes") == content_of(lake, "shapes")


@pytest.mark.parametrize("fault", ["unconditional", "check_then_put"])
def test_a_store_that_would_lose_commits_is_refused(bucket: Bucket, s3_server: str, fault: Fault) -> None:
    with FlakyProxy(s3_server, fault) as proxy:
        url = bucket(proxy.url, s3_server)
        with pytest.raises(UnsafeStore, match=r"lost \d+ of 20 concurrent commits"):
            Lake.make(url)
        assert storage.is_empty(url), "what the probe wrote is gone"
