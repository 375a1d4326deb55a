"""Find the step that a lost event or a killed run left undone, from a published version to a judged model.

Only the lake is read: its versions, models and decisions.
"""

from typing import Literal

from data.lake.lake import Lake
from data.publish.versions import newest_version
from imagen.champion.retrain import decisions_on_version
from imagen.models.registry import decisions
from imagen.models.table import models

Step = Literal["retrain", "train", "promote"]


def next_step(lake: Lake, name: str, dataset: str) -> tuple[Step, int] | None:
    """Return the next step for the models with a name on a dataset's newest version, or None if nothing is left to do.

    Returns:
        `retrain` (decide whether to train) or `train`, with the version; or `promote`, with the model's number.
    """
    version = newest_version(lake, dataset)
    if version is None:
        return None
    retrain_rows = decisions_on_version(lake, name, dataset, version.version)
    if not retrain_rows:
        return "retrain", version.version
    trained = [model for model in models(lake) if model.name == name]
    is_trained = any((model.dataset, model.version) == (dataset, version.version) for model in trained)
    if retrain_rows[-1]["train"] and not is_trained:
        return "train", version.version
    judged_numbers = {decision.number for decision in decisions(lake, name)}
    if trained and trained[0].number not in judged_numbers:
        return "promote", trained[0].number
    return None
