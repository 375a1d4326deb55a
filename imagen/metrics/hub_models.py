"""Models of `transformers` that look at pictures: a folder, or a name in the hub, and the files that they are."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from imagen.errors import WeightsNotUsable

FILES = ("*.safetensors", "*config.json")
TEXT_TOO = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")  # of a model that reads


@lru_cache(maxsize=2)
def folder_of(name: str, patterns: tuple[str, ...] = FILES) -> Path:
    """Fetched from the hub where no folder has that name."""
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:
        said = str(error).splitlines()[0]
        raise WeightsNotUsable(f"{name} is no folder here and can't be fetched from the hub: {said}") from error


def files_of(name: str, patterns: tuple[str, ...] = FILES) -> Sequence[Path]:
    """All that changes what the model says."""
    folder = folder_of(name, patterns)
    return sorted(path for pattern in patterns for path in folder.glob(pattern))
