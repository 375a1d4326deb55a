"""Captions pictures with any image-to-text model of `transformers`. `built-in` is the tiny model of the built-in world.

Models are loaded from a folder or the Hugging Face hub. They must be safetensors without custom code. A chat model gets
`prompt` as a question. The captions of any other model begin with `prompt`.
"""

import re
import sys
from collections.abc import Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

from PIL import Image
from pydantic import Field, model_validator

from data.errors import ModelError
from data.scorers import pretrained
from data.scorers.clip import resolve_device
from data.scorers.scorer import Columns, Describer

BUILT_IN = Path(__file__).parents[1] / "world" / "models" / "captioner"
QUESTION = "Describe this picture in one sentence."
FILES = "config.json, preprocessor_config.json, tokenizer.json and model.safetensors"
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


class Captioner(Describer):
    """Writes a caption for each picture by greedy decoding. The caption is null if the model generates no text."""

    runs_by = frozenset({"model", "batch_size", "device"})

    model: str = Field(
        "built-in", description="'built-in', a folder, or a hub id: Salesforce/blip-image-captioning-base"
    )
    prompt: str | None = Field(None, description="question for a chat model; how captions begin for another model")
    max_tokens: int = Field(64, ge=1, description="longest caption, in tokens; a longer one is cut")
    batch_size: int = Field(16, ge=1, description="pictures that the model gets at once")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="precision of the arithmetic")

    @model_validator(mode="after")
    def _check_model_name(self) -> "Captioner":
        if self.folder is None and not HUB_NAME.fullmatch(self.model):
            raise ValueError(
                f"{self.model!r} is neither a folder here nor the name of a model in the hub; a captioner's folder "
                f"holds {FILES}"
            )
        return self

    @cached_property
    def folder(self) -> Path | None:
        """The model's folder; None if `model` is a hub id."""
        return pretrained.local_folder(self.model, BUILT_IN)

    @cached_property
    def id(self) -> str:
        """The id: the settings that change a caption, and a digest of all files of the model."""
        name = re.sub(r"[^a-z0-9]+", "-", Path(self.model).name.lower()).strip("-")
        files = pretrained.captioner_files(weights_folder(self.model))
        return f"{super().id}-{name}-{pretrained.digest_files(files)[:8]}"

    @property
    def max_batch(self) -> int:
        """The batch size."""
        return self.batch_size

    def look(self, picture: Image.Image) -> Image.Image:
        """Return the picture unchanged, because the model's processor prepares whole batches."""
        return picture

    def score_batch(self, batch: list[Any]) -> Columns:
        """Caption each picture. Batches are padded to full size, so a caption does not depend on the other pictures."""
        padded = [*batch, *[batch[-1]] * (self.batch_size - len(batch))]
        captions = load(self.model, self.precision, self.device).describe(padded, self.prompt, self.max_tokens)
        return {"text": [caption or None for caption in captions[: len(batch)]]}


class LoadedCaptioner:
    """An image-to-text model on its device, with its processor and tokenizer.

    Raises:
        ModelError: `transformers` can't load it.
    """

    def __init__(self, folder: Path, precision: str, device: str) -> None:
        import torch
        from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
        from transformers.processing_utils import ProcessorMixin
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.torch, self.device = torch, resolve_device(device)
        self.dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        local: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
        try:
            processor = AutoProcessor.from_pretrained(folder, **local)
            self.has_processor = isinstance(processor, ProcessorMixin)  # which prepares pictures and text together
            if self.has_processor:
                self.prepare, self.tokenizer = processor, processor.tokenizer
            else:
                self.prepare = AutoImageProcessor.from_pretrained(folder, **local)
                self.tokenizer = AutoTokenizer.from_pretrained(folder, **local)
            model = AutoModelForImageTextToText.from_pretrained(folder, dtype=self.dtype, use_safetensors=True, **local)
        except Exception as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelError(f"captioner {folder} can't be loaded: {reason}. Its folder holds {FILES}") from error
        self.model = model.to(self.device).eval()
        decoder = model.config.get_text_config(decoder=True)
        self.max_positions = getattr(decoder, "max_position_embeddings", None) or sys.maxsize
        self.is_chat_model = bool(getattr(processor, "chat_template", None)) and self.has_processor
        if not model.config.is_encoder_decoder:
            self.tokenizer.padding_side = "left"  # generation continues from the end of the prompt

    def describe(self, pictures: Sequence[Image.Image], prompt: str | None, max_tokens: int) -> list[str]:
        """Return a caption for each picture, on one line.

        Args:
            pictures: one batch of pictures.
            prompt: the question for a chat model, or the beginning of another model's captions; None for the default.
            max_tokens: the most tokens of a caption.
        """
        batch = self._prepare([picture.convert("RGB") for picture in pictures], prompt)
        inputs = {name: value.to(self.device) for name, value in batch.items() if hasattr(value, "to")}
        for name, value in inputs.items():
            inputs[name] = value.to(self.dtype) if value.is_floating_point() else value
        prompt_tokens = inputs.get("input_ids", inputs.get("decoder_input_ids"))
        positions_left = self.max_positions - (1 if prompt_tokens is None else prompt_tokens.shape[1])
        with self.torch.inference_mode():
            tokens = self.model.generate(
                **inputs, max_new_tokens=min(max_tokens, positions_left), do_sample=False, num_beams=1
            )
        prompt_tokens = inputs.get("input_ids")
        if prompt_tokens is not None and self.torch.equal(tokens[:, : prompt_tokens.shape[1]], prompt_tokens):
            tokens = tokens[:, prompt_tokens.shape[1] :]
        return [" ".join(text.split()) for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    def _prepare(self, pictures: list[Image.Image], prompt: str | None) -> Any:
        """Return the model's inputs for pictures and a prompt."""
        if self.is_chat_model:
            question = {"type": "text", "text": prompt or QUESTION}
            chats = []
            for picture in pictures:
                content = [{"type": "image", "image": picture}, question]
                chats.append([{"role": "user", "content": content}])
            options = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "padding": True}
            return self.prepare.apply_chat_template(chats, add_generation_prompt=True, **options)
        if prompt is None:
            return self.prepare(images=pictures, return_tensors="pt")
        if self.has_processor:
            return self.prepare(images=pictures, text=[prompt] * len(pictures), padding=True, return_tensors="pt")
        prompts = self.tokenizer([prompt] * len(pictures), return_tensors="pt", add_special_tokens=False).input_ids
        start = self.torch.full((len(pictures), 1), self.model.generation_config.decoder_start_token_id)
        return {
            **self.prepare(images=pictures, return_tensors="pt"),
            "decoder_input_ids": self.torch.cat([start, prompts], 1),
        }


def weights_folder(model: str) -> Path:
    """Return the folder with all files of a captioner. A model from the hub is downloaded first.

    Args:
        model: `built-in`, a folder, or a hub id.

    Raises:
        ModelError: there is no such model, or a part of it is missing.
    """
    folder = BUILT_IN if model == "built-in" else Path(model)
    if not folder.is_dir():
        if not HUB_NAME.fullmatch(model):
            raise ModelError(f"there is no folder {model}. A captioner's folder holds {FILES}")
        folder = pretrained.fetch_captioner(model)
    if pretrained.captioner_files(folder):
        return folder
    pickles = [path.name for path in sorted(folder.iterdir()) if path.suffix in pretrained.PICKLES]
    hint = f"; {pickles[0]} is a pickle, which can run code: it is not read" if pickles else ""
    raise ModelError(f"{model} is not a complete captioner, which has {FILES}{hint}")


@lru_cache(maxsize=2)
def load(model: str, precision: str = "fp32", device: str = "auto") -> LoadedCaptioner:
    """Load the model onto its device, once per process.

    Raises:
        ModelError: there is no such model, or `transformers` can't load it.
    """
    return LoadedCaptioner(weights_folder(model), precision, device)
