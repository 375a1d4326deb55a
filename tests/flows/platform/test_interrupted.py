"""A platform with a password whose runs are cancelled, killed with their worker, and interrupted by its own end."""

import base64
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from data.lake.lake import Lake
from data.world.make import HOST
from data.world.server import OriginProcess
from flows.server.client import AUTH
from tests.command import module_path, run_imagen
from tests.conftest import QUICK_RECIPE, write_recipe
from tests.lakes.letters import write_letters
from tests.servers.platform import Platform, Run, running_platform

pytestmark = pytest.mark.slow
SECRET = "a-word-that-is-written-nowhere"
LOGIN = f"ann:{SECRET}"
STOP_SECONDS = 10
MARK_SECONDS = 20  # after the start; the automation that marks silent runs takes longer
DEATH_SECONDS = 45  # of silence; the platform's own automation waits longer
SLOW = "per_host_rate: 2"


@dataclass(frozen=True)
class Interrupted:
    """A platform with its lake, and the folder of the recipe `slow`: its downloads and its scorer can be made slow."""

    platform: Platform
    lake: Lake
    folder: Path

    def download_fast(self) -> None:
        recipe = self.folder / "recipe.yaml"
        recipe.write_text(recipe.read_text().replace(SLOW, "per_host_rate: 5000"))


def write_scorer(folder: Path, seconds: float) -> None:
    """One that takes this long for each caption."""
    write_letters(folder, "sleepy", setup="import time", before=f"time.sleep({seconds})")


@pytest.fixture(scope="module")
def interrupted(tmp_path_factory: pytest.TempPathFactory, world: Path, origin: OriginProcess) -> Iterator[Interrupted]:
    folder, slow = tmp_path_factory.mktemp("quick"), tmp_path_factory.mktemp("slow")
    lake = Lake.make(str(folder / "lake"), hosts={HOST: origin.address})
    quick = write_recipe(folder, world / "pairs.parquet", threshold=0.1, text=QUICK_RECIPE)
    text = QUICK_RECIPE.replace("name: shapes", "name: slow").replace("per_host_rate: 5000", SLOW)
    text = text.replace("scores:\n", "scores:\n  sleepy: {{scorer: sleepy.Letters}}\n")
    recipe = write_recipe(slow, world / "pairs.parquet", threshold=0.1, shard_rows=10, text=text)
    write_scorer(slow, 5)
    environment = {AUTH: LOGIN, "AWS_ACCESS_KEY_ID": "us", "AWS_SECRET_ACCESS_KEY": SECRET}
    environment |= {"IMAGEN_WORKERS": "1", "PYTHONPATH": module_path(slow)}
    with running_platform([str(quick), str(recipe), "--lake", lake.url, "--auth"], environment) as platform:
        yield Interrupted(platform, lake, slow)


def expect_death_sooner(platform: Platform) -> None:
    """Change the automations that mark and repeat runs that died, so that the test does not wait for minutes."""
    automations = platform.names("automations")
    died, again = automations["mark runs that died"], automations["build again what died"]
    assert (died["trigger"]["within"], again["actions"][0]["schedule_after"]) == (300, 60)
    died["trigger"]["within"], again["actions"][0]["schedule_after"] = DEATH_SECONDS, 1
    fields = ("name", "description", "enabled", "trigger", "actions", "actions_on_trigger", "actions_on_resolve")
    for automation in (died, again):
        del automation["trigger"]["id"]
        platform.api(f"automations/{automation['id']}", {field: automation[field] for field in fields}, "PUT")


@pytest.fixture(scope="module")
def killed(interrupted: Interrupted) -> str:
    """A build of `shapes` that was killed with its worker, so that no process can report its state."""
    platform = interrupted.platform
    expect_death_sooner(platform)
    run = platform.start_run("nightly-shapes")
    platform.wait_for("pictures", lambda: interrupted.lake.find("images"))
    worker = platform.child("data")
    for process in (worker, *worker.children(recursive=True)):
        process.kill()
    return run


@dataclass(frozen=True)
class Cancelled:
    stage: str
    seconds: float  # until nothing worked for it
    run: Run


@pytest.fixture(scope="module")
def cancelled_builds(killed: str, interrupted: Interrupted) -> list[Cancelled]:
    """Builds of `slow` that were cancelled in two stages, while the platform waits for a sign of the killed one."""
    platform, runs = interrupted.platform, []
    for stage in ("download", "score-sleepy"):
        run = platform.start_run("nightly-slow")
        platform.wait_for_stage(stage, run)
        time.sleep(2)  # in the middle of a shard
        began = time.monotonic()
        platform.cancel(run)
        platform.wait_for(f"the end of work for {stage}", lambda run=run: not platform.engine_workers(run), 60)
        runs.append(Cancelled(stage, time.monotonic() - began, platform.wait_for_run(run)))
        interrupted.download_fast()
    return runs


@pytest.fixture(scope="module")
def repeated(killed: str, cancelled_builds: list[Cancelled], interrupted: Interrupted) -> tuple[Run, Run]:
    """The killed build, and the one that was started in its place."""
    platform = interrupted.platform
    first = platform.wait_for_run(killed)

    def others() -> list[Run]:
        return [run for run in platform.runs("rebuild") if run["id"] != killed and "shapes" in run["tags"]]

    (second,) = platform.wait_for("the build in its place", others)
    return first, platform.wait_for_run(second["id"])


@pytest.fixture(scope="module")
def restarted(repeated: tuple[Run, Run], interrupted: Interrupted) -> dict[str, Any]:
    """A build of `slow` during which the platform was ended and started again, and the build after it."""
    platform, kinds = interrupted.platform, ("deployments", "automations", "work_pools")
    before = {kind: sorted(platform.names(kind)) for kind in kinds}
    first = platform.start_run("nightly-slow")
    platform.wait_for_stage("score-sleepy", first)
    platform.stop()
    write_scorer(interrupted.folder, 0)
    platform.start()
    marked = platform.wait_for_run(first, MARK_SECONDS)
    after = {kind: sorted(platform.names(kind)) for kind in kinds}
    platform.wait_for_run(platform.start_run("nightly-slow"))  # or the platform's own repetition, if that came first
    slow = [run for run in platform.runs("rebuild") if "slow" in run["tags"]]
    began = next(run["created"] for run in slow if run["id"] == first)
    later = [run["id"] for run in slow if run["created"] > began]
    return {
        "names": (before, after),
        "first": marked["state_type"],
        "later": [platform.wait_for_run(run)["state_name"] for run in later],
    }


def test_the_status_asks_for_the_password(interrupted: Interrupted) -> None:
    words = ("status", "--lake", interrupted.lake.url)
    refused = run_imagen(*words, folder=interrupted.folder)
    assert refused.returncode == 2
    assert "requires a password" in refused.stderr
    assert run_imagen(*words, folder=interrupted.folder, **{AUTH: LOGIN}).returncode == 0


def test_the_workers_of_a_cancelled_build_stop_at_once(cancelled_builds: list[Cancelled]) -> None:
    seconds = {build.stage: build.seconds for build in cancelled_builds}
    assert max(seconds.values()) < STOP_SECONDS, seconds


def test_a_cancelled_build_ends_as_cancelled(cancelled_builds: list[Cancelled]) -> None:
    assert [(build.stage, build.run["state_type"]) for build in cancelled_builds] == [
        ("download", "CANCELLED"),
        ("score-sleepy", "CANCELLED"),
    ]


def test_a_build_that_was_killed_with_its_worker_is_marked_and_repeated(
    repeated: tuple[Run, Run], interrupted: Interrupted
) -> None:
    assert [run["state_type"] for run in repeated] == ["CRASHED", "COMPLETED"]
    assert interrupted.lake.table("datasets/shapes").count_rows() > 60


def test_a_platform_that_starts_again_has_what_it_had(restarted: dict[str, Any]) -> None:
    before, after = restarted["names"]
    assert before == after
    assert before["work_pools"] == ["data", "gpu"]


def test_what_was_interrupted_is_continued_by_the_next_build(
    restarted: dict[str, Any], interrupted: Interrupted
) -> None:
    assert restarted["first"] == "CRASHED"
    assert "Completed" in restarted["later"]
    assert set(restarted["later"]) <= {"Completed", "Superseded"}
    assert interrupted.lake.table("datasets/slow").count_rows() > 60


def test_secrets_are_written_nowhere(restarted: dict[str, Any], interrupted: Interrupted) -> None:
    written = [path for path in Path(interrupted.lake.url).rglob("*") if path.is_file()]
    assert {"prefect.db", "server.log", "worker-data.log"} <= {path.name for path in written}
    for secret in (SECRET, base64.b64encode(LOGIN.encode()).decode()):
        assert not [path for path in written if secret.encode() in path.read_bytes()]
