"""`Imagen`: a trained cascade from a folder, a URL or a lake, and how it becomes a folder in `diffusers`' layout.

A folder holds `model_index.json`, a folder for each model with its configuration, its weights as safetensors and its
code, each model's scheduler, and the text encoder or its id. Whatever is wrong with one is said before it is used.
"""

import os
import re
from typing import Any

import torch
from torch import Tensor

from data.encoders.encoder import encode
from data.encoders.encoder import load as load_encoder
from data.encoders.settings import EncoderSettings
from data.environment import read_settings
from data.lake import storage
from data.lake.lake import Lake
from imagen.cascade.checks import NotPossible
from imagen.cascade.pipeline import ImagenPipeline
from imagen.errors import ModelNotFound
from imagen.models.folder import INDEX, parts_of, write_folder


class Imagen(ImagenPipeline):
    """`Imagen.from_pretrained(where).generate_image("a red circle")`."""

    @classmethod
    def from_pretrained(
        cls, where: str | os.PathLike[str], lake: str | None = None, device: Any = None, dtype: Any = None
    ) -> "Imagen":
        """By folder, by URL, or by a lake's NAME/NUMBER or NAME/champion."""
        url = located(os.fspath(where), lake)
        model = cls(**parts_of(url))
        return model.to(device=device, dtype=dtype) if device or dtype else model

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        write_folder(self, os.fspath(save_directory))

    def _vectors(self, prompts: list[str]) -> list[Tensor]:
        """Prompts of an encoder that is not a T5 go the way that captions went."""
        text = self.config.text
        if text["encoder"] == "t5":
            return super()._vectors(prompts)
        settings = encoder_settings(text).model_copy(update={"device": str(self._execution_device)})
        said, found = encode(load_encoder(settings), prompts, settings), []
        for prompt, vectors, cut, wrong in zip(
            prompts, said["embedding"], said["truncated"], said["error"], strict=True
        ):
            if wrong:
                raise NotPossible(f"the prompt {prompt!r} can't be read: {wrong}")
            if cut:
                self._warn(
                    f"the prompt is longer than the {text['encoder']} model reads; its end is not seen: {prompt!r}"
                )
            width = self.unet.config.text_width
            found.append(torch.frombuffer(bytearray(vectors), dtype=getattr(torch, settings.dtype)).view(-1, width))
        return found


def encoder_settings(text: dict[str, Any]) -> EncoderSettings:
    """Of what a cascade says of its text."""
    return EncoderSettings(**{name: value for name, value in text.items() if name in EncoderSettings.model_fields})


def located(where: str, lake: str | None = None) -> str:
    """The URL of a cascade's folder."""
    if storage.exists(storage.join(where, INDEX)):
        return where
    if re.fullmatch(r"[a-z][a-z0-9_-]*/(\d+|champion)", where):
        from imagen.models.table import find_model

        found = Lake.open(lake or read_settings().lake)
        return storage.join(found.url, find_model(found, where).folder)
    raise ModelNotFound(
        f"{where} holds no cascade (it has no {INDEX}) and is no NAME/NUMBER or NAME/champion of a lake's model"
    )
