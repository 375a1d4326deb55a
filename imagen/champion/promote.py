"""A model is held against the champion of its name on the same prompts and seeds, and takes its place by the gate."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from data.engine.pool import Engine
from data.engine.stage import Plan, ShardResult
from data.lake.lake import Lake
from imagen.champion.gate import Verdict, check_rules, judge
from imagen.config.gate import Gate
from imagen.errors import ModelNotUsable
from imagen.evaluate.compare import Difference, compare
from imagen.evaluate.evaluation import ALL, Evaluation, evaluate, plan_evaluation
from imagen.models.approvals import approval_of
from imagen.models.registry import Act, Decision, add_decision, champion_of, decisions
from imagen.models.table import TrainedModel, find_model


@dataclass(frozen=True)
class Candidate:
    """A model, what it is asked for, and the same asked of the champion, if there is one."""

    trained: TrainedModel
    gate: Gate
    champion: int | None
    evaluation: Evaluation
    against: Evaluation | None


@dataclass(frozen=True)
class Promotion:
    verdict: Verdict
    differences: tuple[Difference, ...]
    decision: Decision


def plan_candidate(lake: Lake, reference: str, gate: Gate | None = None) -> Candidate:
    """By the gate of the model's configuration, or another; both models beside the candidate's dataset version."""
    trained = find_model(lake, reference)
    champion = champion_of(decisions(lake, trained.name))
    if champion == trained.number:
        raise ModelNotUsable(f"{trained.reference} is the champion of {trained.name} already")
    gate = gate or gate_of(trained)
    evaluation = plan_evaluation(lake, trained.reference, gate.evaluate)
    check_rules(gate, evaluation.figure_names())
    against = None if champion is None else evaluation.for_model(f"{trained.name}/{champion}")
    return Candidate(trained, gate, champion, evaluation, against)


def gate_of(trained: TrainedModel) -> Gate:
    """Of the configuration that it was trained by."""
    return Gate.model_validate(trained.config.get("gate") or {})


def promote(
    asked: Candidate,
    engine: Engine,
    why: str | None = None,
    who: str | None = None,
    anyway: bool = False,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_shard: Callable[[ShardResult], None] = lambda written: None,
) -> Promotion:
    """Evaluate what is not evaluated yet, judge, and record what follows."""
    rows = evaluate(asked.evaluation, engine, on_plan, on_shard)
    if asked.against is not None:
        evaluate(asked.against, engine, on_plan, on_shard)
    return decide_promotion(asked, rows, why, who, anyway)


def decide_promotion(
    asked: Candidate, rows: list[dict[str, Any]], why: str | None = None, who: str | None = None, anyway: bool = False
) -> Promotion:
    """Judge by the rows of `evals`, and record what follows.

    Where the gate asks for a person, whoever approved of these very weights has answered; `anyway` is whoever calls.
    """
    differences = compare(asked.against, asked.evaluation) if asked.against is not None else None
    verdict = judge(asked.gate, _figures(rows), differences)
    lake, trained = asked.evaluation.lake, asked.trained
    act: Act = "promote" if anyway else verdict.answer
    said = why or f"the gate said {verdict.answer}"
    if act == "ask" and (approval := approval_of(lake, trained.digest)):
        act, who, said = "promote", approval.who, approval.why
    decision = add_decision(lake, trained.name, act, trained.number, asked.champion, said, verdict.as_json(), who)
    return Promotion(verdict, tuple(differences or ()), decision)


def _figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    return {row["metric"]: row["value"] for row in rows if row["slice"] == ALL}
