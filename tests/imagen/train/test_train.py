"""A training to its end: whatever it is killed by, it ends as one that was not."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from data.lake.lake import Lake
from imagen.config.presets import cascade_of_size
from imagen.config.stage import TrainSettings
from imagen.errors import RESUMABLE, ConfigError
from imagen.models.table import models
from imagen.train.measures import read_measures
from imagen.train.train import TrainingCallbacks, train
from tests.conftest import free_port
from tests.imagen.train.killable import QUICK, plan_in_lake, quick_config, run_processes, train_to_end

pytestmark = pytest.mark.slow

SCRIPT = """
import sys
import time

from data.errors import ImagenError
from imagen.train.train import TrainingCallbacks, train
from tests.imagen.train.killable import plan_in_lake, quick_config

def say(line):
    sys.stdout.write(line + "\\n")  # at once: two processes speak
    sys.stdout.flush()


if __name__ == "__main__":
    def on_step(stage, step, done):
        say(f"step {step.step}")
        time.sleep(0.3)

    try:
        train(plan_in_lake(sys.argv[1], quick_config()), callbacks=TrainingCallbacks(on_step=on_step), cpu=True)
    except ImagenError as error:
        say(f"{type(error).__name__} {error}")
        sys.exit(error.code)
"""


def copied(url: str, folder: Path) -> str:
    return str(shutil.copytree(url, folder))


def last_checkpoint(url: str) -> Path:
    return sorted(Path(url, "training").glob("*/stage-1/checkpoints/*/state.json"))[-1].parent


def last_tensors(url: str, group: str) -> dict[str, Tensor]:
    tensors: dict[str, Tensor] = load_file(last_checkpoint(url) / f"{group}.safetensors")
    return tensors


def final_digests(url: str) -> tuple[dict[str, str], str]:
    """The digests of the last checkpoint's weights, averages and optimizer, and the model's."""
    return json.loads((last_checkpoint(url) / "state.json").read_text())["files"], models(Lake.open(url))[0].digest


def kill_point(rng: random.Random, world: int = 1) -> dict[str, int]:
    """Between steps or in the middle of a checkpoint, which is six files written by the first process."""
    if rng.random() < 0.5:
        return {"rank": 0, "writes": rng.randrange(1, 13)}
    return {"rank": rng.randrange(world), "steps": rng.randrange(1, 8)}


def check_measures(url: str, steps: int) -> None:
    folder = last_checkpoint(url).parents[1] / "measures"
    rows = read_measures(str(folder))
    assert [row["step"] for row in rows] == list(range(1, steps + 1))
    assert all(row["loss"] > 0 for row in rows)
    events = EventAccumulator(str(folder)).Reload()
    losses = events.Scalars("loss")
    assert [event.step for event in losses] == list(range(1, steps + 1))
    assert [event.value for event in losses] == pytest.approx([row["loss"] for row in rows])


@pytest.fixture(scope="module")
def undisturbed_url(drawn_url: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Trained to the end, undisturbed."""
    url = copied(drawn_url, tmp_path_factory.mktemp("whole") / "lake")
    assert run_processes(train_to_end, url, quick_config()) == [0]
    check_measures(url, QUICK.steps)
    return url


@pytest.mark.parametrize("seed", [0, 1])
def test_a_training_that_is_killed_ends_as_one_that_is_not(
    seed: int, drawn_url: str, undisturbed_url: str, tmp_path: Path
) -> None:
    url, rng, kills = copied(drawn_url, tmp_path / "lake"), random.Random(seed), 0
    while run_processes(train_to_end, url, quick_config(), kill_point(rng)) == [-signal.SIGKILL]:
        kills += 1
    assert kills > 4
    assert final_digests(url) == final_digests(undisturbed_url)
    check_measures(url, QUICK.steps)
    assert run_processes(train_to_end, url, quick_config()) == [0]  # nothing is left to do
    assert len(models(Lake.open(url))) == 1


def test_two_stages_of_other_precisions_are_killed_within_and_between(drawn_url: str, tmp_path: Path) -> None:
    stages = (QUICK.model_copy(update={"steps": 6}), TrainSettings(steps=5, precision="bf16"))
    config = quick_config(QUICK, cascade_of_size(8, (8, 16), 128)).model_copy(update={"stages": stages})
    ends = []
    for name, kills in (("whole", []), ("killed", [6, 3])):
        url = copied(drawn_url, tmp_path / name)
        for steps in kills:
            assert run_processes(train_to_end, url, config, {"rank": 0, "steps": steps}) == [-signal.SIGKILL]
        assert run_processes(train_to_end, url, config) == [0]
        ends.append(models(Lake.open(url))[0])
    assert ends[0].digest == ends[1].digest
    assert [stage["steps"] for stage in ends[1].stages.values()] == [6, 5]


def test_a_training_that_gets_sigterm_keeps_its_step_and_is_continued(
    drawn_url: str, undisturbed_url: str, tmp_path: Path
) -> None:
    url = copied(drawn_url, tmp_path / "lake")
    kill = {"rank": 0, "steps": 6, "signal": int(signal.SIGTERM)}
    for stopped in (7, 14, 21):
        assert run_processes(train_to_end, url, quick_config(), kill) == [RESUMABLE]
        assert last_checkpoint(url).name == f"step-{stopped:09d}"
        check_measures(url, stopped)
    assert run_processes(train_to_end, url, quick_config()) == [0]
    assert final_digests(url) == final_digests(undisturbed_url)
    check_measures(url, QUICK.steps)


def test_two_processes_whose_launcher_gets_sigterm_keep_their_step(drawn_url: str, tmp_path: Path) -> None:
    url, script = copied(drawn_url, tmp_path / "lake"), tmp_path / "script.py"
    script.write_text(SCRIPT)
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(free_port())]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen([*launch, str(script), url], stdout=subprocess.PIPE, env=env, text=True) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if line == "step 6\n" and lines.count(line) == 1:
                process.send_signal(signal.SIGTERM)
    assert process.returncode != 0
    stopped = int(last_checkpoint(url).name.removeprefix("step-"))
    assert 6 <= stopped < 20
    assert sum(line.startswith(f"TrainingStopped stopped after step {stopped} ") for line in lines) == 2, lines
    check_measures(url, stopped)
    assert run_processes(train_to_end, url, quick_config(), world=2) == [0, 0]
    check_measures(url, QUICK.steps)


def test_a_batch_that_can_not_be_shared_ends_a_training_at_once(drawn_url: str) -> None:
    config = quick_config(QUICK, cascade_of_size(8, (8, 16), 128))
    stages = (QUICK, QUICK.model_copy(update={"accumulate": 3}))
    steps: list[int] = []
    watch = TrainingCallbacks(on_step=lambda stage, result, progress: steps.append(result.step))
    with pytest.raises(ConfigError, match="a batch of 8 can't be divided among 1 processes with accumulate: 3: set"):
        train(plan_in_lake(drawn_url, config.model_copy(update={"stages": stages})), callbacks=watch, cpu=True)
    assert not steps
    with pytest.raises(ConfigError, match="a batch of 8 can't be divided among 3 processes with accumulate: 2: set"):
        QUICK.model_copy(update={"accumulate": 2}).samples_per_process(3)


def test_a_training_by_the_clock_stops_when_all_have_spent_it(drawn_url: str, tmp_path: Path) -> None:
    url = copied(drawn_url, tmp_path / "lake")
    settings = QUICK.model_copy(update={"minutes": 0.02, "warmup": 0})
    assert run_processes(train_to_end, url, quick_config(settings), world=2) == [0, 0]
    state = json.loads((last_checkpoint(url) / "state.json").read_text())
    assert state["over"]
    assert 1.2 <= state["more"]["seconds"] < 4
    assert state["more"]["device_seconds"] == pytest.approx(2 * state["more"]["seconds"])
    assert rates(url) == sorted(rates(url), reverse=True)


def rates(url: str) -> Sequence[float]:
    return [row["learning_rate"] for row in read_measures(str(last_checkpoint(url).parents[1] / "measures"))]
