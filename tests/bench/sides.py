"""Our base U-Net and imagen-pytorch's, of equal size, each in a process of its own: `train` and `sample` go by both.

Both have the same pictures, captions' embeddings and batch, fp32, a thread a core, as a training has, channels last,
two residual blocks and one attention a level, at the same levels, v-prediction with Min-SNR, gradients clipped, the
same AdamW; neither keeps an average. What else imagen-pytorch is given makes it faster: a plain first convolution
instead of three sizes up to 15 x 15, as many heads as its channels make (its 8 would be twice that), texts padded to no
more than they are, guidance without its projection. Its `Unet` asks the model hub for a T5 when it is imported: here
it gets a configuration instead.
"""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from imagen.cascade.diffusion import Diffusion
from imagen.cascade.sampling import Conditioning, sample
from imagen.cascade.settings import DiffusionSettings, SampleSettings
from imagen.cascade.unet import UNet
from imagen.config.presets import cascade_of_size
from imagen.config.stage import TrainSettings
from imagen.train.batches import Batch
from imagen.train.loss import StageLoss, draw
from imagen.train.stage_run import build_optimizer

PACKAGES = ("imagen-pytorch==2.1.0", "einops==0.8.2", "ema-pytorch==0.8.3", "pytorch-warmup==0.2.0")
PACKAGES += ("kornia==0.9.0", "kornia-rs==0.2.0")
TOKENS, STEPS, GUIDANCE = 32, 10, 5.0
SETTINGS = TrainSettings()


@dataclass(frozen=True)
class Pair:
    """Two U-Nets of one size: ours by its dial and width, theirs by its `dim`."""

    side: int
    batch: int
    text_width: int
    size: int
    width: int  # of what time and text become with us: what makes the counts equal, and costs least
    dim: int
    grown: tuple[int, ...]
    attend: tuple[bool, ...]  # levels whose pixels attend to each other
    read: tuple[bool, ...]  # and to the text
    heads: int
    pictures: int  # that are sampled at once


PAIRS = {
    "16 px, 1.2 M": Pair(16, 32, 128, 32, 160, 32, (1, 2), (False, True), (True, True), 2, 16),
    "64 px, 21.5 M": Pair(
        64, 4, 512, 64, 384, 72, (1, 2, 3, 4), (False, True, True, True), (False, True, True, True), 4, 2
    ),
}


@dataclass(frozen=True)
class Side:
    """A model in a process of its own, which runs what it is sent and answers with the seconds."""

    process: subprocess.Popen[str]
    parameters: int

    def seconds(self, what: str) -> float:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{what}\n")
        self.process.stdin.flush()
        return float(answer(self.process))


@contextmanager
def both(folder: Path, pair: str) -> Iterator[tuple[Side, Side]]:
    """Ours and theirs; of about the same number of parameters, or there is nothing to compare."""
    path = os.pathsep.join([os.getcwd(), os.environ.get("PYTHONPATH", ""), str(installed(folder / "theirs"))])
    processes = []
    try:
        for side in ("ours", "theirs"):
            command = [sys.executable, "-m", "tests.bench.sides", side, pair]
            pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
            processes.append(subprocess.Popen(command, env={**os.environ, "PYTHONPATH": path}, text=True, **pipes))
        ours, theirs = (Side(process, int(answer(process))) for process in processes)
        assert 0.97 < ours.parameters / theirs.parameters < 1.03, f"{ours.parameters} and {theirs.parameters}"
        yield ours, theirs
    finally:
        for process in processes:
            process.kill()
            process.communicate()


def answer(process: subprocess.Popen[str]) -> str:
    """The next line that is an answer: imagen-pytorch also prints advice."""
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("= "):
            return line[2:]
    raise RuntimeError(f"{process.args} ended without an answer: run it by hand")


def installed(folder: Path) -> Path:
    """Only these packages, all of Python alone: the rest of what they ask for is in our lock."""
    if not folder.exists():
        pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--disable-pip-version-check"]
        subprocess.run([*pip, "--target", str(folder), *PACKAGES], check=True, stderr=subprocess.DEVNULL)
    return folder


def batch_of(pair: Pair, count: int) -> Batch:
    """Pictures of noise and embeddings of half to all of the tokens."""
    rng = torch.Generator().manual_seed(0)
    lengths = torch.randint(TOKENS // 2, TOKENS + 1, (count,), generator=rng)
    return Batch(
        torch.rand(count, 3, pair.side, pair.side, generator=rng) * 2 - 1,
        torch.randn(count, TOKENS, pair.text_width, generator=rng),
        torch.arange(TOKENS) < lengths[:, None],
    )


def ours(pair: Pair) -> tuple[torch.nn.Module, Callable[[str], object]]:
    unet = UNet(**cascade_of_size(pair.size, (pair.side,), pair.text_width).unet_arguments(0) | {"width": pair.width})
    unet.to(memory_format=torch.channels_last)
    loss, optimizer = StageLoss(Diffusion(DiffusionSettings(), pair.side)), build_optimizer(SETTINGS, unet)
    batch, samples = batch_of(pair, pair.batch), batch_of(pair, pair.pictures)

    def train() -> None:
        noise_draw = draw(0, 0, range(pair.batch), pair.batch, loss.image_shape(), SETTINGS.drop)
        errors, weights = loss.errors(unet, batch, noise_draw)
        learn(unet, (weights * errors).mean(), optimizer)

    def do(what: str) -> object:
        if what == "train":
            return train()
        settings = SampleSettings.model_validate({"sampler": what, "steps": STEPS, "guidance": GUIDANCE})
        rngs = [torch.Generator().manual_seed(number) for number in range(pair.pictures)]
        with torch.inference_mode():
            noise = torch.randn(samples.pixels.shape)
            return sample(unet, loss.diffusion, settings, noise, rngs, Conditioning(samples.text, samples.mask))

    return unet, do


def theirs(pair: Pair) -> tuple[torch.nn.Module, Callable[[str], object]]:
    from transformers import T5Config

    T5Config.from_pretrained = lambda name: T5Config(d_model=pair.text_width)
    from imagen_pytorch import Imagen, Unet

    unet = Unet(
        dim=pair.dim,
        dim_mults=pair.grown,
        num_resnet_blocks=1,  # beside the first of each level
        layer_attns=pair.attend,
        layer_cross_attns=pair.read,
        attn_heads=pair.heads,
        max_text_len=TOKENS,
        init_cross_embed=False,
        init_conv_kernel_size=3,
        text_embed_dim=pair.text_width,
    )
    model = Imagen(
        unets=(unet,),
        image_sizes=(pair.side,),
        text_embed_dim=pair.text_width,
        timesteps=STEPS,
        pred_objectives="v",
        auto_normalize_img=False,
        cond_drop_prob=SETTINGS.drop,
    )
    model.to(memory_format=torch.channels_last)
    unet = model.unets[0]
    optimizer = build_optimizer(SETTINGS, unet)
    batch, samples = batch_of(pair, pair.batch), batch_of(pair, pair.pictures)

    def do(what: str) -> object:
        if what == "train":
            return learn(unet, model(batch.pixels, text_embeds=batch.text, text_masks=batch.mask), optimizer)
        text = {"text_embeds": samples.text, "text_masks": samples.mask}
        return model.sample(**text, cond_scale=GUIDANCE, cfg_remove_parallel_component=False, use_tqdm=False)

    return unet, do


def learn(unet: torch.nn.Module, loss: torch.Tensor, optimizer: torch.optim.Optimizer) -> None:
    loss.backward()
    torch.nn.utils.clip_grad_norm_(unet.parameters(), SETTINGS.clip)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


if __name__ == "__main__":
    unet, do = {"ours": ours, "theirs": theirs}[sys.argv[1]](PAIRS[sys.argv[2]])
    say = sys.stdout
    say.write(f"= {sum(parameter.numel() for parameter in unet.parameters())}\n")
    say.flush()
    for line in sys.stdin:
        began = time.perf_counter()
        do(line.strip())
        say.write(f"= {time.perf_counter() - began}\n")
        say.flush()
