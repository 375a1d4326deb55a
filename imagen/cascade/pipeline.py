"""A trained cascade as a diffusers pipeline: images from prompts, and from other images.

This file and those that it imports are written into a model's folder, from which plain diffusers loads them. So they do
not use datasets or lakes; `Imagen` in models/model.py adds those.
"""

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
    image_seeds,
    image_to_tensor,
    mask_to_tensor,
    stage_schedulers,
    stage_settings,
    tensor_to_image,
    warn_caller,
)
from imagen.cascade.diffusion import Diffusion
from imagen.cascade.prompts import embed_prompts, encode_prompt, load_t5
from imagen.cascade.resize import add_conditioning_noise, enlarge, shrink
from imagen.cascade.sampling import Conditioning, KnownPixels, StartImage, draw_noise, repaint, sample
from imagen.cascade.settings import DiffusionSettings, SampleSettings

BATCH = 16  # images that are made at once
Prompts = str | Sequence[str] | None
Progress = Callable[[int, int, int], None]  # stage, steps done, steps of the stage


class ImagenPipeline(DiffusionPipeline):
    """A cascade of up to three stages: a base model and super-resolution models.

    The same seed gives the same image, whatever else is in its batch.

    Args:
        stages: for each model its `resolution`, its `diffusion` settings and, under `sample`, its default sampling
            settings.
        text: settings of the encoder that embeds prompts, among them `encoder`, `model`, `max_length` and `dtype`;
            None for models without text.
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
        stages: list = [],  # noqa: B006 - diffusers reads types and defaults
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
        """The diffusion of each stage."""
        return [Diffusion(DiffusionSettings(**stage["diffusion"]), stage["resolution"]) for stage in self.config.stages]

    @property
    def stages(self) -> list[Stage]:
        """The stages with their models and schedulers as they are now."""
        models = [(self.unet, self.scheduler), (self.unet_2, self.scheduler_2), (self.unet_3, self.scheduler_3)]
        parts = zip(models, self.diffusions, self.config.stages, strict=False)
        return [Stage(*model, diffusion, SampleSettings(**stage["sample"])) for model, diffusion, stage in parts]

    def __call__(self, prompt: Prompts = None, **options: Any) -> ImagePipelineOutput:
        """Call `generate_images` in the way of diffusers' pipelines: the images are in `.images` of the result."""
        return ImagePipelineOutput(images=self.generate_images(prompt, **options))

    def generate_image(self, prompt: str | None = None, **options: Any) -> Image.Image:
        """Generate one image for a prompt. Options are those of `generate_images`."""
        return self.generate_images(prompt, **options)[0]

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
        """Generate `n` images for each prompt.

        Args:
            prompts: a prompt, or a list of prompts; None generates without text.
            seed: the seed of the first image of a prompt; each further image adds 1. A list has a seed for each prompt.
            negative_prompt: what the images should not show.
            stages: how many stages are run; all if not given.
            batch: how many images are made at once.
            progress: called after each step with the stage, the steps done, and the stage's steps.
            sampling: fields of SampleSettings; a list has a value for each stage.

        Raises:
            NotPossible: the request can't be served; the sentence says what to change.

        Example:
            model.generate_images(["a red circle", "a star"], n=2, guidance=3.0, steps=[30, 10])
        """
        count = check_stage_count(self.stages, stages)
        return self._generate(prompts, n, seed, negative_prompt, 0, count, batch, progress, sampling)

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
        """Enlarge an image by the stages whose images are larger. See `generate_images` for the other arguments.

        Raises:
            NotPossible: no stage makes larger images.
        """
        pixels, count = image_to_tensor(image), check_stage_count(self.stages, stages)
        larger = [number for number, stage in enumerate(self.stages) if number and stage.side > image.width]
        if not larger or larger[0] >= count:
            sides = ", ".join(str(stage.side) for stage in self.stages[1:count]) or "none"
            raise NotPossible(f"an image of {image.width} pixels can't be enlarged: the models make sides of {sides}")
        first = larger[0]
        return self._generate(prompt, 1, seed, negative_prompt, first, count, 1, progress, sampling, low_res=pixels)[0]

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
        """Paint where the mask is white, and keep the rest (RePaint). Other arguments are those of `generate_images`.

        Args:
            repeats: how often each step is made; with more repeats the painted part fits the rest better.

        Raises:
            NotPossible: mask and image have different sizes, or the sampler is dpm.
        """
        if repeats < 1:
            raise NotPossible(f"repeats is 1 or more, not {repeats}")
        sampling = {"sampler": "ddim"} | sampling
        if any(settings.sampler == "dpm" for settings in stage_settings(self.stages, sampling)):
            raise NotPossible("inpainting repeats steps, which dpm can't do: take ddim or ddpm")
        known = KnownPixels(image_to_tensor(image), mask_to_tensor(mask, image), repeats)
        count = len(self.stages)
        painted = self._generate(prompt, 1, seed, negative_prompt, 0, count, 1, progress, sampling, source=known)[0]
        white = (
            mask.convert("L").resize(painted.size, Image.Resampling.NEAREST).point(lambda level: 255 * (level > 127))
        )
        return Image.composite(painted, image.convert("RGB").resize(painted.size, Image.Resampling.BICUBIC), white)

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
        """Add noise to an image up to `strength` and sample from there (SDEdit).

        Other arguments are those of `generate_images`.

        Args:
            strength: from just above 0, where the image stays, to 1, where nothing of it is left.

        Raises:
            NotPossible: the strength is out of range.
        """
        if not 0 < strength <= 1:
            raise NotPossible(f"strength is more than 0 and at most 1, not {strength:g}")
        start, count = StartImage(image_to_tensor(image), strength), len(self.stages)
        return self._generate(prompt, n, seed, negative_prompt, 0, count, batch, progress, sampling, source=start)

    def variations(
        self, image: Image.Image, n: int = 4, strength: float = 0.7, prompt: str | None = None, **options: Any
    ) -> list[Image.Image]:
        """Make `n` images similar to one, each with its own seed. Options are those of `restyle`."""
        return self.restyle(image, prompt, strength, n, **options)

    @torch.no_grad()
    def _generate(
        self,
        prompts: Prompts,
        n: int,
        seed: int | Sequence[int],
        negative_prompt: str | None,
        first: int,
        count: int,
        batch: int,
        progress: Progress | None,
        sampling: dict[str, Any],
        low_res: Tensor | None = None,
        source: StartImage | KnownPixels | None = None,
    ) -> list[Image.Image]:
        """Run the stages from number `first` up to, not including, `count`, batch after batch."""
        if n < 1 or batch < 1:
            raise NotPossible(f"n and batch are 1 or more, not {n} and {batch}")
        each = [prompts] if prompts is None or isinstance(prompts, str) else list(prompts)
        seeds = image_seeds(seed, len(each), n)
        if not each:
            return []
        settings = stage_settings(self.stages, sampling)
        schedulers = stage_schedulers(self.stages, sampling, settings)
        runs = list(zip(range(count), self.stages, settings, schedulers, strict=False))[first:]
        text = self.encode([prompt for prompt in each for _ in range(n)])
        negative = None if negative_prompt is None else self.encode([negative_prompt])
        images: list[Image.Image] = []
        for begin in range(0, len(seeds), batch):
            part = slice(begin, begin + batch)
            part_text = None if text is None else (text[0][part], text[1][part])
            try:
                pixels = self._run_stages(seeds[part], part_text, negative, runs, low_res, source, progress)
            except torch.OutOfMemoryError as error:
                raise NotPossible(
                    f"out of memory with {len(seeds[part])} images at once of {self.stages[count - 1].side} pixels: "
                    "lower the batch, stop at an earlier stage, or move one model at a time with "
                    "enable_model_cpu_offload()"
                ) from error
            images += [tensor_to_image(image) for image in pixels]
        self.maybe_free_model_hooks()  # with models that are moved one at a time, the last one goes too
        return images

    def _run_stages(
        self,
        seeds: list[int],
        text: tuple[Tensor, Tensor] | None,
        negative: tuple[Tensor, Tensor] | None,
        runs: list[tuple[int, Stage, SampleSettings, Any]],
        low_res: Tensor | None,
        source: StartImage | KnownPixels | None,
        progress: Progress | None,
    ) -> Tensor:
        """Run one batch through the stages. `runs` has for each its number, the stage, settings and scheduler."""
        count, device = len(seeds), self._execution_device
        pixels = None if low_res is None else low_res.to(device).expand(count, -1, -1, -1)
        text_tensor, mask = text or (None, None)
        if negative is not None:
            negative = negative[0].expand(count, -1, -1), negative[1].expand(count, -1)
        for number, stage, settings, scheduler in runs:
            rngs = [torch.Generator().manual_seed((seed << 2) + number) for seed in seeds]
            noise = draw_noise(rngs, torch.empty(count, 3, stage.side, stage.side, device=device))
            noisy_low_res = None
            if number:
                assert pixels is not None
                larger = enlarge(pixels, stage.side)
                level = larger.new_full((count,), settings.level)
                noisy_low_res = add_conditioning_noise(larger, draw_noise(rngs, larger), level)
            conditioning = Conditioning(text_tensor, mask, negative, noisy_low_res)
            on_step = partial(progress, number) if progress else None
            if isinstance(source, KnownPixels):
                known = source.at_size(stage.side, count, device)
                pixels = repaint(stage.unet, stage.diffusion, settings, noise, rngs, conditioning, known, on_step)
                continue
            start = None
            if source is not None and number == 0:
                start = StartImage(shrink(source.pixels.to(device), stage.side).expand_as(noise), source.strength)
            pixels = sample(stage.unet, stage.diffusion, settings, noise, rngs, conditioning, start, scheduler, on_step)
        assert pixels is not None
        return pixels.cpu()

    @torch.no_grad()
    def encode(self, prompts: Sequence[str | None]) -> tuple[Tensor, Tensor] | None:
        """Embed prompts.

        Returns:
            The embeddings (b n d) and the mask of their tokens (b n); None for a model without text.

        Raises:
            NotPossible: a prompt is empty, or the model was trained without text.
        """
        if self.config.text is None:
            if any(prompt is not None for prompt in prompts):
                raise NotPossible("this model was trained without text: it takes no prompt")
            return None
        embeddings, mask = embed_prompts(prompts, self.unet.config.text_width, self._encode_distinct)
        return embeddings.to(self._execution_device), mask.to(self._execution_device)

    def _encode_distinct(self, prompts: list[str]) -> list[Tensor]:
        """Return the embeddings of each prompt (n d), made in the same way as a dataset's embeddings of captions."""
        text, (tokenizer, encoder) = self.config.text, self._t5()
        embeddings = []
        for prompt in prompts:
            embedding, rest = encode_prompt(tokenizer, encoder, prompt, text, self._execution_device)
            if rest:
                warn_caller(
                    self, f"the prompt is longer than {text['max_length']} tokens; this part is ignored: {rest!r}"
                )
            embeddings.append(embedding)
        return embeddings

    def _t5(self) -> tuple[Any, Any]:
        """Return the tokenizer and the text encoder, from the model's folder or by their hub id."""
        text = self.config.text
        if self.text_encoder is None:
            if text["encoder"] != "t5":
                raise NotPossible(
                    f"prompts are encoded by the {text['encoder']} model {text['model']!r}: "
                    "load this folder with imagen.Imagen"
                )
            try:
                tokenizer, encoder = load_t5(text["model"], text["model"], text["precision"])
            except (OSError, ValueError) as error:
                raise NotPossible(
                    f"the text encoder {text['model']} can't be loaded: {str(error).splitlines()[0]}"
                ) from None
            self.register_modules(tokenizer=tokenizer, text_encoder=encoder.to(self._execution_device))
        return self.tokenizer, self.text_encoder
