"""Write a cascade as a folder in diffusers' layout, and load such a folder. Errors name each damaged file."""

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
from imagen.cascade.pipeline import ImagenPipeline
from imagen.cascade.prompts import load_t5
from imagen.cascade.settings import DiffusionSettings, SampleSettings
from imagen.cascade.unet import UNet
from imagen.errors import ModelNotUsable
from imagen.models.table import INDEX

FORMAT = 1
CLASS = ["pipeline", "ImagenPipeline"]
CONFIG = "config.json"
SCHEDULER_CONFIG = "scheduler_config.json"
WEIGHTS = "diffusion_pytorch_model.safetensors"  # diffusers' name
SLOTS = ("unet", "unet_2", "unet_3")  # of the stages, in order
ENCODER = ("model.safetensors", "model.safetensors.index.json")
OWN_IMPORT = re.compile(r"^from imagen\.cascade\.(\w+)", re.MULTILINE)
Files = dict[str, bytes]


def write_folder(model: ImagenPipeline, url: str) -> None:
    """Write every file of a cascade's folder. The index is written last: a folder without an index is not a model."""
    index: dict[str, Any] = {
        "_class_name": CLASS,
        "_diffusers_version": diffusers.__version__,
        "_imagen_format": FORMAT,
    }
    for slot in SLOTS:
        unet, scheduler = getattr(model, slot), getattr(model, _scheduler_slot(slot))
        if unet is not None:
            _write(url, slot, _unet_files(unet))
            _write(url, _scheduler_slot(slot), _scheduler_files(scheduler))
            index |= {slot: ["unet", "UNet"], _scheduler_slot(slot): ["diffusers", type(scheduler).__name__]}
    for slot in ("text_encoder", "tokenizer"):
        part = getattr(model, slot)
        if part is not None:
            with tempfile.TemporaryDirectory() as folder:
                part.save_pretrained(folder)
                _write(url, slot, {path.name: path.read_bytes() for path in Path(folder).iterdir()})
            index[slot] = ["transformers", type(part).__name__]
    _write(url, "", _code_files("pipeline"))
    config = {name: model.config[name] for name in ("stages", "text")}
    storage.write(storage.join(url, INDEX), _json(index | config))


def digest_of(model: ImagenPipeline) -> str:
    """Return the SHA-256 of all weights of a model's U-Nets, with their names."""
    digest = hashlib.sha256()
    for slot in SLOTS:
        unet = getattr(model, slot)
        if unet is None:
            continue
        for name, tensor in sorted(unet.state_dict().items()):
            digest.update(f"{slot}.{name}".encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def load_components(url: str) -> dict[str, Any]:
    """Load all parts of a cascade: the arguments of `ImagenPipeline`.

    Raises:
        ModelNotUsable: a file is missing, damaged, or does not fit the others.
    """
    index, slots = _read_index(url)
    components: dict[str, Any] = {"stages": index["stages"], "text": index.get("text")}
    for slot in slots:
        components[slot] = _load_unet(storage.join(url, slot))
        components[_scheduler_slot(slot)] = _load_scheduler(url, _scheduler_slot(slot), index)
    return components | _load_text_components(url, index)


def load_stage_unet(url: str, resolution: int) -> tuple[UNet | None, str | None]:
    """Load the U-Net of one stage alone.

    Returns:
        The U-Net whose images have this resolution, or None if the cascade has no such stage; and the table of
        embeddings that the cascade was trained on, or None if it was trained without text.

    Raises:
        ModelNotUsable: the index or the U-Net's folder is damaged.
    """
    index, slots = _read_index(url)
    table = (index.get("text") or {}).get("table")
    for slot, stage in zip(slots, index["stages"], strict=True):
        if stage["resolution"] == resolution:
            return _load_unet(storage.join(url, slot)), table
    return None, table


def check_shapes(path: str, tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Raise ModelNotUsable with the first tensor that is missing, has another shape, or is not expected."""
    for name, tensor in expected.items():
        if name not in tensors:
            raise ModelNotUsable(f"{path} lacks the tensor {name}, which the configuration expects")
        if tensors[name].shape != tensor.shape:
            shape, expected_shape = tuple(tensors[name].shape), tuple(tensor.shape)
            raise ModelNotUsable(f"{path}: {name} has shape {shape}, and the configuration expects {expected_shape}")
    if unexpected := sorted(tensors.keys() - expected.keys()):
        raise ModelNotUsable(f"{path} has the tensor {unexpected[0]}, which the configuration does not expect")


def _read_index(url: str) -> tuple[dict[str, Any], list[str]]:
    """Return the checked index of a cascade's folder, and the slots of its stages."""
    path = storage.join(url, INDEX)
    index = _read_json(path)
    class_name, format = index.get("_class_name"), index.get("_imagen_format")
    if class_name != CLASS or not isinstance(format, int):
        raise ModelNotUsable(f"{path} describes a {class_name!r}, and not a cascade of imagen ({CLASS!r})")
    if format > FORMAT:
        raise ModelNotUsable(
            f"{path} has format {format}, this version reads up to {FORMAT}. Upgrade: pip install -U imagen"
        )
    stages: Any = index.get("stages")
    slots = [slot for slot in SLOTS if slot in index]
    count = len(stages) if isinstance(stages, list) else 0
    if not count or slots != list(SLOTS[:count]):
        raise ModelNotUsable(f"{path} names {', '.join(slots) or 'no unet'} for {count} stages: each stage needs one")
    try:
        for stage in stages:
            DiffusionSettings(**stage["diffusion"])
            SampleSettings(**stage["sample"])
            int(stage["resolution"])
    except (KeyError, TypeError, ValueError) as error:
        raise ModelNotUsable(f"{path}: stages can't be read: {' '.join(str(error).split())}") from None
    return index, slots


def _load_unet(url: str) -> UNet:
    config_path, weights_path = storage.join(url, CONFIG), storage.join(url, WEIGHTS)
    config = _read_json(config_path)
    if config.get("_class_name") != "UNet":
        raise ModelNotUsable(f"{config_path} describes a {config.get('_class_name')!r}, and not a UNet")
    if not storage.exists(weights_path):
        pickles = [name for name in storage.files(url) if name.endswith(PICKLES)]
        note = f"; {pickles[0]} is a pickle, which can run code, and is not read" if pickles else ""
        raise ModelNotUsable(f"{weights_path} is missing: weights are read from safetensors only{note}")
    try:
        with torch.device("meta"):
            unet = UNet.from_config(config)
    except Exception as error:  # noqa: BLE001 - whatever is wrong with the file is reported with its name
        raise ModelNotUsable(f"{config_path} does not describe a U-Net: {str(error).splitlines()[0]}") from None
    try:
        tensors = load(storage.read(weights_path))
    except SafetensorError as error:
        raise ModelNotUsable(f"{weights_path} is damaged, safetensors were expected: {error}") from None
    check_shapes(weights_path, tensors, unet.state_dict())
    unet.load_state_dict(tensors, assign=True)
    return unet.eval()


def _load_scheduler(url: str, slot: str, index: dict[str, Any]) -> Any:
    entry = index.get(slot)
    name = entry[-1] if isinstance(entry, list) and entry else None
    scheduler_class: Any = getattr(diffusers, str(name), None)
    if not hasattr(scheduler_class, "add_noise"):
        raise ModelNotUsable(f"{storage.join(url, INDEX)}: {slot} is {name!r}, and not a scheduler of diffusers")
    return scheduler_class.from_config(_read_json(storage.join(url, slot, SCHEDULER_CONFIG)))


def _load_text_components(url: str, index: dict[str, Any]) -> dict[str, Any]:
    """Load the text encoder and the tokenizer, if the folder contains them."""
    if "text_encoder" not in index:
        return {}
    from transformers.utils import logging

    logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        for slot, expected in (("text_encoder", ENCODER), ("tokenizer", TOKENIZER)):
            names = storage.files(storage.join(url, slot))
            if pickles := [name for name in names if name.endswith(PICKLES)]:
                path = storage.join(url, slot, pickles[0])
                raise ModelNotUsable(f"{path} is a pickle, which can run code: remove it")
            if not set(expected) & set(names):
                raise ModelNotUsable(f"{storage.join(url, slot)} lacks {' or '.join(expected)}")
            for name in names:
                storage.write(storage.join(folder, slot, name), storage.read(storage.join(url, slot, name)))
        try:
            precision = index["text"]["precision"]
            tokenizer, encoder = load_t5(f"{folder}/tokenizer", f"{folder}/text_encoder", precision)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with the files is reported with their folder
            reason = str(error).splitlines()[0].replace(folder, url)
            raise ModelNotUsable(f"{url}: text_encoder or tokenizer can't be read: {reason}") from None
    return {"text_encoder": encoder, "tokenizer": tokenizer}


def _unet_files(unet: UNet) -> Files:
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in unet.state_dict().items()}
    config = {"_class_name": "UNet", **_public_config(unet.config)}
    return {CONFIG: _json(config), WEIGHTS: save(tensors)} | _code_files("unet")


def _scheduler_files(scheduler: Any) -> Files:
    config = {"_class_name": type(scheduler).__name__, **_public_config(scheduler.config)}
    return {SCHEDULER_CONFIG: _json(config)}


def _code_files(start: str) -> Files:
    """Return a module of `imagen.cascade` and those that it imports from there, as files with relative imports."""
    folder = Path(pipeline.__file__).parent
    files: Files = {}
    waiting = [start]
    while waiting:
        name = waiting.pop()
        if f"{name}.py" not in files:
            source = (folder / f"{name}.py").read_text()
            files[f"{name}.py"] = OWN_IMPORT.sub(r"from .\1", source).encode()
            waiting += OWN_IMPORT.findall(source)
    return files


def _write(url: str, folder: str, files: Files) -> None:
    for name, content in files.items():
        path = storage.join(url, folder, name) if folder else storage.join(url, name)
        storage.write(path, content)


def _read_json(url: str) -> dict[str, Any]:
    if not storage.exists(url):
        raise ModelNotUsable(f"{url} is missing: every cascade's folder holds it")
    try:
        value = json.loads(storage.read(url))
    except ValueError as error:
        raise ModelNotUsable(f"{url} is damaged, JSON was expected: {error}") from None
    if not isinstance(value, dict):
        raise ModelNotUsable(f"{url} holds no JSON object")
    return value


def _json(value: dict[str, Any]) -> bytes:
    return (json.dumps(value, indent=2) + "\n").encode()


def _public_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a diffusers configuration without the entries that diffusers keeps for itself."""
    return {name: value for name, value in config.items() if not name.startswith("_")}


def _scheduler_slot(unet_slot: str) -> str:
    return unet_slot.replace("unet", "scheduler")
