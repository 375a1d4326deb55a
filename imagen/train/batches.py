"""Make a stage's batches from a dataset version's samples: square images and the embeddings of their captions."""

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
    """Images and the embeddings of their texts. `alternatives` has embeddings of k other texts for each image."""

    pixels: Tensor  # b 3 h w, -1 to 1
    text: Tensor | None = None  # b n d
    mask: Tensor | None = None  # b n, true for tokens
    alternatives: Tensor | None = None  # k b n d
    alternative_masks: Tensor | None = None  # k b n

    def to(self, device: torch.device) -> "Batch":
        """Move the batch to a device."""
        moved = {}
        for field in fields(self):
            tensor = getattr(self, field.name)
            moved[field.name] = None if tensor is None else tensor.to(device, non_blocking=True)
        return Batch(**moved)

    def __len__(self) -> int:
        return len(self.pixels)

    def choose_texts(self, draws: Tensor, shares: Sequence[float]) -> "Batch":
        """Choose one text for each image, by its random number.

        A sample without the chosen alternative keeps its own text.

        Args:
            draws: random numbers (b), uniform from 0 to 1.
            shares: the probability of each alternative; the remaining probability is that of the image's own text.
        """
        assert self.text is not None
        assert self.mask is not None
        assert self.alternatives is not None
        assert self.alternative_masks is not None
        texts = torch.cat([self.alternatives, self.text[None]])
        masks = torch.cat([self.alternative_masks, self.mask[None]])
        own, rows = len(shares), torch.arange(len(self), device=draws.device)
        chosen = torch.bucketize(draws, torch.tensor(shares, device=draws.device).cumsum(0), right=True)
        chosen = torch.where(masks[chosen, rows].any(-1), chosen, own)
        return replace(
            self, text=texts[chosen, rows], mask=masks[chosen, rows], alternatives=None, alternative_masks=None
        )


class SquareSamples(IterableDataset):
    """A reader's samples with the added field `pixels`: square images of one size. The state is that of the reader."""

    def __init__(self, reader: Reader, side: int, fit: Fit = "crop") -> None:
        self.reader, self.side, self.fit = reader, side, fit

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for sample in self.reader:
            image = next(value for name, value in sample.items() if name.startswith("image"))
            yield {**sample, "pixels": square(image, self.side, self.fit)}

    def __len__(self) -> int:
        return len(self.reader)

    def state_dict(self) -> dict[str, Any]:
        return self.reader.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.reader.load_state_dict(state)


BatchAndState = tuple[Batch, dict[str, Any]]  # and the state of the stream after it


class BatchStream:
    """An endless stream of batches, epoch after epoch.

    The stream's state is that after the last batch that was returned. Batches that were read ahead are read again after
    a resume.

    Args:
        size: number of samples in a batch; an incomplete batch at the end of an epoch is dropped.
        text: the column of embeddings, or None without text.
        workers: number of processes that read and decode; with 0, a thread reads one batch ahead.
        alternatives: columns of embeddings of other texts.
    """

    def __init__(
        self, samples: SquareSamples, size: int, text: str | None, workers: int = 0, alternatives: Sequence[str] = ()
    ) -> None:
        self.samples, self._epoch = samples, 0
        self.loader = StatefulDataLoader(
            samples,
            size,
            collate_fn=partial(collate, text=text, alternatives=tuple(alternatives)),
            num_workers=workers,
            drop_last=True,
            multiprocessing_context="spawn" if workers else None,
            worker_init_fn=_ignore_stop_signals if workers else None,
        )
        self._batches: Iterator[Batch] = iter(())
        self._epoch_started = False
        self._thread = None if workers else ThreadPoolExecutor(1, "next-batch")  # workers read ahead by themselves
        self._next: Future[BatchAndState] | None = None
        self._state: dict[str, Any] | None = None  # after the last batch that was given out

    def __next__(self) -> Batch:
        """Return the next batch.

        Raises:
            EmptyDataset: the dataset has fewer samples than a batch.
        """
        batch, self._state = self._next.result() if self._next else self._read()
        self._next = None
        return batch

    def read_ahead(self) -> None:
        """Read the next batch in a thread. Call it before long work that releases Python's lock."""
        if self._thread and not self._next:
            self._next = self._thread.submit(self._read)

    def _read(self) -> BatchAndState:
        if not self._epoch_started:
            self._start_epoch()
        for batch in self._batches:
            return batch, self._read_state()
        self._epoch += 1
        self._start_epoch()
        for batch in self._batches:
            return batch, self._read_state()
        raise EmptyDataset(f"{self.samples.reader.dataset} has fewer samples than a batch: make the batch smaller")

    def _start_epoch(self) -> None:
        self.samples.reader.set_epoch(self._epoch)
        self._batches, self._epoch_started = iter(self.loader), True

    def _read_state(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "loader": self.loader.state_dict()}

    @property
    def epoch(self) -> int:
        """The epoch of the last batch that was returned."""
        return int(self.state_dict()["epoch"])

    def state_dict(self) -> dict[str, Any]:
        """Return the state of this process's stream after the last batch that was returned."""
        return self._state or self._read_state()

    def load_state_dicts(self, states: list[dict[str, Any]]) -> None:
        """Continue from the states of all processes of a run. The number of processes may be another one now."""
        rank, world = self.samples.reader.rank, self.samples.reader.world
        if self._next:
            wait([self._next])
        self._next = self._state = None
        self._epoch, self._epoch_started = states[0]["epoch"], False
        if len(states) == world:
            self.loader.load_state_dict(states[rank]["loader"])
        else:
            self.samples.load_state_dict(merge_states([state["loader"] for state in states]))


def _ignore_stop_signals(worker: int) -> None:
    """Ignore SIGINT and SIGTERM in a worker: the trainer handles them, and needs samples until its step is done."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)


def collate(samples: list[dict[str, Any]], text: str | None, alternatives: Sequence[str] = ()) -> Batch:
    """Make a batch from samples, with embeddings in float32 that are padded to the longest of the batch.

    Args:
        text: the column of embeddings; without it the batch has images only.
        alternatives: columns of embeddings of other texts; a sample may lack them.

    Raises:
        ColumnNotFound: no sample has an embedding.
    """
    pixels = torch.stack([sample["pixels"] for sample in samples]).float() / 127.5 - 1
    if text is None:
        return Batch(pixels)
    embeddings = [sample[name] for name in (text, *alternatives) for sample in samples]  # column after column
    width = next((embedding.shape[1] for embedding in embeddings if embedding is not None and len(embedding)), 0)
    if not width:
        raise ColumnNotFound(f"no sample has an embedding {text!r}: build the dataset with one, or train without text")
    columns = 1 + len(alternatives)
    lengths = torch.tensor([0 if embedding is None else len(embedding) for embedding in embeddings])
    lengths = lengths.view(columns, len(samples))
    padded = torch.zeros(columns, len(samples), int(lengths.max()), width)
    for row, embedding in zip(padded.flatten(0, 1), embeddings, strict=True):
        if embedding is not None and len(embedding):
            row[: len(embedding)] = embedding.float()
    masks = torch.arange(padded.shape[2]) < lengths[..., None]
    if not alternatives:
        return Batch(pixels, padded[0], masks[0])
    return Batch(pixels, padded[0], masks[0], padded[1:], masks[1:])
