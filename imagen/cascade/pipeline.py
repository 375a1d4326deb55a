"""A trained cascade as a `diffusers` pipeline: prompts become pictures, and pictures other ones.

This file and those it imports are written into a model's folder, where plain `diffusers` loads them; so they know
nothing of datasets and lakes. `model.py` is what our own users load.
"""

import sys
import warnings
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from PIL import Image
from torch import Tensor

from imagen.cascade.checks import (
    NotPossible,
    Stage,
    check_stage_count,
    image_to_tensor,
    mask_to_tensor,
    stage_schedulers,
    stage_settings,
)
from imagen.cascade.diffusion import Diffusion
from imagen.cascade.prompts import encode_prompt, load_t5, pad_embeddings
from imagen.cascade.resize import add_conditioning_noise, enlarge, shrink
from imagen.cascade.sampling import Conditioning, KnownPixels, StartImage, draw_noise, repaint, sample
from imagen.cascade.settings import DiffusionSettings, SampleSettings

BATCH = 16  # pictures that are made at once
MOST_SEED = 2**60
Prompts = str | Sequence[str] | None
Progress = Callable[[int, int, int], None]  # stage, step, of so many steps


class ImagenPipeline(DiffusionPipeline):
    """`stages` says of each model its resolution, its diffusion, and how it is sampled unless told otherwise; `text`
    which encoder reads prompts: `encoder`, `model`, `max_length`, `dtype`. Same seed, same picture, in any company.
    """

    model_cpu_offload_seq = "text_encoder->unet->unet_2->unet_3"
    _optional_components = ("text_encoder", "tokenizer", "unet_2", "scheduler_2", "unet_3", "scheduler_3")

    def __init__(
        self,
        unet: Any,
        scheduler: Any,
        unet_2: Any = None,
        scheduler_2: Any = None,
        unet_3: Any = None,
        scheduler_3: Any = None,
        text_encoder: Any = None,
        tokenizer: Any = None,
        stages: list = [],  # noqa: B006 - as diffusers reads it
        text: dict | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            unet=unet,
            scheduler=scheduler,
            unet_2=unet_2,
            scheduler_2=scheduler_2,
            unet_3=unet_3,
            scheduler_3=scheduler_3,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
        )
        self.register_to_config(stages=list(stages), text=text)

    @cached_property
    def diffusions(self) -> list[Diffusion]:
        return [Diffusion(DiffusionSettings(**one["diffusion"]), one["resolution"]) for one in self.config.stages]

    @property
    def stages(self) -> list[Stage]:
        models = [(self.unet, self.scheduler), (self.unet_2, self.scheduler_2), (self.unet_3, self.scheduler_3)]
        said = zip(models, self.diffusions, self.config.stages, strict=False)
        return [Stage(*model, diffusion, SampleSettings(**one["sample"])) for model, diffusion, one in said]

    def __call__(self, prompt: Prompts = None, **more: Any) -> ImagePipelineOutput:
        return ImagePipelineOutput(images=self.generate_images(prompt, **more))

    def generate_image(self, prompt: str | None = None, **more: Any) -> Image.Image:
        return self.generate_images(prompt, **more)[0]

    def generate_images(
        self,
        prompts: Prompts = None,
        n: int = 1,
        seed: int | Sequence[int] = 0,
        negative_prompt: str | None = None,
        stages: int | None = None,
        batch: int = BATCH,
        progress: Progress | None = None,
        **sampling: Any,
    ) -> list[Image.Image]:
        """`n` pictures of each prompt, the k-th from the seed + k, be it one for all prompts or one for each. `stages`
        fewer than all stops early.

        `sampling` changes SampleSettings: guidance=3.0 for every stage, steps=[30, 10] for each.
        """
        last = check_stage_count(self.stages, stages)
        return self._make(prompts, n, seed, negative_prompt, 0, last, batch, progress, sampling)

    def upscale(
        self,
        image: Image.Image,
        prompt: str | None = None,
        seed: int = 0,
        negative_prompt: str | None = None,
        stages: int | None = None,
        progress: Progress | None = None,
        **sampling: Any,
    ) -> Image.Image:
        """By the models that make larger pictures than this one."""
        pixels, last = image_to_tensor(image), check_stage_count(self.stages, stages)
        first = next((at for at, stage in enumerate(self.stages) if at and stage.side > image.width), None)
        if first is None or first >= last:
            sides = ", ".join(str(stage.side) for stage in self.stages[1:last]) or "none"
            raise NotPossible(f"a picture of {image.width} pixels can't be enlarged: models make sides of {sides}")
        return self._make(prompt, 1, seed, negative_prompt, first, last, 1, progress, sampling, small=pixels)[0]

    def inpaint(
        self,
        image: Image.Image,
        mask: Image.Image,
        prompt: str | None = None,
        seed: int = 0,
        negative_prompt: str | None = None,
        repeats: int = 5,
        progress: Progress | None = None,
        **sampling: Any,
    ) -> Image.Image:
        """Paint where the mask is white; the rest stays as it is. Each step is made `repeats` times (RePaint)."""
        if repeats < 1:
            raise NotPossible(f"repeats is 1 or more, not {repeats}")
        sampling = {"sampler": "ddim"} | sampling
        if any(own.sampler == "dpm" for own in stage_settings(self.stages, sampling)):
            raise NotPossible("inpainting repeats steps, which dpm can't undo: take ddim or ddpm")
        given = KnownPixels(image_to_tensor(image), mask_to_tensor(mask, image), repeats)
        made = self._make(prompt, 1, seed, negative_prompt, 0, len(self.stages), 1, progress, sampling, given=given)[0]
        whole = mask.convert("L").resize(made.size, Image.Resampling.NEAREST).point(lambda level: 255 * (level > 127))
        return Image.composite(made, image.convert("RGB").resize(made.size, Image.Resampling.BICUBIC), whole)

    def restyle(
        self,
        image: Image.Image,
        prompt: str | None = None,
        strength: float = 0.6,
        n: int = 1,
        seed: int = 0,
        negative_prompt: str | None = None,
        batch: int = BATCH,
        progress: Progress | None = None,
        **sampling: Any,
    ) -> list[Image.Image]:
        """The picture as the prompt has it: noised up to `strength`, and made again from there (SDEdit)."""
        if not 0 < strength <= 1:
            raise NotPossible(f"strength is more than 0 and at most 1, not {strength:g}")
        given, last = StartImage(image_to_tensor(image), strength), len(self.stages)
        return self._make(prompt, n, seed, negative_prompt, 0, last, batch, progress, sampling, given=given)

    def variations(
        self, image: Image.Image, n: int = 4, strength: float = 0.7, prompt: str | None = None, **more: Any
    ) -> list[Image.Image]:
        """Pictures like this one, each from a seed of its own."""
        return self.restyle(image, prompt, strength, n, **more)

    @torch.no_grad()
    def _make(
        self,
        prompts: Prompts,
        n: int,
        seed: int | Sequence[int],
        negative_prompt: str | None,
        first: int,
        last: int,
        batch: int,
        progress: Progress | None,
        sampling: dict[str, Any],
        small: Tensor | None = None,
        given: StartImage | KnownPixels | None = None,
    ) -> list[Image.Image]:
        if n < 1 or batch < 1:
            raise NotPossible(f"n and batch are 1 or more, not {n} and {batch}")
        asked = [prompts] if prompts is None or isinstance(prompts, str) else list(prompts)
        first_seeds = [seed] * len(asked) if isinstance(seed, int) else list(seed)
        if wrong := [one for one in first_seeds if not 0 <= one <= MOST_SEED]:
            raise NotPossible(f"seed is a number of 0 to {MOST_SEED}, not {wrong[0]}")
        if len(first_seeds) != len(asked):
            raise NotPossible(f"there are {len(first_seeds)} seeds for {len(asked)} prompts: give one, or one for each")
        if not asked:
            return []
        settings = stage_settings(self.stages, sampling)
        samplers = stage_schedulers(self.stages, sampling, settings)
        steps = list(zip(range(last), self.stages, settings, samplers, strict=False))[first:]
        texts = self.encode([prompt for prompt in asked for _ in range(n)])
        against = None if negative_prompt is None else self.encode([negative_prompt])
        seeds = [one + number for one in first_seeds for number in range(n)]
        made: list[Image.Image] = []
        for at in range(0, len(seeds), batch):
            part = slice(at, at + batch)
            text = None if texts is None else (texts[0][part], texts[1][part])
            try:
                pixels = self._cascade(seeds[part], text, against, steps, small, given, progress)
            except torch.OutOfMemoryError as error:
                raise NotPossible(
                    f"out of memory with {len(seeds[part])} pictures at once of {self.stages[last - 1].side} pixels: "
                    "lower the batch, stop at an earlier stage, or move one model at a time with "
                    "enable_model_cpu_offload()"
                ) from error
            made += [tensor_to_image(one) for one in pixels]
        self.maybe_free_model_hooks()  # where models are moved one at a time, the last one goes too
        return made

    def _cascade(
        self,
        seeds: list[int],
        text: tuple[Tensor, Tensor] | None,
        against: tuple[Tensor, Tensor] | None,
        steps: list[tuple[int, Stage, SampleSettings, Any]],
        small: Tensor | None,
        given: StartImage | KnownPixels | None,
        progress: Progress | None,
    ) -> Tensor:
        """Stage after stage: of each its number, itself, how it is sampled and by what."""
        count, device = len(seeds), self._execution_device
        made = None if small is None else small.to(device).expand(count, -1, -1, -1)
        told = {} if text is None else {"text": text[0], "seen": text[1]}
        if against is not None:
            told["against"] = against[0].expand(count, -1, -1), against[1].expand(count, -1)
        for at, stage, own, sampler in steps:
            rngs = [torch.Generator().manual_seed((seed << 2) + at) for seed in seeds]
            noise, conditioning = draw_noise(rngs, torch.empty(count, 3, stage.side, stage.side, device=device)), None
            if at:
                assert made is not None
                larger = enlarge(made, stage.side)
                conditioning = add_conditioning_noise(
                    larger, draw_noise(rngs, larger), larger.new_full((count,), own.level)
                )
            asked, tell = Conditioning(**told, small=conditioning), partial(progress, at) if progress else _nobody
            if isinstance(given, KnownPixels):
                kept = _kept(given, stage.side, count, device)
                made = repaint(stage.unet, stage.diffusion, own, noise, rngs, asked, kept, tell)
                continue
            start = None
            if given is not None and at == 0:
                start = StartImage(shrink(given.pixels.to(device), stage.side).expand_as(noise), given.strength)
            made = sample(stage.unet, stage.diffusion, own, noise, rngs, asked, start, sampler, tell)
        assert made is not None
        return made.cpu()

    @torch.no_grad()
    def encode(self, prompts: Sequence[str | None]) -> tuple[Tensor, Tensor] | None:
        """Vectors of each prompt (b n d) and which are there (b n); nothing where the model knows no text."""
        if self.config.text is None:
            if any(prompt is not None for prompt in prompts):
                raise NotPossible("this model was trained without text: it takes no prompt")
            return None
        distinct = list({prompt: None for prompt in prompts if prompt is not None})
        if not all(prompt.strip() for prompt in distinct):
            raise NotPossible("the prompt is empty: say what the picture should show, or None for whatever comes")
        said = dict(zip(distinct, self._encode_distinct(distinct), strict=True)) if distinct else {}
        if not all(one.isfinite().all() for one in said.values()):
            raise NotPossible(f"the prompt has vectors beyond what {self.config.text['dtype']} holds: say it otherwise")
        none = torch.zeros(0, self.unet.config.text_width)
        padded, seen = pad_embeddings([none if prompt is None else said[prompt].float().cpu() for prompt in prompts])
        return padded.to(self._execution_device), seen.to(self._execution_device)

    def _encode_distinct(self, prompts: list[str]) -> list[Tensor]:
        """Each prompt's vectors, as a dataset's precomputed ones are."""
        text, (tokenizer, encoder), found = self.config.text, self._t5(), []
        for prompt in prompts:
            vectors, rest = encode_prompt(tokenizer, encoder, prompt, text, self._execution_device)
            if rest:
                self._warn(f"the prompt is longer than {text['max_length']} tokens; not seen: {rest!r}")
            found.append(vectors)
        return found

    def _t5(self) -> tuple[Any, Any]:
        """The tokenizer and the text encoder, from the folder or by their id."""
        text = self.config.text
        if self.text_encoder is None:
            if text["encoder"] != "t5":
                raise NotPossible(
                    f"prompts are read by the {text['encoder']} model {text['model']!r}: "
                    "load this folder with imagen.Imagen"
                )
            try:
                tokenizer, encoder = load_t5(text["model"], text["model"], text["precision"])
            except (OSError, ValueError) as error:
                said = str(error).splitlines()[0]
                raise NotPossible(f"the text encoder {text['model']} can't be loaded: {said}") from None
            self.register_modules(tokenizer=tokenizer, text_encoder=encoder.to(self._execution_device))
        return self.tokenizer, self.text_encoder

    def _warn(self, message: str) -> None:
        """Warn at the line that called us, however deep we are."""
        frame, level = sys._getframe(1), 2
        while frame.f_back and (frame.f_locals.get("self") is self or frame.f_globals["__name__"].startswith("torch.")):
            frame, level = frame.f_back, level + 1
        warnings.warn(message, stacklevel=level)


def _kept(given: KnownPixels, side: int, count: int, device: Any) -> KnownPixels:
    """The same at a stage's size; a pixel is painted where any of what it covers is."""
    mask = torch.nn.functional.adaptive_max_pool2d(given.mask.to(device), side)
    pixels = shrink(given.pixels.to(device), side)
    return KnownPixels(pixels.expand(count, -1, -1, -1), mask.expand(count, -1, -1, -1), given.repeats)


def _nobody(step: int, steps: int) -> None:
    pass


def tensor_to_image(pixels: Tensor) -> Image.Image:  # 3 h w, -1 to 1
    levels = ((pixels.float().cpu() + 1) * 127.5).round().clamp(0, 255).byte()
    return Image.fromarray(levels.permute(1, 2, 0).numpy())
