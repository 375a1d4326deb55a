"""Train the tiny models of the built-in world, and save them as open_clip and transformers load them.

CLIP learns by SigLIP's pairwise loss (arXiv 2303.15343) on scenes drawn for it, with harder negatives than a batch has:
one attribute changed, foreign, gibberish and one-word captions. A head that names the shapes in a picture and in a
caption speeds it up and is thrown away. T5's encoder learns to name what a caption claims; its head is thrown away too.
The captioner, which learns from the same pictures, lies in train_captioner.py.
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
from data.world.train_captioner import descend, train_captioner

MODELS = ("clip", "t5", "captioner")
SEED_SPACE = 1_000_003  # worlds draw from generators of other sequences, so that no picture of theirs is trained on
PICTURES, STEPS, BATCH = 16_000, 900, 128
T5_STEPS, T5_BATCH = 600, 128
CONTEXT = 24
LEARNING_RATE = 2e-3
NAMES = [(kind, colour) for kind in KINDS for colour in COLOURS]

CLIP_CONFIG: dict[str, Any] = {
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "layers": [1, 1, 2, 1], "width": 16, "head_width": 32},
        "text_cfg": {
            "context_length": CONTEXT,
            "vocab_size": 0,  # set from the tokenizer
            "hf_tokenizer_name": "tokenizer",  # beside the model; open_clip looks in the model's own folder
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
FOREIGN_LESSONS = (  # what is no caption of the world; the world itself has others
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
    out: Path, seed: int = 0, say: Callable[[str], None] = lambda line: None, only: Sequence[str] = MODELS
) -> None:
    """All models, or some, into `out/clip`, `out/t5` and `out/captioner`.

    The shipped T5 was trained after CLIP, which draws from the same generator: alone it begins with other weights.
    """
    tokenizer = train_tokenizer(seed)
    pictures, scenes = draw_pictures(PICTURES, seed)
    torch.manual_seed(seed)
    if "clip" in only:
        train_clip(out / "clip", tokenizer, pictures, scenes, seed, say)
    if "t5" in only:
        train_t5(out / "t5", tokenizer, scenes, seed, say)
    if "captioner" in only:
        torch.manual_seed(seed)
        rng = np.random.default_rng([SEED_SPACE, seed, 5])
        train_captioner(out / "captioner", pictures, scenes, rng, say)


def train_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Whole words of the grammar; what it does not know is `<unk>`."""
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
    say: Callable[[str], None],
) -> None:
    config = json.loads(json.dumps(CLIP_CONFIG))
    config["model_cfg"]["text_cfg"]["vocab_size"] = len(tokenizer)
    out.mkdir(parents=True, exist_ok=True)
    (out / "open_clip_config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokenizer.save_pretrained(out)
    model, _, _ = open_clip.create_model_and_transforms(f"local-dir:{out.resolve()}", load_weights=False)
    model = model.to(memory_format=torch.channels_last)
    mean, std = (Tensor(config["preprocess_cfg"][name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    names = nn.Linear(config["model_cfg"]["embed_dim"], len(NAMES))
    scale, bias = nn.Parameter(torch.tensor(2.3)), nn.Parameter(torch.tensor(-6.0))
    parameters = [*model.parameters(), *names.parameters(), scale, bias]
    optimiser = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, STEPS, pct_start=0.1)
    there = torch.stack([shapes_there(scene) for scene in scenes])
    rng, order = np.random.default_rng([SEED_SPACE, seed, 2]), np.random.default_rng([SEED_SPACE, seed, 3])
    model.train()
    for step in range(STEPS):
        chosen = order.integers(len(scenes), size=BATCH)
        texts = [caption_of(scenes[i], rng) for i in chosen]
        wrong = [spoiled(scenes[i], rng) for i in chosen]
        tokens = tokens_of(tokenizer, texts + wrong)
        images = model.encode_image((Tensor(pictures[chosen]).permute(0, 3, 1, 2) / 255 - mean) / std)
        words = model.encode_text(tokens)
        said = torch.stack([names_in(claim_of(text)) for text in texts])
        # a caption may be true of another picture too, as far as names go: such pairs teach nothing and are left out
        perhaps = (said @ there[chosen].T >= said.sum(1, keepdim=True)).T
        truth = torch.eye(BATCH)
        weight = torch.cat([torch.where(truth > 0, 6.0, 1.0 - perhaps.float()), 1 + 5 * truth], 1)
        logits = scale.exp() * F.normalize(images, dim=-1) @ F.normalize(words, dim=-1).T + bias
        target = torch.cat([2 * truth - 1, -torch.ones_like(truth)], 1)
        loss = -(weight * F.logsigmoid(target * logits)).sum() / BATCH
        loss = loss + F.binary_cross_entropy_with_logits(names(images), there[chosen]) * 10
        loss = loss + F.binary_cross_entropy_with_logits(names(words[:BATCH]), said) * 10
        descend(loss, parameters, optimiser, schedule)
        if step % 100 == 0:
            say(f"clip {step}/{STEPS}: loss {loss.item():.3f}")
    save(model, out / "open_clip_model.safetensors")


def draw_pictures(count: int, seed: int) -> tuple[np.ndarray, list[Scene]]:
    """Pictures as the model will see them, 64 px square, with the scenes that they show."""
    with ProcessPoolExecutor(mp_context=get_context("spawn")) as pool:
        drawn = list(pool.map(_draw, [seed] * count, range(count), chunksize=200))
    return np.stack([picture for picture, _ in drawn]), [scene for _, scene in drawn]


def _draw(seed: int, number: int) -> tuple[np.ndarray, Scene]:
    rng = np.random.default_rng([SEED_SPACE, seed, 1, number])
    width = int(rng.integers(110, 330))  # smaller than the world's: as sharp after the resize, and quicker
    height = int(np.clip(width * rng.uniform(1 / 1.65, 1.65), 110, 330))
    scene = random_scene(rng, width, height)
    picture = Image.fromarray(draw(scene, rng))
    return np.asarray(picture.resize((64, 64), Image.Resampling.BICUBIC)), scene


def spoiled(scene: Scene, rng: np.random.Generator) -> str:
    """A caption that is not true of the scene, and more or less like one that is."""
    kind = rng.random()
    if kind < 0.10:
        return str(rng.choice(FOREIGN_LESSONS)) if rng.random() < 0.5 else gibberish(rng)
    if kind < 0.20:
        return str(rng.choice(["", "picture", "photo", "IMG_1.jpg", "shapes", caption_of(scene, rng).split()[-1]]))
    shapes = list(scene.shapes)
    place = int(rng.integers(len(shapes)))
    taken = {(shape.kind, shape.colour) for shape in shapes}
    while (shapes[place].kind, shapes[place].colour) in taken:
        if rng.random() < 0.5:
            shapes[place] = replace(shapes[place], colour=str(rng.choice(list(COLOURS))))
        else:
            shapes[place] = replace(shapes[place], kind=str(rng.choice(KINDS)))
    return caption_of(replace(scene, shapes=tuple(shapes)), rng)


def shapes_there(scene: Scene) -> Tensor:
    there = torch.zeros(len(NAMES))
    there[[NAMES.index((shape.kind, shape.colour)) for shape in scene.shapes]] = 1
    return there


def names_in(claim: Claim | None) -> Tensor:
    said = torch.zeros(len(NAMES))
    if claim is not None:
        said[[NAMES.index((phrase.kind, phrase.colour)) for phrase in claim.phrases]] = 1
    return said


def tokens_of(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    padded = tokenizer(texts, padding="max_length", truncation=True, max_length=CONTEXT, return_tensors="pt")
    return padded.input_ids


def train_t5(
    out: Path, tokenizer: PreTrainedTokenizerFast, scenes: list[Scene], seed: int, say: Callable[[str], None]
) -> None:
    """Learns to answer from its token embeddings: kind, colour and size of each shape in turn, and the relation."""
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
    answers = [len(KINDS) + 1, len(COLOURS) + 1, len(SIZES) + 1] * 3 + [len(RELATIONS) + 1]
    questions = nn.Parameter(torch.randn(len(answers), config.d_model) * 0.2)
    heads = nn.ModuleList(nn.Linear(config.d_model, count) for count in answers)
    parameters = [*model.parameters(), questions, *heads.parameters()]
    optimiser = torch.optim.AdamW(parameters, 2e-3, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, T5_STEPS, pct_start=0.1)
    rng = np.random.default_rng([SEED_SPACE, seed, 4])
    for step in range(T5_STEPS):
        texts = [caption_of(scenes[i], rng) for i in rng.integers(len(scenes), size=T5_BATCH)]
        targets = torch.tensor([answers_to(claim_of(text)) for text in texts])
        padded = tokenizer(texts, padding=True, return_tensors="pt")
        hidden = model(input_ids=padded.input_ids, attention_mask=padded.attention_mask).last_hidden_state  # b t c
        looking = (hidden @ questions.T).masked_fill(padded.attention_mask[..., None] == 0, -1e9).softmax(1)  # b t q
        found = looking.transpose(1, 2) @ hidden  # b q c
        losses = [F.cross_entropy(head(found[:, q]), targets[:, q]) for q, head in enumerate(heads)]
        loss = torch.stack(losses).sum()
        descend(loss, parameters, optimiser, schedule)
        if step % 100 == 0:
            say(f"t5 {step}/{T5_STEPS}: loss {loss.item():.3f}")
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)


def answers_to(claim: Claim | None) -> list[int]:
    """The claim as class numbers; 0 where it is silent."""
    assert claim is not None
    numbers = []
    for place in range(3):
        phrase = claim.phrases[place] if place < len(claim.phrases) else None
        numbers.append(KINDS.index(phrase.kind) + 1 if phrase else 0)
        numbers.append(list(COLOURS).index(phrase.colour) + 1 if phrase else 0)
        numbers.append(list(SIZES).index(phrase.size) + 1 if phrase and phrase.size else 0)
    return [*numbers, RELATIONS.index(claim.relation) + 1 if claim.relation else 0]


def save(model: nn.Module, path: Path) -> None:
    """Half precision on disk: it is read into a model of whatever precision was asked for."""
    state = {name: value.half() if value.is_floating_point() else value for name, value in model.state_dict().items()}
    save_file({name: value.contiguous() for name, value in state.items()}, path)
