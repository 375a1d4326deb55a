"""The gate: rules that decide whether a candidate becomes the champion.

If a difference is not significant, a person decides.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Literal

from imagen.config.gate import Gate, Rule
from imagen.errors import ConfigError
from imagen.evaluate.compare import Difference, direction
from imagen.evaluate.evaluation import ALL

Answer = Literal["promote", "reject", "ask"]


@dataclass(frozen=True)
class Reason:
    """The result of one requirement.

    Attributes:
        asked: the requirement, in words.
        found: the measurement, in words.
        answer: the answer that follows from this requirement alone.
    """

    metric: str
    slice: str
    asked: str
    found: str
    answer: Answer


@dataclass(frozen=True)
class Verdict:
    """The results of all requirements. `answer` combines them into one."""

    reasons: tuple[Reason, ...]

    @property
    def answer(self) -> Answer:
        """`reject` if one reason rejects; else `ask` if one is uncertain; else `promote`."""
        answers = {reason.answer for reason in self.reasons}
        if "reject" in answers:
            return "reject"
        return "ask" if "ask" in answers else "promote"

    def as_json(self) -> str:
        """Return the reasons as a JSON list, as the table `registry` stores them."""
        return json.dumps([asdict(reason) for reason in self.reasons])


def check_rules(gate: Gate, names: Iterable[tuple[str, str]]) -> None:
    """Check that every metric of the rules is measured, before a picture is generated.

    Args:
        names: the metric and the slice of every figure that is measured.

    Raises:
        ConfigError: a rule's metric is not measured, or a rule with `slices` needs slices and it is not measured on
            them.
    """
    slices: dict[str, set[str]] = {}
    for metric, part in names:
        slices.setdefault(metric, set()).add(part)
    for rule in gate.rules:
        if rule.metric not in slices:
            raise ConfigError(
                f"the gate has a rule for {rule.metric}, which is not measured; measured are {', '.join(slices)}"
            )
        if rule.slices is not None and slices[rule.metric] == {ALL}:
            raise ConfigError(f"the gate has a rule for slices of {rule.metric}, which is measured on all prompts only")


def judge(gate: Gate, figures: Mapping[str, float], differences: Sequence[Difference] | None) -> Verdict:
    """Apply the gate's rules to a candidate.

    Args:
        figures: the candidate's value of each metric over all prompts.
        differences: the differences from the champion; None if there is no champion.
    """
    reasons: list[Reason] = []
    for rule in gate.rules:
        reasons += _check_floor(rule, figures[rule.metric])
        if differences is None:
            reasons += _without_champion(rule)
        else:
            metric_differences = [difference for difference in differences if difference.metric == rule.metric]
            reasons += _against_champion(rule, metric_differences)
    return Verdict(tuple(reasons))


def _check_floor(rule: Rule, value: float) -> Iterator[Reason]:
    if rule.floor is not None:
        sign = direction(rule.metric)
        requirement = f"at {'least' if sign > 0 else 'most'} {rule.floor:g}"
        passes = sign * value >= sign * rule.floor
        yield Reason(rule.metric, ALL, requirement, f"{value:.3g}", "promote" if passes else "reject")


def _without_champion(rule: Rule) -> Iterator[Reason]:
    if rule.floor is None:
        yield Reason(rule.metric, ALL, "as good as the champion", "there is no champion yet", "promote")


def _against_champion(rule: Rule, differences: Sequence[Difference]) -> Iterator[Reason]:
    """Yield the reasons of a rule, from the differences of its metric on all slices."""
    overall = next(difference for difference in differences if difference.slice == ALL)
    if rule.gain is not None:
        yield _check_gain(rule, rule.gain, overall)
    if rule.loss is not None:
        yield _check_loss(overall, f"worse by no more than {rule.loss:g}", rule.loss)
    if rule.slices is not None:
        requirement = f"no slice worse by more than {rule.slices:g}"
        by_slice = [_check_loss(item, requirement, rule.slices) for item in differences if item.slice != ALL]
        failures = [reason for reason in by_slice if reason.answer != "promote"]
        yield from failures or [Reason(rule.metric, "each", requirement, "none is", "promote")]


def _check_gain(rule: Rule, gain: float, difference: Difference) -> Reason:
    """Require a significant improvement of at least `gain`."""
    value, low, high = _improvement(difference)
    requirement = f"better by {gain:g}" if gain else "better"
    answer: Answer
    if low > 0 and value >= gain:
        answer, words = "promote", "better"
    elif high < 0:
        answer, words = "reject", "worse"
    elif high < gain:
        answer, words = "reject", "too small a gain"
    elif low > 0:
        answer, words = "ask", "a gain that may be too small"
    else:
        answer, words = "ask", "no significant difference"
    return Reason(rule.metric, ALL, requirement, f"{words}: {_format_difference(difference)}", answer)


def _check_loss(difference: Difference, requirement: str, loss: float) -> Reason:
    """Require that the candidate is not worse by more than `loss`. If it is, but not significantly, ask a person."""
    value, _, high = _improvement(difference)
    answer: Answer
    if value >= -loss:
        answer, words = "promote", ""
    elif high < 0:
        answer, words = "reject", "worse: "
    else:
        answer, words = "ask", "perhaps worse: "
    measured = f"{words}{_format_difference(difference)}"
    return Reason(difference.metric, difference.slice, requirement, measured, answer)


def _improvement(difference: Difference) -> tuple[float, float, float]:
    """Return the difference and the bounds of its interval, with the sign changed if lower is better."""
    figure = difference.figure
    if direction(difference.metric) > 0:
        return figure.value, figure.low, figure.high
    return -figure.value, -figure.high, -figure.low


def _format_difference(difference: Difference) -> str:
    figure = difference.figure
    interval = f"({figure.low:+.3g} to {figure.high:+.3g})"
    return f"{difference.before:.3g} → {difference.after:.3g}, {figure.value:+.3g} {interval}"
