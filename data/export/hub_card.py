"""The card of an exported dataset: `README.md` as the Hugging Face Hub reads it, with what names its files and columns.

The text is that of the card beside the dataset in its lake, if there is one that is not of another version.
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

FRONT = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)^---[ \t]*$\r?\n?", re.DOTALL | re.MULTILINE)
TEXT = """
# {name}

{samples:,} pictures with captions, published on {at:%Y-%m-%d} as version {version} of the dataset {name}. Every row has
the address that its picture was fetched from, and every score that it was selected by.

```python
from datasets import load_dataset

samples = load_dataset("{name}", split="train")  # the folder that holds this file
samples[0]["image"], samples[0]["caption"]
```
"""


def card(lake: Lake, version: Version, schema: pa.Schema, samples: int, stored: int, content: int) -> str:
    """The card; `stored` are the bytes of its files, `content` those that they hold."""
    front, text = _beside(lake, version) or _plain(version, samples)
    front |= {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}],
        "dataset_info": {
            "features": card_features(schema),
            "splits": [{"name": "train", "num_bytes": content, "num_examples": samples}],
            "download_size": stored,
            "dataset_size": content,
        },
    }
    written = yaml.safe_dump(front, sort_keys=False, allow_unicode=True, width=120)
    return f"---\n{written}---\n{text}"


def _beside(lake: Lake, version: Version) -> tuple[dict[str, Any], str] | None:
    """Front matter and text of the card in the lake; none if it speaks of other versions of the dataset alone."""
    url = storage.join(lake.table_url(f"datasets/{version.dataset}"), CARD)
    if not storage.exists(url):
        return None
    whole = storage.read(url).decode()
    named = set(re.findall(rf"(?<![\w-]){re.escape(version.dataset)}@(\d+)", whole))
    if named and str(version.version) not in named:
        return None
    front = FRONT.match(whole)
    try:
        said = yaml.safe_load(front[1]) if front else {}
    except yaml.YAMLError as error:
        raise ExportError(f"the front matter of {url} is no YAML: {' '.join(str(error).split())}. Correct it") from None
    if not isinstance(said or {}, dict):
        raise ExportError(f"the front matter of {url} is no mapping. Correct it")
    return dict(said or {}), whole[front.end() :] if front else whole


def _plain(version: Version, samples: int) -> tuple[dict[str, Any], str]:
    size = size_category(samples)
    front = {"pretty_name": version.dataset, "task_categories": ["text-to-image"], "size_categories": [size]}
    return front, TEXT.format(name=version.dataset, samples=samples, version=version.version, at=version.at)
