"""Features against the models they come from: real architectures with random weights, small where possible."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from transformers import BitImageProcessor, Dinov2Model

from data.scorers.scorer import unpack_vectors
from imagen.errors import WeightsNotUsable
from imagen.metrics.extractors import INCEPTION_SIDE, Dinov2, Inception


def pictures(count: int, side: int) -> list[Image.Image]:
    rng = np.random.default_rng(side)
    return [Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)) for _ in range(count)]


@pytest.mark.slow
def test_inceptions_features_are_the_librarys(inception: Path) -> None:
    """On pictures that need no resizing, which it does otherwise."""
    extractor = Inception(weights=str(inception), side=INCEPTION_SIDE, batch_size=2)
    images = pictures(3, INCEPTION_SIDE)
    ours = unpack_vectors(
        [
            *extractor.score_batch([extractor.look(image) for image in images[:2]])["vector"],
            *extractor.score_batch([extractor.look(images[2])])["vector"],
        ]
    )
    theirs = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=str(inception))
    pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
    expected = theirs(pixels)[0].numpy()
    assert ours.shape == (3, 2048)
    np.testing.assert_allclose(ours, expected, rtol=2e-3, atol=1e-4)  # kept in float16


def test_small_pictures_are_enlarged_without_rounding(inception: Path) -> None:
    extractor = Inception(weights=str(inception), side=16)
    picture = pictures(1, 16)[0]
    pixels = extractor.look(picture)
    rounded = picture.resize((INCEPTION_SIDE, INCEPTION_SIDE), Image.Resampling.BICUBIC)
    assert pixels.shape == (3, INCEPTION_SIDE, INCEPTION_SIDE)
    assert (pixels != pixels.round()).float().mean() > 0.5
    apart = np.abs(pixels.permute(1, 2, 0).numpy() - np.asarray(rounded, float))
    assert np.median(apart) < 0.5  # where nothing was cut off between the two directions


def test_dinov2s_features_are_its_class_tokens(dinov2: Path) -> None:
    extractor = Dinov2(model=str(dinov2), side=28, batch_size=4)
    images = pictures(3, 28)
    ours = unpack_vectors(extractor.score_batch([extractor.look(image) for image in images])["vector"])
    model, processor = Dinov2Model.from_pretrained(dinov2).eval(), BitImageProcessor.from_pretrained(dinov2)
    with torch.no_grad():
        expected = model(**processor(images, return_tensors="pt")).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(ours, expected, rtol=2e-3, atol=2e-3)


def test_a_real_picture_is_cut_as_the_model_was_shown_it(dinov2: Path) -> None:
    wide = Image.fromarray(np.tile(np.arange(0, 252, 3, np.uint8)[None, :, None], (28, 1, 3)))
    crop, pad = (Dinov2(model=str(dinov2), side=28, fit=fit) for fit in ("crop", "pad"))
    middle = wide.crop((28, 0, 56, 28))
    assert torch.equal(crop.look(wide), crop.look(middle))
    assert not torch.equal(pad.look(wide), crop.look(wide))
    assert len({crop.id, pad.id, Dinov2(model=str(dinov2), side=14).id}) == 3
    assert crop.id == Dinov2(model=str(dinov2), side=28, fit="crop", batch_size=3).id


def test_missing_weights_are_named_with_where_they_are_published(tmp_path: Path) -> None:
    with pytest.raises(
        WeightsNotUsable, match=r"no file .*nowhere.pth .* published as https://github.com/toshas/.*pth"
    ):
        Inception(weights=str(tmp_path / "nowhere.pth")).id  # noqa: B018
    other = tmp_path / "other.pth"
    torch.save({"fc.weight": torch.zeros(2)}, other)
    with pytest.raises(WeightsNotUsable, match=r"other.pth does not hold the weights of FID's Inception"):
        Inception(weights=str(other), side=16).score_batch([torch.zeros(3, INCEPTION_SIDE, INCEPTION_SIDE)])
    with pytest.raises(WeightsNotUsable, match=r"can't be loaded: .* Give a folder with config.json"):
        Dinov2(model=str(tmp_path)).look(pictures(1, 8)[0])


def test_a_pickle_that_would_run_something_is_not_opened(tmp_path: Path) -> None:
    file, mark = tmp_path / "evil.pth", tmp_path / "ran"

    class Evil:
        def __reduce__(self) -> Any:
            return Path.touch, (mark,)

    file.write_bytes(pickle.dumps(Evil()))
    with pytest.raises(WeightsNotUsable, match=r"evil.pth does not hold"):
        Inception(weights=str(file), side=16).score_batch([torch.zeros(3, INCEPTION_SIDE, INCEPTION_SIDE)])
    assert not mark.exists()
