"""Encode prompts in the same way as a dataset's captions: each prompt alone, in the data type of stored embeddings."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from imagen.cascade.checks import NotPossible

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def load_t5(tokenizer: Any, encoder: Any, precision: str) -> tuple[Any, Any]:
    """Load a T5's tokenizer and encoder, each from a folder or by its hub id.

    Raises:
        ValueError: the weights lack a tensor.
        OSError: a file is missing or can't be fetched.
    """
    from transformers import AutoTokenizer, T5EncoderModel

    model, info = T5EncoderModel.from_pretrained(encoder, dtype=PRECISIONS[precision], output_loading_info=True)
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"{encoder} lacks the tensor {missing[0]}")
    return AutoTokenizer.from_pretrained(tokenizer), model.eval()


def encode_prompt(tokenizer: Any, encoder: Any, prompt: str, text: dict[str, Any], device: Any) -> tuple[Tensor, str]:
    """Encode one prompt by a T5.

    Args:
        text: the encoder's settings; only `max_length` and `dtype` are used.

    Returns:
        The embeddings (n d), and the part of the prompt that was cut off because it was too long.
    """
    parts = tokenizer(prompt, truncation=True, max_length=text["max_length"], return_overflowing_tokens=True).input_ids
    rest = " ".join(tokenizer.decode(part, skip_special_tokens=True) for part in parts[1:])
    embeddings = encoder(input_ids=torch.tensor(parts[:1], device=device)).last_hidden_state[0]
    return embeddings.to(getattr(torch, text["dtype"])), rest


def embed_prompts(
    prompts: Sequence[str | None], width: int, encode: Callable[[list[str]], list[Tensor]]
) -> tuple[Tensor, Tensor]:
    """Embed prompts. Equal prompts are encoded once.

    Args:
        prompts: None is a prompt without text, which has no tokens.
        width: the width of an embedding.
        encode: a function that takes distinct prompts and returns the embeddings of each (n d).

    Returns:
        The embeddings in float32 (b n d), and the mask of their tokens (b n).

    Raises:
        NotPossible: a prompt is empty, or its embedding is not finite.
    """
    distinct = list({prompt: None for prompt in prompts if prompt is not None})
    if not all(prompt.strip() for prompt in distinct):
        raise NotPossible("the prompt is empty: say what the image should show, or give None")
    embeddings = dict(zip(distinct, encode(distinct), strict=True)) if distinct else {}
    for embedding in embeddings.values():
        if not embedding.isfinite().all():
            dtype = str(embedding.dtype).removeprefix("torch.")
            raise NotPossible(f"the prompt's embedding has values beyond what {dtype} holds: rephrase the prompt")
    no_tokens = torch.zeros(0, width)
    return pad_embeddings([no_tokens if prompt is None else embeddings[prompt].float().cpu() for prompt in prompts])


def pad_embeddings(rows: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Pad embeddings of several prompts to one tensor (b n d). Return it and the mask of their tokens (b n)."""
    padded = pad_sequence(list(rows), batch_first=True)
    lengths = torch.tensor([len(row) for row in rows])
    return padded, torch.arange(padded.shape[1]) < lengths[:, None]
