"""What is undone, by the lake alone, from a version without a decision to a judged model."""

from dataclasses import replace
from pathlib import Path

from imagen.champion.reconcile import next_step
from imagen.champion.retrain import RetrainPolicy, record_decision
from imagen.champion.retrain import decide as decide_on_training
from imagen.models.registry import add_decision
from imagen.models.table import models
from tests.lakes.drawn import make_drawn_lake
from tests.lakes.trained import add_perturbed_model, make_trained_lake
from tests.shared import copy_of


def test_each_step_is_undone_until_the_lake_has_it(tmp_path: Path) -> None:
    lake, policy = make_drawn_lake(tmp_path, 24), RetrainPolicy()
    assert next_step(lake, "little", "nothing") is None
    assert next_step(lake, "little", "drawn") == ("retrain", 1)
    decided = decide_on_training(lake, "little", "drawn", 1, policy)
    record_decision(lake, replace(decided, train=False), policy)
    assert next_step(lake, "little", "drawn") is None
    record_decision(lake, decided, policy)
    assert next_step(lake, "little", "drawn") == ("train", 1)
    assert next_step(lake, "other", "drawn") == ("retrain", 1)


def test_a_model_that_nobody_judged_is_undone(tmp_path: Path) -> None:
    (tmp_path / "made").mkdir()
    lake = copy_of(make_trained_lake(tmp_path / "made"), tmp_path / "lake")
    record_decision(lake, decide_on_training(lake, "little", "drawn", 1, RetrainPolicy()), RetrainPolicy())
    assert next_step(lake, "little", "drawn") == ("promote", 1)
    add_decision(lake, "little", "reject", 1, None, "no")
    assert next_step(lake, "little", "drawn") is None
    add_perturbed_model(lake, 2)
    assert len(models(lake)) == 2
    assert next_step(lake, "little", "drawn") == ("promote", 2)
