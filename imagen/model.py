"""`Imagen`: a trained cascade from a folder, a URL or a lake, and how it becomes a folder in `diffusers`' layout.

A folder holds `model_index.json`, a folder for each model with its configuration, its weights as safetensors and its
code, each model's scheduler, and the text encoder or its id. Whatever is wrong with one is said before it is used.
"""

import hashlib
import json
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors.torch import load, save
from torch import Tensor

from data import storage
from data.encoder import EncoderSettings, encode
from data.encoder import load as load_encoder
from data.lake import Lake
from imagen.errors import ModelNotFound, ModelNotUsable
from imagen.pipeline import ImagenPipeline
from imagen.unet import UNet

FORMAT = 1
INDEX = "model_index.json"
CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"  # diffusers' name
SLOTS = ("unet", "unet_2", "unet_3")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
PIPELINE_CODE = ("pipeline", "sampling", "diffusion", "resize")
UNET_CODE = ("unet", "blocks")
Files = dict[str, bytes]


class Imagen(ImagenPipeline):
    """`Imagen.from_pretrained(where).generate_image("a red circle")`."""

    @classmethod
    def from_pretrained(cls, where: str | os.PathLike[str], lake: str | None = None, **more: Any) -> "Imagen":
        """By folder, by URL, or by a lake's NAME/NUMBER; `device` and `dtype` as diffusers' `to` takes them."""
        device, dtype = more.pop("device", None), more.pop("dtype", more.pop("torch_dtype", None))
        if more:
            raise TypeError(f"from_pretrained takes where, lake, device and dtype, not {', '.join(more)}")
        url = located(os.fspath(where), lake)
        model = cls(**_parts(url))
        model.config_url = url
        return model.to(device, dtype) if device or dtype else model

    def save_pretrained(self, save_directory: str | os.PathLike[str], **_: Any) -> None:
        write_folder(self, os.fspath(save_directory))

    def _vectors(self, prompts: list[str]) -> list[Tensor]:
        """Prompts of an encoder that is not a T5 go the way that captions went."""
        text = self.config.text
        if text["encoder"] == "t5":
            return super()._vectors(prompts)
        settings = EncoderSettings(
            **{name: value for name, value in text.items() if name in EncoderSettings.model_fields}
        )
        said = encode(load_encoder(settings), prompts, settings)
        dtype = getattr(torch, settings.dtype)
        found = zip(said["embedding"], said["length"], strict=True)
        return [torch.frombuffer(bytearray(vectors), dtype=dtype).view(length, -1) for vectors, length in found]


def located(where: str, lake: str | None = None) -> str:
    """The URL of a cascade's folder."""
    if storage.exists(storage.join(where, INDEX)):
        return where
    if named := re.fullmatch(r"([a-z][a-z0-9_-]*)/(\d+)", where):
        from imagen.models import folder_of

        return folder_of(Lake.open(lake or os.environ.get("IMAGEN_LAKE", "lake")), named[1], int(named[2]))
    raise ModelNotFound(f"{where} holds no cascade (it has no {INDEX}) and is no NAME/NUMBER of a lake's model")


def write_folder(model: ImagenPipeline, url: str) -> None:
    """Every file of a cascade's folder; the index comes last."""
    index: dict[str, Any] = {
        "_class_name": ["pipeline", "ImagenPipeline"],
        "_diffusers_version": diffusers.__version__,
        "_imagen_format": FORMAT,
    }
    for slot in SLOTS:
        unet, scheduler = getattr(model, slot), getattr(model, _scheduler_of(slot))
        if unet is None:
            continue
        files = {CONFIG: _json({"_class_name": "UNet", **_plain(unet.config)})}
        files[WEIGHTS] = save({name: one.detach().cpu().contiguous() for name, one in unet.state_dict().items()})
        _write(url, slot, files | _code(UNET_CODE))
        name = type(scheduler).__name__
        _write(
            url,
            _scheduler_of(slot),
            {"scheduler_config.json": _json({"_class_name": name, **_plain(scheduler.config)})},
        )
        index |= {slot: ["unet", "UNet"], _scheduler_of(slot): ["diffusers", name]}
    for slot, library in (("text_encoder", "transformers"), ("tokenizer", "transformers")):
        part = getattr(model, slot)
        if part is not None:
            with tempfile.TemporaryDirectory() as folder:
                part.save_pretrained(folder)
                _write(url, slot, {path.name: path.read_bytes() for path in Path(folder).iterdir()})
            index[slot] = [library, type(part).__name__]
    _write(url, "", _code(PIPELINE_CODE))
    config = {name: model.config[name] for name in ("stages", "text")}
    storage.write(storage.join(url, INDEX), _json(index | config))


def digest_of(model: ImagenPipeline) -> str:
    """Of all its weights."""
    digest = hashlib.sha256()
    for slot in SLOTS:
        unet = getattr(model, slot)
        for name, tensor in sorted(unet.state_dict().items()) if unet is not None else ():
            digest.update(f"{slot}.{name}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _parts(url: str) -> dict[str, Any]:
    """What a cascade is made of, from its folder."""
    index = _read_json(storage.join(url, INDEX))
    said = index.get("_class_name")
    if said != ["pipeline", "ImagenPipeline"]:
        raise ModelNotUsable(f"{storage.join(url, INDEX)} is of {said!r}: a cascade of imagen's was expected")
    if index.get("_imagen_format", 0) > FORMAT:
        raise ModelNotUsable(
            f"{storage.join(url, INDEX)} has format {index['_imagen_format']}, this version reads up to {FORMAT}. "
            "Upgrade: pip install -U imagen"
        )
    parts: dict[str, Any] = {name: index.get(name) for name in ("stages", "text")}
    for slot in SLOTS:
        if slot in index:
            parts[slot] = _unet(storage.join(url, slot))
            scheduler = _scheduler_of(slot)
            name = index.get(scheduler, ["", ""])[1]
            if not hasattr(diffusers, name):
                raise ModelNotUsable(f"{storage.join(url, INDEX)}: {scheduler} is {name!r}, which diffusers has not")
            config = _read_json(storage.join(url, scheduler, "scheduler_config.json"))
            parts[scheduler] = getattr(diffusers, name).from_config(config)
    if "unet" not in parts or not isinstance(parts["stages"], list):
        raise ModelNotUsable(f"{storage.join(url, INDEX)} names no unet or no stages: it is damaged")
    return parts | _text_parts(url, index)


def _unet(url: str) -> UNet:
    config = _read_json(storage.join(url, CONFIG))
    path = storage.join(url, WEIGHTS)
    if not storage.exists(path):
        pickles = [name for name in storage.files(url) if name.endswith(PICKLES)]
        found = f"; {pickles[0]} is a pickle, which can run code: it is not read" if pickles else ""
        raise ModelNotUsable(f"{path} is missing: weights are read as safetensors alone{found}")
    try:
        unet = UNet.from_config(config)
        tensors = load(storage.read(path))
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the file is said with its name
        raise ModelNotUsable(f"{url} can't be read as a U-Net: {str(error).splitlines()[0]}") from None
    check_shapes(path, tensors, unet.state_dict())
    unet.load_state_dict(tensors)
    return unet.eval()


def check_shapes(path: str, found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ModelNotUsable, with the first tensor that is not as the configuration has it."""
    for name, tensor in expected.items():
        if name not in found:
            raise ModelNotUsable(f"{path} lacks the tensor {name}, which the configuration expects")
        if found[name].shape != tensor.shape:
            there, wanted = tuple(found[name].shape), tuple(tensor.shape)
            raise ModelNotUsable(f"{path}: {name} is of shape {there}, and {wanted} was expected")
    if more := sorted(found.keys() - expected.keys()):
        raise ModelNotUsable(f"{path} has the tensor {more[0]}, which the configuration does not know")


def _text_parts(url: str, index: dict[str, Any]) -> dict[str, Any]:
    """The text encoder and the tokenizer that lie in the folder, if they do."""
    if "text_encoder" not in index:
        return {}
    import transformers

    transformers.utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        for slot in ("text_encoder", "tokenizer"):
            for name in storage.files(storage.join(url, slot)):
                if name.endswith(PICKLES):
                    raise ModelNotUsable(f"{storage.join(url, slot, name)} is a pickle, which can run code")
                target = Path(folder) / slot / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(storage.read(storage.join(url, slot, name)))
        try:
            encoder = transformers.T5EncoderModel.from_pretrained(Path(folder) / "text_encoder", use_safetensors=True)
            tokenizer = transformers.AutoTokenizer.from_pretrained(Path(folder) / "tokenizer")
        except (OSError, RuntimeError, ValueError, KeyError) as error:
            wrong = f"{storage.join(url, 'text_encoder')} can't be read: {str(error).splitlines()[0]}"
            raise ModelNotUsable(wrong) from None
    return {"text_encoder": encoder.eval(), "tokenizer": tokenizer}


def _code(names: tuple[str, ...]) -> Files:
    """Our own modules as files that import each other from beside them."""
    here = Path(__file__).parent
    return {
        f"{name}.py": re.sub(
            r"^from imagen\.", "from .", (here / f"{name}.py").read_text(), flags=re.MULTILINE
        ).encode()
        for name in names
    }


def _write(url: str, folder: str, files: Files) -> None:
    for name, content in files.items():
        storage.write(storage.join(url, *filter(None, (folder, name))), content)


def _read_json(url: str) -> dict[str, Any]:
    try:
        said = json.loads(storage.read(url))
    except (OSError, ValueError) as error:
        raise ModelNotUsable(f"{url} can't be read as JSON: {error}") from None
    if not isinstance(said, dict):
        raise ModelNotUsable(f"{url} holds no JSON object")
    return said


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """A diffusers configuration without what diffusers notes for itself."""
    return {name: value for name, value in config.items() if not name.startswith("_")}


def _scheduler_of(slot: str) -> str:
    return slot.replace("unet", "scheduler")
