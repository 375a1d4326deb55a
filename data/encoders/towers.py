"""Text encoders as they are loaded in a worker: captions to tokens, padded tokens to vectors."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from data.errors import ModelError
from data.scorers.clip import ClipModel, resolve_device


class Tower(Protocol):
    device: str
    longest: int

    def tokens(self, captions: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        """The tokens of each text, and whether it was cut."""

    def hidden(self, ids: Any, mask: Any) -> Any:
        """Padded tokens and their mask (rows width) to vectors (rows vectors dim)."""

    def own(self, tokens: list[int], vectors: int) -> int:
        """How many of a text's vectors, from the first, are its own; the rest is padding."""


class T5Tower:
    """The encoder half of a T5. The mask keeps padding out, which changes a sum's order and so its last bits."""

    def __init__(self, folder: Path, max_length: int, precision: str, device: str) -> None:
        import torch
        from transformers import AutoTokenizer, T5EncoderModel
        from transformers.utils import logging

        logging.disable_progress_bar()
        dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        self.device, self.longest = resolve_device(device), max_length
        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
            self.model = T5EncoderModel.from_pretrained(folder, dtype=dtype).to(self.device).eval()
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise ModelError(f"T5 model {folder} can't be loaded: {str(error).splitlines()[0]}") from error

    def tokens(self, captions: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        said = self.tokenizer(list(captions), truncation=True, max_length=self.longest)
        return said.input_ids, [bool(one.overflowing) for one in said.encodings]

    def hidden(self, ids: Any, mask: Any) -> Any:
        return self.model(input_ids=ids, attention_mask=mask).last_hidden_state

    def own(self, tokens: list[int], vectors: int) -> int:
        return len(tokens)


class ClipTower:
    """The text tower of an open_clip model.

    Where attention looks back only and the text's vector is that of its end token, nothing after that token matters:
    it is left out. Where a tower masks padding itself it gets its whole context, and the masked vectors are left out.
    A tower that looks at its padding, as SigLIP's does, keeps every vector.
    """

    def __init__(self, settings: ClipModel, pooled: bool) -> None:
        loaded = settings.load()
        self.model, self.tokenize, self.device = loaded.model, loaded.tokenize, loaded.device
        self.pooled, self.longest = pooled, self.tokenize.context_length or self.model.context_length
        self.tower = tower = getattr(self.model, "text", self.model)
        foreign = hasattr(tower, "config")  # a transformers model with open_clip's pooling
        class_token = getattr(tower, "cls_emb", None) is not None
        self.plain = not (foreign or class_token or getattr(tower, "use_pad_mask", False))
        self.masked = None if self.plain else tower.config.pad_token_id if foreign else tower.pad_id
        pool = getattr(self.model, "text_pool_type", getattr(tower, "pool_type", ""))
        self.trimmed = not pooled and self.plain and tower.attn_mask is not None and pool in ("argmax", "eos")
        self.end = getattr(tower, "text_eos_id", getattr(tower, "eos_id", None)) if pool == "eos" else None

    def tokens(self, captions: Sequence[str]) -> tuple[list[list[int]], list[bool]]:
        texts = list(captions)
        padded = self.tokenize(texts, self.longest)
        more = self.tokenize(texts, 2 * self.longest).tolist()
        pad = getattr(getattr(self.tokenize, "tokenizer", None), "pad_token_id", 0)
        cut = [_without(pad, a) != _without(pad, b) for a, b in zip(padded.tolist(), more, strict=True)]
        if not self.trimmed:
            return padded.tolist(), cut
        last = padded.argmax(1) if self.end is None else (padded == self.end).int().argmax(1)
        return [row[: end + 1] for row, end in zip(padded.tolist(), last.tolist(), strict=True)], cut

    def hidden(self, ids: Any, mask: Any) -> Any:
        if self.pooled:
            return self.model.encode_text(ids, normalize=False)[:, None]
        tower, width = self.tower, ids.shape[1]
        if not self.plain:
            before, tower.output_tokens = tower.output_tokens, True  # a scorer may share the model
            try:
                return tower(ids)[1]
            finally:
                tower.output_tokens = before
        dtype = tower.transformer.get_cast_dtype()
        embedded = tower.token_embedding(ids).to(dtype) + tower.positional_embedding[:width].to(dtype)
        past = None if tower.attn_mask is None else tower.attn_mask[:width, :width]
        return tower.ln_final(tower.transformer(embedded, attn_mask=past))

    def own(self, tokens: list[int], vectors: int) -> int:
        if self.pooled or self.masked is None:
            return min(len(tokens), vectors)
        return len(_without(self.masked, tokens)) - (len(tokens) - vectors)  # a class token's vector is not handed out


def _without(pad: int | None, tokens: list[int]) -> list[int]:
    return [token for token in tokens if token != pad]
