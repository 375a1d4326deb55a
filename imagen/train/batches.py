"""Samples of a dataset version as what a stage is trained on: square pictures, and the embeddings of their captions."""

import signal
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import IterableDataset
from torchdata.stateful_dataloader import StatefulDataLoader

from data.errors import ColumnNotFound
from data.pictures.square import Fit, square
from data.reader.reader import Reader
from data.reader.states import merge_states
from imagen.errors import EmptyDataset


@dataclass(frozen=True)
class Batch:
    pixels: Tensor  # b 3 h w, -1 to 1
    text: Tensor | None = None  # b n d
    seen: Tensor | None = None  # b n
    others: Tensor | None = None  # k b n d: other texts of the same pictures
    others_seen: Tensor | None = None  # k b n

    def to(self, device: torch.device) -> "Batch":
        parts = {field.name: getattr(self, field.name) for field in fields(self)}
        return Batch(
            **{name: part if part is None else part.to(device, non_blocking=True) for name, part in parts.items()}
        )

    def __len__(self) -> int:
        return len(self.pixels)

    def mixed(self, told: Tensor, shares: Sequence[float]) -> "Batch":
        """Each sample with the text in whose share the number falls that was drawn for it: an other's, or its own.

        One that has no such other text keeps its own.
        """
        assert self.text is not None
        assert self.seen is not None
        assert self.others is not None
        assert self.others_seen is not None
        texts, seen = torch.cat([self.others, self.text[None]]), torch.cat([self.others_seen, self.seen[None]])
        own, rows = len(shares), torch.arange(len(self), device=told.device)
        which = torch.bucketize(told, torch.tensor(shares, device=told.device).cumsum(0), right=True)
        which = torch.where(seen[which, rows].any(-1), which, own)
        return replace(self, text=texts[which, rows], seen=seen[which, rows], others=None, others_seen=None)


class SquareSamples(IterableDataset):
    """A reader's samples with square pictures of one size; its states are the reader's."""

    def __init__(self, reader: Reader, side: int, fit: Fit = "crop") -> None:
        self.reader, self.side, self.fit = reader, side, fit

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for sample in self.reader:
            picture = next(sample[name] for name in sample if name.startswith("image"))
            yield {**sample, "pixels": square(picture, self.side, self.fit)}

    def __len__(self) -> int:
        return len(self.reader)

    def state_dict(self) -> dict[str, Any]:
        return self.reader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.reader.load_state_dict(state)


Read = tuple[Batch, dict[str, Any]]  # and the state after it


class BatchStream:
    """The batches of epoch after epoch, and how far they are, whatever was read ahead."""

    def __init__(
        self, squares: SquareSamples, size: int, encoder: str | None, workers: int = 0, others: Sequence[str] = ()
    ) -> None:
        self.squares, self._epoch = squares, 0
        self.loader = StatefulDataLoader(
            squares,
            size,
            collate_fn=partial(collate, encoder=encoder, others=tuple(others)),
            num_workers=workers,
            drop_last=True,
            multiprocessing_context="spawn" if workers else None,
            worker_init_fn=_undisturbed if workers else None,
        )
        self._now: Iterator[Batch] = iter(())
        self._begun = False
        self._thread = None if workers else ThreadPoolExecutor(1, "next-batch")  # workers read ahead by themselves
        self._ahead: Future[Read] | None = None
        self._given: dict[str, Any] | None = None

    def __next__(self) -> Batch:
        batch, self._given = self._ahead.result() if self._ahead else self._read()
        self._ahead = None
        return batch

    def read_ahead(self) -> None:
        """Read the next batch in a thread, which competes for Python's lock: call it where that is let go for long."""
        if self._thread and not self._ahead:
            self._ahead = self._thread.submit(self._read)

    def _read(self) -> Read:
        if not self._begun:
            self._begin()
        for batch in self._now:
            return batch, self._reached()
        self._epoch += 1
        self._begin()
        for batch in self._now:
            return batch, self._reached()
        raise EmptyDataset(f"{self.squares.reader.dataset} has fewer samples than a batch: make the batch smaller")

    def _begin(self) -> None:
        self.squares.reader.set_epoch(self._epoch)
        self._now, self._begun = iter(self.loader), True

    def _reached(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "loader": self.loader.state_dict()}

    @property
    def epoch(self) -> int:
        return int(self.state_dict()["epoch"])

    def state_dict(self) -> dict[str, Any]:
        return self._given or self._reached()

    def load_state_dicts(self, states: list[dict[str, Any]]) -> None:
        """Go on from the states of every process of the run before, be they as many as now or not."""
        rank, world = self.squares.reader.rank, self.squares.reader.world
        if self._ahead:
            wait([self._ahead])
        self._ahead = self._given = None
        self._epoch, self._begun = states[0]["epoch"], False
        if len(states) == world:
            self.loader.load_state_dict(states[rank]["loader"])
        else:
            self.squares.load_state_dict(merge_states([state["loader"] for state in states]))


def _undisturbed(worker: int) -> None:
    """A signal to the whole group of processes is the trainer's to answer, who needs samples until its step is done."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def collate(samples: list[dict[str, Any]], encoder: str | None, others: Sequence[str] = ()) -> Batch:
    """Embeddings padded to the longest of all, in float32; without an encoder none."""
    pixels = torch.stack([sample["pixels"] for sample in samples]).float() / 127.5 - 1
    if encoder is None:
        return Batch(pixels)
    texts = [[sample[name] for sample in samples] for name in (encoder, *others)]
    width = next((text.shape[1] for row in texts for text in row if text is not None and len(text)), 0)
    if not width:
        raise ColumnNotFound(
            f"no sample has an embedding {encoder!r}: build the dataset with one, or train without text"
        )
    lengths = torch.tensor([[0 if text is None else len(text) for text in row] for row in texts])
    padded = torch.zeros(len(texts), len(samples), int(lengths.max()), width)
    for place, text in zip(padded.flatten(0, 1), (text for row in texts for text in row), strict=True):
        if text is not None and len(text):
            place[: len(text)] = text.float()
    seen = torch.arange(padded.shape[2]) < lengths[..., None]
    if not others:
        return Batch(pixels, padded[0], seen[0])
    return Batch(pixels, padded[0], seen[0], padded[1:], seen[1:])
