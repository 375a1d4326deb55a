"""Little models that answer questions about pictures, with random weights whose answers depend on the picture."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import (
    BlipConfig,
    BlipForQuestionAnswering,
    BlipImageProcessor,
    BlipProcessor,
    CLIPImageProcessor,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
    ViltConfig,
    ViltForQuestionAnswering,
    ViltImageProcessor,
    ViltProcessor,
)

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[DEC]", "<image>")
LABELS = ("no", "yes", "1", "2", "red", "blue")
WORDS = (
    *("is", "there", "a", "how", "many", "what", "colour", "shape", "shapes", "are", "red", "blue", "circle", "star"),
    *("yes", "Yes", "no", "No", "one", "two", "1", "2", "?", "dark", "Dark", "answer", "question", ":", "."),
)
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
LOUD = {"initializer_range": 0.4}
PICTURE = {"image_size": 32, "patch_size": 8}
TEMPLATE = "{% for m in messages %}{% for c in m.content %}{% if c.type == 'image' %}<image>{% else %} {{ c.text }}"
TEMPLATE += "{% endif %}{% endfor %}{% endfor %} Answer :"


def make_vilt(folder: Path, labels: tuple[str, ...] = LABELS) -> Path:
    names = dict(enumerate(labels))
    config = ViltConfig(**SMALL, **PICTURE, **LOUD, vocab_size=_size(), id2label=names, max_position_embeddings=16)
    processor = ViltProcessor(ViltImageProcessor(size={"shortest_edge": 32}, size_divisor=8), tokenizer(lower=True))
    return _saved(folder, ViltForQuestionAnswering, config, processor)


def make_blip(folder: Path) -> Path:
    text = {**SMALL, **LOUD, "vocab_size": _size(), "encoder_hidden_size": 32, "projection_dim": 16}
    ids = {"bos_token_id": 4, "sep_token_id": 3, "pad_token_id": 0, "eos_token_id": 3}
    config = BlipConfig(text_config={**text, **ids}, vision_config={**SMALL, **PICTURE, "initializer_range": 0.2})
    processor = BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer(lower=True))
    return _saved(folder, BlipForQuestionAnswering, config, processor)


def make_llava(folder: Path) -> Path:
    language = LlamaConfig(**SMALL, **LOUD, vocab_size=_size(), pad_token_id=0, bos_token_id=2, eos_token_id=3)
    eyes = CLIPVisionConfig(**SMALL, **PICTURE, initializer_range=0.2)
    config = LlavaConfig(vision_config=eyes, text_config=language, image_token_index=SPECIAL.index("<image>"))
    processor = LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}),
        tokenizer(lower=False),
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    return _saved(folder, LlavaForConditionalGeneration, config, processor)


def tokenizer(lower: bool) -> PreTrainedTokenizerFast:
    words = {word: place for place, word in enumerate((*SPECIAL, *WORDS))}
    by_words = Tokenizer(WordLevel(words, unk_token="[UNK]"))
    by_words.normalizer = normalizers.Lowercase() if lower else None
    by_words.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"unk_token": "[UNK]", "pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=by_words,
        **names,
        additional_special_tokens=["[DEC]", "<image>"],
        model_max_length=16 if lower else 64,
    )


def _size() -> int:
    return len(SPECIAL) + len(WORDS)


def _saved(folder: Path, kind: Any, config: Any, processor: Any) -> Path:
    torch.manual_seed(0)
    model = kind(config).eval()
    if kind is LlavaForConditionalGeneration:
        with torch.no_grad():
            model.lm_head.weight[SPECIAL.index("<image>")] = 0  # so that it writes none
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
