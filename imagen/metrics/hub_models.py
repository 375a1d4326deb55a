"""The files of vision models of `transformers`, in a local folder or from the Hugging Face Hub."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from data.scorers import pretrained
from imagen.errors import WeightsNotUsable

VISION_FILES = ("*.safetensors", "*config.json")
FILES_WITH_TEXT = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")  # with the tokenizer's


@lru_cache(maxsize=2)
def model_folder(name: str, patterns: tuple[str, ...] = VISION_FILES) -> Path:
    """Return the folder with that name. If there is none, download the model with that name from the hub.

    Args:
        patterns: the files to download.

    Raises:
        WeightsNotUsable: there is no such folder, and the download failed.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=list(patterns)))
    except (OSError, ValueError) as error:
        raise WeightsNotUsable(pretrained.download_error_message(name, error)) from error


def matching_files(name: str, patterns: tuple[str, ...] = VISION_FILES) -> Sequence[Path]:
    """Return the model's files that match the patterns, sorted. Its output depends on nothing else.

    Raises:
        WeightsNotUsable: there is no such folder, and the download failed.
    """
    folder = model_folder(name, patterns)
    return sorted(path for pattern in patterns for path in folder.glob(pattern))
