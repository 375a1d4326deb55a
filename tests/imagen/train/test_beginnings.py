"""What a training begins from: a dataset version and its text, a trained model, or nothing but pictures."""

import shutil
from pathlib import Path

import pytest
import torch

from data.errors import DatasetNotFound, DatasetVersionNotFound
from data.lake.lake import Lake
from data.upkeep.forget import forget
from imagen.config.presets import cascade_of_size
from imagen.config.stage import TrainSettings
from imagen.config.training import LoraSettings, TrainConfig
from imagen.errors import ModelNotFound, ModelNotUsable, OutOfMemory, TextNotUsable
from imagen.models.model import Imagen
from imagen.train.setup import plan_training
from imagen.train.stage_run import Run
from imagen.train.start import start_run
from imagen.train.train import train
from tests.lakes.drawn import make_drawn_lake

QUICK = TrainSettings(steps=3, batch=4, warmup=0, learning_rate=1e-2, ema=0.0, grid_every=3)
FIRST = TrainConfig(name="first", preset="tiny", size=8, resolutions=(8,), train=QUICK)
GRID = "training/first-*/stage-1/grids/*.png"


@pytest.fixture(scope="module")
def first_model_lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """With `drawn@1` and the model `first/1` that was trained on it."""
    lake = make_drawn_lake(tmp_path_factory.mktemp("begin"), 12, side=8)
    train(plan_training(lake, FIRST, "drawn"), cpu=True)
    return lake


def test_forgetting_a_pair_names_the_models_that_were_trained_on_it(first_model_lake: Lake, tmp_path: Path) -> None:
    own = Lake(str(shutil.copytree(first_model_lake.url, tmp_path / "lake")), first_model_lake.config)
    assert list(tmp_path.glob(f"lake/{GRID}"))
    forgotten = forget(own, "url", "http://drawn.test/3.png")
    assert forgotten.seen_by == ["drawn@1"]
    assert "first/1" in forgotten.models
    assert not list(tmp_path.glob(f"lake/{GRID}")), "a grid shows samples"


def weights(lake: Lake, config: TrainConfig) -> dict[str, torch.Tensor]:
    """Of the model that a configuration comes to."""
    ended = train(plan_training(lake, config, "drawn"), cpu=True)
    assert ended.trained is not None
    return dict(Imagen.from_pretrained(ended.trained.reference, lake.url).unet.state_dict())


def after(name: str, **more: object) -> TrainConfig:
    values = {**FIRST.model_dump(exclude_unset=True), "name": name, "init_from": "first/1", **more}
    return TrainConfig.model_validate(values)


def changed(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> set[str]:
    assert first.keys() == second.keys()
    return {name for name, value in first.items() if not torch.equal(value, second[name])}


def test_a_training_begins_from_a_trained_model(first_model_lake: Lake) -> None:
    begins = start_run(plan_training(first_model_lake, after("more"), "drawn"), 0, cpu=True)
    theirs = Imagen.from_pretrained("first/1", first_model_lake.url).unet.state_dict()
    assert not changed(dict(begins.unet.state_dict()), dict(theirs))
    assert changed(weights(first_model_lake, after("more")), dict(theirs))


def test_frozen_parts_stay_as_they_were(first_model_lake: Lake) -> None:
    theirs = dict(Imagen.from_pretrained("first/1", first_model_lake.url).unet.state_dict())
    moved = changed(weights(first_model_lake, after("thawed", freeze=["down.*", "first.*"])), theirs)
    assert moved
    assert not {name for name in moved if name.startswith(("down.", "first."))}


def test_low_rank_changes_are_of_attention_alone_and_merged(first_model_lake: Lake) -> None:
    theirs = dict(Imagen.from_pretrained("first/1", first_model_lake.url).unet.state_dict())
    merged = weights(first_model_lake, after("low", lora=LoraSettings(rank=2).model_dump()))
    moved = changed(merged, theirs)
    assert moved
    assert all(".attention." in name and name.endswith(".weight") for name in moved)
    for name in moved:
        assert torch.linalg.matrix_rank(merged[name] - theirs[name], atol=1e-6) <= 2


def test_a_model_learns_from_pictures_alone(first_model_lake: Lake) -> None:
    config = TrainConfig(name="mute", preset="tiny", size=8, resolutions=(8, 16), text=None, train=QUICK)
    ended = train(plan_training(first_model_lake, config, "drawn"), cpu=True)
    assert ended.trained is not None
    assert ended.trained.text is None
    model = Imagen.from_pretrained(ended.trained.reference, first_model_lake.url)
    assert [picture.size for picture in model.generate_images(n=2, steps=2)] == [(16, 16)] * 2
    assert not [name for name in model.unet.state_dict() if "text" in name]


def test_what_a_training_can_not_begin_from_is_one_sentence(first_model_lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(DatasetNotFound, match=r"has no dataset nothing\. Build it"):
        plan_training(first_model_lake, FIRST, "nothing")
    with pytest.raises(DatasetVersionNotFound, match=r"drawn@7 does not exist .* newest is drawn@1"):
        plan_training(first_model_lake, FIRST, "drawn", 7)
    with pytest.raises(TextNotUsable, match=r"drawn@1 has no embeddings 'clip', it has t5: build it with embed\.clip"):
        plan_training(first_model_lake, FIRST.model_copy(update={"text": "clip"}), "drawn")
    wide = TrainConfig(name="wide", cascade=cascade_of_size(8, (8,), text_width=768), train=QUICK)
    with pytest.raises(TextNotUsable, match="are 128 wide, and the cascade reads 768"):
        plan_training(first_model_lake, wide, "drawn")
    with pytest.raises(ModelNotFound, match=r"has no model first/9; there are: .*first/1"):
        start_run(plan_training(first_model_lake, after("nine", init_from="first/9"), "drawn"), 0, cpu=True)
    with pytest.raises(
        ModelNotUsable, match=r"first/1: null has shape \(1, 1, 32\), and the configuration expects \(1, 1, 64\)"
    ):
        start_run(plan_training(first_model_lake, after("large", size=16), "drawn"), 0, cpu=True)
    with pytest.raises(TextNotUsable, match=r"first/1 was trained on embeddings/t5-.*, and drawn@1 has None"):
        start_run(plan_training(first_model_lake, after("mute", text=None), "drawn"), 0, cpu=True)


def test_too_little_memory_is_one_sentence_that_says_what_needs_less(
    first_model_lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(run: Run) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(Run, "advance", full)
    config = FIRST.model_copy(update={"name": "full"})
    with pytest.raises(OutOfMemory, match="out of memory in stage 1 with 4 samples at once: raise accumulate"):
        train(plan_training(first_model_lake, config, "drawn"), cpu=True)
