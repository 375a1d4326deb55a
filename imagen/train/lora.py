"""Low-rank changes of a U-Net's attention, by `peft` (arXiv 2106.09685)."""

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from imagen.cascade.unet import UNet

CHANGED = r".*attention\.(ask|pixels|text|out)"  # the linear layers of every attention


def add_lora(unet: UNet, rank: int, alpha: int) -> None:
    """Layers that begin as no change; only they are trained."""
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=CHANGED), unet)


def merge_lora(unet: UNet) -> None:
    """Put the changes into the weights, and take the layers out again."""
    for name, module in list(unet.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent = unet.get_submodule(name.rpartition(".")[0])
            plain = module.get_base_layer()
            assert isinstance(plain, nn.Module)
            setattr(parent, name.rpartition(".")[2], plain)
