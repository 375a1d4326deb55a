"""Recipes are YAML files that say how to build a dataset. They are validated on load; errors name line and field."""

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

from data.build.yaml_file import first_error_message, parse_yaml
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

RECIPES_FOLDER = Path(__file__).parents[1] / "recipes"  # folder of the recipes that are shipped
RESERVED_NAMES = ("pairs", "images", "fetches", "last", "often", "events", "replaced")  # tables in the selection's SQL
MODEL_FIELDS = ("model", "pretrained", "weights", "language_model", "file")  # fields of scorers that may be paths


def _parse_scorer(value: Any) -> Any:
    return scorer_class(str(value.get("scorer"))).model_validate(value) if isinstance(value, dict) else value


def _parse_criterion(value: Any) -> Any:
    return criterion_class(value).model_validate(value) if isinstance(value, dict) else value


AnyScorer = Annotated[SerializeAsAny[Scorer], BeforeValidator(_parse_scorer)]
AnyCriterion = Annotated[SerializeAsAny[Criterion], BeforeValidator(_parse_criterion)]


class Recipe(BaseModel):
    """The specification of a dataset: sources, scores, criteria, embeddings, gates.

    A score's scorer computes columns, which are called facts. Criteria decide by facts which pairs are kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(description="the dataset's name")
    sources: tuple[Source, ...] = Field(min_length=1, description="files to read pairs from")
    download: DownloadSettings = Field(DownloadSettings(), description="how pictures are fetched and stored")
    scores: dict[str, AnyScorer] = Field(
        default_factory=dict, description="name: settings of a scorer; gives the facts <name>_<column>"
    )
    select: tuple[dict[str, AnyCriterion], ...] = Field(
        (), description="criteria that a pair must meet, in order; each is fact: {min, max, ...}"
    )
    embed: dict[str, EncoderSettings] = Field(
        default_factory=dict, description="name: an encoder; gives the columns <name>_embedding and <name>_length"
    )
    sizes: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="shorter sides in pixels; each gives a column image_<pixels> of pictures shrunk to that size"
    )
    gates: Gates = Field(Gates(), description="conditions that a version must meet to be published")
    card: CardSettings = Field(CardSettings(), description="the parts of the dataset card that the owner writes")
    shard_rows: int = Field(1000, ge=1, description="rows of a shard, the unit of work")

    @field_validator("name")
    @classmethod
    def _check_name(cls, name: str) -> str:
        if not re.fullmatch(r"[a-z][a-z0-9_-]*", name):
            raise ValueError("a dataset's name has lower-case letters, digits, - and _, and begins with a letter")
        return name

    @field_validator("scores", mode="before")
    @classmethod
    def _fill_in_scorers(cls, scores: Any) -> Any:
        """Check the names of scores. A score without the field `scorer` uses the scorer with the same name."""
        if not isinstance(scores, dict):
            return scores
        for name in scores:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", str(name)) or name in RESERVED_NAMES:
                raise ValueError(
                    f"{name!r} can't name a score: use lower-case letters, digits and _, and none of "
                    f"{', '.join(RESERVED_NAMES)}"
                )
        filled = {}
        for name, value in scores.items():
            settings = {} if value is None else value
            filled[name] = {"scorer": name} | settings if isinstance(settings, dict) else settings
        return filled

    @field_validator("select", mode="before")
    @classmethod
    def _add_facts(cls, select: Any) -> Any:
        return [add_fact_keys(criteria) for criteria in select] if isinstance(select, list | tuple) else select

    @field_validator("embed")
    @classmethod
    def _check_encoder_names(cls, embed: dict[str, EncoderSettings]) -> dict[str, EncoderSettings]:
        for name in embed:
            if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
                raise ValueError(f"{name!r} can't name an encoder: use lower-case letters, digits and _")
        return embed

    @model_validator(mode="after")
    def _check_facts(self) -> "Recipe":
        facts = list(FACTS)
        for name, scorer in self.selection_scorers.items():
            facts += [f"{name}_{column}" for column in scorer.columns.names]
        for index, criteria in enumerate(self.select):
            for key, criterion in criteria.items():
                if message := self._criterion_error(criterion, facts):
                    raise _field_error(message, ("select", index, key), key)
        return self

    @model_validator(mode="after")
    def _check_embedded_texts(self) -> "Recipe":
        for name, encoder in self.embed.items():
            if encoder.of is not None and encoder.of not in self.describers:
                texts = ", ".join(self.describers) or "none: a captioner's is one"
                message = f"there is no score {encoder.of!r} that is a text; there are {texts}"
                raise _field_error(message, ("embed", name, "of"), encoder.of)
        return self

    @model_validator(mode="after")
    def _check_gate_columns(self) -> "Recipe":
        columns = [field.name for field in SAMPLE if field.name != "image"]
        for name, scorer in self.scores.items():
            columns += [f"{name}_{fact}" for fact in scorer.facts]
        for column in () if isinstance(self.gates.no_nulls, bool) else self.gates.no_nulls:
            if column not in columns:
                message = f"there is no column {column!r}; there are {', '.join(columns)}"
                raise _field_error(message, ("gates", "no_nulls"), column)
        return self

    def _criterion_error(self, criterion: Criterion, facts: list[str]) -> str | None:
        """Return an error text if the facts that a criterion needs are missing or of the wrong kind, else None."""
        if isinstance(criterion, Balance) and criterion.fact not in self.list_facts:
            return "`most` needs a list of concepts, as the scorer `concepts` gives"
        for fact in criterion.required_facts():
            if fact not in [*facts, "sha256"] and not fact.startswith(EXTRA_PREFIX):
                shown = [name for name in facts if not name.endswith(("_thumbnail", "_vector"))]
                return f"there is no fact {fact!r}; there are {', '.join(shown)}"
        return None

    @property
    def hash(self) -> str:
        """The SHA-256 of all values, in hex. It is recorded with each version."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()

    @property
    def criteria(self) -> tuple[Criterion, ...]:
        """All criteria in order."""
        return tuple(criterion for criteria in self.select for criterion in criteria.values())

    @property
    def list_facts(self) -> list[str]:
        """The facts whose values are lists."""
        facts = []
        for name, scorer in self.scores.items():
            facts += [f"{name}_{column.name}" for column in scorer.columns if pa.types.is_list(column.type)]
        return facts

    @property
    def selection_scorers(self) -> dict[str, Scorer]:
        """The scorers whose tables criteria can use: all except captioners, and the vectors of each CLIP model."""
        scorers = {name: scorer for name, scorer in self.scores.items() if name not in self.describers}
        vectors = {f"{name}_vectors": s.vectors() for name, s in self.scores.items() if isinstance(s, ClipModel)}
        return scorers | vectors

    @property
    def describers(self) -> dict[str, Describer]:
        """The captioners. They run after the selection, on kept pairs only."""
        return {name: scorer for name, scorer in self.scores.items() if isinstance(scorer, Describer)}

    @property
    def copy_settings(self) -> tuple[PictureSettings, ...]:
        """The settings of the smaller copies of pictures, one for each entry in `sizes`."""
        as_kept = self.download.model_dump(include={"encode_format", "encode_quality", "max_pixels"})
        return tuple(PictureSettings(image_size=size, resize_mode="keep_ratio", **as_kept) for size in self.sizes)

    def resolved_from(self, folder: Path) -> "Recipe":
        """Return the recipe with the relative paths of sources and forbidden lists resolved against a folder."""
        forbidden = tuple(storage.resolve_path(folder, path) for path in self.download.forbidden)
        download = self.download.model_copy(update={"forbidden": forbidden})
        sources = tuple(source.resolved_from(folder) for source in self.sources)
        return self.model_copy(update={"sources": sources, "download": download})


def load_recipe(name: str, sources: tuple[str, ...] = (), changes: tuple[str, ...] = ()) -> Recipe:
    """Load a recipe from a file, or a shipped recipe by its name.

    Relative paths in a file are resolved against the file's folder. Those in a shipped recipe are resolved against the
    current folder.

    Args:
        name: a .yaml or .yml file, or the name of a shipped recipe.
        sources: paths that replace the recipe's sources. They have the layout of the recipe's first source.
        changes: values to set, each as FIELD=VALUE, such as select.clip_score.min=0.3.

    Raises:
        RecipeError: the file can't be read or is not valid. The message has the line and the field.

    Example:
        >>> load_recipe("shapes", sources=("world/pairs.parquet",), changes=("select.clip_score.min=0.4",))
    """
    path, folder = Path(name), Path(name).parent
    if path.suffix not in (".yaml", ".yml"):
        path, folder = RECIPES_FOLDER / f"{name}.yaml", Path()
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        names = ", ".join(shipped_recipes())
        raise RecipeError(f"recipe {name} does not exist. Give a .yaml file or one of: {names}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {name} can't be read: {error}") from None
    recipe = parse_recipe(text, name, folder, changes)
    check_lists(recipe.download.forbidden)
    if sources:
        layout = recipe.sources[0]
        return recipe.model_copy(update={"sources": tuple(layout.model_copy(update={"path": p}) for p in sources)})
    return recipe


def parse_recipe(text: str, name: str, folder: Path = Path(), changes: tuple[str, ...] = ()) -> Recipe:
    """Parse and validate a recipe.

    Args:
        text: the YAML.
        name: the name of the file, for error messages.
        folder: the folder against which relative paths are resolved.
        changes: values to set, as for `load_recipe`.

    Raises:
        RecipeError: the text is not a valid recipe, or a change names a field that a recipe does not have.
    """
    values, nodes = parse_yaml(text, name, "recipe: it must be a mapping with name and sources", RecipeError)
    for change in changes:
        _apply_change(values, change)
    try:
        return Recipe.model_validate(_resolve_model_paths(values, folder)).resolved_from(folder)
    except ValidationError as error:
        hidden = ("options",)  # the field that contains the list of an `any_of`
        raise RecipeError(first_error_message(error, name, nodes, hidden)) from None


def shipped_recipes() -> list[str]:
    """List the names of the shipped recipes."""
    return sorted(path.stem for path in RECIPES_FOLDER.glob("*.yaml"))


def _field_error(message: str, path: tuple[str | int, ...], value: Any) -> ValidationError:
    """Make a validation error for one field, for use in a validator of the whole model."""
    details = InitErrorDetails(
        type=PydanticCustomError("recipe", "{message}", {"message": message}), loc=path, input=value
    )
    return ValidationError.from_exception_data("recipe", [details])


def _apply_change(values: dict[str, Any], change: str) -> None:
    """Set a value in a recipe's YAML in place.

    In a list, such as `select`, a part of the field's path selects the item that has this part as a key. If several
    items have this key, the first one that also has the last part of the path is used.
    """
    field, equals, value = change.partition("=")
    *parents, last = field.strip().split(".")
    if "extra" in parents[:-1]:  # extra.punsafe is one name: the column `punsafe` of a source
        index = parents.index("extra")
        parents[index : index + 2] = [".".join(parents[index : index + 2])]
    node: Any = values
    for part in parents:
        if isinstance(node, list):
            with_part = [item for item in node if isinstance(item, dict) and part in item]
            with_last = [item for item in with_part if isinstance(item[part], dict) and last in item[part]]
            node = (with_last or with_part or [{}])[0]
        node = node.get(part) if isinstance(node, dict) else None
        if node is None:
            break
    if not equals or not isinstance(node, dict):
        raise RecipeError(
            f"--set {change}: the recipe has no such field. Write FIELD=VALUE, such as select.clip_score.min=0.3"
        )
    node[last] = yaml.safe_load(value)


def _resolve_model_paths(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Make paths of models absolute in place if they exist in the recipe's folder. Runs before models are looked up."""
    for part in (values.get("scores"), values.get("embed")):
        for settings in part.values() if isinstance(part, dict) else ():
            for field in MODEL_FIELDS:
                if isinstance(settings, dict) and isinstance(settings.get(field), str):
                    path = folder / settings[field]
                    settings[field] = str(path.resolve()) if path.exists() else settings[field]
    return values
