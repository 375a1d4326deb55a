"""A dataset version as a torch dataset: every sample of an epoch once, over all ranks and workers, resumable anywhere.

The order is decided by the version, the seed and the epoch (`data/reader/order.py`); each rank and each of its
workers gets an equal, contiguous share. A state says which positions a worker has still to give out. In
`StatefulDataLoader` the loader keeps them; `merge_states` puts those of all ranks and workers together, for any other
number of them to share anew.

A worker holds up to two blocks of `mix` samples, encoded as they are stored, one of them being read ahead.
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
from data.reader.order import UNIT, Order, Piece, Spans, Unit, cut, share, size
from data.reader.samples import Column, Files, askable
from data.reader.states import PARTS, SAME, State

Sample = dict[str, Any]

READERS = 4  # threads that read ahead
EPOCH, LOADS, BEGUN = range(3)  # places in the memory that a reader and its copies in workers share


@dataclass
class Stream:
    """What one worker gives out, and how far it is."""

    epoch: int
    spans: Spans
    place: dict[str, Any]
    given: int = 0

    @property
    def left(self) -> Spans:
        return cut(self.spans, self.given, size(self.spans))


class Reader(IterableDataset):
    """The samples of `dataset` at `version` (the newest if none) as dictionaries of the asked `columns`.

    `columns` are a sample's own (id, caption, image, scores, ...) and the encoders by name. Rank and world are those of
    torch.distributed or torchrun unless given. With `drop_uneven` all ranks get equally many, and fewer samples of an
    epoch than there are ranks go to none. Call `set_epoch` before each epoch for another order.
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
            raise ValueError(f"mix is how many samples are shuffled with each other, 1 or more, not {mix}")
        try:
            table = lake.table(f"datasets/{dataset}", version)
        except TableNotFound:
            build = f"imagen build RECIPE --lake {lake.url}"
            raise DatasetNotFound(f"{lake.url} has no dataset {dataset}. Build it: {build}") from None
        there = askable(table.file_schema())
        for name in columns:
            if name not in there:
                raise ColumnNotFound(f"{dataset}@{table.version} has no column {name!r}; it has {', '.join(there)}")
        self.dataset, self.version, self.url = dataset, table.version, table.url
        self.columns = {name: there[name] for name in columns}
        files = sorted((path, rows) for path, (_, rows) in table.files().items())
        self.paths, self.rows = [path for path, _ in files], [rows for _, rows in files]
        self.files = hashlib.sha256(json.dumps([UNIT, files]).encode()).hexdigest()[:16]
        self.seed, self.shuffle, self.mix, self.drop_uneven = seed, shuffle, mix, drop_uneven
        self.rank, self.world = _place(rank, world)
        self._shared = torch.zeros(3, dtype=torch.int64).share_memory_()
        self._loads = 0
        self._resume: State | None = None
        self._resume_process = 0
        self._stream: Stream | None = None

    def __len__(self) -> int:
        """The samples of an epoch on this rank."""
        return size(share([(0, sum(self.rows))], self.rank, self.world, self.drop_uneven))

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration is of."""
        pending = self._pending()
        return int(pending["epoch"] if pending else self._shared[EPOCH])

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that the next iteration is of; a loaded state of another one is let go."""
        self._shared[EPOCH] = epoch
        if self._resume and self._resume["epoch"] != epoch:
            self._resume = None

    def __iter__(self) -> Iterator[Sample]:
        try:
            self._stream = self._begin()
        except StateMismatch as refusal:
            return _refuse(refusal)
        return self._samples(self._stream)

    def state_dict(self) -> State:
        """What the current iteration has still to give out; with workers, the loader's state has theirs."""
        if get_worker_info() is None and self._shared[BEGUN]:
            raise StateMismatch("the workers know how far they are: take the state_dict() of a StatefulDataLoader")
        stream = self._stream
        if self._resume or not stream:
            whole = {"epoch": self.epoch, "stream": None, "left": [[0, sum(self.rows)]]}
            return self._resume or {**self._same(), **whole}
        left = [list(span) for span in stream.left]
        return {**self._same(), "epoch": stream.epoch, "stream": stream.place, "left": left}

    def load_state_dict(self, state: State) -> None:
        """Let the next iteration be the rest of an epoch: this worker's own state, or a merged one to share anew."""
        if not set(PARTS) <= set(state):
            raise StateMismatch("this is no reader's state: of the states of loaders make one with merge_states([...])")
        for name, mine in self._same().items():
            if state[name] != mine:
                what = f"the state is of {name} {state[name]!r}, the reader of {name} {mine!r}"
                raise StateMismatch(f"{what}: open the reader of {state['dataset']}@{state['version']} as it was then")
        self._resume, self._resume_process, self._stream = state, os.getpid(), None
        if get_worker_info() is None:
            self._shared[BEGUN] = 0
            self._shared[LOADS] += 1
            self._loads = int(self._shared[LOADS])

    def _pending(self) -> State | None:
        """The loaded state, unless it was used: the reader that is copied into workers never learns that they began."""
        worker, begun = get_worker_info(), self._shared[BEGUN]
        if worker is None:
            return None if begun else self._resume
        if self._resume_process == os.getpid():
            return self._resume  # the loader gave it to this worker alone
        return None if begun and begun != _iteration(worker) else self._resume

    def _begin(self) -> Stream:
        """Share out what is to be read, and take our part."""
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        if self._loads != self._shared[LOADS]:
            raise StateMismatch("a state was loaded after persistent workers had begun: make a new DataLoader for it")
        resume, self._resume = self._pending(), None
        if worker is None:
            self._shared[BEGUN] = 0
        elif not self._shared[BEGUN]:
            self._shared[BEGUN] = _iteration(worker)
        here = {"rank": self.rank, "world": self.world, "worker": number, "workers": workers}
        if resume and resume["stream"] and resume["stream"]["world"] * resume["stream"]["workers"] > 1:
            there = {name: resume["stream"][name] for name in here}
            if there != here:
                raise StateMismatch(
                    f"this is the state of {_spoken(there)}, here is {_spoken(here)}: "
                    "to go on elsewhere, load merge_states([the state of every rank])"
                )
            return Stream(resume["epoch"], [(start, stop) for start, stop in resume["left"]], resume["stream"])
        epoch = resume["epoch"] if resume else int(self._shared[EPOCH])
        left = [(start, stop) for start, stop in resume["left"]] if resume else [(0, sum(self.rows))]
        mine = share(share(left, self.rank, self.world, self.drop_uneven), number, workers)
        deal = hashlib.sha256(json.dumps([left, self.world, self.drop_uneven]).encode()).hexdigest()[:16]
        return Stream(epoch, mine, {**here, "deal": deal})

    def _samples(self, stream: Stream) -> Iterator[Sample]:
        order = Order.of(self.rows, self.seed, stream.epoch, self.shuffle, self.mix)
        files = Files(self.url, self.paths, self.columns)
        for piece, units in _read_ahead(files.read, order.pieces(stream.spans)):
            for place, row in zip(piece.places, piece.rows, strict=True):
                sample = {name: column[row] for name, column in units[place].items()}
                stream.given += 1
                yield sample

    def _same(self) -> State:
        return {name: getattr(self, name) for name in SAME}


def _read_ahead(
    read: Callable[[Unit], dict[str, Column]], pieces: Iterable[Piece]
) -> Iterator[tuple[Piece, list[dict[str, Column]]]]:
    """Each piece with what its units hold; the next one is read while this one is used."""
    waiting: deque[tuple[Piece, list[Future[dict[str, Column]]]]] = deque()
    pool = ThreadPoolExecutor(READERS, thread_name_prefix="read-ahead")

    def ready() -> tuple[Piece, list[dict[str, Column]]]:
        piece, units = waiting.popleft()
        return piece, [unit.result() for unit in units]

    try:
        for piece in pieces:
            waiting.append((piece, [pool.submit(read, unit) for unit in piece.units]))
            if len(waiting) > 1:
                yield ready()
        while waiting:
            yield ready()
    finally:
        for _, units in waiting:
            for unit in units:
                unit.cancel()
        pool.shutdown(wait=False)  # its own way to cancel fails in an interpreter that ends


def _place(rank: int | None, world: int | None) -> tuple[int, int]:
    """Our rank and how many there are: given, or as torch.distributed or torchrun's environment says, or alone."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        said = torch.distributed.get_rank(), torch.distributed.get_world_size()
    else:
        said = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    here = said[0] if rank is None else rank, said[1] if world is None else world
    if not 0 <= here[0] < here[1]:
        raise ValueError(f"rank {here[0]} of {here[1]}: ranks count from 0 and are fewer than the world")
    return here


def _refuse(refusal: StateMismatch) -> Iterator[Sample]:
    """Raise at the first sample: an error any sooner would kill a loader's worker without a word."""
    raise refusal
    yield


def _iteration(worker: Any) -> int:
    """A number that all workers of one iteration of a loader have, and those of the next one have not."""
    return int(worker.seed - worker.id)


def _spoken(place: dict[str, int]) -> str:
    return f"worker {place['worker']} of {place['workers']} on rank {place['rank']} of {place['world']}"
