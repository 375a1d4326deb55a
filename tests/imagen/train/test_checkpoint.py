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
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
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


def test_what_was_written_is_read(place: str) -> None:
    kept = Checkpoints(place)
    assert kept.newest() is None
    tensors = {"a": torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last), "b": torch.randn(5, 6).T}
    kept.save(RunState(7, {"unet": tensors, "ema": {}, "optimizer": {}}, {"seconds": 1.5}, finished=True))
    found = kept.newest()
    assert found is not None
    assert (found.step, found.values, found.finished) == (7, {"seconds": 1.5}, True)
    assert all(torch.equal(found.tensors["unet"][name], one) for name, one in tensors.items())
    part = kept.newest(("ema",))
    assert part is not None
    assert list(part.tensors) == ["ema"]


@pytest.mark.parametrize("harm", [cut, changed, storage.remove])
@pytest.mark.parametrize("file", [STATE, "optimizer.safetensors", "unet.safetensors"])
def test_a_damaged_one_is_passed_over_and_the_one_before_is_taken(
    file: str, harm: Callable[[str], None], tmp_path: Path
) -> None:
    kept = Checkpoints(str(tmp_path))
    kept.save(state_of(10))
    kept.save(state_of(20))
    harm(str(tmp_path / "step-000000020" / file))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        found = kept.newest()
    assert found is not None
    assert found.step == 10
    assert len(told) == (harm is not storage.remove or file != STATE)  # without it, it was never finished
    assert all("step-000000020 is damaged" in str(one.message) for one in told)
    kept.save(state_of(15))
    assert kept.steps() == [10, 15]


def test_a_damaged_one_on_a_store_is_passed_over(place: str) -> None:
    kept = Checkpoints(place)
    for step in (10, 20):
        kept.save(state_of(step))
    cut(storage.join(place, "step-000000020", "ema.safetensors"))
    with pytest.warns(UserWarning, match="is damaged and skipped"):
        found = kept.newest()
    assert found is not None
    assert found.step == 10
    kept.save(state_of(20))
    again = kept.newest()
    assert again is not None
    assert again.step == 20


def test_the_last_stay_and_those_of_every_so_many_steps(place: str) -> None:
    kept = Checkpoints(place, keep=2, for_good_every=30)
    for step in range(10, 110, 10):
        kept.save(state_of(step))
    assert kept.steps() == [30, 60, 90, 100]
    for step in kept.steps():
        assert len(storage.files(storage.join(place, f"step-{step:09d}"))) == 4


def test_what_a_killed_process_left_is_no_checkpoint_and_goes(place: str) -> None:
    kept = Checkpoints(place, keep=1)
    kept.save(state_of(10))
    for step in (13, 17):
        storage.write(storage.join(place, f"step-{step:09d}", "unet.safetensors"), b"half")
    found = kept.newest()
    assert found is not None
    assert found.step == 10
    kept.save(state_of(15))
    assert kept.steps() == [15]
    last = kept.newest()
    assert last is not None
    assert last.step == 15
