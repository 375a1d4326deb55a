"""A cascade as a folder in diffusers' layout: writing it, and reading it with each damage named."""

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from data.lake import storage
from data.scorers.pretrained import PICKLES, TOKENIZER
from imagen.cascade import pipeline
from imagen.cascade.diffusion import DiffusionSettings
from imagen.cascade.pipeline import ImagenPipeline
from imagen.cascade.prompts import load_t5
from imagen.cascade.sampling import SampleSettings
from imagen.cascade.unet import UNet
from imagen.errors import ModelNotUsable

FORMAT = 1
CLASS = ["pipeline", "ImagenPipeline"]
INDEX = "model_index.json"
CONFIG = "config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"  # diffusers' name
SLOTS = ("unet", "unet_2", "unet_3")
ENCODER = ("model.safetensors", "model.safetensors.index.json")
PIPELINE_CODE = ("pipeline", "checks", "prompts", "sampling", "diffusion", "resize")
UNET_CODE = ("unet", "blocks")
Files = dict[str, bytes]


def write_folder(model: ImagenPipeline, url: str) -> None:
    """Every file of a cascade's folder; the index comes last."""
    index: dict[str, Any] = {
        "_class_name": CLASS,
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


def _index(url: str) -> tuple[dict[str, Any], list[str]]:
    """What a cascade's folder says of itself, and the slots that it fills, a stage each."""
    path = storage.join(url, INDEX)
    index = _read_json(path)
    said, format = index.get("_class_name"), index.get("_imagen_format")
    if said != CLASS or not isinstance(format, int):
        raise ModelNotUsable(f"{path} is of {said!r}: a cascade of imagen's, {CLASS!r}, was expected")
    if format > FORMAT:
        raise ModelNotUsable(
            f"{path} has format {format}, this version reads up to {FORMAT}. Upgrade: pip install -U imagen"
        )
    stages: Any = index.get("stages")
    slots = [slot for slot in SLOTS if slot in index]
    count = len(stages) if isinstance(stages, list) else 0
    if not count or slots != list(SLOTS[:count]):
        raise ModelNotUsable(
            f"{path} names {', '.join(slots) or 'no unet'} for {count} stages: one for each was expected"
        )
    try:
        for one in stages:
            DiffusionSettings(**one["diffusion"]), SampleSettings(**one["sample"]), int(one["resolution"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelNotUsable(f"{path}: stages can't be read: {' '.join(str(error).split())}") from None
    return index, slots


def trained_unet(url: str, resolution: int) -> tuple[UNet | None, str | None]:
    """A folder's model of pictures of this size, if it has one, and the embeddings it reads; nothing else is loaded."""
    index, slots = _index(url)
    found = (slot for slot, one in zip(slots, index["stages"], strict=True) if one["resolution"] == resolution)
    slot = next(found, None)
    return _unet(storage.join(url, slot)) if slot else None, (index.get("text") or {}).get("table")


def parts_of(url: str) -> dict[str, Any]:
    """What a cascade is made of, from its folder."""
    index, slots = _index(url)
    path = storage.join(url, INDEX)
    parts: dict[str, Any] = {"stages": index["stages"], "text": index.get("text")}
    for slot in slots:
        parts[slot] = _unet(storage.join(url, slot))
        parts[_scheduler_of(slot)] = _scheduler(
            path, index.get(_scheduler_of(slot)), storage.join(url, _scheduler_of(slot))
        )
    return parts | _text_parts(url, index)


def _scheduler(path: str, named: Any, url: str) -> Any:
    name = named[-1] if isinstance(named, list) and named else None
    known: Any = getattr(diffusers, str(name), None)
    if not hasattr(known, "add_noise"):
        raise ModelNotUsable(f"{path}: {url.rpartition('/')[2]} is {name!r}: one of diffusers' schedulers was expected")
    return known.from_config(_read_json(storage.join(url, "scheduler_config.json")))


def _unet(url: str) -> UNet:
    config, path = _read_json(storage.join(url, CONFIG)), storage.join(url, WEIGHTS)
    if config.get("_class_name") != "UNet":
        raise ModelNotUsable(f"{storage.join(url, CONFIG)} is of {config.get('_class_name')!r}: UNet was expected")
    if not storage.exists(path):
        pickles = [name for name in storage.files(url) if name.endswith(PICKLES)]
        found = f"; {pickles[0]} is a pickle, which can run code: it is not read" if pickles else ""
        raise ModelNotUsable(f"{path} is missing: weights are read as safetensors alone{found}")
    try:
        with torch.device("meta"):
            unet = UNet.from_config(config)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the file is said with its name
        raise ModelNotUsable(f"{storage.join(url, CONFIG)} is of no U-Net: {str(error).splitlines()[0]}") from None
    try:
        tensors = load(storage.read(path))
    except SafetensorError as error:
        raise ModelNotUsable(f"{path} is damaged, safetensors were expected: {error}") from None
    check_shapes(path, tensors, unet.state_dict())
    unet.load_state_dict(tensors, assign=True)
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
    from transformers.utils import logging

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        for slot, expected in (("text_encoder", ENCODER), ("tokenizer", TOKENIZER)):
            names = storage.files(storage.join(url, slot))
            if pickles := [name for name in names if name.endswith(PICKLES)]:
                raise ModelNotUsable(
                    f"{storage.join(url, slot, pickles[0])} is a pickle, which can run code: remove it"
                )
            if not set(expected) & set(names):
                raise ModelNotUsable(f"{storage.join(url, slot)} holds no {' or '.join(expected)}, which was expected")
            for name in names:
                storage.write(storage.join(folder, slot, name), storage.read(storage.join(url, slot, name)))
        try:
            precision = index["text"]["precision"]
            tokenizer, encoder = load_t5(f"{folder}/tokenizer", f"{folder}/text_encoder", precision)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the files is said with their folder
            said = str(error).splitlines()[0].replace(folder, url)
            raise ModelNotUsable(f"{url}: text_encoder or tokenizer can't be read: {said}") from None
    return {"text_encoder": encoder, "tokenizer": tokenizer}


def _code(names: tuple[str, ...]) -> Files:
    """Our own modules as files that import each other from beside them."""
    here = Path(pipeline.__file__).parent
    return {
        f"{name}.py": re.sub(
            r"^from imagen\.cascade\.", "from .", (here / f"{name}.py").read_text(), flags=re.MULTILINE
        ).encode()
        for name in names
    }


def _write(url: str, folder: str, files: Files) -> None:
    for name, content in files.items():
        storage.write(storage.join(url, *filter(None, (folder, name))), content)


def _read_json(url: str) -> dict[str, Any]:
    if not storage.exists(url):
        raise ModelNotUsable(f"{url} is missing: a cascade's folder holds one")
    try:
        said = json.loads(storage.read(url))
    except ValueError as error:
        raise ModelNotUsable(f"{url} is damaged, JSON was expected: {error}") from None
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
