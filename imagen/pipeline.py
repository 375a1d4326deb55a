"""A trained cascade as a `diffusers` pipeline: prompts become pictures, and pictures other ones.

This file and those it imports are written into a model's folder, where plain `diffusers` loads them; so they know
nothing of datasets and lakes. `model.py` is what our own users load.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from PIL import Image
from torch import Tensor

from imagen.diffusion import Diffusion, DiffusionSettings
from imagen.resize import augmented, enlarged, shrunk
from imagen.sampling import Asked, Given, SampleSettings, drawn, sample

BATCH = 16  # pictures that are made at once
Prompts = str | Sequence[str] | None
Progress = Callable[[int, int, int], None]  # stage, step, of so many steps


class NotPossible(ValueError):
    """What was asked for can't be made: the sentence says what to change."""


@dataclass(frozen=True)
class Stage:
    """One model of the cascade."""

    unet: Any
    scheduler: Any
    diffusion: Diffusion
    settings: SampleSettings

    @property
    def side(self) -> int:
        return self.diffusion.resolution


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
        seed: int = 0,
        negative_prompt: str | None = None,
        stages: int | None = None,
        batch: int = BATCH,
        progress: Progress | None = None,
        **sampling: Any,
    ) -> list[Image.Image]:
        """`n` pictures of each prompt, the k-th from the seed + k; `stages` fewer than all stops early.

        `sampling` changes SampleSettings: guidance=3.0 for every stage, steps=[30, 10] for each.
        """
        last = self._last(stages)
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
        pixels, last = self._pixels(image), self._last(stages)
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
        if mask.size != image.size:
            raise NotPossible(
                f"the mask is {mask.width} x {mask.height} pixels and the picture {image.width} x {image.height}: "
                "make the mask of the picture's size"
            )
        pixels = self._pixels(image)
        painted = torch.from_numpy(np.array(mask.convert("L"))).to(self.device)[None, None] > 127
        sampling = {"sampler": "ddim"} | sampling
        if sampling["sampler"] == "dpm":
            raise NotPossible("inpainting repeats steps, which dpm can't undo: take ddim or ddpm")
        given = Given(pixels, mask=painted.to(pixels.dtype), repeats=repeats)
        made = self._make(prompt, 1, seed, negative_prompt, 0, self._last(None), 1, progress, sampling, given=given)[0]
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
        given, last = Given(self._pixels(image), strength), self._last(None)
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
        seed: int,
        negative_prompt: str | None,
        first: int,
        last: int,
        batch: int,
        progress: Progress | None,
        sampling: dict[str, Any],
        small: Tensor | None = None,
        given: Given | None = None,
    ) -> list[Image.Image]:
        if n < 1 or batch < 1:
            raise NotPossible(f"n and batch are 1 or more, not {n} and {batch}")
        asked = [prompts] if prompts is None or isinstance(prompts, str) else list(prompts)
        settings = self._settings(sampling)
        texts = self.encode([prompt for prompt in asked for _ in range(n)])
        against = None if negative_prompt is None else self.encode([negative_prompt])
        seeds = [seed + number for _ in asked for number in range(n)]
        made: list[Image.Image] = []
        for at in range(0, len(seeds), batch):
            part = slice(at, at + batch)
            text = None if texts is None else (texts[0][part], texts[1][part])
            try:
                pixels = self._cascade(seeds[part], text, against, settings[first:last], first, small, given, progress)
            except torch.OutOfMemoryError as error:
                raise NotPossible(
                    f"out of memory with {len(seeds[part])} pictures at once of {self.stages[last - 1].side} pixels: "
                    "lower the batch, stop at an earlier stage, or move one model at a time with "
                    "enable_model_cpu_offload()"
                ) from error
            made += [_picture(one) for one in pixels]
        return made

    def _cascade(
        self,
        seeds: list[int],
        text: tuple[Tensor, Tensor] | None,
        against: tuple[Tensor, Tensor] | None,
        settings: list[SampleSettings],
        first: int,
        small: Tensor | None,
        given: Given | None,
        progress: Progress | None,
    ) -> Tensor:
        """Stage after stage, from the first that is asked for."""
        made = None if small is None else small.expand(len(seeds), -1, -1, -1)
        device, dtype = self._execution_device, self.unet.dtype
        for at, (stage, own) in enumerate(zip(self.stages[first:], settings, strict=False), start=first):
            rngs = [torch.Generator().manual_seed((seed << 2) + at) for seed in seeds]
            shape = torch.empty(len(seeds), 3, stage.side, stage.side, device=device, dtype=dtype)
            noise, conditioning = drawn(rngs, shape), None
            if at:
                assert made is not None
                larger = enlarged(made.to(device), stage.side)
                level = torch.full((len(seeds),), own.level, device=device, dtype=dtype)
                conditioning = augmented(larger, drawn(rngs, larger), level)
            told = {} if text is None else {"text": text[0], "seen": text[1]}
            if against is not None and text is not None:
                negative = against[0].expand(len(seeds), -1, -1), against[1].expand(len(seeds), -1)
                told["against"] = negative
            begins = given is not None and (at == 0 or given.mask is not None)
            start = _given(given, stage.side, len(seeds)) if given is not None and begins else None
            made = sample(
                stage.unet,
                stage.diffusion,
                own,
                noise,
                rngs,
                Asked(**told, small=conditioning),
                start,
                stage.scheduler if own.sampler == stage.settings.sampler else None,
                partial(progress, at) if progress else lambda step, steps: None,
            )
        assert made is not None
        return made.float().cpu()

    def encode(self, prompts: Sequence[str | None]) -> tuple[Tensor, Tensor] | None:
        """Vectors of each prompt (b n d) and which are there (b n); nothing where the model knows no text."""
        text = self.config.text
        if text is None:
            if any(prompt is not None for prompt in prompts):
                raise NotPossible("this model was trained without text: it takes no prompt")
            return None
        for prompt in prompts:
            if prompt is not None and not prompt.strip():
                raise NotPossible("the prompt is empty: say what the picture should show")
        said = dict(zip(distinct := list({p for p in prompts if p is not None}), self._vectors(distinct), strict=True))
        width = self.unet.config.text_width
        longest = max([len(one) for one in said.values()], default=0)
        padded = torch.zeros(len(prompts), longest, width)
        seen = torch.zeros(len(prompts), longest, dtype=torch.bool)
        for row, prompt in enumerate(prompts):
            if prompt is not None:
                padded[row, : len(said[prompt])] = said[prompt].float()
                seen[row, : len(said[prompt])] = True
        return padded.to(self._execution_device, self.unet.dtype), seen.to(self._execution_device)

    def _vectors(self, prompts: list[str]) -> list[Tensor]:
        """Each prompt's vectors, as a dataset's precomputed ones are: stored in the same numbers."""
        text, tokenizer, encoder = self.config.text, *self._t5()
        found = []
        for prompt in prompts:
            ids = tokenizer(prompt).input_ids
            kept = tokenizer(prompt, truncation=True, max_length=text["max_length"], return_tensors="pt").input_ids
            if len(ids) > kept.shape[1]:
                rest = tokenizer.decode(ids[kept.shape[1] - 1 :], skip_special_tokens=True)
                warnings.warn(
                    f"the prompt is longer than {text['max_length']} tokens; not seen: {rest!r}", stacklevel=5
                )
            hidden = encoder(input_ids=kept.to(encoder.device)).last_hidden_state[0]
            found.append(hidden.to(getattr(torch, text["dtype"])))
        return found

    def _t5(self) -> tuple[Any, Any]:
        """The tokenizer and the text encoder, from the folder or by their id."""
        text = self.config.text
        if self.text_encoder is None:
            if text["encoder"] != "t5":
                raise NotPossible(f"prompts are read by {text['model']}: load the model with imagen.Imagen")
            from transformers import AutoTokenizer, T5EncoderModel

            encoder = T5EncoderModel.from_pretrained(text["model"]).to(self._execution_device)
            self.register_modules(tokenizer=AutoTokenizer.from_pretrained(text["model"]), text_encoder=encoder)
        return self.tokenizer, self.text_encoder

    def _settings(self, sampling: dict[str, Any]) -> list[SampleSettings]:
        """Of each stage, as it was saved but for what is told now."""
        found = []
        for at, stage in enumerate(self.stages):
            own = {name: value[at] if isinstance(value, list) else value for name, value in sampling.items()}
            found.append(SampleSettings(**{**stage.settings.model_dump(), **own}))
        return found

    def _last(self, stages: int | None) -> int:
        there = len(self.stages)
        if stages is not None and not 1 <= stages <= there:
            raise NotPossible(f"the model has {there} stages: it can't be stopped after {stages}")
        return stages or there

    def _pixels(self, image: Image.Image) -> Tensor:
        if image.width != image.height:
            raise NotPossible(f"the picture is {image.width} x {image.height} pixels: it has to be square, crop it")
        values = torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)[None]
        return (values.float() / 127.5 - 1).to(self._execution_device, self.unet.dtype)


def _given(given: Given, side: int, count: int) -> Given:
    """The same at a stage's size; a pixel is painted where any of what it covers is."""
    pixels = shrunk(given.pixels, side).expand(count, -1, -1, -1)
    if given.mask is None:
        return Given(pixels, given.strength)
    mask = torch.nn.functional.adaptive_max_pool2d(given.mask, side).expand(count, -1, -1, -1)
    return Given(pixels, given.strength, mask, given.repeats)


def _picture(pixels: Tensor) -> Image.Image:  # 3 h w
    return Image.fromarray(((pixels + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0).numpy())
