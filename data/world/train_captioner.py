"""Train the tiny captioner of the built-in world, and save it as `transformers` loads it: a SegFormer and a GPT-2.

It sees the pictures that CLIP learns on, spoilt as made and published ones are: smaller, soft, compressed, noisy. It
learns the one wording that follows from a picture alone. A head that says what lies under each of the encoder's vectors
speeds it up and is thrown away.
"""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    PreTrainedTokenizerFast,
    SegformerConfig,
    SegformerModel,
    VisionEncoderDecoderConfig,
    VisionEncoderDecoderModel,
    ViTImageProcessor,
)

from data.world.grammar import RELATION_WORDS, plain_caption
from data.world.scene import COLOURS, KINDS, SIZES, Scene

SIDE, CONTEXT = 64, 32
STEPS, BATCH, LEARNING_RATE = 1_800, 64, 2e-3
NAMING = 0.5  # weight of the head that is thrown away
CELLS = 8  # of a side: where the encoder's vectors are
ANSWERS = [len(KINDS) + 1, len(COLOURS) + 1, len(SIZES) + 1, CELLS, CELLS]
MEAN, SPREAD = 0.78, 0.22
PAD, END, UNKNOWN, START = range(4)
SPECIAL = ("<pad>", "</s>", "<unk>", "<s>")


def train_captioner(
    out: Path, pictures: np.ndarray, scenes: list[Scene], rng: np.random.Generator, say: Callable[[str], None]
) -> None:
    """Learn from `pictures` (n 64 64 3) and what they show."""
    tokenizer = word_tokenizer()
    texts = tokenizer([plain_caption(scene) for scene in scenes], padding=True, return_tensors="pt").input_ids
    there = torch.stack([lies_under(scene) for scene in scenes])
    model = little_model(len(tokenizer))
    names = nn.Linear(model.config.encoder.hidden_size, sum(ANSWERS))
    parameters = [*model.parameters(), *names.parameters()]
    optimiser = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, STEPS, pct_start=0.1)
    model.train()
    for step in range(STEPS):
        chosen = rng.integers(len(scenes), size=BATCH)
        pixels = torch.from_numpy(np.stack([spoilt(pictures[place], rng) for place in chosen]))
        seen = model.encoder(pixel_values=((pixels.permute(0, 3, 1, 2) / 255 - MEAN) / SPREAD))
        words = texts[chosen]
        before = F.pad(words[:, :-1], (1, 0), value=START)
        logits = model(encoder_outputs=seen, decoder_input_ids=before, decoder_attention_mask=before != PAD).logits
        told = F.cross_entropy(logits.flatten(0, 1), words.flatten(), ignore_index=PAD)
        answers = names(seen.last_hidden_state).flatten(0, 1).split(ANSWERS, 1)
        naming = torch.stack([named(*both) for both in zip(answers, there[chosen].flatten(0, 1).T, strict=True)]).sum()
        loss = told + NAMING * naming
        descend(loss, parameters, optimiser, schedule)
        if step % 100 == 0:
            say(f"captioner {step}/{STEPS}: loss {told.item():.3f}, naming {naming.item():.3f}")
    save(out, model, tokenizer)


def descend(
    loss: Tensor,
    parameters: list[nn.Parameter],
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """One step down."""
    optimiser.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimiser.step()
    schedule.step()


def lies_under(scene: Scene) -> Tensor:
    """For each of the encoder's vectors the kind, colour and size of the shape in its place, from 1, or 0 for none; and
    its row and column, without which no relation can be told.
    """
    under = torch.zeros(CELLS, CELLS, 3, dtype=torch.long)
    middles = (torch.arange(CELLS) + 0.5) / CELLS
    for shape in sorted(scene.shapes, key=lambda shape: -shape.extent):  # what is inside comes on top
        down = (middles * scene.height - shape.y).abs() < shape.extent / 2
        across = (middles * scene.width - shape.x).abs() < shape.extent / 2
        words = ((shape.kind, KINDS), (shape.colour, COLOURS), (shape.size, SIZES))
        under[down[:, None] & across] = torch.tensor([list(known).index(word) + 1 for word, known in words])
    places = torch.cartesian_prod(torch.arange(CELLS), torch.arange(CELLS))
    return torch.cat([under.flatten(0, 1), places], 1)


def named(answers: Tensor, there: Tensor) -> Tensor:
    """How wrong some answers are. That nothing is there is the easiest and the most frequent, and counts least."""
    wrong = F.cross_entropy(answers, there, reduction="none")
    weight = torch.where(there == 0, 0.2, 1.0)
    return (weight * wrong).sum() / weight.sum()


def little_model(words: int) -> VisionEncoderDecoderModel:
    encoder = SegformerConfig(
        num_encoder_blocks=2,
        hidden_sizes=[32, 96],
        depths=[1, 3],
        patch_sizes=[7, 3],
        strides=[4, 2],
        sr_ratios=[2, 1],
        num_attention_heads=[1, 3],
        mlp_ratios=[2, 2],
        drop_path_rate=0.0,
        reshape_last_stage=False,  # a row of vectors, which the decoder reads
        hidden_size=96,  # of each
    )
    decoder = GPT2Config(
        vocab_size=words,
        n_positions=CONTEXT,
        n_embd=96,
        n_layer=2,
        n_head=3,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        bos_token_id=START,
        eos_token_id=END,
        is_decoder=True,
        add_cross_attention=True,
        tie_word_embeddings=False,
    )
    config = VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        encoder, decoder, decoder_start_token_id=START, eos_token_id=END, pad_token_id=PAD
    )
    return VisionEncoderDecoderModel(config, SegformerModel(encoder), GPT2LMHeadModel(decoder))


def word_tokenizer() -> PreTrainedTokenizerFast:
    """The words of plain captions, each a token."""
    said = ["a", *SIZES, *COLOURS, *KINDS, *(words[0] for words in RELATION_WORDS.values()), "and"]
    words = dict.fromkeys([*SPECIAL, *" ".join(said).split()])
    tokenizer = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        model_max_length=CONTEXT,
    )


def spoilt(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:  # 64 64 3, uint8
    """A picture as it might come: from a smaller one, soft, compressed, with noise, paler or darker."""
    seen = picture
    if rng.random() < 0.5:
        side = int(rng.integers(30, SIDE))
        seen = cv2.resize(seen, (side, side), interpolation=cv2.INTER_AREA)
        seen = cv2.resize(seen, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.2:
        seen = cv2.GaussianBlur(seen, (0, 0), float(rng.uniform(0.3, 1.0)))
    if rng.random() < 0.3:
        _, body = cv2.imencode(".jpg", seen, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(50, 96))])
        seen = np.asarray(cv2.imdecode(body, cv2.IMREAD_COLOR))
    light, noise = rng.uniform(0.93, 1.07), rng.normal(0, rng.uniform(0, 6), seen.shape)
    return np.clip(seen * light + noise, 0, 255).astype(np.uint8)


def save(out: Path, model: VisionEncoderDecoderModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """In half precision; it is read into whatever precision is asked for."""
    model.eval().half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    prepare = ViTImageProcessor(
        size={"height": SIDE, "width": SIDE}, resample=3, image_mean=[MEAN] * 3, image_std=[SPREAD] * 3
    )
    prepare.save_pretrained(out)
