"""Where a model's weights lie and what their digest is, both told without loading the model or importing torch.

A plan asks for the digest every time, and reading 40 GB takes minutes. So a large file in the hub's cache is taken at
its name, which is its SHA-256, and what was once read of any other is noted in the user's cache folder.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from data.errors import ModelError
from data.lake import storage

SMALL = 64 << 20  # bytes: read in a moment, not worth a note
WEIGHTS = (  # what `transformers` loads, in its order: one file, or an index of shards
    ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"),
)
TOKENIZER = ("tokenizer.json", "spiece.model")
BESIDE = ("config.json", "tokenizer_config.json", *TOKENIZER)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
WORDS = (*TOKENIZER, "vocab.json", "vocab.txt", "tokenizer.model")  # a captioner's tokenizer is one of these
PREPARE = ("preprocessor_config.json", "processor_config.json")  # its pictures are prepared by one of these
CAPTIONER = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")  # what is read of its folder


def folder_of(model: str, built_in: Path) -> Path | None:
    """The folder that holds the whole model, if what a recipe says is one."""
    path = built_in if model == "built-in" else Path(model)
    return path if path.is_dir() else None


def digest(path: Path) -> str:
    """The SHA-256 of a file's content."""
    file = path.resolve()
    if file.parent.name == "blobs" and _is_digest(file.name):
        return file.name  # links of the hub's cache lead there
    stat = file.stat()
    if stat.st_size < SMALL:
        return _read(file)
    key = hashlib.sha256(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()
    note = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imagen" / "digests" / key
    if note.is_file() and _is_digest(noted := note.read_text()):
        return noted
    found = _read(file)
    with suppress(OSError):  # a home that can't be written costs another reading, no more
        storage.write(str(note), found.encode())
    return found


def digest_of(paths: Iterable[Path]) -> str:
    """One digest of several files and their names."""
    return hashlib.sha256("".join(f"{path.name} {digest(path)}\n" for path in paths).encode()).hexdigest()


def model_files(folder: Path) -> list[Path]:
    """Weights, configuration and tokenizer of a `transformers` model; nothing where one of them is not whole."""
    weights = next((found for names in WEIGHTS if (found := _weights(folder, *names[:2]))), [])
    beside = [folder / name for name in BESIDE if (folder / name).is_file()]
    tokenizer = any(path.name in TOKENIZER for path in beside)
    whole = weights and tokenizer and all(path.is_file() for path in [*weights, folder / "config.json"])
    return [*weights, *beside] if whole else []


def captioner_files(folder: Path) -> list[Path]:
    """Everything that an image-to-text model of `transformers` is made of; nothing where a part of it is missing."""
    files = sorted(path for pattern in CAPTIONER for path in folder.glob(pattern))
    names = {path.name for path in files}
    parts = all(names & {*one} for one in (("config.json",), PREPARE, WORDS))
    weights = _weights(folder, *WEIGHTS[0][:2])
    return files if parts and weights and all(path.is_file() for path in weights) else []


def hub_captioner(model: str) -> Path:
    """The folder of a hub's captioner in the cache, fetched where it is not whole; never its pickles or its code."""
    from huggingface_hub import snapshot_download

    with suppress(FileNotFoundError):  # never fetched
        folder = Path(snapshot_download(model, local_files_only=True))
        if captioner_files(folder):
            return folder
    try:
        return Path(snapshot_download(model, allow_patterns=list(CAPTIONER)))
    except OSError as error:
        said = str(error).splitlines()[0]
        raise ModelError(f"{model} is no folder here and can't be fetched from the hub: {said}") from error


def hub_folder(model: str) -> Path:
    """The folder of a hub's model in the cache, fetched where it is not whole. An idle build asks nobody."""
    from huggingface_hub import HfApi, snapshot_download

    with suppress(FileNotFoundError):  # never fetched
        folder = Path(snapshot_download(model, local_files_only=True))
        if model_files(folder):
            return folder
    try:
        there = set(HfApi().list_repo_files(model))
        weights = next((names for names in WEIGHTS if there & set(names)), ())
        return Path(snapshot_download(model, allow_patterns=[*weights, *BESIDE]))
    except OSError as error:
        said = str(error).splitlines()[0]
        raise ModelError(f"{model} is no folder here and can't be fetched from the hub: {said}") from error


def _weights(folder: Path, whole: str, index: str) -> list[Path]:
    if (folder / whole).is_file():
        return [folder / whole]
    if (folder / index).is_file():
        shards = json.loads((folder / index).read_text())["weight_map"].values()
        return [folder / shard for shard in sorted(set(shards))]
    return []


def _is_digest(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


def _read(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
