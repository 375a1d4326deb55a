"""The text encoders: T5 by `transformers` and the text tower of any open_clip model. A caption becomes its vectors.

A text's vectors do not depend on its company, bit for bit on one machine and number of threads: the shape of a batch
follows from a text's own length, rounded up to a multiple of eight tokens, and a batch that is not full is filled up.
What that costs: of the tokens computed for 800 captions of natural lengths 26 % are padding and filling.
"""

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Protocol

from data.encoders.settings import EncoderSettings
from data.encoders.towers import ClipTower, T5Tower, Tower
from data.errors import ModelError
from data.scorers import pretrained

VERSION = 1  # of this file's arithmetic: another one is another table, whose work is pending
STEP = 8  # tokens: widths of batches are multiples of it


class Encoder(Protocol):
    """Settings, an id that changes with whatever changes the output, and one method from captions to columns."""

    settings: EncoderSettings

    @property
    def id(self) -> str: ...

    def encode(self, captions: Sequence[str]) -> dict[str, list[Any]]: ...


class T5:
    """The encoder half of a T5: a vector a token, the end token's included. Loaded by the first shard of a process."""

    def __init__(self, settings: EncoderSettings) -> None:
        self.settings = settings

    @cached_property
    def id(self) -> str:
        """Names model, version of the arithmetic, weights, and what else changes the output."""
        return _id(self.settings, self.weights_digest, str(self.settings.max_length))

    @cached_property
    def weights_digest(self) -> str:
        """Of weights, configuration and tokenizer."""
        files = pretrained.model_files(self.settings.folder or pretrained.fetch_model(self.settings.model))
        if not files:
            raise ModelError(
                f"{self.settings.model} holds no whole T5: config.json, a tokenizer, and model.safetensors or "
                "pytorch_model.bin. Correct embed.*.model"
            )
        return pretrained.digest_files(files)

    def encode(self, captions: Sequence[str]) -> dict[str, list[Any]]:
        return encode(load(self.settings), captions, self.settings)


class ClipText:
    """The text tower of a CLIP: a vector a token as its last norm leaves them, or the one projected vector."""

    def __init__(self, settings: EncoderSettings) -> None:
        self.settings = settings

    @cached_property
    def id(self) -> str:
        return _id(self.settings, self.weights_digest, "pooled" if self.settings.pooled else "sequence")

    @cached_property
    def weights_digest(self) -> str:
        return self.settings.as_clip.weights_digest

    def encode(self, captions: Sequence[str]) -> dict[str, list[Any]]:
        return encode(load(self.settings), captions, self.settings)


def encoder_of(settings: EncoderSettings) -> Encoder:
    """One encoder for whichever text it reads: its model is loaded once, and a text is encoded once."""
    settings = settings.model_copy(update={"of": None})
    return T5(settings) if settings.encoder == "t5" else ClipText(settings)


def _id(settings: EncoderSettings, weights_digest: str, output: str) -> str:
    model = re.sub(r"[^a-z0-9]+", "-", Path(settings.model).name.lower()).strip("-")
    parts = [settings.encoder, VERSION, model, weights_digest[:8], output, settings.precision, settings.dtype]
    return "-".join(map(str, parts))


def batches(lengths: Sequence[int], batch_tokens: int, longest: int) -> Iterator[tuple[int, int, list[int]]]:
    """Places of texts in batches, with each batch's rows and width, which a text's own length decides."""
    places: dict[int, list[int]] = defaultdict(list)
    for place, length in enumerate(lengths):
        places[min(-(-length // STEP) * STEP, longest)].append(place)
    for width in sorted(places):
        rows = max(1, batch_tokens // width)
        for at in range(0, len(places[width]), rows):
            yield rows, width, places[width][at : at + rows]


@lru_cache(maxsize=2)
def load(settings: EncoderSettings) -> Tower:
    """The model of these settings, once a process."""
    if settings.encoder == "clip":
        return ClipTower(settings.as_clip, settings.pooled)
    folder = settings.folder or pretrained.fetch_model(settings.model)
    return T5Tower(folder, settings.max_length, settings.precision, settings.device)


def encode(tower: Tower, captions: Sequence[str], settings: EncoderSettings) -> dict[str, list[Any]]:
    """The columns of `embeddings/<encoder>` but the id: little-endian, vector after vector, without padding."""
    import torch

    tokens, truncated = tower.tokens(captions)
    dtype = getattr(torch, settings.dtype)
    found: list[bytes | None] = [None] * len(tokens)
    errors: list[str | None] = [None] * len(tokens)
    lengths = [0] * len(tokens)
    for rows, width, places in batches([len(one) for one in tokens], settings.batch_tokens, tower.longest):
        ids = torch.zeros(rows, width, dtype=torch.long)
        mask = torch.zeros(rows, width, dtype=torch.long)
        mask[:, 0] = 1  # a row that only fills the batch looks at something, or its softmax would be none
        for row, place in enumerate(places):
            ids[row, : len(tokens[place])] = torch.tensor(tokens[place])
            mask[row, : len(tokens[place])] = 1
        with torch.inference_mode():
            stored = tower.hidden(ids.to(tower.device), mask.to(tower.device)).to(dtype).cpu()
        for vectors, place in zip(stored, places, strict=False):
            own = vectors[: tower.own(tokens[place], len(vectors))]
            if own.isfinite().all():
                found[place], lengths[place] = own.contiguous().view(torch.uint8).numpy().tobytes(), len(own)
            else:
                errors[place] = f"values that {settings.dtype} can't hold"
    return {"embedding": found, "length": lengths, "truncated": truncated, "error": errors}
