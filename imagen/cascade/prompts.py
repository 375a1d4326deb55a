"""How prompts are read: as the captions of a dataset were, each alone, its vectors in the numbers that are stored."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def load_t5(tokenizer: Any, encoder: Any, precision: str) -> tuple[Any, Any]:
    """The tokenizer and the encoder half of a T5, each by its folder or its name in the hub."""
    from transformers import AutoTokenizer, T5EncoderModel

    read, told = T5EncoderModel.from_pretrained(encoder, dtype=PRECISIONS[precision], output_loading_info=True)
    if missing := sorted(told["missing_keys"]):
        raise ValueError(f"{encoder} lacks the tensor {missing[0]}")
    return AutoTokenizer.from_pretrained(tokenizer), read.eval()


def encode_prompt(tokenizer: Any, encoder: Any, prompt: str, text: dict[str, Any], device: Any) -> tuple[Tensor, str]:
    """The vectors of a prompt (n d), and the rest of it that was too long to be read."""
    parts = tokenizer(prompt, truncation=True, max_length=text["max_length"], return_overflowing_tokens=True).input_ids
    rest = " ".join(tokenizer.decode(part, skip_special_tokens=True) for part in parts[1:])
    said = encoder(input_ids=torch.tensor(parts[:1], device=device)).last_hidden_state[0]
    return said.to(getattr(torch, text["dtype"])), rest


def pad_embeddings(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Vectors of several prompts (b n d), and which of them are there (b n)."""
    padded = pad_sequence(list(rows), batch_first=True)
    return padded, torch.arange(padded.shape[1]) < torch.tensor([len(row) for row in rows])[:, None]
