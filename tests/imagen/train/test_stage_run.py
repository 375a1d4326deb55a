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
TWO_STAGES = cascade_of_size(16, (8, 16), text_width=128)
ONE_STAGE = cascade_of_size(8, (8,), text_width=128)
ONE_BLOCK = UNetSettings(channels=(8,), blocks=(1,), attend=(False,), read=(False,))
PLAIN = CascadeSettings(stages=(StageSettings(resolution=8, unet=ONE_BLOCK),), text_width=128)
QUICK = TrainSettings(steps=40, batch=8, warmup=4, learning_rate=2e-3, ema=0.9)


@pytest.fixture(scope="session")
def drawn_samples(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    return make_drawn_lake(tmp_path_factory.mktemp("drawn"), 44)


def start_stage(lake: Lake, stage: int, settings: TrainSettings = QUICK, cascade: CascadeSettings = TWO_STAGES) -> Run:
    torch.manual_seed(settings.seed)
    own = cascade.stages[stage]
    loss = StageLoss(
        Diffusion(own.diffusion, own.resolution), cascade.stages[stage - 1].resolution if stage else None, own.crop
    )
    AcceleratorState._reset_state(reset_partial_state=True)
    samples = SquareSamples(
        Reader(lake, "drawn", columns=("image", "t5"), seed=settings.seed, mix=16), own.resolution, "pad"
    )
    accelerator = Accelerator(cpu=True, mixed_precision=settings.precision)
    batches = BatchStream(samples, settings.batch // settings.accumulate, "t5")
    return Run(UNet(**cascade.unet_arguments(stage)), loss, batches, settings, accelerator)


@pytest.mark.slow
@pytest.mark.parametrize("stage", [0, 1])
def test_a_run_that_is_resumed_ends_as_one_that_was_not_disturbed(
    drawn_samples: Lake, stage: int, tmp_path: Path
) -> None:
    uninterrupted = start_stage(drawn_samples, stage)
    losses = [uninterrupted.advance().loss for _ in range(14)]
    checkpoints = Checkpoints(str(tmp_path))
    for stops in ((5,), (1, 6, 11), (12, 13)):
        resumed = start_stage(drawn_samples, stage)
        for stop in (*stops, 14):
            steps = [resumed.advance() for _ in range(stop - resumed.step)]
            assert [expected.loss for expected in steps] == losses[steps[0].step - 1 : stop]
            checkpoints.save(resumed.state())
            resumed = start_stage(drawn_samples, stage)
            state = checkpoints.newest()
            assert state is not None
            resumed.load(state)
        for expected, actual in zip(uninterrupted.unet.parameters(), resumed.unet.parameters(), strict=True):
            assert torch.equal(expected, actual)
        for expected, actual in zip(uninterrupted.ema.shadow_params, resumed.ema.shadow_params, strict=True):
            assert torch.equal(expected, actual)
        assert checkpoints.steps()[-1] == 14
        shutil.rmtree(tmp_path / f"step-{14:09d}")


def test_a_part_taken_at_a_time_gives_the_gradient_of_the_whole(drawn_samples: Lake) -> None:
    parameters_by_parts: list[dict[str, Any]] = []
    for parts in (1, 2):
        run = start_stage(drawn_samples, 0, QUICK.model_copy(update={"accumulate": parts, "clip": 1e9}))
        run.advance()
        parameters_by_parts.append({name: parameter.clone() for name, parameter in run.unet.named_parameters()})
    for name, parameter in parameters_by_parts[0].items():
        torch.testing.assert_close(parameter, parameters_by_parts[1][name], atol=2e-5, rtol=1e-4)


def strides(tensor: torch.Tensor) -> list[int]:
    """The strides of a tensor's memory layout, without those of dimensions of size one, which mean nothing."""
    return [stride for stride, size in zip(tensor.stride(), tensor.shape, strict=True) if size > 1]


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
    settings, checkpoints = QUICK.model_copy(update=changes), Checkpoints(str(tmp_path))
    uninterrupted = start_stage(drawn_samples, 0, settings, PLAIN if settings.compile else ONE_STAGE)
    losses = [uninterrupted.advance().loss for _ in range(3)]
    checkpoints.save(uninterrupted.state())
    losses += [uninterrupted.advance().loss for _ in range(3)]
    resumed = start_stage(drawn_samples, 0, settings, PLAIN if settings.compile else ONE_STAGE)
    state = checkpoints.newest()
    assert state is not None
    resumed.load(state)
    resumed_losses = [resumed.advance().loss for _ in range(3)]
    assert resumed_losses == (pytest.approx(losses[3:], rel=1e-4) if settings.compile else losses[3:])
    assert torch.tensor(losses).isfinite().all()
    ends = [run.state().tensors for run in (uninterrupted, resumed)]
    for group, tensors in ends[0].items():
        assert len(tensors) == len(ends[1][group]) > 0
        for name, tensor in tensors.items():
            resumed_tensor = ends[1][group][name]
            assert strides(resumed_tensor) == strides(tensor)
            torch.testing.assert_close(resumed_tensor, tensor, **({} if settings.compile else {"atol": 0, "rtol": 0}))
    if settings.channels_last and settings.optimizer == "adamw":
        for group_tensors in ends[1].values():
            convolutions = [tensor for tensor in group_tensors.values() if tensor.dim() == 4]
            assert all(tensor.is_contiguous(memory_format=torch.channels_last) for tensor in convolutions)
