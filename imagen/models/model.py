"""`Imagen`: a trained cascade, loaded from a folder, a URL or a lake, and saved as a folder in diffusers' layout.

A model's folder contains `model_index.json`, a folder for each U-Net with its configuration, its weights as safetensors
and its code, the scheduler of each U-Net, and the text encoder or its id. A damaged folder is reported when it is
loaded.
"""

import os
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from imagen.cascade.checks import NotPossible, warn_caller
from imagen.cascade.pipeline import ImagenPipeline
from imagen.models.folder import load_components, write_folder
from imagen.models.table import model_url

if TYPE_CHECKING:
    from data.encoders.settings import EncoderSettings


class Imagen(ImagenPipeline):
    """A trained cascade that turns prompts into images.

    Example:
        Imagen.from_pretrained("shapes/champion", lake="./lake").generate_image("a red circle")
    """

    @classmethod
    def from_pretrained(
        cls, where: str | os.PathLike[str], lake: str | None = None, device: Any = None, dtype: Any = None
    ) -> "Imagen":
        """Load a model.

        Args:
            where: a folder, a URL, or a model in a lake: NAME/NUMBER or NAME/champion.
            lake: the lake's folder or URL; IMAGEN_LAKE if not given.
            device: where the model is moved to; it stays on the CPU if not given.
            dtype: the data type of the weights; as they were saved if not given.

        Raises:
            ModelNotFound: `where` is neither a folder with a cascade nor a model of the lake.
            ModelNotUsable: the folder is damaged or made by a later version.
        """
        url = model_url(os.fspath(where), lake)
        model = cls(**load_components(url))
        return model.to(device=device, dtype=dtype) if device or dtype else model

    def save_pretrained(self, save_directory: str | os.PathLike[str]) -> None:
        """Write the model to a folder or a URL, from which plain diffusers can load it too."""
        write_folder(self, os.fspath(save_directory))

    def _encode_distinct(self, prompts: list[str]) -> list[Tensor]:
        """Embed prompts. If the encoder is not a T5, the code that embeds captions is used."""
        text = self.config.text
        if text["encoder"] == "t5":
            return super()._encode_distinct(prompts)
        from data.encoders import encoder

        settings = encoder_settings(text).model_copy(update={"device": str(self._execution_device)})
        columns = encoder.encode(encoder.load(settings), prompts, settings)
        rows = zip(prompts, columns["embedding"], columns["truncated"], columns["error"], strict=True)
        dtype, width = getattr(torch, settings.dtype), self.unet.config.text_width
        embeddings = []
        for prompt, embedding, truncated, error in rows:
            if error:
                raise NotPossible(f"the prompt {prompt!r} can't be encoded: {error}")
            if truncated:
                warn_caller(
                    self, f"the prompt is too long for the {text['encoder']} model; its end is ignored: {prompt!r}"
                )
            embeddings.append(torch.frombuffer(bytearray(embedding), dtype=dtype).view(-1, width))
        return embeddings


def encoder_settings(text: dict[str, Any]) -> "EncoderSettings":
    """Return the settings of the text encoder that a cascade's configuration names under `text`."""
    from data.encoders.settings import EncoderSettings

    return EncoderSettings(**{name: value for name, value in text.items() if name in EncoderSettings.model_fields})
