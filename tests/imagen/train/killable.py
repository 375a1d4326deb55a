"""Trainings that can be killed: processes of their own, forked from one that has imported everything, so that they
begin at once. What they do lies here too, as they must find it by its name.
"""

import hashlib
import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from multiprocessing import connection
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from safetensors.torch import save_file

import imagen.train.start
from data.errors import ImagenError
from data.lake import storage
from data.lake.lake import Lake
from imagen.config.cascade import CascadeSettings
from imagen.config.presets import cascade_of_size
from imagen.config.stage import TrainSettings
from imagen.config.training import TrainConfig
from imagen.train.batches import Batch, BatchStream
from imagen.train.checkpoint import Checkpoints
from imagen.train.distributed import broadcast_state
from imagen.train.setup import Training, plan_training
from imagen.train.stage_run import Run, StepResult
from imagen.train.start import start_run
from imagen.train.train import TrainingCallbacks, train
from tests.conftest import free_port

LIVES = multiprocessing.get_context("forkserver")
LIVES.set_forkserver_preload([__name__])
GRACE = 5.0  # seconds to end in, once another process of the training has failed

LITTLE = cascade_of_size(8, (8,), text_width=128)
QUICK = TrainSettings(steps=24, batch=8, warmup=4, learning_rate=2e-3, ema=0.9, checkpoint_every=4, grid_every=None)


def config_of(settings: TrainSettings = QUICK, cascade: CascadeSettings = LITTLE) -> TrainConfig:
    return TrainConfig(name="little", cascade=cascade, train=settings)


def live(do: Callable[..., None], *args: Any, world: int = 1, env: dict[str, str] | None = None) -> list[int | None]:
    """The exit codes of the processes of a training: when one fails the others are ended, as a launcher would."""
    port, processes = free_port(), []
    for rank in range(world):
        here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        here |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
        said = {name: str(value) for name, value in here.items()} if world > 1 else {}
        processes.append(LIVES.Process(target=_born, args=(said | (env or {}), do, args)))
    for process in processes:
        process.start()
    try:
        while alive := [process for process in processes if process.exitcode is None]:
            failed = any(process.exitcode for process in processes)
            if not connection.wait([process.sentinel for process in alive], GRACE if failed else 240.0):
                break
    finally:
        for process in processes:
            process.kill()
            process.join()
    return [process.exitcode for process in processes]


def _born(env: dict[str, str], do: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ.update(env)
    torch.set_num_threads(1)
    try:
        do(*args)
    except ImagenError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(getattr(error, "code", 1))


def sharding(**how: Any) -> Accelerator:
    """As `accelerate` makes one on GPUs where its configuration asks for FSDP: on CPUs it does not look."""
    accelerator = Accelerator(**how)
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    return accelerator


def training_of(url: str, config: TrainConfig) -> Training:
    return plan_training(Lake.open(url), config, "drawn")


def to_the_end(url: str, config: TrainConfig, dies: dict[str, int] | None = None) -> None:
    """Train; after so many `steps`, or amid so many `writes`, one `rank` gets a `signal`: SIGKILL if no other."""
    dies = dies if dies and dies["rank"] == int(os.environ.get("RANK", "0")) else {}
    write, writes, steps = storage.write, 0, 0

    def torn(place: str, content: bytes) -> None:
        nonlocal writes
        writes += 1
        if writes == dies.get("writes"):
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            Path(place).write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(place, content)

    def on_step(stage: int, step: StepResult, progress: float) -> None:
        nonlocal steps
        steps += 1
        if steps == dies.get("steps"):
            os.kill(os.getpid(), dies.get("signal", signal.SIGKILL))

    storage.write = torn
    if "ACCELERATE_USE_FSDP" in os.environ:
        imagen.train.start.Accelerator = sharding  # type: ignore[misc]
    train(training_of(url, config), callbacks=TrainingCallbacks(on_step=on_step), cpu=True)


class Watched:
    """A run's batches, and what was seen of them."""

    def __init__(self, batches: BatchStream) -> None:
        self.batches = batches
        self.seen: list[str] = []

    def __next__(self) -> Batch:
        batch = next(self.batches)
        self.seen += (hashlib.sha256(one.numpy().tobytes()).hexdigest()[:12] for one in batch.pixels)
        return batch

    def read_ahead(self) -> None:
        self.batches.read_ahead()


def some_steps(url: str, config: TrainConfig, stop: int, report: str) -> None:
    """Go on to a step, write a checkpoint; the report has each step's loss and what this process saw in it."""
    run = start_run(training_of(url, config), 0, cpu=True)
    checkpoints = Checkpoints(f"{url}/checkpoints")
    main = run.accelerator.is_main_process
    state = broadcast_state(checkpoints.newest() if main else None)
    if state is not None:
        run.load(state)
    lines, batches = [], run.batches
    run.batches = watched = Watched(batches)  # type: ignore[assignment]
    while run.step < stop:
        loss = run.advance().loss
        lines.append({"step": run.step, "loss": loss, "epoch": batches.epoch, "seen": list(watched.seen)})
        watched.seen.clear()
    run.batches = batches
    kept = run.state()
    if main:
        checkpoints.save(kept)
    run.accelerator.wait_for_everyone()
    rank = run.accelerator.process_index
    Path(f"{report}-{rank}.json").write_text(json.dumps(lines))


class Known:
    """Our part of known batches, without an end."""

    def __init__(self, whole: Batch, run: Run) -> None:
        self.whole, self.run, self.part = whole, run, 0

    def __next__(self) -> Batch:
        places = self.run.places(self.part % self.run.settings.accumulate)
        self.part += 1
        of = slice(places.start, places.stop)
        assert self.whole.text is not None
        assert self.whole.mask is not None
        batch = Batch(self.whole.pixels[of], self.whole.text[of], self.whole.mask[of])
        if self.whole.alternatives is None or self.whole.alternative_masks is None:
            return batch
        return replace(
            batch, alternatives=self.whole.alternatives[:, of], alternative_masks=self.whole.alternative_masks[:, of]
        )

    def read_ahead(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": 0}

    def load_state_dicts(self, states: list[dict[str, Any]]) -> None:
        pass


def known_run(url: str, config: TrainConfig, stage: int = 0) -> Run:
    """A run whose batches are the same however many processes share them."""
    run = start_run(training_of(url, config), stage, cpu=True)
    side, rng = config.resolved_cascade.stages[stage].resolution, torch.Generator().manual_seed(5)
    pixels = torch.rand(run.settings.batch, 3, side, side, generator=rng) * 2 - 1
    text = torch.randn(run.settings.batch, 6, 128, generator=rng)
    seen = torch.arange(6) < torch.randint(1, 7, (run.settings.batch, 1), generator=rng)
    batch = Batch(pixels, text, seen)
    if config.mix:
        batch = replace(batch, alternatives=torch.randn(1, *text.shape, generator=rng), alternative_masks=seen[None])
    run.batches = Known(batch, run)  # type: ignore[assignment]
    return run


def gradients(url: str, cascade: CascadeSettings, folder: str, mix: dict[str, float] | None = None) -> None:
    """Of a few steps of each stage, with the batch in one part and in two."""
    for stage in range(len(cascade.stages)):
        for parts in (1, 2):
            config = config_of(QUICK.model_copy(update={"accumulate": parts, "clip": 1e9}), cascade)
            run = known_run(url, config.model_copy(update={"mix": mix or {}}), stage)
            found: dict[str, torch.Tensor] = {}

            def keep(*_: Any, run: Run = run, found: dict[str, torch.Tensor] = found) -> None:
                for name, parameter in run.unet.named_parameters():
                    found[f"{run.step}.{name}"] = parameter.grad.clone(memory_format=torch.contiguous_format)

            run.optimizer.optimizer.register_step_pre_hook(keep)
            for _ in range(3):
                run.advance()
            if run.accelerator.is_main_process:
                save_file(found, Path(folder) / f"{stage}-{parts}-{run.accelerator.num_processes}.safetensors")


def spoilt(url: str, folder: str) -> None:
    """A picture that is no number on the last process alone: once, and then without an end."""
    run = known_run(url, config_of())
    here, last = run.accelerator.process_index, run.accelerator.num_processes - 1
    batches, lines = run.batches, []
    assert isinstance(batches, Known)
    clean = batches.whole

    def weights() -> str:
        values = [*run.unet.parameters(), *run.ema.shadow_params]
        return hashlib.sha256(b"".join(value.detach().numpy().tobytes() for value in values)).hexdigest()

    for step in range(40):
        bad = step == 2 or step >= 5
        if bad and here == last:
            batches.whole = replace(clean, pixels=torch.full_like(clean.pixels, torch.nan))
        else:
            batches.whole = clean
        try:
            run.advance()
        except ImagenError as error:
            lines.append([type(error).__name__, run.step, run.skipped, weights()])
            break
        lines.append(["", run.step, run.skipped, weights()])
    Path(folder, f"{here}.json").write_text(json.dumps(lines))
