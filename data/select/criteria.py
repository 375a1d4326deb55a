"""The criteria by which a recipe selects pairs, as small declarative models. Every dropped pair gets a reason.

A fact is a column of a scorer, a property of the picture or the caption, or a column of the source. Row criteria
(`Bounds`, `AnyOf`, `Sample`) compile to SQL and judge each row by its own facts. Set criteria (`Top`, `Unique`,
`Holdout` and `Balance`) judge the rows that passed all criteria before them. In a recipe, the key of a criterion is the
name of a fact, or any_of, unique, sample or holdout.
"""

from collections.abc import Iterable
from fractions import Fraction
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from data.lake.sql import quote_name, quote_text, quote_texts
from data.pictures.near_duplicates import THUMBNAIL_DISTANCE
from data.select.holdout import list_set_files

EXTRA_PREFIX = "extra."  # begins the name of a fact that is a column of the source
OTHER = "other"  # the key of a bound for all values without one of their own


class Criterion(BaseModel):
    """One criterion of a recipe's `select`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fact: str = Field(description="fact that is judged; the criterion's key in the recipe")

    @property
    def label(self) -> str:
        """The criterion's name in the funnel. The criterion's reasons begin with this name."""
        return self.fact

    def required_facts(self) -> Iterable[str]:
        """Return the facts that the criterion uses."""
        return [self.fact]

    def external_state(self) -> Any:
        """Return the state of the files that the criterion reads outside the lake, as JSON values.

        When this state changes, all pairs are judged again.
        """
        return None


class RowCriterion(Criterion):
    """Judges each row by its own facts."""

    def reason_sql(self) -> str:
        """Return a SQL expression over a row's facts. Its value is the reason to drop the row, or NULL to keep it."""
        raise NotImplementedError


class SetCriterion(Criterion):
    """Judges all rows that passed the criteria before it. The class `Judgement` runs the queries of each kind."""


class Bounds(RowCriterion):
    """Bounds of one fact, or its allowed values. Values equal to `min` or `max` are kept."""

    above: float | None = Field(None, description="drop values that are not above it")
    below: float | None = Field(None, description="drop values that are not below it")
    min: float | dict[str, float] | None = Field(
        None, description="drop values below it; or a bound for each value of the fact `by`: {en: 0.28}"
    )
    max: float | dict[str, float] | None = Field(None, description="drop values above it; or a bound for each value")
    by: str | None = Field(None, description="fact whose value chooses the bound; 'other' is for all further values")
    one_of: tuple[str, ...] | None = Field(None, description="drop values that are not listed")
    none_of: tuple[str, ...] | None = Field(None, description="drop values that are listed")

    @model_validator(mode="after")
    def _check_bounds(self) -> "Bounds":
        low, high = self.min, self.max
        if all(bound is None for bound in (low, high, self.above, self.below, self.one_of, self.none_of)):
            raise ValueError("a criterion needs min, max, above, below, top, one_of or none_of")
        if isinstance(low, float) and isinstance(high, float) and low > high:
            raise ValueError(f"min {low:g} is above max {high:g}")
        if (self.by is None) == (isinstance(low, dict) or isinstance(high, dict)):
            raise ValueError("a bound for each value of another fact needs `by`, and `by` needs such a bound")
        return self

    def required_facts(self) -> Iterable[str]:
        """Return the judged fact, and the fact that chooses the bound if there is one."""
        return [self.fact, *([self.by] if self.by else [])]

    def reason_sql(self) -> str:
        """Return a SQL expression for the reason: the fact is unknown, or the first bound that its value misses.

        The expression is NULL if the value is within all bounds.
        """
        column, number = quote_name(self.fact), number_sql(self.fact)
        is_numeric = self.one_of is None and self.none_of is None
        cases = [f"WHEN {number if is_numeric else column} IS NULL THEN {quote_text(f'{self.label} unknown')}"]
        for bound, sign in ((self.min, "<"), (self.max, ">")):
            if isinstance(bound, dict):
                cases += [self._case_of_value(sign, limit, value, bound) for value, limit in bound.items()]
            elif bound is not None:
                cases.append(f"WHEN {number} {sign} {bound!r} THEN {quote_text(f'{self.label} {sign} {bound:g}')}")
        for bound, sign in ((self.above, "<="), (self.below, ">=")):
            if bound is not None:
                cases.append(f"WHEN {number} {sign} {bound!r} THEN {quote_text(f'{self.label} {sign} {bound:g}')}")
        is_value = f"{quote_text(self.label + ' is ')} || {column}"
        if self.one_of is not None:
            cases.append(f"WHEN {column} NOT IN ({quote_texts(self.one_of)}) THEN {is_value}")
        if self.none_of is not None:
            cases.append(f"WHEN {column} IN ({quote_texts(self.none_of)}) THEN {is_value}")
        return f"CASE {' '.join(cases)} END"

    def _case_of_value(self, sign: str, limit: float, value: str, bound: dict[str, float]) -> str:
        """Return the SQL case for a bound that applies only where another fact has the given value."""
        assert self.by is not None
        by = f"coalesce({quote_name(self.by)}, '')"
        listed = [key for key in bound if key != OTHER]
        if value != OTHER:
            applies = f"{by} = {quote_text(value)}"
        else:
            applies = f"{by} NOT IN ({quote_texts(listed)})" if listed else "true"
        reason = quote_text(f"{self.label} {sign} {limit:g} ({value})")
        return f"WHEN {applies} AND {number_sql(self.fact)} {sign} {limit!r} THEN {reason}"


class AnyOf(RowCriterion):
    """Keeps a row if its facts are within all bounds of at least one option."""

    options: tuple[dict[str, Bounds], ...] = Field(min_length=1, description="alternatives: bounds by their facts")

    def required_facts(self) -> Iterable[str]:
        """Return the facts that any of the options uses."""
        return [fact for option in self.options for bounds in option.values() for fact in bounds.required_facts()]

    def reason_sql(self) -> str:
        """Return a SQL expression for a reason that names the facts of all options. NULL if one option is met."""
        options = []
        for option in self.options:
            holds = " AND ".join(f"({bounds.reason_sql()}) IS NULL" for bounds in option.values())
            options.append(f"({holds})")
        words = " or ".join(" and ".join(option) for option in self.options)
        return f"CASE WHEN {' OR '.join(options)} THEN NULL ELSE {quote_text(f'any_of not met: {words}')} END"


class Sample(RowCriterion):
    """Keeps a row with a probability that depends on its source (or another fact).

    The random number drawn for a pair never changes.
    """

    weights: dict[str, float] = Field(
        min_length=1, description="share that is kept, by the fact's value; 'other' for all further values, else 1"
    )
    by: str = Field("source", description="fact whose value chooses the share")
    seed: int = Field(0, description="seed of the draws")

    @property
    def label(self) -> str:
        """The criterion's name in the funnel."""
        return f"sample by {self.by}"

    def required_facts(self) -> Iterable[str]:
        """Return the fact that chooses the share."""
        return [self.by]

    def reason_sql(self) -> str:
        """Return a SQL expression: the reason that the row was not drawn, or NULL if it was."""
        cases = " ".join(
            f"WHEN {quote_text(value)} THEN {share!r}" for value, share in self.weights.items() if value != OTHER
        )
        share = f"CASE {quote_name(self.by)} {cases or 'WHEN NULL THEN 1'} ELSE {self.weights.get(OTHER, 1.0)!r} END"
        not_drawn = quote_text(self.label + ": not drawn")
        return f"CASE WHEN {draw_sql(f'sample {self.seed}')} >= {share} THEN {not_drawn} END"


class Top(SetCriterion):
    """Keeps the rows with the highest values, up to a given share of all rows. Ties are broken by id.

    With `per`, the share is taken separately for each value of another fact. The lowest kept value is the cut. The
    first dataset version that uses a cut pins it, and later rows are compared with the same cut. So new pairs never
    cause an old pair to be dropped. `imagen build --repin` computes a new cut.
    """

    top: float = Field(gt=0, le=1, description="share that is kept, of the rows that passed the criteria before")
    per: str | None = Field(None, description="fact: keep the best share for each of its values")

    @property
    def label(self) -> str:
        """The criterion's name in the funnel."""
        return f"best {self.top:.4g} of {self.fact}"

    def required_facts(self) -> Iterable[str]:
        """Return the ranked fact, and the fact that groups the rows if there is one."""
        return [self.fact, *([self.per] if self.per else [])]

    def kept_count(self, rows: int) -> int:
        """Return how many of `rows` rows are kept. Fractions are rounded up."""
        return -int(-rows * Fraction(str(self.top)) // 1)


class Unique(SetCriterion):
    """Keeps one row of each group of duplicates: the one seen first. Ties are broken by id."""

    by: Literal["content", "hash", "look", "meaning"] = Field(
        description="what is compared. content: bytes; hash: perceptual hashes; look: thumbnails; meaning: CLIP vectors"
    )
    distance: float | None = Field(
        None,
        ge=0,
        description="largest distance between duplicates. hash: bits of 64; look: grey levels; meaning: 1 - cosine",
    )
    of: str | None = Field(None, description="score that has the hashes (phash) or the vectors (clip)")
    same_caption: bool = Field(False, description="duplicates must have the same caption too; only with distance 0")

    @model_validator(mode="after")
    def _check_same_caption(self) -> "Unique":
        if self.same_caption and (self.max_distance or self.by not in ("content", "hash")):
            raise ValueError("same_caption goes with `by: content`, or with `by: hash` and `distance: 0`")
        return self

    @property
    def label(self) -> str:
        """The criterion's name in the funnel."""
        return f"unique {self.by}" + (" and caption" if self.same_caption else "")

    @property
    def max_distance(self) -> float:
        """The largest distance at which two rows count as duplicates.

        The default tolerates re-encoding, rescaling and slight cropping (except for `content`, which needs identical
        bytes).
        """
        default = {"content": 0.0, "hash": 3.0, "look": THUMBNAIL_DISTANCE, "meaning": 0.01}[self.by]
        return default if self.distance is None else self.distance

    @property
    def column(self) -> str:
        """The fact whose values are compared."""
        phash, clip = self.of or "phash", self.of or "clip"
        columns = {"hash": f"{phash}_hash", "look": f"{phash}_thumbnail", "meaning": f"{clip}_vectors_vector"}
        return columns.get(self.by, "sha256")

    def required_facts(self) -> Iterable[str]:
        """Return the fact that is compared, and `caption` if duplicates must have the same caption too."""
        return [self.column, *(["caption"] if self.same_caption else [])]


class Holdout(SetCriterion):
    """Drops pairs whose picture is similar to one in an evaluation set, or whose caption is in such a set."""

    sets: tuple[str, ...] = Field(
        min_length=1, description="files of evaluation sets: pictures, .parquet or .txt; globs and folders too"
    )
    by: Literal["look", "hash"] = Field("look", description="how pictures are compared, as in `unique`")
    distance: float | None = Field(None, ge=0, description="largest distance between similar pictures, as in `unique`")
    of: str = Field("phash", description="score that has the thumbnails and hashes")
    captions: bool = Field(True, description="drop the captions of the sets too; case and punctuation are ignored")

    @property
    def label(self) -> str:
        """The criterion's name in the funnel."""
        return "held out"

    @property
    def max_distance(self) -> float:
        """The largest distance at which two pictures count as similar.

        The default tolerates re-encoding and slight cropping.
        """
        default = {"hash": 3.0, "look": THUMBNAIL_DISTANCE}[self.by]
        return default if self.distance is None else self.distance

    @property
    def column(self) -> str:
        """The fact whose values are compared."""
        return f"{self.of}_{'thumbnail' if self.by == 'look' else 'hash'}"

    def required_facts(self) -> Iterable[str]:
        """Return the fact that is compared, and `caption`."""
        return [self.column, "caption"]

    def external_state(self) -> Any:
        """Return the files of the evaluation sets, with their sizes."""
        return list_set_files(self.sets)


class Balance(SetCriterion):
    """Limits how often each concept occurs, by the balancing of MetaCLIP (arXiv 2309.16671).

    The fact is a list of concepts. For a concept that occurs in more than `most` rows, about `most` of these rows are
    drawn. A row is kept if it is drawn for at least one of its concepts. Its random numbers never change.
    """

    most: int = Field(ge=1, description="rows of a concept above which they are drawn")
    seed: int = Field(0, description="seed of the draws")

    @property
    def label(self) -> str:
        """The criterion's name in the funnel."""
        return f"balance of {self.fact}"


def criterion_class(value: dict[str, Any]) -> type[Criterion]:
    """Return the class of a recipe's criterion. If its key (`fact`) is the name of a fact, its fields decide."""
    by_key: dict[Any, type[Criterion]] = {"any_of": AnyOf, "unique": Unique, "sample": Sample, "holdout": Holdout}
    key = value.get("fact")
    if key in by_key:
        return by_key[key]
    if "top" in value:
        return Top
    return Balance if "most" in value else Bounds


def add_fact_keys(criteria: Any) -> Any:
    """Copy the key of each criterion in `select` into the criterion itself, as `fact`.

    Values that are not criteria stay as they are, and validation reports them.

    Example:
        >>> add_fact_keys({"side": {"min": 256}})
        {'side': {'fact': 'side', 'min': 256}}
    """
    if not isinstance(criteria, dict):
        return criteria
    keyed = {}
    for fact, value in criteria.items():
        if fact == "any_of" and isinstance(value, list):
            value = {"options": [add_fact_keys(option) for option in value]}
        keyed[fact] = {"fact": fact} | value if isinstance(value, dict) else value
    return keyed


def draw_sql(*purpose: str, salt: str = "''") -> str:
    """Return a SQL expression for a uniform random number from 0 to 1.

    The number is always the same for the same pair and purpose. It is a hash of the pair's id and the purpose. The id
    alone is uniform too, but it also determines the bucket.

    Args:
        purpose: texts, such as the criterion and its seed.
        salt: SQL expression for a further text that is hashed.
    """
    return f"(('0x' || md5(id || {quote_texts(purpose)} || {salt})[1:13])::BIGINT / 4503599627370496.0)"


def number_sql(fact: str) -> str:
    """Return a SQL expression for a fact as a number. Columns of the source are stored as text, so they are cast."""
    return f"TRY_CAST({quote_name(fact)} AS DOUBLE)" if fact.startswith(EXTRA_PREFIX) else quote_name(fact)
