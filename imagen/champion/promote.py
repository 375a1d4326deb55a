"""Promotion: compare a model with the champion on the same prompts and seeds, and let the gate decide."""

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
    """A model to promote, and the evaluations that the decision is based on.

    Attributes:
        trained: the model.
        champion: the champion's number; None if there is none.
        evaluation: the evaluation of the model.
        against: the same evaluation of the champion; None if there is no champion.
    """

    trained: TrainedModel
    gate: Gate
    champion: int | None
    evaluation: Evaluation
    against: Evaluation | None


@dataclass(frozen=True)
class Promotion:
    """The gate's verdict on a candidate, the differences from the champion, and the decision that was recorded."""

    verdict: Verdict
    differences: tuple[Difference, ...]
    decision: Decision


def plan_candidate(lake: Lake, reference: str, gate: Gate | None = None) -> Candidate:
    """Plan the promotion of a model; nothing is evaluated yet. Both models are compared with its dataset version.

    Args:
        reference: NAME or NAME/NUMBER.
        gate: by default the gate of the model's configuration.

    Raises:
        ModelNotFound: the lake has no such model.
        ModelNotUsable: the model is the champion already.
        ConfigError: a rule's metric is not measured.
    """
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
    """Return the gate from the configuration that a model was trained with."""
    return Gate.model_validate(trained.config.get("gate") or {})


def promote(
    candidate: Candidate,
    engine: Engine,
    why: str | None = None,
    who: str | None = None,
    anyway: bool = False,
    on_plan: Callable[[Plan], None] = lambda plan: None,
    on_shard: Callable[[ShardResult], None] = lambda result: None,
) -> Promotion:
    """Run the evaluations that are not complete, then call `decide_promotion`.

    Args:
        on_plan: called with each stage's plan.
        on_shard: called with each shard that is committed.
    """
    rows = evaluate(candidate.evaluation, engine, on_plan, on_shard)
    if candidate.against is not None:
        evaluate(candidate.against, engine, on_plan, on_shard)
    return decide_promotion(candidate, rows, why, who, anyway)


def decide_promotion(
    candidate: Candidate,
    rows: list[dict[str, Any]],
    why: str | None = None,
    who: str | None = None,
    anyway: bool = False,
) -> Promotion:
    """Judge a candidate whose evaluations are complete, and add the decision to the registry.

    If the gate asks for a person, an approval of exactly these weights promotes the model.

    Args:
        rows: the candidate's rows of `evals`.
        why: by default the gate's answer.
        who: by default the user who runs this.
        anyway: promote whatever the gate says.

    Raises:
        ChampionChanged: another model became champion meanwhile; nothing was added.
    """
    differences = compare(candidate.against, candidate.evaluation) if candidate.against is not None else None
    verdict = judge(candidate.gate, _overall_figures(rows), differences)
    lake, trained = candidate.evaluation.lake, candidate.trained
    act: Act = "promote" if anyway else verdict.answer
    reason = why or f"the gate said {verdict.answer}"
    if act == "ask" and (approval := approval_of(lake, trained.digest)):
        act, who, reason = "promote", approval.who, approval.why
    decision = add_decision(lake, trained.name, act, trained.number, candidate.champion, reason, verdict.as_json(), who)
    return Promotion(verdict, tuple(differences or ()), decision)


def _overall_figures(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Return each metric's value over all prompts."""
    return {row["metric"]: row["value"] for row in rows if row["slice"] == ALL}
