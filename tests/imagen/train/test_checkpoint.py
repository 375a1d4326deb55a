"""Checkpoints: whole or not there, on a disk and a store."""

import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from data.lake import storage
from imagen.train.checkpoint import STATE, Checkpoints, RunState
from tests.conftest import Bucket


def state_of(step: int, finished: bool = False) -> RunState:
    rng = torch.Generator().manual_seed(step)
    tensors = {"a.weight": torch.randn(3, 4, generator=rng), "b": torch.tensor(float(step))}
    return RunState(step, {"unet": tensors, "ema": dict(tensors), "optimizer": {}}, {"skipped": step}, finished)


@pytest.fixture(params=["disk", "store"])
def checkpoint_folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "disk":
        return str(tmp_path / "checkpoints")
    bucket: Bucket = request.getfixturevalue("bucket")
    return bucket(request.getfixturevalue("s3_server")) + "/checkpoints"


def cut(path: str) -> None:
    content = storage.read(path)
    storage.write(path, content[: len(content) // 2])


def changed(path: str) -> None:
    content = bytearray(storage.read(path))
    content[-1] ^= 1
    storage.write(path, bytes(content))


def test_a_checkpoint_is_read_as_it_was_written(checkpoint_folder: str) -> None:
    checkpoints = Checkpoints(checkpoint_folder)
    assert checkpoints.newest() is None
    tensors = {"a": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), "b": torch.randn(5, 6).T}
    checkpoints.save(RunState(7, {"unet": tensors, "ema": {}, "optimizer": {}}, {"seconds": 1.5}, finished=True))
    state = checkpoints.newest()
    assert state is not None
    assert (state.step, state.values, state.finished) == (7, {"seconds": 1.5}, True)
    assert all(torch.equal(state.tensors["unet"][name], tensor) for name, tensor in tensors.items())
    part = checkpoints.newest(("ema",))
    assert part is not None
    assert list(part.tensors) == ["ema"]


@pytest.mark.parametrize("harm", [cut, changed, storage.remove])
@pytest.mark.parametrize("file", [STATE, "optimizer.safetensors", "unet.safetensors"])
def test_a_damaged_checkpoint_is_skipped_and_the_one_before_is_read(
    file: str, harm: Callable[[str], None], tmp_path: Path
) -> None:
    checkpoints = Checkpoints(str(tmp_path))
    checkpoints.save(state_of(10))
    checkpoints.save(state_of(20))
    harm(str(tmp_path / "step-000000020" / file))
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        state = checkpoints.newest()
    assert state is not None
    assert state.step == 10
    assert len(warned) == (harm is not storage.remove or file != STATE)  # without it, it was never finished
    assert all("step-000000020 is damaged" in str(warning.message) for warning in warned)
    checkpoints.save(state_of(15))
    assert checkpoints.steps() == [10, 15]


def test_a_damaged_checkpoint_on_a_store_is_skipped(checkpoint_folder: str) -> None:
    checkpoints = Checkpoints(checkpoint_folder)
    for step in (10, 20):
        checkpoints.save(state_of(step))
    cut(storage.join(checkpoint_folder, "step-000000020", "ema.safetensors"))
    with pytest.warns(UserWarning, match="is damaged and skipped"):
        state = checkpoints.newest()
    assert state is not None
    assert state.step == 10
    checkpoints.save(state_of(20))
    again = checkpoints.newest()
    assert again is not None
    assert again.step == 20


def test_the_last_checkpoints_stay_and_one_of_each_interval_for_good(checkpoint_folder: str) -> None:
    checkpoints = Checkpoints(checkpoint_folder, keep=2, for_good_every=30)
    for step in range(10, 110, 10):
        checkpoints.save(state_of(step))
    assert checkpoints.steps() == [30, 60, 90, 100]
    for step in checkpoints.steps():
        assert len(storage.files(storage.join(checkpoint_folder, f"step-{step:09d}"))) == 4


def test_what_a_killed_process_left_is_no_checkpoint_and_goes(checkpoint_folder: str) -> None:
    checkpoints = Checkpoints(checkpoint_folder, keep=1)
    checkpoints.save(state_of(10))
    for step in (13, 17):
        storage.write(storage.join(checkpoint_folder, f"step-{step:09d}", "unet.safetensors"), b"half")
    state = checkpoints.newest()
    assert state is not None
    assert state.step == 10
    checkpoints.save(state_of(15))
    assert checkpoints.steps() == [15]
    last = checkpoints.newest()
    assert last is not None
    assert last.step == 15
