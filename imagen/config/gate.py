"""The rules by which a model becomes the champion."""

from pydantic import BaseModel, ConfigDict, Field, model_validator

from imagen.config.evaluation import EvaluateSettings


class Rule(BaseModel):
    """The rule of one metric.

    The improvement is the candidate's value minus the champion's, on the same prompts and seeds. For distances, where
    lower is better, it is the champion's value minus the candidate's.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str = Field(description="the metric's name, as evaluations list it")
    floor: float | None = Field(None, description="the worst value that passes, whatever the champion's is")
    gain: float | None = Field(None, ge=0, description="the improvement must be significant, and at least this")
    loss: float | None = Field(None, ge=0, description="the value may be worse than the champion's by up to this")
    slices: float | None = Field(None, ge=0, description="no slice of the suite may be worse by more than this")

    @model_validator(mode="after")
    def _has_a_limit(self) -> "Rule":
        if self.gain is not None and self.loss is not None:
            raise ValueError(f"{self.metric} can't have both gain and loss: leave one out")
        if self.floor is None and self.gain is None and self.loss is None and self.slices is None:
            raise ValueError(f"{self.metric} needs one of floor, gain, loss, slices")
        return self


class Gate(BaseModel):
    """The evaluation of a candidate, and the rules that its metrics must pass."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    evaluate: EvaluateSettings = Field(EvaluateSettings(), description="the evaluation whose metrics are compared")
    rules: tuple[Rule, ...] = Field(
        (Rule(metric="right", gain=0, slices=0.1),), min_length=1, description="every rule must pass"
    )
