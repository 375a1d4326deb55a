"""Renders the dataset card: `README.md` in the folder of the dataset's table, in the format of the Hugging Face Hub.

Its front matter names the files of the current version, so that `datasets.load_dataset` can load the table's folder
directly.
"""

from functools import lru_cache
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from pydantic import BaseModel, ConfigDict, Field

from data.lake import storage
from data.publish.hf_features import card_features, size_category
from data.report.summary import ScoreSummary, VersionSummary

BLOCKS = "▁▂▃▄▅▆▇█"


class CardSettings(BaseModel):
    """The parts of a card that only the dataset's owner can write."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    license: str | None = Field(
        None, description="licence of the selection, by the Hub's identifier: cc-by-4.0, other, ..."
    )
    description: str | None = Field(None, description="what the dataset is and what it is for; Markdown")
    tags: tuple[str, ...] = Field((), description="further tags on the Hub")


def render_card(summary: VersionSummary, settings: CardSettings, url: str, mark: str) -> str:
    """Render the card as Markdown with front matter.

    Args:
        summary: the version to describe.
        settings: the recipe's `card`.
        url: the URL of the dataset's table, shown in the example code.
        mark: a line that identifies version and settings; see `data/report/write.py`.
    """
    record = summary.version.record
    return _template().render(
        mark=mark,
        front_matter=as_yaml(front_matter(summary, settings)),
        name=summary.version.dataset,
        version=summary.version,
        before=summary.before,
        settings=settings,
        rows=record["kept"],
        files=summary.files,
        url=url,
        is_local=storage.is_local(url),
        columns=_describe_columns(summary),
        steps=summary.steps,
        recipe=record["recipe"],
        recipe_text=as_yaml(settings_as_written(record["recipe"])),
    )


def front_matter(summary: VersionSummary, settings: CardSettings) -> dict[str, Any]:
    """Make the card's metadata. It names each file, because a pattern would also match the files of other versions."""
    rows = summary.version.record["kept"]
    metadata: dict[str, Any] = {"license": settings.license} if settings.license else {}
    metadata |= {
        "pretty_name": summary.version.dataset,
        "task_categories": ["text-to-image"],
        "size_categories": [size_category(rows)],
        "tags": ["imagen", *settings.tags],
    }
    if summary.files:
        files = [{"split": "train", "path": summary.files}]
        metadata["configs"] = [{"config_name": "default", "data_files": files}]
    metadata["dataset_info"] = {
        "features": card_features(summary.columns),
        "splits": [{"name": "train", "num_bytes": summary.bytes, "num_examples": rows}],
        "download_size": summary.bytes,
        "dataset_size": summary.bytes,
    }
    return metadata


def settings_as_written(settings: dict[str, Any]) -> dict[str, Any]:
    """Prepare a recipe or configuration for display. Unset values, secrets in URLs and the `card` are removed."""
    shown = _without_unset(settings)
    return {name: value for name, value in shown.items() if name != "card" and value != {}}


def as_yaml(value: Any) -> str:
    """Write a value as YAML, in the order of its keys and without wrapping long lines."""
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10_000)


def table_cell(text: object) -> str:
    """Return a text as one line, in which the special characters of Markdown tables and HTML are escaped."""
    return " ".join(str(text).split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("data", "pages"), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters |= {
        "cell": table_cell,
        "public": lambda url: storage.without_secrets(url).replace("`", "'"),
    }
    return environment.get_template("card.md")


def _describe_columns(summary: VersionSummary) -> list[dict[str, str]]:
    """Describe each column by its name, its type and, if it is a score, its distribution."""
    scores = {score.fact: score for score in summary.scores}
    columns = []
    for column, feature in zip(summary.columns, card_features(summary.columns), strict=True):
        dtype = str(feature.get("dtype", column.type))
        columns.append({"name": column.name, "type": dtype, **_describe_distribution(scores.get(column.name))})
    return columns


def _describe_distribution(score: ScoreSummary | None) -> dict[str, str]:
    """Describe kept rows by smallest value, median, largest value and a histogram in block characters."""
    if score is None or score.histogram is None or not score.deciles:
        return {"low": "", "median": "", "high": "", "bars": ""}
    counts = score.histogram.counts["kept"]
    filled = [index for index, count in enumerate(counts) if count]
    largest = max(counts)
    bars = "".join(BLOCKS[-(-count * (len(BLOCKS) - 1) // largest)] for count in counts[filled[0] : filled[-1] + 1])
    low, median, high = (f"{score.deciles[index]:.4g}" for index in (0, 5, 10))
    return {"low": low, "median": median, "high": high, "bars": bars}


def _without_unset(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name: _without_unset(item)
            for name, item in value.items()
            if item not in (None, [], ()) and name != "fact"  # a criterion's fact is its key in the recipe
        }
    if isinstance(value, list):
        return [_without_unset(item) for item in value]
    return storage.without_secrets(value) if isinstance(value, str) else value
