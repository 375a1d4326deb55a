"""The reader: every sample of an epoch once, over ranks, workers, resumes and changes of both; what a sample is."""

import io
import json
import multiprocessing
import subprocess
import sys
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from data.errors import ColumnNotFound, DatasetNotFound, DatasetVersionNotFound, SampleDamaged, StateMismatch
from data.lake import storage
from data.lake.lake import Lake
from data.lake.shard_file import write_file
from data.lake.table import Table
from data.publish.publish import SAMPLE
from data.reader import order
from data.reader.order import Order, Spans, Unit, count_positions, join_spans, share_of_spans, slice_spans
from data.reader.reader import Reader, _read_ahead
from data.reader.states import merge_states
from tests.conftest import Bucket
from tests.servers.small_world import jpeg

DIM = 6
COLUMNS = pa.schema([("clip_score", pa.float32()), ("t5_embedding", pa.binary()), ("t5_length", pa.int32())])
SCHEMA = pa.schema([*SAMPLE, *COLUMNS])
counts = st.lists(st.integers(0, 700), max_size=6)


def sample_row(number: int) -> dict[str, Any]:
    picture = {"bytes": jpeg(16, 8, number), "path": None}
    fixed = {"url": f"u{number}", "sha256": "", "width": 16, "height": 8}
    return {"id": f"{number:04d}", "caption": f"caption {number}", "image": picture, "clip_score": number / 8, **fixed}


def vectors(number: int) -> torch.Tensor:
    """An embedding that bfloat16 and float16 both hold exactly."""
    return (torch.arange(number % 5 * DIM).reshape(-1, DIM) + number % 7) / 4


def with_embedding(row: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    values = vectors(int(row["id"])).to(dtype)
    return {**row, "t5_embedding": values.view(torch.int16).numpy().tobytes(), "t5_length": len(values)}


def publish(lake: Lake, rows: list[dict[str, Any]], note: dict[str, Any] | None = None, bucket: int = 0) -> Table:
    """Commit rows as one more file of the dataset."""
    table = lake.table_or_make("datasets/shapes", SCHEMA)
    metadata = {"imagen": json.dumps({"embeddings": {"t5": note}})} if note else None
    table.append([write_file(table.url, bucket, pa.Table.from_pylist(rows, SCHEMA.with_metadata(metadata)))])
    return table


def filled(url: str, rows: int = 400) -> Lake:
    """A lake with a dataset of four files in two buckets, of which one is shorter than a unit."""
    lake = Lake.make(url, buckets=2)
    picture = sample_row(0)
    all_rows = [{**picture, "id": f"{n:04d}", "caption": f"caption {n}"} for n in range(rows)]
    bounds = [0, rows // 2, rows // 2 + 20, rows * 3 // 4, rows]
    for number, (start, stop) in enumerate(pairwise(bounds)):
        publish(lake, all_rows[start:stop], bucket=number % 2)
    return lake


@pytest.fixture(scope="module")
def numbered_lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return filled(str(tmp_path_factory.mktemp("reader") / "lake"))


@pytest.fixture(autouse=True)
def short_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(order, "UNIT_ROWS", 16)  # so that a few hundred rows have many


IDS = [f"{n:04d}" for n in range(400)]


def reader(lake: Lake, rank: int = 0, world: int = 1, **settings: Any) -> Reader:
    return Reader(lake, "shapes", columns=("id",), rank=rank, world=world, **{"mix": 64, **settings})


def loader(dataset: Reader, workers: int, batch: int = 7, **settings: Any) -> StatefulDataLoader:
    return StatefulDataLoader(dataset, batch_size=batch, num_workers=workers, **settings)


def ids(batches: Any) -> list[str]:
    return [id for batch in batches for id in ([batch["id"]] if isinstance(batch["id"], str) else batch["id"])]


# The order and its dealing, without any reading


def sequence(epoch: Order, spans: Spans) -> list[tuple[int, int]]:
    pieces = epoch.pieces(spans)
    return [
        (piece.units[unit].file, piece.units[unit].first + row)
        for piece in pieces
        for unit, row in zip(piece.unit_indices, piece.rows, strict=True)
    ]


@given(rows=counts, seed=st.integers(0, 2**32 - 1), epoch=st.integers(0, 9), mix=st.integers(1, 400), parts=st.data())
@settings(deadline=None, max_examples=60)
def test_however_an_epoch_is_cut_every_row_is_in_it_once_and_in_the_same_order(
    rows: list[int], seed: int, epoch: int, mix: int, parts: st.DataObject
) -> None:
    shuffled = Order.of_epoch(rows, seed, epoch, True, mix)
    uncut = sequence(shuffled, [(0, len(shuffled))])
    assert sorted(uncut) == [(file, row) for file, count in enumerate(rows) for row in range(count)]
    cuts = parts.draw(st.lists(st.integers(0, len(uncut)), max_size=5).map(sorted))
    spans = list(zip([0, *cuts], [*cuts, len(uncut)], strict=True))
    assert sequence(shuffled, spans) == uncut
    plain = Order.of_epoch(rows, seed, epoch, False, mix)
    assert sequence(plain, [(0, len(plain))]) == sorted(uncut)


@given(epoch=st.integers(0, 5), seed=st.integers(0, 5))
def test_the_order_is_decided_by_seed_and_epoch(epoch: int, seed: int) -> None:
    first, again, later, other = (
        sequence(Order.of_epoch([500, 300], s, e, True, 128), [(0, 800)])
        for s, e in ((seed, epoch), (seed, epoch), (seed, epoch + 1), (seed + 1, epoch))
    )
    assert first == again
    assert first not in (later, other)


def test_the_order_is_the_same_in_every_version_of_the_libraries() -> None:
    assert sequence(Order.of_epoch([40, 30, 50], 3, 1, True, 32), [(30, 36)]) == [
        *[(0, 24), (0, 25), (2, 48), (0, 9), (0, 36), (0, 17)]
    ]


def test_neighbours_in_a_file_are_far_apart_in_an_epoch() -> None:
    epoch = Order.of_epoch([2000] * 4, 0, 0, True, 256)
    places = {sample: position for position, sample in enumerate(sequence(epoch, [(0, 8000)]))}
    apart = [abs(places[file, row] - places[file, row + 1]) for file in range(4) for row in range(1999)]
    assert np.median(apart) > 60


spans = st.lists(st.integers(0, 300), unique=True, max_size=12).map(
    lambda ends: list(zip(sorted(ends)[::2], sorted(ends)[1::2], strict=False))
)


def positions(spans: Spans) -> list[int]:
    return [position for start, stop in spans for position in range(start, stop)]


@given(spans=spans, parts=st.integers(1, 9))
def test_shares_are_disjoint_complete_and_as_equal_as_can_be(spans: Spans, parts: int) -> None:
    shares = [share_of_spans(spans, part, parts) for part in range(parts)]
    assert [p for part in shares for p in positions(part)] == positions(spans)
    assert max(map(count_positions, shares)) - min(map(count_positions, shares)) <= 1
    assert positions(join_spans(shares)) == positions(spans)
    even = [share_of_spans(spans, part, parts, drop_remainder=True) for part in range(parts)]
    assert {count_positions(part) for part in even} == {count_positions(spans) // parts}
    assert [p for part in even for p in positions(part)] == positions(spans)[: count_positions(spans) // parts * parts]


def test_shares_that_overlap_are_not_joined() -> None:
    with pytest.raises(ValueError, match="position 4 is in two"):
        join_spans([[(0, 5)], [(4, 6)]])


@given(n=st.integers(0, 2000), runs=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 4)), max_size=5), go=st.data())
@settings(deadline=None)
def test_whatever_ranks_and_workers_an_epoch_moves_over_each_position_is_given_once(
    n: int, runs: list[tuple[int, int]], go: st.DataObject
) -> None:
    rest, given_out = [(0, n)], []
    for world, workers in runs:
        ranks = [share_of_spans(rest, rank, world) for rank in range(world)]
        rests = []
        for share in (share_of_spans(spans, worker, workers) for spans in ranks for worker in range(workers)):
            taken = go.draw(st.integers(0, count_positions(share)))
            given_out += positions(slice_spans(share, 0, taken))
            rests.append(slice_spans(share, taken, count_positions(share)))
        rest = join_spans(rests)
    assert sorted(given_out + positions(rest)) == list(range(n))


# The reader itself


def test_ranks_and_workers_together_give_every_sample_once(numbered_lake: Lake) -> None:
    for world, workers in ((1, 0), (1, 2), (2, 0), (3, 2)):
        parts = [ids(loader(reader(numbered_lake, rank, world), workers)) for rank in range(world)]
        assert sorted(id for part in parts for id in part) == IDS
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert [len(part) for part in parts] == [len(reader(numbered_lake, rank, world)) for rank in range(world)]


def test_two_readings_are_alike_and_epochs_differ(numbered_lake: Lake) -> None:
    first, other = reader(numbered_lake), reader(numbered_lake, seed=1)
    before = ids(first)
    assert before == ids(first) == ids(reader(numbered_lake)), "another epoch is asked for, never come upon"
    first.set_epoch(1)
    assert sorted(before) == sorted(ids(first)) == sorted(ids(other)) == IDS
    assert before not in (ids(first), ids(other))
    assert sorted(ids(reader(numbered_lake, shuffle=False))) == IDS
    files = Reader(numbered_lake, "shapes").paths
    in_order = [
        id for path in files for id in numbered_lake.table("datasets/shapes").dataset(paths=[path]).to_table()["id"]
    ]
    assert ids(reader(numbered_lake, shuffle=False)) == [id.as_py() for id in in_order]


def test_even_shares_leave_out_fewer_than_there_are_ranks(numbered_lake: Lake) -> None:
    parts = [ids(reader(numbered_lake, rank, 3, drop_uneven=True)) for rank in range(3)]
    assert [len(part) for part in parts] == [133, 133, 133]
    assert len({id for part in parts for id in part}) == 399


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_a_loader_goes_on_after_any_batch_as_if_it_had_not_stopped(numbered_lake: Lake, workers: int) -> None:
    batch = 29
    all_batches = [batch["id"] for batch in loader(reader(numbered_lake), workers, batch)]
    for stop in range(0, len(all_batches) + 1, 1 if workers == 0 else 4):
        first = loader(reader(numbered_lake), workers, batch)
        batches = iter(first)
        assert [next(batches)["id"] for _ in range(stop)] == all_batches[:stop]
        state = json.loads(json.dumps(first.state_dict()))
        second = loader(reader(numbered_lake), workers, batch)
        second.load_state_dict(state)
        assert [batch["id"] for batch in second] == all_batches[stop:]


@given(
    steps=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 160)), min_size=1, max_size=4), seed=st.integers(0, 9)
)
@settings(deadline=None, max_examples=12)
def test_an_epoch_that_moves_over_changing_worlds_gives_every_sample_once(
    numbered_lake: Lake, steps: list[tuple[int, int]], seed: int
) -> None:
    got: list[str] = []
    state: dict[str, Any] | None = None
    for world, taken in steps:
        states = []
        for rank in range(world):
            mine = reader(numbered_lake, rank, world, seed=seed)
            if state:
                mine.load_state_dict(state)
            got += ids(islice(mine, taken // (rank + 1)))
            states.append(json.loads(json.dumps(mine.state_dict())))
        state = merge_states(states)
    last = reader(numbered_lake, seed=seed)
    last.load_state_dict(state or {})
    assert sorted(got + ids(last)) == IDS


def test_an_epoch_moves_to_another_number_of_ranks_and_workers(numbered_lake: Lake) -> None:
    got, states = [], []
    for rank, (workers, batches) in enumerate(((2, 5), (1, 3))):
        before = loader(reader(numbered_lake, rank, 2), workers)
        got += ids(islice(before, batches))
        states.append(before.state_dict())
    assert len(got) == 8 * 7
    merged = merge_states(states)
    halfway = []
    for rank in range(3):
        again = reader(numbered_lake, rank, 3)
        again.load_state_dict(merged)
        after = loader(again, 2)
        got += ids(islice(after, 4))
        halfway.append(after.state_dict())
    alone = reader(numbered_lake)
    alone.load_state_dict(merge_states(halfway))
    assert sorted(got + ids(loader(alone, 0))) == IDS


def test_a_loaded_state_is_used_once(numbered_lake: Lake) -> None:
    for first, second in ((2, 2), (2, 3), (0, 2), (2, 0), (3, 1)):
        begun = reader(numbered_lake)
        ids(islice(begun, 100))
        again = reader(numbered_lake)
        again.load_state_dict(begun.state_dict())
        assert again.epoch == 0
        assert len(ids(loader(again, first))) == 300
        assert sorted(ids(loader(again, second))) == IDS, "the next iteration is a whole epoch"


def test_epochs_and_resumes_reach_workers_that_stay(numbered_lake: Lake) -> None:
    data = reader(numbered_lake)
    stay = loader(data, 2, persistent_workers=True)
    first = ids(stay)
    data.set_epoch(1)
    second = ids(stay)
    assert sorted(first) == sorted(second) == IDS
    assert first != second
    data.load_state_dict({**reader(numbered_lake).state_dict(), "left": [[0, 10]]})
    with pytest.raises(StateMismatch, match="make a new DataLoader"):
        ids(stay)


@pytest.mark.slow
def test_a_state_at_the_end_of_an_epoch_leads_to_the_next(numbered_lake: Lake) -> None:
    for workers in (0, 2):
        done = loader(reader(numbered_lake), workers)
        assert sorted(ids(done)) == IDS
        data = reader(numbered_lake)
        after = loader(data, workers)
        after.load_state_dict(done.state_dict())
        data.set_epoch(1)
        nxt = reader(numbered_lake)
        nxt.set_epoch(1)
        assert ids(after) == ids(loader(nxt, workers))
        rest = reader(numbered_lake)
        rest.load_state_dict(merge_states([done.state_dict()]))
        assert ids(rest) == []


@pytest.mark.slow
def test_a_loaded_state_is_let_go_for_another_epoch(numbered_lake: Lake) -> None:
    begun = reader(numbered_lake)
    begun.set_epoch(4)
    ids(islice(begun, 100))
    again = reader(numbered_lake)
    again.load_state_dict(begun.state_dict())
    assert again.epoch == 4
    again.set_epoch(4)
    assert again.state_dict() == begun.state_dict()
    assert len(ids(again)) == 300
    again.load_state_dict(begun.state_dict())
    again.set_epoch(5)
    assert len(ids(again)) == 400


def test_a_state_of_something_else_is_refused(numbered_lake: Lake, tmp_path: Path) -> None:
    state = reader(numbered_lake).state_dict()
    for other, words in (
        (reader(numbered_lake, seed=1), "state is of seed 0, the reader of seed 1"),
        (
            reader(numbered_lake, version=3),
            r"state is of version 4, the reader of version 3: open the reader of shapes@4",
        ),
        (reader(filled(str(tmp_path / "lake"), rows=399)), "state is of files "),
        (reader(numbered_lake, shuffle=False), "state is of shuffle True"),
    ):
        with pytest.raises(StateMismatch, match=words):
            other.load_state_dict(state)


def test_the_state_of_a_loader_is_not_taken_for_that_of_a_reader(numbered_lake: Lake) -> None:
    with pytest.raises(StateMismatch, match=r"not a reader's state.*merge_states"):
        reader(numbered_lake).load_state_dict(loader(reader(numbered_lake), 1).state_dict())


def test_a_state_of_another_place_is_refused_with_the_way_out(numbered_lake: Lake) -> None:
    begun = reader(numbered_lake, 0, 2)
    next(iter(begun))
    other = reader(numbered_lake, 1, 2)
    other.load_state_dict(begun.state_dict())
    with pytest.raises(StateMismatch, match=r"worker 0 of 1 on rank 0 of 2, the reader is .* rank 1 of 2.*merge_st"):
        next(iter(other))


def test_states_that_do_not_belong_together_are_not_merged(numbered_lake: Lake) -> None:
    def state(rank: int, world: int, taken: int = 3, **settings: Any) -> dict[str, Any]:
        data = reader(numbered_lake, rank, world, **settings)
        ids(islice(data, taken))
        return data.state_dict()

    with pytest.raises(StateMismatch, match="no reader state"):
        merge_states([{"model": 1}])
    with pytest.raises(StateMismatch, match="worker 0 of rank 1 is missing"):
        merge_states([state(0, 2)])
    with pytest.raises(StateMismatch, match="seed 0 and seed 1"):
        merge_states([state(0, 2), state(1, 2, seed=1)])
    with pytest.raises(StateMismatch, match="not of the same run"):
        merge_states([state(0, 2), state(0, 3)])
    with pytest.raises(StateMismatch, match="overlap"):
        merge_states([state(0, 2), state(1, 2), state(0, 2, taken=9)])
    lagging = loader(reader(numbered_lake), 2, snapshot_every_n_steps=5)
    ids(islice(lagging, 3))
    with pytest.raises(StateMismatch, match="snapshot_every_n_steps=1"):
        merge_states([lagging.state_dict()])


def test_a_plain_loader_with_workers_has_no_state_to_offer(numbered_lake: Lake) -> None:
    data = reader(numbered_lake)
    assert sorted(ids(DataLoader(data, batch_size=50, num_workers=2))) == IDS
    with pytest.raises(StateMismatch, match="StatefulDataLoader"):
        data.state_dict()


@pytest.mark.slow
def test_workers_that_are_spawned_share_the_epoch(numbered_lake: Lake) -> None:
    data = reader(numbered_lake)
    begun = reader(numbered_lake)
    ids(islice(begun, 390))
    data.load_state_dict(begun.state_dict())
    spawned = loader(data, 1, multiprocessing_context=multiprocessing.get_context("spawn"), persistent_workers=True)
    assert len(ids(spawned)) == 10
    data.set_epoch(1)
    begun.set_epoch(1)
    assert sorted(ids(spawned)) == IDS


def test_rank_and_world_come_from_torchrun_or_the_group_that_was_joined(
    numbered_lake: Lake, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "3")
    dataset = Reader(numbered_lake, "shapes")
    assert (dataset.rank, dataset.world) == (1, 3)
    with pytest.raises(ValueError, match="rank 3 of 3"):
        Reader(numbered_lake, "shapes", rank=3)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        dataset = Reader(numbered_lake, "shapes")
    finally:
        torch.distributed.destroy_process_group()
    assert (dataset.rank, dataset.world) == (0, 1)


def test_the_next_block_is_read_ahead_and_no_more() -> None:
    read: list[Unit] = []

    def record(unit: Unit) -> dict[str, Any]:
        read.append(unit)
        return {"row": range(unit.first, unit.first + unit.rows)}

    epoch = Order.of_epoch([1000], 0, 0, True, 64)
    pieces = list(epoch.pieces([(0, 1000)]))
    for number, (piece, units) in enumerate(_read_ahead(record, epoch.pieces([(0, 1000)]))):
        assert [unit["row"][0] for unit in units] == [unit.first for unit in piece.units]
        assert len(read) <= sum(len(piece.units) for piece in pieces[: number + 2])
    assert sorted(read) == sorted(unit for piece in pieces for unit in piece.units), "each is read once"


# What a sample is


def test_a_sample_has_the_chosen_columns_and_nothing_else_is_decoded(tmp_path: Path) -> None:
    lake = Lake.make(str(tmp_path / "lake"), buckets=1)
    rows = [with_embedding(sample_row(n), torch.bfloat16) for n in range(40)]
    rows[7]["image"]["bytes"] = b"no picture"
    rows[8]["clip_score"] = None
    publish(lake, rows[:20], {"dtype": "bfloat16", "dim": DIM})
    publish(lake, [with_embedding(row, torch.float16) for row in rows[20:]])
    samples = list(Reader(lake, "shapes", columns=("id", "t5", "clip_score", "width", "caption"), shuffle=False))
    assert sorted(sample["id"] for sample in samples) == IDS[:40]
    for sample in samples:
        number = int(sample.pop("id"))
        embedding = sample.pop("t5")
        assert embedding.dtype == (torch.bfloat16 if number < 20 else torch.float16)
        assert embedding.shape == (number % 5, DIM if number < 20 or number % 5 else 0)
        assert torch.equal(embedding.float().reshape(-1), vectors(number).reshape(-1))
        score = None if number == 8 else number / 8
        assert sample == {"clip_score": score, "width": 16, "caption": f"caption {number}"}
    damaged = Reader(lake, "shapes", columns=("image",), shuffle=False)
    with pytest.raises(SampleDamaged, match=r"picture in row 7 of bucket=0/\w+\.parquet"):
        list(damaged)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_picture_is_the_pixels_in_rgb(tmp_path: Path, form: str) -> None:
    pixels = np.zeros((8, 24, 3), np.uint8)
    pixels[:, 12:] = (200, 100, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form, quality=100)
    lake = Lake.make(str(tmp_path / "lake"), buckets=1)
    publish(lake, [{**sample_row(0), "image": {"bytes": buffer.getvalue(), "path": None}}])
    picture = next(iter(Reader(lake, "shapes", columns=("image",))))["image"]
    assert picture.dtype == torch.uint8
    assert picture.is_contiguous()
    assert (
        np.abs(picture.permute(1, 2, 0).numpy().astype(int) - np.asarray(Image.open(buffer).convert("RGB"))).max() < 3
    )


def test_a_column_that_is_younger_than_a_file_is_none_there(tmp_path: Path) -> None:
    lake = Lake.make(str(tmp_path / "lake"), buckets=1)
    table = lake.table_or_make("datasets/shapes", SCHEMA)
    old = pa.Table.from_pylist([sample_row(0)], pa.schema(SAMPLE))
    table.append([write_file(table.url, 0, old)])
    assert list(Reader(lake, "shapes", columns=("id", "t5", "clip_score"))) == [
        {"id": "0000", "t5": None, "clip_score": None}
    ]


def test_what_is_not_there_is_named(numbered_lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(ColumnNotFound, match=r"shapes@4 has no column 'T5'; it has id, .*clip_score, t5$"):
        Reader(numbered_lake, "shapes", columns=("id", "T5"))
    with pytest.raises(DatasetVersionNotFound, match="shapes@9 does not exist"):
        Reader(numbered_lake, "shapes", version=9)
    with pytest.raises(DatasetNotFound, match="no dataset cats"):
        Reader(numbered_lake, "cats")
    gone = filled(str(tmp_path / "lake"), 120)
    data = reader(gone)
    storage.remove(storage.join(data.url, data.paths[0]))
    with pytest.raises(DatasetVersionNotFound, match="vacuumed"):
        ids(data)


def test_an_older_version_and_an_empty_one_are_read_as_they_were(numbered_lake: Lake) -> None:
    assert sorted(ids(reader(numbered_lake, version=1))) == IDS[:200]
    assert ids(reader(numbered_lake, version=0)) == ids(loader(reader(numbered_lake, version=0), 2)) == []


# On S3


@pytest.fixture
def far(bucket: Bucket, s3_server: str) -> Lake:
    return filled(bucket(s3_server), 120)


def test_workers_read_from_s3_and_go_on_there(far: Lake) -> None:
    data = Reader(far, "shapes", columns=("id", "image"), mix=32)
    before = loader(data, 2)
    got = ids(islice(before, 5))
    again = reader(far, mix=32)
    again.load_state_dict(merge_states([before.state_dict()]))
    assert sorted(got + ids(loader(again, 3))) == IDS[:120]


@pytest.mark.slow
def test_a_script_that_ends_in_the_middle_of_an_epoch_prints_nothing(numbered_lake: Lake) -> None:
    script = (
        "from torchdata.stateful_dataloader import StatefulDataLoader\n"
        "from data.lake.lake import Lake\nfrom data.reader.reader import Reader\n"
        f"reader = Reader(Lake.open({numbered_lake.url!r}), 'shapes', columns=('id',), mix=16)\n"
        "batches = iter(StatefulDataLoader(reader, 4))\nnext(batches)\n"
    )
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True)
    assert done.stderr == ""
