"""Trains the tiny captioner of the built-in world, a SegFormer with a GPT-2, in the format of `transformers`.

It is trained on the same pictures as CLIP. They are degraded like generated and published pictures: smaller, blurred,
compressed, noisy. The targets are captions in fixed wording, which can be derived from a picture alone. An auxiliary
head predicts the shape at each of the encoder's vectors. It speeds up training and is then discarded.
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

SIDE, CONTEXT = 64, 32  # pixels, tokens
STEPS, BATCH, LEARNING_RATE = 1_800, 64, 2e-3
AUXILIARY_WEIGHT = 0.5  # weight of the auxiliary head's loss
CELLS = 8  # cells per side: the encoder has one vector for each cell
CELL_CLASSES = [len(KINDS) + 1, len(COLOURS) + 1, len(SIZES) + 1, CELLS, CELLS]  # number of classes of each label
MEAN, STD = 0.78, 0.22  # mean and standard deviation of the pixels
PAD, END, UNKNOWN, START = range(4)
SPECIAL_TOKENS = ("<pad>", "</s>", "<unk>", "<s>")


def train_captioner(
    out: Path, pictures: np.ndarray, scenes: list[Scene], rng: np.random.Generator, log: Callable[[str], None]
) -> None:
    """Train a captioner and save it to a folder.

    Args:
        out: the folder.
        pictures: n 64 64 3, uint8.
        scenes: the scenes in the pictures.
        rng: random generator for batches and degradations.
        log: called with a line of text about every hundredth step.
    """
    tokenizer = word_tokenizer()
    texts = tokenizer([plain_caption(scene) for scene in scenes], padding=True, return_tensors="pt").input_ids
    labels = torch.stack([cell_labels(scene) for scene in scenes])
    model = make_model(len(tokenizer))
    auxiliary_head = nn.Linear(model.config.encoder.hidden_size, sum(CELL_CLASSES))
    parameters = [*model.parameters(), *auxiliary_head.parameters()]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS, pct_start=0.1)
    model.train()
    for step in range(STEPS):
        chosen = rng.integers(len(scenes), size=BATCH)
        pixels = torch.from_numpy(np.stack([degrade(pictures[index], rng) for index in chosen]))
        encoded = model.encoder(pixel_values=((pixels.permute(0, 3, 1, 2) / 255 - MEAN) / STD))
        targets = texts[chosen]
        inputs = F.pad(targets[:, :-1], (1, 0), value=START)
        logits = model(encoder_outputs=encoded, decoder_input_ids=inputs, decoder_attention_mask=inputs != PAD).logits
        caption_loss = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=PAD)
        cell_logits = auxiliary_head(encoded.last_hidden_state).flatten(0, 1).split(CELL_CLASSES, 1)
        cell_targets = labels[chosen].flatten(0, 1).T
        losses = [cell_loss(part, target) for part, target in zip(cell_logits, cell_targets, strict=True)]
        auxiliary_loss = torch.stack(losses).sum()
        loss = caption_loss + AUXILIARY_WEIGHT * auxiliary_loss
        optimizer_step(loss, parameters, optimizer, schedule)
        if step % 100 == 0:
            log(f"captioner {step}/{STEPS}: loss {caption_loss.item():.3f}, auxiliary loss {auxiliary_loss.item():.3f}")
    save_captioner(out, model, tokenizer)


def optimizer_step(
    loss: Tensor,
    parameters: list[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
) -> None:
    """Do one optimizer step, with gradients clipped to norm 1."""
    optimizer.zero_grad()
    loss.backward()
    nn.utils.clip_grad_norm_(parameters, 1.0)
    optimizer.step()
    schedule.step()


def cell_labels(scene: Scene) -> Tensor:  # cells 5
    """Return the auxiliary head's targets for each cell: kind, colour and size of the shape, and the cell's position.

    Kind, colour and size count from 1, and 0 means no shape. The position is given as row and column. Predicting it
    teaches positions to the encoder, without which the decoder can't learn relations.
    """
    shapes = torch.zeros(CELLS, CELLS, 3, dtype=torch.long)
    middles = (torch.arange(CELLS) + 0.5) / CELLS
    for shape in sorted(scene.shapes, key=lambda shape: -shape.extent):  # a shape inside another comes on top
        rows = (middles * scene.height - shape.y).abs() < shape.extent / 2
        columns = (middles * scene.width - shape.x).abs() < shape.extent / 2
        kind, colour, size = KINDS.index(shape.kind), list(COLOURS).index(shape.colour), list(SIZES).index(shape.size)
        shapes[rows[:, None] & columns] = torch.tensor([kind + 1, colour + 1, size + 1])
    positions = torch.cartesian_prod(torch.arange(CELLS), torch.arange(CELLS))
    return torch.cat([shapes.flatten(0, 1), positions], 1)


def cell_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """Compute the cross entropy. Cells without a shape are the easiest and most frequent, so they have less weight."""
    losses = F.cross_entropy(logits, targets, reduction="none")
    weight = torch.where(targets == 0, 0.2, 1.0)
    return (weight * losses).sum() / weight.sum()


def make_model(vocabulary: int) -> VisionEncoderDecoderModel:
    """Make an untrained captioner with a vocabulary of this size."""
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
        reshape_last_stage=False,  # keep the sequence of vectors that the decoder attends to
        hidden_size=96,  # of each vector
    )
    decoder = GPT2Config(
        vocab_size=vocabulary,
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
    """Make a tokenizer with one token for each word of plain captions."""
    phrases = ["a", *SIZES, *COLOURS, *KINDS, *(words[0] for words in RELATION_WORDS.values()), "and"]
    words = dict.fromkeys([*SPECIAL_TOKENS, *" ".join(phrases).split()])
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
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


def degrade(picture: np.ndarray, rng: np.random.Generator) -> np.ndarray:  # 64 64 3, uint8
    """Degrade a picture at random: resolution, sharpness, compression, brightness and noise."""
    if rng.random() < 0.5:
        side = int(rng.integers(30, SIDE))
        picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
        picture = cv2.resize(picture, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.2:
        picture = cv2.GaussianBlur(picture, (0, 0), float(rng.uniform(0.3, 1.0)))
    if rng.random() < 0.3:
        _, body = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(50, 96))])
        picture = np.asarray(cv2.imdecode(body, cv2.IMREAD_COLOR))
    brightness, noise = rng.uniform(0.93, 1.07), rng.normal(0, rng.uniform(0, 6), picture.shape)
    return np.clip(picture * brightness + noise, 0, 255).astype(np.uint8)


def save_captioner(out: Path, model: VisionEncoderDecoderModel, tokenizer: PreTrainedTokenizerFast) -> None:
    """Save model, tokenizer and image processor. Weights are saved in half precision."""
    model.eval().half().save_pretrained(out)
    tokenizer.save_pretrained(out)
    processor = ViTImageProcessor(
        size={"height": SIDE, "width": SIDE}, resample=3, image_mean=[MEAN] * 3, image_std=[STD] * 3
    )
    processor.save_pretrained(out)
