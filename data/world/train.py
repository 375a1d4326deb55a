"""Trains the tiny models of the built-in world, and saves them in the formats of open_clip and transformers.

CLIP is trained with SigLIP's pairwise loss (arXiv 2303.15343) on newly drawn scenes. Besides the captions of a batch,
it sees hard negatives: captions with one attribute changed, foreign captions, gibberish, and single words. An auxiliary
head predicts the shapes in a picture and in a caption. It speeds up training and is then discarded. T5's encoder is
trained to classify what a caption claims, and its heads are discarded too. The captioner is trained on the same
pictures, in train_captioner.py.
"""

import json
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from data.world.draw import draw
from data.world.grammar import caption_of, claim_of, gibberish
from data.world.scene import COLOURS, KINDS, RELATIONS, SIZES, Claim, Scene, random_scene
from data.world.train_captioner import optimizer_step, train_captioner

MODELS = ("clip", "t5", "captioner")
SEED_SPACE = 1_000_003  # begins the seeds of this file, so that no picture of a world is used in training
PICTURES, STEPS, BATCH = 16_000, 900, 128
T5_STEPS, T5_BATCH = 600, 128
CONTEXT = 24  # tokens
LEARNING_RATE = 2e-3
SHAPE_CLASSES = [(kind, colour) for kind in KINDS for colour in COLOURS]  # classes of the auxiliary head

CLIP_CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 2, 1], "width": 16, "head_width": 32},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": 0,  # set from the tokenizer
            "hf_tokenizer_name": "tokenizer",  # next to the model; open_clip looks in the model's own folder
            "width": 96,
            "heads": 4,
            "layers": 2,
            "pool_type": "eos",
            "eos_id": 1,
            "pad_id": 0,
        },
    },
    "preprocess_cfg": {
        "mean": [0.78, 0.78, 0.78],
        "std": [0.22, 0.22, 0.22],
        "interpolation": "bicubic",
        "resize_mode": "squash",
    },
}
FOREIGN_NEGATIVES = (  # worlds have other foreign captions
    "ein großer roter kreis über einem kleinen blauen quadrat",
    "un petit triangle vert à gauche d'une grande étoile jaune",
    "un círculo naranja grande encima de un cuadrado morado",
    "маленький синий квадрат внутри большого красного круга",
    "en stor gul stjerne ved siden av en liten svart ring",
    "大きな 赤い 円 の 上 に 小さな 青い 四角",
    "jauns liels aplis virs maza zila kvadrāta",
    "ett litet grönt kors till vänster om en stor lila ring",
)


def train_models(
    out: Path, seed: int = 0, log: Callable[[str], None] = lambda line: None, only: Sequence[str] = MODELS
) -> None:
    """Train models, and save each in a folder with its name.

    CLIP and T5 share torch's random generator. So T5 trained alone starts from other weights than the shipped T5, which
    was trained after CLIP.

    Args:
        out: the folder that contains the models' folders.
        seed: decides everything except the order of floating-point sums.
        log: called with a line of text about every hundredth step.
        only: the names of the models to train.
    """
    tokenizer = train_tokenizer(seed)
    pictures, scenes = draw_pictures(PICTURES, seed)
    torch.manual_seed(seed)
    if "clip" in only:
        train_clip(out / "clip", tokenizer, pictures, scenes, seed, log)
    if "t5" in only:
        train_t5(out / "t5", tokenizer, scenes, seed, log)
    if "captioner" in only:
        torch.manual_seed(seed)
        rng = np.random.default_rng([SEED_SPACE, seed, 5])
        train_captioner(out / "captioner", pictures, scenes, rng, log)


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Make a tokenizer with one token for each word of the grammar. Other words become `<unk>`."""
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=["<pad>", "</s>", "<unk>"])
    rng = np.random.default_rng([SEED_SPACE, seed])
    corpus = [caption_of(random_scene(rng, 320, 320), rng) for _ in range(4_000)]
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=CONTEXT
    )


def train_clip(
    out: Path,
    tokenizer: PreTrainedTokenizerFast,
    pictures: np.ndarray,
    scenes: list[Scene],
    seed: int,
    log: Callable[[str], None],
) -> None:
    """Train CLIP and save it as an open_clip model.

    Args:
        out: the model's folder.
        tokenizer: the tokenizer of the captions.
        pictures: n 64 64 3, uint8.
        scenes: the scenes in the pictures.
        seed: the seed of batches and captions.
        log: called with a line of text about every hundredth step.
    """
    config = json.loads(json.dumps(CLIP_CONFIG))
    config["model_cfg"]["text_cfg"]["vocab_size"] = len(tokenizer)
    out.mkdir(parents=True, exist_ok=True)
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(out)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{out.resolve()}", load_weights=False)
    model = model.to(memory_format=torch.channels_last)
    mean, std = (Tensor(config["preprocess_cfg"][name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    auxiliary_head = nn.Linear(config["model_cfg"]["embed_dim"], len(SHAPE_CLASSES))
    scale, bias = nn.Parameter(torch.tensor(2.3)), nn.Parameter(torch.tensor(-6.0))
    parameters = [*model.parameters(), *auxiliary_head.parameters(), scale, bias]
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, STEPS, pct_start=0.1)
    picture_shapes = torch.stack([shapes_of_scene(scene) for scene in scenes])
    rng, order = np.random.default_rng([SEED_SPACE, seed, 2]), np.random.default_rng([SEED_SPACE, seed, 3])
    model.train()
    for step in range(STEPS):
        chosen = order.integers(len(scenes), size=BATCH)
        captions = [caption_of(scenes[i], rng) for i in chosen]
        negatives = [false_caption(scenes[i], rng) for i in chosen]
        tokens = tokenize(tokenizer, captions + negatives)
        images = model.encode_image((Tensor(pictures[chosen]).permute(0, 3, 1, 2) / 255 - mean) / std)
        texts = model.encode_text(tokens)
        shapes, caption_shapes = picture_shapes[chosen], torch.stack([shapes_of_claim(claim_of(c)) for c in captions])
        # A caption whose shapes are all in another picture may be true of that picture, so such pairs have no weight.
        may_be_true = (caption_shapes @ shapes.T >= caption_shapes.sum(1, keepdim=True)).T
        is_own = torch.eye(BATCH)
        weight = torch.cat([torch.where(is_own > 0, 6.0, 1.0 - may_be_true.float()), 1 + 5 * is_own], 1)
        logits = scale.exp() * F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T + bias
        target = torch.cat([2 * is_own - 1, -torch.ones_like(is_own)], 1)
        loss = -(weight * F.logsigmoid(target * logits)).sum() / BATCH
        loss = loss + F.binary_cross_entropy_with_logits(auxiliary_head(images), shapes) * 10
        loss = loss + F.binary_cross_entropy_with_logits(auxiliary_head(texts[:BATCH]), caption_shapes) * 10
        optimizer_step(loss, parameters, optimizer, schedule)
        if step % 100 == 0:
            log(f"clip {step}/{STEPS}: loss {loss.item():.3f}")
    save_weights(model, out / "open_clip_model.safetensors")


def draw_pictures(count: int, seed: int) -> tuple[np.ndarray, list[Scene]]:
    """Draw random pictures in the models' input format (n 64 64 3, uint8), and return them with their scenes."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        drawn = list(pool.map(_draw_picture, [seed] * count, range(count), chunksize=200))
    return np.stack([picture for picture, _ in drawn]), [scene for _, scene in drawn]


def _draw_picture(seed: int, number: int) -> tuple[np.ndarray, Scene]:
    rng = np.random.default_rng([SEED_SPACE, seed, 1, number])
    width = int(rng.integers(110, 330))  # smaller than in a world: as sharp after resizing, and faster to draw
    height = int(np.clip(width * rng.uniform(1 / 1.65, 1.65), 110, 330))
    scene = random_scene(rng, width, height)
    picture = Image.fromarray(draw(scene, rng))
    return np.asarray(picture.resize((64, 64), Image.Resampling.BICUBIC)), scene


def false_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Make a caption that is false of the scene: foreign, gibberish, too short, or with a wrong colour or kind."""
    choice = rng.random()
    if choice < 0.10:
        return str(rng.choice(FOREIGN_NEGATIVES)) if rng.random() < 0.5 else gibberish(rng)
    if choice < 0.20:
        return str(rng.choice(["", "picture", "photo", "IMG_1.jpg", "shapes", caption_of(scene, rng).split()[-1]]))
    shapes = list(scene.shapes)
    index = int(rng.integers(len(shapes)))
    taken = {(shape.kind, shape.colour) for shape in shapes}
    while (shapes[index].kind, shapes[index].colour) in taken:
        if rng.random() < 0.5:
            shapes[index] = replace(shapes[index], colour=str(rng.choice(list(COLOURS))))
        else:
            shapes[index] = replace(shapes[index], kind=str(rng.choice(KINDS)))
    return caption_of(replace(scene, shapes=tuple(shapes)), rng)


def shapes_of_scene(scene: Scene) -> Tensor:
    """Return a vector with 1 for each class of shape in a scene, and 0 elsewhere."""
    present = torch.zeros(len(SHAPE_CLASSES))
    present[[SHAPE_CLASSES.index((shape.kind, shape.colour)) for shape in scene.shapes]] = 1
    return present


def shapes_of_claim(claim: Claim | None) -> Tensor:
    """Return a vector with 1 for each class of shape that a claim names, and 0 elsewhere."""
    named = torch.zeros(len(SHAPE_CLASSES))
    if claim is not None:
        named[[SHAPE_CLASSES.index((phrase.kind, phrase.colour)) for phrase in claim.phrases]] = 1
    return named


def tokenize(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:  # n CONTEXT
    """Convert texts to token ids, padded or truncated to CONTEXT."""
    padded = tokenizer(texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt")
    return padded.input_ids


def train_t5(
    out: Path, tokenizer: PreTrainedTokenizerFast, scenes: list[Scene], seed: int, log: Callable[[str], None]
) -> None:
    """Train T5's encoder and save it.

    Heads that attend to the encoder's token embeddings classify the kind, colour and size of each shape, and the
    relation.
    """
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=128,
        d_kv=32,
        d_ff=256,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        pad_token_id=0,
        eos_token_id=1,
    )
    model = T5EncoderModel(config)
    class_counts = [len(KINDS) + 1, len(COLOURS) + 1, len(SIZES) + 1] * 3 + [len(RELATIONS) + 1]
    queries = nn.Parameter(torch.randn(len(class_counts), config.d_model) * 0.2)
    heads = nn.ModuleList(nn.Linear(config.d_model, count) for count in class_counts)
    parameters = [*model.parameters(), queries, *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, T5_STEPS, pct_start=0.1)
    rng = np.random.default_rng([SEED_SPACE, seed, 4])
    for step in range(T5_STEPS):
        texts = [caption_of(scenes[i], rng) for i in rng.integers(len(scenes), size=T5_BATCH)]
        targets = torch.tensor([classes_of_claim(claim_of(text)) for text in texts])
        padded = tokenizer(texts, padding=True, return_tensors="pt")
        hidden = model(input_ids=padded.input_ids, attention_mask=padded.attention_mask).last_hidden_state  # b t c
        attention = (hidden @ queries.T).masked_fill(padded.attention_mask[..., None] == 0, -1e9).softmax(1)  # b t q
        pooled = attention.transpose(1, 2) @ hidden  # b q c
        losses = [F.cross_entropy(head(pooled[:, q]), targets[:, q]) for q, head in enumerate(heads)]
        loss = torch.stack(losses).sum()
        optimizer_step(loss, parameters, optimizer, schedule)
        if step % 100 == 0:
            log(f"t5 {step}/{T5_STEPS}: loss {loss.item():.3f}")
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)


def classes_of_claim(claim: Claim | None) -> list[int]:
    """Convert a claim to class numbers: kind, colour and size of each of three shapes, and the relation.

    A number is 0 if the claim does not mention this property.
    """
    assert claim is not None
    classes = []
    for index in range(3):
        phrase = claim.phrases[index] if index < len(claim.phrases) else None
        classes.append(KINDS.index(phrase.kind) + 1 if phrase else 0)
        classes.append(list(COLOURS).index(phrase.colour) + 1 if phrase else 0)
        classes.append(list(SIZES).index(phrase.size) + 1 if phrase and phrase.size else 0)
    return [*classes, RELATIONS.index(claim.relation) + 1 if claim.relation else 0]


def save_weights(model: nn.Module, path: Path) -> None:
    """Save a model's weights in half precision."""
    state = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    save_file({name: value.contiguous() for name, value in state.items()}, path)
