"""When a dataset version is worth a training, by a policy whose figures are known."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from data.lake.lake import Lake
from imagen.champion.retrain import TABLE, RetrainPolicy, decide, record_decision
from imagen.config.training import TrainConfig
from imagen.models.assemble import add_model
from imagen.models.table import models
from tests.lakes.fetched import add_fetched_pairs, build_in_process, numbered_pairs, small_recipe
from tests.lakes.trained import untrained_model

NEVER = {"grown": None, "drift": None, "days": None}
SINCE = "since little/1 learnt small@1"


@pytest.fixture(scope="module")
def grown_lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """With small@1, a model of it, and small@2, which has more rows and lost the darkest."""
    folder = tmp_path_factory.mktemp("retrained")
    lake, source = Lake.make(str(folder / "lake"), buckets=2), folder / "pairs.parquet"
    add_fetched_pairs(lake, source, numbered_pairs(40))
    build_in_process(lake, small_recipe(source, 0.2))
    config = TrainConfig(name="little", preset="tiny")
    stages = {"stage-1": {"steps": 10, "seconds": 3600.0, "device_seconds": 7200.0}}
    lineage = {"dataset": "small", "version": 1, "stages": stages}
    add_model(lake, config, "1" * 32, untrained_model((16,)), lineage)
    add_fetched_pairs(lake, source, [(f"{url}?", caption) for url, caption in numbered_pairs(60)])
    build_in_process(lake, small_recipe(source, 0.4))
    return lake


def decision_on(lake: Lake, **policy: float | None) -> tuple[bool, str]:
    decided = decide(lake, "little", "small", 2, RetrainPolicy.model_validate(NEVER | policy))
    return decided.train, decided.why


@pytest.fixture(scope="module")
def figures(grown_lake: Lake) -> dict[str, float]:
    """What the decision on small@2 measured."""
    return decide(grown_lake, "little", "small", 2, RetrainPolicy()).figures


@pytest.mark.slow
def test_figures_are_what_changed_since_the_version_of_the_model(grown_lake: Lake, figures: dict[str, float]) -> None:
    before, after = (grown_lake.table("datasets/small", version).count_rows() for version in (1, 2))
    old, new = ({*grown_lake.table("datasets/small", n).dataset().to_table()["id"].to_pylist()} for n in (1, 2))
    assert figures["grown"] == len(new - old) / before > 0.5
    assert figures["drift"] > 0.1  # the dark ones went
    assert figures["hours"] == 2.0
    assert after == len(new)


@pytest.mark.slow
def test_each_reason_is_enough_and_says_its_figure(grown_lake: Lake, figures: dict[str, float]) -> None:
    grown = f"{figures['grown']:.1%} new samples {SINCE}, 50.0% is enough"
    drift = f"a score drifted by {figures['drift']:.3f} {SINCE}, 0.100 is enough"
    assert decision_on(grown_lake, grown=0.5) == (True, grown)
    assert decision_on(grown_lake, drift=0.1) == (True, drift)


def test_reasons_below_their_limits_are_not_enough(grown_lake: Lake) -> None:
    train, why = decision_on(grown_lake, grown=9, drift=1)
    assert not train
    assert why.endswith(f"{SINCE}: not enough")


def test_age_is_enough_only_if_anything_changed(grown_lake: Lake) -> None:
    policy = RetrainPolicy.model_validate(NEVER | {"days": 7})
    later = datetime.now(UTC) + timedelta(days=8)
    assert not decide(grown_lake, "little", "small", 2, policy).train
    assert decide(grown_lake, "little", "small", 2, policy, later).train
    same = decide(grown_lake, "little", "small", 1, policy, later)
    assert (same.train, same.why) == (False, "nothing changed since little/1 learnt small@1")


def test_a_budget_is_kept(grown_lake: Lake) -> None:
    train, why = decision_on(grown_lake, grown=0.5, hours=2)
    assert not train
    assert why.endswith("but 2.0 hours of a GPU were trained in seven days, and the budget is 2")
    assert decision_on(grown_lake, grown=0.5, hours=2.1)[0]
    later = datetime.now(UTC) + timedelta(days=8)
    policy = RetrainPolicy.model_validate(NEVER | {"grown": 0.5, "hours": 2})
    assert decide(grown_lake, "little", "small", None, policy, later).train


def test_the_first_model_is_always_trained_and_every_decision_is_a_row(grown_lake: Lake, tmp_path: Path) -> None:
    policy = RetrainPolicy()
    first = decide(grown_lake, "another", "small", None, policy)
    assert (first.train, first.version, first.since, first.why) == (True, 2, None, "there is no model of it yet")
    for decided in (first, decide(grown_lake, "little", "small", 1, policy)):
        record_decision(grown_lake, decided, policy)
    rows = grown_lake.table(TABLE).dataset().to_table().sort_by("at").to_pylist()
    assert [(row["name"], row["version"], row["train"]) for row in rows] == [("another", 2, True), ("little", 1, False)]
    assert len(models(grown_lake)) == 1
