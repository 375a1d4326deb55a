"""The flow `train`: train a cascade on a dataset version, each stage as a subflow with separate processes.

Training resumes from checkpoints, so a stage whose processes died is started again as long as it makes progress. When
the flow is cancelled, the processes write a checkpoint first.
"""

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from uuid import UUID

from prefect import flow, get_run_logger

from data.errors import ImagenError
from data.lake import storage
from data.lake.lake import Lake
from flows.server.artifacts import begin_progress, key_of, picture, show_instead, show_markdown, show_progress
from flows.server.assets import model_made
from flows.server.events import model_trained
from imagen.config.training import load_config
from imagen.models.table import model_by_id
from imagen.train.checkpoint import Checkpoints
from imagen.train.measures import loss_curve, newest_measure
from imagen.train.setup import Training, grid_urls, plan_training

POLL_SECONDS = 5.0  # between two readings of the measures
CHECKPOINT_SECONDS = 25.0  # to write the last checkpoint in: a Prefect worker kills after 30
DRAW_SECONDS = 60.0  # between two drawings, at least
DRAW_SHARE = 0.05  # of the training time may go into drawing
TRIES = 3  # starts in a row without a new checkpoint


class StageFailed(ImagenError):
    """The processes of a stage ended several times without progress."""


@flow(name="train", flow_run_name="train-on-{dataset}", persist_result=False)
def train(
    config: str,
    dataset: str,
    version: int | None = None,
    lake: str = "lake",
    name: str | None = None,
    minutes: float | None = None,
    processes: int = 1,
) -> str:
    """Train a cascade on a dataset version. A run with the same parameters continues from the last checkpoint.

    Args:
        config: a configuration (.yaml), or a preset: tiny, small, imagen-2b
        dataset: the dataset's name
        version: version of the dataset; the newest if not given
        lake: folder or URL of the lake
        name: name of the model; the configuration's if not given
        minutes: minutes of training per stage, instead of the configuration's steps
        processes: processes on this machine, started by accelerate; one per GPU

    Returns:
        NAME/NUMBER of the trained model.
    """
    changes = {"name": name} if name else {}
    times = {"minutes": minutes} if minutes else {}
    training = plan_training(Lake.open(lake), load_config(config, changes, times), dataset, version)
    if trained := model_by_id(training.lake, training.id):
        return trained.reference
    arguments = ["train", config, "--dataset", f"{dataset}@{training.version}", "--lake", lake]
    arguments += ["--name", name] if name else []
    arguments += ["--minutes", str(minutes)] if minutes else []
    for stage in range(len(training.cascade.stages)):
        train_stage.with_options(flow_run_name=f"{training.config.name}-stage-{stage + 1}")(
            training.url, stage, [*arguments, "--stage", str(stage + 1)], processes
        )
    trained = model_by_id(training.lake, training.id)
    if trained is None:
        raise StageFailed(f"all stages of {training.config.name} ended, but {lake} has no model of it")
    show_grids(training)
    model_made(training.lake, trained)
    model_trained(lake, trained.reference, trained.dataset, trained.version)
    return trained.reference


@flow(name="train-stage", persist_result=False)
def train_stage(url: str, stage: int, words: list[str], processes: int = 1) -> None:
    """Train one stage in processes that resume from its last checkpoint.

    Raises:
        StageFailed: the processes ended several times without a new checkpoint.
    """
    stage_url, log = storage.join(url, f"stage-{stage + 1}"), get_run_logger()
    checkpoints = Checkpoints(storage.join(stage_url, "checkpoints"))
    command = [sys.executable, "-m", "flows.command", *words]
    if processes > 1:
        launch = ["accelerate.commands.accelerate_cli", "launch", "--num_processes", str(processes)]
        launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
        command[2:3] = [*launch, "-m", "flows.command"]
    key = key_of(url.rpartition("/")[2], "stage", str(stage + 1))
    artifact = begin_progress(key=key, description=f"stage {stage + 1} of {url}")
    artifacts = StageArtifacts(stage_url, key)
    tries_left, last_step = TRIES, checkpoints.steps()[-1:]
    while True:
        with processes_of(command) as running:
            while not has_ended(running, POLL_SECONDS):
                if last := newest_measure(storage.join(stage_url, "measures")):
                    show_progress(artifact, round(100 * last["done"], 1))
                    artifacts.refresh()
        artifacts.draw()
        if running.returncode == 0:
            show_progress(artifact, 100.0)
            return
        step = checkpoints.steps()[-1:]
        tries_left = tries_left - 1 if step == last_step else TRIES
        last_step = step
        if not tries_left:
            raise StageFailed(
                f"stage {stage + 1} ended {TRIES} times without a new checkpoint, the last time with exit "
                f"code {running.returncode}; its output is in the log of the worker"
            )
        log.warning(
            "stage %d ended with exit code %d; it resumes from %s", stage + 1, running.returncode, step or "its start"
        )


@contextmanager
def processes_of(command: list[str]) -> "Iterator[subprocess.Popen[bytes]]":
    """Run a command in a process group.

    At the end of the block it gets a stop signal, and time to write a checkpoint.
    """
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True) as running:
        try:
            yield running
        finally:
            if running.poll() is None:
                os.killpg(running.pid, signal.SIGTERM)
                try:
                    running.wait(CHECKPOINT_SECONDS)
                except subprocess.TimeoutExpired:
                    os.killpg(running.pid, signal.SIGKILL)


def has_ended(process: "subprocess.Popen[bytes]", seconds: float) -> bool:
    """Wait some seconds for a process to end, and return whether it has ended."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


@dataclass
class StageArtifacts:
    """The artifacts of a stage while it is trained: its loss curve and its newest sample grid."""

    stage_url: str
    name: str
    artifacts: dict[str, UUID] = field(default_factory=dict)
    due: float = -math.inf

    def refresh(self) -> None:
        """Draw if the last drawing is old enough.

        For a long training the interval is longer, because reading its measures is.
        """
        if time.monotonic() >= self.due:
            self.draw()

    def draw(self) -> None:
        """Draw loss curve and grid now."""
        began = time.monotonic()
        for key, text in (("loss", losses(self.stage_url)), ("grid", grid(self.stage_url))):
            if text and key in self.artifacts:
                show_instead(self.artifacts[key], text)
            elif text:
                self.artifacts[key] = show_markdown(text, key_of(key, self.name))
        now = time.monotonic()
        self.due = now + max(DRAW_SECONDS, (now - began) / DRAW_SHARE)


def losses(stage_url: str) -> str | None:
    """Return the loss curve of a stage as Markdown; None if nothing was measured yet."""
    curve = loss_curve(storage.join(stage_url, "measures"))
    return picture("losses", curve.encode(), "svg+xml") if curve else None


def grid(stage_url: str) -> str | None:
    """Return the newest sample grid of a stage as Markdown; None if there is no grid yet."""
    grids = grid_urls(stage_url)
    return picture(grids[-1].rpartition("/")[2], storage.read(grids[-1])) if grids else None


def show_grids(training: Training) -> None:
    """Show the newest grid of each stage as an artifact of the run."""
    grids = [grid(training.stage_url(stage)) for stage in range(len(training.cascade.stages))]
    parts = [f"Stage {number}:\n\n{png}" for number, png in enumerate(grids, start=1) if png]
    if parts:
        show_markdown("\n\n".join(parts), key=key_of("grids", training.config.name))
