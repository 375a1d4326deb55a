"""The tiny models: small, loaded by the libraries' own doors without a network, and good on worlds they never saw."""

from pathlib import Path

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, T5EncoderModel

from data.scorers.clip import BUILT_IN, ClipScore
from data.world.draw import draw
from data.world.grammar import caption_of, claim_of
from data.world.scene import is_true, random_scene
from tests.conftest import UNSEEN_SEED

MODELS = BUILT_IN.parent
CLIP = ClipScore(model="built-in")


def scores_of(pictures: list[Image.Image], captions: list[str]) -> list[float]:
    tower = CLIP.vectors()
    inputs = [tower.look(picture) for picture in pictures]
    batches = [inputs[at : at + tower.max_batch] for at in range(0, len(inputs), tower.max_batch)]
    packed = b"".join(vector for batch in batches for vector in tower.score_batch(batch)["vector"])
    vectors = np.frombuffer(packed, "<f2").reshape(len(pictures), -1).astype(np.float32)
    return list(CLIP.judge([vectors], captions)["score"])


def test_all_models_together_are_under_ten_megabytes() -> None:
    assert sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file()) < 10_000_000


@pytest.mark.slow
def test_the_score_tells_true_captions_from_those_of_other_pictures() -> None:
    scenes, pictures, captions = [], [], []
    for number in range(400):
        rng = np.random.default_rng([UNSEEN_SEED, 8, number])
        scenes.append(random_scene(rng, int(rng.integers(250, 500)), int(rng.integers(250, 500))))
        image = Image.fromarray(draw(scenes[-1], rng))
        image.thumbnail((256, 256))
        pictures.append(image)
        captions.append(caption_of(scenes[-1], rng))
    true = scores_of(pictures, captions)
    other = captions[7:] + captions[:7]
    swapped = scores_of(pictures, other)
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
        pictures.append(Image.fromarray(draw(scene, rng)))
        captions.append(caption_of(scene, rng))
    scores = scores_of(pictures, captions)
    order = list(rng.permutation(70))
    shuffled = scores_of([pictures[i] for i in order], [captions[i] for i in order])
    assert [scores[i] for i in order] == shuffled
    assert scores_of(pictures[:3], captions[:3]) == scores[:3]


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
