"""Training: what a killed run and two processes must not change."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from data.lake.lake import Lake
from data.reader.reader import Reader
from imagen.cascade.diffusion import Diffusion
from imagen.cascade.unet import UNet
from imagen.config.cascade import CascadeSettings, StageSettings, UNetSettings
from imagen.config.presets import cascade_of_size
from imagen.config.stage import TrainSettings
from imagen.train.batches import BatchStream, SquareSamples
from imagen.train.checkpoint import Checkpoints
from imagen.train.loss import StageLoss
from imagen.train.stage_run import Run
from tests.lakes.drawn import make_drawn_lake

torch.set_num_threads(1)
LITTLE = cascade_of_size(16, (8, 16), text_width=128)
LEAST = cascade_of_size(8, (8,), text_width=128)
ONE_BLOCK = UNetSettings(channels=(8,), blocks=(1,), attend=(False,), read=(False,))
PLAIN = CascadeSettings(stages=(StageSettings(resolution=8, unet=ONE_BLOCK),), text_width=128)
QUICK = TrainSettings(steps=40, batch=8, warmup=4, learning_rate=2e-3, ema=0.9)


@pytest.fixture(scope="session")
def drawn_samples(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make_drawn_lake(tmp_path_factory.mktemp("drawn"), 44)


def run_of(lake: Lake, stage: int, settings: TrainSettings = QUICK, cascade: CascadeSettings = LITTLE) -> Run:
    torch.manual_seed(settings.seed)
    own = cascade.stages[stage]
    loss = StageLoss(
        Diffusion(own.diffusion, own.resolution), cascade.stages[stage - 1].resolution if stage else None, own.crop
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    squares = SquareSamples(
        Reader(lake, "drawn", columns=("image", "t5"), seed=settings.seed, mix=16), own.resolution, "pad"
    )
    accelerator = Accelerator(cpu=True, mixed_precision=settings.precision)
    batches = BatchStream(squares, settings.batch // settings.accumulate, "t5")
    return Run(UNet(**cascade.unet_arguments(stage)), loss, batches, settings, accelerator)


@pytest.mark.parametrize("stage", [0, 1])
def test_a_run_that_is_resumed_ends_as_one_that_was_not_disturbed(
    drawn_samples: Lake, stage: int, tmp_path: Path
) -> None:
    whole = run_of(drawn_samples, stage)
    losses = [whole.advance().loss for _ in range(14)]
    kept = Checkpoints(str(tmp_path))
    for stops in ((5,), (1, 6, 11), (12, 13)):
        resumed = run_of(drawn_samples, stage)
        for stop in (*stops, 14):
            told = [resumed.advance() for _ in range(stop - resumed.step)]
            assert [one.loss for one in told] == losses[told[0].step - 1 : stop]
            kept.save(resumed.state())
            resumed = run_of(drawn_samples, stage)
            state = kept.newest()
            assert state is not None
            resumed.load(state)
        for one, other in zip(whole.unet.parameters(), resumed.unet.parameters(), strict=True):
            assert torch.equal(one, other)
        for one, other in zip(whole.ema.shadow_params, resumed.ema.shadow_params, strict=True):
            assert torch.equal(one, other)
        assert kept.steps()[-1] == 14
        shutil.rmtree(tmp_path / f"step-{14:09d}")


def test_a_part_taken_at_a_time_gives_the_gradient_of_the_whole(drawn_samples: Lake) -> None:
    grown: list[dict[str, Any]] = []
    for parts in (1, 2):
        run = run_of(drawn_samples, 0, QUICK.model_copy(update={"accumulate": parts, "clip": 1e9}))
        run.advance()
        grown.append({name: one.clone() for name, one in run.unet.named_parameters()})
    for name, one in grown[0].items():
        torch.testing.assert_close(one, grown[1][name], atol=2e-5, rtol=1e-4)


def laid_out(one: torch.Tensor) -> list[int]:
    """How far apart neighbours lie; along a side of one there are none."""
    return [stride for stride, size in zip(one.stride(), one.shape, strict=True) if size > 1]


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bf16"},
        {"accumulate": 2},
        {"gradient_checkpointing": True},
        {"optimizer": "adafactor"},
        {"optimizer": "muon"},
        {"channels_last": False},
        pytest.param({"compile": True}, marks=pytest.mark.nightly),  # a minute of C++
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_a_run_of_any_kind_is_resumed(changes: dict[str, Any], drawn_samples: Lake, tmp_path: Path) -> None:
    if "compile" in changes and shutil.which("g++") is None:
        pytest.skip("no compiler")
    settings, kept = QUICK.model_copy(update=changes), Checkpoints(str(tmp_path))
    whole = run_of(drawn_samples, 0, settings, PLAIN if settings.compile else LEAST)
    losses = [whole.advance().loss for _ in range(3)]
    kept.save(whole.state())
    losses += [whole.advance().loss for _ in range(3)]
    resumed = run_of(drawn_samples, 0, settings, PLAIN if settings.compile else LEAST)
    state = kept.newest()
    assert state is not None
    resumed.load(state)
    again = [resumed.advance().loss for _ in range(3)]
    assert again == (pytest.approx(losses[3:], rel=1e-4) if settings.compile else losses[3:])
    assert torch.tensor(losses).isfinite().all()
    ends = [run.state().tensors for run in (whole, resumed)]
    for group, tensors in ends[0].items():
        assert len(tensors) == len(ends[1][group]) > 0
        for name, one in tensors.items():
            other = ends[1][group][name]
            assert laid_out(other) == laid_out(one)
            torch.testing.assert_close(other, one, **({} if settings.compile else {"atol": 0, "rtol": 0}))
    if settings.channels_last and settings.optimizer == "adamw":
        wide = [one for of in ends[1].values() for one in of.values() if one.dim() == 4]
        assert all(one.is_contiguous(memory_format=torch.channels_last) for one in wide)
