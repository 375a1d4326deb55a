"""A dataset in twenty lines of YAML, from sources to embeddings; values only, checked with line and field."""

import hashlib
import re
from pathlib import Path
from typing import Annotated, Any

import pyarrow as pa
import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails, PydanticCustomError

from data.build.yaml_file import first_wrong, read_values
from data.encoders.settings import EncoderSettings
from data.errors import RecipeError
from data.fetch.download import DownloadSettings
from data.fetch.forbidden import check_lists
from data.lake import storage
from data.pictures.prepare import PictureSettings
from data.publish.gates import Gates
from data.publish.publish import SAMPLE
from data.report.card import CardSettings
from data.scorers.clip import ClipModel
from data.scorers.registry import scorer_class
from data.scorers.scorer import Describer, Scorer
from data.select.criteria import EXTRA_PREFIX, Balance, Criterion, add_fact_keys, criterion_class
from data.select.facts import FACTS
from data.sources.sources import Source

SHIPPED = Path(__file__).parents[1] / "recipes"
TABLES = ("pairs", "images", "fetches", "last", "often", "events", "replaced")


def _scorer(value: Any) -> Any:
    return scorer_class(str(value.get("scorer"))).model_validate(value) if isinstance(value, dict) else value


def _criterion(value: Any) -> Any:
    return criterion_class(value).model_validate(value) if isinstance(value, dict) else value


AnyScorer = Annotated[SerializeAsAny[Scorer], BeforeValidator(_scorer)]
AnyCriterion = Annotated[SerializeAsAny[Criterion], BeforeValidator(_criterion)]


class Recipe(BaseModel):
    """What the owner of a dataset writes."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="the dataset's name")
    sources: tuple[Source, ...] = Field(min_length=1)
    download: DownloadSettings = DownloadSettings()
    scores: dict[str, AnyScorer] = Field(
        default_factory=dict, description="name: its settings; gives the facts <name>_<column>"
    )
    select: tuple[dict[str, AnyCriterion], ...] = Field((), description="what is kept, in order: fact: {min, max}")
    embed: dict[str, EncoderSettings] = Field(
        default_factory=dict, description="name: encoder; gives the columns <name>_embedding and <name>_length"
    )
    sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="pixels of the smaller side: gives the columns image_<pixels>, copies of that size or less"
    )
    gates: Gates = Field(Gates(), description="what must hold before a version is published")
    card: CardSettings = Field(CardSettings(), description="what the dataset's card says in its owner's name")
    shard_rows: int = Field(1000, ge=1, description="rows of the unit of work")

    @field_validator("name")
    @classmethod
    def _speakable(cls, name: str) -> str:
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
            raise ValueError("a dataset's name has lower-case letters, digits, - and _, and begins with a letter")
        return name

    @field_validator("scores", mode="before")
    @classmethod
    def _named(cls, scores: Any) -> Any:
        """A scorer is the one that its name says, unless told otherwise."""
        if not isinstance(scores, dict):
            return scores
        for name in scores:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", str(name)) or name in TABLES:
                raise ValueError(f"{name!r} can't name a score: lower-case letters, digits and _, and no table's name")
        settings = {name: {} if value is None else value for name, value in scores.items()}
        return {
            name: {"scorer": name} | value if isinstance(value, dict) else value for name, value in settings.items()
        }

    @field_validator("select", mode="before")
    @classmethod
    def _keyed(cls, select: Any) -> Any:
        return [add_fact_keys(criterion) for criterion in select] if isinstance(select, list | tuple) else select

    @field_validator("embed")
    @classmethod
    def _column_names(cls, embed: dict[str, EncoderSettings]) -> dict[str, EncoderSettings]:
        for name in embed:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ValueError(f"{name!r} can't name an encoder: lower-case letters, digits and _")
        return embed

    @model_validator(mode="after")
    def _facts_are_known(self) -> "Recipe":
        known = [*FACTS, *(f"{name}_{column}" for name, one in self.judged.items() for column in one.columns.names)]
        for place, criteria in enumerate(self.select):
            for key, criterion in criteria.items():
                if wrong := self._wrong(criterion, known):
                    error = InitErrorDetails(
                        type=PydanticCustomError("fact", "{wrong}", {"wrong": wrong}),
                        loc=("select", place, key),
                        input=key,
                    )
                    raise ValidationError.from_exception_data("recipe", [error])
        return self

    @model_validator(mode="after")
    def _texts_are_known(self) -> "Recipe":
        for name, encoder in self.embed.items():
            if encoder.of is not None and encoder.of not in self.describers:
                there = ", ".join(self.describers) or "none: a captioner's is one"
                wrong = f"there is no score {encoder.of!r} that is a text; there are {there}"
                error = InitErrorDetails(
                    type=PydanticCustomError("text", "{wrong}", {"wrong": wrong}),
                    loc=("embed", name, "of"),
                    input=encoder.of,
                )
                raise ValidationError.from_exception_data("recipe", [error])
        return self

    @model_validator(mode="after")
    def _columns_are_known(self) -> "Recipe":
        asked = () if isinstance(self.gates.no_nulls, bool) else self.gates.no_nulls
        known = [field.name for field in SAMPLE if field.name != "image"]
        known += [f"{name}_{column}" for name, scorer in self.scores.items() for column in scorer.facts]
        for column in asked:
            if column not in known:
                wrong = f"there is no column {column!r}; there are {', '.join(known)}"
                error = InitErrorDetails(
                    type=PydanticCustomError("column", "{wrong}", {"wrong": wrong}),
                    loc=("gates", "no_nulls"),
                    input=column,
                )
                raise ValidationError.from_exception_data("recipe", [error])
        return self

    def _wrong(self, criterion: Criterion, known: list[str]) -> str | None:
        """What is wrong with the facts that a criterion asks for."""
        if isinstance(criterion, Balance) and criterion.fact not in self.lists:
            return "`most` needs a list of concepts, as the scorer `concepts` gives"
        for fact in criterion.required_facts():
            if fact not in [*known, "sha256"] and not fact.startswith(EXTRA_PREFIX):
                there = ", ".join(one for one in known if not one.endswith(("_thumbnail", "_vector")))
                return f"there is no fact {fact!r}; there are {there}"
        return None

    @property
    def hash(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        return tuple(one for criteria in self.select for one in criteria.values())

    @property
    def lists(self) -> list[str]:
        """The facts that are lists."""
        columns = ((name, column) for name, scorer in self.scores.items() for column in scorer.columns)
        return [f"{name}_{column.name}" for name, column in columns if pa.types.is_list(column.type)]

    @property
    def judged(self) -> dict[str, Scorer]:
        """Every table of scores that selecting may ask, by name: the recipe's scorers, and the vectors of each CLIP."""
        vectors = {f"{name}_vectors": s.vectors() for name, s in self.scores.items() if isinstance(s, ClipModel)}
        return {name: one for name, one in self.scores.items() if name not in self.describers} | vectors

    @property
    def describers(self) -> dict[str, Describer]:
        """The scorers that write of what is kept, by name."""
        return {name: one for name, one in self.scores.items() if isinstance(one, Describer)}

    @property
    def copies(self) -> tuple[PictureSettings, ...]:
        """As what smaller copies of the pictures are published."""
        as_kept = self.download.model_dump(include={"encode_format", "encode_quality", "max_pixels"})
        return tuple(PictureSettings(image_size=size, resize_mode="keep_ratio", **as_kept) for size in self.sizes)

    def under(self, folder: Path) -> "Recipe":
        """The same recipe with its relative sources and lists looked up from a folder."""
        lists = tuple(storage.resolve_path(folder, path) for path in self.download.forbidden)
        download = self.download.model_copy(update={"forbidden": lists})
        sources = tuple(source.resolved_from(folder) for source in self.sources)
        return self.model_copy(update={"sources": sources, "download": download})


def load_recipe(name: str, sources: tuple[str, ...] = (), changes: tuple[str, ...] = ()) -> Recipe:
    """A recipe by file, or a shipped one by name; `sources` take the place of its own, `changes` are PLACE=VALUE.

    Relative paths are looked up from the recipe's folder; those of a shipped recipe from the current one.
    """
    path, folder = Path(name), Path(name).parent
    if path.suffix not in (".yaml", ".yml"):
        path, folder = SHIPPED / f"{name}.yaml", Path()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RecipeError(
            f"recipe {name} does not exist. Give a .yaml file or one of: {', '.join(shipped())}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {name} can't be read: {error}") from None
    recipe = parse_recipe(text, name, folder, changes)
    check_lists(recipe.download.forbidden)
    if sources:
        like = recipe.sources[0]
        return recipe.model_copy(update={"sources": tuple(like.model_copy(update={"path": p}) for p in sources)})
    return recipe


def parse_recipe(text: str, name: str, folder: Path = Path(), changes: tuple[str, ...] = ()) -> Recipe:
    values, nodes = read_values(text, name, "recipe: it must be a mapping with name and sources", RecipeError)
    for change in changes:
        _change(values, change)
    try:
        return Recipe.model_validate(_rooted(values, folder)).under(folder)
    except ValidationError as error:
        inside = ("options",)  # what any_of's list is called inside
        raise RecipeError(first_wrong(error, name, nodes, inside)) from None


def _change(values: dict[str, Any], change: str) -> None:
    """Apply PLACE=VALUE: `select.clip_score.min=0.3` finds the criterion by its fact."""
    place, equals, value = change.partition("=")
    *way, last = place.strip().split(".")
    if "extra" in way[:-1]:  # extra.punsafe is one name
        at = way.index("extra")
        way[at : at + 2] = [".".join(way[at : at + 2])]
    node: Any = values
    for part in way:
        if isinstance(node, list):
            having = [item for item in node if isinstance(item, dict) and part in item]
            told = [item for item in having if isinstance(item[part], dict) and last in item[part]]
            node = (told or having or [{}])[0]
        node = node.get(part) if isinstance(node, dict) else None
        if node is None:
            break
    if not equals or not isinstance(node, dict):
        raise RecipeError(f"--set {change}: the recipe has no such place. Write it as in select.clip_score.min=0.3")
    node[last] = yaml.safe_load(value)


def shipped() -> list[str]:
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def _rooted(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Models that lie beside the recipe are made findable before the settings look for them."""
    for part in (values.get("scores"), values.get("embed")):
        for settings in part.values() if isinstance(part, dict) else ():
            for field in ("model", "pretrained", "weights", "language_model", "file"):
                if isinstance(settings, dict) and isinstance(settings.get(field), str):
                    beside = folder / settings[field]
                    settings[field] = str(beside.resolve()) if beside.exists() else settings[field]
    return values
