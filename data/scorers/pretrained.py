"""Finds the files of pretrained models and their digests, without loading a model or importing torch.

Every plan needs the digests, and reading 40 GB takes minutes. So the digest of a large file is computed only once and
noted in the user's cache folder. A file in the hub's cache needs no note, because its name is its SHA-256.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from data.errors import ModelError
from data.lake import storage

SMALL = 64 << 20  # bytes; a smaller file is read so fast that its digest is not noted
WEIGHTS = (  # the files that `transformers` loads, in its order of preference: one file, or an index and shards
    ("model.safetensors", "model.safetensors.index.json", "model-*.safetensors"),
    ("pytorch_model.bin", "pytorch_model.bin.index.json", "pytorch_model-*.bin"),
)
TOKENIZER = ("tokenizer.json", "spiece.model")
SETTINGS_FILES = ("config.json", "tokenizer_config.json", *TOKENIZER)
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
CAPTIONER_TOKENIZERS = (*TOKENIZER, "vocab.json", "vocab.txt", "tokenizer.model")  # a captioner has one of these
CAPTIONER_PROCESSORS = ("preprocessor_config.json", "processor_config.json")  # and one of these
CAPTIONER_FILES = ("*.json", "*.txt", "*.model", "*.jinja", "*.safetensors")  # all files that are read in its folder


def local_folder(model: str, built_in: Path) -> Path | None:
    """Return the folder of a model that a recipe names by a path, or None if the name is not a folder.

    Args:
        model: the model's name in a recipe: `built-in`, a path, or a hub id.
        built_in: the folder that `built-in` means.
    """
    path = built_in if model == "built-in" else Path(model)
    return path if path.is_dir() else None


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, as hex digits. A large file is read again only after it has changed.

    Raises:
        OSError: the file can't be read.
    """
    file = path.resolve()
    if file.parent.name == "blobs" and _is_digest(file.name):
        return file.name  # the target of a link in the hub's cache, whose files are named by their digests
    stat = file.stat()
    if stat.st_size < SMALL:
        return _read_digest(file)
    key = hashlib.sha256(f"{file}\0{stat.st_size}\0{stat.st_mtime_ns}".encode()).hexdigest()
    note = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "imagen" / "digests" / key
    if note.is_file():
        noted = note.read_text()
        if _is_digest(noted):
            return noted
    digest = _read_digest(file)
    with suppress(OSError):  # if the cache can't be written, the file is read again the next time
        storage.write(str(note), digest.encode())
    return digest


def digest_files(paths: Iterable[Path]) -> str:
    """Return one digest of the names and contents of several files."""
    return hashlib.sha256("".join(f"{path.name} {digest_file(path)}\n" for path in paths).encode()).hexdigest()


def model_files(folder: Path) -> list[Path]:
    """List the weights, configuration and tokenizer of a `transformers` model. Empty if any of them is missing."""
    weights: list[Path] = []
    for single, index, _ in WEIGHTS:
        weights = _weight_files(folder, single, index)
        if weights:
            break
    settings = [folder / name for name in SETTINGS_FILES if (folder / name).is_file()]
    has_tokenizer = any(path.name in TOKENIZER for path in settings)
    complete = weights and has_tokenizer and all(path.is_file() for path in [*weights, folder / "config.json"])
    return [*weights, *settings] if complete else []


def captioner_files(folder: Path) -> list[Path]:
    """List all files of an image-to-text model of `transformers`. Empty if a part of the model is missing."""
    files = sorted(path for pattern in CAPTIONER_FILES for path in folder.glob(pattern))
    names = {path.name for path in files}
    needed = (("config.json",), CAPTIONER_PROCESSORS, CAPTIONER_TOKENIZERS)
    has_settings = all(names.intersection(alternatives) for alternatives in needed)
    single, index, _ = WEIGHTS[0]
    weights = _weight_files(folder, single, index)
    return files if has_settings and weights and all(path.is_file() for path in weights) else []


def fetch_captioner(model: str) -> Path:
    """Return the folder of a captioner from the hub. Pickles and code are never downloaded.

    The captioner is downloaded if the hub's cache lacks a part of it.

    Raises:
        ModelError: the captioner can't be downloaded.
    """
    return _fetch(model, captioner_files, lambda: list(CAPTIONER_FILES))


def fetch_model(model: str) -> Path:
    """Return the folder of a model from the hub.

    The model is downloaded if the hub's cache lacks a part of it. If the cache is complete, no request is sent.

    Raises:
        ModelError: the model can't be downloaded.
    """

    def patterns() -> list[str]:
        from huggingface_hub import HfApi

        published = set(HfApi().list_repo_files(model))
        weights = next((names for names in WEIGHTS if published & set(names)), ())
        return [*weights, *SETTINGS_FILES]

    return _fetch(model, model_files, patterns)


def _fetch(model: str, files_of: Callable[[Path], list[Path]], patterns: Callable[[], list[str]]) -> Path:
    """Return a model's folder: in the cache if `files_of` finds it complete, else after downloading `patterns`."""
    from huggingface_hub import snapshot_download

    with suppress(FileNotFoundError):  # never downloaded
        folder = Path(snapshot_download(model, local_files_only=True))
        if files_of(folder):
            return folder
    try:
        return Path(snapshot_download(model, allow_patterns=patterns()))
    except OSError as error:
        raise ModelError(download_error_message(model, error)) from error


def download_error_message(model: str, error: Exception) -> str:
    """Say in one sentence that a model is neither a local folder nor a model that the hub gives."""
    reason = str(error).splitlines()[0]
    return f"{model} is not a folder here, and can't be downloaded from the hub: {reason}"


def _weight_files(folder: Path, single: str, index: str) -> list[Path]:
    """List a model's single file of weights, or the shards that its index names. Empty if it has neither."""
    if (folder / single).is_file():
        return [folder / single]
    if (folder / index).is_file():
        shards = json.loads((folder / index).read_text())["weight_map"].values()
        return [folder / shard for shard in sorted(set(shards))]
    return []


def _is_digest(text: str) -> bool:
    return re.fullmatch(r"[0-9a-f]{64}", text) is not None


def _read_digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()
