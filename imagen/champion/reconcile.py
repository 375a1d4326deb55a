"""What a lost event or a killed run left undone between a published version and a judged model, by the lake alone."""

from typing import Literal

from data.lake.lake import Lake
from data.publish.versions import newest_version
from imagen.champion.retrain import decisions_on_version
from imagen.models.registry import decisions
from imagen.models.table import models

Step = Literal["retrain", "train", "promote"]


def next_step(lake: Lake, name: str, dataset: str) -> tuple[Step, int] | None:
    """The next thing to do, with the dataset's version or the model's number that it is about; none if all is done."""
    version = newest_version(lake, dataset)
    if version is None:
        return None
    rows = decisions_on_version(lake, name, dataset, version.version)
    if not rows:
        return "retrain", version.version
    trained = [one for one in models(lake) if one.name == name]
    if rows[-1]["train"] and not any((one.dataset, one.version) == (dataset, version.version) for one in trained):
        return "train", version.version
    judged = {one.number for one in decisions(lake, name)}
    if trained and trained[0].number not in judged:
        return "promote", trained[0].number
    return None
