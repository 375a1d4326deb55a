"""Captioners: what any image-to-text model of `transformers` writes of a picture. `built-in` is the world's tiny one.

Models come from a folder or the hub, as safetensors and with no code of their own. One that is asked in a chat gets
`prompt` as a question; to any other, `prompt` is how its captions begin.
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
from data.scorers.clip import device_of
from data.scorers.scorer import Columns, Describer

BUILT_IN = Path(__file__).parents[1] / "world" / "models" / "captioner"
QUESTION = "Describe this picture in one sentence."
FILES = "config.json, preprocessor_config.json, tokenizer.json and model.safetensors"
HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


class Captioner(Describer):
    """A sentence a picture, always the most probable next word; null where the model says nothing."""

    runs_by = frozenset({"model", "batch_size", "device"})

    model: str = Field(
        "built-in", description="'built-in', a folder, or a hub id: Salesforce/blip-image-captioning-base"
    )
    prompt: str | None = Field(None, description="what a model is asked, or how its captions begin")
    max_tokens: int = Field(64, ge=1, description="after which a caption is cut")
    batch_size: int = Field(16, ge=1)
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    precision: Literal["fp32", "fp16", "bf16"] = Field("fp32", description="of the arithmetic")

    @model_validator(mode="after")
    def _model_is_named(self) -> "Captioner":
        if self.folder is None and not HUB_NAME.fullmatch(self.model):
            raise ValueError(
                f"{self.model!r} is neither a folder here nor the name of a model in the hub; a captioner's folder "
                f"holds {FILES}"
            )
        return self

    @cached_property
    def folder(self) -> Path | None:
        """The folder that holds the whole model, if it is one."""
        return pretrained.folder_of(self.model, BUILT_IN)

    @cached_property
    def id(self) -> str:
        """Names the settings that change a caption, and the model by all its files."""
        name = re.sub(r"[^a-z0-9]+", "-", Path(self.model).name.lower()).strip("-")
        files = pretrained.captioner_files(weights_folder(self.model))
        return f"{super().id}-{name}-{pretrained.digest_of(files)[:8]}"

    @property
    def at_once(self) -> int:
        return self.batch_size

    def look(self, picture: Image.Image) -> Image.Image:
        return picture

    def say(self, seen: list[Any]) -> Columns:
        """A batch is always full, so that a caption does not depend on its company."""
        filled = [*seen, *[seen[-1]] * (self.batch_size - len(seen))]
        said = load(self.model, self.precision, self.device).say(filled, self.prompt, self.max_tokens)
        return {"text": [caption or None for caption in said[: len(seen)]]}


class Loaded:
    """A model on its device, with what prepares pictures and reads its tokens."""

    def __init__(self, folder: Path, precision: str, device: str) -> None:
        import torch
        from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoProcessor, AutoTokenizer
        from transformers.processing_utils import ProcessorMixin
        from transformers.utils import logging

        logging.disable_progress_bar()
        self.torch, self.device = torch, device_of(device)
        self.dtype = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}[precision]
        own: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
        try:
            processor = AutoProcessor.from_pretrained(folder, **own)
            self.together = isinstance(processor, ProcessorMixin)
            self.prepare = processor if self.together else AutoImageProcessor.from_pretrained(folder, **own)
            self.tokenizer = processor.tokenizer if self.together else AutoTokenizer.from_pretrained(folder, **own)
            model = AutoModelForImageTextToText.from_pretrained(folder, dtype=self.dtype, use_safetensors=True, **own)
        except Exception as error:
            said = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ModelError(f"captioner {folder} can't be loaded: {said}. Its folder holds {FILES}") from error
        self.model = model.to(self.device).eval()
        words = model.config.get_text_config(decoder=True)
        self.room = getattr(words, "max_position_embeddings", None) or sys.maxsize  # tokens that the model can place
        self.chats = bool(getattr(processor, "chat_template", None)) and self.together
        if not model.config.is_encoder_decoder:
            self.tokenizer.padding_side = "left"  # what is written goes on from the end of what is asked

    def say(self, pictures: Sequence[Image.Image], prompt: str | None, max_tokens: int) -> list[str]:
        """A caption of each picture, in one line."""
        asked = self._asked([picture.convert("RGB") for picture in pictures], prompt)
        given = {name: value.to(self.device) for name, value in asked.items() if hasattr(value, "to")}
        for name, value in given.items():
            given[name] = value.to(self.dtype) if value.is_floating_point() else value
        before = given.get("input_ids", given.get("decoder_input_ids"))
        room = self.room - (1 if before is None else before.shape[1])
        with self.torch.inference_mode():
            tokens = self.model.generate(**given, max_new_tokens=min(max_tokens, room), do_sample=False, num_beams=1)
        before = given.get("input_ids")
        if before is not None and self.torch.equal(tokens[:, : before.shape[1]], before):
            tokens = tokens[:, before.shape[1] :]
        return [" ".join(text.split()) for text in self.tokenizer.batch_decode(tokens, skip_special_tokens=True)]

    def _asked(self, pictures: list[Image.Image], prompt: str | None) -> Any:
        """What the model is given of pictures and prompt."""
        if self.chats:
            question = {"type": "text", "text": prompt or QUESTION}
            chats = [[{"role": "user", "content": [{"type": "image", "image": one}, question]}] for one in pictures]
            more = {"tokenize": True, "return_dict": True, "return_tensors": "pt", "padding": True}
            return self.prepare.apply_chat_template(chats, add_generation_prompt=True, **more)
        if prompt is None:
            return self.prepare(images=pictures, return_tensors="pt")
        if self.together:
            return self.prepare(images=pictures, text=[prompt] * len(pictures), padding=True, return_tensors="pt")
        begin = self.tokenizer([prompt] * len(pictures), return_tensors="pt", add_special_tokens=False).input_ids
        start = self.torch.full((len(pictures), 1), self.model.generation_config.decoder_start_token_id)
        return {
            **self.prepare(images=pictures, return_tensors="pt"),
            "decoder_input_ids": self.torch.cat([start, begin], 1),
        }


def weights_folder(model: str) -> Path:
    """Where a captioner's files lie, all of them; fetched where it is one of the hub's."""
    folder = BUILT_IN if model == "built-in" else Path(model)
    if not folder.is_dir():
        if not HUB_NAME.fullmatch(model):
            raise ModelError(f"there is no folder {model}. A captioner's folder holds {FILES}")
        folder = pretrained.hub_captioner(model)
    if pretrained.captioner_files(folder):
        return folder
    pickles = [path.name for path in sorted(folder.iterdir()) if path.suffix in pretrained.PICKLES]
    found = f"; {pickles[0]} is a pickle, which can run code: it is not read" if pickles else ""
    raise ModelError(f"{model} holds no whole captioner: {FILES} are expected{found}")


@lru_cache(maxsize=2)
def load(model: str, precision: str = "fp32", device: str = "auto") -> Loaded:
    """The model of these settings, once a process."""
    return Loaded(weights_folder(model), precision, device)
