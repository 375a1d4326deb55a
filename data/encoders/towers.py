"""Loaded text encoders in a worker. They convert captions to tokens, and padded tokens to vectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from data.errors import ModelError
from data.scorers.clip import ClipModel, resolve_device


class Tower(Protocol):
    """A text encoder on its device.

    Attributes:
        device: the device of its weights.
        max_tokens: the most tokens of a text.
    """

    device: str
    max_tokens: int

    def tokens(self, captions: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """Return the tokens of each text, and whether each text was cut."""

    def hidden(self, ids: Any, mask: Any) -> Any:
        """Compute vectors (rows vectors dim) from padded tokens and their mask (both rows width)."""

    def vector_count(self, tokens: list[int], vectors: int) -> int:
        """Return how many of a row's vectors, from the first on, belong to the text. The others are padding.

        Args:
            tokens: the tokens of the text.
            vectors: the number of vectors in the row.
        """


class T5Tower:
    """The encoder half of a T5 model.

    The mask excludes padding from the result. But padding still changes the order of summation, and so the last bits.
    """

    def __init__(self, folder: Path, max_length: int, precision: str, device: str) -> None:
        import torch
        from transformers import AutoTokenizer, T5EncoderModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        self.device, self.max_tokens = resolve_device(device), max_length
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
            self.model = T5EncoderModel.from_pretrained(folder, dtype=dtype).to(self.device).eval()
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise ModelError(f"T5 model {folder} can't be loaded: {str(error).splitlines()[0]}") from error

    def tokens(self, captions: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """See `Tower.tokens`."""
        batch = self.tokenizer(list(captions), truncation=True, max_length=self.max_tokens)
        return batch.input_ids, [bool(encoding.overflowing) for encoding in batch.encodings]

    def hidden(self, ids: Any, mask: Any) -> Any:
        """See `Tower.hidden`."""
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state

    def vector_count(self, tokens: list[int], vectors: int) -> int:
        """Count all vectors up to the last token."""
        return len(tokens)


class ClipTower:
    """The text tower of an open_clip model. There are three kinds of towers, which treat padding differently:

    - Attention is causal, and the end token's vector is the vector of the text. Nothing after this token matters, so
      the tokens are cut there.
    - The tower masks padding itself. Its input has the full context length, and the vectors of padding are dropped.
    - The tower attends to padding, as SigLIP's tower does. All vectors are kept.
    """

    def __init__(self, settings: ClipModel, pooled: bool) -> None:
        loaded = settings.load()
        self.model, self.tokenize, self.device = loaded.model, loaded.tokenize, loaded.device
        self.pooled, self.max_tokens = pooled, self.tokenize.context_length or self.model.context_length
        self.tower = tower = getattr(self.model, "text", self.model)
        is_transformers = hasattr(tower, "config")  # a transformers model with open_clip's pooling
        has_class_token = getattr(tower, "cls_emb", None) is not None
        self.is_plain = not (is_transformers or has_class_token or getattr(tower, "use_pad_mask", False))
        self.masked_token = None
        if not self.is_plain:
            self.masked_token = tower.config.pad_token_id if is_transformers else tower.pad_id
        pool = getattr(self.model, "text_pool_type", getattr(tower, "pool_type", ""))
        self.ends_at_end_token = (
            not pooled and self.is_plain and tower.attn_mask is not None and pool in ("argmax", "eos")
        )
        self.end_token = getattr(tower, "text_eos_id", getattr(tower, "eos_id", None)) if pool == "eos" else None

    def tokens(self, captions: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """See `Tower.tokens`."""
        texts = list(captions)
        padded = self.tokenize(texts, self.max_tokens)
        longer = self.tokenize(texts, 2 * self.max_tokens).tolist()
        pad = getattr(getattr(self.tokenize, "tokenizer", None), "pad_token_id", 0)
        cut = [_without(pad, a) != _without(pad, b) for a, b in zip(padded.tolist(), longer, strict=True)]
        if not self.ends_at_end_token:
            return padded.tolist(), cut
        ends = padded.argmax(1) if self.end_token is None else (padded == self.end_token).int().argmax(1)
        return [row[: end + 1] for row, end in zip(padded.tolist(), ends.tolist(), strict=True)], cut

    def hidden(self, ids: Any, mask: Any) -> Any:
        """See `Tower.hidden`. The mask argument is not used, because the tower has its own mask."""
        if self.pooled:
            return self.model.encode_text(ids, normalize=False)[:, None]
        tower, width = self.tower, ids.shape[1]
        if not self.is_plain:
            before, tower.output_tokens = tower.output_tokens, True  # restored, since a scorer may share the model
            try:
                return tower(ids)[1]
            finally:
                tower.output_tokens = before
        dtype = tower.transformer.get_cast_dtype()
        embedded = tower.token_embedding(ids).to(dtype) + tower.positional_embedding[:width].to(dtype)
        attention_mask = None if tower.attn_mask is None else tower.attn_mask[:width, :width]
        return tower.ln_final(tower.transformer(embedded, attn_mask=attention_mask))

    def vector_count(self, tokens: list[int], vectors: int) -> int:
        """Count the vectors of all tokens that the tower does not mask."""
        if self.pooled or self.masked_token is None:
            return min(len(tokens), vectors)
        missing = len(tokens) - vectors  # a tower with a class token does not return its vector
        return len(_without(self.masked_token, tokens)) - missing


def _without(pad: int | None, tokens: list[int]) -> list[int]:
    return [token for token in tokens if token != pad]
