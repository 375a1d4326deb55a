"""A version whose event is lost: the hourly `reconcile` trains on it, and a cancelled training is continued."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from data.lake.lake import Lake
from data.world.make import HOST
from data.world.server import OriginProcess
from tests.command import module_path
from tests.conftest import RECIPE, write_recipe
from tests.flows.flow_process import checkpoint_steps, write_config
from tests.lakes.letters import write_letters
from tests.servers.platform import Platform, Run, running_platform

pytestmark = [
    pytest.mark.slow,
    pytest.mark.nightly,
]  # runs of `reconcile` and trainings that are stopped are in tests/flows/runs
MUTE = "import flows.server.events\nflows.server.events.emit_event = lambda *_, **__: None"


@dataclass(frozen=True)
class Muted:
    """A platform with its folder, whose build published a version without an event."""

    platform: Platform
    folder: Path
    build: Run


@pytest.fixture(scope="module")
def muted(tmp_path_factory: pytest.TempPathFactory, world: Path, origin: OriginProcess) -> Iterator[Muted]:
    folder = tmp_path_factory.mktemp("muted")
    lake = Lake.make(str(folder / "lake"), hosts={HOST: origin.address})
    write_letters(folder, "mute", setup=MUTE)
    text = RECIPE.replace("scores:\n", "scores:\n  mute: {{scorer: mute.Letters}}\n")
    recipe = write_recipe(folder, world / "pairs.parquet", text=text)
    words = [str(recipe), "--lake", lake.url, "--config", str(folder / write_config(folder, "shapes", 100_000))]
    with running_platform(words, {"PYTHONPATH": module_path(folder)}) as platform:
        yield Muted(platform, folder, platform.wait_for_run(platform.start_run("nightly-shapes")))


@pytest.fixture(scope="module")
def cancelled_trainings(muted: Muted) -> list[tuple[Run, int]]:
    """Two runs of `reconcile` that were cancelled during a training, and the step of the last checkpoint after each."""
    platform, ended = muted.platform, []
    id = platform.names("deployments")["reconcile-shapes"]["id"]
    platform.api(f"deployments/{id}/pause_deployment")  # its schedule alone, or the hour might come meanwhile
    for _ in range(2):
        before = checkpoint_steps(muted.folder)[-1:]
        run = platform.start_run("reconcile-shapes")
        platform.wait_for("another checkpoint", lambda before=before: checkpoint_steps(muted.folder)[-1:] > before)
        platform.cancel(run)
        ended.append((platform.wait_for_run(run), checkpoint_steps(muted.folder)[-1]))
    return ended


def test_a_version_is_published_without_an_event(muted: Muted) -> None:
    assert muted.build["state_type"] == "COMPLETED"
    assert muted.platform.events(1, seconds=2) == []


def test_a_cancelled_training_is_continued_from_its_checkpoint(
    cancelled_trainings: list[tuple[Run, int]], muted: Muted
) -> None:
    assert [run["state_type"] for run, _ in cancelled_trainings] == ["CANCELLED", "CANCELLED"]
    first, second = (step for _, step in cancelled_trainings)
    assert 0 < first < second
    assert len(list(muted.folder.glob("lake/training/*"))) == 1


def test_one_retraining_is_started_by_reconcile_and_continued(
    cancelled_trainings: list[tuple[Run, int]], muted: Muted
) -> None:
    runs = muted.platform.runs("retrain")
    assert [run["parent_task_run_id"] is None for run in runs] == [False]
