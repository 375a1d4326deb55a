"""The text encoders, which turn captions into vectors: T5 (from `transformers`) and CLIP's text tower (from open_clip).

On one machine with one number of threads, a text's vectors are bit-identical whatever other texts are encoded with it.
To achieve this, a batch contains only texts of the same length, rounded up to a multiple of eight tokens. It is also
padded to its full number of rows. The cost is wasted computation: of the tokens computed for 800 natural captions, 26 %
are padding.
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

VERSION = 1  # version of this file's arithmetic: a new version has a new table, for which all texts are pending
WIDTH_STEP = 8  # tokens: the widths of batches are multiples of this number


class Encoder(Protocol):
    """Turns captions into the columns of its table."""

    settings: EncoderSettings

    @property
    def id(self) -> str:
        """The encoder's id, which names its table. The id changes whenever a setting or file changes the embeddings."""

    def encode(self, captions: Sequence[str]) -> dict[str, list[Any]]:
        """Return the columns `embedding`, `length`, `truncated` and `error` for some captions."""


class T5:
    """The encoder half of a T5 model. It gives a vector for each token, including the end token.

    The model is loaded with the first shard.
    """

    def __init__(self, settings: EncoderSettings) -> None:
        self.settings = settings

    @cached_property
    def id(self) -> str:
        """The encoder's id: model, version of the arithmetic, weights, and the settings that change embeddings."""
        return _id(self.settings, self.weights_digest, str(self.settings.max_length))

    @cached_property
    def weights_digest(self) -> str:
        """A digest of the weights, configuration and tokenizer.

        Raises:
            ModelError: a part of the model is missing, or it can't be downloaded.
        """
        files = pretrained.model_files(self.settings.folder or pretrained.fetch_model(self.settings.model))
        if not files:
            raise ModelError(
                f"{self.settings.model} is not a complete T5, which has config.json, a tokenizer, and "
                "model.safetensors or pytorch_model.bin. Correct embed.*.model"
            )
        return pretrained.digest_files(files)

    def encode(self, captions: Sequence[str]) -> dict[str, list[Any]]:
        """See `Encoder.encode`."""
        return encode(load(self.settings), captions, self.settings)


class ClipText:
    """The text tower of a CLIP model. Gives a vector for each token (after the last norm), or one projected vector."""

    def __init__(self, settings: EncoderSettings) -> None:
        self.settings = settings

    @cached_property
    def id(self) -> str:
        """The encoder's id: model, version of the arithmetic, weights, and the settings that change embeddings."""
        return _id(self.settings, self.weights_digest, "pooled" if self.settings.pooled else "sequence")

    @cached_property
    def weights_digest(self) -> str:
        """The SHA-256 of the file with the weights."""
        return self.settings.as_clip.weights_digest

    def encode(self, captions: Sequence[str]) -> dict[str, list[Any]]:
        """See `Encoder.encode`."""
        return encode(load(self.settings), captions, self.settings)


def encoder_of(settings: EncoderSettings) -> Encoder:
    """Return the encoder for some settings. Settings that differ only in `of` share one encoder, model and table."""
    settings = settings.model_copy(update={"of": None})
    return T5(settings) if settings.encoder == "t5" else ClipText(settings)


def _id(settings: EncoderSettings, weights_digest: str, output: str) -> str:
    model = re.sub(r"[^a-z0-9]+", "-", Path(settings.model).name.lower()).strip("-")
    parts = [settings.encoder, VERSION, model, weights_digest[:8], output, settings.precision, settings.dtype]
    return "-".join(map(str, parts))


def batches(lengths: Sequence[int], batch_tokens: int, max_tokens: int) -> Iterator[tuple[int, int, list[int]]]:
    """Split texts into batches whose texts have the same width in tokens, after padding.

    Args:
        lengths: the lengths of the texts, in tokens.
        batch_tokens: the most tokens of a batch, with padding.
        max_tokens: the most tokens of a text.

    Returns:
        For each batch its number of rows, its width in tokens, and the indices of its texts. A batch may have fewer
        texts than rows.
    """
    by_width: dict[int, list[int]] = defaultdict(list)
    for index, length in enumerate(lengths):
        width = -(-length // WIDTH_STEP) * WIDTH_STEP
        by_width[min(width, max_tokens)].append(index)
    for width in sorted(by_width):
        rows = max(1, batch_tokens // width)
        for start in range(0, len(by_width[width]), rows):
            yield rows, width, by_width[width][start : start + rows]


@lru_cache(maxsize=2)
def load(settings: EncoderSettings) -> Tower:
    """Load the model for some settings onto its device, once per process.

    Raises:
        ModelError: the model can't be downloaded or loaded.
    """
    if settings.encoder == "clip":
        return ClipTower(settings.as_clip, settings.pooled)
    folder = settings.folder or pretrained.fetch_model(settings.model)
    return T5Tower(folder, settings.max_length, settings.precision, settings.device)


def encode(tower: Tower, captions: Sequence[str], settings: EncoderSettings) -> dict[str, list[Any]]:
    """Encode captions with a loaded model.

    Returns:
        The columns of `embeddings/<encoder>` without the id. `embedding` contains the bytes of a text's vectors,
        concatenated, little-endian and without padding. `length` is the number of vectors. If a value does not fit
        `dtype`, the row has an `error` instead.
    """
    import torch

    tokens, truncated = tower.tokens(captions)
    dtype = getattr(torch, settings.dtype)
    embeddings: list[bytes | None] = [None] * len(tokens)
    errors: list[str | None] = [None] * len(tokens)
    lengths = [0] * len(tokens)
    token_counts = [len(text_tokens) for text_tokens in tokens]
    for rows, width, indices in batches(token_counts, settings.batch_tokens, tower.max_tokens):
        ids = torch.zeros(rows, width, dtype=torch.long)
        mask = torch.zeros(rows, width, dtype=torch.long)
        mask[:, 0] = 1  # a row of padding attends to one token: the softmax over none is not a number
        for row, index in enumerate(indices):
            ids[row, : len(tokens[index])] = torch.tensor(tokens[index])
            mask[row, : len(tokens[index])] = 1
        with torch.inference_mode():
            hidden = tower.hidden(ids.to(tower.device), mask.to(tower.device)).to(dtype).cpu()
        for row_vectors, index in zip(hidden, indices, strict=False):
            vectors = row_vectors[: tower.vector_count(tokens[index], len(row_vectors))]
            if vectors.isfinite().all():
                embeddings[index] = vectors.contiguous().view(torch.uint8).numpy().tobytes()
                lengths[index] = len(vectors)
            else:
                errors[index] = f"values that {settings.dtype} can't hold"
    return {"embedding": embeddings, "length": lengths, "truncated": truncated, "error": errors}
