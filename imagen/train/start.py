"""Prepare a stage for its first step: its model, initial weights, optimizer and batches."""

from fnmatch import fnmatch

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs

from imagen.cascade.diffusion import Diffusion
from imagen.cascade.unet import UNet
from imagen.errors import TextNotUsable
from imagen.models.folder import check_shapes, load_stage_unet
from imagen.models.lora import add_lora
from imagen.models.table import model_url
from imagen.train.batches import BatchStream, SquareSamples
from imagen.train.loss import StageLoss
from imagen.train.setup import Training
from imagen.train.stage_run import Run


def start_run(training: Training, stage: int, cpu: bool = False) -> Run:
    """Make the run of a stage before its first step, with initial weights, optimizer and batches.

    Raises:
        ConfigError: the batch can't be divided among the processes, or FSDP does not work with the optimizer.
        ModelNotFound, ModelNotUsable, TextNotUsable: the model that `init_from` names does not fit.
    """
    config, settings = training.config, training.config.training(stage)
    stage_of_cascade = training.cascade.stages[stage]
    torch.manual_seed(settings.seed)
    AcceleratorState._reset_state(reset_partial_state=True)  # a process has one precision, and stages may differ
    # Otherwise DDP sorts gradients into other buckets after the first step, and a resumed run adds in another order.
    ddp = DistributedDataParallelKwargs(find_unused_parameters=True)
    accelerator = Accelerator(mixed_precision=settings.precision, cpu=cpu, kwargs_handlers=[ddp])
    unet = UNet(**training.cascade.unet_arguments(stage))
    if config.init_from:
        load_initial_weights(config.init_from, training, stage, unet)
    if config.lora:
        add_lora(unet, config.lora.rank, config.lora.alpha)
    for name, parameter in unet.named_parameters():
        if any(fnmatch(name, pattern) for pattern in config.freeze):
            parameter.requires_grad = False
    diffusion = Diffusion(stage_of_cascade.diffusion, stage_of_cascade.resolution)
    low_res_side = training.cascade.stages[stage - 1].resolution if stage else None
    loss = StageLoss(diffusion, low_res_side, stage_of_cascade.crop, tuple(config.mix.values()))
    reader = training.reader(stage, seed=settings.seed, drop_uneven=True)
    samples = SquareSamples(reader, stage_of_cascade.resolution, config.fit)
    size = settings.samples_per_process(accelerator.num_processes)
    batches = BatchStream(samples, size, config.text, settings.workers, list(config.mix))
    return Run(unet, loss, batches, settings, accelerator)


def load_initial_weights(where: str, training: Training, stage: int, unet: UNet) -> None:
    """Load the weights of a trained model's stage with the same resolution, if the model has one.

    Args:
        where: a folder, a URL, or a model of the lake.

    Raises:
        ModelNotFound: there is no such model.
        ModelNotUsable: its folder is damaged, or its U-Net has another shape.
        TextNotUsable: the model was trained on embeddings of another encoder.
    """
    resolution = training.cascade.stages[stage].resolution
    trained, model_table = load_stage_unet(model_url(where, training.lake.url), resolution)
    dataset_table = training.text and training.text["table"]
    if model_table != dataset_table:
        raise TextNotUsable(
            f"{where} was trained on {model_table}, and {training.dataset}@{training.version} has {dataset_table}: "
            "build the dataset with the model's encoder"
        )
    if trained is not None:
        check_shapes(where, trained.state_dict(), unet.state_dict())
        unet.load_state_dict(trained.state_dict())
