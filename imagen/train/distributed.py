"""What several processes do as one: tensors of which each holds a part (FSDP), and what one reads for all of them."""

from dataclasses import replace

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, broadcast_object_list
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor

from imagen.train.checkpoint import RunState


def full_tensor(tensor: Tensor) -> Tensor:
    """A tensor put together from the parts of all processes; to be asked by every one at once."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather_tensors(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors put together where they are written, one at a time: elsewhere parts become nothing."""
    main, found = PartialState().is_main_process, {}
    for name, tensor in tensors.items():
        one = full_tensor(tensor)
        if one is tensor or main:
            found[name] = one if one is tensor else one.cpu()
    return found


def broadcast_state(state: RunState | None) -> RunState | None:
    """What the main process read, to every one: elsewhere tensors are but shapes until they are `spread`."""
    shapes = state and replace(
        state,
        tensors={group: {name: one.to("meta") for name, one in of.items()} for group, of in state.tensors.items()},
    )
    said: list[RunState | None] = [shapes]
    broadcast_object_list(said)
    return state if PartialState().is_main_process else said[0]


def broadcast_tensor(tensor: Tensor) -> Tensor:
    """The main process's tensor, on every one."""
    here = PartialState()
    if here.num_processes == 1:
        return tensor
    shared: Tensor = broadcast(
        torch.empty_like(tensor, device=here.device) if tensor.is_meta else tensor.to(here.device).contiguous()
    )
    return shared


def copy_into(place: Tensor, content: Tensor) -> Tensor:
    """A whole tensor's values into another, or our part of them; how that lies in memory stays."""
    if isinstance(place, DTensor):
        content = content.to(place.device)
        content = distribute_tensor(content, place.device_mesh, place.placements, src_data_rank=None)
    return place.copy_(content)


def reshard(model: nn.Module) -> None:
    """Each holds its part alone again: after a pass without gradients FSDP leaves the whole model there."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()
