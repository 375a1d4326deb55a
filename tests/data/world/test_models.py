"""The tiny models: small, loaded by the libraries' own doors without a network, and good on worlds they never saw."""

import io
from pathlib import Path

import numpy as np
import open_clip
import torch
from PIL import Image
from transformers import AutoTokenizer, T5EncoderModel

from data.clip import BUILT_IN, Clip, ClipSettings
from data.world.draw import draw
from data.world.grammar import caption_of, claim_of
from data.world.scene import is_true, random_scene
from tests.conftest import UNSEEN_SEED

MODELS = BUILT_IN.parent


def test_all_models_together_are_under_ten_megabytes() -> None:
    assert sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file()) < 10_000_000


def test_the_score_tells_true_captions_from_those_of_other_pictures() -> None:
    scenes, pictures, captions = [], [], []
    for number in range(400):
        rng = np.random.default_rng([UNSEEN_SEED, 8, number])
        scenes.append(random_scene(rng, int(rng.integers(250, 500)), int(rng.integers(250, 500))))
        image = Image.fromarray(draw(scenes[-1], rng))
        image.thumbnail((256, 256))
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=90)
        pictures.append(buffer.getvalue())
        captions.append(caption_of(scenes[-1], rng))
    clip = Clip(ClipSettings(model="built-in"))
    true = clip.score(iter(pictures), captions)["score"]
    other = captions[7:] + captions[:7]
    swapped = clip.score(iter(pictures), other)["score"]
    false = [
        score
        for score, caption, scene in zip(swapped, other, scenes, strict=True)
        if not is_true(claim_of(caption), scene.shapes)  # type: ignore[arg-type]
    ]
    auc = np.mean([[(t > f) + 0.5 * (t == f) for f in false] for t in true])
    assert auc >= 0.98


def test_a_score_does_not_depend_on_its_company() -> None:
    rng = np.random.default_rng(5)
    pictures, captions = [], []
    for _ in range(70):  # more than one batch, the last not full
        scene = random_scene(rng, 200, 200)
        buffer = io.BytesIO()
        Image.fromarray(draw(scene, rng)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
        captions.append(caption_of(scene, rng))
    clip = Clip(ClipSettings(model="built-in"))
    whole = clip.score(iter(pictures), captions)["score"]
    order = list(rng.permutation(70))
    shuffled = clip.score((pictures[i] for i in order), [captions[i] for i in order])["score"]
    assert [whole[i] for i in order] == shuffled
    assert clip.score(iter(pictures[:3]), captions[:3])["score"] == whole[:3]


def test_a_picture_that_cannot_be_decoded_is_a_null_with_the_reason() -> None:
    said = Clip(ClipSettings(model="built-in")).score(iter([b"no picture"]), ["a red circle"])
    assert said["score"] == [None]
    assert "UnidentifiedImageError" in said["error"][0]


def test_open_clip_and_transformers_load_them_from_their_folders() -> None:
    name = f"local-dir:{MODELS / 'clip'}"
    model, _, transform = open_clip.create_model_and_transforms(name)
    tokens = open_clip.get_tokenizer(name)(["a red circle"])
    picture = transform(Image.new("RGB", (300, 200), "white"))[None]
    assert model.eval().encode_image(picture).shape == model.encode_text(tokens).shape
    encoder = T5EncoderModel.from_pretrained(MODELS / "t5").eval()
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "t5")
    padded = tokenizer(["a red circle", "a large blue square left of a ring"], padding=True, return_tensors="pt")
    hidden = encoder(**padded).last_hidden_state
    assert hidden.shape[:2] == padded.input_ids.shape
    assert torch.isfinite(hidden).all()


def test_no_shipped_file_holds_a_path_of_the_machine_that_made_it() -> None:
    for path in MODELS.rglob("*.json"):
        assert str(Path.home()) not in path.read_text()
        assert '"/' not in path.read_text()
