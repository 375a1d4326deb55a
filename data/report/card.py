"""The dataset's card: `README.md` in the Hub's form beside the table, by which `datasets` loads the folder as it is."""

from functools import lru_cache
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined, Template
from pydantic import BaseModel, ConfigDict, Field

from data.lake import storage
from data.publish.hf_features import card_features, size_category
from data.report.summary import Account, Score

BLOCKS = "▁▂▃▄▅▆▇█"


class CardSettings(BaseModel):
    """What nobody but the dataset's owner can say of it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    license: str | None = Field(None, description="of the selection, as the Hub names licences: cc-by-4.0, other, ...")
    description: str | None = Field(None, description="what it is and what it is for; Markdown")
    tags: tuple[str, ...] = Field((), description="further tags on the Hub")


def card(account: Account, settings: CardSettings, url: str, mark: str) -> str:
    """The card's text. `url` is the table's, for the loading lines; `mark` says what it was made of."""
    record = account.version.record
    return _page().render(
        mark=mark,
        front=as_yaml(front_matter(account, settings)),
        name=account.version.dataset,
        version=account.version,
        before=account.before,
        settings=settings,
        rows=record["kept"],
        files=account.files,
        url=url,
        local=storage.is_local(url),
        columns=_columns(account),
        steps=account.steps,
        recipe=record["recipe"],
        recipe_text=as_yaml(written(record["recipe"])),
    )


def front_matter(account: Account, settings: CardSettings) -> dict[str, Any]:
    """The card's metadata. The files are named one by one: a pattern would load those of other versions too."""
    rows = account.version.record["kept"]
    front: dict[str, Any] = {"license": settings.license} if settings.license else {}
    front |= {
        "pretty_name": account.version.dataset,
        "task_categories": ["text-to-image"],
        "size_categories": [size_category(rows)],
        "tags": ["imagen", *settings.tags],
    }
    if account.files:
        files = [{"split": "train", "path": account.files}]
        front["configs"] = [{"config_name": "default", "data_files": files}]
    front["dataset_info"] = {
        "features": card_features(account.columns),
        "splits": [{"name": "train", "num_bytes": account.bytes, "num_examples": rows}],
        "download_size": account.bytes,
        "dataset_size": account.bytes,
    }
    return front


def written(recipe: dict[str, Any]) -> dict[str, Any]:
    """A recipe as its owner would write it, without what only its owner may know."""
    return {name: value for name, value in _dense(recipe).items() if name != "card" and value != {}}


def as_yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=10_000)


def cell(text: object) -> str:
    """A text as the cell of a table."""
    return " ".join(str(text).split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


@lru_cache(maxsize=1)
def _page() -> Template:
    environment = Environment(
        loader=PackageLoader("data", "pages"), trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    environment.filters |= {"cell": cell, "public": lambda url: storage.without_secrets(url).replace("`", "'")}
    return environment.get_template("card.md")


def _columns(account: Account) -> list[dict[str, str]]:
    scores = {score.fact: score for score in account.scores}
    found = []
    for column, feature in zip(account.columns, card_features(account.columns), strict=True):
        kind = str(feature.get("dtype", column.type))
        found.append({"name": column.name, "type": kind, **_distribution(scores.get(column.name))})
    return found


def _distribution(score: Score | None) -> dict[str, str]:
    """How what is kept lies, in one line of text."""
    if score is None or score.histogram is None or not score.tenths:
        return {"low": "", "median": "", "high": "", "bars": ""}
    counts = score.histogram.counts["kept"]
    filled = [place for place, count in enumerate(counts) if count]
    most = max(counts)
    bars = "".join(BLOCKS[-(-count * (len(BLOCKS) - 1) // most)] for count in counts[filled[0] : filled[-1] + 1])
    low, median, high = (f"{score.tenths[place]:.4g}" for place in (0, 5, 10))
    return {"low": low, "median": median, "high": high, "bars": bars}


def _dense(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _dense(one) for name, one in value.items() if one not in (None, [], ()) and name != "fact"}
    if isinstance(value, list):
        return [_dense(one) for one in value]
    return storage.without_secrets(value) if isinstance(value, str) else value
