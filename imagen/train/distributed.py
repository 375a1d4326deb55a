"""Tensors in several processes: gather sharded tensors (FSDP), and broadcast what the main process has read."""

from dataclasses import replace

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from imagen.train.checkpoint import RunState


def full_tensor(tensor: Tensor) -> Tensor:
    """Return a sharded tensor as a whole, and any other tensor unchanged.

    Every process must call it at the same time.
    """
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gather sharded tensors on the main process's CPU, one at a time; the other processes drop them.

    Tensors that are not sharded stay as they are, on every process.
    """
    main, gathered = PartialState().is_main_process, {}
    for name, tensor in tensors.items():
        whole = full_tensor(tensor)
        if whole is tensor:
            gathered[name] = tensor
        elif main:
            gathered[name] = whole.cpu()
    return gathered


def broadcast_state(state: RunState | None) -> RunState | None:
    """Give the main process's state to every process.

    On the other processes the tensors have only shapes (device `meta`), until `broadcast_tensor` sends each tensor.
    """
    shapes = None
    if state is not None:
        tensors = {}
        for group, of_group in state.tensors.items():
            tensors[group] = {name: tensor.to("meta") for name, tensor in of_group.items()}
        shapes = replace(state, tensors=tensors)
    shared: list[RunState | None] = [shapes]
    broadcast_object_list(shared)
    return state if PartialState().is_main_process else shared[0]


def broadcast_tensor(tensor: Tensor) -> Tensor:
    """Return the main process's tensor on every process. All processes must call it at the same time."""
    process = PartialState()
    if process.num_processes == 1:
        return tensor
    if tensor.is_meta:
        local = torch.empty_like(tensor, device=process.device)
    else:
        local = tensor.to(process.device).contiguous()
    shared: Tensor = broadcast(local)
    return shared


def copy_into(target: Tensor, values: Tensor) -> Tensor:
    """Copy a tensor's values into a target, whose memory layout stays. A sharded target gets this process's part."""
    if isinstance(target, DTensor):
        values = values.to(target.device)
        values = distribute_tensor(values, target.device_mesh, target.placements, src_data_rank=None)
    return target.copy_(values)


def reshard(model: nn.Module) -> None:
    """Free the parameters that belong to other processes. FSDP keeps the whole model after a pass without gradients."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
