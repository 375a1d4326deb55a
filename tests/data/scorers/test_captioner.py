"""Captioners of several kinds, each from a folder, and the error for a folder that holds none."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    PreTrainedTokenizerFast,
)

from data.errors import ModelError
from data.scorers.captioner import BUILT_IN, Captioner, load, weights_folder
from data.world.check import caption_is_true
from data.world.draw import draw
from data.world.scene import random_scene
from tests.conftest import UNSEEN_SEED

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "blue", "circle", "star", "photo", "of"]


def draw_pictures(count: int, shapes: int, wide: float = 1.6) -> list[Image.Image]:
    """Pictures of a number of shapes that no model has seen, no side longer than `wide` times the other."""
    rng, pictures = np.random.default_rng([UNSEEN_SEED, 21, shapes]), list[Image.Image]()
    while len(pictures) < count:
        width = int(rng.integers(150, 400))
        scene = random_scene(rng, width, int(width * rng.uniform(1 / wide, wide)))
        if len(scene.shapes) == shapes:
            pictures.append(Image.fromarray(draw(scene, rng)))
    return pictures


def captions(pictures: list[Image.Image]) -> list[str]:
    scorer = Captioner()
    batches = [scorer.score_batch(pictures[at : at + 16])["text"] for at in range(0, len(pictures), 16)]
    return [text for batch in batches for text in batch]


def true_share(pictures: list[Image.Image], described: list[Image.Image]) -> float:
    """The share of the captions of `described` that are true of the pictures."""
    texts = captions(described)
    return float(np.mean([caption_is_true(picture, text).true for picture, text in zip(pictures, texts, strict=True)]))


@pytest.mark.parametrize(("shapes", "least"), [(1, 0.95), (2, 0.8)])
def test_the_built_in_one_writes_what_is_true_of_pictures_it_never_saw(shapes: int, least: float) -> None:
    pictures = draw_pictures(120, shapes)
    assert true_share(pictures, pictures) >= least


@pytest.mark.parametrize("side", [64, 32])
def test_it_reads_pictures_of_the_sizes_that_models_make(side: int) -> None:
    pictures = draw_pictures(100, 1, wide=1.0)
    small = [picture.resize((side, side), Image.Resampling.BICUBIC) for picture in pictures]
    assert true_share(pictures, small) >= 0.8


def test_it_is_small() -> None:
    assert sum(path.stat().st_size for path in BUILT_IN.iterdir()) < 5_000_000


def test_a_caption_does_not_depend_on_its_company() -> None:
    pictures = draw_pictures(20, 2)
    order = np.random.default_rng(3).permutation(20)
    texts = captions(pictures)
    assert captions([pictures[place] for place in order]) == [texts[place] for place in order]
    assert captions(pictures[:3]) == texts[:3]


def blip(folder: Path) -> Path:
    """A BLIP of a few thousand weights, trained on nothing."""
    words = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **special)
    little = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3, "sep_token_id": 3}
    text = {**little, **ids, "vocab_size": len(WORDS), "encoder_hidden_size": 16, "max_position_embeddings": 32}
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(
        BlipConfig(text_config=text, vision_config={**little, "image_size": 32, "patch_size": 16}, projection_dim=16)
    )
    model.save_pretrained(folder)
    BlipProcessor(BlipImageProcessor(size={"height": 32, "width": 32}), tokenizer).save_pretrained(folder)
    return folder


def test_another_kind_of_model_is_read_from_its_folder_and_begins_with_the_prompt(tmp_path: Path) -> None:
    model = load(str(blip(tmp_path)))
    pictures = draw_pictures(2, 1)
    plain, prompted = (model.describe(pictures, prompt, 6) for prompt in (None, "a photo of"))
    assert [len(texts) for texts in (plain, prompted)] == [2, 2]
    assert set(" ".join([*plain, *prompted]).split()) <= set(WORDS)
    assert Captioner(model=str(tmp_path), batch_size=2).score_batch(pictures)["text"] == [
        text or None for text in model.describe(pictures, None, 64)
    ]


def test_another_file_is_another_table_and_where_it_runs_is_not(tmp_path: Path) -> None:
    copy = Path(shutil.copytree(BUILT_IN, tmp_path / "captioner"))
    assert Captioner().id == Captioner(device="cpu", batch_size=3).id
    assert Captioner().id != Captioner(max_tokens=9).id
    before = Captioner(model=str(copy)).id
    config = copy / "generation_config.json"
    config.write_text(config.read_text() + "\n")
    assert Captioner(model=str(copy)).id != before


def test_what_is_no_captioner_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"there is no folder \./nowhere.* A captioner's folder holds config\.json"):
        weights_folder("./nowhere")
    with pytest.raises(ModelError, match="is not a folder here, and can't be downloaded from the hub"):
        weights_folder("nobody/no-such-captioner")
    with pytest.raises(ModelError, match=r"is not a complete captioner, which has config\.json"):
        weights_folder(str(tmp_path))
    copy = Path(shutil.copytree(BUILT_IN, tmp_path / "pickled"))
    torch.save({"weights": torch.zeros(1)}, copy / "pytorch_model.bin")
    (copy / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"pytorch_model\.bin is a pickle, which can run code: it is not read"):
        load(str(copy))
    damaged = Path(shutil.copytree(BUILT_IN, tmp_path / "damaged"))
    (damaged / "model.safetensors").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="damaged can't be loaded: "):
        load(str(damaged))
