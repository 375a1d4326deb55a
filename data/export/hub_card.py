"""Writes the card of a Hugging Face export: a `README.md` whose front matter names the folder's files and columns.

The text is copied from the dataset's card in the lake, unless there is no such card or it describes other versions.
"""

import re
from typing import Any

import pyarrow as pa
import yaml

from data.errors import ExportError
from data.lake import storage
from data.lake.lake import Lake
from data.lake.layout import CARD
from data.publish.hf_features import card_features, size_category
from data.publish.versions import Version

FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)^---[ \t]*$\r?\n?", re.DOTALL | re.MULTILINE)
DEFAULT_TEXT = """
# {name}

{samples:,} pictures with captions, published on {at:%Y-%m-%d} as version {version} of the dataset {name}. Each row has
the URL from which its picture was fetched and the scores by which it was selected.

```python
from datasets import load_dataset

samples = load_dataset("{name}", split="train")  # the folder that holds this file
samples[0]["image"], samples[0]["caption"]
```
"""


def card(lake: Lake, version: Version, schema: pa.Schema, samples: int, file_bytes: int, content_bytes: int) -> str:
    """Return the card's text, with front matter that describes the exported folder.

    Args:
        lake: the lake that contains the dataset and its card.
        version: the exported version.
        schema: the schema of the exported files.
        samples: the number of samples.
        file_bytes: the stored size of all files.
        content_bytes: the size of the files' content before compression.

    Raises:
        ExportError: the front matter of the card in the lake is not a YAML mapping.
    """
    front_matter, text = _read_lake_card(lake, version) or _default_card(version, samples)
    front_matter |= {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
        "dataset_info": {
            "features": card_features(schema),
            "splits": [{"name": "train", "num_bytes": content_bytes, "num_examples": samples}],
            "download_size": file_bytes,
            "dataset_size": content_bytes,
        },
    }
    yaml_text = yaml.safe_dump(front_matter, sort_keys=False, allow_unicode=True, width=120)
    return f"---\n{yaml_text}---\n{text}"


def _read_lake_card(lake: Lake, version: Version) -> tuple[dict[str, Any], str] | None:
    """Read front matter and text of the card in the lake. None if there is no card or it names only other versions."""
    url = storage.join(lake.table_url(f"datasets/{version.dataset}"), CARD)
    if not storage.exists(url):
        return None
    content = storage.read(url).decode()
    named_versions = set(re.findall(rf"(?<![\w-]){re.escape(version.dataset)}@(\d+)", content))
    if named_versions and str(version.version) not in named_versions:
        return None
    match = FRONT_MATTER.match(content)
    if match is None:
        return {}, content
    try:
        front_matter = yaml.safe_load(match[1]) or {}
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise ExportError(f"the front matter of {url} is not valid YAML: {reason}. Correct it") from None
    if not isinstance(front_matter, dict):
        raise ExportError(f"the front matter of {url} is not a mapping. Correct it")
    return dict(front_matter), content[match.end() :]


def _default_card(version: Version, samples: int) -> tuple[dict[str, Any], str]:
    size = size_category(samples)
    front_matter = {"pretty_name": version.dataset, "task_categories": ["text-to-image"], "size_categories": [size]}
    text = DEFAULT_TEXT.format(name=version.dataset, samples=samples, version=version.version, at=version.at)
    return front_matter, text
