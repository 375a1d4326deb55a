"""The registry: who is champion, how one becomes it, and that of two at once one is told."""

import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest

from data.lake.lake import Lake
from imagen.champion.promote import Promotion, plan_candidate, promote
from imagen.config.gate import Gate
from imagen.config.training import TrainConfig
from imagen.errors import ChampionChanged, ModelNotFound, ModelNotUsable
from imagen.models.approvals import approve
from imagen.models.registry import add_decision, champion_of, champions_of, decisions, rival_of, rollback, state_of
from imagen.models.table import find_model, model_url, models
from imagen.train.setup import plan_training
from tests.engines import InProcessEngine
from tests.imagen.metrics.painted import paint
from tests.lakes.trained import add_perturbed_model

COUNT = 24
RIGHT = {"little/1": set(range(8)), "little/2": set(range(COUNT)), "little/3": set(range(1, 9))}


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    kinds, colours = (
        ("circle", "square", "star"),
        ("red", "green", "blue", "black", "orange", "purple", "cyan", "yellow"),
    )
    rows = [f"a {colour} {kind},{kind}" for kind in kinds for colour in colours]
    (tmp_path / "few.csv").write_text("\n".join(["prompt,category", *rows]))
    return Gate.model_validate(
        {"evaluate": {"suite": str(tmp_path / "few.csv")}, "rules": [{"metric": "right", "gain": 0}]}
    )


def promoted(lake: Lake, reference: str, gate: Gate, **how: object) -> Promotion:
    asked = plan_candidate(lake, reference, gate)
    for one in (asked.evaluation, asked.against):
        if one is not None and not one.picture_lake.find("images"):
            paint(one, RIGHT[one.model])
    return promote(asked, InProcessEngine(), **how)  # type: ignore[arg-type]


def test_the_gate_promotes_rejects_and_asks(three_models: Lake, gate: Gate) -> None:
    first = promoted(three_models, "little/1", gate, who="ann")
    assert (first.decision.act, first.decision.champion, first.decision.who) == ("promote", 1, "ann")
    better = promoted(three_models, "little/2", gate)
    assert (better.decision.act, better.decision.champion) == ("promote", 2), better.verdict
    assert "better: 0.333 → 1" in better.verdict.reasons[0].found
    worse = promoted(three_models, "little/1", gate)
    assert (worse.decision.act, worse.decision.champion) == ("reject", 2)
    assert "worse" in worse.decision.reasons[0]["found"]
    back = rollback(three_models, "little", "washed-out colours", "bob")
    assert (back.champion, back.who, back.why) == (1, "bob", "washed-out colours")
    equal = promoted(three_models, "little/3", gate)
    assert (equal.decision.act, equal.decision.champion) == ("ask", 1)
    assert "no significant difference" in equal.verdict.reasons[0].found
    person = promoted(three_models, "little/3", gate, anyway=True, why="its stars are nicer")
    assert (person.decision.act, person.decision.champion, person.verdict.answer) == ("promote", 3, "ask")
    past = decisions(three_models, "little")
    assert [one.act for one in past] == ["promote", "promote", "reject", "rollback", "ask", "promote"]
    assert [state_of(past, number) for number in (1, 2, 3)] == ["retired", "retired", "champion"]
    assert champions_of(past) == [1, 3]
    assert (rival_of(past, 3), rival_of(past, 2)) == (1, 3)


def test_a_person_approves_of_these_weights_alone(three_models: Lake, gate: Gate) -> None:
    promoted(three_models, "little/1", gate)
    approve(three_models, find_model(three_models, "little/2"), "that one", "bob")
    assert promoted(three_models, "little/3", gate).decision.act == "ask"
    approve(three_models, find_model(three_models, "little/3"), "its stars are nicer", "ann")
    found = promoted(three_models, "little/3", gate)
    assert (found.verdict.answer, found.decision.act, found.decision.champion) == ("ask", "promote", 3)
    assert (found.decision.who, found.decision.why) == ("ann", "its stars are nicer")
    approve(three_models, find_model(three_models, "little/1"), "never mind", "bob")
    rollback(three_models, "little", "oh")
    promoted(three_models, "little/2", gate)
    assert promoted(three_models, "little/1", gate).decision.act == "reject"  # nobody was asked


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


def test_of_two_promotions_at_once_one_wins_and_the_other_is_told(three_models: Lake) -> None:
    add_decision(three_models, "little", "promote", 1, None, "the first")
    together = Barrier(2)

    def decided(number: int) -> str:
        together.wait()
        try:
            return add_decision(three_models, "little", "promote", number, 1, f"number {number}", who="ann").act
        except ChampionChanged as error:
            return str(error)

    with ThreadPoolExecutor(2) as pool:
        said = list(pool.map(decided, (2, 3)))
    champion = champion_of(decisions(three_models, "little"))
    winner, loser = (2, 3) if champion == 2 else (3, 2)
    assert said[winner - 2] == "promote"
    assert f"little/{winner} became champion at " in said[loser - 2]
    assert f"by ann: number {winner}. little/{loser} was compared with little/1, so nothing" in said[loser - 2]
    assert len(decisions(three_models, "little")) == 2


def test_decisions_of_other_names_are_in_nobodys_way(three_models: Lake) -> None:
    other = add_perturbed_model(three_models, 7, name="other")
    together = Barrier(4)

    def decided(name: str, number: int) -> None:
        together.wait()
        add_decision(three_models, name, "reject", number, None, "at once")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(decided, ["little", "other", "little", "other"], [1, 1, 2, 1]))
    assert other == "other/1"
    assert [one.sequence for one in decisions(three_models)] == [1, 2, 1, 2]
    assert champion_of(decisions(three_models, "little")) is None


def test_there_is_not_always_a_way_back(three_models: Lake) -> None:
    with pytest.raises(ModelNotFound, match="little has no champion"):
        rollback(three_models, "little", "oh")
    add_decision(three_models, "little", "promote", 1, None, "the first")
    with pytest.raises(ModelNotFound, match="little/1 is the first champion of little: there is none before it"):
        rollback(three_models, "little", "oh")
    for number, seen in ((2, 1), (3, 2)):
        add_decision(three_models, "little", "promote", number, seen, "next")
    assert [rollback(three_models, "little", "oh").champion for _ in range(2)] == [2, 1]


def test_a_gate_is_no_part_of_what_is_trained(three_models_lake: Lake, gate: Gate) -> None:
    trained = find_model(three_models_lake, "little/1")
    config = TrainConfig.model_validate(trained.config)
    assert config.model_copy(update={"gate": gate}).hash == config.hash == trained.config_hash
    assert re.fullmatch("[0-9a-f]{64}", config.hash)
