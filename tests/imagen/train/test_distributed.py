"""Training in two processes: what one would have done, whoever is killed, and wherever it goes on."""

import json
import random
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from imagen.config.presets import cascade_of_size
from imagen.train.stage_run import MAX_NONFINITE_STEPS
from tests.imagen.train.killable import (
    QUICK,
    quick_config,
    run_processes,
    train_to_end,
    train_until,
    train_with_nan,
    write_gradients,
)
from tests.imagen.train.test_train import copied, final_digests, kill_point, last_tensors
from tests.lakes.drawn import make_drawn_lake


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_drawn_lake(tmp_path_factory.mktemp("drawn"), 48, side=8).url


def test_two_processes_with_half_a_batch_each_have_the_gradients_of_one(drawn: str, tmp_path: Path) -> None:
    cascade = cascade_of_size(8, (8, 16), text_width=128)
    for world in (1, 2):
        assert run_processes(write_gradients, drawn, cascade, str(tmp_path), world=world) == [0] * world
    for stage in (0, 1):
        one = load_file(tmp_path / f"{stage}-1-1.safetensors")
        assert max(float(value.abs().max()) for value in one.values()) > 0.01
        for other in ("2-1", "1-2", "2-2"):
            two = load_file(tmp_path / f"{stage}-{other}.safetensors")
            for name, value in one.items():
                torch.testing.assert_close(two[name], value, atol=1e-5, rtol=1e-3, msg=f"{stage}-{other} {name}")


@pytest.mark.parametrize(
    "world", [pytest.param(2, marks=pytest.mark.nightly), 3]
)  # from three on sums depend on their order
def test_processes_that_are_killed_end_as_those_that_are_not(world: int, drawn: str, tmp_path: Path) -> None:
    whole, killed = copied(drawn, tmp_path / "whole"), copied(drawn, tmp_path / "killed")
    config = quick_config(QUICK.model_copy(update={"batch": 12, "steps": 12}))
    assert run_processes(train_to_end, whole, config, world=world) == [0] * world
    rng, kills = random.Random(5), 0
    while 0 not in run_processes(train_to_end, killed, config, kill_point(rng, world), world=world):
        kills += 1
    assert kills > 2
    assert final_digests(killed) == final_digests(whole)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_goes_on_in_another_number_of_processes(before: int, after: int, drawn: str, tmp_path: Path) -> None:
    config = quick_config(QUICK.model_copy(update={"steps": 200, "decay": "none"}))
    moved = copied(drawn, tmp_path / "moved")
    assert run_processes(train_until, moved, config, 40, str(tmp_path / "first"), world=before) == [0] * before
    assert run_processes(train_until, moved, config, 52, str(tmp_path / "then"), world=after) == [0] * after
    assert (
        run_processes(
            train_until, copied(drawn, tmp_path / "stayed"), config, 52, str(tmp_path / "whole"), world=before
        )
        == [0] * before
    )

    def lines(name: str, world: int) -> list[list[dict[str, Any]]]:
        return [json.loads((tmp_path / f"{name}-{rank}.json").read_text()) for rank in range(world)]

    went, stayed = lines("then", after), lines("whole", before)
    assert stayed[0][:40] == lines("first", before)[0]
    # The samples of a batch are others, their noise is the same.
    losses = [[line["loss"] for line in one[0][-12:]] for one in (went, stayed)]
    assert losses[0] == pytest.approx(losses[1], rel=0.2)
    assert fmean(losses[0]) == pytest.approx(fmean(losses[1]), rel=0.04)
    assert fmean(line["loss"] for line in stayed[0][:8]) > 1.3 * fmean(losses[1])  # as it was when nothing was learnt
    seen: dict[int, list[str]] = {}
    for one in (*lines("first", before), *went):
        for line in one:
            seen.setdefault(line["epoch"], []).extend(line["seen"])
    assert sorted(seen) == list(range(9))
    for epoch in range(8):
        assert len(seen[epoch]) == len(set(seen[epoch])) == 48


def test_what_is_no_number_on_one_process_is_skipped_by_both(drawn: str, tmp_path: Path) -> None:
    for world in (1, 2):
        folder = tmp_path / str(world)
        folder.mkdir()
        assert run_processes(train_with_nan, drawn, str(folder), world=world) == [0] * world
        lines = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]
        assert lines[0] == lines[-1]
        weights = [line[3] for line in lines[0]]
        assert weights[2] == weights[1] != weights[3] != weights[4]
        assert set(weights[5:]) == {weights[4]}
        assert lines[0][3][:3] == ["", 4, 1]
        assert lines[0][-1][:3] == ["TrainingDiverged", 5 + MAX_NONFINITE_STEPS, 1 + MAX_NONFINITE_STEPS]


def test_a_model_in_parts_is_trained_as_a_whole_one_and_its_checkpoints_are_whole(drawn: str, tmp_path: Path) -> None:
    settings = QUICK.model_copy(update={"steps": 8, "grid_every": 6, "optimizer": "adamw"})
    parts = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
    parts["FSDP_TRANSFORMER_CLS_TO_WRAP"] = "ResBlock,Attention"
    whole, parted, killed = (copied(drawn, tmp_path / name) for name in ("whole", "parted", "killed"))
    assert run_processes(train_to_end, whole, quick_config(settings), world=2) == [0, 0]
    assert run_processes(train_to_end, parted, quick_config(settings), world=2, env=parts) == [0, 0]
    assert 0 not in run_processes(
        train_to_end, killed, quick_config(settings), {"rank": 1, "steps": 7}, world=2, env=parts
    )
    alone = copied(killed, tmp_path / "alone")
    assert run_processes(train_to_end, killed, quick_config(settings), world=2, env=parts) == [0, 0]
    assert final_digests(killed) == final_digests(parted)
    for group in ("unet", "ema", "optimizer"):
        one, other = last_tensors(whole, group), last_tensors(parted, group)
        assert list(one) == list(other)
        for name, value in one.items():
            torch.testing.assert_close(other[name], value, atol=2e-3, rtol=1e-2, msg=f"{group} {name}")
    assert run_processes(train_to_end, alone, quick_config(settings)) == [0]
    for name, value in last_tensors(whole, "unet").items():  # other samples in the last steps
        torch.testing.assert_close(last_tensors(alone, "unet")[name], value, atol=2e-2, rtol=0)
    refused = quick_config(settings.model_copy(update={"optimizer": "adafactor"}))
    assert run_processes(train_to_end, copied(drawn, tmp_path / "refused"), refused, world=2, env=parts) == [2, 2]
