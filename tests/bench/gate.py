"""Whether the gate can be trusted: cascades of 2 and 10 minutes, and one of 2 again from another seed.

The longer is promoted over the shorter, the shorter rejected against the longer, and of the two that differ by chance
alone a person is asked, as there is no significant difference. GATE_MINUTES changes the two times. Beside other work
a training learns less in the same minutes, so the two that should be equal follow each other: leave the machine
alone.
"""

import os
from collections.abc import Iterator
from pathlib import Path

from data.engine.local import LocalEngine
from data.lake.lake import Lake
from flows.verbs.demo_run import tiny_for
from imagen.champion.promote import Promotion, plan_candidate, promote
from imagen.config.gate import Gate
from imagen.models.registry import rollback
from imagen.train.setup import plan_training
from imagen.train.train import train
from tests.bench.learn import published

SHORT, LONG = (float(minutes) for minutes in os.environ.get("GATE_MINUTES", "2,10").split(","))
GATE = Gate.model_validate({"rules": [{"metric": "right", "gain": 0}]})


def rows(folder: Path) -> Iterator[tuple[str, float, float, bool, str]]:
    lake = published(folder)
    short, again, long = trained(lake, SHORT, 0), trained(lake, SHORT, 1), trained(lake, LONG, 0)
    with LocalEngine(threads=1) as engine:

        def judged(model: str) -> Promotion:
            return promote(plan_candidate(lake, model, GATE), engine, who="the bench")

        first = judged(short)
        yield "the gate: the first model is promoted", *outcome(first, "promote")
        yield f"the gate: {LONG:g} minutes over {SHORT:g} is promoted", *outcome(judged(long), "promote")
        yield f"the gate: {SHORT:g} minutes against {LONG:g} is rejected", *outcome(judged(short), "reject")
        rollback(lake, "shapes", "to hold the equal ones against each other", "the bench")
        equal = judged(again)
        yield f"the gate: {SHORT:g} minutes, another seed: a person is asked", *outcome(equal, "ask")


def trained(lake: Lake, minutes: float, seed: int) -> str:
    config = tiny_for(minutes)
    config = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
    model = train(plan_training(lake, config, "shapes")).trained
    assert model is not None
    return model.reference


def outcome(judged: Promotion, expected: str) -> tuple[float, float, bool, str]:
    note = "; ".join(f"{reason.metric} {reason.found}" for reason in judged.verdict.reasons)
    return float(judged.verdict.answer == expected), 1.0, True, f"{judged.verdict.answer}: {note}"
