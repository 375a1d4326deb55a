"""Trainings in processes that can be killed.

They are forked from a server that has imported everything, so they start at once. The functions that they run are here,
as a forked process finds them by their names.
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

FORKSERVER = multiprocessing.get_context("forkserver")
FORKSERVER.set_forkserver_preload([__name__])
GRACE = 5.0  # seconds that a process has to end, once another process of the training has failed

SMALLEST = cascade_of_size(8, (8,), text_width=128)
QUICK = TrainSettings(steps=24, batch=8, warmup=4, learning_rate=2e-3, ema=0.9, checkpoint_every=4, grid_every=None)


def quick_config(settings: TrainSettings = QUICK, cascade: CascadeSettings = SMALLEST) -> TrainConfig:
    return TrainConfig(name="little", cascade=cascade, train=settings)


def run_processes(
    do: Callable[..., None], *args: Any, world: int = 1, env: dict[str, str] | None = None
) -> list[int | None]:
    """Run a function in `world` processes of one training. When one fails the others are killed, as a launcher does.

    Returns:
        The exit codes, by rank.
    """
    port, processes = free_port(), []
    for rank in range(world):
        variables = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world}
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "GLOO_SOCKET_IFNAME": "lo"}
        environment = {name: str(value) for name, value in variables.items()} if world > 1 else {}
        processes.append(FORKSERVER.Process(target=_process_main, args=(environment | (env or {}), do, args)))
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


def _process_main(env: dict[str, str], do: Callable[..., None], args: tuple[Any, ...]) -> None:
    os.environ.update(env)
    torch.set_num_threads(1)
    try:
        do(*args)
    except ImagenError as error:
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        sys.exit(getattr(error, "code", 1))


def sharded_accelerator(**options: Any) -> Accelerator:
    """An accelerator with FSDP on CPUs, where accelerate ignores the configuration that asks for it."""
    accelerator = Accelerator(**options)
    accelerator.state.distributed_type = DistributedType.FSDP
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    return accelerator


def plan_in_lake(url: str, config: TrainConfig) -> Training:
    return plan_training(Lake.open(url), config, "drawn")


def train_to_end(url: str, config: TrainConfig, kill: dict[str, int] | None = None) -> None:
    """Train to the end, or until the process of rank `kill["rank"]` sends itself a signal.

    It does so after `kill["steps"]` steps, or in the middle of write number `kill["writes"]`. The signal is
    `kill["signal"]` or SIGKILL.
    """
    kill = kill if kill and kill["rank"] == int(os.environ.get("RANK", "0")) else {}
    write, writes, steps = storage.write, 0, 0

    def write_or_die(place: str, content: bytes) -> None:
        nonlocal writes
        writes += 1
        if writes == kill.get("writes"):
            Path(place).parent.mkdir(parents=True, exist_ok=True)
            Path(place).write_bytes(content[: len(content) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        write(place, content)

    def on_step(stage: int, step: StepResult, progress: float) -> None:
        nonlocal steps
        steps += 1
        if steps == kill.get("steps"):
            os.kill(os.getpid(), kill.get("signal", signal.SIGKILL))

    storage.write = write_or_die
    if "ACCELERATE_USE_FSDP" in os.environ:
        imagen.train.start.Accelerator = sharded_accelerator  # type: ignore[misc]
    train(plan_in_lake(url, config), callbacks=TrainingCallbacks(on_step=on_step), cpu=True)


class RecordedBatches:
    """A run's batches, and the digests of the images in them."""

    def __init__(self, batches: BatchStream) -> None:
        self.batches = batches
        self.digests: list[str] = []

    def __next__(self) -> Batch:
        batch = next(self.batches)
        self.digests += (hashlib.sha256(image.numpy().tobytes()).hexdigest()[:12] for image in batch.pixels)
        return batch

    def read_ahead(self) -> None:
        self.batches.read_ahead()


def train_until(url: str, config: TrainConfig, stop: int, report: str) -> None:
    """Continue until a step and write a checkpoint. The report has each step's loss and the digests of its images."""
    run = start_run(plan_in_lake(url, config), 0, cpu=True)
    checkpoints = Checkpoints(f"{url}/checkpoints")
    main = run.accelerator.is_main_process
    state = broadcast_state(checkpoints.newest() if main else None)
    if state is not None:
        run.load(state)
    lines, batches = [], run.batches
    run.batches = recorded = RecordedBatches(batches)  # type: ignore[assignment]
    while run.step < stop:
        loss = run.advance().loss
        lines.append({"step": run.step, "loss": loss, "epoch": batches.epoch, "images": list(recorded.digests)})
        recorded.digests.clear()
    run.batches = batches
    final_state = run.state()
    if main:
        checkpoints.save(final_state)
    run.accelerator.wait_for_everyone()
    rank = run.accelerator.process_index
    Path(f"{report}-{rank}.json").write_text(json.dumps(lines))


class FixedBatches:
    """The same batch again and again, of which each process takes its part."""

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


def run_with_fixed_batches(url: str, config: TrainConfig, stage: int = 0) -> Run:
    """A run whose whole batches are the same however many processes share them."""
    run = start_run(plan_in_lake(url, config), stage, cpu=True)
    side, rng = config.resolved_cascade.stages[stage].resolution, torch.Generator().manual_seed(5)
    pixels = torch.rand(run.settings.batch, 3, side, side, generator=rng) * 2 - 1
    text = torch.randn(run.settings.batch, 6, 128, generator=rng)
    mask = torch.arange(6) < torch.randint(1, 7, (run.settings.batch, 1), generator=rng)
    batch = Batch(pixels, text, mask)
    if config.mix:
        batch = replace(batch, alternatives=torch.randn(1, *text.shape, generator=rng), alternative_masks=mask[None])
    run.batches = FixedBatches(batch, run)  # type: ignore[assignment]
    return run


def write_gradients(url: str, cascade: CascadeSettings, folder: str, mix: dict[str, float] | None = None) -> None:
    """Write the gradients of three steps of each stage, with the batch in one part and in two."""
    for stage in range(len(cascade.stages)):
        for parts in (1, 2):
            config = quick_config(QUICK.model_copy(update={"accumulate": parts, "clip": 1e9}), cascade)
            run = run_with_fixed_batches(url, config.model_copy(update={"mix": mix or {}}), stage)
            gradients: dict[str, torch.Tensor] = {}

            def keep(*_: Any, run: Run = run, gradients: dict[str, torch.Tensor] = gradients) -> None:
                for name, parameter in run.unet.named_parameters():
                    gradients[f"{run.step}.{name}"] = parameter.grad.clone(memory_format=torch.contiguous_format)

            run.optimizer.optimizer.register_step_pre_hook(keep)
            for _ in range(3):
                run.advance()
            if run.accelerator.is_main_process:
                save_file(gradients, Path(folder) / f"{stage}-{parts}-{run.accelerator.num_processes}.safetensors")


def train_with_nan(url: str, folder: str) -> None:
    """Train with images of NaN on the last process only: in one step, and later in every step."""
    run = run_with_fixed_batches(url, quick_config())
    here, last = run.accelerator.process_index, run.accelerator.num_processes - 1
    batches, lines = run.batches, []
    assert isinstance(batches, FixedBatches)
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
