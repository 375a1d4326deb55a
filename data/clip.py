"""The CLIP scorer: how well a picture fits its caption, as the cosine of their embeddings, by any open_clip model."""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.errors import ModelError
from data.picture import decode
from data.weights import digest

BUILT_IN = Path(__file__).parent / "world" / "models" / "clip"
VERSION = 1  # of this file's arithmetic: another one is another table, whose work is pending
THREADS = 2  # that decode the next batch while the model is at this one


class ClipSettings(BaseModel):
    """Which model, and how it runs. Only the model is part of a score's identity."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    scorer: Literal["clip"] = "clip"
    model: str = Field(description="'built-in', an open_clip name (ViT-L-14), or a folder with open_clip_config.json")
    pretrained: str | None = Field(None, description="with an open_clip name: its weights, a file or a tag")
    batch_size: int = Field(64, ge=1)
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"

    @model_validator(mode="after")
    def _weights_are_named(self) -> "ClipSettings":
        if self.folder is None and self.pretrained is None:
            raise ValueError(
                f"{self.model!r} is no folder here, so it names an architecture; `pretrained` must name its weights"
            )
        return self

    @cached_property
    def folder(self) -> Path | None:
        """The folder that holds the whole model, if it is one."""
        path = BUILT_IN if self.model == "built-in" else Path(self.model)
        return path if path.is_dir() else None


class Clip:
    """The scorer. Cheap to make and to send; the model is loaded by the first batch and kept by the process."""

    columns = pa.schema({"score": pa.float32()})

    def __init__(self, settings: ClipSettings) -> None:
        self.settings = settings

    @cached_property
    def id(self) -> str:
        """Names the scorer, its version and its weights: `clip-1-vit-l-14-3f9a02bc`."""
        model = Path(self.settings.model).name if self.settings.folder else self.settings.model
        name = re.sub(r"[^a-z0-9]+", "-", model.lower()).strip("-")
        return f"clip-{VERSION}-{name}-{self.weights_digest[:8]}"

    @cached_property
    def weights_digest(self) -> str:
        return digest(self._weights())

    def score(self, pictures: Iterator[bytes], captions: Sequence[str]) -> dict[str, list[Any]]:
        """One score a picture, null with an error where it can't be decoded."""
        model = load(self.settings)
        scores: list[float | None] = []
        errors: list[str | None] = []
        for tensors, batch_errors in model.preprocess(pictures):
            errors += batch_errors
            at = len(scores)
            scores += model.cosine(tensors, captions[at : at + len(batch_errors)], batch_errors)
        return {"score": scores, "error": errors}

    def _weights(self) -> Path:
        settings = self.settings
        if settings.folder is not None:
            found = sorted(settings.folder.glob("*.safetensors")) or sorted(settings.folder.glob("*.bin"))
            if not found:
                raise ModelError(f"{settings.folder} holds no weights (*.safetensors). Correct scores.*.model")
            return found[0]
        assert settings.pretrained is not None
        if (path := Path(settings.pretrained)).is_file():
            return path
        return _downloaded(settings.model, settings.pretrained)


class _Loaded:
    """A model on its device, with its own tokenizer and preprocessing."""

    def __init__(self, settings: ClipSettings) -> None:
        import open_clip
        import torch

        self.torch = torch
        self.batch_size = settings.batch_size
        self.device = settings.device
        if settings.device == "auto":
            self.device = "cuda" if torch.cuda.is_available() else "cpu"
        name = f"local-dir:{settings.folder}" if settings.folder else settings.model
        try:
            self.model, _, self.transform = open_clip.create_model_and_transforms(
                name, settings.pretrained, precision=settings.precision, device=self.device
            )
            self.tokenize = open_clip.get_tokenizer(name)
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            raise ModelError(f"CLIP model {settings.model} can't be loaded: {str(error).splitlines()[0]}") from error
        self.model.eval()
        self.dtype = open_clip.get_input_dtype(settings.precision) or torch.float32

    def preprocess(self, pictures: Iterator[bytes]) -> Iterator[tuple[Any, list[str | None]]]:
        """Batches of input tensors, always full: the last is padded, so that a score does not depend on its company."""
        with ThreadPoolExecutor(THREADS, "preprocess") as pool:
            ahead = None
            while True:
                batch = [picture for _, picture in zip(range(self.batch_size), pictures, strict=False)]
                futures = [pool.submit(self._tensor, picture) for picture in batch]
                if ahead:
                    yield self._stacked([future.result() for future in ahead])
                if not futures:
                    return
                ahead = futures

    def cosine(self, tensors: Any, captions: Sequence[str], errors: list[str | None]) -> list[float | None]:
        torch = self.torch
        texts = [*captions, *[""] * (self.batch_size - len(captions))]
        with torch.inference_mode():
            images = self.model.encode_image(tensors.to(self.device, self.dtype), normalize=True)
            words = self.model.encode_text(self.tokenize(texts).to(self.device), normalize=True)
            scores = (images * words).sum(-1).float().tolist()
        return [round(s, 5) if error is None else None for s, error in zip(scores, errors, strict=False)]

    def _tensor(self, picture: bytes) -> Any:
        try:
            return self.transform(decode(picture))
        except (OSError, ValueError, SyntaxError) as error:
            return f"{type(error).__name__}: {error}"

    def _stacked(self, items: list[Any]) -> tuple[Any, list[str | None]]:
        errors = [item if isinstance(item, str) else None for item in items]
        size = self.model.visual.image_size
        height, width = size if isinstance(size, tuple | list) else (size, size)
        stacked = self.torch.zeros(self.batch_size, 3, height, width)
        for place, item in enumerate(items):
            if not isinstance(item, str):
                stacked[place] = item
        return stacked, errors


@lru_cache(maxsize=2)
def load(settings: ClipSettings) -> _Loaded:
    """The model of these settings, once a process."""
    return _Loaded(settings)


def _downloaded(model: str, tag: str) -> Path:
    """The file of a published tag, from the hub's cache or the hub."""
    import open_clip

    config = open_clip.get_pretrained_cfg(model, tag)
    if not config:
        known = ", ".join(open_clip.list_pretrained_tags_by_model(model)) or "none: no such architecture"
        raise ModelError(f"{tag!r} is neither a file nor published weights of {model}. Known: {known}")
    try:
        return Path(open_clip.download_pretrained(config))
    except OSError as error:
        raise ModelError(
            f"the weights {model}/{tag} can't be downloaded: {error}. Give a file as `pretrained`"
        ) from error
