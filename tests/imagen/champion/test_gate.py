"""What the gate says of figures and differences that are known."""

from typing import Any

import pytest
from pydantic import ValidationError

from imagen.champion.gate import check_rules, judge
from imagen.config.gate import Gate
from imagen.errors import ConfigError
from imagen.evaluate.compare import Difference
from imagen.metrics.intervals import Figure


def gate(**rule: Any) -> Gate:
    return Gate.model_validate({"rules": [{"metric": "right", **rule}]})


def apart(value: float, low: float, high: float, metric: str = "right", part: str = "all") -> Difference:
    return Difference(metric, part, 0.5, 0.5 + value, Figure(value, low, high, 200))


@pytest.mark.parametrize(
    ("rule", "difference", "answer", "words"),
    [
        ({"gain": 0}, (0.10, 0.02, 0.18), "promote", "better: 0.5 → 0.6, +0.1 (+0.02 to +0.18)"),
        ({"gain": 0}, (0.03, -0.02, 0.08), "ask", "no significant difference"),
        ({"gain": 0}, (-0.03, -0.08, 0.02), "ask", "no significant difference"),
        ({"gain": 0}, (-0.10, -0.18, -0.02), "reject", "worse"),
        ({"gain": 0.2}, (0.10, 0.02, 0.18), "reject", "too small a gain"),
        ({"gain": 0.15}, (0.10, 0.02, 0.18), "ask", "a gain that may be too small"),
        ({"gain": 0.05}, (0.10, 0.02, 0.18), "promote", "better"),
        ({"loss": 0.05}, (-0.03, -0.08, -0.01), "promote", ""),
        ({"loss": 0.05}, (-0.10, -0.18, -0.02), "reject", "worse"),
        ({"loss": 0.05}, (-0.10, -0.25, 0.05), "ask", "perhaps worse"),
    ],
)
def test_a_difference_is_judged_with_its_interval(
    rule: dict[str, float], difference: tuple[float, float, float], answer: str, words: str
) -> None:
    verdict = judge(gate(**rule), {"right": 0.5 + difference[0]}, [apart(*difference)])
    assert verdict.answer == answer
    assert words in verdict.reasons[0].found


def test_less_of_a_distance_is_better() -> None:
    rules = Gate.model_validate({"rules": [{"metric": "fd_clip", "gain": 1, "floor": 30}]})
    nearer = judge(rules, {"fd_clip": 25.0}, [apart(-5, -8, -2, "fd_clip")])
    assert nearer.answer == "promote"
    assert judge(rules, {"fd_clip": 25.0}, [apart(5, 2, 8, "fd_clip")]).answer == "reject"
    assert judge(rules, {"fd_clip": 31.0}, [apart(-5, -8, -2, "fd_clip")]).answer == "reject"
    assert nearer.reasons[0].asked == "at most 30"


def test_no_slice_may_fall() -> None:
    good = apart(0.1, 0.02, 0.18)
    fell, trembles = apart(-0.3, -0.5, -0.1, part="star"), apart(-0.3, -0.7, 0.1, part="ring")
    fine = apart(-0.05, -0.2, 0.1, part="box")
    rules = gate(gain=0, slices=0.1)
    assert judge(rules, {"right": 0.6}, [good, fine]).answer == "promote"
    assert judge(rules, {"right": 0.6}, [good, fine, trembles]).answer == "ask"
    verdict = judge(rules, {"right": 0.6}, [good, fine, trembles, fell])
    assert verdict.answer == "reject"
    assert [(reason.slice, reason.answer) for reason in verdict.reasons] == [
        ("all", "promote"), ("ring", "ask"), ("star", "reject"),
    ]  # fmt: skip


def test_the_first_model_is_judged_by_floors_alone() -> None:
    assert judge(gate(gain=0), {"right": 0.1}, None).answer == "promote"
    assert judge(gate(gain=0, floor=0.5), {"right": 0.4}, None).answer == "reject"
    assert judge(gate(gain=0, floor=0.5), {"right": 0.5}, None).answer == "promote"


def test_a_rule_for_what_is_not_measured_is_one_sentence() -> None:
    names = [("right", "all"), ("right", "star"), ("clip_score", "all")]
    with pytest.raises(ConfigError, match="a rule for fid, which is not measured; measured are right, clip_score"):
        check_rules(Gate.model_validate({"rules": [{"metric": "fid", "gain": 0}]}), names)
    rules = Gate.model_validate({"rules": [{"metric": "fd_clip", "slices": 0.1}]})
    with pytest.raises(ConfigError, match="slices of fd_clip, which is measured on all prompts only"):
        check_rules(rules, [*names, ("fd_clip", "all")])
    check_rules(gate(slices=0.1), names)


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        ({"gain": 1, "loss": 1}, "right can't have both gain and loss: leave one out"),
        ({}, "right needs one of floor, gain, loss, slices"),
    ],
)
def test_a_rule_says_something(rule: dict[str, float], sentence: str) -> None:
    with pytest.raises(ValidationError, match=sentence):
        gate(**rule)
