"""Training in several processes does what one process does, also after a kill and in another number of them."""

import json
import random
from dataclasses import dataclass
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

pytestmark = pytest.mark.slow


def test_two_processes_with_half_a_batch_each_have_the_gradients_of_one(drawn_url: str, tmp_path: Path) -> None:
    cascade = cascade_of_size(8, (8, 16), text_width=128)
    for world in (1, 2):
        assert run_processes(write_gradients, drawn_url, cascade, str(tmp_path), world=world) == [0] * world
    for stage in (0, 1):
        expected = load_file(tmp_path / f"{stage}-1-1.safetensors")
        assert max(float(value.abs().max()) for value in expected.values()) > 0.01
        for split in ("2-1", "1-2", "2-2"):
            gradients = load_file(tmp_path / f"{stage}-{split}.safetensors")
            for name, value in expected.items():
                torch.testing.assert_close(gradients[name], value, atol=1e-5, rtol=1e-3, msg=f"{stage}-{split} {name}")


@pytest.mark.parametrize(
    "world", [pytest.param(2, marks=pytest.mark.nightly), 3]
)  # from three on sums depend on their order
def test_processes_that_are_killed_end_as_those_that_are_not(world: int, drawn_url: str, tmp_path: Path) -> None:
    undisturbed, killed = copied(drawn_url, tmp_path / "whole"), copied(drawn_url, tmp_path / "killed")
    config = quick_config(QUICK.model_copy(update={"batch": 12, "steps": 12}))
    assert run_processes(train_to_end, undisturbed, config, world=world) == [0] * world
    rng, kills = random.Random(5), 0
    while 0 not in run_processes(train_to_end, killed, config, kill_point(rng, world), world=world):
        kills += 1
    assert kills > 2
    assert final_digests(killed) == final_digests(undisturbed)


Lines = list[list[dict[str, Any]]]  # by process: of each step its loss, its epoch and its images


@dataclass(frozen=True)
class Handover:
    """A run that another number of processes continued after 40 steps, and one that stayed where it was."""

    first: Lines
    moved: Lines
    stayed: Lines


@pytest.fixture(scope="module", params=[(2, 1), (1, 2)], ids=["2-1", "1-2"])
def handover(request: pytest.FixtureRequest, drawn_url: str, tmp_path_factory: pytest.TempPathFactory) -> Handover:
    before, after = request.param
    folder = tmp_path_factory.mktemp("handover")
    config = quick_config(QUICK.model_copy(update={"steps": 200, "decay": "none"}))

    def run(url: str, stop: int, name: str, world: int) -> Lines:
        assert run_processes(train_until, url, config, stop, str(folder / name), world=world) == [0] * world
        return [json.loads((folder / f"{name}-{rank}.json").read_text()) for rank in range(world)]

    moved, stayed = copied(drawn_url, folder / "moved"), copied(drawn_url, folder / "stayed")
    return Handover(
        first=run(moved, 40, "first", before),
        moved=run(moved, 52, "then", after),
        stayed=run(stayed, 52, "all", before),
    )


def test_a_run_that_is_handed_over_began_as_one_that_is_not(handover: Handover) -> None:
    assert handover.stayed[0][:40] == handover.first[0]


def test_a_run_learns_on_in_another_number_of_processes(handover: Handover) -> None:
    # The samples of a batch are others, their noise is the same.
    moved, stayed = ([line["loss"] for line in lines[0][-12:]] for lines in (handover.moved, handover.stayed))
    assert moved == pytest.approx(stayed, rel=0.2)
    assert fmean(moved) == pytest.approx(fmean(stayed), rel=0.04)
    beginning = fmean(line["loss"] for line in handover.stayed[0][:8])
    assert beginning > 1.3 * fmean(stayed)  # as it was when nothing was learnt


def test_a_run_that_is_handed_over_reads_each_sample_once_an_epoch(handover: Handover) -> None:
    images: dict[int, list[str]] = {}
    for process in (*handover.first, *handover.moved):
        for line in process:
            images.setdefault(line["epoch"], []).extend(line["images"])
    assert sorted(images) == list(range(9))
    for epoch in range(8):
        assert len(images[epoch]) == len(set(images[epoch])) == 48


def test_a_loss_that_is_no_number_on_one_process_is_skipped_by_both(drawn_url: str, tmp_path: Path) -> None:
    for world in (1, 2):
        folder = tmp_path / str(world)
        folder.mkdir()
        assert run_processes(train_with_nan, drawn_url, str(folder), world=world) == [0] * world
        lines = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(world)]
        assert lines[0] == lines[-1]
        weights = [line[3] for line in lines[0]]
        assert weights[2] == weights[1] != weights[3] != weights[4]
        assert set(weights[5:]) == {weights[4]}
        assert lines[0][3][:3] == ["", 4, 1]
        assert lines[0][-1][:3] == ["TrainingDiverged", 5 + MAX_NONFINITE_STEPS, 1 + MAX_NONFINITE_STEPS]


PARTS = {
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_VERSION": "2",
    "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP",
    "FSDP_TRANSFORMER_CLS_TO_WRAP": "ResBlock,Attention",
}
EIGHT_STEPS = QUICK.model_copy(update={"steps": 8, "grid_every": 6, "optimizer": "adamw"})


@dataclass(frozen=True)
class PartedRuns:
    """Lakes where two processes trained a model to its end."""

    whole: str  # each process had all of it
    parted: str  # each had parts of it
    killed: str  # so here, where one was killed after seven steps and the training was continued
    alone: str  # a copy of that before it was continued


@pytest.fixture(scope="module")
def parted_runs(drawn_url: str, tmp_path_factory: pytest.TempPathFactory) -> PartedRuns:
    folder, config = tmp_path_factory.mktemp("parted"), quick_config(EIGHT_STEPS)
    whole, parted, killed = (copied(drawn_url, folder / name) for name in ("whole", "parted", "killed"))
    assert run_processes(train_to_end, whole, config, world=2) == [0, 0]
    assert run_processes(train_to_end, parted, config, world=2, env=PARTS) == [0, 0]
    assert 0 not in run_processes(train_to_end, killed, config, {"rank": 1, "steps": 7}, world=2, env=PARTS)
    alone = copied(killed, folder / "alone")
    assert run_processes(train_to_end, killed, config, world=2, env=PARTS) == [0, 0]
    return PartedRuns(whole, parted, killed, alone)


def test_a_model_in_parts_whose_training_is_killed_ends_as_one_that_is_not(parted_runs: PartedRuns) -> None:
    assert final_digests(parted_runs.killed) == final_digests(parted_runs.parted)


@pytest.mark.parametrize("group", ["unet", "ema", "optimizer"])
def test_a_model_in_parts_is_trained_as_a_whole_one(group: str, parted_runs: PartedRuns) -> None:
    whole, parted = last_tensors(parted_runs.whole, group), last_tensors(parted_runs.parted, group)
    assert list(whole) == list(parted)
    for name, value in whole.items():
        torch.testing.assert_close(parted[name], value, atol=2e-3, rtol=1e-2, msg=f"{group} {name}")


def test_a_checkpoint_of_a_model_in_parts_is_continued_by_one_process(parted_runs: PartedRuns) -> None:
    assert run_processes(train_to_end, parted_runs.alone, quick_config(EIGHT_STEPS)) == [0]
    for name, value in last_tensors(parted_runs.whole, "unet").items():  # other samples in the last steps
        torch.testing.assert_close(last_tensors(parted_runs.alone, "unet")[name], value, atol=2e-2, rtol=0)


def test_a_model_in_parts_is_not_trained_by_adafactor(drawn_url: str, tmp_path: Path) -> None:
    refused = quick_config(EIGHT_STEPS.model_copy(update={"optimizer": "adafactor"}))
    assert run_processes(train_to_end, copied(drawn_url, tmp_path / "refused"), refused, world=2, env=PARTS) == [2, 2]
