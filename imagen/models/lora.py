"""LoRA: low-rank changes of a U-Net's attention, by peft (arXiv 2106.09685)."""

from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from imagen.cascade.unet import UNet

TARGET_MODULES = r".*attention\.(ask|pixels|text|out)"  # the linear layers of every attention


def add_lora(unet: UNet, rank: int, alpha: int) -> None:
    """Add low-rank layers, which change nothing at first, and freeze everything else."""
    inject_adapter_in_model(LoraConfig(r=rank, lora_alpha=alpha, target_modules=TARGET_MODULES), unet)


def merge_lora(unet: UNet) -> None:
    """Add the low-rank changes to the weights and remove the low-rank layers."""
    for name, module in list(unet.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            base = module.get_base_layer()
            assert isinstance(base, nn.Module)
            parent_name, _, layer_name = name.rpartition(".")
            setattr(unet.get_submodule(parent_name), layer_name, base)
