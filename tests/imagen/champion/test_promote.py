"""The registry: which model is champion, how a model becomes it, and what two promotions at once do."""

import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier

import pytest

from data.lake.lake import Lake
from imagen.champion.promote import Promotion, plan_candidate, promote
from imagen.config.gate import Gate
from imagen.config.training import TrainConfig
from imagen.errors import ChampionChanged, ModelNotFound, ModelNotUsable
from imagen.models.approvals import approve
from imagen.models.registry import (
    Decision,
    add_decision,
    champion_of,
    champions_of,
    decisions,
    rival_of,
    rollback,
    state_of,
)
from imagen.models.table import find_model, model_url, models
from imagen.train.setup import plan_training
from tests.engines import InProcessEngine
from tests.imagen.metrics.painted import paint
from tests.lakes.trained import add_perturbed_model
from tests.shared import copy_of

COUNT = 24
RIGHT = {"little/1": set(range(8)), "little/2": set(range(COUNT)), "little/3": set(range(1, 9))}


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Gate:
    kinds, colours = (
        ("circle", "square", "star"),
        ("red", "green", "blue", "black", "orange", "purple", "cyan", "yellow"),
    )
    rows = [f"a {colour} {kind},{kind}" for kind in kinds for colour in colours]
    suite = tmp_path_factory.mktemp("suite") / "few.csv"
    suite.write_text("\n".join(["prompt,category", *rows]))
    return Gate.model_validate({"evaluate": {"suite": str(suite)}, "rules": [{"metric": "right", "gain": 0}]})


def promoted(lake: Lake, reference: str, gate: Gate, **how: object) -> Promotion:
    plan = plan_candidate(lake, reference, gate)
    for evaluation in (plan.evaluation, plan.against):
        if evaluation is not None and not evaluation.picture_lake.find("images"):
            paint(evaluation, RIGHT[evaluation.model])
    return promote(plan, InProcessEngine(), **how)  # type: ignore[arg-type]


@dataclass(frozen=True)
class History:
    """A name's decisions: a first champion, a better model, a worse one, a rollback, and a model that is no better."""

    first: Promotion
    better: Promotion
    worse: Promotion
    back: Decision
    equal: Promotion
    anyway: Promotion  # of the model that is no better, by a person
    past: list[Decision]


@pytest.fixture(scope="module")
def history(three_models_lake: Lake, gate: Gate, tmp_path_factory: pytest.TempPathFactory) -> History:
    lake = copy_of(three_models_lake, tmp_path_factory.mktemp("history") / "lake")
    return History(
        first=promoted(lake, "little/1", gate, who="ann"),
        better=promoted(lake, "little/2", gate),
        worse=promoted(lake, "little/1", gate),
        back=rollback(lake, "little", "washed-out colours", "bob"),
        equal=promoted(lake, "little/3", gate),
        anyway=promoted(lake, "little/3", gate, anyway=True, why="its stars are nicer"),
        past=decisions(lake, "little"),
    )


def test_the_first_model_becomes_the_champion(history: History) -> None:
    decision = history.first.decision
    assert (decision.act, decision.champion, decision.who) == ("promote", 1, "ann")


def test_a_better_model_is_promoted(history: History) -> None:
    decision, verdict = history.better.decision, history.better.verdict
    assert (decision.act, decision.champion) == ("promote", 2), verdict
    assert "better: 0.333 → 1" in verdict.reasons[0].found


def test_a_worse_model_is_rejected(history: History) -> None:
    decision = history.worse.decision
    assert (decision.act, decision.champion) == ("reject", 2)
    assert "worse" in decision.reasons[0]["found"]


def test_a_rollback_is_a_decision_with_its_reason(history: History) -> None:
    assert (history.back.champion, history.back.who, history.back.why) == (1, "bob", "washed-out colours")


def test_the_gate_asks_about_a_model_that_is_no_better(history: History) -> None:
    decision = history.equal.decision
    assert (decision.act, decision.champion) == ("ask", 1)
    assert "no significant difference" in history.equal.verdict.reasons[0].found


def test_a_person_promotes_what_the_gate_asks_about(history: History) -> None:
    decision = history.anyway.decision
    assert (decision.act, decision.champion, history.anyway.verdict.answer) == ("promote", 3, "ask")


def test_decisions_stay_in_their_order(history: History) -> None:
    acts = [decision.act for decision in history.past]
    assert acts == ["promote", "promote", "reject", "rollback", "ask", "promote"]


def test_champions_and_their_rivals_follow_from_the_decisions(history: History) -> None:
    past = history.past
    assert [state_of(past, number) for number in (1, 2, 3)] == ["retired", "retired", "champion"]
    assert champions_of(past) == [1, 3]
    assert (rival_of(past, 3), rival_of(past, 2)) == (1, 3)


def test_a_person_approves_of_these_weights_alone(three_models: Lake, gate: Gate) -> None:
    promoted(three_models, "little/1", gate)
    approve(three_models, find_model(three_models, "little/2"), "that one", "bob")
    assert promoted(three_models, "little/3", gate).decision.act == "ask"
    approve(three_models, find_model(three_models, "little/3"), "its stars are nicer", "ann")
    promotion = promoted(three_models, "little/3", gate)
    assert (promotion.verdict.answer, promotion.decision.act, promotion.decision.champion) == ("ask", "promote", 3)
    assert (promotion.decision.who, promotion.decision.why) == ("ann", "its stars are nicer")
    approve(three_models, find_model(three_models, "little/1"), "never mind", "bob")
    rollback(three_models, "little", "oh")
    promoted(three_models, "little/2", gate)
    assert promoted(three_models, "little/1", gate).decision.act == "reject"  # without a look at the approval


def test_the_champion_has_an_alias(three_models: Lake, gate: Gate) -> None:
    with pytest.raises(ModelNotFound, match=r"little has no champion in .*; make one: imagen promote little/NUMBER"):
        model_url("little/champion", three_models.url)
    add_decision(three_models, "little", "promote", 2, None, "to see")
    assert model_url("little/champion", three_models.url) == model_url("little/2", three_models.url)
    assert find_model(three_models, "little/champion").reference == "little/2"
    with pytest.raises(ModelNotUsable, match="little/2 is the champion of little already"):
        plan_candidate(three_models, "little/champion", gate)
    first = TrainConfig.model_validate(
        {**models(three_models)[-1].config, "name": "next", "init_from": "little/champion"}
    )
    assert plan_training(three_models, first, "drawn").config.init_from == "little/2"


def test_of_two_promotions_at_once_one_wins_and_the_other_names_the_winner(three_models: Lake) -> None:
    add_decision(three_models, "little", "promote", 1, None, "the first")
    together = Barrier(2)

    def decided(number: int) -> str:
        together.wait()
        try:
            return add_decision(three_models, "little", "promote", number, 1, f"number {number}", who="ann").act
        except ChampionChanged as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(decided, (2, 3)))
    champion = champion_of(decisions(three_models, "little"))
    winner, loser = (2, 3) if champion == 2 else (3, 2)
    assert answers[winner - 2] == "promote"
    assert f"little/{winner} became champion at " in answers[loser - 2]
    assert f"by ann: number {winner}. little/{loser} was compared with little/1, so nothing" in answers[loser - 2]
    assert len(decisions(three_models, "little")) == 2


def test_decisions_of_different_names_do_not_wait_for_each_other(three_models: Lake) -> None:
    other = add_perturbed_model(three_models, 7, name="other")
    together = Barrier(4)

    def decided(name: str, number: int) -> None:
        together.wait()
        add_decision(three_models, name, "reject", number, None, "at once")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(decided, ["little", "other", "little", "other"], [1, 1, 2, 1]))
    assert other == "other/1"
    assert [decision.sequence for decision in decisions(three_models)] == [1, 2, 1, 2]
    assert champion_of(decisions(three_models, "little")) is None


def test_a_rollback_needs_a_champion_before(three_models: Lake) -> None:
    with pytest.raises(ModelNotFound, match="little has no champion"):
        rollback(three_models, "little", "oh")
    add_decision(three_models, "little", "promote", 1, None, "the first")
    with pytest.raises(ModelNotFound, match="little/1 is the first champion of little: there is none before it"):
        rollback(three_models, "little", "oh")
    for number, champion in ((2, 1), (3, 2)):
        add_decision(three_models, "little", "promote", number, champion, "next")
    assert [rollback(three_models, "little", "oh").champion for _ in range(2)] == [2, 1]


def test_a_gate_is_no_part_of_what_is_trained(three_models_lake: Lake, gate: Gate) -> None:
    trained = find_model(three_models_lake, "little/1")
    config = TrainConfig.model_validate(trained.config)
    assert config.model_copy(update={"gate": gate}).hash == config.hash == trained.config_hash
    assert re.fullmatch("[0-9a-f]{64}", config.hash)
