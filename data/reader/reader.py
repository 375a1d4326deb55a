"""Reads a dataset version as a torch dataset, which can be resumed at any sample.

In an epoch, all ranks and workers together read each sample once. The version, the seed and the epoch decide the order
(`data/reader/order.py`). Each rank, and each of its workers, reads an equal, contiguous share. A state contains the
positions that a worker has not read yet. A `StatefulDataLoader` saves the states of its workers. `merge_states` merges
the states of all ranks, so that a different number of ranks and workers can resume.

A worker has at most two blocks of `mix` samples in memory, still encoded. One of the blocks is being read ahead.
"""

import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import IterableDataset, get_worker_info

from data.errors import ColumnNotFound, DatasetNotFound, StateMismatch, TableNotFound
from data.lake.lake import Lake
from data.reader.order import UNIT_ROWS, Order, Piece, Spans, Unit, count_positions, share_of_spans, slice_spans
from data.reader.samples import Column, DatasetFiles, readable_columns
from data.reader.states import IDENTITY_KEYS, STATE_KEYS, State, spans_left

Sample = dict[str, Any]

READ_THREADS = 4
# Indices into the memory that a reader shares with its copies in workers: the epoch that was set, the number of states
# that were loaded, and the loader's iteration that used the loaded state (0 if none has).
EPOCH, LOADS, ITERATION = range(3)


@dataclass
class Stream:
    """The positions that one worker reads, and the number of samples that it has yielded."""

    epoch: int
    spans: Spans
    place: dict[str, Any]  # rank, world, worker, workers, and `deal`: a hash of the positions divided among them
    yielded: int = 0

    @property
    def left(self) -> Spans:
        """Return the positions that have not been read yet."""
        return slice_spans(self.spans, self.yielded, count_positions(self.spans))


class Reader(IterableDataset):
    """Yields the samples of a dataset version as dictionaries.

    Use it alone, in a `DataLoader` or in a `StatefulDataLoader`. Call `set_epoch` before each epoch; otherwise every
    iteration has the same order. To resume in the middle of an epoch, use `state_dict` and `load_state_dict`.

    Args:
        lake: the lake that contains the dataset.
        dataset: the dataset's name.
        version: the dataset's version; by default the newest.
        columns: the columns of a sample: id, caption, image, scores, and embeddings (by the encoder's name).
        seed: the seed of the shuffle.
        shuffle: False keeps the order of the files.
        rank: this process's rank; by default the rank from torch.distributed or torchrun, else 0.
        world: the number of ranks; by default the number from torch.distributed or torchrun, else 1.
        drop_uneven: give every rank the same number of samples, and drop the remainder of an epoch.
        mix: samples per shuffle block. Units of 128 neighbouring rows are shuffled, then the samples within each block.

    Raises:
        DatasetNotFound: the lake has no such dataset.
        DatasetVersionNotFound: the dataset has no such version.
        ColumnNotFound: the version has no such column.
        ValueError: `mix` is below 1, or `rank` is not below `world`.

    Example:
        >>> reader = Reader(Lake.open("lake"), "shapes", columns=("image", "caption"))
        >>> loader = StatefulDataLoader(reader, batch_size=64, num_workers=4)
    """

    def __init__(
        self,
        lake: Lake,
        dataset: str,
        version: int | None = None,
        columns: Sequence[str] = ("image", "caption"),
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int | None = None,
        world: int | None = None,
        drop_uneven: bool = False,
        mix: int = 1024,
    ) -> None:
        if mix < 1:
            raise ValueError(f"mix, the number of samples in a shuffled block, must be 1 or more, not {mix}")
        try:
            table = lake.table(f"datasets/{dataset}", version)
        except TableNotFound:
            build = f"imagen build RECIPE --lake {lake.url}"
            raise DatasetNotFound(f"{lake.url} has no dataset {dataset}. Build it: {build}") from None
        available = readable_columns(table.file_schema())
        for name in columns:
            if name not in available:
                raise ColumnNotFound(f"{dataset}@{table.version} has no column {name!r}; it has {', '.join(available)}")
        self.dataset, self.version, self.url = dataset, table.version, table.url
        self.columns = {name: available[name] for name in columns}
        files = sorted((path, rows) for path, (_, rows) in table.files().items())
        self.paths, self.rows = [path for path, _ in files], [rows for _, rows in files]
        self.files = hashlib.sha256(json.dumps([UNIT_ROWS, files]).encode()).hexdigest()[:16]  # compared with a state's
        self.seed, self.shuffle, self.mix, self.drop_uneven = seed, shuffle, mix, drop_uneven
        self.rank, self.world = _rank_and_world(rank, world)
        self._shared = torch.zeros(3, dtype=torch.int64).share_memory_()
        self._loads = 0
        self._loaded: State | None = None
        self._loaded_in = 0  # process id
        self._stream: Stream | None = None

    def __len__(self) -> int:
        """Return the number of samples in an epoch on this rank."""
        return count_positions(share_of_spans([(0, sum(self.rows))], self.rank, self.world, self.drop_uneven))

    @property
    def epoch(self) -> int:
        """The epoch of the next iteration."""
        pending = self._pending_state()
        return int(pending["epoch"] if pending else self._shared[EPOCH])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration. A loaded state from another epoch is discarded."""
        self._shared[EPOCH] = epoch
        if self._loaded and self._loaded["epoch"] != epoch:
            self._loaded = None

    def __iter__(self) -> Iterator[Sample]:
        try:
            self._stream = self._start_stream()
        except StateMismatch as error:
            return _raise_on_first_sample(error)
        return self._samples(self._stream)

    def state_dict(self) -> State:
        """Return the positions that the current iteration has not read yet, as JSON values.

        Raises:
            StateMismatch: workers read the samples. Take the state of a `StatefulDataLoader` instead.
        """
        if get_worker_info() is None and self._shared[ITERATION]:
            raise StateMismatch("only the workers know their positions: take the state_dict() of a StatefulDataLoader")
        stream = self._stream
        if self._loaded or not stream:
            unread = {"epoch": self.epoch, "stream": None, "left": [[0, sum(self.rows)]]}
            return self._loaded or {**self._identity(), **unread}
        left = [list(span) for span in stream.left]
        return {**self._identity(), "epoch": stream.epoch, "stream": stream.place, "left": left}

    def load_state_dict(self, state: State) -> None:
        """Make the next iteration read the rest of an epoch.

        Args:
            state: the state of this same rank and worker, or a merged state, which all ranks and workers share.

        Raises:
            StateMismatch: it is not a reader's state, or is from another dataset version, seed or order.
        """
        if not set(STATE_KEYS) <= set(state):
            raise StateMismatch("this is not a reader's state: merge the states of loaders with merge_states([...])")
        for key, value in self._identity().items():
            if state[key] != value:
                difference = f"the state is of {key} {state[key]!r}, the reader of {key} {value!r}"
                version = f"{state['dataset']}@{state['version']}"
                raise StateMismatch(f"{difference}: open the reader of {version} with the settings of that run")
        self._loaded, self._loaded_in, self._stream = state, os.getpid(), None
        if get_worker_info() is None:
            self._shared[ITERATION] = 0
            self._shared[LOADS] += 1
            self._loads = int(self._shared[LOADS])

    def _pending_state(self) -> State | None:
        """Return the loaded state, or None if an iteration has used it already.

        The reader in the main process is copied into workers, and does not learn when they start. So the workers note
        their iteration in shared memory.
        """
        worker, iteration = get_worker_info(), self._shared[ITERATION]
        if worker is None:
            return None if iteration else self._loaded
        if self._loaded_in == os.getpid():
            return self._loaded  # the loader loaded it only in this worker
        return None if iteration and iteration != _iteration_id(worker) else self._loaded

    def _start_stream(self) -> Stream:
        """Choose the positions that this worker reads in an iteration.

        Raises:
            StateMismatch: the loaded state is from another rank or worker, or persistent workers had started before it
                was loaded.
        """
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        if self._loads != self._shared[LOADS]:
            raise StateMismatch(
                "a state was loaded after persistent workers had started: make a new DataLoader to resume from it"
            )
        state, self._loaded = self._pending_state(), None
        if worker is None:
            self._shared[ITERATION] = 0
        elif not self._shared[ITERATION]:
            self._shared[ITERATION] = _iteration_id(worker)
        place = {"rank": self.rank, "world": self.world, "worker": number, "workers": workers}
        if state and state["stream"] and state["stream"]["world"] * state["stream"]["workers"] > 1:
            state_place = {key: state["stream"][key] for key in place}
            if state_place != place:
                raise StateMismatch(
                    f"the state is of {_describe_place(state_place)}, the reader is {_describe_place(place)}: "
                    "to go on with other ranks or workers, load merge_states([the state of every rank])"
                )
            return Stream(state["epoch"], spans_left(state), state["stream"])
        epoch = state["epoch"] if state else int(self._shared[EPOCH])
        left = spans_left(state) if state else [(0, sum(self.rows))]
        rank_share = share_of_spans(left, self.rank, self.world, self.drop_uneven)
        deal = hashlib.sha256(json.dumps([left, self.world, self.drop_uneven]).encode()).hexdigest()[:16]
        return Stream(epoch, share_of_spans(rank_share, number, workers), {**place, "deal": deal})

    def _samples(self, stream: Stream) -> Iterator[Sample]:
        order = Order.of_epoch(self.rows, self.seed, stream.epoch, self.shuffle, self.mix)
        files = DatasetFiles(self.url, self.paths, self.columns)
        for piece, units in _read_ahead(files.read, order.pieces(stream.spans)):
            for unit, row in zip(piece.unit_indices, piece.rows, strict=True):
                sample = {name: column[row] for name, column in units[unit].items()}
                stream.yielded += 1
                yield sample

    def _identity(self) -> State:
        return {key: getattr(self, key) for key in IDENTITY_KEYS}


def _read_ahead(
    read: Callable[[Unit], dict[str, Column]], pieces: Iterable[Piece]
) -> Iterator[tuple[Piece, list[dict[str, Column]]]]:
    """Yield each piece with the columns of its units. While the caller uses one piece, threads read the next one."""
    waiting: deque[tuple[Piece, list[Future[dict[str, Column]]]]] = deque()
    pool = ThreadPoolExecutor(READ_THREADS, thread_name_prefix="read-ahead")

    def wait_for_next() -> tuple[Piece, list[dict[str, Column]]]:
        piece, units = waiting.popleft()
        return piece, [unit.result() for unit in units]

    try:
        for piece in pieces:
            waiting.append((piece, [pool.submit(read, unit) for unit in piece.units]))
            if len(waiting) > 1:
                yield wait_for_next()
        while waiting:
            yield wait_for_next()
    finally:
        for _, units in waiting:
            for unit in units:
                unit.cancel()
        pool.shutdown(wait=False)  # the argument cancel_futures would fail while the interpreter shuts down


def _rank_and_world(rank: int | None, world: int | None) -> tuple[int, int]:
    """Return rank and world size, from the arguments, torch.distributed, or torchrun's environment, else 0 and 1."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        default_rank, default_world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    else:
        default_rank, default_world = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    rank, world = default_rank if rank is None else rank, default_world if world is None else world
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} of {world}: ranks are numbered from 0 and must be below the number of ranks")
    return rank, world


def _raise_on_first_sample(error: StateMismatch) -> Iterator[Sample]:
    """Raise the error at the first sample. Raised earlier, it would end a loader's worker without a message."""
    raise error
    yield


def _iteration_id(worker: Any) -> int:
    """Return a number that is the same in all workers of one iteration of a loader, and different in the next one."""
    return int(worker.seed - worker.id)


def _describe_place(place: dict[str, int]) -> str:
    return f"worker {place['worker']} of {place['workers']} on rank {place['rank']} of {place['world']}"
