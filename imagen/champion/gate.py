"""The gate: whether a candidate becomes the champion, by rules, and why. What is not certain is for a person to say."""

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
    """One thing that was asked of a metric, what was found, and what follows from that alone."""

    metric: str
    slice: str
    asked: str
    found: str
    answer: Answer


@dataclass(frozen=True)
class Verdict:
    reasons: tuple[Reason, ...]

    @property
    def answer(self) -> Answer:
        """One reason against it is enough, as is one that nobody can be sure of."""
        answers = {reason.answer for reason in self.reasons}
        return "reject" if "reject" in answers else "ask" if "ask" in answers else "promote"

    def as_json(self) -> str:
        return json.dumps([asdict(reason) for reason in self.reasons])


def check_rules(gate: Gate, names: Iterable[tuple[str, str]]) -> None:
    """Raise ConfigError if a rule asks for what is not measured: before a picture is made."""
    slices: dict[str, set[str]] = {}
    for metric, part in names:
        slices.setdefault(metric, set()).add(part)
    for rule in gate.rules:
        if rule.metric not in slices:
            raise ConfigError(
                f"the gate has a rule for {rule.metric}, which is not measured; measured are {', '.join(slices)}"
            )
        if rule.slices is not None and slices[rule.metric] == {ALL}:
            raise ConfigError(f"the gate asks for slices of {rule.metric}, which is of all pictures together")


def judge(gate: Gate, figures: Mapping[str, float], differences: Sequence[Difference] | None) -> Verdict:
    """By the candidate's figures over all prompts, and its differences from the champion; none if there is none yet."""
    reasons: list[Reason] = []
    for rule in gate.rules:
        own = [one for one in differences or [] if one.metric == rule.metric]
        reasons += _floor(rule, figures[rule.metric])
        reasons += _against(rule, own) if differences is not None else _alone(rule)
    return Verdict(tuple(reasons))


def _floor(rule: Rule, value: float) -> Iterator[Reason]:
    if rule.floor is not None:
        way = direction(rule.metric)
        asked = f"at {'least' if way > 0 else 'most'} {rule.floor:g}"
        good = way * value >= way * rule.floor
        yield Reason(rule.metric, ALL, asked, f"{value:.3g}", "promote" if good else "reject")


def _alone(rule: Rule) -> Iterator[Reason]:
    if rule.floor is None:
        yield Reason(rule.metric, ALL, "as good as the champion", "there is no champion yet", "promote")


def _against(rule: Rule, own: Sequence[Difference]) -> Iterator[Reason]:
    whole = next(one for one in own if one.slice == ALL)
    if rule.gain is not None:
        yield _gain(rule, rule.gain, whole)
    if rule.loss is not None:
        yield _loss(whole, f"worse by no more than {rule.loss:g}", rule.loss)
    if rule.slices is not None:
        asked = f"no slice worse by more than {rule.slices:g}"
        every = [_loss(one, asked, rule.slices) for one in own if one.slice != ALL]
        wrong = [one for one in every if one.answer != "promote"]
        yield from wrong or [Reason(rule.metric, "each", asked, "none is", "promote")]


def _gain(rule: Rule, gain: float, one: Difference) -> Reason:
    """Better, by enough, and not by chance."""
    value, low, high = _oriented(one)
    asked = f"better by {gain:g}" if gain else "better"
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
    return Reason(rule.metric, ALL, asked, f"{words}: {_told(one)}", answer)


def _loss(one: Difference, asked: str, loss: float) -> Reason:
    """Not worse by more than this, as far as can be told."""
    value, _, high = _oriented(one)
    answer: Answer = "promote" if value >= -loss else "reject" if high < 0 else "ask"
    words = {"promote": "", "reject": "worse: ", "ask": "perhaps worse: "}[answer]
    return Reason(one.metric, one.slice, asked, f"{words}{_told(one)}", answer)


def _oriented(one: Difference) -> tuple[float, float, float]:
    """The difference and its interval, so that more is better."""
    figure = one.figure
    if direction(one.metric) > 0:
        return figure.value, figure.low, figure.high
    return -figure.value, -figure.high, -figure.low


def _told(one: Difference) -> str:
    figure = one.figure
    return f"{one.before:.3g} → {one.after:.3g}, {figure.value:+.3g} ({figure.low:+.3g} to {figure.high:+.3g})"
