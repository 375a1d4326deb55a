"""Texts mixed in training: one of each sample's is drawn, the same in any number of processes and after any kill."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data.lake.lake import Lake
from imagen.config.presets import cascade_of_size
from imagen.config.training import TrainConfig
from imagen.errors import TextNotUsable
from imagen.train.batches import Batch, collate
from imagen.train.checkpoint import Checkpoints
from imagen.train.loss import draw
from imagen.train.setup import plan_training
from imagen.train.stage_run import Run
from imagen.train.start import start_run
from tests.imagen.train.killable import quick_config, run_processes, write_gradients
from tests.lakes.drawn import make_drawn_lake

HALF = {"t5_new": 0.5}


@pytest.fixture(scope="module")
def retold_lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make_drawn_lake(tmp_path_factory.mktemp("recaptioned"), 40, side=8, recaptioned=True)


def start_mixed(lake: Lake, mix: dict[str, float]) -> Run:
    return start_run(plan_training(lake, quick_config().model_copy(update={"mix": mix}), "drawn"), 0, cpu=True)


def losses(run: Run, steps: int) -> list[float]:
    return [run.advance().loss for _ in range(steps)]


def test_what_is_drawn_for_a_sample_follows_from_its_place_and_takes_nothing_from_what_was_drawn_before() -> None:
    whole_batch = draw(7, 3, range(64), 64, (3, 4, 4), 0.1)
    second_half = draw(7, 3, range(32, 64), 64, (3, 4, 4), 0.1)
    assert torch.equal(whole_batch.text[32:], second_half.text)
    assert torch.equal(whole_batch.noise[32:], second_half.noise)
    many = torch.cat([draw(7, step, range(100), 100, (3, 1, 1), 0.1).text for step in range(20)])
    assert float((many < 0.3).float().mean()) == pytest.approx(0.3, abs=0.04)
    assert abs(float(torch.corrcoef(torch.stack([many, torch.cat([whole_batch.times] * 32)[:2000]]))[0, 1])) < 0.1


def test_a_sample_is_read_by_the_text_in_whose_share_its_number_falls() -> None:
    draws = torch.tensor([0.0, 0.29, 0.3, 0.49, 0.5, 0.99, 0.1])
    texts = torch.arange(3.0)[:, None, None, None].expand(3, len(draws), 2, 1)
    masks = torch.ones(3, len(draws), 2, dtype=torch.bool)
    masks[0, 6] = False  # it has no such text
    batch = Batch(torch.zeros(len(draws), 3, 1, 1), texts[2], masks[2], texts[:2], masks[:2])
    chosen = batch.choose_texts(draws, (0.3, 0.2))
    assert chosen.text is not None
    assert chosen.text[:, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 2]
    assert chosen.alternatives is None


@pytest.fixture
def samples() -> list[dict[str, Any]]:
    """Three samples by the lengths of their text and of a new one, which the second has not."""
    pixels, lengths = torch.zeros(3, 2, 2, dtype=torch.uint8), [(3, 2), (1, None), (2, 4)]
    return [
        {"pixels": pixels, "t5": torch.ones(t5, 5), "new": None if new is None else torch.ones(new, 5)}
        for t5, new in lengths
    ]


def test_texts_are_as_long_as_the_longest_of_the_batch(samples: list[dict[str, Any]]) -> None:
    alone, both = collate(samples, "t5"), collate(samples, "t5", ["new"])
    assert alone.text is not None
    assert both.text is not None
    assert (alone.text.shape, both.text.shape) == ((3, 3, 5), (3, 4, 5))


def test_masks_have_the_length_of_each_text(samples: list[dict[str, Any]]) -> None:
    both = collate(samples, "t5", ["new"])
    assert both.mask is not None
    assert both.alternative_masks is not None
    assert both.mask.sum(1).tolist() == [3, 1, 2]
    assert both.alternative_masks.sum(2).tolist() == [[2, 0, 4]]


def test_a_share_changes_what_is_learnt_and_is_resumed_exactly(retold_lake: Lake, tmp_path: Path) -> None:
    uninterrupted = start_mixed(retold_lake, HALF)
    expected, checkpoints = losses(uninterrupted, 6), Checkpoints(str(tmp_path))
    none, all_of_them = (losses(start_mixed(retold_lake, mix), 6) for mix in ({}, {"t5_new": 1.0}))
    assert len({tuple(expected), tuple(none), tuple(all_of_them)}) == 3
    resumed = start_mixed(retold_lake, HALF)
    assert losses(resumed, 3) == expected[:3]
    checkpoints.save(resumed.state())
    again, state = start_mixed(retold_lake, HALF), checkpoints.newest()
    assert state is not None
    again.load(state)
    assert losses(again, 3) == expected[3:]
    for parameter, resumed_parameter in zip(uninterrupted.unet.parameters(), again.unet.parameters(), strict=True):
        assert torch.equal(parameter, resumed_parameter)


@pytest.mark.slow
def test_two_processes_with_half_a_batch_each_draw_the_texts_of_one(retold_lake: Lake, tmp_path: Path) -> None:
    cascade = cascade_of_size(8, (8,), text_width=128)
    plain = tmp_path / "plain"
    plain.mkdir()
    assert run_processes(write_gradients, retold_lake.url, cascade, str(plain)) == [0]
    for world in (1, 2):
        assert run_processes(write_gradients, retold_lake.url, cascade, str(tmp_path), HALF, world=world) == [0] * world
    mixed, unmixed = (load_file(folder / "0-1-1.safetensors") for folder in (tmp_path, plain))
    assert any(not torch.equal(mixed[name], unmixed[name]) for name in mixed)
    for name in ("2-1", "1-2", "2-2"):
        gradients = load_file(tmp_path / f"0-{name}.safetensors")
        for tensor, value in mixed.items():
            torch.testing.assert_close(gradients[tensor], value, atol=1e-5, rtol=1e-3, msg=f"{name} {tensor}")


def test_a_configuration_that_does_not_mix_is_what_it_was() -> None:
    assert "mix" not in quick_config().model_dump_json()
    assert quick_config().hash != quick_config().model_copy(update={"mix": HALF}).hash
    assert (
        TrainConfig.model_validate_json(quick_config().model_copy(update={"mix": HALF}).model_dump_json()).mix == HALF
    )


@pytest.mark.parametrize(
    ("mix", "text"), [({"t5": 0.5}, "t5"), ({"a": 0.6, "b": 0.5}, "t5"), ({"a": 0.5}, None)], ids=str
)
def test_shares_that_make_no_sense_are_refused(mix: dict[str, float], text: str | None) -> None:
    with pytest.raises(
        ValueError, match="mix must name other embeddings than text, and its shares must not add up to more than 1"
    ):
        TrainConfig(name="a", preset="tiny", text=text, mix=mix)


def test_missing_texts_and_those_of_another_encoder_are_refused(retold_lake: Lake, tmp_path: Path) -> None:
    config = quick_config().model_copy(update={"mix": {"clip": 0.5}})
    with pytest.raises(TextNotUsable, match="has no embeddings 'clip', it has t5, t5_new"):
        plan_training(retold_lake, config, "drawn")
    other = make_drawn_lake(tmp_path, 4, side=8, recaptioned=True)
    table = other.table("datasets/drawn")
    record = table.last_record()
    record["embeddings"]["t5_new"] = "embeddings/another"
    assert table.replace([], [], record)
    with pytest.raises(
        TextNotUsable, match=r"mix: t5_new of drawn@2 is in embeddings/another, and t5 in embeddings/t5"
    ):
        plan_training(other, quick_config().model_copy(update={"mix": HALF}), "drawn")
