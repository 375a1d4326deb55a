"""What a model must be to become the champion, as its configuration says it."""

from pydantic import BaseModel, ConfigDict, Field, model_validator

from imagen.config.evaluation import EvaluateSettings


class Rule(BaseModel):
    """Of one metric. A difference is the candidate's less the champion's, on the same prompts and seeds; of distances,
    where less is better, the other way around.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    metric: str
    floor: float | None = Field(None, description="it must be as good as this, whatever the champion is")
    gain: float | None = Field(None, ge=0, description="it must be better than the champion, by as much as this")
    loss: float | None = Field(None, ge=0, description="it may be worse than the champion, by no more than this")
    slices: float | None = Field(None, ge=0, description="on no slice may it be worse by more than this")

    @model_validator(mode="after")
    def _says_something(self) -> "Rule":
        if self.gain is not None and self.loss is not None:
            raise ValueError(f"{self.metric} can't have both a gain and a loss: say which")
        if all(one is None for one in (self.floor, self.gain, self.loss, self.slices)):
            raise ValueError(f"{self.metric} needs one of floor, gain, loss, slices")
        return self


class Gate(BaseModel):
    """What is evaluated, and the rules that its figures are held against."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    evaluate: EvaluateSettings = Field(EvaluateSettings(), description="what is asked and measured")
    rules: tuple[Rule, ...] = Field((Rule(metric="right", gain=0, slices=0.1),), min_length=1)
