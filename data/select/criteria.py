"""What a recipe may ask of a pair: small declarative models that compile to SQL, each with a reason for what it drops.

Some look at a row alone (`Bounds`, `AnyOf`, `Sample`), the others (`Top`, `Unique`, `Holdout`, `Balance`) at the rows
that passed every criterion before them. In a recipe the key says which: a fact, or any_of, unique, sample, holdout.
"""

from collections.abc import Iterable
from fractions import Fraction
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.lake.sql import quote_name, quote_text, quote_texts
from data.pictures.near_duplicates import THUMBNAIL_DISTANCE
from data.select.holdout import files_of

CARRIED = "extra."  # begins the name of a column that the source had
OTHER = "other"  # the key of a bound for all values that have none of their own


class Criterion(BaseModel):
    """One line of a recipe's `select`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fact: str = Field(description="what it asks about; the key in the recipe")

    @property
    def label(self) -> str:
        """What its reasons begin with, and what the funnel calls it."""
        return self.fact

    def asks(self) -> Iterable[str]:
        """The facts that it needs."""
        return [self.fact]

    def state(self) -> Any:
        """What it reads beside the lake: when that changes, all is judged anew."""
        return None


class RowCriterion(Criterion):
    def reason(self) -> str:
        """SQL over the facts of a row: why it is dropped, or null."""
        raise NotImplementedError


class SetCriterion(Criterion):
    """Looks at all the rows that are left."""


class Bounds(RowCriterion):
    """Bounds of one fact; or the values that it may have. What lies on `min` and `max` is kept."""

    above: float | None = Field(None, description="drop what is not above")
    below: float | None = Field(None, description="drop what is not below")
    min: float | dict[str, float] | None = Field(None, description="drop what is below; by another fact: {en: 0.28}")
    max: float | dict[str, float] | None = Field(None, description="drop what is above")
    by: str | None = Field(None, description="the fact whose values choose the bound, 'other' for the rest")
    one_of: tuple[str, ...] | None = Field(None, description="drop what is none of these")
    none_of: tuple[str, ...] | None = Field(None, description="drop what is one of these")

    @model_validator(mode="after")
    def _bounds(self) -> "Bounds":
        low, high = self.min, self.max
        if all(one is None for one in (low, high, self.above, self.below, self.one_of, self.none_of)):
            raise ValueError("a criterion needs min, max, above, below, top, one_of or none_of")
        if isinstance(low, float) and isinstance(high, float) and low > high:
            raise ValueError(f"min {low:g} is above max {high:g}")
        if (self.by is None) == (isinstance(low, dict) or isinstance(high, dict)):
            raise ValueError("a bound for each value of another fact needs `by`, and `by` needs such a bound")
        return self

    def asks(self) -> Iterable[str]:
        return [self.fact, *([self.by] if self.by else [])]

    def reason(self) -> str:
        said, numeric = quote_name(self.fact), self.one_of is None and self.none_of is None
        fact = number(self.fact) if numeric else said
        cases = [f"WHEN {fact} IS NULL THEN {quote_text(f'{self.label} unknown')}"]
        fact = number(self.fact)
        for bound, sign in ((self.min, "<"), (self.max, ">")):
            if isinstance(bound, dict):
                cases += [self._case(sign, limit, value, bound) for value, limit in bound.items()]
            elif bound is not None:
                cases.append(f"WHEN {fact} {sign} {bound!r} THEN {quote_text(f'{self.label} {sign} {bound:g}')}")
        for bound, sign in ((self.above, "<="), (self.below, ">=")):
            if bound is not None:
                cases.append(f"WHEN {fact} {sign} {bound!r} THEN {quote_text(f'{self.label} {sign} {bound:g}')}")
        if self.one_of is not None:
            cases.append(
                f"WHEN {said} NOT IN ({quote_texts(self.one_of)}) THEN {quote_text(self.label + ' is ')} || {said}"
            )
        if self.none_of is not None:
            cases.append(
                f"WHEN {said} IN ({quote_texts(self.none_of)}) THEN {quote_text(self.label + ' is ')} || {said}"
            )
        return f"CASE {' '.join(cases)} END"

    def _case(self, sign: str, limit: float, value: str, bound: dict[str, float]) -> str:
        assert self.by is not None
        others = [key for key in bound if key != OTHER]
        by = f"coalesce({quote_name(self.by)}, '')"
        holds = (
            f"{by} = {quote_text(value)}"
            if value != OTHER
            else f"{by} NOT IN ({quote_texts(others)})"
            if others
            else "true"
        )
        reason = quote_text(f"{self.label} {sign} {limit:g} ({value})")
        return f"WHEN {holds} AND {number(self.fact)} {sign} {limit!r} THEN {reason}"


class AnyOf(RowCriterion):
    """Kept if all bounds of at least one option hold."""

    options: tuple[dict[str, Bounds], ...] = Field(min_length=1)

    def asks(self) -> Iterable[str]:
        return [fact for option in self.options for bounds in option.values() for fact in bounds.asks()]

    def reason(self) -> str:
        options = (" AND ".join(f"({b.reason()}) IS NULL" for b in option.values()) for option in self.options)
        met = " OR ".join(f"({option})" for option in options)
        words = " or ".join(" and ".join(option) for option in self.options)
        return f"CASE WHEN {met} THEN NULL ELSE {quote_text(f'any_of not met: {words}')} END"


class Sample(RowCriterion):
    """Kept with a probability that the source (or another fact) decides; the draw of a pair is always the same."""

    weights: dict[str, float] = Field(min_length=1, description="value: share that is kept; 'other' for the rest, or 1")
    by: str = "source"
    seed: int = 0

    @property
    def label(self) -> str:
        return f"sample by {self.by}"

    def asks(self) -> Iterable[str]:
        return [self.by]

    def reason(self) -> str:
        cases = " ".join(f"WHEN {quote_text(v)} THEN {w!r}" for v, w in self.weights.items() if v != OTHER)
        share = f"CASE {quote_name(self.by)} {cases or 'WHEN NULL THEN 1'} ELSE {self.weights.get(OTHER, 1.0)!r} END"
        return f"CASE WHEN {draw(f'sample {self.seed}')} >= {share} THEN {quote_text(self.label + ': not drawn')} END"


class Top(SetCriterion):
    """The best share of what is left, over all or per value of another fact. Ties go by id.

    The cut is pinned by the first version that uses it: later rows are held against it, so that nobody who was in falls
    out because others came. `imagen build --repin` cuts anew.
    """

    top: float = Field(gt=0, le=1, description="share that is kept, of those that pass the criteria before")
    per: str | None = Field(None, description="a fact for each of whose values the best are kept")

    @property
    def label(self) -> str:
        return f"best {self.top:.4g} of {self.fact}"

    def asks(self) -> Iterable[str]:
        return [self.fact, *([self.per] if self.per else [])]

    def count(self, rows: int) -> int:
        """How many of so many rows are kept: the share, rounded up."""
        return -int(-rows * Fraction(str(self.top)) // 1)


class Unique(SetCriterion):
    """One of each group of duplicates: the first seen, ties by id."""

    by: Literal["content", "hash", "look", "meaning"] = Field(
        description="content: the same bytes; hash: perceptual hashes; look: thumbnails; meaning: CLIP vectors"
    )
    distance: float | None = Field(
        None,
        ge=0,
        description="at most so far apart. hash: bits of 64; look: grey levels; meaning: 1 - cosine",
    )
    of: str | None = Field(None, description="the score that holds hashes (phash) or vectors (clip)")
    same_caption: bool = Field(False, description="only where the caption is the same too; with distance 0")

    @model_validator(mode="after")
    def _captions_go_by_equality(self) -> "Unique":
        if self.same_caption and (self.most or self.by not in ("content", "hash")):
            raise ValueError("same_caption goes with `by: content`, or with `by: hash` and `distance: 0`")
        return self

    @property
    def label(self) -> str:
        return f"unique {self.by}" + (" and caption" if self.same_caption else "")

    @property
    def most(self) -> float:
        """The distance, if none is given: what re-encoding, rescaling and slight cropping leave."""
        default = {"content": 0.0, "hash": 3.0, "look": THUMBNAIL_DISTANCE, "meaning": 0.01}[self.by]
        return default if self.distance is None else self.distance

    @property
    def column(self) -> str:
        phash, clip = self.of or "phash", self.of or "clip"
        columns = {"hash": f"{phash}_hash", "look": f"{phash}_thumbnail", "meaning": f"{clip}_vectors_vector"}
        return columns.get(self.by, "sha256")

    def asks(self) -> Iterable[str]:
        return [self.column, *(["caption"] if self.same_caption else [])]


class Holdout(SetCriterion):
    """Nothing of an evaluation set: no picture that looks like one of its own, and none of its captions."""

    sets: tuple[str, ...] = Field(min_length=1, description="files of the sets: pictures, .parquet, .txt; globs")
    by: Literal["look", "hash"] = Field("look", description="how pictures are compared, as in `unique`")
    distance: float | None = Field(None, ge=0, description="at most so far apart, as in `unique`")
    of: str = Field("phash", description="the score that holds thumbnails and hashes")
    captions: bool = Field(True, description="leave out their captions as well; case and punctuation don't count")

    @property
    def label(self) -> str:
        return "held out"

    @property
    def most(self) -> float:
        default = {"hash": 3.0, "look": THUMBNAIL_DISTANCE}[self.by]
        return default if self.distance is None else self.distance

    @property
    def column(self) -> str:
        return f"{self.of}_{'thumbnail' if self.by == 'look' else 'hash'}"

    def asks(self) -> Iterable[str]:
        return [self.column, "caption"]

    def state(self) -> Any:
        return files_of(self.sets)


class Balance(SetCriterion):
    """MetaCLIP's balancing (arXiv 2309.16671): of a concept seen more than `most` times about `most` rows are drawn.

    The fact is a list of concepts; a row stays if it is drawn for any of its own, and the draw is always the same.
    """

    most: int = Field(ge=1)
    seed: int = 0

    @property
    def label(self) -> str:
        return f"balance of {self.fact}"


def criterion_class(value: dict[str, Any]) -> type[Criterion]:
    """Which criterion a line of a recipe means."""
    special: dict[Any, type[Criterion]] = {"any_of": AnyOf, "unique": Unique, "sample": Sample, "holdout": Holdout}
    found = special.get(value.get("fact"))
    return found or (Top if "top" in value else Balance if "most" in value else Bounds)


def with_facts(criteria: Any) -> Any:
    """A line of a recipe's `select` with each key told to its criterion; what has another form is for validation."""
    if not isinstance(criteria, dict):
        return criteria
    told = {}
    for fact, value in criteria.items():
        if fact == "any_of" and isinstance(value, list):
            value = {"options": [with_facts(option) for option in value]}
        told[fact] = {"fact": fact} | value if isinstance(value, dict) else value
    return told


def draw(*of: str, salt: str = "''") -> str:
    """SQL: a number from 0 to 1 that is always the same for a pair and a purpose. Ids are uniform, but deal buckets."""
    return f"(('0x' || md5(id || {quote_texts(of)} || {salt})[1:13])::BIGINT / 4503599627370496.0)"


def number(fact: str) -> str:
    """A fact as a number in SQL: what a source carried is text."""
    return f"TRY_CAST({quote_name(fact)} AS DOUBLE)" if fact.startswith(CARRIED) else quote_name(fact)
