"""A stage before its first step: its model, its first weights and its batches."""

from fnmatch import fnmatch

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from imagen.cascade.diffusion import Diffusion
from imagen.cascade.unet import UNet
from imagen.errors import TextNotUsable
from imagen.models.folder import check_shapes, load_stage_unet
from imagen.models.table import model_url
from imagen.train.batches import BatchStream, SquareSamples
from imagen.train.lora import add_lora
from imagen.train.loss import StageLoss
from imagen.train.setup import Training
from imagen.train.stage_run import Run


def start_run(training: Training, stage: int, cpu: bool = False) -> Run:
    """A stage before its first step."""
    config, settings, own = training.config, training.config.training(stage), training.cascade.stages[stage]
    torch.manual_seed(settings.seed)
    AcceleratorState._reset_state(reset_partial_state=True)  # it has one precision a process, our stages may differ
    # Else DDP lays its gradients out anew after the first step of a sitting, and adds them up in another order.
    same = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(mixed_precision=settings.precision, cpu=cpu, kwargs_handlers=[same])
    unet = UNet(**training.cascade.unet_arguments(stage))
    if config.init_from:
        load_initial_weights(config.init_from, training, stage, unet)
    if config.lora:
        add_lora(unet, config.lora.rank, config.lora.alpha)
    for name, parameter in unet.named_parameters():
        if any(fnmatch(name, pattern) for pattern in config.freeze):
            parameter.requires_grad = False
    small = training.cascade.stages[stage - 1].resolution if stage else None
    lesson = StageLoss(Diffusion(own.diffusion, own.resolution), small, own.crop, tuple(config.mix.values()))
    squares = SquareSamples(training.reader(stage, seed=settings.seed, drop_uneven=True), own.resolution, config.fit)
    batches = BatchStream(
        squares,
        settings.samples_per_process(accelerator.num_processes),
        config.text,
        settings.workers,
        list(config.mix),
    )
    return Run(unet, lesson, batches, settings, accelerator)


def load_initial_weights(where: str, training: Training, stage: int, unet: UNet) -> None:
    """Weights of a trained model's stage of the same size."""
    resolution = training.cascade.stages[stage].resolution
    theirs, there = load_stage_unet(model_url(where, training.lake.url), resolution)
    here = training.text and training.text["table"]
    if there != here:
        raise TextNotUsable(
            f"{where} reads embeddings of {there}, and {training.dataset}@{training.version} has those of {here}: "
            "build the dataset with the model's encoder"
        )
    if theirs is not None:
        check_shapes(where, theirs.state_dict(), unet.state_dict())
        unet.load_state_dict(theirs.state_dict())
